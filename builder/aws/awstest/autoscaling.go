package awstest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scalingHandlers are the actions of the Auto Scaling API, version 2011-01-01.
var scalingHandlers = map[string]func(*call) (any, *Error){
	"autoscaling:CreateAutoScalingGroup":       createScaling,
	"autoscaling:UpdateAutoScalingGroup":       updateScaling,
	"autoscaling:DeleteAutoScalingGroup":       deleteScaling,
	"autoscaling:DescribeAutoScalingGroups":    describeScalings,
	"autoscaling:DescribeAutoScalingInstances": describeScalingInstances,
	"autoscaling:DescribeScalingActivities":    describeActivities,
	"autoscaling:SetDesiredCapacity":           setDesired,
	"autoscaling:SuspendProcesses":             suspend,
	"autoscaling:ResumeProcesses":              suspend,
	"autoscaling:CreateOrUpdateTags":           putGroupTags,
	"autoscaling:DeleteTags":                   deleteGroupTags,
	"autoscaling:EnableMetricsCollection":      collectMetrics,
	"autoscaling:DisableMetricsCollection":     collectMetrics,

	"autoscaling:PutLifecycleHook":               putHook,
	"autoscaling:DescribeLifecycleHooks":         describeHooks,
	"autoscaling:DeleteLifecycleHook":            deleteHook,
	"autoscaling:CompleteLifecycleAction":        completeAction,
	"autoscaling:RecordLifecycleActionHeartbeat": recordHeartbeat,

	"autoscaling:SetInstanceHealth":                   setHealth,
	"autoscaling:SetInstanceProtection":               setProtection,
	"autoscaling:TerminateInstanceInAutoScalingGroup": terminateMember,

	"autoscaling:StartInstanceRefresh":      startRefresh,
	"autoscaling:DescribeInstanceRefreshes": describeRefreshes,
	"autoscaling:CancelInstanceRefresh":     cancelRefresh,
	"autoscaling:RollbackInstanceRefresh":   rollbackRefresh,

	"autoscaling:PutScheduledUpdateGroupAction": putScheduled,
	"autoscaling:DescribeScheduledActions":      describeScheduled,
	"autoscaling:DeleteScheduledAction":         deleteScheduled,

	"autoscaling:PutScalingPolicy": putPolicy,
	"autoscaling:DescribePolicies": describePolicies,
	"autoscaling:DeletePolicy":     deletePolicy,

	"cloudwatch:PutMetricData": putMetricData,
}

// The parts of a request which the answer repeats. Fields are named as in both.

type templateSpec struct {
	LaunchTemplateId   string `xml:",omitempty"`
	LaunchTemplateName string `xml:",omitempty"`
	Version            string `xml:",omitempty"`
}

type templateOverride struct {
	InstanceType     string `xml:",omitempty"`
	WeightedCapacity string `xml:",omitempty"`
}

type mixedPolicy struct {
	InstancesDistribution *distribution
	LaunchTemplate        *struct {
		LaunchTemplateSpecification *templateSpec
		Overrides                   members[templateOverride]
	}
}

type distribution struct {
	OnDemandAllocationStrategy          string `xml:",omitempty"`
	OnDemandBaseCapacity                *int
	OnDemandPercentageAboveBaseCapacity *int
	SpotAllocationStrategy              string `xml:",omitempty"`
	SpotMaxPrice                        string `xml:",omitempty"`
}

type desiredConfig struct {
	LaunchTemplate       *templateSpec
	MixedInstancesPolicy *mixedPolicy
}

// of is the launch template of a configuration, and the policy around it, if any.
func (d desiredConfig) of() (templateSpec, *mixedPolicy) {
	if d.MixedInstancesPolicy != nil {
		return *d.MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification, d.MixedInstancesPolicy
	}
	return *d.LaunchTemplate, nil
}

type refreshPrefs struct {
	AutoRollback              *bool
	BakeTime                  *int
	CheckpointDelay           *int
	CheckpointPercentages     members[int]
	InstanceWarmup            *int
	MaxHealthyPercentage      *int
	MinHealthyPercentage      *int
	ScaleInProtectedInstances string `xml:",omitempty"`
	SkipMatching              *bool
	StandbyInstances          string `xml:",omitempty"`
}

type hookSpec struct {
	LifecycleHookName, LifecycleTransition, DefaultResult, NotificationMetadata string
	HeartbeatTimeout                                                            *int
}

type tagSpec struct {
	Key, Value, ResourceId, ResourceType string
	PropagateAtLaunch                    *bool
}

func invalid(format string, args ...any) *Error { return fail("ValidationError", format, args...) }

func number(text string) int {
	n, _ := strconv.Atoi(text) // $Latest and the like come before every version
	return n
}

// wake has the group look what there is to do.
func (g *scaling) wake() {
	if g != nil {
		g.dirty = true
	}
}

func (r *region) scalingOf(instance string) *scaling {
	for _, g := range r.scalings {
		if g.members[instance] != nil {
			return g
		}
	}
	return nil
}

