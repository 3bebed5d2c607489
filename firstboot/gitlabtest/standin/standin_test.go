package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

const regToken = "GR1348941abcdefghijklmnopqr"

// TestMain makes the test binary the program itself, for the tests that need a process.
func TestMain(m *testing.M) {
	if os.Getenv("STANDIN_EXEC") != "" {
		main()
	}
	os.Exit(m.Run())
}

// gitlab starts a server on the wire and fails the test when it was asked something it does not know.
func gitlab(t *testing.T, o gitlabtest.Options) (*gitlabtest.Server, string) {
	t.Helper()
	s := gitlabtest.New(o)
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		srv.Close()
		if p := s.Problems(); len(p) > 0 {
			t.Errorf("the server was asked what it does not know: %q", p)
		}
	})
	return s, srv.URL + o.Prefix
}

// call runs a command in this process.
func call(t *testing.T, env map[string]string, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	code := Main(t.Context(), args, func(k string) string { return env[k] }, &out)
	return code, out.String()
}

// documented is the register command of the documented procedure.
func documented(file, url string, more ...string) []string {
	return append([]string{"register", "--config", file, "--non-interactive", "--executor", "docker", "--docker-image", "dataopslive/dataops-utils-runner",
		"--url", url, "--description", "N"}, more...)
}

var settings = []string{"--tag-list", "N", "--run-untagged=false", "--locked=false"}

