// Package simtest runs whole lives of machines in virtual time: the real boot, watch and drain on fake hosts, against
// the GitLab-compatible server and EC2, all in one process.
package simtest

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
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
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
	answered   int           // polls
	polling    bool          // one more has been answered at each look
	job        time.Duration // of the one running job, from SIGQUIT on; 0 for none
	aborted    bool          // it did not get to its end
	ended      time.Time     // when the runner's container did
	runs       *runnerd      // what runs in the runner's container; nil for one that polls once and has one job
}

var containerPath = regexp.MustCompile(`^/v[0-9.]+/containers/([^/]+)(?:/(json|start|update|wait|logs|kill))?$`)

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
		w.WriteHeader(http.StatusNoContent)
	case m[2] == "start":
		d.containers[m[1]]["State"] = map[string]any{"Status": "running", "Running": true}
		if name, ok := strings.CutSuffix(m[1], "-register"); ok {
			var ctx context.Context
			ctx, d.kill = context.WithCancel(context.Background())
			d.output, d.exited = "", make(chan int, 1)
			go d.register(ctx, name, d.exited)
		} else if d.runs != nil {
			go d.runs.run(m[1])
		} else {
			go d.poll(m[1])
		}
		w.WriteHeader(http.StatusNoContent)
	case m[2] == "kill":
		if running, _ := d.containers[m[1]]["State"].(map[string]any)["Running"].(bool); !running {
			say(409, map[string]string{"message": "Container " + m[1] + " is not running"})
			return
		}
		if signal := r.URL.Query().Get("signal"); d.runs != nil {
			go d.runs.signal(signal)
		} else if signal == "SIGQUIT" {
			time.AfterFunc(d.job, func() { d.end(m[1], false) })
		} else {
			aborted := d.job > 0
			d.job = 0 // it leaves the metrics before the container ends
			time.AfterFunc(time.Second, func() { d.end(m[1], aborted) })
		}
		w.WriteHeader(http.StatusNoContent)
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

// setJob has a job run while the machine is in use; its time counts from SIGQUIT on.
func (d *dockerd) setJob(job time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.job = job
}

// end is the end of the runner's container.
func (d *dockerd) end(name string, aborted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.containers[name]; c != nil && d.ended.IsZero() {
		c["State"] = map[string]any{"Status": "exited", "ExitCode": 0}
		d.job, d.aborted, d.ended = 0, aborted, time.Now()
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
		d.mu.Lock()
		d.output = fmt.Sprintf("Waiting before making the next call  duration=%ds\n", wait)
		d.mu.Unlock()
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
	if d.job > 0 {
		fmt.Fprintln(w, `gitlab_runner_jobs{executor_stage="docker_run",runner="t3_000001",stage="step_script",state="running"} 1`)
	}
	if d.polling {
		d.answered++
	}
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

// fakeHost is a machine with a spec, a fake dockerd, and GitLab in this process.
func fakeHost(t *testing.T, root string, gl *gitlabtest.Server, spec string) (*firstboot.Host, *dockerd) {
	t.Helper()
	file := filepath.Join(root, firstboot.RunnerFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &dockerd{root: root, gitlab: gl.Transport(), containers: map[string]map[string]any{}}
	return &firstboot.Host{
		Root: root, Socket: firstboot.DockerSocket, Docker: inProcess{d}, HTTP: gl.Transport(), Local: inProcess{http.HandlerFunc(d.metrics)},
		Now: time.Now, Uptime: func() float64 { return 1 }, Getenv: func(string) string { return "" }, Console: io.Discard, Log: t.Output(),
		Exec: func(_ context.Context, name string, _ ...string) (string, error) {
			return "", fmt.Errorf("%s is not faked", name)
		},
	}, d
}
