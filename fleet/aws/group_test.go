package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

// world is an account, the machines in it, and a spec of a fleet.
type world struct {
	t        *testing.T
	s        *awstest.Server
	spec     images.Spec
	how      fleet.How
	machines *machines
	dir      string
	told     strings.Builder
	good     string // the newest image
	family   map[string]string
}

// newWorld is an account with a baked image. Its machines take 40 s to be online, and jobs none to finish.
func newWorld(t *testing.T, o awstest.Options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), machines: &machines{started: map[string]time.Time{}, broken: map[string]bool{}}}
	t.Setenv("DORUNNER_STATE_DIR", w.dir)
	o.Machines = w.machines
	if o.PageSize == 0 {
		o.PageSize = 3
	}
	if o.Delays == (awstest.Delays{}) {
		o.Delays = awstest.Delays{Run: 10 * time.Second, Terminate: 20 * time.Second}
	}
	w.s = awstest.New(o)
	w.machines.cloud = w.config("baker")
	ctx, cancel := context.WithCancel(t.Context())
	w.machines.ctx = ctx
	t.Cleanup(cancel)
	w.spec = images.Spec{Runner: runner.Spec{Name: "dublin", URL: "http://gitlab", Token: must(runner.ParseSecret("ssm:/dorunner/token"))},
		AWS: images.AWS{Tags: map[string]string{"team": "data"}}, Fleet: images.Fleet{Min: 1, Max: 6, InstanceProfile: images.CreateProfile, Sizes: []string{"t3a.xlarge", "m6a.xlarge"}}}
	family, err := aws.Family(w.plan())
	if err != nil {
		t.Fatal(err)
	}
	w.family = map[string]string{"dorunner:bake-id": "b", "dorunner:family": family}
	w.good = w.image("first")
	return w
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// image bakes one.
func (w *world) image(name string) string {
	time.Sleep(time.Second)
	return w.s.AddOwnImage("us-east-1", name, "x86_64", time.Now(), w.family)
}

func (w *world) config(who string) sdk.Config {
	return sdk.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(who, "secret", ""),
		HTTPClient: &http.Client{Transport: w.s.Transport(), Timeout: 30 * time.Second}, BaseEndpoint: sdk.String("http://aws.test")}
}

func (w *world) plan() *images.Plan {
	w.t.Helper()
	p, err := images.Resolve(&w.spec, "aws", images.Options{Launch: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) group() *Group {
	w.t.Helper()
	g, err := fleet.NewGroup(w.plan())
	if err != nil {
		w.t.Fatal(err)
	}
	w.how.Info = func(string, ...any) {}
	return Open(w.config("baker"), g, w.how)
}

func (w *world) options() fleet.Options {
	p, _ := builder.NewProgress(&w.told, builder.ProgressOptions{Kind: "plain", NoColor: true})
	return fleet.Options{Progress: p, Ledger: filepath.Join(w.dir, "ledger.jsonl")}
}

func (w *world) apply(ctx context.Context) ([]fleet.Change, error) {
	c := w.group()
	return fleet.Apply(ctx, c.g, c, w.options())
}

func (w *world) destroy(ctx context.Context) error {
	c := w.group()
	return fleet.Destroy(ctx, c.g, c, w.options())
}

func (w *world) mustApply() []fleet.Change {
	w.t.Helper()
	changes, err := w.apply(w.t.Context())
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.told.String())
	}
	return changes
}

func (w *world) census() *fleet.Census {
	w.t.Helper()
	s, err := w.group().Census(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// end asserts that nothing was guessed.
func (w *world) end() {
	w.t.Helper()
	if c := w.s.Complaints(); len(c) > 0 {
		w.t.Errorf("complaints: %q", c)
	}
}

// changed lists the calls, from one on, that did more than look.
func (w *world) changed(from int) []string {
	var out []string
	for _, c := range w.s.Calls()[from:] {
		if !strings.HasPrefix(c.Action, "Describe") && !strings.HasPrefix(c.Action, "Get") && !strings.HasPrefix(c.Action, "List") && !c.DryRun {
			out = append(out, c.Action)
		}
	}
	return out
}

func kinds(changes []fleet.Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, string(c.Action)+" "+c.Kind)
	}
	return strings.Join(out, ", ")
}

