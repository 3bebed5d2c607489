package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Cloud is one group on one cloud's engine. What it changes, the changes of Plan and Remains do.
type Cloud interface {
	// Plan reads the cloud and lists what has to be done, in order, for the group to be as the spec has it; the
	// replacement of machines last. It names what cannot be (a foreign resource of our name, an image that is not there).
	Plan(ctx context.Context) ([]Change, error)
	// Remains lists everything that there is of the group, in order of removal, and nothing of anybody else's.
	Remains(ctx context.Context) ([]Change, error)
	// Census lists the group's machines.
	Census(ctx context.Context) (*Census, error)
	// Console is what a machine printed so far, also for a while after its end.
	Console(ctx context.Context, id string) (string, error)
}

// Roller is a Cloud whose engine can be stopped while it replaces machines.
type Roller interface {
	// StopRoll ends the roll under way: it leaves the machines as they are, or brings the old ones back.
	StopRoll(ctx context.Context, rollback bool) error
}

// Mender is a Cloud whose engine leaves a roll that failed as it is. Mend has new machines be made as the old ones were;
// where nothing has failed, it does nothing.
type Mender interface {
	Mend(ctx context.Context) error
}

// Scaler is a Cloud whose group can be given another size.
type Scaler interface {
	Scale(ctx context.Context, machines int) error
}

// Cleaner is a Cloud that can have one machine replaced.
type Cleaner interface {
	Replace(ctx context.Context, id string) error
}

// Options are how Apply, Replace and Destroy go about it.
type Options struct {
	Progress builder.Progress
	// Confirm is asked before anything changes; an error ends it all. Nil asks nobody.
	Confirm func([]Change) error
	NoRoll  bool          // leave running machines as they are
	NoWait  bool          // end once the cloud knows what it is to do
	Timeout time.Duration // how long until all runners are online, or all machines gone; 0: the time of two first boots
	Ledger  string        // file that names what was created until the end; it also keeps two from working on one group
	// OnInterrupt decides about a roll under way when ctx ends; nil leaves it to the cloud, which goes on with it.
	OnInterrupt func() Interrupt
}

// Interrupt is what becomes of a roll that nobody waits for any more.
type Interrupt int

// The choices.
const (
	GoOn     Interrupt = iota // the cloud goes on with it
	Stop                      // it ends here: some machines are new, some old
	Rollback                  // the old machines come back
)

// Apply makes the group what the spec wants, and waits until its runners are online. Without differences it changes
// nothing.
func Apply(ctx context.Context, g *Group, c Cloud, o Options) (changed []Change, err error) {
	r := &run{g: g, c: c, Options: o}
	return r.changes, r.steps(ctx,
		step{"plan", r.plan},           // read the cloud, list what differs
		step{"confirm", r.confirm},     // nothing has changed so far
		step{"change", r.change},       // one after the other, each in the ledger the moment it exists
		step{"verify", r.verify},       // the cloud has it as the spec does
		step{"roll", r.follow},         // machines of an older template are being replaced
		step{"online", r.awaitRunners}, // as many as wanted, or which one is not and why
	)
}

// Destroy removes everything of the group's and nothing else; running jobs finish first, within the drain's limit.
func Destroy(ctx context.Context, g *Group, c Cloud, o Options) error {
	r := &run{g: g, c: c, Options: o}
	return r.steps(ctx,
		step{"look", r.remains},    // by tag and name; what is not ours is not touched
		step{"confirm", r.confirm}, // nothing has changed so far
		step{"remove", r.change},   // the group first, which drains its machines; then what they used
		step{"verify", r.gone},     // nothing is left
	)
}

// step is one of a pipeline.
type step struct {
	name string
	do   func(context.Context) error
}

// run is one command under way.
type run struct {
	g *Group
	c Cloud
	Options
	changes []Change
	ledger  *builder.Ledger
	rolled  bool
}

// errNothing ends a pipeline that has nothing to do.
var errNothing = errors.New("nothing to do")

