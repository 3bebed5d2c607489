package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/fleet"
)

// Remains lists what there is of the fleet, in order of removal: what others use goes after them.
func (c *Group) Remains(ctx context.Context) ([]fleet.Change, error) {
	var all []fleet.Change
	add := func(kind, name, note string, do func(context.Context) error) {
		all = append(all, fleet.Change{Action: fleet.Delete, Kind: kind, Name: name, Note: note, Do: func(ctx context.Context, _ func(string) error) error { return c.explain(do(ctx)) }})
	}
	var foreign *notOurs
	g, err := c.describe(ctx)
	if err != nil && !errors.As(err, &foreign) {
		return nil, c.explain(err)
	}
	if g != nil {
		note := ""
		if n := len(g.Instances); n > 0 {
			note = fmt.Sprintf("running jobs of %s finish first, within %s", fleet.Machines(n), time.Duration(c.g.DrainTimeout))
			if c.how.Now {
				note = fmt.Sprintf("running jobs of %s are lost", fleet.Machines(n))
			}
		}
		add("auto scaling group", c.name, note, c.removeGroup)
	}
	t, err := c.findTemplate(ctx)
	if err != nil && !errors.As(err, &foreign) {
		return nil, c.explain(err)
	}
	if t != nil {
		add("launch template", c.name, "", func(ctx context.Context) error {
			_, err := c.ec2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: t.LaunchTemplateId})
			if aws.IsCode(err, "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.NotFoundException") {
				return nil
			}
			return err
		})
	}
	sg, err := c.findSecurityGroup(ctx, "")
	if err != nil {
		return nil, c.explain(err)
	}
	if sg != "" {
		add("security group", sg, "", func(ctx context.Context) error { return c.removeSecurityGroup(ctx, sg) })
	}
	have, err := c.findProfile(ctx)
	switch {
	case errors.As(err, &foreign):
	case aws.IsCode(err, "AccessDenied", "AccessDeniedException") && c.profile() != c.roleName(): // the fleet never had one
	case err != nil:
		return nil, c.explain(err)
	case have.role || have.profile:
		add("role and instance profile", c.roleName(), "", c.removeProfile)
	}
	return all, nil
}

// removeGroup lets the machines drain, then removes the group with its hooks, times and policy.
func (c *Group) removeGroup(ctx context.Context) error {
	if err := c.StopRoll(ctx, false); err != nil && !errors.Is(err, errNoRoll) {
		return err
	}
	limit := time.Duration(c.g.DrainTimeout) + 15*time.Minute
	told := -1
	emptied := false
	return aws.Until(ctx, "emptying "+c.name, limit, func(ctx context.Context) (bool, error) {
		g, err := c.describe(ctx)
		if g == nil || err != nil {
			return g == nil, err
		}
		deleting := sdk.ToString(g.Status) != ""
		switch {
		case deleting:
		case c.how.Now || len(g.Instances) == 0 && emptied:
			_, err := c.asg.DeleteAutoScalingGroup(ctx, &autoscaling.DeleteAutoScalingGroupInput{AutoScalingGroupName: &c.name, ForceDelete: sdk.Bool(c.how.Now)})
			switch {
			case aws.IsCode(err, "ResourceInUse", "ScalingActivityInProgress", "ResourceContention"):
			case aws.IsCode(err, "ValidationError"): // it is gone
				return true, nil
			case err != nil:
				return false, err
			}
		case !emptied:
			_, err := c.asg.UpdateAutoScalingGroup(ctx, &autoscaling.UpdateAutoScalingGroupInput{AutoScalingGroupName: &c.name,
				MinSize: sdk.Int32(0), MaxSize: sdk.Int32(0), DesiredCapacity: sdk.Int32(0), NewInstancesProtectedFromScaleIn: sdk.Bool(false)})
			if aws.IsCode(err, "ScalingActivityInProgress", "ResourceContention") {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			emptied = true
		}
		if err := c.unprotect(ctx, g); err != nil {
			return false, err
		}
		if n := len(g.Instances); n != told {
			told = n
			c.how.Info("%s to go", fleet.Machines(n))
		}
		return false, nil
	})
}

// unprotect lets the group end machines with running jobs too: they drain, and the drain has a limit, which protection
// has not.
func (c *Group) unprotect(ctx context.Context, g *types.AutoScalingGroup) error {
	var ids []string
	for _, i := range g.Instances {
		if sdk.ToBool(i.ProtectedFromScaleIn) && i.LifecycleState == types.LifecycleStateInService {
			ids = append(ids, *i.InstanceId)
		}
	}
	for len(ids) > 0 {
		n := min(len(ids), 50) // as many as a call takes
		_, err := c.asg.SetInstanceProtection(ctx, &autoscaling.SetInstanceProtectionInput{AutoScalingGroupName: &c.name, InstanceIds: ids[:n], ProtectedFromScaleIn: sdk.Bool(false)})
		if err != nil && !aws.IsCode(err, "ValidationError") { // one has just left
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// removeSecurityGroup waits for the last machine's network interface to be gone.
func (c *Group) removeSecurityGroup(ctx context.Context, id string) error {
	return aws.Until(ctx, "removing security group "+id+", which a machine still uses,", 8*time.Minute, func(ctx context.Context) (bool, error) {
		_, err := c.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &id})
		if aws.IsCode(err, "DependencyViolation") {
			return false, nil
		}
		if aws.IsCode(err, "InvalidGroup.NotFound", "InvalidGroupId.NotFound") {
			err = nil
		}
		return err == nil, err
	})
}
