package aws

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/smithy-go"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
)

// tagFleet is what everything of a fleet's carries; its value is the fleet's name. Machines read tags that begin with
// "dorunner:" as keys of their spec, so this one does not.
const tagFleet = "dorunner-fleet"

// Group is a fleet on EC2 Auto Scaling. All that belongs to it has one name, and a tag that says that it is ours: what
// has only the name is somebody else's, and is left alone.
type Group struct {
	g      *fleet.Group
	how    fleet.How
	region string
	name   string
	house  *aws.House
	ec2    *ec2.Client
	asg    *autoscaling.Client
	iam    *iam.Client
	cfg    sdk.Config

	account, partition string // of the caller, once asked
	// What has been found or made so far, which later changes refer to.
	securityGroup string
	template      string // its id
	version       int64  // of the template, that the group is to use
}

var (
	_ fleet.Cloud      = (*Group)(nil)
	_ fleet.Roller     = (*Group)(nil)
	_ fleet.Scaler     = (*Group)(nil)
	_ fleet.Cleaner    = (*Group)(nil)
	_ fleet.Autoscaler = (*Group)(nil)
)

// Open reaches a fleet in an account; it asks nothing yet.
func Open(cfg sdk.Config, g *fleet.Group, how fleet.How) *Group {
	house := aws.NewHouse(cfg)
	cfg = house.Config()
	return &Group{g: g, how: how, region: cfg.Region, name: resourceName(g.Name), house: house, cfg: cfg,
		ec2: house.EC2(cfg.Region), asg: autoscaling.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg)}
}

// resourceName is the name of everything that belongs to a fleet.
func resourceName(name string) string { return "dorunner-" + name }

