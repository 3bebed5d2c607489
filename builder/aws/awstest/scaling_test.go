package awstest_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
)

const groupName = "runners"

// account is a test account with a launch template of two versions, of a good and of a broken image.
type account struct {
	t         *testing.T
	s         *awstest.Server
	asg       *autoscaling.Client
	ec2       *ec2.Client
	template  string
	good, bad string
}

func newAccount(t *testing.T, o awstest.Options) *account {
	t.Helper()
	a := &account{t: t, s: awstest.New(o)}
	cfg := aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: &http.Client{Transport: a.s.Transport()}}
	a.asg, a.ec2 = autoscaling.NewFromConfig(cfg), ec2.NewFromConfig(cfg)
	a.good = a.s.AddOwnImage("us-east-1", "good", "x86_64", time.Now(), nil)
	a.bad = a.s.AddOwnImage("us-east-1", "bad", "x86_64", time.Now(), nil)
	data := func(image string) *ec2types.RequestLaunchTemplateData {
		return &ec2types.RequestLaunchTemplateData{ImageId: &image, InstanceType: ec2types.InstanceTypeT3aXlarge, UserData: aws.String(base64.StdEncoding.EncodeToString([]byte("#cloud-config\n"))),
			MetadataOptions:     &ec2types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: ec2types.LaunchTemplateHttpTokensStateRequired, InstanceMetadataTags: ec2types.LaunchTemplateInstanceMetadataTagsStateEnabled},
			BlockDeviceMappings: []ec2types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String("/dev/sda1"), Ebs: &ec2types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(50), DeleteOnTermination: aws.Bool(true)}}},
			TagSpecifications:   []ec2types.LaunchTemplateTagSpecificationRequest{{ResourceType: ec2types.ResourceTypeInstance, Tags: []ec2types.Tag{{Key: aws.String("team"), Value: aws.String("data")}}}}}
	}
	made, err := a.ec2.CreateLaunchTemplate(t.Context(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String(groupName), LaunchTemplateData: data(a.good)})
	a.must(err)
	a.template = *made.LaunchTemplate.LaunchTemplateId
	_, err = a.ec2.CreateLaunchTemplateVersion(t.Context(), &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: &a.template, LaunchTemplateData: data(a.bad)})
	a.must(err)
	return a
}

func (a *account) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *account) policy(version string) *types.MixedInstancesPolicy {
	return &types.MixedInstancesPolicy{LaunchTemplate: &types.LaunchTemplate{
		LaunchTemplateSpecification: &types.LaunchTemplateSpecification{LaunchTemplateId: &a.template, Version: &version},
		Overrides:                   []types.LaunchTemplateOverrides{{InstanceType: aws.String("t3a.xlarge")}, {InstanceType: aws.String("m6a.xlarge")}},
	}}
}

func (a *account) create(n int32, hooks ...types.LifecycleHookSpecification) {
	a.t.Helper()
	_, err := a.asg.CreateAutoScalingGroup(a.t.Context(), &autoscaling.CreateAutoScalingGroupInput{AutoScalingGroupName: aws.String(groupName), MinSize: aws.Int32(0), MaxSize: aws.Int32(20), DesiredCapacity: &n,
		VPCZoneIdentifier: aws.String("subnet-us-east-1a,subnet-us-east-1b"), MixedInstancesPolicy: a.policy("1"), LifecycleHookSpecificationList: hooks,
		Tags: []types.Tag{{Key: aws.String("fleet"), Value: aws.String("x"), PropagateAtLaunch: aws.Bool(true), ResourceId: aws.String(groupName), ResourceType: aws.String("auto-scaling-group")}}})
	a.must(err)
}

func (a *account) group() *types.AutoScalingGroup {
	a.t.Helper()
	out, err := a.asg.DescribeAutoScalingGroups(a.t.Context(), &autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: []string{groupName}})
	a.must(err)
	if len(out.AutoScalingGroups) == 0 {
		return nil
	}
	return &out.AutoScalingGroups[0]
}

// states counts the members by their state.
func (a *account) states() string {
	a.t.Helper()
	g := a.group()
	if g == nil {
		return "none"
	}
	n := map[string]int{}
	for _, i := range g.Instances {
		n[string(i.LifecycleState)]++
	}
	var out []string
	for s, k := range n {
		out = append(out, fmt.Sprintf("%d %s", k, s))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (a *account) want(states string) {
	a.t.Helper()
	if got := a.states(); got != states {
		a.t.Fatalf("members: %s, not %s", got, states)
	}
}

func (a *account) complete(i types.Instance, hook, result string) error {
	_, err := a.asg.CompleteLifecycleAction(a.t.Context(), &autoscaling.CompleteLifecycleActionInput{AutoScalingGroupName: aws.String(groupName), LifecycleHookName: &hook, InstanceId: i.InstanceId, LifecycleActionResult: &result})
	return err
}

func (a *account) end() {
	a.t.Helper()
	if c := a.s.Complaints(); len(c) > 0 {
		a.t.Errorf("complaints: %q", c)
	}
}

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode() + ": " + api.ErrorMessage()
	}
	return fmt.Sprint(err)
}