// machines do what first boot does, as the group sees it: they complete the launch hook when they are online, and the
// terminate hook when their job is done.
type machines struct {
	cloud sdk.Config
	ctx   context.Context
	quiet bool // they complete nothing

	mu      sync.Mutex
	started map[string]time.Time
	broken  map[string]bool // images whose first boot fails
	images  map[string]string
	job     time.Duration // that runs on each when it is to go
}

func (m *machines) Start(i awstest.Machine) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started[i.ID] = time.Now()
	if m.images == nil {
		m.images = map[string]string{}
	}
	m.images[i.ID] = i.ImageID
	if !m.quiet {
		go m.live(i.ID, m.broken[i.ImageID])
	}
	return "203.0.113.1", nil
}

func (m *machines) Stop(string) error { return nil }

func (m *machines) live(id string, broken bool) {
	asg := autoscaling.NewFromConfig(m.cloud)
	sleep := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-m.ctx.Done():
			return false
		}
	}
	complete := func(hook, result string) bool {
		_, err := asg.CompleteLifecycleAction(m.ctx, &autoscaling.CompleteLifecycleActionInput{AutoScalingGroupName: sdk.String("dorunner-dublin"), LifecycleHookName: &hook, InstanceId: &id, LifecycleActionResult: &result})
		return err == nil
	}
	result := "CONTINUE"
	if broken {
		result = "ABANDON"
	}
	for range 20 { // until the hook waits for it
		if !sleep(40 * time.Second) {
			return
		}
		if complete(runner.LaunchHook, result) {
			break
		}
	}
	for sleep(5 * time.Second) {
		out, err := asg.DescribeAutoScalingInstances(m.ctx, &autoscaling.DescribeAutoScalingInstancesInput{InstanceIds: []string{id}})
		if err != nil || len(out.AutoScalingInstances) == 0 {
			return
		}
		if sdk.ToString(out.AutoScalingInstances[0].LifecycleState) == "Terminating:Wait" {
			sleep(m.job)
			complete(runner.TerminateHook, "CONTINUE")
			return
		}
	}
}

func (m *machines) Console(id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case time.Since(m.started[id]) < 40*time.Second:
		return "Linux version 5.4\n"
	case m.broken[m.images[id]]:
		return runner.Report{State: runner.Failed, Step: "docker", Runner: "dublin", InstanceID: id, Error: "no docker"}.ConsoleLine()
	}
	return runner.Report{State: runner.Online, Runner: "dublin", InstanceID: id}.ConsoleLine()
}

// From nothing to a group, and nothing more the second time; whatever EC2 is slow to tell.
func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{Consistency: 3 * time.Second})
		w.spec.Fleet.VolumeRate, w.spec.Fleet.SpotShare, w.spec.Fleet.Autoscale = 200, 50, 70
		two := 2
		w.spec.Fleet.Schedule = []images.Schedule{{Cron: "0 7 * * 1-5", Timezone: "Europe/Dublin", Min: &two}}
		changes := w.mustApply()
		if got := kinds(changes); got != "create role, create role policy, create instance profile, create security group, create launch template, create auto scaling group, create scheduled action, create scaling policy" {
			t.Error(got)
		}
		if s := w.census(); !s.Settled() || s.Desired != 1 || len(s.Members) != 1 || s.Members[0].Image != w.good || s.Members[0].Baked.IsZero() || s.Members[0].Outdated {
			t.Errorf("%s: %+v", s, s.Members[0])
		}
		if _, err := os.Stat(filepath.Join(w.dir, "ledger.jsonl")); err == nil {
			t.Error("the ledger of a finished apply stays")
		}
		for _, c := range w.s.Calls() {
			p := c.Params
			switch c.Action {
			case "CreateLaunchTemplate":
				for key, want := range map[string]string{"MetadataOptions.HttpTokens": "required", "MetadataOptions.HttpPutResponseHopLimit": "1", "MetadataOptions.InstanceMetadataTags": "enabled",
					"BlockDeviceMapping.1.Ebs.VolumeInitializationRate": "200", "BlockDeviceMapping.1.Ebs.Encrypted": "true", "ImageId": w.good} {
					if got := p.Get("LaunchTemplateData." + key); got != want {
						t.Errorf("%s is %q", key, got)
					}
				}
			case "CreateAutoScalingGroup":
				for key, want := range map[string]string{"MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification.Version": "1", "MixedInstancesPolicy.InstancesDistribution.SpotAllocationStrategy": "price-capacity-optimized",
					"CapacityRebalance": "true", "MixedInstancesPolicy.InstancesDistribution.OnDemandPercentageAboveBaseCapacity": "50"} {
					if got := p.Get(key); got != want {
						t.Errorf("%s is %q", key, got)
					}
				}
			}
		}
		n := len(w.s.Calls())
		if changes := w.mustApply(); len(changes) > 0 || len(w.changed(n)) > 0 {
			t.Errorf("a second apply: %s %v", kinds(changes), w.changed(n))
		}
		w.end()
	})
}

