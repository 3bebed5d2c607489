// Package metal bakes disk images on this machine: offline, in the mounted disk itself, or in a virtual machine. It
// also boots images, to launch and to try them. It is the only room that knows QEMU.
package metal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/internal/tail"
)

// method is one way to have a disk provisioned. Its steps come in this order; check may come alone.
type method interface {
	// check lists what keeps the method from working here.
	check(ctx context.Context, env *builder.Env) []error
	// start opens a copy of the base and returns once commands run in it.
	start(ctx context.Context, env *builder.Env, b base) (builder.Guest, error)
	// stop closes it, its free space zero.
	stop(ctx context.Context, env *builder.Env) error
	// disk is the file that holds the sealed disk then, its format, and whether it may be moved away.
	disk() (file, format string, movable bool)
	// console is the end of what the machine printed.
	console() string
}

// Cloud is this machine as a place to bake: one bake, one value.
type Cloud struct {
	method method
	base   base
}

var (
	_ builder.Cloud   = (*Cloud)(nil)
	_ builder.Finder  = (*Cloud)(nil)
	_ builder.Console = (*Cloud)(nil)
	_ builder.Undoer  = (*Cloud)(nil)
	_ builder.Based   = (*Cloud)(nil)
)

// New makes a Cloud for one bake with a method of the spec: "offline" or "vm".
func New(way string) *Cloud {
	if way == "vm" {
		return &Cloud{method: &vm{}}
	}
	return &Cloud{method: &offline{}}
}

// The kinds of things that a bake records. Processes, mounts, loop devices and ports end with the process that made
// them: the kernel sees to it (see space and dieWithUs).
const (
	kindFile    = "metal-file"    // a half-written result
	kindSpace   = "metal-space"   // the namespaces around a mounted disk
	kindMachine = "metal-machine" // a running QEMU
	kindCgroup  = "metal-cgroup"  // by name, below every controller
)

// Undoes gives back what a killed bake recorded.
func (c *Cloud) Undoes() map[string]builder.Undo {
	gone := func(context.Context, builder.Entry) error { return nil }
	return map[string]builder.Undo{
		kindFile:    func(_ context.Context, e builder.Entry) error { return removeFile(e.ID) },
		kindCgroup:  func(_ context.Context, e builder.Entry) error { return removeCgroup(e.ID) },
		kindLaunch:  removeAll,
		kindSpace:   gone,
		kindMachine: gone,
	}
}

func record(env *builder.Env, kind, id string, undo builder.Undo) error {
	return env.Ledger.Record(builder.Entry{Kind: kind, ID: id}, undo)
}

// Preflight finds everything that would stop the bake.
func (c *Cloud) Preflight(ctx context.Context, env *builder.Env) error {
	p := env.Plan
	errs := c.method.check(ctx, env)
	errs = append(errs, missingTools(map[string]string{"qemu-img": "qemu-utils"})...)
	switch m := p.Spec.Metal; {
	case isURL(m.Base):
		if m.BaseSHA256 == "" {
			errs = append(errs, fmt.Errorf("%s: a base disk from an address needs --base-sha256", m.Base))
		}
	case m.Base != "":
		if _, err := os.Stat(m.Base); err != nil {
			errs = append(errs, fmt.Errorf("the base disk: %w", err))
		}
	case p.Base.DiskURL == "":
		errs = append(errs, checkDebian(env)...)
	}
	errs = append(errs, checkRoom(env.WorkDir, 2<<30), checkRoom(env.OutDir, int64(len(p.Spec.Metal.Formats))*500<<20))
	return errors.Join(errs...)
}

