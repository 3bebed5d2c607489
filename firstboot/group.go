package firstboot

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	publishEvery = time.Minute
	// protectIdle is how long a machine has to be idle before its protection ends: a change for each of many short
	// jobs would meet the API's limits.
	protectIdle = time.Minute
	// groupRetry is the longest wait after a failure to protect.
	groupRetry = time.Minute
)

// group tells the machine's group how busy it is. It works beside the watch: the cloud may be slow to answer, and a
// notice of the end does not wait for that.
type group struct {
	b         *boot
	publisher Publisher // nil when not wanted
	protector Protector // nil when not wanted
	loads     chan Load // the latest one
	trouble   atomic.Value
	stop      func()

	// Protection as the group has it; unknown at first, since an earlier watch may have left it on.
	known, protected bool
	busy             time.Time // when a job was last seen to run
	retry            time.Time // no attempt to protect before
	wait             time.Duration
	unprotected      error
	publish          time.Time // next
	unpublished      error
}

// joinGroup starts telling; end stops it.
func (b *boot) joinGroup(ctx context.Context) *group {
	g := &group{b: b, loads: make(chan Load, 1), stop: func() {}}
	g.trouble.Store("")
	if isTrue(b.spec.PublishLoad) {
		g.publisher, _ = b.p.(Publisher)
	}
	if isTrue(b.spec.ProtectBusy) {
		g.protector, _ = b.p.(Protector)
	}
	if (isTrue(b.spec.PublishLoad) && g.publisher == nil) || (isTrue(b.spec.ProtectBusy) && g.protector == nil) {
		b.logf("warning: publish_load or protect_busy is set, and the platform %s has nothing of the kind", b.p.Name())
	}
	if g.publisher == nil && g.protector == nil {
		return g
	}
	// Machines that started together do not publish together.
	g.publish = time.Now().Add(time.Duration(rand.Int64N(int64(publishEvery)))) //nolint:gosec // spreads load, guards nothing
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case l := <-g.loads:
				g.handle(ctx, l)
			case <-ctx.Done():
				return
			}
		}
	}()
	g.stop = func() { cancel(); <-done }
	return g
}

// tell hands over the newest load; one that was not taken yet is out of date.
func (g *group) tell(l Load) {
	select {
	case <-g.loads:
	default:
	}
	g.loads <- l // the only sender has just made room
}

// release ends the protection of a machine that is drained: nothing else would.
func (g *group) release(ctx context.Context) {
	g.stop()
	if g.protector == nil {
		return
	}
	if err := g.protector.Protect(ctx, false); err != nil && !errors.Is(err, ErrNotInService) {
		g.b.logf("end the scale-in protection: %v", err)
	}
}

// handle does what one load asks for. What went wrong stands until it is tried again.
func (g *group) handle(ctx context.Context, l Load) {
	now := time.Now()
	if l.Jobs > 0 {
		g.busy = now
	}
	g.protect(ctx, l.Jobs > 0 || (g.protected && now.Sub(g.busy) < protectIdle), now)
	if g.publisher != nil && !now.Before(g.publish) {
		g.publish, g.unpublished = now.Add(publishEvery), g.publisher.PublishLoad(ctx, l)
	}
	text := ""
	if err := errors.Join(g.unprotected, g.unpublished); err != nil {
		text = g.b.line(err.Error())
	}
	if ctx.Err() == nil && text != g.trouble.Load() {
		g.trouble.Store(text)
		if text != "" {
			g.b.logf("warning: %s%s", groupTrouble, text)
		}
	}
}

// protect has the group know whether it may take this machine.
func (g *group) protect(ctx context.Context, want bool, now time.Time) {
	if g.protector == nil || (g.known && want == g.protected) || now.Before(g.retry) {
		return
	}
	switch err := g.protector.Protect(ctx, want); {
	case err == nil:
		g.known, g.protected, g.wait, g.unprotected = true, want, 0, nil
	case !errors.Is(err, ErrNotInService): // that is asked again with the next load
		g.wait = min(max(2*g.wait, watchEvery), groupRetry)
		g.retry, g.unprotected = now.Add(g.wait/2+time.Duration(rand.Int64N(int64(g.wait)))), err //nolint:gosec // spreads load, guards nothing
	}
}

const groupTrouble = "the group is not told how busy this machine is: "

// warnings replaces what was said of the group by what is to be said now.
func (g *group) warnings(list []string) []string {
	list = slices.DeleteFunc(list, func(w string) bool { return strings.HasPrefix(w, groupTrouble) })
	if text := g.trouble.Load().(string); text != "" {
		list = append(list, groupTrouble+text)
	}
	return list
}
