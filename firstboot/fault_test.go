package firstboot_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

const canary = "GR1348941canarycanary"

// world is what a row of the fault table breaks, before or while the machine boots.
type world struct {
	*machine
	t    *testing.T
	gl   *gitlabtest.Server
	spec []string // lines added to runner.yaml; a later one wins
	at   where
	url  string // "" for the server's
}

// faults is the table. A row's expectation is the final state and, where that is a failure, words of the reason.
var faults = []struct {
	name  string
	given func(*world)
	// want is a part of the error; empty when the runner has to come up.
	want string
	// within bounds the boot; the register container's own time is in it.
	within time.Duration
	// only is the mode that a row is about; empty for both.
	only string
	then func(*world)
}{
	{name: "503 twice", within: 8 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/runners", Count: 2, Kind: gitlabtest.Status, Status: 503})
	}},
	{name: "503 from the API twice", within: 8 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Count: 2, Kind: gitlabtest.Status, Status: 503})
	}},
	{name: "503 for ever", within: 6 * time.Second, want: "503 Service Unavailable", given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Kind: gitlabtest.Status, Status: 503})
		w.spec = append(w.spec, "boot_timeout: 4s")
	}},
	{name: "429 with Retry-After", only: "api", within: 8 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/runners", Count: 1, Kind: gitlabtest.Status, Status: 429, Retry: 2 * time.Second})
	}, then: func(w *world) {
		if n := w.gl.Count("POST", "/runners"); n != 2 {
			w.t.Errorf("%d registrations were asked for", n)
		}
	}},
	{name: "429 with Retry-After from the API", only: "container", within: 9 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/version", Count: 1, Kind: gitlabtest.Status, Status: 429, Retry: 2 * time.Second})
	}},
	{name: "reset", within: 8 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/runners", Count: 1, Kind: gitlabtest.Reset})
	}},
	{name: "answer lost", within: 8 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/runners", Count: 1, Kind: gitlabtest.Lost})
	}, then: func(w *world) {
		status, err := firstboot.ReadStatus(w.Host)
		if err != nil || len(status.Warnings) != 1 || !strings.Contains(status.Warnings[0], "answer was lost") {
			w.t.Errorf("the orphan is not reported: %+v %v", status, err)
		}
		if n := len(w.gl.Orphans()); n != 1 {
			w.t.Errorf("%d orphans", n)
		}
	}},
	{name: "answer lost with an authentication token", within: 8 * time.Second, given: func(w *world) {
		w.spec = append(w.spec, "token: glrt-canarycanary")
		w.gl.Inject(gitlabtest.Fault{Path: "/runners/verify", Count: 1, Kind: gitlabtest.Lost})
	}, then: func(w *world) {
		if n := len(w.gl.Runners()); n != 1 {
			w.t.Errorf("%d runners, there was one", n)
		}
	}},
	{name: "hang", within: 12 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/runners", Count: 1, Kind: gitlabtest.Hang})
		w.spec = append(w.spec, "register_timeout: 2s")
	}},
	{name: "HTML with 200", within: 8 * time.Second, given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Count: 2, Kind: gitlabtest.HTML})
	}},
	{name: "HTML for ever", within: 6 * time.Second, want: "captive portal", given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Kind: gitlabtest.HTML})
		w.spec = append(w.spec, "boot_timeout: 3s")
	}},
	{name: "name does not resolve", within: 8 * time.Second, want: "check the url and the machine's DNS", given: func(w *world) {
		w.url = "http://gitlab.invalid"
		w.spec = append(w.spec, "boot_timeout: 3s")
	}},
	{name: "refused", within: 6 * time.Second, want: "check the url, the route and the firewall", given: func(w *world) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatal(err)
		}
		w.url = "http://" + l.Addr().String()
		l.Close()
		w.spec = append(w.spec, "boot_timeout: 3s")
	}},
	{name: "certificate not yet valid", within: 6 * time.Second, want: "this machine's clock says", given: func(w *world) {
		w.secure(time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
		w.spec = append(w.spec, "boot_timeout: 3s")
	}},
	{name: "clock off by a year until it is set", only: "api", within: 8 * time.Second, given: func(w *world) {
		// The runner itself polls over http here: only this program's clock is off.
		w.throughTLS(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		began := time.Now()
		w.Now = func() time.Time {
			if time.Since(began) < time.Second {
				return time.Now().AddDate(-1, 0, 0)
			}
			return time.Now()
		}
	}},
	{name: "403", within: 5 * time.Second, want: "the token is not valid there", given: func(w *world) {
		w.spec = append(w.spec, "token: GR1348941wrongcanary")
	}},
	{name: "403 for an authentication token", within: 5 * time.Second, want: "the token is not valid there", given: func(w *world) {
		w.spec = append(w.spec, "token: glrt-wrongcanary")
	}},
	{name: "410", within: 5 * time.Second, want: "registration tokens are disabled there", given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/runners", Kind: gitlabtest.Status, Status: 410})
	}},
	{name: "the server quotes the token", within: 5 * time.Second, want: "mend the runner's settings", only: "api", given: func(w *world) {
		w.gl.Inject(gitlabtest.Fault{Path: "/runners", Kind: gitlabtest.Status, Status: 400, Say: "what is " + canary + "?"})
	}},
	{name: "the server quotes the token and is retried", within: 9 * time.Second, given: func(w *world) {
		w.spec = append(w.spec, "token: glrt-canarycanary")
		w.gl.Inject(gitlabtest.Fault{Path: "/runners/verify", Count: 2, Kind: gitlabtest.Status, Status: 503, Say: "busy with glrt-canarycanary\nglrt-canarycanary"})
	}},
	{name: "422", within: 5 * time.Second, want: "check the token's kind", given: func(w *world) {
		w.spec = append(w.spec, "token: glrt-canarycanary")
		w.gl.Inject(gitlabtest.Fault{Path: "/runners/verify", Kind: gitlabtest.Status, Status: 422})
	}},
	{name: "https where http is spoken", within: 5 * time.Second, want: "write the url with http://", given: func(w *world) {
		w.url = strings.Replace(listenForContainers(w.t, w.gl), "http:", "https:", 1)
	}},
	{name: "http where https is spoken", within: 5 * time.Second, want: "write the url with https://", given: func(w *world) {
		w.secure(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		w.url = strings.Replace(w.url, "https:", "http:", 1)
	}},
	{name: "url with slash", within: 4 * time.Second, given: func(w *world) { w.url = listenForContainers(w.t, w.gl) + "/" }},
	{name: "url with /ci", within: 4 * time.Second, given: func(w *world) { w.url = listenForContainers(w.t, w.gl) + "/ci" }},
	{name: "no tags", within: 4 * time.Second, given: func(w *world) { w.spec = append(w.spec, "tags: []") }, then: func(w *world) {
		if r := w.gl.Runners()[1]; len(r.Tags) != 1 || r.Tags[0] != w.name || r.RunUntagged || r.Locked {
			w.t.Errorf("registered as %+v", r)
		}
	}},
	{name: "image missing", within: 8 * time.Second, want: "is not on this machine and cannot be pulled", given: func(w *world) {
		w.spec = append(w.spec, "image: localhost:1/no/such", "boot_timeout: 3s")
	}},
	{name: "docker down for a while", within: 9 * time.Second, given: func(w *world) {
		var calls atomic.Int32
		real := w.Docker
		w.Docker = roundTrip(func(r *http.Request) (*http.Response, error) {
			if calls.Add(1) <= 3 {
				return nil, &net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}
			}
			return real.RoundTrip(r)
		})
	}},
	{name: "docker restarted meanwhile", within: 9 * time.Second, given: func(w *world) {
		var calls atomic.Int32
		real := w.Docker
		w.Docker = roundTrip(func(r *http.Request) (*http.Response, error) {
			if n := calls.Add(1); n%5 >= 3 && n < 50 { // two of five calls fail, wherever they are
				return nil, &net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}
			}
			return real.RoundTrip(r)
		})
	}},
	{name: "docker down for ever", within: 4 * time.Second, want: "docker does not answer on", given: func(w *world) {
		w.Docker = firstboot.SocketTransport("/nonexistent/docker.sock")
		w.spec = append(w.spec, "boot_timeout: 2s")
	}},
	{name: "docker socket not permitted", within: 2 * time.Second, want: "run as root, or as a member of group docker", given: func(w *world) {
		w.Docker = roundTrip(func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
		})
	}},
	{name: "disk full", within: 3 * time.Second, want: "the disk is full", given: func(w *world) {
		w.mount("var/lib/dorunner", "size=4k", 0)
		fill(w.t, filepath.Join(w.Root, "var/lib/dorunner/filler"))
	}},
	{name: "srv read-only", within: 3 * time.Second, want: "the file system is read-only", given: func(w *world) { w.mount("srv", "", syscall.MS_RDONLY) }},
	{name: "metadata absent", within: time.Second, want: "no answer", given: func(w *world) {
		w.at.err = errors.New("instance metadata: no answer after 5 attempts")
	}},
	{name: "foreign entries in config.toml", within: 4 * time.Second, given: func(w *world) {
		put(w.t, w.Root, "/srv/dataops-runner-"+w.name+"/config/config.toml", foreign)
	}, then: func(w *world) {
		conf := get(w.t, w.Root, "/srv/dataops-runner-"+w.name+"/config/config.toml")
		if strings.Count(conf, "[[runners]]") != 2 || !strings.Contains(conf, "# somebody else's") || !strings.Contains(conf, `log_level = "warn"`) {
			w.t.Error(conf)
		}
	}},
	{name: "config.toml broken", within: 3 * time.Second, want: "mend or remove it", given: func(w *world) {
		put(w.t, w.Root, "/srv/dataops-runner-"+w.name+"/config/config.toml", "[[runners]\n")
	}},
	{name: "container name taken", within: 4 * time.Second, want: "exists that is not this runner", given: func(w *world) {
		if _, err := docker("create", "--name", w.name, "dataopslive/dataops-utils-runner"); err != nil {
			w.t.Fatal(err)
		}
	}},
	{name: "a vault that exists", within: 4 * time.Second, given: func(w *world) {
		put(w.t, w.Root, "/secrets/vault.yml", "theirs: 1\n")
		put(w.t, w.Root, "/secrets/vault.salt", "0123")
	}, then: func(w *world) {
		if got := get(w.t, w.Root, "/secrets/vault.yml") + get(w.t, w.Root, "/secrets/vault.salt"); got != "theirs: 1\n0123" {
			w.t.Errorf("the vault is %q", got)
		}
	}},
	{name: "a journal of another machine", within: 4 * time.Second, given: func(w *world) {
		put(w.t, w.Root, firstboot.JournalFile, `{"instance_id":"i-image","name":"`+w.name+`","url":"http://gitlab","description":"`+w.name+`","token_kind":"registration"}`)
		put(w.t, w.Root, "/srv/dataops-runner-"+w.name+"/config/config.toml", foreign+"\n[[runners]]\n  name = \""+w.name+"\"\n  url = \"http://gitlab\"\n  token = \"theirs\"\n  executor = \"docker\"\n")
		put(w.t, w.Root, "/srv/dataops-runner-"+w.name+"/config/.runner_system_id", "s_000000000000")
		put(w.t, w.Root, "/secrets/vault.yml", "theirs: 1\n")
		put(w.t, w.Root, "/secrets/vault.salt", "0123")
	}, then: func(w *world) {
		conf := get(w.t, w.Root, "/srv/dataops-runner-"+w.name+"/config/config.toml")
		if strings.Count(conf, "[[runners]]") != 2 || strings.Contains(conf, "theirs") {
			w.t.Error(conf)
		}
		if id := get(w.t, w.Root, "/srv/dataops-runner-"+w.name+"/config/.runner_system_id"); id == "s_000000000000" {
			w.t.Error("the system id is the other machine's")
		}
		if got := get(w.t, w.Root, "/secrets/vault.yml") + get(w.t, w.Root, "/secrets/vault.salt"); got != "theirs: 1\n0123" { // data, whoever made it
			w.t.Errorf("the vault is %q", got)
		}
	}},
	{name: "a key of a newer version", within: time.Second, want: "bake the image anew", given: func(w *world) { w.spec = append(w.spec, "frobnicate: 1") }},
	{name: "a secret that comes late", within: 6 * time.Second, given: func(w *world) {
		w.spec = append(w.spec, "token: ssm:/token")
		var asked atomic.Int32
		w.at.secret = func() (string, error) {
			if asked.Add(1) < 3 {
				return "", errors.New("no route to host, says somebody with " + canary)
			}
			return canary + "\n", nil
		}
	}},
	{name: "a secret that is refused", within: time.Second, want: "allow the role", given: func(w *world) {
		w.spec = append(w.spec, "token: ssm:/token")
		w.at.secret = func() (string, error) {
			return "", &firstboot.Failure{Err: errors.New("AccessDenied"), Final: true, Hint: "allow the role"}
		}
	}},
	{name: "no identity", within: time.Second, want: "a runner needs a token", given: func(w *world) { w.spec = append(w.spec, "token: ''") }},
	{name: "token's file missing", within: 3 * time.Second, want: "put the secret there", given: func(w *world) { w.spec = append(w.spec, "token: file:/run/secrets/none") }},
}

