package simtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/ec2"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	fleetaws "github.com/dorunner/dorunner-bake/fleet/aws"
	"github.com/dorunner/dorunner-bake/images"
)

const region = "us-east-1"

// world is an account, a GitLab and the machines that the account runs: each boots the real first-boot code with the
// user-data that it was launched with, watches and drains, all on the virtual clock.
type world struct {
	t     *testing.T
	aws   *awstest.Server
	cfg   sdk.Config
	gl    *gitlabtest.Server
	base  string
	began time.Time

	mu       sync.Mutex
	broken   map[string]bool // images whose first boot fails
	boxes    map[string]*box
	finished int           // jobs
	lost     []loss        // jobs that did not get to their end
	samples  []sample      // of how things stand
	polls    map[int]int   // answered job requests, by minute
	refused  int           // job requests that were one too many
	longest  time.Duration // from a machine's power-on to its first poll
}

// loss is a job that ended before its time.
type loss struct {
	machine  string
	drained  time.Duration // from the machine's SIGQUIT to the end of the job; 0 when it never got one
	powerOff bool          // the machine went away under it
}

// sample is how things stand at one time.
type sample struct {
	at                               time.Duration
	desired, coming, serving, ending int // machines
	jobs, managers                   int
}

func newWorld(t *testing.T, o awstest.Options) *world {
	t.Helper()
	w := &world{t: t, base: t.TempDir(), began: time.Now(), broken: map[string]bool{}, boxes: map[string]*box{}, polls: map[int]int{}}
	if _, err := os.Stat("/dev/shm"); err == nil { // a million fsyncs are not what is tested
		if w.base, err = os.MkdirTemp("/dev/shm", "fleet-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(w.base) })
	}
	w.gl = gitlabtest.New(gitlabtest.Options{JobRequestsPerMinute: images.JobRequestsPerMinute})
	w.gl.AddRunner(gitlabtest.Runner{Token: shared, Tags: []string{"dublin"}})
	o.Machines = w
	w.aws = awstest.New(o)
	w.cfg = sdk.Config{Region: region, Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""),
		HTTPClient: &http.Client{Transport: w.aws.Transport()}, BaseEndpoint: sdk.String("http://aws.test")}
	_, err := ssm.NewFromConfig(w.cfg).PutParameter(t.Context(), &ssm.PutParameterInput{Name: sdk.String("/dorunner/token"), Value: sdk.String(shared), Type: types.ParameterTypeSecureString})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// image puts a baked image into the account.
func (w *world) image(name string, broken bool) string {
	id := w.aws.AddOwnImage(region, name, "x86_64", time.Now(), map[string]string{"dorunner:bake-id": name, "dorunner:family": "dorunner-ubuntu-20.04-"})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken[id] = broken
	return id
}

// fleet is a group of these machines, reached as dorunner-bake does.
func (w *world) fleet(image string, most int, how fleet.How, change func(*images.Spec)) (*fleet.Group, fleet.Cloud) {
	w.t.Helper()
	token, err := runner.ParseSecret("ssm:/dorunner/token")
	if err != nil {
		w.t.Fatal(err)
	}
	zero := 0
	s := &images.Spec{
		Runner: runner.Spec{Name: "dublin", URL: "http://gitlab", Token: token, Register: "api", Concurrent: 2, CheckInterval: images.CheckInterval(most)},
		Fleet: images.Fleet{Name: "dublin", Max: most, Desired: &zero, Image: image, InstanceProfile: images.CreateProfile, Sizes: []string{"t3a.xlarge", "m6a.xlarge"},
			DrainTimeout: runner.Duration(drainLimit)},
	}
	if change != nil {
		change(s)
	}
	plan, err := images.Resolve(s, "aws", images.Options{Launch: true})
	if err != nil {
		w.t.Fatal(err)
	}
	g, err := fleet.NewGroup(plan)
	if err != nil {
		w.t.Fatal(err)
	}
	how.Info = w.t.Logf
	return g, fleetaws.Open(w.cfg, g, how)
}

const drainLimit = 15 * time.Minute

// box is one machine.
type box struct {
	w       *world
	m       awstest.Machine
	root    string
	off     context.CancelFunc
	console lockedText
	runner  *runnerd
}

// Start powers a machine on.
func (w *world) Start(m awstest.Machine) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, off := context.WithCancel(context.Background())
	b := &box{w: w, m: m, root: filepath.Join(w.base, m.ID), off: off}
	w.boxes[m.ID] = b
	go b.live(ctx)
	return "203.0.113.1", nil
}

