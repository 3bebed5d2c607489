package firstboot

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// tokenKind says what a token is, and so what it may do.
type tokenKind string

const (
	// registrationToken makes a new runner, which is this machine's own.
	registrationToken tokenKind = "registration"
	// authenticationToken is a runner that exists, which other machines may share: glrt-, glrtr-.
	authenticationToken tokenKind = "authentication"
)

func kindOf(token string) tokenKind {
	if strings.HasPrefix(token, "glrt-") || strings.HasPrefix(token, "glrtr-") {
		return authenticationToken
	}
	return registrationToken
}

// Labels on the containers that are ours.
const (
	labelInstance = "dorunner.instance" // whose container it is
	labelSpec     = "dorunner.spec"     // what it was made from; another spec makes another container
)

// registerName is what the register container of a runner is called: after a kill it is found again.
func registerName(name string) string { return name + "-register" }

// isRegistered says whether a registration of ours is on disk: in config.toml, or fresh beside it and whole.
func (b *boot) isRegistered(ctx context.Context) (bool, error) {
	if _, found, err := b.findEntry(b.configFile()); found || err != nil {
		return found, err
	}
	if _, found, err := b.findEntry(b.freshFile()); !found || err != nil || b.spec.Register == "api" {
		return found, err
	}
	c, err := b.docker.inspect(ctx, registerName(b.spec.Name))
	if isNotFound(err) {
		return true, nil
	}
	return err == nil && !c.State.Running, err
}

// register gets a runner's entry from GitLab into register.toml, once. It tries until it succeeds, GitLab refuses for
// good, or the boot's time is over; an attempt whose answer was lost may have made a runner, and is reported.
func (b *boot) register(ctx context.Context) error {
	token, err := b.secret(ctx, "runner.token", b.spec.Token)
	if err != nil {
		return err
	}
	if err := b.settleInterrupted(ctx); err != nil {
		return err
	}
	attempt := b.registerByContainer
	probe := true
	if b.spec.Register == "api" {
		// The call is its own probe: one request per machine less where a thousand boot at once.
		attempt, probe = b.registerByAPI, false
	}
	b.journal.Kind = kindOf(token)
	return b.retry(ctx, "register with "+gitlabBase(b.spec.URL), func(ctx context.Context) error {
		if probe {
			if err := b.gitlab.probe(ctx); err != nil {
				return err
			}
		}
		if done, err := b.isRegistered(ctx); done || err != nil { // an attempt cut short may have succeeded
			return err
		}
		if err := b.registering(true); err != nil {
			return err
		}
		err := attempt(ctx, token)
		failure, _ := errors.AsType[*Failure](err)
		if failure != nil && failure.Lost {
			if done, ferr := b.isRegistered(ctx); done || ferr != nil {
				return errors.Join(ferr, b.registering(false))
			}
			if werr := b.warnOrphan(); werr != nil {
				return werr
			}
		}
		probe = failure == nil || failure.Wait == 0 // who asks us to wait is there
		return errors.Join(err, b.registering(false))
	})
}

// registering notes that a registration is under way, before it can have an effect.
func (b *boot) registering(on bool) error {
	if b.journal.Registering == on {
		return nil
	}
	b.journal.Registering = on
	return b.journal.write(b.h)
}

// settleInterrupted deals with a registration that an earlier run of this program did not live to see the end of.
func (b *boot) settleInterrupted(ctx context.Context) error {
	if !b.journal.Registering {
		return nil
	}
	if b.spec.Register != "api" {
		c, err := b.docker.inspect(ctx, registerName(b.spec.Name))
		if err == nil && c.State.Status != "created" {
			return nil // registerByContainer waits for it
		}
		if err != nil && !isNotFound(err) {
			return err
		}
	}
	if err := b.warnOrphan(); err != nil {
		return err
	}
	return b.registering(false)
}

