package builder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dorunner/dorunner-bake/images"
)

// Options are what a bake needs beside the plan and the cloud.
type Options struct {
	FirstBoot string // path of the dorunner-firstboot binary for the plan's architecture (Linux ELF)
	OutDir    string // where manifest.json and report.html go; made when absent
	Progress  Progress
	Force     bool // bake even when an image of this plan exists
	DryRun    bool // preflight only; say what would be done
	// BakeID names this bake's temporary resources and its ledger (LedgerFile); one is made when empty.
	BakeID string
	// Customize runs between provisioning and the proof: Packer's provisioners. The plan's scripts run before it. It says
	// whether it touched the guest; the image is then one of a kind, and its hash that of no other bake.
	Customize func(ctx context.Context, g Guest) (touched bool, err error)
	OnError   OnError // nil gives everything back
}

// cleanupTime bounds giving everything back, whatever became of the bake's own context.
const cleanupTime = 15 * time.Minute

// Bake makes one image. On failure or cancellation everything it created is given back, or named in the error. An
// error beside a manifest means that the image is whole but something temporary was left behind.
func Bake(ctx context.Context, plan *images.Plan, cloud Cloud, o Options) (*Manifest, error) {
	b, err := begin(ctx, plan, cloud, o)
	if err != nil {
		return nil, err
	}
	_, elsewhere := b.bakedElsewhere()
	machine := !elsewhere // there is a machine or a disk to work on
	booter, canBoot := cloud.(TestBooter)

	err = b.run(ctx, []step{
		// Everything that would stop the bake is found before anything is created: our own inputs, then the cloud's.
		{"preflight", true, b.preflight},
		// An image with this plan's hash exists: that is the result.
		{"unchanged", !o.Force, b.unchanged},
		// A dry run ends here.
		{"plan", o.DryRun, b.sayPlan},
		// The temporary machine, reached over SSH with its host key pinned; or the disk, opened.
		{"launch", machine, b.launch},
		// cloud-init has ended, Docker Engine runs, container images are there, first boot is installed.
		{"provision", machine, b.provision},
		// The author's own scripts, then Packer's provisioners.
		{"customize", machine, b.customize},
		// A container runs, every image is present, first boot finds what it needs.
		{"prove", machine, b.prove},
		// What clones must not share is removed; a second, reading pass finds nothing left.
		{"seal", machine, b.seal},
		{"stop", machine, func(ctx context.Context) error { return cloud.Stop(ctx, b.env) }},
		{"capture", true, b.capture},
		// The image itself boots and says so on its console.
		{"test-boot", canBoot, func(ctx context.Context) error { return booter.TestBoot(ctx, b.env, b.manifest.Artifact) }},
		// Copy, share, tag, publish, prune.
		{"distribute", true, b.distribute},
	})
	return b.end(ctx, err)
}

// step is one line of the pipeline.
type step struct {
	name string
	when bool
	do   func(context.Context) error
}

// errDone ends the pipeline early and well: the image exists already, or this was a dry run.
var errDone = errors.New("nothing more to do")

// bake is one bake under way.
type bake struct {
	o        Options
	plan     *images.Plan
	cloud    Cloud
	env      *Env
	inputs   inputs
	guest    Guest
	dockerUp func(context.Context) error // stops the daemon that we started by hand; nil when there is none
	manifest *Manifest
	leave    bool // OnError wants everything left as it is
	early    bool // ended by errDone: nothing was baked, so nothing is written
}