// Each part of the spec that changes is changed in the cloud, by the smallest means, and then is as the spec has it.
func TestUpdate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*images.Spec)
		want   string
	}{
		{"sizes of the group", func(s *images.Spec) { s.Fleet.Max = 9 }, "update auto scaling group"},
		{"fewest machines", func(s *images.Spec) { s.Fleet.Min = 2 }, "update auto scaling group"},
		{"spot", func(s *images.Spec) { s.Fleet.SpotShare = 50 }, "update auto scaling group"},
		{"machines", func(s *images.Spec) { n := 3; s.Fleet.Desired = &n }, "update auto scaling group"},
		{"disk", func(s *images.Spec) { s.Image.DiskGB = 80 }, "update launch template, roll machines of"},
		{"volume rate", func(s *images.Spec) { s.Fleet.VolumeRate = 300 }, "update launch template, roll machines of"},
		{"types", func(s *images.Spec) { s.Fleet.Sizes = []string{"m6a.xlarge"} }, "update launch template, roll machines of"},
		{"user-data", func(s *images.Spec) { s.Runner.Tags = []string{"dublin", "big"} }, "update launch template, roll machines of"},
		{"token", func(s *images.Spec) { s.Runner.Token = must(runner.ParseSecret("ssm:/dorunner/other")) }, "update role policy, update launch template, roll machines of"},
		{"tags", func(s *images.Spec) { s.AWS.Tags = map[string]string{"team": "ops"} }, "update launch template, update auto scaling group, roll machines of"},
		{"boot time", func(s *images.Spec) { s.Runner.BootTimeout = runner.Duration(30 * time.Minute) }, "update launch template, update lifecycle hook, roll machines of"},
		{"autoscaling", func(s *images.Spec) { s.Fleet.Autoscale = 60 }, "update role policy, update launch template, create scaling policy, roll machines of"},
		{"schedule", func(s *images.Spec) {
			n := 2
			s.Fleet.Schedule = []images.Schedule{{Cron: "0 7 * * *", Desired: &n}}
		}, "create scheduled action"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, awstest.Options{})
				w.mustApply()
				tt.change(&w.spec)
				if got := kinds(w.mustApply()); got != tt.want {
					t.Errorf("%s\n%s", got, w.told.String())
				}
				if got := kinds(w.mustApply()); got != "" {
					t.Errorf("again: %s", got)
				}
				w.end()
			})
		})
	}
}

// The cloud's decisions about the number of machines are left alone.
func TestScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{})
		w.mustApply()
		c := w.group()
		if err := fleet.Scale(t.Context(), c.g, c, 9, w.options()); err == nil || !strings.Contains(err.Error(), "between 1 and 6") {
			t.Error(err)
		}
		if err := fleet.Scale(t.Context(), c.g, c, 4, w.options()); err != nil {
			t.Fatal(err)
		}
		if s := w.census(); s.In(fleet.Serving) != 4 {
			t.Error(s)
		}
		if got := kinds(w.mustApply()); got != "" || w.census().Desired != 4 {
			t.Errorf("apply: %s, %d machines", got, w.census().Desired)
		}
		if err := fleet.Scale(t.Context(), c.g, c, 1, w.options()); err != nil || w.census().In(fleet.Serving) != 1 {
			t.Errorf("%v %s", err, w.census())
		}
		w.end()
	})
}