const foreign = `# kept
log_level = "warn"

[[runners]] # somebody else's
  name = "other"
  url = "http://127.0.0.1:1"
  token = "o"
  executor = "shell"
`

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Every fault in both modes: the outcome, the words that say what to do, the time, and nothing left behind.
func TestFaults(t *testing.T) {
	needDocker(t)
	for _, mode := range []string{"container", "api"} {
		for _, row := range faults {
			if row.only != "" && row.only != mode {
				continue
			}
			t.Run(mode+"/"+row.name, func(t *testing.T) {
				t.Parallel()
				w := &world{t: t, gl: gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})}
				w.gl.AddRunner(gitlabtest.Runner{Token: "glrt-canarycanary"})
				w.machine = newMachine(t, "")
				w.at.id.InstanceID = "i-" + w.name
				w.spec = []string{"register: " + mode, "token: " + canary, "boot_timeout: 25s"}
				row.given(w)
				if w.url == "" {
					w.url = listenForContainers(t, w.gl)
				}
				put(t, w.Root, firstboot.RunnerFile, lastWins(append([]string{"name: " + w.name, "url: " + w.url}, w.spec...)))
				began := time.Now()
				err := firstboot.Boot(t.Context(), w.Host, w.at)
				took := time.Since(began)
				switch {
				case row.want == "" && err != nil:
					t.Fatalf("the runner did not come up: %v", err)
				case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
					t.Fatalf("want an error that says %q, got %v", row.want, err)
				}
				if patience := 3 * row.within; took > patience { // the machine may be busy: a hang is what must not pass
					t.Errorf("took %s, expected within %s", took, row.within)
				}
				w.reported(err)
				w.noSecret()
				if row.then != nil {
					row.then(w)
				}
				if left, lerr := docker("ps", "-aq", "--filter", "name="+w.name+"-register"); lerr != nil || left != "" {
					t.Errorf("the register container is left: %s %v", left, lerr)
				}
				if err == nil {
					changesNothing(t, w)
				}
			})
		}
	}
}