// missingTools names each program that is not in PATH, or file that is not there, with the package that has it.
func missingTools(packages map[string]string) []error {
	var errs []error
	for tool, pkg := range packages {
		_, err := exec.LookPath(tool)
		if filepath.IsAbs(tool) {
			_, err = os.Stat(tool)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s is not installed: apt-get install %s", filepath.Base(tool), pkg))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// checkRoom asks for so many free bytes in a directory that may not exist yet. They are what a small image needs: a
// large one can still fill the disk.
func checkRoom(dir string, need int64) error {
	var fs syscall.Statfs_t
	at := dir
	for syscall.Statfs(at, &fs) != nil {
		up := filepath.Dir(at)
		if up == at {
			return nil
		}
		at = up
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < need { //nolint:unconvert // not int64 everywhere
		return fmt.Errorf("%s has %d MiB free, and a bake needs at least %d: make room or choose another directory", dir, free>>20, need>>20)
	}
	return nil
}

// Find tells that the results directory holds the image of this plan already, whole and unchanged.
func (c *Cloud) Find(ctx context.Context, env *builder.Env) (builder.Artifact, bool, error) {
	none := builder.Artifact{}
	text, err := os.ReadFile(filepath.Join(env.OutDir, "manifest.json"))
	if err != nil {
		return none, false, nil //nolint:nilerr // whatever keeps it from being read, it is baked anew
	}
	var m builder.Manifest
	if err := json.Unmarshal(text, &m); err != nil || m.PlanHash != env.Plan.Hash {
		return none, false, nil //nolint:nilerr // likewise
	}
	found := builder.Artifact{Reused: true}
	for _, format := range env.Plan.Spec.Metal.Formats {
		i := slices.IndexFunc(m.Artifact.Images, func(id builder.ImageID) bool { return id.Format == format })
		if i < 0 {
			return none, false, nil
		}
		id := m.Artifact.Images[i]
		info, err := os.Stat(id.ID)
		if err != nil || info.Size() != id.Size {
			return none, false, nil //nolint:nilerr // likewise
		}
		_, sum, err := digest(ctx, id.ID)
		if err != nil {
			return none, false, err
		}
		if sum != id.SHA256 {
			return none, false, nil
		}
		found.Images = append(found.Images, id)
	}
	return found, len(found.Images) > 0, nil
}

// Launch opens a copy of the base disk.
func (c *Cloud) Launch(ctx context.Context, env *builder.Env) (builder.Guest, error) {
	b, err := openBase(ctx, env)
	if err != nil {
		return nil, err
	}
	b.os = env.Plan.Spec.Image.OS
	c.base = b
	return c.method.start(ctx, env, b)
}

// Base tells which disk the bake began with.
func (c *Cloud) Base() builder.ManifestBase {
	return builder.ManifestBase{OS: c.base.os, Source: c.base.source, Digest: c.base.digest}
}

// Stop closes the sealed disk.
func (c *Cloud) Stop(ctx context.Context, env *builder.Env) error { return c.method.stop(ctx, env) }

// Capture writes the disk in every format that was asked for.
func (c *Cloud) Capture(ctx context.Context, env *builder.Env) (builder.Artifact, error) {
	file, format, movable := c.method.disk()
	return writeFormats(ctx, env, file, format, movable)
}

// Distribute leaves the files where they are.
func (c *Cloud) Distribute(_ context.Context, env *builder.Env, a builder.Artifact) (builder.Artifact, error) {
	for _, id := range a.Images {
		if err := env.Ledger.Keep(kindFile, id.ID); err != nil {
			return a, err
		}
	}
	return a, nil
}

// ConsoleTail is what the machine printed last.
func (c *Cloud) ConsoleTail(context.Context, *builder.Env) string { return c.method.console() }

// lineWriter calls itself with each whole line that is written to it.
func lineWriter(line func(string)) io.Writer {
	return &lines{line: line}
}

type lines struct {
	mu   sync.Mutex
	rest []byte
	line func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		i := slices.Index(l.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.line(strings.TrimRight(string(l.rest[:i]), "\r"))
		l.rest = l.rest[i+1:]
	}
}

// tailOf is the end of a log file.
func tailOf(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return tail.Last(text, 40)
}
