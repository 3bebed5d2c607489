package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/images"
)

// account is a cloud that exists in memory: what is in it after a bake was left there.
type account struct {
	mu    sync.Mutex
	calls []string            // in order; the cloud's, the guest's and those that give things back
	have  map[string]struct{} // "instance i-1"
	fail  int                 // this call fails, counted from 1; 0: none does
	at    func()              // called at that call instead of failing
}

var errInjected = errors.New("injected")

// call is one call to the cloud or the guest.
func (a *account) call(ctx context.Context, name string) error {
	a.mu.Lock()
	a.calls = append(a.calls, name)
	hit := len(a.calls) == a.fail
	a.mu.Unlock()
	if hit {
		if a.at == nil {
			return fmt.Errorf("%s: %w", name, errInjected)
		}
		a.at()
	}
	return context.Cause(ctx)
}

func (a *account) create(ctx context.Context, env *Env, kind, id string) error {
	if err := a.call(ctx, "create "+kind); err != nil {
		return err
	}
	a.mu.Lock()
	a.have[kind+" "+id] = struct{}{}
	a.mu.Unlock()
	return env.Ledger.Record(Entry{Kind: kind, ID: id}, a.delete)
}

func (a *account) delete(_ context.Context, e Entry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.have, e.String())
	return nil
}

// fakeCloud is a Cloud, a Finder, a TestBooter and an Undoer over an account.
type fakeCloud struct {
	*account
	guest *fakeGuest
	found bool
}

func (c *fakeCloud) Preflight(ctx context.Context, _ *Env) error { return c.call(ctx, "preflight") }

func (c *fakeCloud) Find(ctx context.Context, _ *Env) (Artifact, bool, error) {
	return Artifact{Images: []ImageID{{ID: "ami-old"}}}, c.found, c.call(ctx, "find")
}

func (c *fakeCloud) Launch(ctx context.Context, env *Env) (Guest, error) {
	if err := c.create(ctx, env, "key", "k-1"); err != nil {
		return nil, err
	}
	if err := c.create(ctx, env, "instance", "i-1"); err != nil {
		return nil, err
	}
	if c.guest.offline {
		return &offlineGuest{c.guest}, c.call(ctx, "connect")
	}
	return c.guest, c.call(ctx, "connect")
}

func (c *fakeCloud) Stop(ctx context.Context, _ *Env) error { return c.call(ctx, "stop") }

func (c *fakeCloud) Capture(ctx context.Context, env *Env) (Artifact, error) {
	err := c.create(ctx, env, "image", "ami-new")
	return Artifact{Images: []ImageID{{ID: "ami-new", Format: "ami", Size: 7}}}, err
}

func (c *fakeCloud) TestBoot(ctx context.Context, env *Env, _ Artifact) error {
	if err := c.create(ctx, env, "instance", "i-2"); err != nil {
		return err
	}
	return c.call(ctx, "selftest")
}

func (c *fakeCloud) Distribute(ctx context.Context, env *Env, a Artifact) (Artifact, error) {
	if err := c.call(ctx, "share"); err != nil {
		return a, err
	}
	return a, env.Ledger.Keep("image", "ami-new")
}

func (c *fakeCloud) Base() ManifestBase { return ManifestBase{OS: "debian-12", Source: "ami-base"} }

func (c *fakeCloud) Undoes() map[string]Undo {
	return map[string]Undo{"key": c.delete, "instance": c.delete, "image": c.delete}
}

func (c *fakeCloud) ConsoleTail(context.Context, *Env) string { return "kernel panic" }

// fakeGuest answers each command by its name, and remembers what it was given.
type fakeGuest struct {
	*account
	offline bool
	answer  map[string]string // output by script or program name
	exit    map[string]int
	stdin   map[string]string
	env     map[string][]string
	args    map[string][]string
	files   map[string]string
	up      int // daemons that run
}

// offlineGuest is a fakeGuest without a running system.
type offlineGuest struct{ *fakeGuest }

func (g *offlineGuest) StartDocker(ctx context.Context) (func(context.Context) error, error) {
	if err := g.call(ctx, "start docker"); err != nil {
		return nil, err
	}
	g.up++
	return func(ctx context.Context) error { g.up--; return g.call(ctx, "stop docker") }, nil
}

func (g *fakeGuest) Run(ctx context.Context, c Command) error {
	name, args := filepath.Base(c.Args[0]), c.Args[1:]
	if name == "sh" && len(args) > 2 && args[0] == "-c" {
		name, args = args[2], args[3:]
	}
	if len(args) > 0 && (name == "docker" || name == "docker.sh" || name == "dorunner-firstboot") {
		name, args = name+" "+args[0], args[1:]
	}
	if err := g.call(ctx, name); err != nil {
		return err
	}
	if c.Stdin != nil {
		in, err := io.ReadAll(c.Stdin)
		if err != nil {
			return err
		}
		g.stdin[name] = string(in)
	}
	g.env[name], g.args[name] = c.Env, args
	if c.Stdout != nil {
		_, _ = io.WriteString(c.Stdout, g.answer[name])
	}
	if code := g.exit[name]; code != 0 {
		return &ExitError{Args: c.Args, Code: code, Tail: strings.TrimSpace(g.answer[name])}
	}
	return nil
}

