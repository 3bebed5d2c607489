package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder"
)

// Stop shuts the machine down, its disk whole. A spot machine cannot be stopped: making its image shuts it down.
func (c *Cloud) Stop(ctx context.Context, env *builder.Env) error {
	if closer, ok := c.guest.(interface{ Close() error }); ok {
		_ = closer.Close() // the machine is going away; so does the connection
	}
	if c.spot {
		return nil
	}
	id := *c.instance.InstanceId
	if _, err := c.acct.in(c.region).StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		return fmt.Errorf("stopping %s: %w", id, explain(c.region, err))
	}
	return c.awaitInstance(ctx, types.InstanceStateNameStopped, stopLimit)
}

// Capture makes the image and, while waiting for it, gives back what the machine no longer needs.
func (c *Cloud) Capture(ctx context.Context, env *builder.Env) (builder.Artifact, error) {
	if c.disk != nil {
		return c.publish(ctx, env)
	}
	if err := c.rehash(env); err != nil {
		return builder.Artifact{}, err
	}
	id, err := c.makeImage(ctx, env)
	if err != nil {
		return builder.Artifact{}, err
	}
	env.Progress.Info("image %s in %s: %s", id, c.region, c.name)
	pending := false
	c.image, err = c.awaitImage(ctx, env, c.region, id, func() {
		if !pending {
			pending = true
			c.releaseGroup(ctx, env)
		}
	})
	if err != nil {
		return builder.Artifact{}, err
	}
	if err := c.endMachine(ctx); err != nil {
		return builder.Artifact{}, err
	}
	return builder.Artifact{Images: []builder.ImageID{{Region: c.region, ID: id, Format: "ami", Size: int64(env.Plan.Spec.Image.DiskGB) << 30}}}, nil
}

// rehash takes over the plan's hash where the machine was customized since the preflight; a name that holds it, too.
func (c *Cloud) rehash(env *builder.Env) error {
	if c.hash == env.Plan.Hash {
		return nil
	}
	now := time.Now()
	before, err1 := env.Plan.ImageName(c.hash, now)
	after, err2 := env.Plan.ImageName(env.Plan.Hash, now)
	if after != before {
		c.name = after
	}
	c.hash = env.Plan.Hash
	return errors.Join(err1, err2)
}

func (c *Cloud) createImage(env *builder.Env, dry bool) *ec2.CreateImageInput {
	return &ec2.CreateImageInput{InstanceId: c.instance.InstanceId, Name: &c.name, DryRun: sdk.Bool(dry), Description: sdk.String(description(env)),
		TagSpecifications: tagSpecs(c.imageTags(env), types.ResourceTypeImage, types.ResourceTypeSnapshot)}
}

func description(env *builder.Env) string {
	return fmt.Sprintf("DataOps runner on %s %s, baked by dorunner-bake", env.Plan.Base.OS, env.Plan.Spec.Image.Arch)
}

// makeImage asks for the image and has its id in the ledger before anything is waited for.
func (c *Cloud) makeImage(ctx context.Context, env *builder.Env) (string, error) {
	call, cancel := creating(ctx)
	defer cancel()
	in := c.createImage(env, false)
	out, err := c.acct.in(c.region).CreateImage(call, in)
	if Unsupported(err) {
		in.TagSpecifications = in.TagSpecifications[:1]
		env.Progress.Warn("the server takes no tags for the snapshot of an image that is made: it is tagged afterwards")
		out, err = c.acct.in(c.region).CreateImage(call, in)
	}
	var id string
	if IsCode(err, "InvalidAMIName.Duplicate") { // an answer was lost and the call repeated
		id, err = c.acct.imageOf(call, c.region, c.name, env.BakeID, err)
	} else if err == nil {
		id = *out.ImageId
	}
	c.acct.created(c.region, err)
	if err != nil {
		return "", fmt.Errorf("making the image: %w", explain(c.region, err))
	}
	return id, c.record(env, kindImage, c.region, id)
}