func (r *run) steps(ctx context.Context, list ...step) (err error) {
	if r.Ledger != "" {
		if r.ledger, err = builder.OpenLedger(r.Ledger); errors.Is(err, builder.ErrLedgerHeld) {
			return fmt.Errorf("another dorunner-bake works on fleet %s on this machine: wait until it is done", r.g.Name)
		} else if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.ledger.Close()) }()
	}
	for _, s := range list {
		began := time.Now()
		r.Progress.Step(s.name)
		err := s.do(ctx)
		if errors.Is(err, errNothing) {
			r.Progress.StepDone(s.name, time.Since(began), nil)
			break
		}
		r.Progress.StepDone(s.name, time.Since(began), err)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), r.unfinished())
		}
	}
	return r.forget()
}

// unfinished says what an attempt that failed has made so far.
func (r *run) unfinished() error {
	if r.ledger == nil || len(r.ledger.Entries()) == 0 {
		return nil
	}
	var names []string
	for _, e := range r.ledger.Entries() {
		names = append(names, e.String())
	}
	return fmt.Errorf("so far there is: %s. The same command goes on from here; `dorunner-bake fleet destroy` removes it", strings.Join(names, ", "))
}

// forget empties the ledger: what it names is finished, or gone.
func (r *run) forget() error {
	if r.ledger == nil {
		return nil
	}
	var errs []error
	for _, e := range r.ledger.Entries() {
		errs = append(errs, r.ledger.Keep(e.Kind, e.ID))
	}
	return errors.Join(errs...)
}

func (r *run) plan(ctx context.Context) (err error) {
	if r.changes, err = r.c.Plan(ctx); err != nil {
		return err
	}
	if r.NoRoll {
		r.changes = WithoutRoll(r.changes)
	}
	if len(r.changes) == 0 {
		r.Progress.Info("fleet %s is as the spec has it", r.g.Name)
	}
	return nil
}

func (r *run) remains(ctx context.Context) (err error) {
	r.changes, err = r.c.Remains(ctx)
	if err == nil && len(r.changes) == 0 {
		r.Progress.Info("there is nothing of fleet %s", r.g.Name)
	}
	return err
}

func (r *run) confirm(context.Context) error {
	if r.Confirm == nil || len(r.changes) == 0 {
		return nil
	}
	return r.Confirm(r.changes)
}

// change makes the changes, one after the other.
func (r *run) change(ctx context.Context) error {
	for _, c := range r.changes {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.Progress.Info("%s %s %s", marks[c.Action], c.Kind, c.Name)
		if err := r.make(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		r.rolled = r.rolled || c.Action == Roll
	}
	return nil
}

// make makes one change. What creates something is finished even when the user interrupts, so that its id is not lost.
func (r *run) make(ctx context.Context, c Change) error {
	if c.Action == Create {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), createLimit)
		defer cancel()
	}
	return c.Do(ctx, func(id string) error {
		if r.ledger == nil {
			return nil
		}
		return r.ledger.Record(builder.Entry{Kind: c.Kind, ID: id}, nil)
	})
}

// The times of waiting.
const (
	lookEvery = 5 * time.Second
	// settling is how long a cloud may go on answering with what was before a change.
	settling = time.Minute
	// createLimit bounds one creation, retries and the spread of what it refers to included.
	createLimit = 5 * time.Minute
)

// verify reads the cloud again: what does not stay as it was set is an error here and not a surprise later.
func (r *run) verify(ctx context.Context) error {
	if len(r.changes) == 0 {
		return nil
	}
	return r.settled(ctx, func(ctx context.Context) ([]Change, error) {
		left, err := r.c.Plan(ctx)
		return WithoutRoll(left), err
	})
}

func (r *run) gone(ctx context.Context) error { return r.settled(ctx, r.c.Remains) }

// settled waits until nothing is left to do.
func (r *run) settled(ctx context.Context, list func(context.Context) ([]Change, error)) error {
	return r.until(ctx, settling, func(ctx context.Context) (bool, error) {
		left, err := list(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%w: %s", errUnsettled, left[0])
		}
		return err == nil, err
	})
}

// errUnsettled is a state that may still come right.
var errUnsettled = errors.New("the cloud still lacks this")

