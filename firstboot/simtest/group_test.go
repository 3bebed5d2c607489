package simtest

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/ec2"
	"github.com/dorunner/dorunner-bake/firstboot/ec2/ec2test"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// What a machine of a group does from its launch to its end.
func TestLifeInAGroup(t *testing.T) {
	const (
		scaleIn = "meta-data/autoscaling/target-lifecycle-state"
		spot    = "meta-data/spot/instance-action"
		shared  = "glrt-t3_sharedbymanymachin"
		limit   = 10 * time.Minute
	)
	for _, tt := range []struct {
		name    string
		notice  string
		job     time.Duration
		aborted bool
		within  time.Duration // from the notice to the end of the watch
		down    bool          // GitLab answers 503 from the notice on
		fails   bool
	}{
		{name: "scale-in without a job", notice: scaleIn, within: 10 * time.Second},
		{name: "scale-in with a job", notice: scaleIn, job: 5 * time.Minute, within: 6 * time.Minute},
		{name: "scale-in with a job beyond the limit", notice: scaleIn, job: 10 * time.Hour, aborted: true, within: 11 * time.Minute},
		{name: "scale-in while GitLab is down", notice: scaleIn, within: time.Minute, down: true, fails: true},
		{name: "spot without a job", notice: spot, within: 10 * time.Second},
		{name: "spot with a short job", notice: spot, job: 30 * time.Second, within: 40 * time.Second},
		{name: "spot with a long job", notice: spot, job: time.Hour, aborted: true, within: 90 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				gl := gitlabtest.New(gitlabtest.Options{})
				gl.AddRunner(gitlabtest.Runner{Token: shared, Tags: []string{"dublin"}})
				cloud := ec2test.New(t)
				cloud.Parameters = map[string]string{"/dorunner/token": shared}
				cloud.Hooks = []string{"ours"} // the launch hook, by its tag
				p := ec2.New(ec2.Options{Metadata: cloud.Metadata(), API: cloud.API()})
				h, d := fakeHost(t, root, gl, "name: overridden\nurl: http://gitlab\ntoken: ssm:/dorunner/token\nregister: api\ndrain_timeout: "+limit.String()+"\n")

				if err := firstboot.Boot(ctx, h, p); err != nil {
					t.Fatal(err)
				}
				if got := cloud.Did("Lifecycle"); len(got) != 1 || got[0] != "CompleteLifecycleAction runners ours CONTINUE" {
					t.Errorf("after the boot: %q", got)
				}
				if r, err := firstboot.ReadStatus(h); err != nil || r.State != runner.Online || r.Runner != "dataops-runner-dublin" {
					t.Errorf("%+v %v", r, err)
				}

				cloud.Hooks = []string{runner.TerminateHook}
				d.job = tt.job
				watched := make(chan error, 1)
				go func() { watched <- firstboot.Watch(ctx, h, p) }()
				time.Sleep(time.Minute)
				if tt.down {
					gl.Inject(gitlabtest.Fault{Kind: gitlabtest.Status, Status: http.StatusServiceUnavailable})
				}
				notice := time.Now()
				if tt.notice == spot {
					cloud.Set(spot, `{"action":"terminate","time":"`+notice.Add(2*time.Minute).UTC().Format(time.RFC3339)+`"}`)
				} else {
					cloud.Set(scaleIn, "Terminated")
				}
				err := <-watched
				if took := time.Since(notice); (err != nil) != tt.fails || took > tt.within {
					t.Errorf("after %s, at most %s: %v", took, tt.within, err)
				}

				if d.aborted != tt.aborted || (!tt.aborted && d.ended.Sub(notice) < tt.job) {
					t.Errorf("the job of %s: aborted %v, its runner ended after %s", tt.job, d.aborted, d.ended.Sub(notice))
				}
				status, serr := firstboot.ReadStatus(h)
				if serr != nil {
					t.Fatal(serr)
				}
				if said := strings.Contains(strings.Join(status.Warnings, " "), "interrupted"); said != tt.aborted {
					t.Errorf("the status on interrupted jobs: %q", status.Warnings)
				}
				runners := gl.Runners()
				if len(runners) != 1 || (len(runners[0].Managers) == 0) == tt.down {
					t.Errorf("the shared runner stays, this machine's manager goes: %+v", runners)
				}
				if beats := len(cloud.Did("Heartbeat")); tt.notice == scaleIn && beats < 2*int(min(tt.job, limit).Minutes()) {
					t.Errorf("%d heartbeats for a job of %s", beats, tt.job)
				}
				if done := cloud.Did("Complete"); done[len(done)-1] != "CompleteLifecycleAction runners dorunner-terminate CONTINUE" || len(cloud.Hooks) != 0 {
					t.Errorf("the group still waits: %q", done)
				}
				if p := gl.Problems(); len(p) > 0 {
					t.Errorf("problems: %q", p)
				}
			})
			findNoSecret(t, root, shared)
		})
	}
}

// findNoSecret looks through what a machine wrote; config.toml is where the runner itself keeps its token.
func findNoSecret(t *testing.T, root, secret string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "config.toml" {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), secret) {
			t.Errorf("%s shows the token", strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
