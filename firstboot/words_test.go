package firstboot

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// What gitlab-runner prints when it fails, and what follows from it.
func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		name, out  string
		final      bool
		lost, wait bool
		want       string
	}{
		{"bad token", "ERROR: Registering runner... forbidden (check registration token)  runner=GR1348941\nPANIC: Failed to register the runner.", true, false, false, "glrt-"},
		{"unknown runner", "ERROR: Verifying runner... is not valid                runner=Kz4Tq1xPs\nPANIC: Failed to verify the runner.", true, false, false, "glrt-"},
		{"503", "ERROR: Registering runner... failed                 runner=x status=503 Service Unavailable\nPANIC: Failed", false, false, false, "503 Service Unavailable"},
		{"502", "ERROR: Registering runner... failed                 runner=x status=502 Bad Gateway\nPANIC: Failed", false, true, false, "502 Bad Gateway"},
		{"429", "ERROR: Registering runner... failed                 runner=x status=429 Too Many Requests\nPANIC: Failed", false, false, true, "429"},
		{"410", "ERROR: Registering runner... failed                 runner=x status=POST http://g/api/v4/runners: 410 Gone (410 Gone - runner registration disallowed)\nPANIC: Failed", true, false, false, "registration tokens are disabled"},
		{"422", "ERROR: Verifying runner... failed                   runner=x status=422 Unprocessable Entity\nPANIC", true, false, false, "check the token's kind"},
		{"refused", `ERROR: Registering runner... error runner=x status=couldn't execute POST against http://g/api/v4/runners: Post "http://g": dial tcp 10.0.0.1:80: connect: connection refused`, false, false, false, "connection refused"},
		{"reset", `ERROR: Registering runner... error runner=x status=couldn't execute POST against http://g/api/v4/runners: Post "http://g": read tcp 10.0.0.1:80: connection reset by peer`, false, true, false, "reset by peer"},
		{"wrong flags", "FATAL: Runner configuration other than name and executor configuration is reserved", true, false, false, "is reserved"},
		{"unknown runner, 19.4", "Verifying runner... is not valid   correlation_id=d0a runner=wrong runner_name=d\nPANIC: Failed to verify the runner.", true, false, false, "glrt-"},
		{"503 that quotes another", "ERROR: Registering runner... failed   correlation_id=e0 runner=x runner_name=d status=POST http://g:18103/api/v4/runners: 503 Service Unavailable (upstream said 403 forbidden)\nPANIC", false, false, false, "503 Service Unavailable"},
		{"no answer, 19.4", `ERROR: Registering runner... failed  correlation_id=e2 runner=x runner_name=d status=execute JSON request: execute request: couldn't execute POST against http://g/api/v4/runners: Post "http://g/api/v4/runners": EOF`, false, true, false, "EOF"},
		{"another architecture", "exec /usr/bin/gitlab-runner: exec format error", true, false, false, "architecture"},
		{"no words", "", false, true, false, "exit code 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := classify(1, tt.out)
			var f *Failure
			if !errors.As(err, &f) {
				t.Fatalf("%T", err)
			}
			if f.Final != tt.final || f.Lost != tt.lost || (f.Wait > 0) != tt.wait || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("final %t, lost %t, wait %s: %v", f.Final, f.Lost, f.Wait, err)
			}
			if strings.Contains(err.Error(), "runner=") {
				t.Errorf("part of the token is told: %v", err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "soon": 0,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestDrainLimits(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct{ limit, left, want time.Duration }{
		{time.Hour, 2 * time.Minute, 75 * time.Second},  // spot: done within 90 s
		{time.Hour, 30 * time.Second, 15 * time.Second}, // preemption
		{time.Minute, 2 * time.Hour, time.Minute},       // the spec's own limit is shorter
		{time.Hour, -time.Second, 0},                    // too late
	} {
		if got := drainLimit(tt.limit, now.Add(tt.left), now); got != tt.want {
			t.Errorf("limit %s with %s left: %s, want %s", tt.limit, tt.left, got, tt.want)
		}
	}
	if got := drainLimit(time.Hour, time.Time{}, now); got != time.Hour {
		t.Errorf("without a deadline: %s", got)
	}
}

// Lines as 15.11, 17.11 and 19.4 print them.
func TestReadPolls(t *testing.T) {
	const text = `# HELP gitlab_runner_api_request_statuses_total The total number of api requests, partitioned by runner, endpoint and status.
gitlab_runner_api_request_statuses_total{endpoint="request_job",runner="Kz4Tq1xP",status="204"} 12
gitlab_runner_api_request_statuses_total{endpoint="request_job",runner="Kz4Tq1xP",status="201",system_id="s_0123456789ab"} 2
gitlab_runner_api_request_statuses_total{endpoint="request_job",runner="Kz4Tq1xP",status="403",system_id="s_0123456789ab"} 3
gitlab_runner_api_request_statuses_total{endpoint="request_job",method="post",runner="Kz4Tq1xP",runner_name="n",status="503",system_id="s_0123456789ab"} 1
gitlab_runner_api_request_statuses_total{endpoint="update_job",runner="Kz4Tq1xP",status="200",system_id="s_0123456789ab"} 40
gitlab_runner_jobs{executor_stage="docker_run",runner="Kz4Tq1xP",stage="step_script",state="running"} 2
gitlab_runner_jobs{executor_stage="docker_pulling_image",runner="Kz4Tq1xP",stage="prepare_script",state="running"} 1
gitlab_runner_jobs_total{runner="Kz4Tq1xP"} 99
go_goroutines 15
`
	got, err := readPolls(strings.NewReader(text))
	if want := (polls{answered: 14, forbidden: 3, failed: "503", jobs: 3}); err != nil || got != want {
		t.Errorf("%+v %v", got, err)
	}
}

func TestOverlay(t *testing.T) {
	spec := runner.Default()
	warnings, err := overlaySpec(&spec, map[string]string{"name": "n", "tags": "a, b", "concurrent": "3", "vault.path": "/v", "plan": "sha256:0", "run_untagged": "true", "drain_timeout": "5m"})
	if err != nil {
		t.Fatal(err)
	}
	if spec.Name != "n" || spec.Concurrent != 3 || spec.Vault.Path != "/v" || !*spec.RunUntagged || time.Duration(spec.DrainTimeout) != 5*time.Minute {
		t.Errorf("%+v", spec)
	}
	if diff := cmp.Diff([]string{"a", "b"}, spec.Tags); diff != "" {
		t.Error(diff)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], `"plan"`) {
		t.Errorf("warnings %q", warnings)
	}
	if _, err := overlaySpec(&spec, map[string]string{"concurrent": "many"}); err == nil || !strings.Contains(err.Error(), "concurrent") {
		t.Errorf("a word for a number: %v", err)
	}
}

// Tags may be anything: what they cannot mean is a warning or an error that names them, and never more.
func TestHostileTags(t *testing.T) {
	for key, want := range map[string]string{"<<": "<<", "": `""`, "a: b\nname": "a: b", "*x": "*x", "token: x": "token: x", "vault.path.deeper": "vault.path.deeper", "vault": "vault", "&a": "&a", "a.b.c.d.e.f": "a.b.c"} {
		spec := runner.Default()
		spec.Name = "mine"
		warnings, err := overlaySpec(&spec, map[string]string{key: "{{x: [*y, !!binary"})
		if said := fmt.Sprint(warnings, err); !strings.Contains(strings.ReplaceAll(said, "\\n", "\n"), want) || spec.Name != "mine" {
			t.Errorf("%q: %s, and the name is %s", key, said, spec.Name)
		}
	}
	spec := runner.Default()
	if _, err := overlaySpec(&spec, map[string]string{"description": "a\n\x00\x7f\v\"\\b"}); err == nil {
		var back struct{ V string }
		if err := toml.Unmarshal([]byte("v = "+tomlString(spec.Description)), &back); err != nil || back.V != spec.Description {
			t.Errorf("%q became %q: %v", spec.Description, back.V, err)
		}
	}
}

func TestSystemID(t *testing.T) {
	seen := map[string]bool{}
	for i := range 1000 {
		id := runner.SystemID(fmt.Sprintf("i-%d", i))
		if !systemIDForm.MatchString(id) || seen[id] || id != runner.SystemID(fmt.Sprintf("i-%d", i)) {
			t.Fatalf("i-%d: %q", i, id)
		}
		seen[id] = true
	}
}

func TestTokenKinds(t *testing.T) {
	for token, want := range map[string]tokenKind{"GR1348941x": registrationToken, "oldstyle": registrationToken, "glrt-x": authenticationToken, "glrt-t2_x": authenticationToken, "glrtr-x": authenticationToken} {
		if got := kindOf(token); got != want {
			t.Errorf("%s: %s", token, got)
		}
	}
}

func TestBase(t *testing.T) {
	for in, want := range map[string]string{"https://g": "https://g", "https://g/": "https://g", "https://g/ci": "https://g", "https://g/ci/": "https://g", "https://g/gitlab/": "https://g/gitlab"} {
		if got := gitlabBase(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
