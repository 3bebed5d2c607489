package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/fleet"
)

// Census lists the group's machines.
func (c *Group) Census(ctx context.Context) (*fleet.Census, error) {
	out := &fleet.Census{}
	g, err := c.describe(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	if g == nil {
		return out, nil
	}
	out.Exists, out.Min, out.Max, out.Desired = true, int(sdk.ToInt32(g.MinSize)), int(sdk.ToInt32(g.MaxSize)), int(sdk.ToInt32(g.DesiredCapacity))
	roll, err := c.refresh(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	newest := versionOf(g.MixedInstancesPolicy)
	if roll != nil {
		out.Roll = rolling(roll)
		if !out.Roll.Done { // the group's own configuration changes when the roll has succeeded
			newest = cmp.Or(rollsTo(roll), newest)
		}
	}
	for _, i := range g.Instances {
		m := &fleet.Member{ID: *i.InstanceId, Zone: sdk.ToString(i.AvailabilityZone), Size: sdk.ToString(i.InstanceType), Lifecycle: string(i.LifecycleState),
			Unhealthy: sdk.ToString(i.HealthStatus) == "Unhealthy", Protected: sdk.ToBool(i.ProtectedFromScaleIn)}
		if t := i.LaunchTemplate; t != nil && newest != "" {
			m.Outdated = sdk.ToString(t.Version) != newest
		}
		switch s := m.Lifecycle; {
		case strings.HasPrefix(s, "Pending"):
			m.Phase = fleet.Coming
		case s == "InService":
			m.Phase = fleet.Serving
		default:
			m.Phase = fleet.Leaving
		}
		out.Members = append(out.Members, m)
	}
	if len(out.Members) > 0 {
		if err := c.instances(ctx, out.Members); err != nil {
			return nil, c.explain(err)
		}
	}
	if out.In(fleet.Serving) < out.Desired {
		if out.Trouble, err = c.trouble(ctx); err != nil {
			return nil, c.explain(err)
		}
	}
	return out, nil
}

func versionOf(p *types.MixedInstancesPolicy) string {
	if p == nil || p.LaunchTemplate == nil || p.LaunchTemplate.LaunchTemplateSpecification == nil {
		return ""
	}
	return sdk.ToString(p.LaunchTemplate.LaunchTemplateSpecification.Version)
}

// instances adds what EC2 knows of machines.
func (c *Group) instances(ctx context.Context, members []*fleet.Member) error {
	byID := map[string]*fleet.Member{}
	for _, m := range members {
		byID[m.ID] = m
	}
	var used []string
	p := ec2.NewDescribeInstancesPaginator(c.ec2, &ec2.DescribeInstancesInput{MaxResults: sdk.Int32(1000),
		Filters: []ec2types.Filter{aws.Filter("tag:"+tagFleet, c.g.Name)}})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				m := byID[*i.InstanceId]
				if m == nil {
					continue // it has left the group
				}
				m.State, m.Image, m.Launched, m.Spot = string(i.State.Name), sdk.ToString(i.ImageId), sdk.ToTime(i.LaunchTime), i.InstanceLifecycle == ec2types.InstanceLifecycleTypeSpot
				used = append(used, m.Image)
			}
		}
	}
	slices.Sort(used)
	baked := map[string]time.Time{}
	q := ec2.NewDescribeImagesPaginator(c.ec2, &ec2.DescribeImagesInput{IncludeDeprecated: sdk.Bool(true),
		Filters: []ec2types.Filter{aws.Filter("image-id", slices.Compact(used)...)}}) // an image that is gone is not an error, as it is by id
	for len(used) > 0 && q.HasMorePages() {
		page, err := q.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, i := range page.Images {
			baked[*i.ImageId], _ = time.Parse(time.RFC3339, sdk.ToString(i.CreationDate)) // EC2 writes no other form
		}
	}
	for _, m := range members {
		m.Baked = baked[m.Image]
	}
	return nil
}

