package gitlabtest_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// dockerd is a fake daemon on one fake host. Its runner container asks GitLab for a job once, as soon as it runs;
// its register container registers.
type dockerd struct {
	root    string
	gitlab  http.RoundTripper
	retries int // how often the register command itself comes back after a 429: none in 15.11, five in 17.11

	mu         sync.Mutex
	containers map[string]map[string]any
	output     string   // of the register container
	exited     chan int // its exit code, once
	kill       func()
	answered   int // polls
}

var containerPath = regexp.MustCompile(`^/v[0-9.]+/containers/([^/]+)(?:/(json|start|update|wait|logs))?$`)

func (d *dockerd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	say := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v) // into memory
	}
	m := containerPath.FindStringSubmatch(r.URL.Path)
	switch {
	case r.URL.Path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case strings.HasSuffix(r.URL.Path, "/containers/create"):
		var c map[string]any
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			say(400, map[string]string{"message": err.Error()})
			return
		}
		d.containers[r.URL.Query().Get("name")] = map[string]any{"Id": "1", "Config": c, "HostConfig": c["HostConfig"], "State": map[string]any{"Status": "created"},
			"NetworkSettings": map[string]any{"IPAddress": "172.17.0.2"}}
		say(201, map[string]string{"Id": "1"})
	case m == nil:
		say(501, map[string]string{"message": r.Method + " " + r.URL.Path + " is not faked"})
	case d.containers[m[1]] == nil:
		say(404, map[string]string{"message": "No such container: " + m[1]})
	case m[2] == "json":
		say(200, d.containers[m[1]])
	case r.Method == http.MethodDelete:
		if strings.HasSuffix(m[1], "-register") {
			d.kill()
		}
		delete(d.containers, m[1])
		w.WriteHeader(204)
	case m[2] == "start":
		d.containers[m[1]]["State"] = map[string]any{"Status": "running", "Running": true}
		if name, ok := strings.CutSuffix(m[1], "-register"); ok {
			var ctx context.Context
			ctx, d.kill = context.WithCancel(context.Background())
			d.output, d.exited = "", make(chan int, 1)
			go d.register(ctx, name, d.exited)
		} else {
			go d.poll(m[1])
		}
		w.WriteHeader(204)
	case m[2] == "wait":
		exited := d.exited
		d.mu.Unlock()
		code := -1
		select {
		case code = <-exited:
		case <-r.Context().Done():
		}
		d.mu.Lock()
		d.containers[m[1]]["State"] = map[string]any{"Status": "exited", "ExitCode": code}
		say(200, map[string]int{"StatusCode": code})
	case m[2] == "logs":
		head := make([]byte, 8)
		binary.BigEndian.PutUint32(head[4:], uint32(len(d.output)))
		_, _ = w.Write(append(head, d.output...)) // into memory
	default:
		say(200, map[string]any{})
	}
}

// register is the documented command, in a container.
func (d *dockerd) register(ctx context.Context, name string, exited chan<- int) {
	time.Sleep(400 * time.Millisecond)
	c := &http.Client{Transport: d.gitlab}
	for try := 0; ; try++ {
		resp, err := c.Post("http://gitlab/api/v4/runners", "application/json", strings.NewReader(fmt.Sprintf(`{"token":%q,"tag_list":%q,"run_untagged":false,"locked":false}`, regToken, name)))
		if err != nil {
			break
		}
		var made struct{ Token string }
		if resp.StatusCode == http.StatusCreated && json.NewDecoder(resp.Body).Decode(&made) == nil {
			id := regexp.MustCompile(`i-[0-9]+`).FindString(fmt.Sprint(d.containers[name+"-register"]["Config"]))
			entry := fmt.Sprintf("concurrent = 1\n\n[[runners]]\n  name = %q\n  url = \"http://gitlab\"\n  token = %q\n  executor = \"docker\"\n  [runners.docker]\n    image = \"x\"\n    volumes = [\"/cache\"]\n", name+"-"+id, made.Token)
			if os.WriteFile(filepath.Join(d.root, "srv/dataops-runner-"+name+"/config/register.toml"), []byte(entry), 0o600) == nil {
				exited <- 0
				return
			}
		}
		wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		if try == d.retries || resp.StatusCode != http.StatusTooManyRequests {
			d.mu.Lock()
			d.output = "ERROR: Registering runner... failed runner=x status=" + resp.Status + "\nPANIC: Failed to register the runner.\n"
			d.mu.Unlock()
			break
		}
		select {
		case <-time.After(time.Duration(wait) * time.Second):
		case <-ctx.Done():
			return
		}
	}
	exited <- 1
}

func (d *dockerd) poll(name string) {
	time.Sleep(100 * time.Millisecond)
	conf, err := os.ReadFile(filepath.Join(d.root, "srv/dataops-runner-"+name+"/config/config.toml"))
	if err != nil {
		return // the boot times out, and the test fails
	}
	id, err := os.ReadFile(filepath.Join(d.root, "srv/dataops-runner-"+name+"/config/.runner_system_id"))
	if err != nil {
		return
	}
	token := regexp.MustCompile(`(?m)^\s*token = "(.*)"`).FindSubmatch(conf)
	if token == nil {
		return
	}
	c := &http.Client{Transport: d.gitlab}
	resp, err := c.Post("http://gitlab/api/v4/jobs/request", "application/json", strings.NewReader(fmt.Sprintf(`{"token":%q,"system_id":%q}`, token[1], id)))
	if err == nil && resp.StatusCode == http.StatusNoContent {
		d.mu.Lock()
		d.answered++
		d.mu.Unlock()
	}
}