func (g *fakeGuest) Upload(ctx context.Context, path string, r io.Reader, _ fs.FileMode) error {
	if err := g.call(ctx, "upload "+path); err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	g.files[path] = string(data)
	return err
}

func (g *fakeGuest) Download(ctx context.Context, path string, w io.Writer) error {
	if err := g.call(ctx, "download "+path); err != nil {
		return err
	}
	_, err := io.WriteString(w, g.files[path])
	return err
}

// rig is a fake cloud, a plan for it and where its results go.
type rig struct {
	*fakeCloud
	plan  *images.Plan
	o     Options
	out   string
	state string
	log   *bytes.Buffer
}

const cannedDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func newRig(t *testing.T, offline bool) *rig {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(dir, "runner.tar")
	program, err := os.ReadFile("/proc/self/exe") // any Linux program will do
	if err != nil {
		t.Skipf("no Linux: %v", err)
	}
	arch := map[byte]string{62: "amd64", 183: "arm64"}[program[18]]
	firstboot := filepath.Join(dir, "dorunner-firstboot")
	// The ELF header alone says what it is for.
	short := append(bytes.Clone(program[:64]), 0)
	for _, at := range []int{32, 40, 56, 60, 62} { // no program or section headers
		width := 2
		if at < 52 {
			width = 8
		}
		clear(short[at : at+width])
	}
	for file, data := range map[string][]byte{archive: []byte("an archive"), firstboot: short} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &account{have: map[string]struct{}{}}
	g := &fakeGuest{
		account: a, offline: offline,
		answer: map[string]string{
			"install.sh": "admin absent\n", "facts.sh": "docker\t20.10.24\npackage\tdocker.io\t20.10.24+dfsg1-1\n",
			"seal-and-audit.sh": "root_used 4096\naudit\n",
			"prove.sh": "version 1\nimage\tlocal/runner:1\tsha256:1\t10\t\n" +
				"image\tremote/tool@" + cannedDigest + "\tsha256:2\t20\tremote/tool@" + cannedDigest + " \n",
		},
		exit: map[string]int{}, stdin: map[string]string{}, env: map[string][]string{}, args: map[string][]string{},
		files: map[string]string{"/etc/cloud/cloud.cfg": "system_info:\n  default_user:\n    name: debian\n    groups: [adm, sudo]\n"},
	}
	r := &rig{fakeCloud: &fakeCloud{account: a, guest: g}, out: filepath.Join(dir, "out"), state: filepath.Join(dir, "state"), log: &bytes.Buffer{}}
	t.Setenv("DORUNNER_STATE_DIR", r.state)
	r.plan = &images.Plan{
		Target: "fake", Platform: "nocloud", Hash: strings.Repeat("ab", 32),
		Base: images.Base{OS: "debian-12"},
		Spec: images.Spec{
			Runner: runner.Default(),
			Image: images.Image{
				OS: "debian-12", Arch: arch, DiskGB: 8, AdminUser: "debian", Docker: images.Docker{Source: "distro"},
				Login: images.Registry{Server: "docker.io", Username: "u", Password: runner.Plain("canary-password")},
			},
		},
		Containers: []images.Pull{{Ref: "local/runner:1", Archive: archive}, {Ref: "remote/tool@" + cannedDigest}},
		Scripts:    []images.Script{{Path: "scripts/extra.sh", Content: []byte("echo hi\n")}},
	}
	p, _ := NewProgress(r.log, ProgressOptions{Kind: "plain", Verbose: true})
	r.o = Options{FirstBoot: firstboot, OutDir: r.out, Progress: p, BakeID: "bake-1"}
	return r
}

func (r *rig) bake(ctx context.Context) (*Manifest, error) {
	return Bake(ctx, r.plan, r.fakeCloud, r.o)
}

// left lists everything that a bake left behind: in the account, in its directories, running.
func (r *rig) left(t *testing.T) []string {
	t.Helper()
	var out []string
	for k := range r.have {
		out = append(out, k)
	}
	for _, dir := range []string{r.out, filepath.Join(r.state, "ledgers")} {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && path != filepath.Join(r.state, "ledgers") {
				out = append(out, path)
			}
			return nil
		})
	}
	if r.guest.up != 0 {
		out = append(out, "a docker daemon")
	}
	slices.Sort(out)
	return out
}