// trouble is what the engine says of machines that it could not start in the last hour.
func (c *Group) trouble(ctx context.Context) ([]string, error) {
	out, err := c.asg.DescribeScalingActivities(ctx, &autoscaling.DescribeScalingActivitiesInput{AutoScalingGroupName: &c.name, MaxRecords: sdk.Int32(20)})
	if err != nil {
		return nil, err
	}
	var all []string
	for _, a := range out.Activities {
		if a.StatusCode != types.ScalingActivityStatusCodeFailed && a.StatusCode != types.ScalingActivityStatusCodeCancelled || time.Since(sdk.ToTime(a.StartTime)) > time.Hour {
			continue
		}
		text := sdk.ToString(a.StatusMessage)
		if text == "" {
			text = sdk.ToString(a.Description)
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all, nil
}

// refresh is the newest instance refresh, nil when there never was one.
func (c *Group) refresh(ctx context.Context) (*types.InstanceRefresh, error) {
	out, err := c.asg.DescribeInstanceRefreshes(ctx, &autoscaling.DescribeInstanceRefreshesInput{AutoScalingGroupName: &c.name, MaxRecords: sdk.Int32(1)})
	if aws.Unsupported(err) { // a compatible server that has none
		return nil, nil
	}
	if err != nil || len(out.InstanceRefreshes) == 0 { // the newest comes first
		return nil, err
	}
	return &out.InstanceRefreshes[0], nil
}

// over says that a refresh has ended.
func over(s types.InstanceRefreshStatus) bool {
	return slices.Contains([]types.InstanceRefreshStatus{types.InstanceRefreshStatusSuccessful, types.InstanceRefreshStatusFailed, types.InstanceRefreshStatusCancelled,
		types.InstanceRefreshStatusRollbackSuccessful, types.InstanceRefreshStatusRollbackFailed}, s)
}

func rolling(r *types.InstanceRefresh) *fleet.Rolling {
	return &fleet.Rolling{ID: *r.InstanceRefreshId, Status: string(r.Status), Percent: int(sdk.ToInt32(r.PercentageComplete)), Left: int(sdk.ToInt32(r.InstancesToUpdate)),
		Reason: sdk.ToString(r.StatusReason), Started: sdk.ToTime(r.StartTime), Done: over(r.Status), Failed: over(r.Status) && r.Status != types.InstanceRefreshStatusSuccessful}
}

// rollsTo is the version of the template that a refresh brings; "" where it says none.
func rollsTo(r *types.InstanceRefresh) string {
	if r.DesiredConfiguration == nil {
		return ""
	}
	return versionOf(r.DesiredConfiguration.MixedInstancesPolicy)
}

// planRoll has machines replaced that are not as the spec says. The engine starts new ones first, and lets old ones go
// when their replacements have completed the launch hook; it takes on the new configuration when all are replaced, and
// goes back to the old one by itself when that fails.
func (c *Group) planRoll(ctx context.Context, have *types.AutoScalingGroup) ([]fleet.Change, error) {
	if empty(have) {
		return nil, nil // planUpdate has changed the configuration
	}
	var f fleet.Fields
	machineFields(&f, have.MixedInstancesPolicy, c.policy())
	if len(f) == 0 && !c.how.Force {
		return nil, nil
	}
	note := fmt.Sprintf("replaces %s: new ones come first, old ones finish their jobs", fleet.Machines(len(have.Instances)))
	now, err := c.refresh(ctx)
	if err != nil {
		return nil, err
	}
	underWay := now != nil && !over(now.Status)
	if underWay {
		note = fmt.Sprintf("under way: %s, %d %%", now.Status, sdk.ToInt32(now.PercentageComplete))
	}
	return []fleet.Change{{Action: fleet.Roll, Kind: "machines of", Name: c.name, Fields: f, Note: note,
		Do: func(ctx context.Context, created func(string) error) error {
			if underWay && rollsTo(now) == strconv.FormatInt(c.version, 10) {
				return nil // it is followed
			}
			p := &types.RefreshPreferences{AutoRollback: sdk.Bool(true), SkipMatching: sdk.Bool(!c.how.Force), MinHealthyPercentage: sdk.Int32(100),
				MaxHealthyPercentage: sdk.Int32(int32(max(c.how.MaxHealthy, 101))), InstanceWarmup: sdk.Int32(0),
				// Busy machines hold protection: without this the roll would wait for them to be idle, and then fail. They drain.
				ScaleInProtectedInstances: types.ScaleInProtectedInstancesRefresh, StandbyInstances: types.StandbyInstancesIgnore}
			if len(c.how.Checkpoints) > 0 {
				for _, percent := range c.how.Checkpoints {
					p.CheckpointPercentages = append(p.CheckpointPercentages, int32(percent))
				}
				if last := c.how.Checkpoints[len(c.how.Checkpoints)-1]; last < 100 { // the rest comes after the last pause
					p.CheckpointPercentages = append(p.CheckpointPercentages, 100)
				}
				p.CheckpointDelay = sdk.Int32(int32(c.how.Delay.Seconds()))
			}
			out, err := c.asg.StartInstanceRefresh(ctx, &autoscaling.StartInstanceRefreshInput{AutoScalingGroupName: &c.name, Preferences: p,
				DesiredConfiguration: &types.DesiredConfiguration{MixedInstancesPolicy: c.policy()}})
			if aws.IsCode(err, "InstanceRefreshInProgress") {
				now, err2 := c.refresh(ctx)
				if err2 == nil && now != nil && rollsTo(now) == strconv.FormatInt(c.version, 10) {
					return nil // by an attempt whose answer was lost
				}
				return fmt.Errorf("another roll is under way: wait for it (`dorunner-bake fleet roll aws --follow`) or end it (--cancel, --rollback)")
			}
			if err != nil {
				return c.explain(err)
			}
			return created(*out.InstanceRefreshId)
		}}}, nil
}

var errNoRoll = errors.New("no roll")

// StopRoll ends the roll under way, or brings the old machines back.
func (c *Group) StopRoll(ctx context.Context, rollback bool) error {
	var err error
	if rollback {
		_, err = c.asg.RollbackInstanceRefresh(ctx, &autoscaling.RollbackInstanceRefreshInput{AutoScalingGroupName: &c.name})
	} else {
		_, err = c.asg.CancelInstanceRefresh(ctx, &autoscaling.CancelInstanceRefreshInput{AutoScalingGroupName: &c.name})
	}
	if aws.IsCode(err, "ActiveInstanceRefreshNotFound", "ActiveInstanceRefreshNotFoundFault") {
		if now, err := c.refresh(ctx); rollback && err == nil && now != nil && now.Status == types.InstanceRefreshStatusRollbackInProgress {
			return nil // the engine was faster
		}
		return fmt.Errorf("%w of fleet %s is under way", errNoRoll, c.g.Name)
	}
	return c.explain(err)
}
