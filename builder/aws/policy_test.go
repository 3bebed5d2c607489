package aws

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/images"
)

// documented joins the named policies of docs/aws.md.
func documented(t *testing.T, names ...string) *awstest.Policy {
	t.Helper()
	p, err := awstest.Documented("../../docs/aws.md", names...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPolicies: the documented policies suffice for everything that a bake does, giving back included.
func TestPolicies(t *testing.T) {
	everything := images.AWS{CopyTo: []string{"eu-west-1"}, KMSKey: "alias/runner", Share: []string{"210987654321"}, Publish: "/dorunner/ami",
		DeprecateAfter: 9, Protect: true, TestBoot: true, InstanceProfile: "baker", Keep: 1}
	for _, tt := range []struct {
		name     string
		spec     images.AWS
		policies []string
		disk     bool
		fails    bool
	}{
		{name: "plain", policies: []string{"bake"}},
		{name: "everything", spec: everything, policies: []string{"bake", "publish", "instance-profile"}},
		{name: "from disk", spec: images.AWS{CopyTo: []string{"eu-west-1"}}, policies: []string{"bake", "from-disk"}, disk: true},
		{name: "given back", spec: everything, policies: []string{"bake", "instance-profile"}, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
				w := newWorld(t, awstest.Options{Policy: documented(t, tt.policies...), Machines: selftest{}, Dir: t.TempDir(),
					Delays: awstest.Delays{Run: time.Second, Stop: time.Second, Image: 5 * time.Second, Terminate: time.Second}})
				w.spec.AWS = tt.spec
				if tt.fails {
					w.server.Configure(func(o *awstest.Options) { o.CopyError = map[string]string{"eu-west-1": "no"} })
				}
				for i := range 2 { // the second prunes the first
					w.spec.Image.DiskGB = 50 + i
					c := w.cloud()
					if tt.disk {
						c = w.publisher(diskWith(t, "bake"+string(rune('a'+i)), 1<<20, nil))
					}
					r := w.bakeWith(t.Context(), c)
					time.Sleep(time.Minute)
					if (r.err != nil) != tt.fails || r.err != nil && strings.Contains(r.err.Error(), "may not") {
						t.Fatal(r.err)
					}
				}
				if tt.fails && len(w.server.Left()) > 0 {
					t.Errorf("left %v", w.server.Left())
				}
			})
		})
	}
}

// TestPolicyIsLeast: what the policy is there to forbid is forbidden.
func TestPolicyIsLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{})
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		mine := w.server.Images()[0].ID
		w.server.Untag("us-east-1", mine) // somebody else's
		w.server.Configure(func(o *awstest.Options) { o.Policy = documented(t, "bake", "from-disk", "publish") })
		a := newAccount(w.config())
		if err := a.removeImage(t.Context(), "us-east-1", mine); !IsCode(err, "UnauthorizedOperation") {
			t.Errorf("an image that is not ours is removed: %v", err)
		}
		w.spec.AWS.InstanceProfile = "admin"
		w.spec.Image.DiskGB = 60
		if r := w.bake(context.Background()); r.err == nil || !strings.Contains(r.err.Error(), "iam:PassRole") {
			t.Errorf("any role may be passed: %v", r.err)
		}
	})
}

// TestRunnerPolicy: first boot may read its token, and nothing else.
func TestRunnerPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{Policy: documented(t, "runner")})
		a := newAccount(w.config())
		for name, want := range map[string]string{"/dorunner/token": "ParameterNotFound", "/other": "AccessDeniedException"} {
			if _, err := a.ssm("us-east-1").GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name}); !IsCode(err, want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := NewHouse(w.config()).Regions(t.Context()); err == nil {
			t.Error("it may look around in EC2")
		}
	})
}