// scaling gives a group, and the resource that it is for the policy.
func (c *call) scaling(name string) (*scaling, resource, *Error) {
	on := resource{arn: c.scalingARN(name)}
	g := c.r.scalings[name]
	if g == nil {
		return nil, on, invalid("AutoScalingGroup name not found - AutoScalingGroup %s not found", name)
	}
	on.tags = g.plainTags()
	return g, on, nil
}

func (c *call) scalingARN(name string) string {
	return fmt.Sprintf("arn:aws:autoscaling:%s:%s:autoScalingGroup:00000000-0000-0000-0000-000000000000:autoScalingGroupName/%s", c.Region, c.s.o.Account, name)
}

func (g *scaling) plainTags() map[string]string {
	out := map[string]string{}
	for k, t := range g.tags {
		out[k] = t.value
	}
	return out
}

// records is page for the services that call its size MaxRecords.
func records[T any](c *call, items []T) ([]T, string, *Error) {
	if n := c.f.num("MaxRecords"); n > 0 {
		c.f.v.Set("MaxResults", fmt.Sprint(n))
	}
	return page(c, items)
}

// listed is a page of what Auto Scaling lists, once the caller may see it, and nothing it is asked about is missing.
func listed[T any](c *call, items []T, missing *Error) (members[T], string, *Error) {
	part, next, wrong := records(c, items)
	if err := c.begin(anything); err != nil {
		return members[T]{}, "", err
	}
	return members[T]{part}, next, cmp.Or(missing, wrong)
}

// settings are what both CreateAutoScalingGroup and UpdateAutoScalingGroup take.
type settings struct {
	AutoScalingGroupName              string
	MinSize, MaxSize, DesiredCapacity *int
	DefaultCooldown                   *int
	DefaultInstanceWarmup             *int
	HealthCheckType                   string
	HealthCheckGracePeriod            *int
	VPCZoneIdentifier                 string
	CapacityRebalance                 *bool
	NewInstancesProtectedFromScaleIn  *bool
	LaunchTemplate                    *templateSpec
	MixedInstancesPolicy              *mixedPolicy
}

// checkConfig refuses a launch template that does not exist and what else a group could not be made of.
func (c *call) checkConfig(d desiredConfig) *Error {
	if (d.LaunchTemplate == nil) == (d.MixedInstancesPolicy == nil) {
		return invalid("Valid requests must contain either LaunchTemplate, LaunchConfigurationName, InstanceId or MixedInstancesPolicy parameter.")
	}
	if p := d.MixedInstancesPolicy; p != nil {
		if p.LaunchTemplate == nil || p.LaunchTemplate.LaunchTemplateSpecification == nil {
			return invalid("You must specify a launch template in the mixed instances policy.")
		}
		if dist := p.InstancesDistribution; dist != nil {
			c.f.only("SpotAllocationStrategy", dist.SpotAllocationStrategy, "lowest-price", "capacity-optimized", "capacity-optimized-prioritized", "price-capacity-optimized")
			c.f.only("OnDemandAllocationStrategy", dist.OnDemandAllocationStrategy, "prioritized", "lowest-price")
			c.f.within("OnDemandPercentageAboveBaseCapacity", dist.OnDemandPercentageAboveBaseCapacity, 0, 100)
			if c.f.err != nil {
				return c.f.err
			}
		}
		for _, o := range p.LaunchTemplate.Overrides.Member {
			if !slices.Contains(knownSizes, o.InstanceType) {
				return invalid("Your requested instance type (%s) is not supported in your requested Availability Zone.", o.InstanceType)
			}
		}
	}
	spec, _ := d.of()
	t, err := c.r.template(spec.LaunchTemplateId, spec.LaunchTemplateName)
	if err != nil {
		return invalid("You must use a valid fully-formed launch template. %s", err.Message)
	}
	v, err := t.version(spec.Version)
	if err != nil {
		return invalid("You must use a valid fully-formed launch template. %s", err.Message)
	}
	if v.data.ImageId == "" || v.data.InstanceType == "" && d.LaunchTemplate != nil {
		return invalid("You must use a valid fully-formed launch template. The request must contain the parameter ImageId and InstanceType")
	}
	// Auto Scaling tries the launch first, as the caller.
	if p := v.data.IamInstanceProfile; p != nil {
		if err := c.checkProfile(p.Name + p.Arn); err != nil {
			return invalid("You must use a valid fully-formed launch template. %s", err.Message)
		}
	}
	for _, id := range v.data.SecurityGroupId.Item {
		if _, err := c.r.group(id); err != nil {
			return invalid("You must use a valid fully-formed launch template. %s", err.Message)
		}
	}
	if img := c.r.images[v.data.ImageId]; img == nil {
		return invalid("You must use a valid fully-formed launch template. The image id '[%s]' does not exist", v.data.ImageId)
	}
	ec2 := *c
	ec2.Service = "ec2"
	if err := ec2.permit("RunInstances", nil, c.res("launch-template", &t.meta)); err != nil {
		return &Error{403, "AccessDenied", "You are not authorized to use launch template: " + t.name}
	}
	if p := v.data.IamInstanceProfile; p != nil {
		if err := c.permitPass(p.Name + p.Arn); err != nil {
			return &Error{403, "AccessDenied", "You are not authorized to use launch template: " + t.name + ": " + err.Message}
		}
	}
	return nil
}

