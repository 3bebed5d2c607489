package firstboot

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

const (
	// watchEvery is short for the sake of scale-in protection: a job is seen within it.
	watchEvery = 5 * time.Second
	// silence is how long a runner with a free place may not poll before it is worth a question to GitLab.
	silence = 2 * time.Minute
	// fullPercent is how much of a disk has to be free: below it jobs fail for want of space.
	fullPercent = 2
)

// watcher is the life after the first boot.
type watcher struct {
	*boot
	group *group
	last  polls
	since time.Time // when an answered poll was last seen to be one more
}

// Watch looks after the runner until ctx ends or the machine is drained: it keeps status.json true, and drains when
// the platform says that the machine goes or, where the spec has it so, when the system shuts down.
func Watch(ctx context.Context, h *Host, p Platform) error {
	probed, stop := context.WithCancel(ctx)
	defer stop()
	go serveHealth(probed, h, p) // also where there is no runner to look after
	notices := p.Notices(ctx)
	var told *Notice
	b, err := resume(ctx, h, p)
	for errors.Is(err, errNoRunner) { // the first boot is under way, or failed early; a later one may not
		if r, rerr := ReadStatus(h); told != nil && rerr == nil && r.State == runner.Failed {
			h.logf("the platform says: %s; there is no runner to give back", told.Kind)
			return complete(ctx, *told)
		}
		select {
		case <-time.After(watchEvery):
		case n, open := <-notices:
			if told = &n; !open {
				told, notices = nil, nil // the platform has no more to say
			}
		case <-ctx.Done():
			return nil
		}
		b, err = resume(ctx, h, p)
	}
	if err != nil {
		return err
	}
	w := &watcher{boot: b, since: time.Now(), group: b.joinGroup(ctx)}
	defer func() { w.group.stop() }()
	leave := func(n Notice) error {
		h.logf("the platform says: %s (deadline %s)", n.Kind, n.Deadline.Format(time.RFC3339))
		w.group.stop() // its slots are no capacity any more
		return b.drain(ctx, drainLimit(time.Duration(b.spec.DrainTimeout), n.Deadline, h.Now()), n)
	}
	if told != nil {
		return leave(*told)
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if w.look(ctx) {
			w.group.release(ctx)
			return nil
		}
		select {
		case <-tick.C:
		case n, open := <-notices:
			if !open {
				notices = nil // the platform has no more to say; ctx tells the end
				continue
			}
			return leave(n)
		case <-ctx.Done():
			if isTrue(b.spec.DrainOnShutdown) && b.systemStops() {
				return b.drain(context.WithoutCancel(ctx), time.Duration(b.spec.DrainTimeout), Notice{})
			}
			return nil
		}
	}
}

// drainLimit is how long jobs may take: the spec's limit, and of the time before a deadline what leaves enough for
// aborting, unregistering and telling. Of a spot notice's 120 s that is 75 s, of a preemption's 30 s it is 15 s.
func drainLimit(limit time.Duration, deadline, now time.Time) time.Duration {
	if deadline.IsZero() {
		return limit
	}
	left := max(deadline.Sub(now), 0)
	return min(limit, left-min(45*time.Second, left/2))
}

// systemStops tells a shutdown of the system from a stop of our unit.
func (b *boot) systemStops() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, _ := b.h.Exec(ctx, "systemctl", "is-system-running") // it exits 1 for every state but "running"
	return strings.TrimSpace(out) == "stopping"
}