var (
	onLaunch = types.LifecycleHookSpecification{LifecycleHookName: aws.String("up"), LifecycleTransition: aws.String("autoscaling:EC2_INSTANCE_LAUNCHING"), DefaultResult: aws.String("ABANDON"), HeartbeatTimeout: aws.Int32(300)}
	onEnd    = types.LifecycleHookSpecification{LifecycleHookName: aws.String("down"), LifecycleTransition: aws.String("autoscaling:EC2_INSTANCE_TERMINATING"), DefaultResult: aws.String("CONTINUE"), HeartbeatTimeout: aws.Int32(60)}
)

func TestLifecycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, awstest.Options{PageSize: 100, Delays: awstest.Delays{Run: 10 * time.Second, Terminate: 20 * time.Second, Proceed: time.Second}})
		a.create(2, onLaunch, onEnd)
		a.want("2 Pending")
		time.Sleep(11 * time.Second)
		a.want("2 Pending:Wait")
		first := a.group().Instances
		_, err := a.asg.SetInstanceProtection(t.Context(), &autoscaling.SetInstanceProtectionInput{AutoScalingGroupName: aws.String(groupName), InstanceIds: []string{*first[0].InstanceId}, ProtectedFromScaleIn: aws.Bool(true)})
		if !strings.Contains(code(err), "is not in InService") {
			t.Error(code(err))
		}
		a.must(a.complete(first[0], "up", "CONTINUE"))
		a.want("1 Pending:Proceed, 1 Pending:Wait")
		if err := a.complete(first[0], "up", "CONTINUE"); !strings.Contains(code(err), "ValidationError: No active Lifecycle Action found with instance ID") {
			t.Error(code(err))
		}
		time.Sleep(time.Second)
		a.want("1 InService, 1 Pending:Wait")

		// The other is given up when its time is over; it goes through the terminate hook, and is replaced.
		time.Sleep(300 * time.Second)
		a.want("1 InService, 1 Terminating:Wait")
		time.Sleep(60 * time.Second)
		a.want("1 InService, 1 Pending:Wait, 1 Terminating:Proceed")
		time.Sleep(time.Minute)
		a.want("1 InService, 1 Pending:Wait")
		second := a.group().Instances[1]
		if *second.InstanceId == *first[1].InstanceId {
			t.Error("it came back")
		}
		a.must(a.complete(second, "up", "CONTINUE"))
		time.Sleep(time.Second)
		a.want("2 InService")
		if n := a.group().Instances; *n[0].AvailabilityZone == *n[1].AvailabilityZone {
			t.Error("both in one zone")
		}

		// Scale-in spares who is protected, and a heartbeat gives more time.
		_, err = a.asg.SetInstanceProtection(t.Context(), &autoscaling.SetInstanceProtectionInput{AutoScalingGroupName: aws.String(groupName), InstanceIds: []string{*first[0].InstanceId, *second.InstanceId}, ProtectedFromScaleIn: aws.Bool(true)})
		a.must(err)
		_, err = a.asg.SetDesiredCapacity(t.Context(), &autoscaling.SetDesiredCapacityInput{AutoScalingGroupName: aws.String(groupName), DesiredCapacity: aws.Int32(1)})
		a.must(err)
		time.Sleep(time.Hour)
		a.want("2 InService")
		_, err = a.asg.SetInstanceProtection(t.Context(), &autoscaling.SetInstanceProtectionInput{AutoScalingGroupName: aws.String(groupName), InstanceIds: []string{*first[0].InstanceId}, ProtectedFromScaleIn: aws.Bool(false)})
		a.must(err)
		a.want("1 InService, 1 Terminating:Wait")
		for range 10 {
			time.Sleep(50 * time.Second)
			_, err = a.asg.RecordLifecycleActionHeartbeat(t.Context(), &autoscaling.RecordLifecycleActionHeartbeatInput{AutoScalingGroupName: aws.String(groupName), LifecycleHookName: aws.String("down"), InstanceId: first[0].InstanceId})
			a.must(err)
			a.want("1 InService, 1 Terminating:Wait")
		}
		time.Sleep(time.Minute)
		a.want("1 InService, 1 Terminating:Proceed")
		time.Sleep(21 * time.Second)
		a.want("1 InService")

		// A machine that somebody else ends is replaced, at once.
		_, err = a.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{*second.InstanceId}})
		a.must(err)
		a.want("1 Pending, 1 Terminating:Proceed")

		_, err = a.asg.DeleteAutoScalingGroup(t.Context(), &autoscaling.DeleteAutoScalingGroupInput{AutoScalingGroupName: aws.String(groupName)})
		if !strings.HasPrefix(code(err), "ResourceInUse") {
			t.Error(code(err))
		}
		_, err = a.asg.DeleteAutoScalingGroup(t.Context(), &autoscaling.DeleteAutoScalingGroupInput{AutoScalingGroupName: aws.String(groupName), ForceDelete: aws.Bool(true)})
		a.must(err)
		if got := aws.ToString(a.group().Status); got != "Delete in progress" {
			t.Error(got)
		}
		time.Sleep(time.Minute)
		a.want("none")
		a.end()
	})
}

