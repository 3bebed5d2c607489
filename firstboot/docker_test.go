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
	"regexp"
	"slices"
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
	secret  func() (string, error) // of every reference
}

func (w where) Name() string                                          { return "nocloud" }
func (w where) Identity(context.Context) (firstboot.Identity, error)  { return w.id, w.err }
func (w where) Secret(context.Context, runner.Secret) (string, error) { return w.secret() }
func (w where) Notices(context.Context) <-chan firstboot.Notice       { return w.notices }

// neverSeen looks for a token where other users of a machine would: in the arguments of every process, and in all that
// docker tells of the register container but its environment. The end of the returned function is the end of looking.
func neverSeen(t *testing.T, name, token string) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	looked := 0
	go func() {
		defer close(ended)
		for {
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), token) { // one that ended has none
					t.Errorf("the token is in %s: %q", f, b)
				}
			}
			if out, err := docker("inspect", "-f", "{{.Path}} {{json .Args}} {{json .Config.Cmd}} {{json .Config.Labels}} {{json .Config.Entrypoint}}", name+"-register"); err == nil {
				looked++
				if strings.Contains(out, token) {
					t.Errorf("the token is in %s", out)
				}
			}
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		t.Logf("looked at the register container %d times", looked)
	}
}

// Both ways of registering with both kinds of token; then what GitLab, the disk and the daemon hold.
func TestStraightPath(t *testing.T) {
	needDocker(t)
	// Tokens of this process alone: those of other tests may be anybody's arguments.
	registration, authentication := fmt.Sprint(canary, os.Getpid()), fmt.Sprint("glrt-canarycanary", os.Getpid())
	for _, mode := range []string{"container", "api"} {
		for _, token := range []string{registration, authentication} {
			t.Run(mode+"-"+token[:4], func(t *testing.T) {
				t.Parallel()
				gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{registration}})
				gl.AddRunner(gitlabtest.Runner{Token: authentication, Tags: []string{"x"}})
				m := newMachine(t, "description: '{{.Name}}-{{.InstanceID}}'\nurl: "+listenForContainers(t, gl)+"/\ntoken: file:/run/secrets/token\nregister: "+mode+"\n")
				put(t, m.Root, "/run/secrets/token", token+"\n")
				at := where{id: firstboot.Identity{InstanceID: "i-1", Overlay: map[string]string{"tags": "overlaid"}}}
				stop := neverSeen(t, m.name, token)
				err := firstboot.Boot(t.Context(), m.Host, at)
				stop()
				if err != nil {
					t.Fatal(err)
				}
				runners := gl.Runners()
				r := runners[len(runners)-1]
				status, err := firstboot.ReadStatus(m.Host)
				if err != nil {
					t.Fatal(err)
				}
				if manager, ok := r.Managers[status.SystemID]; !ok || manager.Polls == 0 {
					t.Errorf("%s has not polled: %+v", status.SystemID, r)
				}
				if token == registration && (r.Description != m.name+"-i-1" || !slices.Equal(r.Tags, []string{"overlaid"}) || r.RunUntagged || r.Locked) {
					t.Errorf("registered as %+v", r)
				}
				if salt := get(t, m.Root, "/secrets/vault.salt"); !regexp.MustCompile(`^[0-9a-f]{20}\n$`).MatchString(salt) {
					t.Errorf("salt %q", salt)
				}
				conf := get(t, m.Root, "/srv/dataops-runner-"+m.name+"/config/config.toml")
				for _, line := range []string{"concurrent = 8\n", "check_interval = 1\n", `volumes = ["/app:/local_config:rw", "/agent_cache:/agent_cache:rw", "/secrets:/secrets:ro"]`, `pull_policy = ["always", "if-not-present"]`} {
					if !strings.Contains(conf, line) {
						t.Errorf("no %s in\n%s", line, conf)
					}
				}
				if info, err := os.Stat(m.Root + "/srv/dataops-runner-" + m.name + "/config/config.toml"); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("config.toml: %v %v", info.Mode(), err)
				}
				got, err := docker("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}} {{.Config.StopTimeout}} {{.Config.StopSignal}} {{json .HostConfig.Binds}}", m.name)
				want := fmt.Sprintf(`always 3600 SIGQUIT ["%s/srv/dataops-runner-%s/config:/etc/gitlab-runner","/var/run/docker.sock:/var/run/docker.sock"]`, m.Root, m.name)
				if err != nil || got != want {
					t.Errorf("the container is %s, want %s (%v)", got, want, err)
				}
				if p := gl.Problems(); len(p) > 0 {
					t.Error(p)
				}
				w := &world{machine: m, t: t, gl: gl, at: at}
				w.noSecret()
				changesNothing(t, w)
			})
		}
	}
}

// A runner that was set up by hand as documented is taken over: not registered again, its container made anew.
func TestSetUpByHand(t *testing.T) {
	needDocker(t)
	t.Parallel()
	gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
	url := listenForContainers(t, gl)
	m := newMachine(t, "url: "+url+"\ntoken: "+canary+"\n")
	byHandNow := exec.Command("bash", "-c", byHand)
	byHandNow.Env = append(os.Environ(), "ROOT="+m.Root, "NAME="+m.name, "URL="+url, "TOKEN="+canary)
	if out, err := byHandNow.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, "the runner polls", func() bool { return polled(gl) })
	salt, id := get(t, m.Root, "/secrets/vault.salt"), get(t, m.Root, "/srv/dataops-runner-"+m.name+"/config/.runner_system_id")
	if err := firstboot.Boot(t.Context(), m.Host, where{id: firstboot.Identity{InstanceID: "i-1"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := docker("inspect", "-f", "{{.Config.StopTimeout}}", m.name); err != nil || got != "3600" {
		t.Errorf("the container's stop timeout is %s (%v)", got, err)
	}
	if n := len(gl.Runners()); n != 1 {
		t.Errorf("%d runners", n)
	}
	if get(t, m.Root, "/secrets/vault.salt") != salt || get(t, m.Root, "/srv/dataops-runner-"+m.name+"/config/.runner_system_id") != id {
		t.Error("the vault or the system id is another one")
	}
}

// Several boots at once, as a unit and an impatient administrator start them, register once.
func TestTwoAtOnce(t *testing.T) {
	needDocker(t)
	t.Parallel()
	gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
	m := newMachine(t, "url: "+listenForContainers(t, gl)+"\ntoken: "+canary+"\nregister: api\n")
	var wg sync.WaitGroup
	for range 3 {
		h := *m.Host
		h.Log, h.Console = io.Discard, io.Discard
		wg.Go(func() {
			if err := firstboot.Boot(t.Context(), &h, where{id: firstboot.Identity{InstanceID: "i-1"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := gl.Count("POST", "/runners"); n != 1 {
		t.Errorf("registered %d times", n)
	}
}