// apply checks settings and changes the group; a nil group only checks.
func (c *call) apply(g *scaling, in settings) *Error {
	n := *g
	take := func(to *int, from *int) {
		if from != nil {
			*to = *from
		}
	}
	take(&n.min, in.MinSize)
	take(&n.max, in.MaxSize)
	if in.DesiredCapacity != nil {
		n.desired = *in.DesiredCapacity
	} else {
		n.desired = min(max(n.desired, n.min), n.max)
	}
	take(&n.cooldown, in.DefaultCooldown)
	take(&n.warmup, in.DefaultInstanceWarmup)
	take(&n.grace, in.HealthCheckGracePeriod)
	switch {
	case n.min < 0 || n.max < n.min:
		return invalid("Min bound, %d, must be less than or equal to max bound, %d", n.min, n.max)
	case n.desired < n.min:
		return invalid("Desired capacity:%d must be between the specified min size:%d and max size:%d", n.desired, n.min, n.max)
	case n.desired > n.max:
		return invalid("Desired capacity:%d must be between the specified min size:%d and max size:%d", n.desired, n.min, n.max)
	}
	if in.VPCZoneIdentifier != "" {
		n.subnets, n.zones = in.VPCZoneIdentifier, nil
		vpc := ""
		for _, id := range strings.Split(n.subnets, ",") {
			at := slices.IndexFunc(c.r.subnets, func(s subnet) bool { return s.id == id })
			if at < 0 {
				return invalid("The subnet ID '%s' does not exist", id)
			}
			s := c.r.subnets[at]
			if vpc != "" && vpc != s.vpc {
				return invalid("The subnets are in different VPCs")
			}
			vpc = s.vpc
			n.zones = append(n.zones, s.zone)
		}
	}
	if n.subnets == "" {
		return invalid("At least one Availability Zone or VPC Subnet is required.")
	}
	if in.LaunchTemplate != nil || in.MixedInstancesPolicy != nil {
		if err := c.checkConfig(desiredConfig{in.LaunchTemplate, in.MixedInstancesPolicy}); err != nil {
			return err
		}
		if r := g.activeRefresh(); r != nil && r.desired != nil {
			return invalid("An active instance refresh with a desired configuration exists. All configuration options derived from the desired configuration are not available for update while the instance refresh is active.")
		}
		n.spec, n.mixed = in.LaunchTemplate, in.MixedInstancesPolicy
	}
	if in.CapacityRebalance != nil {
		n.rebalance = *in.CapacityRebalance
	}
	if in.NewInstancesProtectedFromScaleIn != nil {
		n.protectNew = *in.NewInstancesProtectedFromScaleIn
	}
	*g = n
	g.dirty = true
	return nil
}

func createScaling(c *call) (any, *Error) {
	var in settings
	c.f.read("", &in)
	c.f.need("AutoScalingGroupName")
	c.f.need("MinSize")
	c.f.need("MaxSize")
	c.f.only("HealthCheckType", in.HealthCheckType, "EC2", "ELB")
	var hooks members[hookSpec]
	c.f.read("LifecycleHookSpecificationList", &hooks)
	var tags members[tagSpec]
	c.f.read("Tags", &tags)
	on := resource{arn: c.scalingARN(in.AutoScalingGroupName), newTags: map[string]string{}, creating: true}
	g := &scaling{r: c.r, name: in.AutoScalingGroupName, created: time.Now(), cooldown: 300, warmup: -1, tags: map[string]groupTag{}, hooks: map[string]*lifecycleHook{},
		suspended: map[string]bool{}, schedule: map[string]*scheduled{}, policies: map[string]*scalingPolicy{}, members: map[string]*member{}}
	for _, t := range tags.Member {
		on.newTags[t.Key] = t.Value
		g.tags[t.Key] = groupTag{t.Value, t.PropagateAtLaunch != nil && *t.PropagateAtLaunch}
	}
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if c.r.scalings[g.name] != nil {
		return nil, fail("AlreadyExists", "AutoScalingGroup by this name already exists - A group with the name %s already exists", g.name)
	}
	for _, h := range hooks.Member {
		if err := c.setHook(g, h); err != nil {
			return nil, err
		}
	}
	if in.LaunchTemplate == nil && in.MixedInstancesPolicy == nil {
		return nil, c.checkConfig(desiredConfig{})
	}
	if err := c.apply(g, in); err != nil {
		return nil, err
	}
	c.r.scalings[g.name] = g
	return nil, nil
}

func updateScaling(c *call) (any, *Error) {
	var in settings
	c.f.read("", &in)
	c.f.only("HealthCheckType", in.HealthCheckType, "EC2", "ELB")
	g, on, gerr := c.scaling(in.AutoScalingGroupName)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	if g.deleting {
		return nil, fail("ScalingActivityInProgress", "AutoScalingGroup %s is being deleted", g.name)
	}
	return nil, c.apply(g, in)
}

