package firstboot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Failure is an error that says what to do, and whether trying again can help.
type Failure struct {
	Err   error
	Hint  string // what to do; may be empty
	Final bool   // no retry mends it
	// Wait is how long the other side asked us to stay away (Retry-After); zero when it did not.
	Wait time.Duration
	// Lost says that the answer was lost: what was asked may have been done.
	Lost bool
}

func (f *Failure) Error() string {
	if f.Hint == "" {
		return f.Err.Error()
	}
	return f.Err.Error() + ": " + f.Hint
}

func (f *Failure) Unwrap() error { return f.Err }

// final marks an error that no retry mends.
func final(err error, hint string) error { return &Failure{Err: err, Hint: hint, Final: true} }

// isFinal says whether no retry mends err.
func isFinal(err error) bool {
	var f *Failure
	return errors.As(err, &f) && f.Final
}

// The waits between attempts: full jitter between zero and a cap that doubles. See "Exponential Backoff And Jitter",
// AWS Architecture Blog: of the variants, full jitter makes the fewest calls and no waves.
const (
	firstWait = 500 * time.Millisecond
	lastWait  = 30 * time.Second
)

// retry calls f until it succeeds, fails for good, or ctx ends. What was asked to stay away for D comes back at a
// random moment between D and 2 D: a thousand machines refused in one second must not return in one second.
func (b *boot) retry(ctx context.Context, what string, f func(context.Context) error) error {
	var told string
	for n := 0; ; n++ {
		err := f(ctx)
		if err == nil || isFinal(err) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: gave up after %d attempts: %w", what, n+1, err)
		}
		ceiling := min(lastWait, firstWait<<min(n, 10))
		if errors.Is(err, errDockerAway) { // this machine's own: nobody suffers when it is asked often
			ceiling = firstWait
		}
		wait := time.Duration(rand.Int64N(int64(ceiling))) //nolint:gosec // spreads load, guards nothing
		var failure *Failure
		if errors.As(err, &failure) && failure.Wait > 0 {
			wait = failure.Wait + time.Duration(rand.Int64N(int64(failure.Wait))) //nolint:gosec // as above
		}
		if err.Error() != told {
			told = err.Error()
			b.logf("%s: %s; trying again", what, told)
			b.waiting(told)
		}
		if sleep(ctx, wait) != nil {
			return fmt.Errorf("%s: gave up after %d attempts: %w", what, n+1, err)
		}
	}
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