// play has every member that waits at the launch hook come up, or be given up when it is of the broken image, and lets
// those go that end.
func (a *account) play(ctx context.Context, until time.Duration, look func(serving int)) {
	for end := time.Now().Add(until); time.Now().Before(end); time.Sleep(time.Second) {
		g := a.group()
		serving := 0
		for _, i := range g.Instances {
			switch i.LifecycleState {
			case types.LifecycleStatePendingWait:
				result := "CONTINUE"
				if *i.LaunchTemplate.Version == "2" {
					result = "ABANDON"
				}
				if err := a.complete(i, "up", result); !strings.Contains(code(err), "No active") { // a rollback ends those that wait
					a.must(err)
				}
			case types.LifecycleStateTerminatingWait:
				a.must(a.complete(i, "down", "CONTINUE"))
			case types.LifecycleStateInService:
				serving++
			}
		}
		look(serving)
		if ctx.Err() != nil {
			return
		}
	}
}

func TestRefresh(t *testing.T) {
	prefs := func() *types.RefreshPreferences {
		return &types.RefreshPreferences{AutoRollback: aws.Bool(true), SkipMatching: aws.Bool(true), MinHealthyPercentage: aws.Int32(100), MaxHealthyPercentage: aws.Int32(125), InstanceWarmup: aws.Int32(0)}
	}
	for _, tt := range []struct {
		name    string
		version string
		change  func(*types.RefreshPreferences)
		code    string // of the refusal
		status  types.InstanceRefreshStatus
		newest  int // most members of the new version at once
		left    string
	}{
		{name: "good", version: "3", status: types.InstanceRefreshStatusSuccessful, newest: 8, left: "3"},
		{name: "broken", version: "2", status: types.InstanceRefreshStatusRollbackSuccessful, newest: 2, left: "1"},
		{name: "broken, by itself", version: "2", change: func(p *types.RefreshPreferences) { p.AutoRollback = nil }, status: types.InstanceRefreshStatusFailed, newest: 2, left: "1"},
		{name: "the same", version: "1", status: types.InstanceRefreshStatusSuccessful, newest: 8, left: "1"},
		{name: "half", version: "3", change: func(p *types.RefreshPreferences) {
			p.CheckpointPercentages, p.CheckpointDelay = []int32{50, 100}, aws.Int32(600)
		}, status: types.InstanceRefreshStatusSuccessful, newest: 8, left: "3"},
		{name: "latest", version: "$Latest", code: "ValidationError: Auto rollback is not supported for a launch template version of $Latest or $Default."},
		{name: "no such version", version: "9", code: "ValidationError: You must use a valid fully-formed launch template. Could not find"},
		{name: "no least", version: "3", change: func(p *types.RefreshPreferences) { p.MinHealthyPercentage = nil }, code: "ValidationError: MinHealthyPercentage must be specified"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAccount(t, awstest.Options{PageSize: 100, Delays: awstest.Delays{Run: 5 * time.Second, Terminate: 20 * time.Second, Proceed: time.Second}})
				third, err := a.ec2.CreateLaunchTemplateVersion(t.Context(), &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: &a.template, LaunchTemplateData: &ec2types.RequestLaunchTemplateData{ImageId: &a.good}})
				a.must(err)
				if n := *third.LaunchTemplateVersion.VersionNumber; n != 3 {
					t.Fatal(n)
				}
				a.create(8, onLaunch, onEnd)
				a.play(t.Context(), time.Minute, func(int) {})
				a.want("8 InService")
				p := prefs()
				if tt.change != nil {
					tt.change(p)
				}
				_, err = a.asg.StartInstanceRefresh(t.Context(), &autoscaling.StartInstanceRefreshInput{AutoScalingGroupName: aws.String(groupName), Preferences: p, DesiredConfiguration: &types.DesiredConfiguration{MixedInstancesPolicy: a.policy(tt.version)}})
				if tt.code != "" {
					if !strings.HasPrefix(code(err), tt.code) {
						t.Error(code(err))
					}
					a.end()
					return
				}
				a.must(err)
				least, newest := 8, 0
				a.play(t.Context(), 20*time.Minute, func(serving int) {
					least = min(least, serving)
					n := 0
					for _, i := range a.group().Instances {
						if *i.LaunchTemplate.Version == tt.version && !strings.HasPrefix(string(i.LifecycleState), "Terminating") {
							n++
						}
					}
					newest = max(newest, n)
				})
				out, err := a.asg.DescribeInstanceRefreshes(t.Context(), &autoscaling.DescribeInstanceRefreshesInput{AutoScalingGroupName: aws.String(groupName)})
				a.must(err)
				r := out.InstanceRefreshes[0]
				if tt.status == types.InstanceRefreshStatusFailed {
					least++ // without a rollback the one too many is ended like any other
				}
				if r.Status != tt.status || least < 8 || newest > tt.newest {
					t.Errorf("%s (%s), at least %d in service, at most %d new", r.Status, aws.ToString(r.StatusReason), least, newest)
				}
				a.want("8 InService")
				for _, i := range a.group().Instances {
					if *i.LaunchTemplate.Version != tt.left {
						t.Errorf("a member has version %s", *i.LaunchTemplate.Version)
					}
				}
				if v := *a.group().MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification.Version; v != tt.left {
					t.Errorf("the group has version %s", v)
				}
				if len(p.CheckpointPercentages) > 0 && r.EndTime.Sub(*r.StartTime) < 10*time.Minute {
					t.Errorf("it did not wait at its checkpoint: %s", r.EndTime.Sub(*r.StartTime))
				}
				a.end()
			})
		})
	}
}

