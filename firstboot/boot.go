package firstboot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// boot is one machine on its way to being a runner.
type boot struct {
	h      *Host
	p      Platform
	docker *docker
	gitlab *gitlab
	began  time.Time

	id       Identity
	spec     runner.Spec
	desc     string // the rendered description: what GitLab shows, and the name in config.toml
	systemID string
	journal  *journal
	report   runner.Report
	secrets  []string // what was resolved: it never leaves through a message
}

// step is one line of the pipeline. Check says whether it already holds; act makes it hold, and check is asked again
// afterwards. A step without check only reads or waits.
type step struct {
	name  string
	check func(context.Context) (bool, error)
	act   func(context.Context) error
}

// pipeline is the first boot. Every step can be interrupted at any moment and run again: it changes nothing that
// already holds, and a machine on which everything holds is through in well under a second.
func (b *boot) pipeline() []step {
	return []step{
		{"identity", nil, b.identify},                 // which machine is this? (the platform's word)
		{"spec", nil, b.readSpec},                     // baked defaults < user-data < metadata; valid and complete
		{"docker", nil, b.waitDocker},                 // a daemon answers
		{"name", nil, b.nameIsOurs},                   // nobody else's container has it: better now than after registering
		{"journal", b.journalIsOurs, b.startOver},     // a copy of another machine's journal means: start over
		{"vault", b.vaultExists, b.makeVault},         // /secrets/vault.yml and vault.salt; never overwritten
		{"system-id", b.hasSystemID, b.writeSystemID}, // the name under which GitLab tells this machine's manager
		{"register", b.isRegistered, b.register},      // wait for clock and GitLab, then register: exactly once
		{"config", b.isConfigured, b.configure},       // config.toml: ours in it once, documented settings
		{"start", b.isStarted, b.start},               // the container, --restart always
		{"online", b.hasPolled, b.waitPolled},         // GitLab answered a jobs/request of ours
		{"tidy", b.hasNoLeftovers, b.removeLeftovers}, // the register container of this boot, or of a killed one
	}
}

// defaultBootTimeout holds until the spec is read and says otherwise.
const defaultBootTimeout = 15 * time.Minute

// Boot makes this machine an online runner, or fails closed: the reason is on the console, in status.json and in
// the journal, and on_failure is obeyed.
func Boot(ctx context.Context, h *Host, p Platform) error {
	b := newBoot(h, p)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(defaultBootTimeout, func() { cancel(errBootTimeout) })
	defer limit.Stop()
	unlock, err := h.lock(ctx)
	if err != nil {
		return b.failed(ctx, "lock", err)
	}
	defer unlock()
	for _, s := range b.pipeline() {
		if err := b.run(ctx, s); err != nil {
			if errors.Is(context.Cause(ctx), errBootTimeout) {
				err = fmt.Errorf("not done within boot_timeout: %w", err)
			}
			return b.failed(ctx, s.name, err)
		}
		if s.name == "spec" && b.spec.BootTimeout > 0 {
			limit.Reset(time.Duration(b.spec.BootTimeout) - time.Since(b.began))
		}
	}
	return b.online(ctx)
}

var errBootTimeout = errors.New("boot_timeout is over")

func newBoot(h *Host, p Platform) *boot {
	return &boot{h: h, p: p, docker: &docker{rt: h.Docker, socket: h.Socket}, began: time.Now()}
}

// run carries out one step. A daemon that restarts in the middle of it is waited for; steps wait for everything else
// that can pass by themselves.
func (b *boot) run(ctx context.Context, s step) error {
	return b.retry(ctx, s.name, func(ctx context.Context) error {
		err := b.once(ctx, s)
		if err != nil && !errors.Is(err, errDockerAway) {
			return final(err, "")
		}
		return err
	})
}

// once checks, acts, verifies and notes one step.
func (b *boot) once(ctx context.Context, s step) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.report.State, b.report.Step = runner.Booting, s.name
	if s.check == nil {
		return s.act(ctx)
	}
	ok, err := s.check(ctx)
	if err != nil || ok {
		return err
	}
	b.writeStatus()
	b.logf("%s", s.name)
	if err := s.act(ctx); err != nil {
		return err
	}
	if ok, err = s.check(ctx); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s was done and does not hold: something else changes it at the same time", s.name)
	}
	if s.name == "register" {
		b.report.Registered = b.elapsed()
	}
	return b.journal.done(b.h, s.name)
}

