package firstboot_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

// booted is a machine with a runner online, and a platform that can send it notices.
func booted(t *testing.T, gl *gitlabtest.Server, spec string) (*machine, where) {
	t.Helper()
	m := newMachine(t, "url: "+listenForContainers(t, gl)+"\nregister: api\nrun_untagged: true\ntags: [trivial]\n"+spec+"\n")
	at := where{id: firstboot.Identity{InstanceID: "i-" + m.name}, notices: make(chan firstboot.Notice, 1)}
	if err := firstboot.Boot(t.Context(), m.Host, at); err != nil {
		t.Fatal(err)
	}
	return m, at
}

// runJob queues a job that sleeps and waits until it runs.
func runJob(t *testing.T, gl *gitlabtest.Server, sleep string) int {
	t.Helper()
	id := gl.QueueJob(gitlabtest.Job{Tags: []string{"trivial"}, Script: []string{"sleep " + sleep}})
	eventually(t, "the job runs", func() bool { j, _ := gl.Job(id); return j.State == "running" })
	return id
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(20 * time.Millisecond) // a real runner in a real container is waited for
	}
}

// The scale-in of a group: the job finishes, the platform hears of it meanwhile, this machine's manager goes and the
// runner that others share stays.
func TestScaleInWithAJob(t *testing.T) {
	needDocker(t)
	t.Parallel()
	gl := gitlabtest.New(gitlabtest.Options{})
	token := gl.AddRunner(gitlabtest.Runner{Tags: []string{"trivial"}})
	m, at := booted(t, gl, "token: "+token)
	job := runJob(t, gl, "3")
	volumes, err := docker("inspect", "-f", `{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}`, m.name)
	if err != nil || volumes == "" {
		t.Fatalf("the container has no anonymous volume to be left behind: %q %v", volumes, err)
	}
	var beats, completions atomic.Int32
	at.notices <- firstboot.Notice{Kind: "lifecycle",
		Heartbeat: func(context.Context) error { beats.Add(1); return nil },
		Complete: func(context.Context) error {
			if j, _ := gl.Job(job); j.State != "success" {
				t.Errorf("the platform was told to go on with the job %s", j.State)
			}
			completions.Add(1)
			return nil
		}}
	if err := firstboot.Watch(t.Context(), m.Host, at); err != nil {
		t.Fatal(err)
	}
	if j, _ := gl.Job(job); j.State != "success" {
		t.Errorf("the job is %s (%s)", j.State, j.Reason)
	}
	if beats.Load() == 0 || completions.Load() != 1 {
		t.Errorf("%d heartbeats, %d completions", beats.Load(), completions.Load())
	}
	m.gone(t)
	for _, v := range strings.Fields(volumes) {
		if _, err := docker("volume", "inspect", v); err == nil {
			t.Errorf("volume %s is left", v)
		}
	}
	if r := gl.Runners(); len(r) != 1 || len(r[0].Managers) != 0 {
		t.Errorf("at GitLab: %+v", r)
	}
	// Again: nothing to do, and the platform is told again.
	if err := firstboot.Drain(t.Context(), m.Host, at, 0); err != nil {
		t.Error(err)
	}
	// A machine that boots once more is a runner once more.
	if err := firstboot.Boot(t.Context(), m.Host, at); err != nil {
		t.Error(err)
	}
}

// gone asserts that the machine has given its runner back.
func (m *machine) gone(t *testing.T) {
	t.Helper()
	if names, err := docker("ps", "-aq", "--filter", "name="+m.name); err != nil || names != "" {
		t.Errorf("containers are left: %s %v", names, err)
	}
	if conf := get(t, m.Root, "/srv/dataops-runner-"+m.name+"/config/config.toml"); strings.Contains(conf, "[[runners]]") {
		t.Errorf("the entry is left:\n%s", conf)
	}
	if s, err := firstboot.ReadStatus(m.Host); err != nil || s.State != "drained" {
		t.Errorf("status %+v %v", s, err)
	}
}

