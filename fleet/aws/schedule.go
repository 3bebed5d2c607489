package aws

import (
	"context"
	"fmt"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"

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
		if missing := isCode(err, "ValidationError"); missing { // there is no group yet
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

// What machines publish of how busy they are, as first boot names it.
const (
	loadNamespace = "DORunner"
	loadMetric    = "BusySlots"
	loadDimension = "AutoScalingGroupName"
)

// busyPolicy is the name of the policy by which the group is sized.
const busyPolicy = "dorunner-busy"

// Autoscale is target tracking on the share of job slots that are busy. The group adds and removes machines so that it
// comes near the target; machines with running jobs hold scale-in protection, so only idle ones go.
func (c *Group) Autoscale(percent int) (policy any, set func(context.Context) error) {
	in := &autoscaling.PutScalingPolicyInput{AutoScalingGroupName: &c.name, PolicyName: sdk.String(busyPolicy), PolicyType: sdk.String("TargetTrackingScaling"),
		TargetTrackingConfiguration: &types.TargetTrackingConfiguration{TargetValue: sdk.Float64(float64(percent)),
			CustomizedMetricSpecification: &types.CustomizedMetricSpecification{Namespace: sdk.String(loadNamespace), MetricName: sdk.String(loadMetric), Statistic: types.MetricStatisticAverage, Unit: sdk.String("Percent"),
				Dimensions: []types.MetricDimension{{Name: sdk.String(loadDimension), Value: &c.name}}}}}
	shown := map[string]any{"AutoScalingGroupName": c.name, "PolicyName": busyPolicy, "PolicyType": "TargetTrackingScaling", "TargetTrackingConfiguration": map[string]any{
		"TargetValue": percent, "CustomizedMetricSpecification": map[string]any{"Namespace": loadNamespace, "MetricName": loadMetric, "Statistic": "Average", "Unit": "Percent",
			"Dimensions": []map[string]string{{"Name": loadDimension, "Value": c.name}}}}}
	return shown, func(ctx context.Context) error {
		_, err := c.asg.PutScalingPolicy(ctx, in)
		return c.explain(err)
	}
}

// planPolicy compares the policy, where the spec wants one. One that was set by `fleet autoscale --apply` alone stays.
func (c *Group) planPolicy(ctx context.Context) ([]fleet.Change, error) {
	if c.g.Autoscale == 0 {
		return nil, nil
	}
	var target string
	p := autoscaling.NewDescribePoliciesPaginator(c.asg, &autoscaling.DescribePoliciesInput{AutoScalingGroupName: &c.name, PolicyNames: []string{busyPolicy}})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if isCode(err, "ValidationError") { // there is no group yet
			break
		} else if err != nil {
			return nil, err
		}
		for _, q := range page.ScalingPolicies {
			if t := q.TargetTrackingConfiguration; t != nil {
				target = fmt.Sprintf("%.0f %% of job slots busy", sdk.ToFloat64(t.TargetValue))
				if m := t.CustomizedMetricSpecification; m == nil || sdk.ToString(m.MetricName) != loadMetric || sdk.ToString(m.Namespace) != loadNamespace {
					target += ", of another metric"
				}
			}
		}
	}
	var f fleet.Fields
	if f.Diff("target", target, fmt.Sprintf("%d %% of job slots busy", c.g.Autoscale)); len(f) == 0 {
		return nil, nil
	}
	action := fleet.Update
	if target == "" {
		action = fleet.Create
	}
	_, set := c.Autoscale(c.g.Fleet.Autoscale)
	return []fleet.Change{{Action: action, Kind: "scaling policy", Name: busyPolicy, Fields: f, Do: func(ctx context.Context, _ func(string) error) error { return set(ctx) }}}, nil
}