// begin makes the ledger and the scratch directory, and gives back what killed bakes left.
func begin(ctx context.Context, plan *images.Plan, cloud Cloud, o Options) (*bake, error) {
	if o.Progress == nil {
		o.Progress = Discard()
	}
	if o.BakeID == "" {
		o.BakeID = NewBakeID()
	}
	out, err := filepath.Abs(o.OutDir)
	if err != nil {
		return nil, fmt.Errorf("results directory %s: %w", o.OutDir, err)
	}
	if !o.DryRun { // which changes nothing
		sweep(ctx, cloud, o.Progress)
	}
	file, err := LedgerFile(o.BakeID)
	if err != nil {
		return nil, err
	}
	ledger, err := OpenLedger(file)
	if err != nil {
		return nil, err
	}
	b := &bake{
		o: o, plan: plan, cloud: cloud,
		env: &Env{
			Plan: plan, Ledger: ledger, Progress: o.Progress, BakeID: o.BakeID, OutDir: out,
			// Beside the results, so that finishing one is a rename.
			WorkDir: filepath.Join(out, ".bake-"+o.BakeID),
		},
		manifest: &Manifest{
			PlanHash: plan.Hash, Target: plan.Target, Platform: plan.Platform, BakeID: o.BakeID, Started: time.Now().UTC(),
			Containers: []ManifestImage{}, Packages: []ManifestPackage{}, Audit: []AuditFinding{},
			Base: ManifestBase{OS: plan.Spec.Image.OS}, Sizes: map[string]int64{"disk": int64(plan.Spec.Image.DiskGB) << 30},
		},
	}
	for _, w := range plan.Warnings { // whoever resolved the plan has shown them
		b.manifest.Warnings = append(b.manifest.Warnings, w.Error())
	}
	if err := b.makeDirs(); err != nil {
		_, err := b.end(ctx, err)
		return nil, err
	}
	return b, nil
}

// NewBakeID makes a name for a bake: when it began and a random part, "20260102-150405-a1b2c3".
func NewBakeID() string {
	var r [3]byte
	_, _ = rand.Read(r[:]) // never fails
	return time.Now().UTC().Format("20060102-150405-") + hex.EncodeToString(r[:])
}