// warnOrphan reports a runner that GitLab may have made and told nobody of. With an authentication token none is made.
func (b *boot) warnOrphan() error {
	if b.journal.Kind != registrationToken {
		return nil
	}
	text, err := b.journal.lost(b.h, b.desc)
	b.logf("warning: %s", text)
	return err
}

// registerByAPI asks GitLab itself and writes the entry that gitlab-runner would write.
func (b *boot) registerByAPI(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(b.spec.RegisterTimeout))
	defer cancel()
	var c credentials
	var err error
	if kindOf(token) == authenticationToken {
		c, err = b.gitlab.verify(ctx, token, b.systemID)
		c.Token = token
	} else {
		c, err = b.gitlab.register(ctx, registration{Token: token, Description: b.desc, Tags: strings.Join(b.spec.TagList(), ","),
			RunUntagged: isTrue(b.spec.RunUntagged), Locked: isTrue(b.spec.Locked), Info: map[string]any{}})
	}
	if err != nil {
		return err
	}
	if c.ID == 0 || c.Token == "" {
		return &Failure{Err: fmt.Errorf("GitLab's answer names no runner"), Lost: true}
	}
	b.secrets = append(b.secrets, c.Token)
	return b.h.writeFile(b.freshFile(), b.entryText(c))
}

// registerByContainer runs the documented command. Its entry goes to a file of its own, so that nothing but this
// program ever writes config.toml.
func (b *boot) registerByContainer(ctx context.Context, token string) error {
	name := registerName(b.spec.Name)
	if err := b.startRegister(ctx, name, token); err != nil {
		return err
	}
	limit, cancel := context.WithTimeoutCause(ctx, time.Duration(b.spec.RegisterTimeout), errRegisterTimeout)
	defer cancel()
	code, err := b.docker.wait(limit, name)
	timeout := errors.Is(context.Cause(limit), errRegisterTimeout)
	if err != nil && !timeout {
		return err // the daemon is gone or the boot's time is over: the container is found again
	}
	if err == nil && code == 0 {
		if done, err := b.isRegistered(ctx); done || err != nil {
			return err // the container goes when the runner is online: removing it takes time
		}
	}
	out, lerr := b.docker.logs(context.WithoutCancel(ctx), name, 50)
	out = b.redact(out)
	if err := b.docker.remove(context.WithoutCancel(ctx), name); err != nil {
		return err
	}
	if timeout && outputWaits.MatchString(lastLine(out)) { // refused, and waiting as it was told: nothing is lost
		return &Failure{Err: fmt.Errorf("the register command still waits to be let in after %s", time.Duration(b.spec.RegisterTimeout)), Hint: "too many machines register at once", Wait: waitedAlready}
	}
	if timeout {
		return &Failure{Err: fmt.Errorf("the register command was not done after %s", time.Duration(b.spec.RegisterTimeout)), Hint: "the server hangs, or raise register_timeout", Lost: true}
	}
	if lerr != nil {
		return lerr
	}
	return classify(code, out)
}

var errRegisterTimeout = errors.New("register_timeout is over")

