package aws

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/dorunner/dorunner-bake/builder"
)

// copyTries is how often a copy that failed is begun anew.
const copyTries = 3

// Distribute brings the image everywhere, gives it its attributes, and last of all lets the world know: until then an
// error removes all of it again.
func (c *Cloud) Distribute(ctx context.Context, env *builder.Env, a builder.Artifact) (builder.Artifact, error) {
	regions := append([]string{c.region}, copyRegions(c.region, env.Plan.Spec.AWS.CopyTo)...)
	done := make([]types.Image, len(regions))
	errs := make([]error, len(regions)+1)
	var wg sync.WaitGroup
	for i, r := range regions {
		wg.Go(func() {
			var err error
			if done[i], err = c.bring(ctx, env, r, a.Images[0].ID); err != nil {
				errs[i] = fmt.Errorf("region %s: %w", r, err)
				return
			}
			env.Progress.Info("%s: %s is ready", r, *done[i].ImageId)
		})
	}
	wg.Go(func() { errs[len(regions)] = c.verifyEnded(ctx, env) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return a, err
	}
	for i, r := range regions {
		if err := c.finish(ctx, env, r, done[i]); err != nil {
			return a, fmt.Errorf("region %s: %w", r, err)
		}
	}
	out := builder.Artifact{}
	for i, r := range regions {
		id := *done[i].ImageId
		if err := errors.Join(env.Ledger.Keep(kindImage, id), env.Ledger.Done(kindBake, env.BakeID+"/"+r)); err != nil {
			return a, err
		}
		out.Images = append(out.Images, builder.ImageID{Region: r, ID: id, Format: "ami", Size: a.Images[0].Size})
	}
	if err := c.announce(ctx, env, out); err != nil {
		return out, err
	}
	c.prune(ctx, env, out)
	return out, nil
}

// bring makes the image exist in a region, with its attributes.
func (c *Cloud) bring(ctx context.Context, env *builder.Env, region, source string) (types.Image, error) {
	var image types.Image
	var err error
	if region == c.region {
		image = c.image
	} else {
		image, err = c.copyTo(ctx, env, region, source)
	}
	if err != nil {
		return image, err
	}
	client, id, spec := c.acct.in(region), image.ImageId, env.Plan.Spec.AWS
	if image.ImdsSupport == "" {
		_, err := client.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{ImageId: id, ImdsSupport: &types.AttributeValue{Value: sdk.String("v2.0")}})
		if err := without(env, region, "requiring IMDSv2 of an image", "launch its machines with HttpTokens=required", err); err != nil {
			return image, fmt.Errorf("requiring IMDSv2: %w", err)
		}
	}
	if err := c.acct.share(ctx, region, image, spec.Share); err != nil {
		return image, fmt.Errorf("sharing: %w", err)
	}
	if days := spec.DeprecateAfter; days > 0 {
		if err := without(env, region, "deprecating images", "the image stays as it is", c.acct.deprecate(ctx, region, *id, time.Now().AddDate(0, 0, days))); err != nil {
			return image, err
		}
	}
	if spec.Protect {
		_, err := client.EnableImageDeregistrationProtection(ctx, &ec2.EnableImageDeregistrationProtectionInput{ImageId: id})
		if err := without(env, region, "protecting images", "the image can be deregistered", err); err != nil {
			return image, fmt.Errorf("protecting: %w", err)
		}
	}
	return image, nil
}

// copyTo copies the image to a region. A copy that fails is removed and begun anew.
func (c *Cloud) copyTo(ctx context.Context, env *builder.Env, region, source string) (types.Image, error) {
	if err := c.begin(env, region); err != nil {
		return types.Image{}, err
	}
	for try := 1; ; try++ {
		id, err := c.copyOnce(ctx, env, region, source, try)
		if err != nil {
			return types.Image{}, fmt.Errorf("copying: %w", explain(region, err))
		}
		image, err := c.awaitImage(ctx, env, region, id, nil)
		if err == nil || image.State != types.ImageStateFailed || try == copyTries {
			return image, err
		}
		env.Progress.Warn("%v; copying it anew", err)
		if err := c.acct.removeImage(ctx, region, id); err != nil {
			return types.Image{}, err
		}
		if err := env.Ledger.Done(kindImage, id); err != nil {
			return types.Image{}, err
		}
	}
}