func deleteScaling(c *call) (any, *Error) {
	name, force := c.f.need("AutoScalingGroupName"), c.f.yes("ForceDelete")
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	if len(g.members) > 0 && !force {
		return nil, fail("ResourceInUse", "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) still in the group.")
	}
	g.deleting, g.dirty = true, true
	if r := g.activeRefresh(); r != nil {
		r.finish("Cancelled", "The Auto Scaling group was deleted.", time.Now())
	}
	now := time.Now()
	for _, m := range g.members { // "without waiting", and with no regard for hooks
		m.actions, m.state, m.proceed = nil, terminatingGo, now
		g.kill(m)
	}
	return nil, nil
}

type scalingItem struct {
	AutoScalingGroupName             string
	AutoScalingGroupARN              string
	MinSize, MaxSize                 int
	DesiredCapacity, DefaultCooldown int
	DefaultInstanceWarmup            *int
	HealthCheckType                  string
	HealthCheckGracePeriod           int
	VPCZoneIdentifier                string
	AvailabilityZones                members[string]
	CapacityRebalance                bool
	NewInstancesProtectedFromScaleIn bool
	CreatedTime                      string
	Status                           string `xml:",omitempty"`
	LaunchTemplate                   *templateSpec
	MixedInstancesPolicy             *mixedPolicy
	Instances                        members[memberItem]
	SuspendedProcesses               members[suspendedItem]
	Tags                             members[tagSpec]
	EnabledMetrics                   members[metricItem]
	TerminationPolicies              members[string]
}

type suspendedItem struct{ ProcessName, SuspensionReason string }
type metricItem struct{ Metric, Granularity string }

type memberItem struct {
	AutoScalingGroupName string `xml:",omitempty"`
	InstanceId           string
	InstanceType         string
	AvailabilityZone     string
	LifecycleState       string
	HealthStatus         string
	ProtectedFromScaleIn bool
	LaunchTemplate       templateSpec
}

func (m *member) item() memberItem {
	it := memberItem{InstanceId: m.instance.id, InstanceType: m.size, AvailabilityZone: m.instance.zone, LifecycleState: m.state, HealthStatus: "Healthy", ProtectedFromScaleIn: m.protected, LaunchTemplate: m.template}
	if m.unhealthy {
		it.HealthStatus = "Unhealthy"
	}
	return it
}

func (c *call) groupItem(g *scaling) scalingItem {
	it := scalingItem{AutoScalingGroupName: g.name, AutoScalingGroupARN: c.scalingARN(g.name), MinSize: g.min, MaxSize: g.max, DesiredCapacity: g.desired,
		DefaultCooldown: g.cooldown, HealthCheckType: "EC2", HealthCheckGracePeriod: g.grace, VPCZoneIdentifier: g.subnets, AvailabilityZones: members[string]{g.zones},
		CapacityRebalance: g.rebalance, NewInstancesProtectedFromScaleIn: g.protectNew, CreatedTime: stamp(g.created), LaunchTemplate: g.spec, MixedInstancesPolicy: g.mixed,
		TerminationPolicies: members[string]{[]string{"Default"}}}
	if g.warmup >= 0 {
		it.DefaultInstanceWarmup = &g.warmup
	}
	if g.deleting {
		it.Status = "Delete in progress"
	}
	for _, m := range g.ordered() {
		it.Instances.Member = append(it.Instances.Member, m.item())
	}
	for _, p := range slices.Sorted(maps.Keys(g.suspended)) {
		it.SuspendedProcesses.Member = append(it.SuspendedProcesses.Member, suspendedItem{p, "User suspended at " + stamp(g.created)})
	}
	for _, k := range slices.Sorted(maps.Keys(g.tags)) {
		t := g.tags[k]
		it.Tags.Member = append(it.Tags.Member, tagSpec{k, t.value, g.name, "auto-scaling-group", &t.propagate})
	}
	if g.metrics {
		it.EnabledMetrics.Member = []metricItem{{"GroupInServiceInstances", "1Minute"}}
	}
	return it
}

func describeScalings(c *call) (any, *Error) {
	names := c.f.list("AutoScalingGroupNames.member")
	filters := map[string][]string{}
	for _, p := range c.f.groups("Filters.member") {
		name := c.f.str(p + "Name")
		if !strings.HasPrefix(name, "tag:") && name != "tag-key" && c.f.err == nil {
			c.f.err = invalid("Filter type %s is not correct. Allowed Filter types are: [tag-key, tag-value, tag:<key>]", name)
		}
		filters[name] = c.f.list(p + "Values.member")
	}
	var all []scalingItem
	for _, name := range slices.Sorted(maps.Keys(c.r.scalings)) {
		g := c.r.scalings[name]
		if (len(names) == 0 || slices.Contains(names, name)) && match(filters, g.plainTags(), nil) {
			all = append(all, c.groupItem(g))
		}
	}
	part, next, err := listed(c, all, nil)
	if err != nil {
		return nil, err
	}
	return struct {
		AutoScalingGroups members[scalingItem]
		NextToken         string `xml:",omitempty"`
	}{part, next}, nil
}

