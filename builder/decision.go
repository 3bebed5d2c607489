package builder

import (
	"context"
	"errors"
)

// Decision is what becomes of a bake whose step failed.
type Decision int

// The decisions that Options.OnError may take.
const (
	Unwind Decision = iota // give everything back
	Leave                  // leave everything as it is, to be looked at
	Retry                  // run the step once more
)

// OnError decides about a failed step; guest is nil where there is none yet.
type OnError func(ctx context.Context, step string, err error, guest Guest) Decision

// decide asks Options.OnError, except about a bake that was cancelled: that one is given back.
func (b *bake) decide(ctx context.Context, step string, err error) Decision {
	if b.o.OnError == nil || err == nil || errors.Is(err, errDone) || ctx.Err() != nil {
		return Unwind
	}
	d := b.o.OnError(ctx, step, err, b.guest)
	b.leave = d == Leave
	return d
}

// Abandon forgets everything without giving it back: somebody wants to look at it.
func (l *Ledger) Abandon() error {
	var errs []error
	for _, e := range l.Entries() {
		errs = append(errs, l.Done(e.Kind, e.ID))
	}
	return errors.Join(append(errs, l.Close())...)
}