// startRegister starts the register container, or finds the one that a killed run of this program left at work.
func (b *boot) startRegister(ctx context.Context, name, token string) error {
	c, err := b.docker.inspect(ctx, name)
	switch {
	case err == nil && c.Config.Labels[labelInstance] == "":
		return final(fmt.Errorf("a container %s exists that is not ours (image %s)", name, c.Config.Image), "remove or rename it: docker rm -v "+name)
	case err == nil && c.Config.Labels[labelInstance] == b.id.InstanceID && c.State.Status != "created":
		return nil
	case err == nil:
		err = b.docker.remove(ctx, name)
	case isNotFound(err):
		err = nil
	}
	if err != nil {
		return err
	}
	if err := removeFile(b.h.path(b.freshFile())); err != nil { // what a killed attempt left is in the way of a new one
		return err
	}
	args := []string{"register", "--non-interactive", "--executor", b.spec.Executor, "--docker-image", b.spec.JobImage, "--url", b.spec.URL, "--description", b.desc}
	env := append(b.runnerEnv(), "CONFIG_FILE="+freshInside)
	if kindOf(token) == authenticationToken {
		env = append(env, "CI_SERVER_TOKEN="+token) // its settings are the server's: saying them is fatal
	} else {
		env = append(env, "REGISTRATION_TOKEN="+token)
		args = append(args, "--tag-list", strings.Join(b.spec.TagList(), ","),
			"--run-untagged="+strconv.FormatBool(isTrue(b.spec.RunUntagged)), "--locked="+strconv.FormatBool(isTrue(b.spec.Locked)))
	}
	return b.createAndStart(ctx, name,
		containerConfig{Image: b.spec.Image, Cmd: args, Env: env, Labels: map[string]string{labelInstance: b.id.InstanceID}},
		hostConfig{Binds: []string{b.configMount()}, RestartPolicy: restartPolicy{"no"}})
}

var (
	outputStatus    = regexp.MustCompile(`status=(?:[A-Z]+ \S+: )?(4\d\d|5\d\d) `) // what the server says of it is behind: it may quote anything
	outputNoProgram = regexp.MustCompile(`^exec \S+: (no such file or directory|exec format error|permission denied)`)
	outputWaits     = regexp.MustCompile(`^Waiting before making the next call`)
	outputForbidden = regexp.MustCompile(`forbidden|is not valid`)
	outputTransport = regexp.MustCompile(`couldn't execute|dial tcp|EOF|reset by peer|i/o timeout|Client\.Timeout|x509:|tls:|no such host|connection refused`)
	outputUnsent    = regexp.MustCompile(`dial tcp|x509:|tls:|no such host|connection refused`)
)

// rateWindow is the time over which GitLab counts requests (docs.gitlab.com/security/rate_limits).
const rateWindow = time.Minute

// waitedAlready is short: most of the window is over when register_timeout is.
const waitedAlready = rateWindow / 4

// classify reads what the register command printed: it exits 1 for everything.
func classify(code int, out string) error {
	reason := reasonIn(out)
	if m := outputStatus.FindStringSubmatch(out); m != nil {
		status, _ := strconv.Atoi(m[1])
		wait := time.Duration(0)
		if status == http.StatusTooManyRequests {
			wait = rateWindow // the output does not tell Retry-After
		}
		return refused(status, http.StatusText(status), true, wait)
	}
	switch {
	case outputNoProgram.MatchString(out):
		return final(fmt.Errorf("the runner's image does not run on this machine: %s", reason), "bake an image for this machine's architecture")
	case outputForbidden.MatchString(out):
		return refused(http.StatusForbidden, "Forbidden", true, 0)
	case outputTransport.MatchString(out):
		return &Failure{Err: fmt.Errorf("the register command cannot reach GitLab: %s", reason), Lost: !outputUnsent.MatchString(out)}
	case strings.Contains(out, "FATAL:"), code == 125, code == 126, code == 127:
		return final(fmt.Errorf("the register command fails with exit code %d: %s", code, reason), "check the runner's image and settings")
	}
	return &Failure{Err: fmt.Errorf("the register command ends with exit code %d and no registration: %s", code, reason), Lost: true}
}

// reasonIn is the line of a program's output that tells most: the last one that names an error.
func reasonIn(out string) string {
	last := ""
	for line := range strings.Lines(out) {
		if strings.Contains(line, "ERROR") || strings.Contains(line, "FATAL") {
			last = line
		}
	}
	if last == "" {
		last = lastLine(out)
	}
	return oneLine(outputToken.ReplaceAllString(last, ""))
}

// outputToken is how gitlab-runner names a runner in its output: the first letters of its token.
var outputToken = regexp.MustCompile(`\brunner=\S+`)