// metrics is the runner's endpoint in its container.
func (d *dockerd) metrics(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answered > 0 {
		fmt.Fprintf(w, "gitlab_runner_api_request_statuses_total{endpoint=\"request_job\",runner=\"t3_000001\",status=\"204\",system_id=\"s_000000000000\"} %d\n", d.answered)
	}
}

// inProcess serves requests without a network.
type inProcess struct{ http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, in)
	resp := w.Result()
	resp.Request = r
	return resp, r.Context().Err()
}

type place struct{ id string }

func (p place) Name() string { return "nocloud" }
func (p place) Identity(context.Context) (firstboot.Identity, error) {
	return firstboot.Identity{InstanceID: p.id}, nil
}
func (place) Secret(context.Context, runner.Secret) (string, error) { return "", nil }
func (place) Notices(context.Context) <-chan firstboot.Notice       { return nil }

// A thousand machines boot in the same second, and GitLab lets 600 register per minute: all come up, they ask little
// more than once each, and those that were told to wait do not come back together.
func TestThousandFirstBoots(t *testing.T) {
	for _, tt := range []struct {
		name, mode string
		retries    int
		ours       bool // the requests are this program's own to space; a register command has its own ways
	}{
		{"api", "api", 0, true},
		{"container of 15.11", "container", 0, false},
		{"container of 19.4", "container", 5, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && !tt.ours {
				t.Skip("for its figures")
			}
			thousand(t, tt.mode, tt.retries, tt.ours)
		})
	}
}

func thousand(t *testing.T, mode string, retries int, ours bool) {
	const machines, perMinute = 1000, 600
	base := t.TempDir()
	if _, err := os.Stat("/dev/shm"); err == nil { // ten thousand fsyncs are not what is tested
		var err error
		if base, err = os.MkdirTemp("/dev/shm", "boots-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(base) })
	}
	synctest.Test(t, func(t *testing.T) {
		gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}, RegistrationsPerMinute: perMinute})
		start := time.Now()
		ended := make([]time.Duration, machines)
		var wg sync.WaitGroup
		for i := range machines {
			h := fakeHost(t, filepath.Join(base, fmt.Sprint(i)), gl, mode, retries)
			wg.Go(func() {
				if err := firstboot.Boot(t.Context(), h, place{fmt.Sprintf("i-%04d", i)}); err != nil {
					t.Errorf("machine %d: %v", i, err)
				}
				ended[i] = time.Since(start)
			})
		}
		wg.Wait()
		synctest.Wait()

		if n := len(gl.Runners()); n != machines {
			t.Errorf("%d runners for %d machines", n, machines)
		}
		if p := gl.Problems(); len(p) > 0 {
			t.Errorf("%d problems, the first: %s", len(p), p[0])
		}
		const bucket = 5 * time.Second
		var histogram []int
		perSecond := map[int]int{}
		registrations, refused, polls, others := 0, 0, 0, 0
		for _, r := range gl.Requests() {
			switch {
			case r.Path == "/api/v4/jobs/request":
				polls++
				continue
			case r.Path == "/api/v4/runners" && r.Status == http.StatusTooManyRequests:
				refused++
			case r.Path == "/api/v4/runners":
				registrations++
			default:
				others++
			}
			at := r.Time.Sub(start)
			for len(histogram) <= int(at/bucket) {
				histogram = append(histogram, 0)
			}
			histogram[at/bucket]++
			perSecond[int(at/time.Second)]++
		}
		asked := registrations + refused + others
		last := time.Duration(0)
		for _, e := range ended {
			last = max(last, e)
		}
		t.Logf("%d machines online after %s; %.2f requests each to register (%d registered, %d told 429, %d others) and %.2f first polls",
			machines, last.Round(time.Second), float64(asked)/machines, registrations, refused, others, float64(polls)/machines)
		for i, n := range histogram {
			t.Logf("%4ds %4d %s", i*5, n, strings.Repeat("#", (n+9)/10))
		}
		if got := float64(asked) / machines; ours && got > 2.2 {
			t.Errorf("%.2f requests per machine, at most 2.2", got)
		}
		for s, n := range perSecond {
			if ours && s > 0 && n > machines/20 {
				t.Errorf("a wave: %d requests in second %d", n, s)
			}
		}
		if last > 5*time.Minute {
			t.Errorf("the last machine came up after %s", last)
		}
	})
}

// fakeHost is a machine with a spec, a fake dockerd, and GitLab in this process.
func fakeHost(t *testing.T, root string, gl *gitlabtest.Server, mode string, retries int) *firstboot.Host {
	t.Helper()
	spec := filepath.Join(root, firstboot.RunnerFile)
	if err := os.MkdirAll(filepath.Dir(spec), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "name: dataops-runner\ndescription: '{{.Name}}-{{.InstanceID}}'\nurl: http://gitlab\nregister: " + mode + "\ntoken: plain:" + regToken + "\n"
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &dockerd{root: root, gitlab: gl.Transport(), retries: retries, containers: map[string]map[string]any{}}
	return &firstboot.Host{
		Root: root, Socket: firstboot.DockerSocket, Docker: inProcess{d}, HTTP: gl.Transport(), Local: inProcess{http.HandlerFunc(d.metrics)},
		Now: time.Now, Uptime: func() float64 { return 1 }, Getenv: func(string) string { return "" }, Console: io.Discard, Log: io.Discard,
		Exec: func(_ context.Context, name string, _ ...string) (string, error) {
			return "", fmt.Errorf("%s is not faked", name)
		},
	}
}