func TestScheduleAndTracking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, awstest.Options{PageSize: 100})
		a.create(1)
		_, err := a.asg.PutScheduledUpdateGroupAction(t.Context(), &autoscaling.PutScheduledUpdateGroupActionInput{AutoScalingGroupName: aws.String(groupName), ScheduledActionName: aws.String("morning"),
			Recurrence: aws.String("30 7 * * 1-5"), TimeZone: aws.String("Europe/Dublin"), DesiredCapacity: aws.Int32(5)})
		a.must(err)
		_, err = a.asg.PutScheduledUpdateGroupAction(t.Context(), &autoscaling.PutScheduledUpdateGroupActionInput{AutoScalingGroupName: aws.String(groupName), ScheduledActionName: aws.String("never"),
			Recurrence: aws.String("61 7 * * *"), DesiredCapacity: aws.Int32(5)})
		if !strings.HasPrefix(code(err), "ValidationError: Given recurrence string") {
			t.Error(code(err))
		}
		time.Sleep(72 * time.Hour) // it begins on a Saturday
		a.want("5 InService")
		out, err := a.asg.DescribeScheduledActions(t.Context(), &autoscaling.DescribeScheduledActionsInput{AutoScalingGroupName: aws.String(groupName)})
		a.must(err)
		if at := out.ScheduledUpdateGroupActions[0].StartTime; at.Format("Mon 15:04 MST") != "Tue 07:30 UTC" {
			t.Error(at)
		}
		a.end()
	})
}

// What the server does not know is an error, and is remembered.
func TestStrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(t, awstest.Options{})
		_, err := a.asg.CreateAutoScalingGroup(t.Context(), &autoscaling.CreateAutoScalingGroupInput{AutoScalingGroupName: aws.String(groupName), MinSize: aws.Int32(0), MaxSize: aws.Int32(1),
			VPCZoneIdentifier: aws.String("subnet-us-east-1a"), MixedInstancesPolicy: a.policy("1"), PlacementGroup: aws.String("x")})
		if !strings.HasPrefix(code(err), "UnknownParameter") {
			t.Error(code(err))
		}
		if _, err := a.asg.DescribeWarmPool(t.Context(), &autoscaling.DescribeWarmPoolInput{AutoScalingGroupName: aws.String(groupName)}); !strings.HasPrefix(code(err), "InvalidAction") {
			t.Error(code(err))
		}
		if c := a.s.Complaints(); len(c) != 2 {
			t.Errorf("%q", c)
		}
	})
}
