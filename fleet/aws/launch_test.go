package aws

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
)

// booting are machines whose first boot takes a while; those in fails end badly.
type booting struct {
	mu      sync.Mutex
	started map[string]time.Time
	fails   bool
}

func (b *booting) Start(m awstest.Machine) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.started[m.ID] = time.Now()
	return "203.0.113.1", nil
}
func (b *booting) Stop(string) error { return nil }

func (b *booting) Console(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	up := time.Since(b.started[id])
	out := "Linux version 5.4\n"
	if up > 20*time.Second {
		out += "[   20.1] " + runner.Report{State: runner.Booting, Step: "register", Runner: "r"}.ConsoleLine()
	}
	switch {
	case up > 30*time.Second && b.fails:
		out += runner.Report{State: runner.Failed, Step: "register", Runner: "r", Error: "403 Forbidden: the token is not valid"}.ConsoleLine()
	case up > 30*time.Second:
		out += runner.Report{State: runner.Online, Runner: "r", InstanceID: id}.ConsoleLine()
	}
	return out
}

func setup(t *testing.T, o awstest.Options) (*awstest.Server, LaunchOptions) {
	t.Helper()
	s := awstest.New(o)
	s.AddRole("dorunner")
	cfg := sdk.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""),
		HTTPClient: &http.Client{Transport: s.Transport(), Timeout: 30 * time.Second}, BaseEndpoint: sdk.String("http://aws.test")}
	tags := map[string]string{"dorunner:bake-id": "b", "dorunner:family": "dorunner-ubuntu-20.04-"}
	s.AddOwnImage("us-east-1", "dorunner-ubuntu-20.04-aaa", "x86_64", time.Now().Add(-2*time.Hour), tags)
	s.AddOwnImage("us-east-1", "dorunner-ubuntu-20.04-bbb", "x86_64", time.Now().Add(-time.Hour), tags)
	return s, LaunchOptions{Config: cfg, Image: "latest", Family: "dorunner-ubuntu-20.04-", Arch: "amd64", Count: 2, Sizes: []string{"t3a.xlarge", "m6a.xlarge"}, DiskGB: 50,
		VolumeRate: 200, InstanceProfile: "dorunner", Name: "dataops-runner-dublin", Tags: map[string]string{"team": "data"}, UserData: []byte("#cloud-config\n"), Token: "t",
		Info: func(string, ...any) {}}
}

func TestLaunch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, o := setup(t, awstest.Options{Consistency: 2 * time.Second, Delays: awstest.Delays{Run: 8 * time.Second}, NoCapacity: []string{"*/t3a.xlarge"}, Machines: &booting{started: map[string]time.Time{}}})
		machines, err := Launch(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var steps []string
		if err := WaitOnline(t.Context(), o.Config, machines, 5*time.Minute, func(m *fleet.Machine) { steps = append(steps, m.Report.State) }); err != nil {
			t.Fatal(err)
		}
		if len(machines) != 2 || machines[0].Took > 35*time.Second || strings.Join(steps, " ") != "booting booting online online" {
			t.Errorf("machines %+v, steps %v", machines[0], steps)
		}
		for _, c := range s.Complaints() {
			t.Error(c)
		}
		for _, c := range s.Calls() {
			if c.Action == "RunInstances" && (c.Params.Get("MetadataOptions.InstanceMetadataTags") != "enabled" || c.Params.Get("MetadataOptions.HttpTokens") != "required" ||
				c.Params.Get("BlockDeviceMapping.1.Ebs.VolumeInitializationRate") != "200" || c.Params.Get("InstanceInitiatedShutdownBehavior") != "") {
				t.Errorf("RunInstances %v", c.Params)
			}
		}
	})
}

// TestLaunchPolicy: the documented policy suffices, and starts nothing but baked images.
func TestLaunchPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doc, err := os.ReadFile("../../docs/aws.md")
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(doc), "<!-- policy: launch -->\n```json\n")
		text, _, _ = strings.Cut(text, "```")
		policy, err := awstest.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		s, o := setup(t, awstest.Options{Policy: policy, Machines: &booting{started: map[string]time.Time{}}})
		machines, err := Launch(t.Context(), o)
		if err == nil {
			err = WaitOnline(t.Context(), o.Config, machines, 5*time.Minute, func(*fleet.Machine) {})
		}
		if err != nil {
			t.Error(err)
		}
		other := s.AddOwnImage("us-east-1", "other", "x86_64", time.Now(), nil)
		_, err = aws.NewHouse(o.Config).EC2("us-east-1").RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: &other, InstanceType: "t3a.xlarge", MinCount: sdk.Int32(1), MaxCount: sdk.Int32(1)})
		if err == nil || !strings.Contains(err.Error(), "UnauthorizedOperation") {
			t.Errorf("any image may be started: %v", err)
		}
	})
}

func TestLaunchFailures(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*LaunchOptions, *awstest.Options)
		want   string
	}{
		{"first boot fails", func(*LaunchOptions, *awstest.Options) {}, "failed at register: 403 Forbidden: the token is not valid"},
		{"no such image", func(o *LaunchOptions, _ *awstest.Options) { o.Image = "ami-0123456789abcdef0" }, "there is no image ami-0123456789abcdef0 in us-east-1"},
		{"no image of the spec", func(o *LaunchOptions, _ *awstest.Options) { o.Family = "other-" }, "there is no image of this spec for amd64 in us-east-1: bake one"},
		{"no capacity", func(_ *LaunchOptions, o *awstest.Options) { o.NoCapacity = []string{"*"} }, "Name more sizes, in order"},
		{"too much user-data", func(o *LaunchOptions, _ *awstest.Options) { o.UserData = make([]byte, 16384) }, "has 16384 bytes and EC2 takes 16383"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, o := setup(t, awstest.Options{Machines: &booting{started: map[string]time.Time{}, fails: true}})
				s.Configure(func(so *awstest.Options) { tt.change(&o, so) })
				machines, err := Launch(t.Context(), o)
				if err == nil {
					err = WaitOnline(t.Context(), o.Config, machines, 5*time.Minute, func(*fleet.Machine) {})
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}
