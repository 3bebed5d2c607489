package firstboot

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// The parts of a drain whose time is not the jobs'.
const (
	abortGrace     = 15 * time.Second // from SIGTERM to SIGKILL: the runner tells GitLab which jobs it lost, and removes their containers
	unregisterTime = 15 * time.Second
	heartbeatEvery = 20 * time.Second // a lifecycle hook's shortest timeout is 30 s
	drainLook      = 250 * time.Millisecond
	longestLook    = 2 * time.Second
	countEvery     = 5 * time.Second // of the jobs that still run
)

// Drain gives this machine's runner back: no new jobs, running ones finish within limit (0: the spec's
// drain_timeout), the manager is unregistered, the container removed. A second drain changes nothing.
func Drain(ctx context.Context, h *Host, p Platform, limit time.Duration) error {
	b, err := resume(ctx, h, p)
	if err != nil {
		return err
	}
	if limit == 0 {
		limit = time.Duration(b.spec.DrainTimeout)
	}
	return b.drain(ctx, limit, Notice{})
}

var errNoRunner = errors.New("there is no runner on this machine: its first boot has not come that far (systemctl status dorunner-firstboot)")

// resume is the boot that this machine's journal tells of.
func resume(ctx context.Context, h *Host, p Platform) (*boot, error) {
	b := newBoot(h, p)
	j, err := readJournal(h)
	if err != nil {
		return nil, err
	}
	if j == nil || j.Name == "" {
		return nil, errNoRunner
	}
	b.journal, b.desc = j, j.Description
	if id, err := p.Identity(ctx); err != nil {
		h.logf("warning: going on without metadata: %v", err)
	} else {
		b.id = id
	}
	if b.spec, _, err = ReadSpec(h, b.id.Overlay); err != nil {
		return nil, err
	}
	b.id.InstanceID, b.spec.Name, b.spec.URL = j.InstanceID, j.Name, j.URL
	b.gitlab = &gitlab{rt: h.HTTP, now: h.Now, base: gitlabBase(j.URL)}
	b.secrets = plainSecrets(b.spec)
	if _, _, err := b.findEntry(b.configFile()); err != nil { // for its token, which no message may show
		b.logf("warning: %v", err)
	}
	if last, err := ReadStatus(h); err == nil {
		b.report = last
	}
	b.report.Runner, b.report.Description, b.report.InstanceID = j.Name, j.Description, j.InstanceID
	if err := b.docker.ping(ctx); err != nil {
		h.logf("warning: %v", err) // a machine without docker can still be unregistered
	}
	return b, nil
}

// drain carries on past errors: whatever can be given back is, and the error names what is left.
func (b *boot) drain(ctx context.Context, limit time.Duration, n Notice) error {
	unlock, err := b.h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !b.journal.Drained.IsZero() {
		b.logf("drained already, at %s", b.journal.Drained.Format(time.RFC3339))
		return complete(ctx, n)
	}
	b.report.State, b.report.Step, b.report.Error = runner.Draining, "", ""
	b.tell()
	b.logf("drain: no new jobs; running ones have %s", limit)

	ctx, cancel := context.WithTimeout(ctx, limit+abortGrace+unregisterTime+time.Minute) // nothing below lasts for ever
	defer cancel()
	interrupted, err := b.finishJobs(ctx, limit, n) // SIGQUIT; SIGTERM when the limit is over
	errs := []error{err}
	uerr := b.giveBack(ctx) // the manager, or the runner that is ours alone
	errs = append(errs, uerr)
	if err := b.docker.remove(ctx, b.spec.Name); err != nil { // and its anonymous volumes
		errs = append(errs, err)
	}
	if uerr == nil { // what is still registered keeps its entry, so that a second drain can unregister it
		errs = append(errs, dropEntry(b.h, b.configFile(), b.desc, b.spec.URL))
	}
	if err = errors.Join(errs...); err == nil {
		b.journal.Drained = b.h.Now().UTC()
		err = b.journal.write(b.h)
	}
	if cerr := complete(ctx, n); cerr != nil { // even a half-done drain lets the machine go: it goes anyhow
		err = errors.Join(err, fmt.Errorf("tell the platform that the machine may go: %w", cerr))
	}

	b.report.State, b.report.Jobs = runner.Drained, 0
	if interrupted > 0 {
		b.warn("the drain's limit of %s was over: %d running jobs were interrupted", limit, interrupted)
	}
	if err != nil {
		b.report.State, b.report.Step, b.report.Error = runner.Failed, "drain", b.line(err.Error())
		err = fmt.Errorf("drain: %s", b.report.Error)
	}
	b.tell()
	return err
}