// Stop takes its power away: what still runs on it is lost.
func (w *world) Stop(id string) error {
	w.mu.Lock()
	b := w.boxes[id]
	w.mu.Unlock()
	b.off()
	if b.runner != nil {
		b.runner.powerOff()
	}
	return nil
}

// Console is what it printed.
func (w *world) Console(id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.boxes[id]; b != nil {
		return b.console.String()
	}
	return ""
}

type lockedText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// live is what a machine does from power-on: a kernel and cloud-init, then the two units of ours.
func (b *box) live(ctx context.Context) {
	on := time.Now()
	h := fnv.New32a()
	_, _ = h.Write([]byte(b.m.ID)) // it does not fail
	select {
	case <-time.After(20*time.Second + time.Duration(h.Sum32()%20000)*time.Millisecond):
	case <-ctx.Done():
		return
	}
	if err := writeFiles(b.root, []byte(b.m.UserData)); err != nil {
		b.w.t.Errorf("%s: its user-data: %v", b.m.ID, err)
		return
	}
	d := &dockerd{root: b.root, gitlab: b.w.gl.Transport(), containers: map[string]map[string]any{}}
	b.runner = &runnerd{w: b.w, b: b, d: d, on: on, jobs: map[int]*running{}}
	d.runs = b.runner
	host := &firstboot.Host{
		Root: b.root, Socket: firstboot.DockerSocket, Docker: inProcess{d}, HTTP: d.gitlab, Local: inProcess{http.HandlerFunc(b.runner.metrics)},
		Now: time.Now, Uptime: func() float64 { return time.Since(on).Seconds() }, Getenv: func(string) string { return "" }, Console: &b.console, Log: io.Discard,
		Exec: func(_ context.Context, name string, _ ...string) (string, error) {
			return "", fmt.Errorf("%s is not faked", name)
		},
	}
	b.w.mu.Lock()
	if b.w.broken[b.m.ImageID] {
		host.Docker = inProcess{http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			http.Error(rw, `{"message":"the storage driver is broken"}`, http.StatusInternalServerError)
		})}
	}
	b.w.mu.Unlock()
	p := ec2.New(ec2.Options{Metadata: inProcess{awstest.Metadata(b.m)}, API: b.w.aws.Transport()})
	bootErr := firstboot.Boot(ctx, host, p)
	watchErr := firstboot.Watch(ctx, host, p)
	if ctx.Err() == nil && bootErr == nil && watchErr != nil {
		b.w.t.Errorf("%s: %v", b.m.ID, watchErr)
	}
}

// writeFiles does what cloud-init would with the part of user-data that holds files.
func writeFiles(root string, userData []byte) error {
	if z, err := gzip.NewReader(bytes.NewReader(userData)); err == nil {
		if userData, err = io.ReadAll(z); err != nil {
			return err
		}
	}
	at := bytes.Index(userData, []byte("#cloud-config"))
	if at < 0 {
		return fmt.Errorf("no #cloud-config in %d bytes", len(userData))
	}
	var doc struct {
		Files []struct {
			Path, Content, Encoding string
		} `yaml:"write_files"`
	}
	if err := yaml.Unmarshal(userData[at:], &doc); err != nil {
		return err
	}
	for _, f := range doc.Files {
		if f.Encoding != "" {
			return fmt.Errorf("%s is in %s, which is not known here", f.Path, f.Encoding)
		}
		path := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.Content), 0o600); err != nil {
			return err
		}
	}
	if len(doc.Files) == 0 {
		return fmt.Errorf("it writes no files")
	}
	return nil
}

// runnerd is gitlab-runner in its container: it asks for jobs as config.toml says, runs them, finishes them on SIGQUIT
// and aborts them on SIGTERM.
type runnerd struct {
	w  *world
	b  *box
	d  *dockerd
	on time.Time // the machine's power-on

	mu       sync.Mutex
	name     string // of its container
	token    string
	answered int
	jobs     map[int]*running
	quit     time.Time // SIGQUIT came
	dead     bool
	ended    bool
}

type running struct {
	token string
	timer *time.Timer
}