// A job longer than the limit ends within it, GitLab learns of it, and the report says so.
func TestDrainLimit(t *testing.T) {
	needDocker(t)
	t.Parallel()
	gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
	m, at := booted(t, gl, "token: "+canary)
	job := runJob(t, gl, "600")
	began := time.Now()
	if err := firstboot.Drain(t.Context(), m.Host, at, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*time.Second || took > 30*time.Second {
		t.Errorf("took %s", took)
	}
	if j, _ := gl.Job(job); j.State != "failed" {
		t.Errorf("the job is %s", j.State)
	}
	m.gone(t)
	if r := gl.Runners(); len(r) != 0 {
		t.Errorf("a runner that was this machine's own is left at GitLab: %+v", r)
	}
	if s, _ := firstboot.ReadStatus(m.Host); len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "1 running jobs were interrupted") {
		t.Errorf("the report does not say so: %+v", s)
	}
}

// A spot machine has two minutes: what remains of them bounds the jobs.
func TestSpotNotice(t *testing.T) {
	needDocker(t)
	t.Parallel()
	gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
	m, at := booted(t, gl, "token: "+canary)
	runJob(t, gl, "600")
	began := time.Now()
	at.notices <- firstboot.Notice{Kind: "spot", Deadline: began.Add(12 * time.Second)}
	if err := firstboot.Watch(t.Context(), m.Host, at); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("drained after %s, the machine was gone at 12 s", took)
	}
	m.gone(t)
}

// GitLab is down while the machine goes: the drain says what is left there, and a second one gives it back.
func TestDrainWithoutGitLab(t *testing.T) {
	needDocker(t)
	t.Parallel()
	gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
	m, at := booted(t, gl, "token: "+canary)
	gl.Inject(gitlabtest.Fault{Method: "DELETE", Kind: gitlabtest.Status, Status: 503})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if err := firstboot.Drain(ctx, m.Host, at, time.Second); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("want an error about 503, got %v", err)
	}
	gl.Heal()
	if err := firstboot.Drain(t.Context(), m.Host, at, time.Second); err != nil {
		t.Fatal(err)
	}
	m.gone(t)
	if r := gl.Runners(); len(r) != 0 {
		t.Errorf("left at GitLab: %+v", r)
	}
}

// The watch tells of a runner that was deleted at GitLab and of a container that is gone.
func TestWatchNotices(t *testing.T) {
	needDocker(t)
	t.Parallel()
	for _, tt := range []struct {
		name, want string
		harm       func(*gitlabtest.Server, *machine)
	}{
		{"deleted at GitLab", "GitLab no longer knows this runner", func(gl *gitlabtest.Server, m *machine) {
			gl.DeleteRunner(gl.Runners()[0].Token)
			time.Sleep(1500 * time.Millisecond) // the real runner's next poll
		}},
		{"container removed", "is gone: run dorunner-firstboot boot", func(_ *gitlabtest.Server, m *machine) { m.clear() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
			m, at := booted(t, gl, "token: "+canary)
			tt.harm(gl, m)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- firstboot.Watch(ctx, m.Host, at) }()
			eventually(t, tt.want, func() bool {
				s, err := firstboot.ReadStatus(m.Host)
				return err == nil && s.State == "failed" && strings.Contains(s.Error, tt.want)
			})
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if !strings.Contains(m.console.String(), tt.want) {
				t.Errorf("the console does not say so: %s", m.console)
			}
		})
	}
}

// A shutdown drains only where the spec says so, and a stop of the unit never does.
func TestShutdown(t *testing.T) {
	needDocker(t)
	t.Parallel()
	for _, tt := range []struct {
		name, spec, system string
		drained            bool
	}{
		{"shutdown, configured", "drain_on_shutdown: true", "stopping", true},
		{"shutdown, not configured", "", "stopping", false},
		{"unit stopped", "drain_on_shutdown: true", "running", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
			m, at := booted(t, gl, "token: "+canary+"\n"+tt.spec)
			m.Exec = func(context.Context, string, ...string) (string, error) { return tt.system + "\n", nil }
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := firstboot.Watch(ctx, m.Host, at); err != nil {
				t.Fatal(err)
			}
			if drained := len(gl.Runners()) == 0; drained != tt.drained {
				t.Errorf("drained: %t", drained)
			}
		})
	}
}