// look brings status.json up to date, and says on the console what changed. It returns true when there is no more to
// watch. A boot that failed keeps its own report.
func (w *watcher) look(ctx context.Context) (drained bool) {
	if now, err := ReadStatus(w.h); err == nil {
		switch {
		case now.State == runner.Drained:
			return true
		case now.State == runner.Draining, now.State == runner.Booting, now.State == runner.Failed && now.Step != "watch":
			return false
		}
		w.report = now
	}
	err := w.problem(ctx)
	if ctx.Err() != nil {
		return false
	}
	was := w.report
	w.report.State, w.report.Step, w.report.Error, w.report.Elsewhere = runner.Online, "", "", false
	if err != nil {
		w.report.State, w.report.Step, w.report.Error = runner.Failed, "watch", w.line(err.Error())
		_, w.report.Elsewhere = errors.AsType[elsewhere](err)
	} else {
		w.group.tell(Load{Jobs: w.report.Jobs, Slots: w.spec.Concurrent})
	}
	w.report.Warnings = w.group.warnings(w.report.Warnings)
	if was.State != w.report.State || (err != nil && was.Error == "") {
		w.tell()
	} else {
		w.writeStatus()
	}
	return false
}

// elsewhere marks a problem whose cause is not on this machine.
type elsewhere struct{ error }

// problem is what keeps this machine from taking jobs; nil when nothing does.
func (w *watcher) problem(ctx context.Context) error {
	if err := w.diskFull(); err != nil {
		return err
	}
	c, err := w.docker.inspect(ctx, w.spec.Name)
	switch {
	case isNotFound(err):
		return fmt.Errorf("the runner's container %s is gone: run dorunner-firstboot boot to make it again", w.spec.Name)
	case err != nil:
		return err
	case !c.State.Running:
		return fmt.Errorf("the runner's container %s is %s with exit code %d: %s", w.spec.Name, c.State.Status, c.State.ExitCode, w.lastWords(ctx))
	}
	p, err := w.polls(ctx, c)
	if err != nil {
		return fmt.Errorf("the runner's metrics do not answer: %w", err)
	}
	w.report.Jobs = p.jobs
	grown := p.answered != w.last.answered // a restarted container counts from zero
	refused := p.forbidden > w.last.forbidden
	w.last = p
	switch {
	case grown:
		w.since, w.report.LastPoll = time.Now(), w.h.Now().UTC().Truncate(time.Second)
		return nil
	case p.jobs >= w.spec.Concurrent: // every place is taken: it has no reason to poll
		w.since = time.Now()
		return nil
	case !refused && w.report.Error == "" && time.Since(w.since) < silence:
		return nil
	}
	return w.askGitLab(ctx)
}

// askGitLab finds out why a runner is not polling: GitLab deleted it, GitLab is away, or it hangs by itself.
func (w *watcher) askGitLab(ctx context.Context) error {
	entries, err := entriesOf(w.h, w.configFile())
	if err != nil {
		return err
	}
	at := findRunner(entries, w.desc, w.spec.URL)
	if at < 0 {
		return fmt.Errorf("the runner's entry is gone from %s: run dorunner-firstboot boot to register again", w.configFile())
	}
	w.secrets = append(w.secrets, entries[at].Token)
	_, err = w.gitlab.verify(ctx, entries[at].Token, w.report.SystemID)
	if f, ok := errors.AsType[*refusal](err); ok && f.status == http.StatusForbidden {
		err := errors.New("GitLab no longer knows this runner: it was deleted there; make a new one and replace this machine")
		if w.journal.Kind == registrationToken { // another machine would register anew
			return err
		}
		return elsewhere{err}
	}
	if err != nil {
		return elsewhere{err}
	}
	if time.Since(w.since) < silence {
		return nil
	}
	return fmt.Errorf("the runner has not polled for %s although GitLab knows it: see docker logs %s", time.Since(w.since).Round(time.Second), w.spec.Name)
}

// diskFull looks at the disks that jobs and the runner write to.
func (w *watcher) diskFull() error {
	for _, p := range []string{"/", "/var/lib/docker", "/srv"} {
		var s syscall.Statfs_t
		if syscall.Statfs(w.h.path(p), &s) != nil || s.Blocks == 0 {
			continue // not every machine has each
		}
		if s.Bavail*100 < s.Blocks*fullPercent {
			return fmt.Errorf("the disk under %s is full: %d MB of %d are free; docker system df tells what fills it", p,
				s.Bavail*uint64(s.Bsize)>>20, s.Blocks*uint64(s.Bsize)>>20)
		}
	}
	return nil
}