var (
	confToken    = regexp.MustCompile(`(?m)^\s*token = "(.*)"`)
	confInterval = regexp.MustCompile(`(?m)^check_interval = (\d+)`)
	confJobs     = regexp.MustCompile(`(?m)^concurrent = (\d+)`)
)

// run is the process.
func (r *runnerd) run(name string) {
	dir := filepath.Join(r.d.root, "srv/dataops-runner-"+name+"/config")
	conf, err1 := os.ReadFile(filepath.Join(dir, "config.toml"))
	id, err2 := os.ReadFile(filepath.Join(dir, ".runner_system_id"))
	token, interval, most := confToken.FindSubmatch(conf), confInterval.FindSubmatch(conf), confJobs.FindSubmatch(conf)
	if err1 != nil || err2 != nil || token == nil || interval == nil || most == nil {
		r.w.t.Errorf("%s: its runner cannot start: %v %v %s", r.b.m.ID, err1, err2, conf)
		return
	}
	every, _ := strconv.Atoi(string(interval[1]))
	concurrent, _ := strconv.Atoi(string(most[1]))
	r.mu.Lock()
	r.name, r.token = name, string(token[1])
	r.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	for first := true; ; {
		r.mu.Lock()
		full, over := len(r.jobs) >= concurrent, r.dead || !r.quit.IsZero()
		r.mu.Unlock()
		if over {
			return
		}
		if !full {
			took := r.ask(string(id))
			if first {
				first = false
				r.w.mu.Lock()
				r.w.longest = max(r.w.longest, time.Since(r.on))
				r.w.mu.Unlock()
			}
			if took { // there may be another
				continue
			}
		}
		time.Sleep(time.Duration(max(every, 1)) * time.Second)
	}
}

// ask is one request for a job; true when there was one.
func (r *runnerd) ask(id string) bool {
	resp, err := (&http.Client{Transport: r.d.gitlab}).Post("http://gitlab/api/v4/jobs/request", "application/json", strings.NewReader(fmt.Sprintf(`{"token":%q,"system_id":%q}`, r.token, id)))
	if err != nil {
		return false
	}
	r.w.mu.Lock()
	r.w.polls[int(time.Since(r.w.began)/time.Minute)]++
	if resp.StatusCode == http.StatusTooManyRequests {
		r.w.refused++
	}
	r.w.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch resp.StatusCode {
	case http.StatusNoContent:
		r.answered++
	case http.StatusCreated:
		r.answered++
		var job struct {
			ID    int    `json:"id"`
			Token string `json:"token"`
			Steps []struct{ Script []string }
		}
		if err := json.NewDecoder(resp.Body).Decode(&job); err != nil {
			r.w.t.Error(err)
			return false
		}
		takes, _ := strconv.Atoi(strings.TrimPrefix(job.Steps[0].Script[0], "sleep "))
		r.jobs[job.ID] = &running{job.Token, time.AfterFunc(time.Duration(takes)*time.Second, func() { r.finish(job.ID) })}
		return true
	}
	return false
}

// finish is the end of one job.
func (r *runnerd) finish(id int) {
	r.mu.Lock()
	j := r.jobs[id]
	delete(r.jobs, id)
	last := len(r.jobs) == 0 && !r.quit.IsZero()
	dead := r.dead
	r.mu.Unlock()
	if j == nil || dead {
		return
	}
	r.report(id, j, "success")
	r.w.mu.Lock()
	r.w.finished++
	r.w.mu.Unlock()
	if last {
		r.end(100 * time.Millisecond)
	}
}

func (r *runnerd) report(id int, j *running, state string) {
	req, _ := http.NewRequest(http.MethodPut, fmt.Sprintf("http://gitlab/api/v4/jobs/%d", id), strings.NewReader(fmt.Sprintf(`{"token":%q,"state":%q}`, j.token, state))) // of constants
	req.Header.Set("Content-Type", "application/json")
	if resp, err := r.d.gitlab.RoundTrip(req); err != nil || resp.StatusCode != http.StatusOK {
		r.w.t.Errorf("%s: job %d: %v %v", r.b.m.ID, id, resp, err)
	}
}

// end has the container end.
func (r *runnerd) end(after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	time.AfterFunc(after, func() { r.d.end(r.name, false) })
}