// A roll keeps all machines in service throughout; one to an image that does not boot is taken back, and the old
// machines have served on.
func TestRoll(t *testing.T) {
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprintf("broken %v", broken), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, awstest.Options{RefreshPatience: time.Hour})
				w.spec.Fleet.Min = 4
				w.mustApply()
				next := w.image("second")
				w.machines.broken[next] = broken
				w.machines.job = 3 * time.Minute
				least, stop := 100, make(chan struct{})
				watched := make(chan struct{})
				go func() {
					defer close(watched)
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Second):
						}
						if s, err := w.group().Census(t.Context()); err == nil {
							least = min(least, s.In(fleet.Serving))
						}
					}
				}()
				began := time.Now()
				changes, err := w.apply(t.Context())
				close(stop)
				<-watched
				if least < 4 {
					t.Errorf("only %d machines were in service", least)
				}
				t.Logf("%s in %s: at least %d of 4 in service\n%s", kinds(changes), time.Since(began), least, w.told.String())
				time.Sleep(30 * time.Minute)
				s := w.census()
				for _, m := range s.Members {
					if want := map[bool]string{true: w.good, false: next}[broken]; m.Image != want {
						t.Errorf("%s is of %s", m.ID, m.Image)
					}
				}
				if s.In(fleet.Serving) != 4 || len(s.Members) != 4 {
					t.Error(s)
				}
				if broken && (err == nil || !strings.Contains(err.Error(), "failed at docker: no docker")) || !broken && err != nil {
					t.Error(err)
				}
				if broken && time.Since(began) > 45*time.Minute {
					t.Error("it took long to give up")
				}
				w.end()
			})
		})
	}
}

// onlyImages asserts that nothing of the fleet is left.
func (w *world) onlyImages(and ...string) {
	w.t.Helper()
	time.Sleep(time.Minute)
	for _, l := range w.s.Left() {
		if strings.Contains(l, "ami-") || strings.Contains(l, "snap-") || slices.ContainsFunc(and, func(a string) bool { return strings.Contains(l, a) }) {
			continue
		}
		w.t.Errorf("left: %s", l)
	}
}

// TestFaultAtEveryCall interferes at call N of each verb: the same command, called again, ends where it would have.
func TestFaultAtEveryCall(t *testing.T) {
	step := 5
	switch {
	case testing.Short():
		step = 17
	case os.Getenv("DORUNNER_SOAK") != "":
		step = 1
	}
	for _, verb := range []string{"apply", "roll", "destroy"} {
		for _, fault := range []string{"refused", "lost", "cancelled", "killed"} {
			t.Run(verb+" "+fault, func(t *testing.T) {
				n, over := 1, false
				for ; !over && !t.Failed(); n += step {
					synctest.Test(t, func(t *testing.T) { over = faulty(t, verb, fault, n) })
				}
				t.Logf("to call %d", n)
			})
		}
	}
}