// awaitImage waits until an image is whole. meanwhile is called after each look at an unfinished one.
func (c *Cloud) awaitImage(ctx context.Context, env *builder.Env, region, id string, meanwhile func()) (types.Image, error) {
	var image types.Image
	what := fmt.Sprintf("image %s (%s)", id, region)
	began := time.Now()
	err := until(ctx, what, imageLimit, func(ctx context.Context) (bool, error) {
		list, err := c.acct.images(ctx, region, &ec2.DescribeImagesInput{ImageIds: []string{id}})
		if notFound(err) || err == nil && len(list) == 0 {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", what, explain(region, err))
		}
		image = list[0]
		switch image.State {
		case types.ImageStateAvailable:
			return true, c.mark(ctx, env, region, image)
		case types.ImageStatePending:
			env.Progress.Count("image "+region, int64(time.Since(began).Seconds()), 0, "s")
			if meanwhile != nil {
				meanwhile()
			}
			return false, nil
		}
		reason := "no reason is given"
		if image.StateReason != nil {
			reason = sdk.ToString(image.StateReason.Message)
		}
		return false, fmt.Errorf("%s became %s: %s; bake again, and ask AWS support if it stays so", what, image.State, reason)
	})
	return image, err
}

// mark tags an image and its snapshots when the server has not done so while making them.
func (c *Cloud) mark(ctx context.Context, env *builder.Env, region string, image types.Image) error {
	if TagOf(image.Tags, tagBake) != "" {
		return nil
	}
	env.Progress.Warn("the server ignores tags while making an image: %s is tagged afterwards", *image.ImageId)
	_, err := c.acct.in(region).CreateTags(ctx, &ec2.CreateTagsInput{Resources: append([]string{*image.ImageId}, snapshotsOf(image)...), Tags: TagList(c.imageTags(env))})
	return explain(region, err)
}

// releaseGroup removes the security group while the image is being made: the stopped machine can do without, and
// nothing has to wait for its termination later. When that fails, endMachine's way is left.
func (c *Cloud) releaseGroup(ctx context.Context, env *builder.Env) {
	if c.group == "" {
		return
	}
	other, err := c.acct.groupNamed(ctx, c.region, "default", c.vpc)
	if err == nil && other != "" {
		_, err = c.acct.in(c.region).ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{InstanceId: c.instance.InstanceId, Groups: []string{other}})
	}
	if err == nil {
		_, err = c.acct.in(c.region).DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &c.group})
	}
	if err == nil && env.Ledger.Done(kindGroup, c.group) == nil {
		c.group = ""
	}
}

// endMachine terminates the machine. The answer says that it is shutting down, which cannot be taken back; that it
// did is verified at the end of the bake.
func (c *Cloud) endMachine(ctx context.Context) error {
	if c.instance.InstanceId == nil {
		return nil
	}
	_, err := c.acct.in(c.region).TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*c.instance.InstanceId}})
	if err != nil {
		return fmt.Errorf("terminating %s: %w", *c.instance.InstanceId, explain(c.region, err))
	}
	return nil
}

// verifyEnded checks that the machine goes away. Its security group, when it still has ours, needs it gone.
func (c *Cloud) verifyEnded(ctx context.Context, env *builder.Env) error {
	if c.instance.InstanceId == nil {
		return nil
	}
	id := *c.instance.InstanceId
	err := until(ctx, "termination of "+id, 5*time.Minute, func(ctx context.Context) (bool, error) {
		out, err := c.acct.in(c.region).DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
		if notFound(err) {
			return true, nil
		}
		if err != nil || len(out.Reservations) == 0 || len(out.Reservations[0].Instances) == 0 {
			return err == nil, explain(c.region, err)
		}
		state := stateOf(out.Reservations[0].Instances[0])
		return state == types.InstanceStateNameTerminated || state == types.InstanceStateNameShuttingDown && c.group == "", nil
	})
	if err != nil {
		return fmt.Errorf("whether %s is gone: %w", id, err)
	}
	if err := env.Ledger.Done(kindInstance, id); err != nil {
		return err
	}
	if c.group == "" {
		return nil
	}
	if err := c.acct.deleteGroup(ctx, c.region, c.group); err != nil && !notFound(err) {
		return explain(c.region, err)
	}
	return env.Ledger.Done(kindGroup, c.group)
}