// signal is what docker kill sends.
func (r *runnerd) signal(s string) {
	r.mu.Lock()
	if r.quit.IsZero() {
		r.quit = time.Now()
	}
	idle := len(r.jobs) == 0
	aborted := map[int]*running{}
	if s != "SIGQUIT" {
		for id, j := range r.jobs {
			j.timer.Stop()
			aborted[id] = j
		}
		r.lose(false)
	}
	r.mu.Unlock()
	for id, j := range aborted {
		r.report(id, j, "failed")
	}
	if s != "SIGQUIT" || idle {
		r.end(time.Second)
	}
}

// lose notes the running jobs as lost; the caller holds the lock.
func (r *runnerd) lose(powerOff bool) {
	drained := time.Duration(0)
	if !r.quit.IsZero() {
		drained = time.Since(r.quit)
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for range r.jobs {
		r.w.lost = append(r.w.lost, loss{r.b.m.ID, drained, powerOff})
	}
	clear(r.jobs)
}

func (r *runnerd) powerOff() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.jobs {
		j.timer.Stop()
	}
	r.lose(true)
	r.dead = true
}

func (r *runnerd) metrics(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.jobs); n > 0 {
		fmt.Fprintf(w, "gitlab_runner_jobs{executor_stage=\"docker_run\",runner=\"t3_000001\",stage=\"step_script\",state=\"running\"} %d\n", n)
	}
	fmt.Fprintf(w, "gitlab_runner_api_request_statuses_total{endpoint=\"request_job\",runner=\"t3_000001\",status=\"204\",system_id=\"s_000000000000\"} %d\n", r.answered)
}

// look notes how things stand.
func (w *world) look(group string) sample {
	n := w.aws.Members(region, group)
	s := sample{at: time.Since(w.began), desired: n["desired"], serving: n["InService"]}
	for state, count := range n {
		switch {
		case strings.HasPrefix(state, "Pending"):
			s.coming += count
		case strings.HasPrefix(state, "Terminating"):
			s.ending += count
		}
	}
	for _, r := range w.gl.Runners() {
		s.managers += len(r.Managers)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.boxes {
		if r := b.runner; r != nil {
			r.mu.Lock()
			s.jobs += len(r.jobs)
			r.mu.Unlock()
		}
	}
	w.samples = append(w.samples, s)
	return s
}

// watch looks four times a minute until it is stopped.
func (w *world) watch(group string) (stop func()) {
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stopped:
				return
			case <-time.After(15 * time.Second):
				w.look(group)
			}
		}
	}()
	return func() { close(stopped); <-done }
}

// until looks twice a minute until what it sees is as wanted.
func (w *world) until(group string, limit time.Duration, what string, ok func(sample) bool) {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(30 * time.Second) {
		s := w.look(group)
		if ok(s) {
			return
		}
		if time.Since(began) > limit {
			w.t.Fatalf("%s: not within %s: %+v", what, limit, s)
		}
	}
}

// end judges what every world has to end with.
func (w *world) end() {
	w.t.Helper()
	for _, l := range w.lost {
		if l.powerOff || l.drained < drainLimit {
			w.t.Errorf("%s lost a job %s after the drain began (power off: %t)", l.machine, l.drained, l.powerOff)
		}
	}
	most := 0
	for _, n := range w.polls {
		most = max(most, n)
	}
	if w.refused > 0 || most > images.JobRequestsPerMinute {
		w.t.Errorf("GitLab refused %d job requests; at most %d in a minute", w.refused, most)
	}
	if p := w.gl.Problems(); len(p) > 0 {
		w.t.Errorf("%d problems with GitLab, the first: %s", len(p), p[0])
	}
	if c := w.aws.Complaints(); len(c) > 0 {
		w.t.Errorf("complaints of the account: %q", c)
	}
	w.t.Logf("%d jobs finished, %d interrupted by the drain's limit; at most %d job requests in a minute; the slowest machine polled %s after its power-on",
		w.finished, len(w.lost), most, w.longest.Round(time.Second))
}

// gone waits until a destroyed group has left nothing.
func (w *world) gone() {
	w.t.Helper()
	time.Sleep(time.Minute)
	left := slices.DeleteFunc(w.aws.Left(), func(s string) bool { return strings.HasSuffix(s, "(image)") })
	if len(left) > 0 {
		w.t.Errorf("left in the account: %q", left)
	}
	if s := w.look("dorunner-dublin"); s.managers > 0 || s.jobs > 0 {
		w.t.Errorf("left: %+v", s)
	}
}