// reported asserts that status.json, the console and the journal agree with the outcome.
func (w *world) reported(bootErr error) {
	w.t.Helper()
	want := "online"
	if bootErr != nil {
		want = "failed"
	}
	status, err := firstboot.ReadStatus(w.Host)
	if err != nil || status.State != want || (bootErr != nil) != (status.Error != "") {
		w.t.Errorf("status.json says %+v (%v)", status, err)
	}
	if n := strings.Count(w.console.String(), "\n"); n != 1 || !strings.Contains(w.console.String(), `"state":"`+want+`"`) {
		w.t.Errorf("the console says %q", w.console)
	}
}

// noSecret looks for the token in everything that outlives the boot but config.toml.
func (w *world) noSecret() {
	w.t.Helper()
	inspect, _ := docker("inspect", w.name) // there may be none
	journal, _ := os.ReadFile(w.Root + firstboot.JournalFile)
	status, _ := os.ReadFile(w.Root + firstboot.StatusFile)
	for what, text := range map[string]string{"docker inspect": inspect, "journal": string(journal), "status.json": string(status), "console": w.console.String(), "log": w.log.String()} {
		if strings.Contains(text, "canary") && strings.Contains(strings.ReplaceAll(text, w.name, ""), "canary") {
			w.t.Errorf("a token is in %s: %s", what, text)
		}
	}
}

