package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// inputs are what a bake brings along, read and checked before anything is created.
type inputs struct {
	files    []byte   // tar.gz of everything that install.sh unpacks
	units    []string // the systemd units among them, to be enabled
	password string   // of the registry login
}

// preflight checks our own inputs, then whatever the cloud can check. All that is wrong is said at once.
func (b *bake) preflight(ctx context.Context) error {
	var errs []error
	if _, elsewhere := b.bakedElsewhere(); !elsewhere {
		errs = append(errs, b.readInputs())
	}
	errs = append(errs, b.cloud.Preflight(ctx, b.env))
	return errors.Join(errs...)
}

func (b *bake) readInputs() error {
	program, err1 := readFirstBoot(b.o.FirstBoot, b.plan.Spec.Image.Arch)
	baked, err2 := runner.Encode(b.plan.BakedRunner(), runner.EncodeOptions{})
	password, err3 := localSecret(b.plan.Spec.Image.Login.Password)
	if err3 != nil {
		err3 = fmt.Errorf("image.registry.password: %w", err3)
	}
	units, err4 := unitFiles()
	errs := []error{err1, err2, err3, err4}
	for _, p := range b.plan.Containers {
		if p.Archive != "" {
			if _, err := os.Stat(p.Archive); err != nil {
				errs = append(errs, fmt.Errorf("archive of %s: %w", p.Ref, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	sum := sha256.Sum256(program)
	b.manifest.FirstBoot = hex.EncodeToString(sum[:])
	b.inputs.password = password
	files := []tarFile{
		{"usr/local/bin/dorunner-firstboot", 0o755, program},
		{"etc/dorunner/defaults.yaml", 0o600, baked},
		{"etc/dorunner/platform", 0o644, []byte(b.plan.Platform + "\n")},
	}
	for _, u := range units {
		files = append(files, tarFile{"etc/systemd/system/" + u.name, 0o644, u.data})
		b.inputs.units = append(b.inputs.units, u.name)
	}
	if b.inputs.files, err1 = packTar(files); err1 != nil {
		return err1
	}
	return b.hashInputs()
}

// hashInputs makes the plan's hash cover what we bring along: another first-boot program or another way of
// provisioning is another image.
func (b *bake) hashInputs() error {
	sum := sha256.New()
	sum.Write(b.inputs.files)
	names, err := fs.Glob(templates.FS(), "guest/*")
	for _, n := range names {
		var text []byte
		if text, err = templates.Read(n); err != nil {
			break
		}
		_, _ = fmt.Fprintf(sum, "\n%s %d\n%s", n, len(text), text)
	}
	if err != nil {
		return err
	}
	b.rehash(hex.EncodeToString(sum.Sum(nil)))
	return nil
}

// rehash mixes more that reaches the image into the plan's hash.
func (b *bake) rehash(more string) {
	plan := *b.plan
	plan.Hash = plan.HashWith(more)
	b.plan, b.env.Plan, b.manifest.PlanHash = &plan, &plan, plan.Hash
}

// readFirstBoot reads the first-boot program once it is sure to run on the machine that is baked.
func readFirstBoot(file, arch string) ([]byte, error) {
	if err := checkFirstBoot(file, arch); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// localSecret resolves a secret on the machine that bakes.
func localSecret(s runner.Secret) (string, error) {
	switch {
	case s.IsZero():
		return "", nil
	case s.IsPlain():
		return s.Reveal(), nil
	case s.Scheme() == "env":
		if v := os.Getenv(s.Ref()); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("the environment variable %s is not set: export it before baking", s.Ref())
	case s.Scheme() == "file":
		data, err := os.ReadFile(s.Ref())
		return strings.TrimRight(string(data), "\r\n"), err
	}
	return "", fmt.Errorf("%s cannot be read on the machine that bakes: name a file or an environment variable", s)
}

type unitFile struct {
	name string
	data []byte
}

// unitFiles are the systemd units of first boot.
func unitFiles() ([]unitFile, error) {
	names, err := fs.Glob(templates.FS(), "units/*.service")
	if err != nil {
		return nil, err
	}
	var out []unitFile
	for _, n := range names {
		data, err := templates.Read(n)
		if err != nil {
			return nil, err
		}
		out = append(out, unitFile{path.Base(n), data})
	}
	return out, nil
}

type tarFile struct {
	name string
	mode int64
	data []byte
}

// packTar makes a tar.gz of files owned by root. It is the same bytes for the same files.
func packTar(files []tarFile) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