// short cuts a name to a length, and keeps it unique.
func short(name string, length int) string {
	if len(name) <= length {
		return name
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // it does not fail
	return fmt.Sprintf("%s-%08x", name[:length-9], h.Sum32())
}

// tags are what everything of the fleet's carries: the author's, then ours.
func (c *Group) tags() map[string]string {
	t := maps.Clone(c.g.Plan.Spec.AWS.Tags)
	if t == nil {
		t = map[string]string{}
	}
	t["Name"], t[tagFleet] = c.g.Name, c.g.Name
	return t
}

// notOurs is something that has our name and not our tag.
type notOurs struct{ say string }

func (n *notOurs) Error() string { return n.say }

func (c *Group) foreign(kind, name string) error {
	return &notOurs{fmt.Sprintf("there is %s %s that is not this fleet's (it has no tag %s=%s): give the fleet another name with fleet.name", kind, name, tagFleet, c.g.Name)}
}

// explain says what an error of AWS's means.
func (c *Group) explain(err error) error { return aws.Explain(c.region, err) }

// errNoProfile is for machines that could do nothing.
var errNoProfile = errors.New("fleet.instance_profile is not set: without one the machines can neither read their token nor tell their group that they are online; write create for one of the fleet's own, or name one (docs/fleets.md has what it must allow)")

// Plan reads the account and lists what differs from the spec, in the order in which things refer to each other.
func (c *Group) Plan(ctx context.Context) ([]fleet.Change, error) {
	if c.profile() == "" {
		return nil, errNoProfile
	}
	var all []fleet.Change
	for _, part := range []func(context.Context) ([]fleet.Change, error){
		c.planProfile,  // lets the machines read their token and talk to their group
		c.planNetwork,  // nothing may reach them
		c.planTemplate, // what each machine is: a new version for every difference
		c.planGroup,    // how many, where, from what; hooks, times, policy; then the replacement of old machines
	} {
		changes, err := part(ctx)
		if err != nil {
			return nil, c.explain(err)
		}
		all = append(all, changes...)
	}
	return all, nil
}

// describe finds the Auto Scaling group, nil when there is none, and an error when it is somebody else's.
func (c *Group) describe(ctx context.Context) (*types.AutoScalingGroup, error) {
	out, err := c.asg.DescribeAutoScalingGroups(ctx, &autoscaling.DescribeAutoScalingGroupsInput{AutoScalingGroupNames: []string{c.name}})
	if err != nil {
		return nil, err
	}
	if len(out.AutoScalingGroups) == 0 {
		return nil, nil
	}
	g := &out.AutoScalingGroups[0]
	if tagOf(g.Tags, tagFleet) != c.g.Name {
		return nil, c.foreign("an Auto Scaling group", c.name)
	}
	return g, nil
}

func tagOf(tags []types.TagDescription, key string) string {
	for _, t := range tags {
		if sdk.ToString(t.Key) == key {
			return sdk.ToString(t.Value)
		}
	}
	return ""
}

// The times of a lifecycle hook: EC2 Auto Scaling takes 30 to 7,200 s, and waits 100 of them at most.
const (
	shortestBeat = 300
	longestBeat  = 7200
)

// hook is one of the two that a machine completes: when its runner is online, and when it has drained.
type hook struct {
	name, transition, result string
	heartbeat                int32
}

func (c *Group) hooks() []hook {
	beat := func(d time.Duration) int32 { return int32(min(max(int(d.Seconds()), shortestBeat), longestBeat)) }
	return []hook{
		// A machine that does not come online in time is given up.
		{runner.LaunchHook, "autoscaling:EC2_INSTANCE_LAUNCHING", "ABANDON", beat(c.g.BootLimit())},
		// A draining machine asks for more time again and again; one that has died holds nothing up for long.
		{runner.TerminateHook, "autoscaling:EC2_INSTANCE_TERMINATING", "CONTINUE", beat(time.Duration(c.g.DrainTimeout) / 90)},
	}
}

// suspended is what the engine must not do: it ends machines to even out zones, whatever runs on them.
const suspended = "AZRebalance"

// warmup is for how many seconds a new machine does not count in the policy's average; it is online when it begins.
const warmup = 60

// policy is what the group is to use, for each machine that it starts.
func (c *Group) policy() *types.MixedInstancesPolicy {
	p := &types.MixedInstancesPolicy{
		InstancesDistribution: &types.InstancesDistribution{
			OnDemandAllocationStrategy:          sdk.String("prioritized"), // in the order of fleet.sizes
			OnDemandBaseCapacity:                sdk.Int32(int32(c.g.Min)),
			OnDemandPercentageAboveBaseCapacity: sdk.Int32(int32(100 - c.g.SpotShare)),
			SpotAllocationStrategy:              sdk.String("price-capacity-optimized"),
		},
		LaunchTemplate: &types.LaunchTemplate{LaunchTemplateSpecification: &types.LaunchTemplateSpecification{
			LaunchTemplateId: sdk.String(c.template), Version: sdk.String(fmt.Sprint(c.version)),
		}},
	}
	for _, s := range c.g.Sizes {
		p.LaunchTemplate.Overrides = append(p.LaunchTemplate.Overrides, types.LaunchTemplateOverrides{InstanceType: sdk.String(s)})
	}
	return p
}

// whole fills what a policy does not say, so that it can be read.
func whole(p *types.MixedInstancesPolicy) *types.MixedInstancesPolicy {
	out := types.MixedInstancesPolicy{}
	if p != nil {
		out = *p
	}
	if out.InstancesDistribution == nil {
		out.InstancesDistribution = &types.InstancesDistribution{}
	}
	if out.LaunchTemplate == nil {
		out.LaunchTemplate = &types.LaunchTemplate{}
	}
	if out.LaunchTemplate.LaunchTemplateSpecification == nil {
		out.LaunchTemplate.LaunchTemplateSpecification = &types.LaunchTemplateSpecification{}
	}
	return &out
}

// machineFields are what makes a machine another one, as people read it: it takes a roll to change.
func machineFields(f *fleet.Fields, have, want *types.MixedInstancesPolicy) {
	have = whole(have)
	f.Diff("template version", have.LaunchTemplate.LaunchTemplateSpecification.Version, want.LaunchTemplate.LaunchTemplateSpecification.Version)
	f.Diff("sizes", sizesOf(have), sizesOf(want))
}

// marketFields are how machines are bought, which running ones need not be replaced for.
func marketFields(f *fleet.Fields, have, want *types.MixedInstancesPolicy) {
	h, w := whole(have).InstancesDistribution, want.InstancesDistribution
	f.Diff("on demand at least", h.OnDemandBaseCapacity, w.OnDemandBaseCapacity)
	f.Diff("on demand above that, percent", h.OnDemandPercentageAboveBaseCapacity, w.OnDemandPercentageAboveBaseCapacity)
	f.Diff("spot strategy", h.SpotAllocationStrategy, w.SpotAllocationStrategy)
	f.Diff("on demand strategy", h.OnDemandAllocationStrategy, w.OnDemandAllocationStrategy)
}

func sizesOf(p *types.MixedInstancesPolicy) []string {
	var out []string
	for _, o := range p.LaunchTemplate.Overrides {
		out = append(out, sdk.ToString(o.InstanceType))
	}
	return out
}

// planGroup compares the Auto Scaling group and what hangs on it.
func (c *Group) planGroup(ctx context.Context) ([]fleet.Change, error) {
	have, err := c.describe(ctx)
	if err != nil {
		return nil, err
	}
	subnets, err := c.subnets(ctx)
	if err != nil {
		return nil, err
	}
	var zones []string
	for _, s := range subnets {
		zones = append(zones, sdk.ToString(s.SubnetId))
	}
	slices.Sort(zones)
	if have == nil {
		return c.planNew(ctx, zones)
	}
	if sdk.ToString(have.Status) != "" {
		return nil, fmt.Errorf("fleet %s is being removed (%s): wait until it is gone, or finish it with `dorunner-bake fleet destroy aws`", c.g.Name, *have.Status)
	}
	var changes []fleet.Change
	add := func(list []fleet.Change, err2 error) {
		changes, err = append(changes, list...), errors.Join(err, err2)
	}
	add(c.planUpdate(have, zones), nil)
	add(c.planHooks(ctx))
	add(c.planSuspend(have), nil)
	add(c.planTags(have), nil)
	add(c.planSchedule(ctx))
	add(c.planPolicy(ctx))
	add(c.planRoll(ctx, have))
	return changes, err
}

// rebalance says whether the engine starts a replacement when a spot machine is likely to be taken away. Jobs then have
// the drain's whole limit; on the notice itself they have two minutes.
func (c *Group) rebalance() bool { return c.g.SpotShare > 0 }

// planNew makes the group, whole from the start: its first machines already meet its hooks.
func (c *Group) planNew(ctx context.Context, zones []string) ([]fleet.Change, error) {
	var f fleet.Fields
	f.Set("machines", fmt.Sprintf("%d (min %d, max %d)", c.g.Initial(), c.g.Min, c.g.Max))
	f.Set("sizes", c.g.Sizes)
	f.Set("spot", fmt.Sprintf("%d %% above min", c.g.SpotShare))
	f.Set("subnets", zones)
	for _, h := range c.hooks() {
		f.Set("hook "+h.name, fmt.Sprintf("%d s, then %s", h.heartbeat, h.result))
	}
	if c.rebalance() {
		f.Set("capacity rebalance", "on: a spot machine that is likely to be taken drains before it is")
	}
	made := fleet.Change{Action: fleet.Create, Kind: "auto scaling group", Name: c.name, Fields: f,
		Do: func(ctx context.Context, created func(string) error) error {
			in := &autoscaling.CreateAutoScalingGroupInput{
				AutoScalingGroupName: &c.name, MinSize: sdk.Int32(int32(c.g.Min)), MaxSize: sdk.Int32(int32(c.g.Max)), DesiredCapacity: sdk.Int32(int32(c.g.Initial())),
				VPCZoneIdentifier: sdk.String(strings.Join(zones, ",")), MixedInstancesPolicy: c.policy(), CapacityRebalance: sdk.Bool(c.rebalance()),
				HealthCheckType: sdk.String("EC2"), HealthCheckGracePeriod: sdk.Int32(0), DefaultInstanceWarmup: sdk.Int32(warmup),
				NewInstancesProtectedFromScaleIn: sdk.Bool(false), Tags: c.groupTags(),
			}
			for _, h := range c.hooks() {
				in.LifecycleHookSpecificationList = append(in.LifecycleHookSpecificationList, types.LifecycleHookSpecification{
					LifecycleHookName: &h.name, LifecycleTransition: &h.transition, DefaultResult: &h.result, HeartbeatTimeout: &h.heartbeat})
			}
			err := c.patient(ctx, func(ctx context.Context) error {
				_, err := c.asg.CreateAutoScalingGroup(ctx, in)
				return err
			})
			if aws.IsCode(err, "AlreadyExists") { // by an attempt whose answer was lost; a foreign one was seen by Plan
				err = nil
			}
			if err != nil {
				return c.explain(err)
			}
			if err := created(c.name); err != nil {
				return err
			}
			_, err = c.asg.SuspendProcesses(ctx, &autoscaling.SuspendProcessesInput{AutoScalingGroupName: &c.name, ScalingProcesses: []string{suspended}})
			return c.explain(err)
		}}
	changes := []fleet.Change{made}
	schedule, err := c.planSchedule(ctx)
	if err != nil {
		return nil, err
	}
	policy, err := c.planPolicy(ctx)
	return append(append(changes, schedule...), policy...), err
}

// patient repeats a call that refers to something so new that not all of EC2 knows it.
func (c *Group) patient(ctx context.Context, call func(context.Context) error) error {
	return c.patientWith(ctx, call, func(err error) bool {
		var api smithy.APIError
		return errors.As(err, &api) && (strings.Contains(api.ErrorCode(), "NotFound") || api.ErrorCode() == "ValidationError" || api.ErrorCode() == "InvalidParameterValue") &&
			containsAny(strings.ToLower(api.ErrorMessage()), "instance profile", "launch template", "security group", "does not exist")
	})
}

// patientWith repeats a call for a minute while its error is one that passes.
func (c *Group) patientWith(ctx context.Context, call func(context.Context) error, passes func(error) bool) error {
	var last error
	err := aws.Until(ctx, "making "+c.name, time.Minute, func(ctx context.Context) (bool, error) {
		last = call(ctx)
		if last != nil && passes(last) {
			return false, nil
		}
		return true, last
	})
	if last != nil {
		return c.explain(last)
	}
	return err
}

func containsAny(text string, of ...string) bool {
	return slices.ContainsFunc(of, func(s string) bool { return strings.Contains(text, s) })
}

func (c *Group) groupTags() []types.Tag {
	var out []types.Tag
	tags := c.tags()
	for _, k := range slices.Sorted(maps.Keys(tags)) { // machines and volumes get theirs from the template
		out = append(out, types.Tag{Key: sdk.String(k), Value: sdk.String(tags[k]), ResourceId: &c.name, ResourceType: sdk.String("auto-scaling-group"), PropagateAtLaunch: sdk.Bool(false)})
	}
	return out
}

// planUpdate compares how many and where. What decides about the machines themselves is changed by a roll, so that the
// engine can come back from it; a group without machines takes it at once.
func (c *Group) planUpdate(have *types.AutoScalingGroup, zones []string) []fleet.Change {
	var f fleet.Fields
	in := &autoscaling.UpdateAutoScalingGroupInput{AutoScalingGroupName: &c.name}
	if f.Diff("min", have.MinSize, c.g.Min) {
		in.MinSize = sdk.Int32(int32(c.g.Min))
	}
	if f.Diff("max", have.MaxSize, c.g.Max) {
		in.MaxSize = sdk.Int32(int32(c.g.Max))
	}
	if !c.g.SelfSizing() {
		if f.Diff("machines", have.DesiredCapacity, *c.g.Desired) {
			in.DesiredCapacity = sdk.Int32(int32(*c.g.Desired))
		}
	}
	at := strings.Split(sdk.ToString(have.VPCZoneIdentifier), ",")
	slices.Sort(at)
	if f.Diff("subnets", at, zones) {
		in.VPCZoneIdentifier = sdk.String(strings.Join(zones, ","))
	}
	if f.Diff("capacity rebalance", sdk.ToBool(have.CapacityRebalance), c.rebalance()) {
		in.CapacityRebalance = sdk.Bool(c.rebalance())
	}
	if f.Diff("new machines protected", sdk.ToBool(have.NewInstancesProtectedFromScaleIn), false) {
		in.NewInstancesProtectedFromScaleIn = sdk.Bool(false)
	}
	if f.Diff("warmup, s", have.DefaultInstanceWarmup, warmup) {
		in.DefaultInstanceWarmup = sdk.Int32(warmup)
	}
	before := len(f)
	marketFields(&f, have.MixedInstancesPolicy, c.policy())
	if empty(have) {
		machineFields(&f, have.MixedInstancesPolicy, c.policy())
	}
	policy := len(f) > before
	if len(f) == 0 {
		return nil
	}
	return []fleet.Change{{Action: fleet.Update, Kind: "auto scaling group", Name: c.name, Fields: f,
		Do: func(ctx context.Context, _ func(string) error) error {
			if policy { // the version may not have existed before
				in.MixedInstancesPolicy = c.policy()
				if !empty(have) {
					in.MixedInstancesPolicy.LaunchTemplate = whole(have.MixedInstancesPolicy).LaunchTemplate
				}
			}
			return c.explain(c.patient(ctx, func(ctx context.Context) error {
				_, err := c.asg.UpdateAutoScalingGroup(ctx, in)
				return err
			}))
		}}}
}

// empty says that a group has no machine and wants none.
func empty(g *types.AutoScalingGroup) bool {
	return len(g.Instances) == 0 && sdk.ToInt32(g.DesiredCapacity) == 0
}

func (c *Group) planHooks(ctx context.Context) ([]fleet.Change, error) {
	out, err := c.asg.DescribeLifecycleHooks(ctx, &autoscaling.DescribeLifecycleHooksInput{AutoScalingGroupName: &c.name})
	if err != nil {
		return nil, err
	}
	var changes []fleet.Change
	for _, want := range c.hooks() {
		var f fleet.Fields
		have := hook{}
		for _, h := range out.LifecycleHooks {
			if sdk.ToString(h.LifecycleHookName) == want.name {
				have = hook{want.name, sdk.ToString(h.LifecycleTransition), sdk.ToString(h.DefaultResult), sdk.ToInt32(h.HeartbeatTimeout)}
			}
		}
		f.Diff("at", have.transition, want.transition)
		f.Diff("in the end", have.result, want.result)
		f.Diff("heartbeat, s", have.heartbeat, want.heartbeat)
		if len(f) == 0 {
			continue
		}
		action := fleet.Update
		if have.name == "" {
			action = fleet.Create
		}
		changes = append(changes, fleet.Change{Action: action, Kind: "lifecycle hook", Name: want.name, Fields: f, Do: func(ctx context.Context, _ func(string) error) error {
			_, err := c.asg.PutLifecycleHook(ctx, &autoscaling.PutLifecycleHookInput{AutoScalingGroupName: &c.name, LifecycleHookName: &want.name,
				LifecycleTransition: &want.transition, DefaultResult: &want.result, HeartbeatTimeout: &want.heartbeat})
			return c.explain(err)
		}})
	}
	return changes, nil
}

func (c *Group) planSuspend(have *types.AutoScalingGroup) []fleet.Change {
	if slices.ContainsFunc(have.SuspendedProcesses, func(p types.SuspendedProcess) bool { return sdk.ToString(p.ProcessName) == suspended }) {
		return nil
	}
	return []fleet.Change{{Action: fleet.Update, Kind: "auto scaling group", Name: c.name, Fields: []fleet.Field{{Name: "suspended", New: suspended}},
		Note: "the engine would end machines with running jobs to even out zones",
		Do: func(ctx context.Context, _ func(string) error) error {
			_, err := c.asg.SuspendProcesses(ctx, &autoscaling.SuspendProcessesInput{AutoScalingGroupName: &c.name, ScalingProcesses: []string{suspended}})
			return c.explain(err)
		}}}
}

func (c *Group) planTags(have *types.AutoScalingGroup) []fleet.Change {
	var f fleet.Fields
	for _, t := range c.groupTags() {
		f.Diff("tag "+*t.Key, tagOf(have.Tags, *t.Key), *t.Value)
	}
	if len(f) == 0 {
		return nil
	}
	return []fleet.Change{{Action: fleet.Update, Kind: "auto scaling group", Name: c.name, Fields: f,
		Do: func(ctx context.Context, _ func(string) error) error {
			_, err := c.asg.CreateOrUpdateTags(ctx, &autoscaling.CreateOrUpdateTagsInput{Tags: c.groupTags()})
			return c.explain(err)
		}}}
}

// Scale sets the number of machines.
func (c *Group) Scale(ctx context.Context, machines int) error {
	_, err := c.asg.SetDesiredCapacity(ctx, &autoscaling.SetDesiredCapacityInput{AutoScalingGroupName: &c.name, DesiredCapacity: sdk.Int32(int32(machines)), HonorCooldown: sdk.Bool(false)})
	return c.explain(err)
}

// Replace has the group end a machine and start another in its place.
func (c *Group) Replace(ctx context.Context, id string) error {
	_, err := c.asg.TerminateInstanceInAutoScalingGroup(ctx, &autoscaling.TerminateInstanceInAutoScalingGroupInput{InstanceId: &id, ShouldDecrementDesiredCapacity: sdk.Bool(false)})
	if aws.IsCode(err, "ScalingActivityInProgress") { // it is being replaced already
		return nil
	}
	return c.explain(err)
}

// Console is what a machine printed so far.
func (c *Group) Console(ctx context.Context, id string) (string, error) {
	return c.house.Console(ctx, c.region, id)
}
