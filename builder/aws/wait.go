package aws

import (
	"context"
	"fmt"
	"time"
)

// A change of state is noticed within quick in the first part of a wait, and within slow later.
const (
	quick      = 2 * time.Second
	quickUntil = 30 * time.Second
	slow       = 5 * time.Second
	slowest    = 30 * time.Second // when throttled
)

// Until is how every wait on AWS goes, for other rooms that wait for it; see until.
func Until(ctx context.Context, what string, limit time.Duration, check func(context.Context) (done bool, err error)) error {
	return until(ctx, what, limit, check)
}

// until asks check at once and then again and again until it says done, at most for limit. Each interval counts from
// the question before, so that slow answers do not add up. Throttling, and nothing else, makes it ask less often.
func until(ctx context.Context, what string, limit time.Duration, check func(context.Context) (done bool, err error)) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s took longer than %v", what, limit))
	defer cancel()
	gentler := time.Duration(0)
	for {
		asked := time.Now()
		done, err := check(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case throttled(err):
			gentler = min(max(slow, 2*gentler), slowest)
		case err != nil:
			return err
		case done:
			return nil
		}
		every := slow
		if asked.Sub(began) < quickUntil {
			every = quick
		}
		timer := time.NewTimer(max(every, gentler) - time.Since(asked))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