// makeDirs makes the results and scratch directories; both are in the ledger before they exist.
func (b *bake) makeDirs() error {
	if _, err := os.Stat(b.env.OutDir); errors.Is(err, os.ErrNotExist) {
		if err := b.env.Ledger.Record(Entry{Kind: kindOutDir, ID: b.env.OutDir}, removeOutDir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(b.env.OutDir, 0o755); err != nil {
		return fmt.Errorf("results directory: %w", err)
	}
	// Mounts are known by their real paths; see removeWorkDir.
	dir, err := filepath.EvalSymlinks(b.env.OutDir)
	if err != nil {
		return fmt.Errorf("results directory: %w", err)
	}
	b.env.WorkDir = filepath.Join(dir, filepath.Base(b.env.WorkDir))
	if err := b.env.Ledger.Record(Entry{Kind: kindWorkDir, ID: b.env.WorkDir}, removeWorkDir); err != nil {
		return err
	}
	if err := os.Mkdir(b.env.WorkDir, 0o700); err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	return nil
}

// sweep gives back what killed bakes of this kind left. Failing to is no reason not to bake.
func sweep(ctx context.Context, cloud Cloud, p Progress) {
	var undo map[string]Undo
	if u, ok := cloud.(Undoer); ok {
		undo = u.Undoes()
	}
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	left, err := CleanStale(ctx, undo, func(e Entry, err error) {
		if err == nil {
			p.Info("cleared up %s, left by a bake that was killed", e)
		}
	})
	if err != nil {
		p.Warn("cleaning up after an earlier bake: %v", err)
	}
	for _, s := range left {
		p.Warn("bake %s was killed and left %d things behind: `dorunner-bake gc` lists and removes them", s.BakeID, len(s.Entries))
	}
}

// run does the steps in order and stops at the first error.
func (b *bake) run(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if !s.when {
			continue
		}
		if err := b.step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

// step does one step, tells of it and notes its time.
func (b *bake) step(ctx context.Context, name string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	began := time.Now()
	b.env.Progress.Step(name)
	err := do(ctx)
	for b.decide(ctx, name, err) == Retry {
		err = do(ctx)
	}
	took := time.Since(began)
	if errors.Is(err, errDone) {
		b.early = true
		b.env.Progress.StepDone(name, took, nil)
		return err
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	b.env.Progress.StepDone(name, took, err)
	b.manifest.Steps = append(b.manifest.Steps, ManifestStep{Name: name, Seconds: took.Seconds()})
	return err
}

// parts does the parts of a step in order. They are shown under way, named in errors, and timed in the manifest.
func (b *bake) parts(ctx context.Context, of string, parts []step) error {
	for _, p := range parts {
		if !p.when {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", p.name, context.Cause(ctx))
		}
		b.env.Progress.Count(p.name, 0, 0, "") // under way, not yet counted
		began := time.Now()
		if err := p.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		took := time.Since(began)
		b.info("%s (%s)", p.name, seconds(took))
		b.manifest.Steps = append(b.manifest.Steps, ManifestStep{Name: of + "/" + p.name, Seconds: took.Seconds()})
	}
	return nil
}

// end gives back everything temporary and writes the results.
func (b *bake) end(ctx context.Context, err error) (*Manifest, error) {
	cancelled := ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if errors.Is(err, errDone) {
		err = nil
	}
	if err != nil && !cancelled {
		b.showConsole(ctx, err)
	}
	if b.dockerUp != nil {
		err = errors.Join(err, b.stopDocker(ctx))
	}
	if err == nil && !b.early {
		b.manifest.Finished = time.Now().UTC()
		err = writeResults(b.env.OutDir, b.manifest)
	}
	failed := err != nil
	if failed && b.leave {
		for _, e := range b.env.Ledger.Entries() {
			b.info("left as it is: %s", e)
		}
		return nil, errors.Join(err, b.env.Ledger.Abandon())
	}
	undone := b.env.Ledger.Unwind(ctx, func(e Entry, err error) {
		switch {
		case err != nil:
			b.warn("could not remove %s: %v", e, err)
		case failed && e.Kind != kindOutDir:
			b.info("removed %s", e)
		}
	})
	err = errors.Join(err, undone, b.env.Ledger.Close())
	if failed {
		return nil, err
	}
	return b.manifest, err
}

// showConsole shows what the machine printed last, when it was not one of our own commands that failed on it.
func (b *bake) showConsole(ctx context.Context, err error) {
	c, ok := b.cloud.(Console)
	var exit *ExitError
	if !ok || errors.As(err, &exit) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if text := c.ConsoleTail(ctx, b.env); text != "" {
		b.info("the machine's console ended with:\n%s", text)
	}
}

func (b *bake) unchanged(ctx context.Context) error {
	f, ok := b.cloud.(Finder)
	if !ok {
		return nil
	}
	a, found, err := f.Find(ctx, b.env)
	if err != nil || !found {
		return err
	}
	a.Reused = true
	b.manifest.Artifact = a
	b.info("an image of this plan exists already; --force bakes it anew")
	return errDone
}

func (b *bake) sayPlan(context.Context) error {
	b.info("would bake %s for %s with %d container images, plan %.12s", b.plan.Spec.Image.OS, b.plan.Target, len(b.plan.Containers), b.plan.Hash)
	if r, ok := b.cloud.(Rehearser); ok {
		for _, call := range r.Rehearse(b.env) {
			b.info("would call %s", call)
		}
	}
	return errDone
}

func (b *bake) launch(ctx context.Context) (err error) {
	b.guest, err = b.cloud.Launch(ctx, b.env)
	if err == nil && b.guest == nil {
		err = errors.New("the cloud gave no guest")
	}
	if based, ok := b.cloud.(Based); ok && err == nil {
		b.manifest.Base = based.Base()
	}
	return err
}

func (b *bake) capture(ctx context.Context) (err error) {
	if m, ok := b.bakedElsewhere(); ok && m != nil {
		// It stays the bake that made the disk: by that the disk is known again when this manifest lies beside it.
		m.Started, m.Steps = b.manifest.Started, append(m.Steps, b.manifest.Steps...)
		m.Target = b.manifest.Target
		if m.Sizes == nil {
			m.Sizes = map[string]int64{}
		}
		b.manifest = m
	}
	b.manifest.Artifact, err = b.cloud.Capture(ctx, b.env)
	return err
}

func (b *bake) distribute(ctx context.Context) error {
	a, err := b.cloud.Distribute(ctx, b.env, b.manifest.Artifact)
	if err != nil {
		return err
	}
	b.manifest.Artifact = a
	for _, i := range a.Images {
		if i.Format != "" && i.Size > 0 {
			b.manifest.Sizes[i.Format] = i.Size
		}
	}
	return nil
}

func (b *bake) bakedElsewhere() (*Manifest, bool) {
	if e, ok := b.cloud.(Baked); ok {
		return e.BakedElsewhere()
	}
	return nil, false
}

func (b *bake) info(format string, args ...any) { b.env.Progress.Info(format, args...) }

func (b *bake) warn(format string, args ...any) {
	b.manifest.Warnings = append(b.manifest.Warnings, fmt.Sprintf(format, args...))
	b.env.Progress.Warn(format, args...)
}