// changesNothing boots again and compares every file and the container.
func changesNothing(t *testing.T, w *world) {
	t.Helper()
	id := func() string {
		out, err := docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", w.name)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	files, container, asked := snapshot(t, w.Root), id(), len(w.gl.Runners())
	if err := firstboot.Boot(context.Background(), w.Host, w.at); err != nil {
		t.Errorf("a second boot fails: %v", err)
	}
	for name, text := range snapshot(t, w.Root) {
		if files[name] != text {
			t.Errorf("a second boot changed %s from\n%s\nto\n%s", name, files[name], text)
		}
	}
	if now := id(); now != container {
		t.Errorf("a second boot changed the container from %s to %s", container, now)
	}
	if now := len(w.gl.Runners()); now != asked {
		t.Errorf("a second boot registered again: %d runners, then %d", asked, now)
	}
}

// snapshot reads every file below root but those in /run.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(p, root+"/run/") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		all[p] = info.Mode().String() + " " + info.ModTime().String() + "\n" + string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// lastWins writes "key: value" lines as YAML, a later one replacing an earlier.
func lastWins(lines []string) string {
	last := map[string]int{}
	for i, l := range lines {
		key, _, _ := strings.Cut(l, ":")
		last[key] = i
	}
	out := ""
	for i, l := range lines {
		if key, _, _ := strings.Cut(l, ":"); last[key] == i {
			out += l + "\n"
		}
	}
	return out
}

// secure serves GitLab over TLS, and has this program (not the runner's container) trust it.
func (w *world) secure(from, until time.Time) {
	w.t.Helper()
	plain := listenForContainers(w.t, w.gl)
	host, _, _ := strings.Cut(strings.TrimPrefix(plain, "http://"), ":")
	cert, pem, err := gitlabtest.Certificate([]string{host}, from, until)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := tls.Listen("tcp", host+":0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		w.t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: w.gl, ReadHeaderTimeout: time.Minute}}
	s.Start()
	w.t.Cleanup(s.Close)
	w.url = strings.Replace(s.URL, "http:", "https:", 1)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	w.HTTP = firstboot.Transport(roots, func() time.Time { return w.Now() })
}

// throughTLS has this program reach GitLab through TLS while the spec's address, which the runner polls, is http.
func (w *world) throughTLS(from, until time.Time) {
	w.secure(from, until)
	behind := strings.TrimPrefix(w.url, "https://")
	overTLS := w.HTTP
	w.HTTP = roundTrip(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.URL.Scheme, r.URL.Host = "https", behind
		return overTLS.RoundTrip(r)
	})
	w.url = ""
}

// mount puts a tmpfs over a directory of the machine.
func (w *world) mount(dir, options string, flags uintptr) {
	w.t.Helper()
	p := filepath.Join(w.Root, dir)
	if err := os.MkdirAll(p, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", p, "tmpfs", flags, options); err != nil {
		w.t.Skip("needs root to mount: ", err)
	}
	w.t.Cleanup(func() {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	})
}

func fill(t *testing.T, p string) {
	t.Helper()
	if err := os.WriteFile(p, make([]byte, 4096), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