// faulty has a verb suffer at its N-th call, and says whether the verb was over before.
func faulty(t *testing.T, verb, fault string, n int) (over bool) {
	w := newWorld(t, awstest.Options{Consistency: 2 * time.Second, RefreshPatience: time.Hour})
	w.spec.Fleet.Min = 2
	run := func(ctx context.Context) error { _, err := w.apply(ctx); return err }
	image := w.good
	switch verb {
	case "destroy":
		w.mustApply()
		run = w.destroy
	case "roll":
		w.mustApply()
		image = w.image("second")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before, reached, dead := len(w.s.Calls()), false, false
	w.s.OnCall = func(c awstest.Call) awstest.Reaction {
		if reached || c.N-before != n {
			return awstest.Reaction{Dead: dead}
		}
		reached = true
		switch fault {
		case "refused":
			return awstest.Reaction{Error: &awstest.Error{Status: 403, Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation."}}
		case "killed":
			dead = true
			fallthrough
		case "cancelled":
			cancel()
		}
		return awstest.Reaction{Lose: true} // it happened
	}
	err := run(ctx)
	w.s.OnCall = nil
	if err != nil && (!reached || fault == "lost") {
		t.Errorf("call %d: %v", n, err)
	}
	if err := run(t.Context()); err != nil {
		t.Errorf("call %d: again: %v", n, err)
	}
	if verb != "destroy" {
		time.Sleep(5 * time.Minute) // a roll that was left to the cloud
		s := w.census()
		for _, m := range s.Members {
			if m.Image != image {
				t.Errorf("call %d: %s is of %s", n, m.ID, m.Image)
			}
		}
		if !s.Settled() || len(s.Members) != 2 {
			t.Errorf("call %d: %v", n, s)
		}
		if got := kinds(w.mustApply()); got != "" {
			t.Errorf("call %d: afterwards: %s", n, got)
		}
		if err := w.destroy(t.Context()); err != nil {
			t.Errorf("call %d: %v", n, err)
		}
	}
	w.onlyImages()
	w.end()
	return !reached
}

// What has our name and not our tag is somebody else's: it is neither used nor removed.
func TestForeign(t *testing.T) {
	for name, make := range map[string]func(w *world) error{
		"security group": func(w *world) error {
			_, err := ec2.NewFromConfig(w.config("other")).CreateSecurityGroup(w.t.Context(), &ec2.CreateSecurityGroupInput{GroupName: sdk.String("dorunner-dublin"), Description: sdk.String("theirs"), VpcId: sdk.String(w.vpc())})
			return err
		},
		"role": func(w *world) error {
			_, err := iam.NewFromConfig(w.config("other")).CreateRole(w.t.Context(), &iam.CreateRoleInput{RoleName: sdk.String("dorunner-dublin-us-east-1"), AssumeRolePolicyDocument: sdk.String(trust())})
			return err
		},
		"launch template": func(w *world) error {
			_, err := ec2.NewFromConfig(w.config("other")).CreateLaunchTemplate(w.t.Context(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: sdk.String("dorunner-dublin"),
				LaunchTemplateData: &ec2types.RequestLaunchTemplateData{ImageId: sdk.String(w.image("theirs")), InstanceType: ec2types.InstanceTypeT3aLarge}})
			return err
		},
		"group": func(w *world) error {
			c := w.config("other")
			_, err := ec2.NewFromConfig(c).CreateLaunchTemplate(w.t.Context(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: sdk.String("theirs"),
				LaunchTemplateData: &ec2types.RequestLaunchTemplateData{ImageId: sdk.String(w.image("theirs")), InstanceType: ec2types.InstanceTypeT3aLarge}})
			if err != nil {
				return err
			}
			_, err = autoscaling.NewFromConfig(c).CreateAutoScalingGroup(w.t.Context(), &autoscaling.CreateAutoScalingGroupInput{AutoScalingGroupName: sdk.String("dorunner-dublin"), MinSize: sdk.Int32(0), MaxSize: sdk.Int32(0),
				VPCZoneIdentifier: sdk.String("subnet-us-east-1a"), LaunchTemplate: &types.LaunchTemplateSpecification{LaunchTemplateName: sdk.String("theirs"), Version: sdk.String("1")}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, awstest.Options{})
				if err := make(w); err != nil {
					t.Fatal(err)
				}
				before := w.s.Left()
				if _, err := w.apply(t.Context()); err == nil || !strings.Contains(err.Error(), "that is not this fleet's") {
					t.Error(err)
				}
				if err := w.destroy(t.Context()); err != nil {
					t.Error(err)
				}
				if after := w.s.Left(); !slices.Equal(before, after) {
					t.Errorf("before %v, after %v", before, after)
				}
				// Beside them, a fleet of another name comes and goes.
				w.spec.Fleet.Name = "other"
				w.machines.quiet = true
				c := w.group()
				o := w.options()
				o.NoWait = true
				if _, err := fleet.Apply(t.Context(), c.g, c, o); err != nil {
					t.Fatal(err)
				}
				w.how.Now = true
				if err := w.destroy(t.Context()); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
				if after := w.s.Left(); !slices.Equal(before, after) {
					t.Errorf("before %v, after %v", before, after)
				}
				w.end()
			})
		})
	}
}

// vpc is the network that there is.
func (w *world) vpc() string {
	out := must(ec2.NewFromConfig(w.config("other")).DescribeSubnets(w.t.Context(), &ec2.DescribeSubnetsInput{}))
	return *out.Subnets[0].VpcId
}

// Destroy waits for jobs, and --now does not.
func TestDestroyDrains(t *testing.T) {
	for _, now := range []bool{false, true} {
		t.Run(fmt.Sprintf("now %v", now), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, awstest.Options{})
				w.mustApply()
				w.machines.job, w.how.Now = 4*time.Minute, now // below the hook's timeout: nobody beats here
				began := time.Now()
				if err := w.destroy(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); (took > 4*time.Minute) == now {
					t.Errorf("it took %s", took)
				}
				w.onlyImages()
				w.end()
			})
		})
	}
}

