package simtest

import (
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/ec2"
	"github.com/dorunner/dorunner-bake/firstboot/ec2/ec2test"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

// mockConfig has amazon-ec2-metadata-mock say which machine this is.
const mockConfig = `{"dynamic":{"values":{"instance-identity-document":{"instanceId":"i-0123","region":"eu-west-1","availabilityZone":"eu-west-1b"}}}}`

// The end of a machine as AWS's own metadata mock tells it, in real time: the whole life of LifeInAGroup, shortened.
func TestLifeByTheMetadataMock(t *testing.T) {
	if testing.Short() {
		t.Skip("builds ec2-metadata-mock")
	}
	for _, tt := range []struct {
		name, command string
		args          []string
		job           time.Duration
		limit         string
		aborted       bool
	}{
		{name: "scale-in", command: "asglifecycle", args: []string{"--asg-termination-delay-sec", "3"}, job: 4 * time.Second, limit: "1m"},
		{name: "scale-in with a job beyond the limit", command: "asglifecycle", args: []string{"--asg-termination-delay-sec", "3"}, job: time.Hour, limit: "3s", aborted: true},
		{name: "spot", command: "spot", args: []string{"--mock-delay-sec", "3"}, job: 2 * time.Second, limit: "1m"},
		{name: "spot with 20 s left", command: "spot", args: []string{"--mock-delay-sec", "3", "--time", time.Now().Add(30 * time.Second).UTC().Format(time.RFC3339)}, job: time.Hour, limit: "1h", aborted: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gl := gitlabtest.New(gitlabtest.Options{})
			gl.AddRunner(gitlabtest.Runner{Token: shared, Tags: []string{"dublin"}})
			cloud := ec2test.New(t)
			cloud.Parameters = map[string]string{"/token": shared}
			cloud.Hooks = []string{"ours", "dorunner-terminate"}
			extra := map[string]string{}
			for path, text := range cloud.Paths {
				if strings.HasPrefix(path, "meta-data/tags/") || strings.HasPrefix(path, "meta-data/iam/") {
					extra[path] = text
				}
			}
			p := ec2.New(ec2.Options{Metadata: ec2test.Mock(t, mockConfig, extra, append([]string{tt.command}, tt.args...)...), API: cloud.API()})
			h, d := fakeHost(t, t.TempDir(), gl, "name: overridden\nurl: http://gitlab\ntoken: ssm:/token\nregister: api\ndrain_timeout: "+tt.limit+"\n")
			if err := firstboot.Boot(t.Context(), h, p); err != nil {
				t.Fatal(err)
			}
			d.setJob(tt.job)
			began := time.Now()
			if err := firstboot.Watch(t.Context(), h, p); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("gone after %s", took)
			}
			if d.aborted != tt.aborted {
				t.Errorf("the job of %s: aborted %t", tt.job, d.aborted)
			}
			if beats := len(cloud.Did("Heartbeat")); tt.command == "asglifecycle" && beats == 0 {
				t.Error("no heartbeat")
			}
			if len(cloud.Hooks) != 0 {
				t.Errorf("the group still waits: %q", cloud.Did(""))
			}
			if r := gl.Runners(); len(r) != 1 || len(r[0].Managers) != 0 {
				t.Errorf("the shared runner stays, this machine's manager goes: %+v", r)
			}
			s, err := firstboot.ReadStatus(h)
			if said := strings.Contains(strings.Join(s.Warnings, " "), "interrupted"); err != nil || said != tt.aborted {
				t.Errorf("%+v %v", s, err)
			}
		})
	}
}