// until looks again and again, at once first. What is unsettled at the end of the limit is the error.
func (r *run) until(ctx context.Context, limit time.Duration, look func(context.Context) (bool, error)) error {
	for began := time.Now(); ; {
		done, err := look(ctx)
		switch {
		case done:
			return nil
		case err != nil && !errors.Is(err, errUnsettled):
			return err
		case time.Since(began) >= limit && err != nil:
			return fmt.Errorf("%w after %s", err, limit)
		case time.Since(began) >= limit:
			return fmt.Errorf("not within %s", limit)
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return err
		}
	}
}

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

// follow waits for the roll that change began.
func (r *run) follow(ctx context.Context) error {
	if !r.rolled || r.NoWait {
		return nil
	}
	return Follow(ctx, r.c, r.Options)
}

// Follow tells how far a roll is until it ends. When new machines do not come online it has the old ones brought back,
// without waiting for the cloud to give up. Interrupted, it does as OnInterrupt decides.
func Follow(ctx context.Context, c Cloud, o Options) error {
	r := &run{c: c, Options: o}
	told, broken := "", false
	var seen births
	for unseen := 0; ; {
		census, err := c.Census(ctx)
		if ctx.Err() != nil {
			return r.interrupted(ctx)
		}
		if err != nil {
			return err
		}
		roll := census.Roll
		switch {
		case roll == nil: // it began a moment ago
			if unseen++; unseen > int(settling/lookEvery) {
				return errors.New("there is no roll to follow")
			}
		case roll.Done && roll.Failed:
			err := fmt.Errorf("the roll ended as %s%s; %s", roll.Status, because(roll.Reason), r.why(ctx, census, seen.failed()))
			if m, can := c.(Mender); can {
				err = errors.Join(err, m.Mend(ctx))
			}
			return err
		case roll.Done:
			r.Progress.Count("roll", 100, 100, "%")
			return nil
		default:
			r.Progress.Count("roll", int64(roll.Percent), 100, "%")
			if text := fmt.Sprintf("roll %s, %d%%, %s to go; %s", roll.Status, roll.Percent, Machines(roll.Left), census); text != told {
				told = text
				r.Progress.Info("%s", text)
			}
			seen.look(census, func(m *Member) bool { return !m.Outdated })
			if failed := seen.failed(); !broken && len(failed) >= rollFailures && seen.serving == 0 {
				broken = true
				r.Progress.Warn("the new machines do not come online: %s", r.why(ctx, census, failed))
				if roller, can := c.(Roller); can {
					if err := roller.StopRoll(ctx, true); err != nil {
						r.Progress.Warn("the old machines could not be brought back: %v", err) // the cloud itself will, later
					}
				}
			}
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return r.interrupted(ctx)
		}
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// births tells which first boots failed: of machines that were coming, and are leaving or gone and never served.
type births struct {
	coming, lost map[string]bool
	serving      int // that were looked for and serve now
}

// look takes a census in; of limits it to some machines, nil does not.
func (b *births) look(census *Census, of func(*Member) bool) {
	if b.coming == nil {
		b.coming, b.lost = map[string]bool{}, map[string]bool{}
	}
	b.serving = 0
	present := map[string]Phase{}
	for _, m := range census.Members {
		present[m.ID] = m.Phase
		switch {
		case of != nil && !of(m):
		case m.Phase == Coming:
			b.coming[m.ID] = true
		case m.Phase == Serving:
			b.serving++
		}
	}
	for id := range b.coming {
		switch p, there := present[id]; {
		case there && p == Serving:
			delete(b.coming, id)
		case !there || p == Leaving:
			delete(b.coming, id)
			b.lost[id] = true
		}
	}
}

func (b *births) failed() []string { return slices.Sorted(maps.Keys(b.lost)) }

// interrupted does with the roll under way what was chosen.
func (r *run) interrupted(ctx context.Context) error {
	cause := context.Cause(ctx)
	choice := GoOn
	if r.OnInterrupt != nil {
		choice = r.OnInterrupt()
	}
	roller, can := r.c.(Roller)
	if choice == GoOn || !can {
		return fmt.Errorf("%w: the cloud goes on with the roll; `dorunner-bake fleet roll --follow` tells how far it is, --cancel and --rollback end it", cause)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if err := roller.StopRoll(ctx, choice == Rollback); err != nil {
		return errors.Join(cause, fmt.Errorf("the roll could not be stopped: %w", err))
	}
	if choice == Rollback {
		return fmt.Errorf("%w: the cloud brings the old machines back", cause)
	}
	return fmt.Errorf("%w: the roll has been stopped; some machines are new, some old", cause)
}

// How many first boots may fail before waiting is pointless, since the next will fail in the same way: of a roll's, which
// has working machines to go back to, fewer.
const (
	failuresEnough = 3
	rollFailures   = 2
)

// awaitRunners waits until as many machines as wanted are serving, which they are once their runners are online.
func (r *run) awaitRunners(ctx context.Context) error {
	if r.NoWait {
		return nil
	}
	limit := r.Timeout
	if limit == 0 {
		limit = 2 * r.g.BootLimit()
	}
	var census *Census
	var seen births
	told := ""
	err := r.until(ctx, limit, func(ctx context.Context) (bool, error) {
		now, err := r.c.Census(ctx)
		if err != nil {
			return false, err
		}
		census = now
		if text := census.String(); text != told {
			told = text
			r.Progress.Info("%s", text)
		}
		r.Progress.Count("online", int64(census.In(Serving)), int64(census.Desired), "machines")
		seen.look(census, nil)
		if n := len(seen.lost); n >= failuresEnough {
			return false, fmt.Errorf("the first boot of %s failed, and the group goes on trying: `dorunner-bake fleet scale` to 0 stops that", Machines(n))
		}
		return census.Settled(), nil
	})
	if err == nil || census == nil {
		return err
	}
	return fmt.Errorf("%w (%s); %s", err, census, r.why(ctx, census, seen.failed()))
}

// why says of machines that are not online, and of those that failed, what their consoles do, and what trouble the
// engine has.
func (r *run) why(ctx context.Context, census *Census, failed []string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	ids := slices.Clone(failed)
	for _, m := range census.Members {
		if (m.Phase == Coming || m.Unhealthy) && !slices.Contains(ids, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	var all []string
	for _, id := range ids[:min(len(ids), failuresEnough)] {
		all = append(all, r.consoleOf(ctx, id))
	}
	all = append(all, census.Trouble[:min(len(census.Trouble), failuresEnough)]...)
	if len(all) == 0 {
		return "the cloud gives no reason"
	}
	return strings.Join(all, "; ")
}

func (r *run) consoleOf(ctx context.Context, id string) string {
	m := &Machine{ID: id, Started: time.Now()}
	text, err := r.c.Console(ctx, id)
	if err != nil {
		return fmt.Sprintf("machine %s: its console cannot be read: %v", id, err)
	}
	m.Read(text)
	if err := Check([]*Machine{m}); err != nil {
		return err.Error()
	}
	if m.Report.State == runner.Online {
		return fmt.Sprintf("machine %s says that its runner is online", id)
	}
	return "machine " + id
}

// LedgerFile is where a group's ledger is.
func LedgerFile(target, region, name string) (string, error) {
	dir, err := builder.StateDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "fleets", strings.Join([]string{target, region, name}, "-")+".jsonl"), nil
}

// Autoscaler is a Cloud that sizes a group by how busy its runners are.
type Autoscaler interface {
	// Autoscale is the policy for a share of busy job slots, as the cloud's own tools take it. Plan sets it, where the
	// spec has fleet.autoscale.
	Autoscale(percent int) (policy any)
}

// Scale sets the number of machines, and waits until they are there, or gone.
func Scale(ctx context.Context, g *Group, c Cloud, machines int, o Options) error {
	scaler, can := c.(Scaler)
	if !can {
		return errors.New("this cloud's groups have no size to set")
	}
	census, err := c.Census(ctx)
	switch {
	case err != nil:
		return err
	case !census.Exists:
		return fmt.Errorf("there is no fleet %s: apply makes it", g.Name)
	case machines < census.Min || machines > census.Max:
		return fmt.Errorf("%d machines: the group has between %d and %d; change fleet.min or fleet.max and apply", machines, census.Min, census.Max)
	}
	if err := scaler.Scale(ctx, machines); err != nil {
		return err
	}
	o.Progress.Info("%d -> %d machines", census.Desired, machines)
	r := &run{g: g, c: c, Options: o}
	return r.awaitRunners(ctx)
}
