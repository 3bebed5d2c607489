package firstboot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// waitDocker waits for the daemon: after a cold boot it may load for a while.
func (b *boot) waitDocker(ctx context.Context) error {
	return b.retry(ctx, "wait for docker", b.docker.ping)
}

// runnerEnv is the environment of both containers. DEBUG is the documented switch, RUNNER_DEBUG the one that the
// stock image knows.
func (b *boot) runnerEnv() []string {
	if isTrue(b.spec.Debug) {
		return []string{"DEBUG=true", "RUNNER_DEBUG=true"}
	}
	return nil
}

// wanted is the documented runner container, with what keeps jobs whole when it stops: SIGQUIT lets them finish, and
// the stop timeout gives them the time to.
func (b *boot) wanted() (containerConfig, hostConfig) {
	h := hostConfig{Binds: []string{b.configMount(), b.h.Socket + ":/var/run/docker.sock"}, RestartPolicy: restartPolicy{"always"}}
	c := containerConfig{Image: b.spec.Image, Env: b.runnerEnv(), StopSignal: "SIGQUIT", StopTimeout: int(time.Duration(b.spec.DrainTimeout).Seconds())}
	text, err := json.Marshal([]any{c, h})
	if err != nil { // plain fields
		panic(err)
	}
	sum := sha256.Sum256(text)
	c.Labels = map[string]string{labelInstance: b.id.InstanceID, labelSpec: hex.EncodeToString(sum[:8])}
	return c, h
}

// isStarted says whether the runner's container runs as it is wanted.
func (b *boot) isStarted(ctx context.Context) (bool, error) {
	c, err := b.docker.inspect(ctx, b.spec.Name)
	if isNotFound(err) {
		return false, nil
	}
	return err == nil && b.isWanted(c) && (c.State.Running || c.State.Status == "restarting"), err
}

// isWanted tells the container that this boot would make.
func (b *boot) isWanted(c container) bool {
	want, _ := b.wanted()
	return c.Config.Labels[labelInstance] == want.Labels[labelInstance] && c.Config.Labels[labelSpec] == want.Labels[labelSpec]
}

// isDocumented tells the container that somebody set up here by hand: this boot replaces it, since it neither lets
// jobs finish when it is stopped nor tells of its polls.
func (b *boot) isDocumented(c container) bool {
	return slices.ContainsFunc(c.Mounts, func(m struct{ Source, Destination string }) bool {
		return m.Destination == configInside && m.Source == b.h.path(configDir(b.spec.Name))
	})
}

// nameIsOurs refuses a machine on which another container has the runner's name.
func (b *boot) nameIsOurs(ctx context.Context) error {
	c, err := b.docker.inspect(ctx, b.spec.Name)
	if isNotFound(err) || (err == nil && (c.Config.Labels[labelInstance] != "" || b.isDocumented(c))) {
		return nil
	}
	if err != nil {
		return err
	}
	return final(fmt.Errorf("a container %s exists that is not this runner (image %s)", b.spec.Name, c.Config.Image), "remove or rename it: docker rm -v "+b.spec.Name)
}

// start makes the runner's container run. One that was made from another spec, on another machine or by hand is
// replaced, after its jobs; what is somebody else's was refused before (nameIsOurs).
func (b *boot) start(ctx context.Context) error {
	name := b.spec.Name
	c, err := b.docker.inspect(ctx, name)
	switch {
	case isNotFound(err):
	case err != nil:
		return err
	case b.isWanted(c):
		if err := b.docker.setRestart(ctx, name, "always"); err != nil {
			return err
		}
		return b.docker.start(ctx, name)
	default:
		b.logf("replacing the container %s: it was made from another spec, on another machine or by hand", name)
		if owner := c.Config.Labels[labelInstance]; c.State.Running && (owner == "" || owner == b.id.InstanceID) { // another machine's has no jobs here
			if _, err := b.endContainer(ctx, name, time.Duration(b.spec.DrainTimeout), nil); err != nil {
				return err
			}
		}
		if err := b.docker.remove(ctx, name); err != nil {
			return err
		}
	}
	want, host := b.wanted()
	return b.retry(ctx, "start the runner", func(ctx context.Context) error { return b.createAndStart(ctx, name, want, host) })
}