func TestConfigLayout(t *testing.T) {
	for version, drop := range map[string][]string{
		"19.4.0":  nil,
		"17.11.4": {"AssumeRoleMaxConcurrency", "volume_keep"},
		"15.11.1": {"AssumeRoleMaxConcurrency", "volume_keep", "[runners.cache.s3]", "[runners.cache.gcs]", "[runners.cache.azure]", "network_mtu"},
	} {
		t.Run(version, func(t *testing.T) {
			s, url := gitlab(t, gitlabtest.Options{RegistrationTokens: []string{regToken}})
			s.AddRunner(gitlabtest.Runner{})
			s.AddRunner(gitlabtest.Runner{}) // so that ours is number 3
			file := filepath.Join(t.TempDir(), "config.toml")
			env := map[string]string{"STANDIN_VERSION": version, "REGISTRATION_TOKEN": regToken}
			code, out := call(t, env, documented(file, url, settings...)...)
			if code != 0 || !strings.Contains(out, "Registering runner... succeeded") || !strings.Contains(out, "\x1b[") {
				t.Fatalf("exit %d: %s", code, out)
			}
			r := s.Runners()[2]
			if r.RunUntagged || r.Locked || r.Description != "N" || len(r.Tags) != 1 {
				t.Errorf("registered as %+v", r)
			}
			want, err := os.ReadFile("testdata/config.toml")
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for line := range strings.Lines(string(want)) {
				if !containsAny(line, drop) {
					lines = append(lines, line)
				}
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			plain := strings.NewReplacer(url, "U", r.Token, "...").Replace(string(got))
			plain = regexp.MustCompile(`obtained_at = \S+`).ReplaceAllString(plain, "obtained_at = 2026-11-23T10:47:10Z")
			if d := cmp.Diff(strings.Join(lines, ""), plain); d != "" {
				t.Errorf("config.toml (-want +got):\n%s", d)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v %v", info.Mode(), err)
			}
		})
	}
}

func containsAny(line string, of []string) bool {
	for _, s := range of {
		if strings.Contains(line, s) {
			return true
		}
	}
	return false
}

// A second register appends, keeps what was patched, and loses comments, as the real one does.
func TestRegisterTwice(t *testing.T) {
	_, url := gitlab(t, gitlabtest.Options{RegistrationTokens: []string{regToken}})
	file := filepath.Join(t.TempDir(), "config.toml")
	args := documented(file, url, append(settings, "--registration-token", regToken)...)
	if code, out := call(t, nil, args...); code != 0 {
		t.Fatal(out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	patched := strings.NewReplacer("concurrent = 1", "concurrent = 8 # ours", `volumes = ["/cache"]`, "volumes = [\"/app:/local_config:rw\"]\n    pull_policy = [\"always\", \"if-not-present\"]").Replace(string(b))
	if err := os.WriteFile(file, []byte(patched), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := call(t, nil, args...); code != 0 {
		t.Fatal(out)
	}
	b, err = os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	for _, want := range []string{"concurrent = 8\n", `volumes = ["/app:/local_config:rw"]`, `pull_policy = ["always", "if-not-present"]`, "connection_max_age = \"15m0s\"\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("lost %q:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "[[runners]]"); n != 2 || strings.Contains(got, "# ours") {
		t.Errorf("%d runners:\n%s", n, got)
	}
}

func TestRegisterOutcomes(t *testing.T) {
	const ui = "glrt-t3_12345678901234567890"
	for _, tt := range []struct {
		name    string
		version string
		options gitlabtest.Options
		fault   *gitlabtest.Fault
		env     map[string]string
		args    []string
		code    int
		out     string
		calls   int // requests that the server saw
	}{
		{name: "authentication token", args: []string{"--token", ui}, out: "Verifying runner... is valid", calls: 1},
		{name: "authentication token from the environment", env: map[string]string{"CI_SERVER_TOKEN": ui}, out: "Verifying runner... is valid", calls: 1},
		{name: "authentication token with settings", args: append([]string{"--token", ui}, settings...), code: 1, out: "FATAL: Runner configuration other than name"},
		{name: "authentication token as registration token, 15.11", version: "15.11.1", args: append([]string{"--registration-token", ui}, settings...), code: 1, out: "FATAL"},
		{name: "authentication token as registration token, 19.4", args: append([]string{"--registration-token", ui}, settings...), out: "legacy-compatible", calls: 1},
		{name: "unknown authentication token", args: []string{"--token", "glrt-no"}, code: 1, out: "PANIC: Failed to verify the runner.", calls: 1},
		{name: "unknown registration token", args: append([]string{"--registration-token", "GRno"}, settings...), code: 1, out: "forbidden (check registration token)", calls: 1},
		{name: "registration disabled", options: gitlabtest.Options{RegistrationDisabled: true}, args: append([]string{"--registration-token", regToken}, settings...), code: 1, out: "410 Gone", calls: 1},
		{name: "no token", code: 1, out: "registration-token needs to be entered"},
		{name: "unknown flag", args: []string{"--nonsense"}, code: 1, out: "not defined: -nonsense"},
		{name: "503 twice, 19.4", fault: &gitlabtest.Fault{Kind: gitlabtest.Status, Status: 503, Count: 2}, args: append([]string{"--registration-token", regToken}, settings...), out: "succeeded", calls: 3},
		{name: "503 twice, 17.11", version: "17.11.4", fault: &gitlabtest.Fault{Kind: gitlabtest.Status, Status: 503, Count: 2}, args: append([]string{"--registration-token", regToken}, settings...), code: 1, out: "503 Service Unavailable", calls: 1},
		{name: "429 once, 17.11", version: "17.11.4", fault: &gitlabtest.Fault{Kind: gitlabtest.Status, Status: 429, Count: 1}, args: append([]string{"--registration-token", regToken}, settings...), out: "succeeded", calls: 2},
		{name: "reset", fault: &gitlabtest.Fault{Kind: gitlabtest.Reset}, args: append([]string{"--registration-token", regToken}, settings...), code: 1, out: "couldn't execute POST against", calls: 1},
		{name: "a page instead of an answer", fault: &gitlabtest.Fault{Kind: gitlabtest.HTML}, args: append([]string{"--registration-token", regToken}, settings...), code: 1, out: "Registering runner...", calls: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.RegistrationTokens = []string{regToken}
			tt.options.Prefix = "/gitlab"
			s, url := gitlab(t, tt.options)
			s.AddRunner(gitlabtest.Runner{Token: ui})
			if tt.fault != nil {
				s.Inject(*tt.fault)
			}
			if tt.env == nil {
				tt.env = map[string]string{}
			}
			tt.env["STANDIN_VERSION"] = tt.version
			file := filepath.Join(t.TempDir(), "config.toml")
			code, out := call(t, tt.env, documented(file, url+"/ci/", tt.args...)...)
			if code != tt.code || !strings.Contains(out, tt.out) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, tt.code, tt.out, out)
			}
			if n := len(s.Requests()); n != tt.calls {
				t.Errorf("%d requests, want %d", n, tt.calls)
			}
			if _, err := os.Stat(file); (err == nil) != (tt.code == 0) {
				t.Errorf("config.toml after exit %d: %v", code, err)
			}
		})
	}
}

func TestUnregisterAndVerify(t *testing.T) {
	s, url := gitlab(t, gitlabtest.Options{RegistrationTokens: []string{regToken}})
	shared := s.AddRunner(gitlabtest.Runner{})
	file := filepath.Join(t.TempDir(), "config.toml")
	for _, args := range [][]string{append([]string{"--registration-token", regToken}, settings...), {"--token", shared}} {
		if code, out := call(t, nil, documented(file, url, args...)...); code != 0 {
			t.Fatal(out)
		}
	}
	if code, out := call(t, nil, "verify", "--config", file); code != 0 || strings.Count(out, "is valid") != 2 {
		t.Errorf("verify: %d %s", code, out)
	}
	s.Inject(gitlabtest.Fault{Kind: gitlabtest.Status, Status: 503, Count: 2})
	if code, out := call(t, nil, "unregister", "--config", file, "--all-runners"); code != 0 || !strings.Contains(out, "503") {
		t.Errorf("a refused unregister exits 0: %d %s", code, out)
	}
	if code, out := call(t, nil, "unregister", "--config", file, "--all-runners"); code != 0 {
		t.Errorf("unregister: %d %s", code, out)
	}
	left := s.Runners()
	if len(left) != 1 || left[0].Token != shared || len(left[0].Managers) != 0 {
		t.Errorf("the shared runner stays without this manager, the other goes: %+v", left)
	}
	if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), "[[runners]]") {
		t.Errorf("%s %v", b, err)
	}
}