func complete(ctx context.Context, n Notice) error {
	if n.Complete == nil {
		return nil
	}
	return n.Complete(ctx)
}

// finishJobs asks the runner to take no more jobs and waits until it has ended, saying so to the platform meanwhile.
// It returns how many jobs had to be interrupted.
func (b *boot) finishJobs(ctx context.Context, limit time.Duration, n Notice) (interrupted int, err error) {
	name := b.spec.Name
	c, err := b.docker.inspect(ctx, name)
	if isNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if err := b.docker.setRestart(ctx, name, "no"); err != nil { // or a restarted daemon would bring it back
		return 0, err
	}
	if !c.State.Running {
		return 0, nil
	}
	if n.Heartbeat != nil {
		stop := b.heartbeats(ctx, n.Heartbeat)
		defer stop()
	}
	over, err := b.endContainer(ctx, name, limit, func(c container) {
		if p, err := b.polls(ctx, c); err == nil && p.jobs != b.report.Jobs {
			b.report.Jobs = p.jobs
			b.writeStatus()
		}
	})
	if over {
		interrupted = b.report.Jobs
	}
	return interrupted, err
}

// endContainer lets the runner finish its jobs (SIGQUIT) for as long as limit, then has it abort them (SIGTERM), then
// kills it. Over says that the limit was reached. Look is called now and then while the jobs run.
func (b *boot) endContainer(ctx context.Context, name string, limit time.Duration, look func(container)) (over bool, err error) {
	for _, phase := range []struct {
		signal string
		limit  time.Duration
	}{{"SIGQUIT", limit}, {"SIGTERM", abortGrace}, {"SIGKILL", abortGrace}} {
		over = phase.signal != "SIGQUIT"
		if err := b.docker.kill(ctx, name, phase.signal); isNotFound(err) || hasStatus(err, http.StatusConflict) {
			return false, nil // it has ended by itself
		} else if err != nil {
			return over, err
		}
		pause := drainLook
		var looked time.Time
		for until := time.Now().Add(phase.limit); time.Now().Before(until); {
			c, err := b.docker.inspect(ctx, name)
			if isNotFound(err) || (err == nil && !c.State.Running) {
				return over, nil
			}
			if err == nil && look != nil && !over && time.Since(looked) >= countEvery { // a runner that aborts counts no jobs any more
				looked = time.Now()
				look(c)
			}
			if err := sleep(ctx, min(pause, time.Until(until))); err != nil {
				return over, err
			}
			pause = min(pause+pause/8, longestLook) // an idle runner ends at once, a job may take hours
		}
	}
	return true, fmt.Errorf("container %s does not end, not even killed", name)
}

// giveBack unregisters: a runner that a registration token made is this machine's own, of every other one only this
// machine's manager goes.
func (b *boot) giveBack(ctx context.Context) error {
	entries, err := entriesOf(b.h, b.configFile())
	if err != nil {
		return err
	}
	at := findRunner(entries, b.desc, b.spec.URL)
	if at < 0 {
		return nil
	}
	token := entries[at].Token
	b.secrets = append(b.secrets, token)
	id, err := b.h.readFile(b.systemIDFile())
	if err != nil {
		return err
	}
	own := b.journal.Kind == registrationToken && !strings.HasPrefix(token, "glrt-")
	ctx, cancel := context.WithTimeout(ctx, unregisterTime)
	defer cancel()
	return b.retry(ctx, "unregister", func(ctx context.Context) error {
		return b.gitlab.unregister(ctx, token, strings.TrimSpace(string(id)), own)
	})
}

// heartbeats asks the platform for more time until stopped.
func (b *boot) heartbeats(ctx context.Context, beat func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if err := beat(ctx); err != nil && ctx.Err() == nil {
				b.logf("heartbeat: %v", err)
			}
			if sleep(ctx, heartbeatEvery) != nil {
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}