// documented joins the named policies of docs/fleets.md.
func documented(t *testing.T, names ...string) *awstest.Policy {
	t.Helper()
	p, err := awstest.Documented("../../docs/fleets.md", names...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The documented policies suffice for all verbs, and reach nothing of others.
func TestFleetPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{})
		w.machines.quiet = true // they have another policy
		w.s.Configure(func(o *awstest.Options) { o.Policy = documented(t, "fleet", "fleet-profile") })
		two := 2
		w.spec.Fleet.Autoscale = 70
		w.spec.Fleet.Schedule = []images.Schedule{{Cron: "0 7 * * 1-5", Min: &two}}
		apply := func() {
			t.Helper()
			c := w.group()
			o := w.options()
			o.NoWait = true
			if _, err := fleet.Apply(t.Context(), c.g, c, o); err != nil {
				t.Fatal(err)
			}
		}
		apply()
		w.spec.Fleet.Schedule, w.spec.Fleet.Autoscale, w.spec.Fleet.Max = nil, 0, 5
		w.spec.Runner.BootTimeout = runner.Duration(20 * time.Minute)
		w.spec.AWS.Tags = map[string]string{"team": "ops"}
		time.Sleep(15 * time.Second)
		apply()
		c := w.group()
		if err := c.Scale(t.Context(), 2); err != nil {
			t.Error(err)
		}
		if err := c.StopRoll(t.Context(), false); err != nil && !errors.Is(err, errNoRoll) {
			t.Error(err)
		}
		s := w.census()
		if _, err := c.Console(t.Context(), s.Members[0].ID); err != nil {
			t.Error(err)
		}
		if err := c.Replace(t.Context(), s.Members[0].ID); err != nil {
			t.Error(err)
		}
		w.how.Now = true
		if err := w.destroy(t.Context()); err != nil {
			t.Error(err)
		}
		w.onlyImages()

		client := ec2.NewFromConfig(w.config("baker"))
		image := w.good
		if _, err := client.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: &image, InstanceType: "t3a.xlarge", MinCount: sdk.Int32(1), MaxCount: sdk.Int32(1)}); !aws.IsCode(err, "UnauthorizedOperation") {
			t.Errorf("machines outside a fleet may be started: %v", err)
		}
		w.end()
	})
}

// The policy that is documented for machines is the one that they are given.
func TestMachinePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{})
		w.spec.Fleet.Autoscale = 70
		c := w.group()
		if err := c.identify(t.Context()); err != nil {
			t.Fatal(err)
		}
		doc, err := os.ReadFile("../../docs/fleets.md")
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(doc), "<!-- policy: machine -->")
		text, _, _ = strings.Cut(text, "\n```\n")
		for action := range allowed(c.permissions()) {
			if !strings.Contains(text, `"`+action+`"`) {
				t.Errorf("docs/fleets.md does not allow machines %s", action)
			}
		}
		for _, want := range []string{"arn:aws:ssm:us-east-1:123456789012:parameter/dorunner/token", "autoScalingGroupName/dorunner-dublin", "DORunner"} {
			if !strings.Contains(c.permissions(), want) {
				t.Errorf("no %s in %s", want, c.permissions())
			}
		}
		w.spec.Fleet.InstanceProfile = ""
		if _, err := w.group().Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "fleet.instance_profile is not set") {
			t.Error(err)
		}
		// The fleet's role can do no more than that.
		for _, ref := range []string{"secretsmanager:dublin/token#value", "ssm:token"} {
			w.spec.Runner.Token = must(runner.ParseSecret(ref))
			if text := w.named(c).permissions(); !strings.Contains(text, "123456789012:secret:dublin/token-??????") && !strings.Contains(text, "123456789012:parameter/token") {
				t.Error(text)
			}
		}
	})
}

// named is the group again, by a caller who is known.
func (w *world) named(c *Group) *Group {
	n := w.group()
	n.account, n.partition = c.account, c.partition
	return n
}