func describeScalingInstances(c *call) (any, *Error) {
	ids := c.f.list("InstanceIds.member")
	var all []memberItem
	for _, name := range slices.Sorted(maps.Keys(c.r.scalings)) {
		for _, m := range c.r.scalings[name].ordered() {
			if len(ids) == 0 || slices.Contains(ids, m.instance.id) {
				it := m.item()
				it.AutoScalingGroupName = name
				it.HealthStatus = strings.ToUpper(it.HealthStatus)
				all = append(all, it)
			}
		}
	}
	part, next, err := listed(c, all, nil)
	if err != nil {
		return nil, err
	}
	return struct {
		AutoScalingInstances members[memberItem]
		NextToken            string `xml:",omitempty"`
	}{part, next}, nil
}

func describeActivities(c *call) (any, *Error) {
	name := c.f.str("AutoScalingGroupName")
	c.f.yes("IncludeDeletedGroups")
	g, _, gerr := c.scaling(name)
	type item struct {
		ActivityId, AutoScalingGroupName, Description, Cause, StartTime string
		EndTime                                                         string `xml:",omitempty"`
		StatusCode                                                      string
		StatusMessage                                                   string `xml:",omitempty"`
		Progress                                                        int
	}
	var all []item
	if g != nil {
		for _, a := range slices.Backward(g.activities) { // the newest first
			it := item{a.id, name, a.description, "At " + stamp(a.start) + " " + a.cause, stamp(a.start), stamp(a.end), a.status, a.message, 50}
			if !a.end.IsZero() {
				it.Progress = 100
			}
			all = append(all, it)
		}
	}
	part, next, err := listed(c, all, gerr)
	if err != nil {
		return nil, err
	}
	return struct {
		Activities members[item]
		NextToken  string `xml:",omitempty"`
	}{part, next}, nil
}

func setDesired(c *call) (any, *Error) {
	name, n := c.f.need("AutoScalingGroupName"), c.f.num("DesiredCapacity")
	c.f.need("DesiredCapacity")
	c.f.yes("HonorCooldown")
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	switch {
	case gerr != nil:
		return nil, gerr
	case n > g.max:
		return nil, invalid("New SetDesiredCapacity value %d is above max value %d for the AutoScalingGroup.", n, g.max)
	case n < g.min:
		return nil, invalid("New SetDesiredCapacity value %d is below min value %d for the AutoScalingGroup.", n, g.min)
	}
	g.desired, g.dirty = n, true
	return nil, nil
}

var processes = []string{"Launch", "Terminate", "AddToLoadBalancer", "AlarmNotification", "AZRebalance", "HealthCheck", "InstanceRefresh", "ReplaceUnhealthy", "ScheduledActions"}

func suspend(c *call) (any, *Error) {
	name, which := c.f.need("AutoScalingGroupName"), c.f.list("ScalingProcesses.member")
	for _, p := range which {
		c.f.only("ScalingProcesses", p, processes...)
	}
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	if len(which) == 0 {
		which = processes
	}
	for _, p := range which {
		if c.Action == "SuspendProcesses" {
			g.suspended[p] = true
		} else {
			delete(g.suspended, p)
		}
	}
	g.dirty = true
	return nil, nil
}

func collectMetrics(c *call) (any, *Error) {
	name := c.f.need("AutoScalingGroupName")
	c.f.list("Metrics.member")
	if c.Action == "EnableMetricsCollection" {
		c.f.only("Granularity", c.f.need("Granularity"), "1Minute")
	}
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	g.metrics = c.Action == "EnableMetricsCollection"
	return nil, nil
}

// groupTagSpecs reads tags of one group.
func (c *call) groupTagSpecs() (tags members[tagSpec], name string) {
	c.f.read("Tags", &tags)
	for _, t := range tags.Member {
		c.f.only("ResourceType", t.ResourceType, "auto-scaling-group")
		if name != "" && name != t.ResourceId && c.f.err == nil {
			c.f.err = invalid("tags of several groups are not known here")
		}
		name = t.ResourceId
	}
	return tags, name
}

func putGroupTags(c *call) (any, *Error) {
	tags, name := c.groupTagSpecs()
	g, on, gerr := c.scaling(name)
	on.newTags = map[string]string{}
	for _, t := range tags.Member {
		on.newTags[t.Key] = t.Value
	}
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	for _, t := range tags.Member {
		g.tags[t.Key] = groupTag{t.Value, t.PropagateAtLaunch != nil && *t.PropagateAtLaunch}
	}
	return nil, nil
}

func deleteGroupTags(c *call) (any, *Error) {
	tags, name := c.groupTagSpecs()
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	for _, t := range tags.Member {
		delete(g.tags, t.Key)
	}
	return nil, nil
}