// online reports success. A second boot that found everything in place says so all the same: the launcher of a
// rebooted machine waits for it too.
func (b *boot) online(ctx context.Context) error {
	b.report.State, b.report.Step, b.report.Error = runner.Online, "", ""
	b.report.Warnings = append(b.report.Warnings, b.journal.Warnings...)
	if m, ok := b.p.(Marker); ok {
		if err := m.Online(ctx); err != nil {
			b.warn("the platform could not be told that the runner is online: %v", err)
		}
	}
	err := b.journal.outcome(b.h, "")
	b.tell()
	return err
}

// failed reports the end of a boot that did not succeed, and obeys on_failure.
func (b *boot) failed(ctx context.Context, step string, err error) error {
	reason := b.line(err.Error())
	b.report.State, b.report.Step, b.report.Error = runner.Failed, step, reason
	if b.journal != nil {
		b.report.Warnings = append(b.report.Warnings, b.journal.Warnings...)
		if jerr := b.journal.outcome(b.h, step+": "+reason); jerr != nil {
			b.warn("the journal could not be written: %v", jerr)
		}
	}
	b.tell()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errBootTimeout) { // stopped by somebody: on_failure is not for that
		return fmt.Errorf("%s: %s", step, reason)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if b.journal != nil && !b.journal.Registering { // a container that may still be registering is waited for next time
		if clean, cerr := b.hasNoLeftovers(ctx); cerr == nil && !clean {
			if cerr := b.removeLeftovers(ctx); cerr != nil {
				b.logf("%v", cerr)
			}
		}
	}
	if oerr := b.onFailure(ctx, reason); oerr != nil {
		b.logf("on_failure: %s: %v", b.spec.OnFailure, oerr)
	}
	return fmt.Errorf("%s: %s", step, reason)
}

func (b *boot) onFailure(ctx context.Context, reason string) error {
	if b.spec.OnFailure == "" { // it failed before the spec was read whole: what was baked still counts
		if spec, _, err := ReadSpec(b.h, nil); err == nil {
			b.spec.OnFailure = spec.OnFailure
		}
	}
	m, marks := b.p.(Marker)
	var given bool
	if marks && b.id.InstanceID != "" { // a group that waits for this machine waits in vain, whatever on_failure is
		var err error
		if given, err = m.Failed(ctx); err != nil {
			b.logf("the platform could not be told that first boot failed: %v", err)
		}
	}
	switch b.spec.OnFailure {
	case "poweroff":
		_, err := b.h.Exec(ctx, "systemctl", "poweroff", "--no-block")
		return err
	case "unhealthy":
		switch {
		case given, !marks && b.spec.HealthPort > 0: // the health probe tells
			return nil
		case marks:
			return m.Unhealthy(ctx, reason)
		}
		return fmt.Errorf("the platform %s knows no health of machines: the machine stays", b.p.Name())
	}
	return nil
}

// warn keeps a sentence for the report and says it now.
func (b *boot) warn(format string, args ...any) {
	text := b.line(fmt.Sprintf(format, args...))
	b.logf("warning: %s", text)
	b.report.Warnings = append(b.report.Warnings, text)
}

// waiting shows what a step waits for, while it waits.
func (b *boot) waiting(reason string) {
	b.report.Error = b.line(reason)
	b.writeStatus()
	b.report.Error = ""
}

// logf writes one line to the log, without secrets: a server's message may quote what it was sent.
func (b *boot) logf(format string, args ...any) { b.h.logf("%s", b.line(fmt.Sprintf(format, args...))) }

// line is a text in one line without secrets, one of several lines included.
func (b *boot) line(text string) string { return b.redact(oneLine(b.redact(text))) }

// tokenForm is how GitLab's tokens look: one that we never resolved is a secret too.
var tokenForm = regexp.MustCompile(`\b(glrt-|glrtr-|GR1348941)[0-9A-Za-z_.=-]{8,}`)

// redact takes every secret that was resolved out of a text, and what looks like one.
func (b *boot) redact(text string) string {
	for _, s := range b.secrets {
		if len(s) > 3 {
			text = strings.ReplaceAll(text, s, runner.Redacted)
		}
	}
	return tokenForm.ReplaceAllString(text, runner.Redacted)
}

func oneLine(s string) string {
	return strings.Join(strings.Fields(s), " ")
}
