package firstboot_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// standin loads the stand-in runner image into the machine's dockerd, once for all tests.
var standin = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "standin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	archive := filepath.Join(dir, "standin.tar")
	if err := standinimage.Archive(ctx, archive, "amd64"); err != nil {
		return err
	}
	_, err = docker("load", "-i", archive)
	return err
})

func docker(args ...string) (string, error) {
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// needDocker skips a test that wants a real dockerd.
func needDocker(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Docker daemon")
	}
	if err := standin(); err != nil {
		t.Fatal(err)
	}
}

// listenForContainers serves GitLab where containers on the default bridge can reach it.
func listenForContainers(t testing.TB, gl http.Handler) string {
	t.Helper()
	bridge, err := net.InterfaceByName("docker0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := bridge.Addrs()
	if err != nil || len(addrs) == 0 {
		t.Fatal("docker0 has no address", err)
	}
	l, err := net.Listen("tcp", addrs[0].(*net.IPNet).IP.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(gl)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// machine is a root directory with a spec, and a real dockerd.
type machine struct {
	*firstboot.Host
	name    string
	console *strings.Builder
	log     *strings.Builder
}

func newMachine(t testing.TB, spec string) *machine {
	t.Helper()
	m := &machine{Host: firstboot.Machine(), name: "fbtest-" + strings.ToLower(strings.Map(alnum, t.Name())), console: &strings.Builder{}, log: &strings.Builder{}}
	m.Root, m.Console, m.Log = t.TempDir(), m.console, io.MultiWriter(m.log, t.Output())
	put(t, m.Root, firstboot.RunnerFile, "name: "+m.name+"\nboot_timeout: 20s\n"+spec)
	t.Cleanup(func() {
		for _, n := range []string{m.name, m.name + "-register"} {
			_, _ = docker("rm", "-f", "-v", n) // most tests removed it
		}
	})
	return m
}

func alnum(r rune) rune {
	if (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') {
		return r
	}
	return '-'
}

func put(t testing.TB, root, file, text string) {
	t.Helper()
	p := filepath.Join(root, file)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, root, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// where is a Platform that answers at once.
type where struct {
	id      firstboot.Identity
	err     error
	notices chan firstboot.Notice
}

func (w where) Name() string                                          { return "nocloud" }
func (w where) Identity(context.Context) (firstboot.Identity, error)  { return w.id, w.err }
func (w where) Secret(context.Context, runner.Secret) (string, error) { return "", nil }
func (w where) Notices(context.Context) <-chan firstboot.Notice       { return w.notices }

func TestStraightPath(t *testing.T) {
	needDocker(t)
	for _, mode := range []string{"container", "api"} {
		for _, token := range []string{"GR1348941canarycanary", "glrt-canarycanary"} {
			t.Run(mode+"-"+token[:4], func(t *testing.T) {
				gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{"GR1348941canarycanary"}})
				gl.AddRunner(gitlabtest.Runner{Token: "glrt-canarycanary", Tags: []string{"x"}})
				m := newMachine(t, "url: "+listenForContainers(t, gl)+"/\ntoken: "+token+"\nregister: "+mode+"\n")
				at := where{id: firstboot.Identity{InstanceID: "i-" + m.name}}
				ctx := t.Context()
				start := time.Now()
				if err := firstboot.Boot(ctx, m.Host, at); err != nil {
					t.Fatalf("%v\n%s", err, m.log)
				}
				t.Logf("first boot %s", time.Since(start))
				start = time.Now()
				if err := firstboot.Boot(ctx, m.Host, at); err != nil {
					t.Fatalf("%v\n%s", err, m.log)
				}
				t.Logf("again %s\n%s", time.Since(start), m.log)
				t.Logf("%s", get(t, m.Root, "/srv/dataops-runner-"+m.name+"/config/config.toml"))
				t.Logf("%s", get(t, m.Root, firstboot.JournalFile))
				if p := gl.Problems(); len(p) > 0 {
					t.Error(p)
				}
				if err := firstboot.Drain(ctx, m.Host, at, time.Minute); err != nil {
					t.Fatalf("%v\n%s", err, m.log)
				}
				t.Logf("%+v", gl.Runners())
			})
		}
	}
}