// setHook adds a hook to a group or changes what is given of it.
func (c *call) setHook(g *scaling, in hookSpec) *Error {
	h := g.hooks[in.LifecycleHookName]
	if h == nil {
		if in.LifecycleTransition == "" {
			return invalid("You must specify a LifecycleTransition")
		}
		h = &lifecycleHook{name: in.LifecycleHookName, heartbeat: 3600, result: "ABANDON"}
	}
	n := *h
	switch {
	case in.LifecycleHookName == "":
		return invalid("1 validation error detected: Value null at 'lifecycleHookName' failed to satisfy constraint: Member must not be null")
	case in.LifecycleTransition != "" && in.LifecycleTransition != launching && in.LifecycleTransition != terminating:
		return invalid("Lifecycle transition %s is not valid", in.LifecycleTransition)
	case in.DefaultResult != "" && in.DefaultResult != "CONTINUE" && in.DefaultResult != "ABANDON":
		return invalid("Default result %s is not valid", in.DefaultResult)
	case in.HeartbeatTimeout != nil && (*in.HeartbeatTimeout < 30 || *in.HeartbeatTimeout > 7200):
		return invalid("Heartbeat timeout must be between 30 and 7200 seconds")
	}
	if in.LifecycleTransition != "" {
		n.transition = in.LifecycleTransition
	}
	if in.DefaultResult != "" {
		n.result = in.DefaultResult
	}
	if in.HeartbeatTimeout != nil {
		n.heartbeat = *in.HeartbeatTimeout
	}
	n.metadata = in.NotificationMetadata
	g.hooks[n.name] = &n
	return nil
}

func putHook(c *call) (any, *Error) {
	var in struct {
		AutoScalingGroupName                                                        string
		LifecycleHookName, LifecycleTransition, DefaultResult, NotificationMetadata string
		HeartbeatTimeout                                                            *int
	}
	c.f.read("", &in)
	g, on, gerr := c.scaling(in.AutoScalingGroupName)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	return nil, c.setHook(g, hookSpec{in.LifecycleHookName, in.LifecycleTransition, in.DefaultResult, in.NotificationMetadata, in.HeartbeatTimeout})
}

func describeHooks(c *call) (any, *Error) {
	name, names := c.f.need("AutoScalingGroupName"), c.f.list("LifecycleHookNames.member")
	g, _, gerr := c.scaling(name)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	type item struct {
		LifecycleHookName, AutoScalingGroupName, LifecycleTransition string
		NotificationMetadata                                         string `xml:",omitempty"`
		HeartbeatTimeout, GlobalTimeout                              int
		DefaultResult                                                string
	}
	var out struct{ LifecycleHooks members[item] }
	for _, n := range slices.Sorted(maps.Keys(g.hooks)) {
		if h := g.hooks[n]; len(names) == 0 || slices.Contains(names, n) {
			out.LifecycleHooks.Member = append(out.LifecycleHooks.Member, item{n, name, h.transition, h.metadata, h.heartbeat, min(int(hookLimit.Seconds()), heartbeatsAtMost*h.heartbeat), h.result})
		}
	}
	return out, nil
}

func deleteHook(c *call) (any, *Error) {
	name, hook := c.f.need("AutoScalingGroupName"), c.f.need("LifecycleHookName")
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	h := g.hooks[hook]
	if h == nil {
		return nil, invalid("Lifecycle hook not found: %s", hook)
	}
	delete(g.hooks, hook)
	for _, m := range g.members { // what waits goes on as it would by default
		if a := m.actions[hook]; a != nil {
			result := "CONTINUE"
			if h.transition == launching {
				result = "ABANDON"
			}
			g.complete(m, a, result, "the hook was deleted", time.Now())
		}
	}
	return nil, nil
}

// action finds the hook that waits for the named instance.
func (c *call) action() (*scaling, *member, *action, resource, *Error) {
	name, hook, id, token := c.f.need("AutoScalingGroupName"), c.f.need("LifecycleHookName"), c.f.str("InstanceId"), c.f.str("LifecycleActionToken")
	g, on, err := c.scaling(name)
	if err != nil {
		return nil, nil, nil, on, err
	}
	for _, m := range g.members {
		if a := m.actions[hook]; a != nil && (id != "" && id == m.instance.id || token != "" && token == a.token) {
			return g, m, a, on, nil
		}
	}
	if g.hooks[hook] == nil {
		return g, nil, nil, on, invalid("Lifecycle hook not found: %s", hook)
	}
	return g, nil, nil, on, invalid("No active Lifecycle Action found with instance ID %s", id)
}

func completeAction(c *call) (any, *Error) {
	g, m, a, on, aerr := c.action()
	result := c.f.need("LifecycleActionResult")
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if aerr != nil {
		return nil, aerr
	}
	if result != "CONTINUE" && result != "ABANDON" {
		return nil, invalid("Lifecycle action result %s is not valid", result)
	}
	g.complete(m, a, result, "Lifecycle Action Completed with "+result+" Result", time.Now())
	return nil, nil
}

func recordHeartbeat(c *call) (any, *Error) {
	g, _, a, on, aerr := c.action()
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if aerr != nil {
		return nil, aerr
	}
	a.deadline = time.Now().Add(time.Duration(a.hook.heartbeat) * time.Second)
	if a.limit.Before(a.deadline) {
		a.deadline = a.limit
	}
	g.due(a.deadline)
	return nil, nil
}

