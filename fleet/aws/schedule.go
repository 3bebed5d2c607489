package aws

import (
	"context"
	"fmt"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
)

// scheduled is the name of the n-th entry of fleet.schedule; actions of other names are somebody else's.
const scheduled = "dorunner-schedule-"

// size32 is a size as the API takes it.
func size32(n *int) *int32 {
	if n == nil {
		return nil
	}
	return sdk.Int32(int32(*n))
}

// planSchedule compares the group's times.
func (c *Group) planSchedule(ctx context.Context) ([]fleet.Change, error) {
	have := map[string]types.ScheduledUpdateGroupAction{}
	p := autoscaling.NewDescribeScheduledActionsPaginator(c.asg, &autoscaling.DescribeScheduledActionsInput{AutoScalingGroupName: &c.name})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if missing := aws.IsCode(err, "ValidationError"); missing { // there is no group yet
			break
		} else if err != nil {
			return nil, err
		}
		for _, a := range page.ScheduledUpdateGroupActions {
			if strings.HasPrefix(sdk.ToString(a.ScheduledActionName), scheduled) {
				have[*a.ScheduledActionName] = a
			}
		}
	}
	var changes []fleet.Change
	for i, want := range c.g.Schedule {
		name := fmt.Sprintf("%s%d", scheduled, i+1)
		was, there := have[name]
		delete(have, name)
		action := fleet.Create
		var f fleet.Fields
		if there {
			action = fleet.Update
		}
		f.Diff("at", timeText(sdk.ToString(was.Recurrence), sdk.ToString(was.TimeZone)), timeText(want.Cron, want.Timezone))
		f.Diff("min", was.MinSize, want.Min)
		f.Diff("max", was.MaxSize, want.Max)
		f.Diff("machines", was.DesiredCapacity, want.Desired)
		if len(f) == 0 {
			continue
		}
		changes = append(changes, fleet.Change{Action: action, Kind: "scheduled action", Name: name, Fields: f, Do: func(ctx context.Context, _ func(string) error) error {
			in := &autoscaling.PutScheduledUpdateGroupActionInput{AutoScalingGroupName: &c.name, ScheduledActionName: &name, Recurrence: sdk.String(strings.Join(strings.Fields(want.Cron), " ")),
				MinSize: size32(want.Min), MaxSize: size32(want.Max), DesiredCapacity: size32(want.Desired)}
			if want.Timezone != "" {
				in.TimeZone = &want.Timezone
			}
			_, err := c.asg.PutScheduledUpdateGroupAction(ctx, in)
			return c.explain(err)
		}})
	}
	for name := range have {
		changes = append(changes, fleet.Change{Action: fleet.Delete, Kind: "scheduled action", Name: name, Do: func(ctx context.Context, _ func(string) error) error {
			_, err := c.asg.DeleteScheduledAction(ctx, &autoscaling.DeleteScheduledActionInput{AutoScalingGroupName: &c.name, ScheduledActionName: &name})
			return c.explain(err)
		}})
	}
	return changes, nil
}

func timeText(cron, zone string) string {
	if cron == "" {
		return ""
	}
	if zone == "" || zone == "Etc/UTC" {
		zone = "UTC"
	}
	return strings.Join(strings.Fields(cron), " ") + " " + zone
}

// loadDimension tells groups apart.
const loadDimension = "AutoScalingGroupName"

// busyPolicy is the name of the policy by which the group is sized.
const busyPolicy = "dorunner-busy"

// Autoscale is target tracking on the share of job slots that are busy. The group adds and removes machines so that it
// comes near the target; machines with running jobs hold scale-in protection, so only idle ones go.
func (c *Group) Autoscale(percent int) any {
	return map[string]any{"AutoScalingGroupName": c.name, "PolicyName": busyPolicy, "PolicyType": "TargetTrackingScaling", "TargetTrackingConfiguration": c.tracking(percent)}
}

// tracking is the policy, of what machines publish.
func (c *Group) tracking(percent int) *tracking {
	return &tracking{TargetValue: float64(percent), CustomizedMetricSpecification: metric{runner.LoadNamespace, runner.LoadMetric, "Average", "Percent", []dimension{{loadDimension, c.name}}}}
}

// These are written as the cloud's own tools take them.
type (
	tracking struct {
		TargetValue                   float64
		CustomizedMetricSpecification metric
	}
	metric struct {
		Namespace, MetricName, Statistic, Unit string
		Dimensions                             []dimension
	}
	dimension struct{ Name, Value string }
)

// setPolicy makes the group's policy so.
func (c *Group) setPolicy(ctx context.Context, percent int) error {
	t := c.tracking(percent)
	m := t.CustomizedMetricSpecification
	_, err := c.asg.PutScalingPolicy(ctx, &autoscaling.PutScalingPolicyInput{AutoScalingGroupName: &c.name, PolicyName: sdk.String(busyPolicy), PolicyType: sdk.String("TargetTrackingScaling"),
		TargetTrackingConfiguration: &types.TargetTrackingConfiguration{TargetValue: &t.TargetValue,
			CustomizedMetricSpecification: &types.CustomizedMetricSpecification{Namespace: &m.Namespace, MetricName: &m.MetricName, Statistic: types.MetricStatistic(m.Statistic), Unit: &m.Unit,
				Dimensions: []types.MetricDimension{{Name: &m.Dimensions[0].Name, Value: &m.Dimensions[0].Value}}}}})
	return c.explain(err)
}

// planPolicy compares the policy. Without fleet.autoscale there is none, for then the machines publish nothing.
func (c *Group) planPolicy(ctx context.Context) ([]fleet.Change, error) {
	target := ""
	p := autoscaling.NewDescribePoliciesPaginator(c.asg, &autoscaling.DescribePoliciesInput{AutoScalingGroupName: &c.name, PolicyNames: []string{busyPolicy}})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if aws.IsCode(err, "ValidationError") { // there is no group yet
			break
		} else if err != nil {
			return nil, err
		}
		for _, q := range page.ScalingPolicies {
			target = "something else"
			if t := q.TargetTrackingConfiguration; t != nil && t.CustomizedMetricSpecification != nil && sdk.ToString(t.CustomizedMetricSpecification.MetricName) == runner.LoadMetric &&
				sdk.ToString(t.CustomizedMetricSpecification.Namespace) == runner.LoadNamespace {
				target = busyText(int(sdk.ToFloat64(t.TargetValue)))
			}
		}
	}
	change := fleet.Change{Action: fleet.Update, Kind: "scaling policy", Name: busyPolicy}
	want := ""
	if c.g.Fleet.Autoscale > 0 {
		want = busyText(c.g.Fleet.Autoscale)
	}
	switch {
	case target == want:
		return nil, nil
	case want == "":
		change.Action = fleet.Delete
	case target == "":
		change.Action = fleet.Create
	}
	change.Fields = []fleet.Field{{Name: "target", Old: target, New: want}}
	change.Do = func(ctx context.Context, _ func(string) error) error {
		if want != "" {
			return c.setPolicy(ctx, c.g.Fleet.Autoscale)
		}
		_, err := c.asg.DeletePolicy(ctx, &autoscaling.DeletePolicyInput{AutoScalingGroupName: &c.name, PolicyName: sdk.String(busyPolicy)})
		return c.explain(err)
	}
	return []fleet.Change{change}, nil
}

func busyText(percent int) string { return fmt.Sprintf("%d %% of the job slots busy", percent) }