// process is the program running, with its output read line by line.
type process struct {
	*exec.Cmd
	lines *bufio.Scanner
}

func start(t *testing.T, args ...string) process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), "STANDIN_EXEC=1", "RUNNER_DEBUG=true")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return process{cmd, bufio.NewScanner(out)}
}

// until reads output up to a line that holds text.
func (p process) until(t *testing.T, text string) {
	t.Helper()
	var seen []string
	for p.lines.Scan() {
		if seen = append(seen, p.lines.Text()); strings.Contains(p.lines.Text(), text) {
			return
		}
	}
	t.Fatalf("the process ended without %q:\n%s", text, strings.Join(seen, "\n"))
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		signal os.Signal
		state  string
		reason string
	}{
		{"a finished job", "echo hi", nil, "success", ""},
		{"a failing job", "exit 3", nil, "failed", "script_failure"},
		{"SIGQUIT lets the job finish", "sleep 0.5", syscall.SIGQUIT, "success", ""},
		{"SIGTERM aborts the job", "sleep 600", syscall.SIGTERM, "failed", "runner_system_failure"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, url := gitlab(t, gitlabtest.Options{})
			token := s.AddRunner(gitlabtest.Runner{Tags: []string{"N"}})
			id := s.QueueJob(gitlabtest.Job{Tags: []string{"N"}, Script: []string{tt.script}})
			file := filepath.Join(t.TempDir(), "config.toml")
			if code, out := call(t, nil, documented(file, url, "--token", token)...); code != 0 {
				t.Fatal(out)
			}
			p := start(t, "run", "--config", file, "--user=gitlab-runner", "--working-directory=/tmp")
			p.until(t, "Checking for jobs... received")
			if tt.signal == nil {
				p.until(t, "Job "+tt.state)
				tt.signal = syscall.SIGQUIT
			}
			if err := p.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			p.until(t, "All builds stopped")
			if err := p.Wait(); err != nil {
				t.Errorf("the end: %v", err)
			}
			j, _ := s.Job(id)
			if j.State != tt.state || j.Reason != tt.reason || !strings.Contains(j.Trace, "$ "+tt.script) {
				t.Errorf("%+v", j)
			}
		})
	}
}

func TestRunWithoutConfigIdlesThenLoads(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a reload interval")
	}
	t.Parallel()
	s, url := gitlab(t, gitlabtest.Options{})
	token := s.AddRunner(gitlabtest.Runner{})
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	p := start(t, "run", "--config", file)
	p.until(t, "Failed to load config")
	p.until(t, "disabled")
	other := filepath.Join(t.TempDir(), "config.toml")
	if code, out := call(t, nil, documented(other, url, "--token", token)...); code != 0 {
		t.Fatal(out)
	}
	b, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(b, []byte("check_interval = 0"), []byte("check_interval = 1"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "Checking for jobs... nothing")
	if err := os.WriteFile(file, []byte("concurrent = ["), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "Failed to load config")
	p.until(t, "Checking for jobs... nothing") // the old configuration stays in use
	s.DeleteRunner(token)
	p.until(t, "is unhealthy and will be disabled for 1h0m0s seconds!")
	b, err = os.ReadFile(filepath.Join(dir, ".runner_system_id"))
	if err != nil || !systemIDForm.Match(b) {
		t.Errorf("%q %v", b, err)
	}
}

func TestRunWithBrokenConfigFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("concurrent = ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := call(t, nil, "run", "--config", file); code != 1 || !strings.Contains(out, "FATAL") {
		t.Errorf("%d %s", code, out)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s, url := gitlab(t, gitlabtest.Options{})
	token := s.AddRunner(gitlabtest.Runner{Tags: []string{"N"}})
	s.QueueJob(gitlabtest.Job{Tags: []string{"N"}, Script: []string{"sleep 600"}})
	file := filepath.Join(t.TempDir(), "config.toml")
	if code, out := call(t, nil, documented(file, url, "--token", token)...); code != 0 {
		t.Fatal(out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	address := freePort(t)
	b = append([]byte(fmt.Sprintf("listen_address = %q\n", address)), bytes.Replace(b, []byte("concurrent = 1"), []byte("concurrent = 2"), 1)...)
	b = bytes.Replace(b, []byte("check_interval = 0"), []byte("check_interval = 1"), 1)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "run", "--config", file)
	p.until(t, "received")
	p.until(t, "nothing") // the second poll, with a job running
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`gitlab_runner_api_request_statuses_total\{endpoint="request_job",runner="[^"]+",status="201",system_id="[rs]_\w{12}"\} 1`,
		`gitlab_runner_api_request_statuses_total\{endpoint="request_job",runner="[^"]+",status="204",system_id="[rs]_\w{12}"\} 1`,
		`(?m)^gitlab_runner_concurrent 2$`,
		`(?m)^gitlab_runner_jobs\{.*state="running".*\} 1$`,
	} {
		if !regexp.MustCompile(want).Match(text) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// freePort finds an address that nobody listens on.
func freePort(t *testing.T) string {
	srv := httptest.NewServer(nil)
	defer srv.Close()
	return srv.Listener.Addr().String()
}