// membersOf finds members of one group by their ids.
func (c *call) membersOf(ids []string) (*scaling, []*member, *Error) {
	var g *scaling
	var all []*member
	for _, id := range ids {
		if g = c.r.scalingOf(id); g == nil {
			return nil, nil, invalid("Instance Id not found - No managed instance found for instance ID %s", id)
		}
		all = append(all, g.members[id])
	}
	return g, all, nil
}

func (c *call) onScaling(g *scaling) resource {
	if g == nil {
		return resource{arn: c.scalingARN("*")}
	}
	return resource{arn: c.scalingARN(g.name), tags: g.plainTags()}
}

func setHealth(c *call) (any, *Error) {
	id, status := c.f.need("InstanceId"), c.f.need("HealthStatus")
	respect := c.f.of("ShouldRespectGracePeriod", "true", "false") != "false"
	g, ms, merr := c.membersOf([]string{id})
	if err := c.begin(c.onScaling(g)); err != nil {
		return nil, err
	}
	if merr != nil {
		return nil, merr
	}
	if status != "Healthy" && status != "Unhealthy" {
		return nil, invalid("Health status %s is not valid", status)
	}
	m := ms[0]
	if respect && m.state == inService && time.Since(m.serving) < time.Duration(g.grace)*time.Second {
		return nil, nil
	}
	m.unhealthy, g.dirty = status == "Unhealthy", true
	return nil, nil
}

func setProtection(c *call) (any, *Error) {
	name, ids, on := c.f.need("AutoScalingGroupName"), c.f.list("InstanceIds.member"), c.f.need("ProtectedFromScaleIn") == "true"
	g, res, gerr := c.scaling(name)
	if err := c.begin(res); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	if len(ids) == 0 || len(ids) > 50 {
		return nil, invalid("The number of instance IDs must be between 1 and 50")
	}
	for _, id := range ids {
		m := g.members[id]
		if m == nil {
			return nil, invalid("The instance %s is not part of Auto Scaling group %s.", id, name)
		}
		if m.state != inService {
			return nil, invalid("The instance %s is not in InService or EnteringStandby or Standby.", id)
		}
	}
	for _, id := range ids {
		g.members[id].protected = on
	}
	g.dirty = true
	return nil, nil
}

func terminateMember(c *call) (any, *Error) {
	id, decrement := c.f.need("InstanceId"), c.f.need("ShouldDecrementDesiredCapacity") == "true"
	g, ms, merr := c.membersOf([]string{id})
	if err := c.begin(c.onScaling(g)); err != nil {
		return nil, err
	}
	if merr != nil {
		return nil, merr
	}
	m := ms[0]
	if !m.alive() {
		return nil, fail("ScalingActivityInProgress", "The instance %s is already being terminated.", id)
	}
	if decrement {
		if g.desired-1 < g.min {
			return nil, invalid("Currently, desiredSize equals minSize (%d). Terminating instance without replacement will violate group's min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size.", g.min)
		}
		g.desired--
	}
	g.terminate(m, "instance "+id+" was taken out of service in response to a user request.", time.Now())
	type item struct{ ActivityId, AutoScalingGroupName, Description, Cause, StartTime, StatusCode string }
	a := m.activity
	return struct{ Activity item }{item{a.id, g.name, a.description, a.cause, stamp(a.start), a.status}}, nil
}

func startRefresh(c *call) (any, *Error) {
	var in struct {
		AutoScalingGroupName string
		Strategy             string
		DesiredConfiguration *desiredConfig
		Preferences          *refreshPrefs
	}
	c.f.read("", &in)
	c.f.only("Strategy", in.Strategy, "Rolling")
	var p refreshPrefs
	if in.Preferences != nil {
		p = *in.Preferences
	}
	c.f.only("ScaleInProtectedInstances", p.ScaleInProtectedInstances, "Refresh", "Ignore", "Wait")
	c.f.only("StandbyInstances", p.StandbyInstances, "Terminate", "Ignore", "Wait")
	c.f.within("MinHealthyPercentage", p.MinHealthyPercentage, 0, 100)
	c.f.within("MaxHealthyPercentage", p.MaxHealthyPercentage, 100, 200)
	c.f.within("CheckpointDelay", p.CheckpointDelay, 0, 172800)
	c.f.within("BakeTime", p.BakeTime, 0, 172800)
	g, on, gerr := c.scaling(in.AutoScalingGroupName)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	switch {
	case gerr != nil:
		return nil, gerr
	case g.activeRefresh() != nil:
		return nil, fail("InstanceRefreshInProgress", "An Instance Refresh is already in progress and blocks the execution of this Instance Refresh.")
	case p.MaxHealthyPercentage != nil && p.MinHealthyPercentage == nil:
		return nil, invalid("MinHealthyPercentage must be specified along with MaxHealthyPercentage.")
	case p.MaxHealthyPercentage != nil && *p.MaxHealthyPercentage-*p.MinHealthyPercentage > 100:
		return nil, invalid("The difference between MinHealthyPercentage and MaxHealthyPercentage cannot be greater than 100.")
	case p.CheckpointDelay != nil && len(p.CheckpointPercentages.Member) == 0:
		return nil, invalid("CheckpointPercentages must be specified along with CheckpointDelay.")
	}
	for i, percent := range p.CheckpointPercentages.Member {
		if percent < 1 || percent > 100 || i > 0 && percent <= p.CheckpointPercentages.Member[i-1] {
			return nil, invalid("CheckpointPercentages must be unique, in ascending order and between 1 and 100.")
		}
	}
	target := desiredConfig{g.spec, g.mixed}
	if in.DesiredConfiguration != nil {
		target = *in.DesiredConfiguration
		if err := c.checkConfig(target); err != nil {
			return nil, err
		}
	}
	if p.AutoRollback != nil && *p.AutoRollback {
		if in.DesiredConfiguration == nil {
			return nil, invalid("Auto rollback requires a DesiredConfiguration.")
		}
		for _, d := range []desiredConfig{target, {g.spec, g.mixed}} {
			if err := c.canGoBack(d); err != nil {
				return nil, err
			}
		}
	}
	c.s.nextID++
	r := &refresh{id: fmt.Sprintf("refresh-%06d", c.s.nextID), status: "Pending", prefs: p, desired: in.DesiredConfiguration, start: time.Now(), old: map[string]bool{}}
	for id, m := range g.members {
		if m.alive() && (p.SkipMatching == nil || !*p.SkipMatching || !g.matches(m, target)) {
			r.old[id] = true
		}
	}
	r.total = len(r.old)
	g.refreshes = append(g.refreshes, r)
	g.retry, g.failures, g.dirty = time.Time{}, 0, true
	return struct{ InstanceRefreshId string }{r.id}, nil
}