func (c *Cloud) copyOnce(ctx context.Context, env *builder.Env, region, source string, try int) (string, error) {
	call, cancel := creating(ctx)
	defer cancel()
	in := &ec2.CopyImageInput{SourceImageId: &source, SourceRegion: &c.region, Name: &c.name, Description: sdk.String(description(env)),
		Encrypted: sdk.Bool(true), KmsKeyId: orNil(KeyIn(region, env.Plan.Spec.AWS.KMSKey)), ClientToken: sdk.String(fmt.Sprintf("%s/%d", env.BakeID, try)),
		TagSpecifications: tagSpecs(c.imageTags(env), types.ResourceTypeImage, types.ResourceTypeSnapshot)}
	var id string
	fewer := false
	// At most so many copies go on at once into one region: then wait for a place.
	err := until(call, "waiting for a place among the copies", imageLimit, func(ctx context.Context) (bool, error) {
		out, err := c.acct.in(region).CopyImage(ctx, in)
		if IsCode(err, "ResourceLimitExceeded") {
			return false, nil
		}
		if Unsupported(err) && !fewer { // it may not know tags for snapshots, as above
			fewer, in.TagSpecifications = true, in.TagSpecifications[:1]
			return false, nil
		}
		if err == nil {
			id = *out.ImageId
		}
		return err == nil, err
	})
	c.acct.created(region, err)
	if err != nil {
		return "", err
	}
	return id, c.record(env, kindImage, region, id)
}

// finish marks the image and its snapshots as whole: gc leaves them alone from now on.
func (c *Cloud) finish(ctx context.Context, _ *builder.Env, region string, image types.Image) error {
	_, err := c.acct.in(region).DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: append([]string{*image.ImageId}, snapshotsOf(image)...),
		Tags: []types.Tag{{Key: sdk.String(tagExpires)}}})
	if err != nil {
		return fmt.Errorf("marking the image as finished: %w", explain(region, err))
	}
	return nil
}

// announce writes the parameter that machines and stacks look the image up by, in each region.
func (c *Cloud) announce(ctx context.Context, env *builder.Env, a builder.Artifact) error {
	name := env.Plan.Spec.AWS.Publish
	if name == "" {
		return nil
	}
	var errs []error
	for _, i := range a.Images {
		_, err := c.acct.ssm(i.Region).PutParameter(ctx, &ssm.PutParameterInput{Name: &name, Value: sdk.String(i.ID), Type: ssmtypes.ParameterTypeString,
			DataType: sdk.String("aws:ec2:image"), Overwrite: sdk.Bool(true)})
		if err != nil {
			errs = append(errs, fmt.Errorf("region %s: parameter %s was not written: %w", i.Region, name, explain(i.Region, err)))
		}
	}
	if errs == nil {
		return nil
	}
	return fmt.Errorf("the images are whole and stay (%s), but are not published: %w", names(a), errors.Join(errs...))
}

func names(a builder.Artifact) string {
	var out []string
	for _, i := range a.Images {
		out = append(out, i.ID+" in "+i.Region)
	}
	return strings.Join(out, ", ")
}

// prune removes images of this name beyond --keep. Failing to is worth a warning, no more: the bake succeeded.
func (c *Cloud) prune(ctx context.Context, env *builder.Env, a builder.Artifact) {
	keep := env.Plan.Spec.AWS.Keep
	if keep <= 0 {
		return
	}
	var wg sync.WaitGroup
	for _, i := range a.Images {
		wg.Go(func() {
			gone, kept, err := c.acct.pruneFamily(ctx, i.Region, c.family, keep, i.ID, true)
			for _, g := range gone {
				env.Progress.Info("%s: removed old image %s (%s)", i.Region, g.ID, g.Name)
			}
			for _, k := range kept {
				env.Progress.Info("%s: old image %s stays: %s", i.Region, k.ID, k.UsedBy)
			}
			if err != nil {
				env.Progress.Warn("%s: removing old images: %v", i.Region, err)
			}
		})
	}
	wg.Wait()
}
