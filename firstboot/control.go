package firstboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Start starts this machine's runner again after Stop.
func Start(ctx context.Context, h *Host, p Platform) error {
	b, err := resume(ctx, h, p)
	if err != nil {
		return err
	}
	return b.docker.start(ctx, b.spec.Name)
}

// Stop lets running jobs finish, for as long as drain_timeout, and stops the runner. It stays registered, and comes
// back with Start or at the next boot.
func Stop(ctx context.Context, h *Host, p Platform) error {
	b, err := resume(ctx, h, p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(b.spec.DrainTimeout)+dockerCall)
	defer cancel()
	return b.docker.stop(ctx, b.spec.Name)
}

// Effective is the spec that this machine boots from, every layer laid over the other, without secrets.
func Effective(ctx context.Context, h *Host, p Platform) ([]byte, error) {
	id, err := p.Identity(ctx)
	if err != nil {
		return nil, err
	}
	spec, _, err := ReadSpec(h, id.Overlay)
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(spec) // a literal secret marshals as [redacted]
}

// SelfTest tells whether a machine from this image could become a runner: the spec's defaults, the directories that
// are written to, Docker and the runner's image, the platform's metadata. Offline leaves out the metadata, and Docker
// where no daemon runs. It prints one line per check.
func SelfTest(ctx context.Context, h *Host, p Platform, offline bool, out io.Writer) error {
	b := newBoot(h, p)
	failed := 0
	check := func(what string, f func() (string, error)) {
		found, err := f()
		if err != nil {
			failed++
			_, _ = fmt.Fprintf(out, "FAIL %s: %s\n", what, b.redact(oneLine(err.Error())))
			return
		}
		_, _ = fmt.Fprintf(out, "ok   %s: %s\n", what, found)
	}
	check("spec", func() (string, error) { return b.testSpec() })
	for _, dir := range []string{"/var/lib/dorunner", "/srv", "/run"} {
		check(dir, func() (string, error) { return "can be written to", b.testDir(dir) })
	}
	_, noSocket := os.Stat(h.Socket)
	if offline && errors.Is(noSocket, os.ErrNotExist) {
		_, _ = fmt.Fprintln(out, "--   docker: not asked (offline, no daemon)")
	} else {
		check("docker", func() (string, error) {
			err := b.docker.ping(ctx)
			return "answers with API " + strings.TrimPrefix(b.docker.version, "/v"), err
		})
		check("runner image", func() (string, error) { return b.testImage(ctx) })
	}
	if offline {
		_, _ = fmt.Fprintln(out, "--   platform: not asked (offline)")
	} else {
		check("platform", func() (string, error) {
			id, err := p.Identity(ctx)
			return p.Name() + " " + id.InstanceID, err
		})
	}
	if failed > 0 {
		return fmt.Errorf("selftest: %d checks failed", failed)
	}
	return nil
}

func (b *boot) testSpec() (string, error) {
	var err error
	if b.spec, _, err = ReadSpec(b.h, nil); err != nil {
		return "", err
	}
	if bad := b.spec.Validate(); len(bad) > 0 {
		return "", problems(bad)
	}
	if b.spec.Name == "" {
		return "valid; no identity yet, user-data brings it", nil
	}
	return "valid, for " + b.spec.Name, nil
}

func (b *boot) testDir(dir string) error {
	if err := os.MkdirAll(b.h.path(dir), 0o755); err != nil {
		return diskError(err)
	}
	f, err := os.CreateTemp(b.h.path(dir), ".dorunner-selftest-")
	if err != nil {
		return diskError(err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (b *boot) testImage(ctx context.Context) (string, error) {
	has, err := b.docker.hasImage(ctx, b.spec.Image)
	if err == nil && !has {
		return b.spec.Image + " is not here: every machine will pull it", nil
	}
	return b.spec.Image + " is here", err
}