// canGoBack refuses a configuration that may mean something else later.
func (c *call) canGoBack(d desiredConfig) *Error {
	spec, _ := d.of()
	if number(spec.Version) == 0 {
		return invalid("Auto rollback is not supported for a launch template version of $Latest or $Default.")
	}
	t, err := c.r.template(spec.LaunchTemplateId, spec.LaunchTemplateName)
	if err == nil {
		var v *templateVersion
		if v, err = t.version(spec.Version); err == nil && strings.HasPrefix(v.data.ImageId, "resolve:") {
			err = invalid("Auto rollback is not supported for an image that is a Systems Manager parameter.")
		}
	}
	return err
}

func describeRefreshes(c *call) (any, *Error) {
	name, ids := c.f.need("AutoScalingGroupName"), c.f.list("InstanceRefreshIds.member")
	type back struct {
		RollbackReason, RollbackStartTime string
		PercentageCompleteOnRollback      int
		InstancesToUpdateOnRollback       int
	}
	type item struct {
		InstanceRefreshId, AutoScalingGroupName, Status string
		StatusReason                                    string `xml:",omitempty"`
		StartTime                                       string
		EndTime                                         string `xml:",omitempty"`
		PercentageComplete, InstancesToUpdate           int
		Strategy                                        string
		Preferences                                     refreshPrefs
		DesiredConfiguration                            *desiredConfig
		RollbackDetails                                 *back
	}
	var all []item
	g, _, gerr := c.scaling(name)
	if g != nil {
		for _, r := range slices.Backward(g.refreshes) {
			if len(ids) > 0 && !slices.Contains(ids, r.id) {
				continue
			}
			it := item{r.id, name, r.status, r.reason, stamp(r.start), stamp(r.end), g.percent(r), g.left(r), "Rolling", r.prefs, r.desired, nil}
			if b := r.back; b != nil {
				it.RollbackDetails = &back{b.reason, stamp(b.start), b.progress, 0}
			}
			all = append(all, it)
		}
	}
	part, next, err := listed(c, all, gerr)
	if err != nil {
		return nil, err
	}
	return struct {
		InstanceRefreshes members[item]
		NextToken         string `xml:",omitempty"`
	}{part, next}, nil
}

func cancelRefresh(c *call) (any, *Error)   { return c.endRefresh(false) }
func rollbackRefresh(c *call) (any, *Error) { return c.endRefresh(true) }

func (c *call) endRefresh(back bool) (any, *Error) {
	name, wait := c.f.need("AutoScalingGroupName"), true
	if !back {
		wait = c.f.of("WaitForTransitioningInstances", "true", "false") != "false"
	}
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	r := g.activeRefresh()
	switch {
	case r == nil || r.status == "Cancelling" || back && r.rollingBack():
		return nil, fail("ActiveInstanceRefreshNotFound", "No in progress or pending Instance Refresh found for Auto Scaling group %s", name)
	case !back:
		r.status, r.reason, g.dirty = "Cancelling", "Cancelling due to user request.", true
		r.wait = wait
	case r.desired == nil:
		return nil, fail("IrreversibleInstanceRefresh", "The instance refresh has no desired configuration.")
	default:
		for _, d := range []desiredConfig{*r.desired, {g.spec, g.mixed}} {
			if err := c.canGoBack(d); err != nil {
				return nil, fail("IrreversibleInstanceRefresh", "%s", err.Message)
			}
		}
		g.rollBack(r, "Rollback was initiated by the user.", time.Now())
	}
	return struct{ InstanceRefreshId string }{r.id}, nil
}