// createAndStart runs a new container, pulling its image if it was not baked in. Of an attempt that failed nothing
// stays.
func (b *boot) createAndStart(ctx context.Context, name string, c containerConfig, h hostConfig) error {
	err := b.docker.create(ctx, name, c, h)
	if isNotFound(err) {
		if err := b.pull(ctx, c.Image); err != nil {
			return err
		}
		err = b.docker.create(ctx, name, c, h)
	}
	if err != nil && !hasStatus(err, http.StatusConflict) { // a conflict is our own, made by an attempt whose answer was lost
		return err
	}
	if err := b.docker.start(ctx, name); err != nil {
		if rerr := b.docker.remove(context.WithoutCancel(ctx), name); rerr != nil {
			b.logf("%v", rerr)
		}
		return fmt.Errorf("start container %s: %w", name, err)
	}
	return nil
}

func (b *boot) pull(ctx context.Context, image string) error {
	b.logf("image %s is not on this machine: pulling it", image)
	err := b.docker.pull(ctx, image)
	if err == nil {
		return nil
	}
	hint := "bake it into the machine's image, or log the machine in to its registry"
	if text := err.Error(); strings.Contains(text, "denied") || strings.Contains(text, "not found") || strings.Contains(text, "unauthorized") || strings.Contains(text, "invalid reference") {
		return final(fmt.Errorf("image %s is not on this machine and cannot be pulled: %w", image, err), hint)
	}
	return &Failure{Err: fmt.Errorf("image %s is not on this machine and cannot be pulled: %w", image, err), Hint: hint}
}

// hasPolled says whether GitLab has answered a request for jobs of the container that runs.
func (b *boot) hasPolled(ctx context.Context) (bool, error) {
	c, err := b.docker.inspect(ctx, b.spec.Name)
	if err != nil {
		return false, err
	}
	polls, notYet := b.polls(ctx, c)
	answered := notYet == nil && polls.answered > 0
	if answered {
		b.report.LastPoll, b.report.Jobs = b.h.Now().UTC().Truncate(time.Second), polls.jobs
		if b.report.FirstPoll == 0 {
			b.report.FirstPoll = b.elapsed()
		}
	}
	return answered, nil
}

// waitPolled looks often at first, since the first poll comes some 100 ms after the start.
func (b *boot) waitPolled(ctx context.Context) error {
	var last error
	for wait := 10 * time.Millisecond; ; wait = min(wait*5/4, time.Second) {
		done, err := b.pollState(ctx)
		if done || isFinal(err) {
			return err
		}
		if err != nil && (last == nil || err.Error() != last.Error()) {
			last = err
			if wait > 200*time.Millisecond {
				b.waiting(err.Error())
			}
		}
		if sleep(ctx, wait) != nil {
			return fmt.Errorf("the runner %s has started, but GitLab answered none of its polls: %w; its last words: %s", b.spec.Name, last, b.lastWords(ctx))
		}
	}
}

// pollState says whether the runner has polled, and if not what is known of the reason.
func (b *boot) pollState(ctx context.Context) (bool, error) {
	c, err := b.docker.inspect(ctx, b.spec.Name)
	switch {
	case isNotFound(err):
		return false, final(fmt.Errorf("the container %s is gone", b.spec.Name), "something else removes containers on this machine")
	case err != nil:
		return false, err
	case !c.State.Running:
		return false, fmt.Errorf("the container %s is %s with exit code %d", b.spec.Name, c.State.Status, c.State.ExitCode)
	}
	polls, err := b.polls(ctx, c)
	switch {
	case err != nil:
		return false, fmt.Errorf("its metrics do not answer: %w", err)
	case polls.answered > 0:
		return true, nil
	case polls.forbidden > 0:
		return false, final(errors.New("GitLab refuses the runner's polls: 403 Forbidden"),
			fmt.Sprintf("the runner was deleted there; drain this machine and boot it again, or remove its entry from %s", b.configFile()))
	case polls.failed != "":
		return false, fmt.Errorf("GitLab answers its polls with %s", polls.failed)
	}
	return false, errors.New("it has not polled yet")
}

func (b *boot) lastWords(ctx context.Context) string {
	out, err := b.docker.logs(context.WithoutCancel(ctx), b.spec.Name, 20)
	if err != nil {
		return err.Error()
	}
	return b.redact(reasonIn(out))
}

// hasNoLeftovers and removeLeftovers clear away the register container, which carries the token in its environment.
func (b *boot) hasNoLeftovers(ctx context.Context) (bool, error) {
	c, err := b.docker.inspect(ctx, registerName(b.spec.Name))
	if isNotFound(err) {
		return true, nil
	}
	return err == nil && c.Config.Labels[labelInstance] == "", err
}

func (b *boot) removeLeftovers(ctx context.Context) error {
	return b.docker.remove(ctx, registerName(b.spec.Name))
}
