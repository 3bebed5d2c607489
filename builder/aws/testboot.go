package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/templates"
)

const (
	bootLimit = 10 * time.Minute
	bootMark  = "dorunner-selftest" // begins the line that ends the test on the console
)

// TestBoot starts a machine from the new image and reads on its console whether the self test passes. A failed test
// is the bake's failure, so the image goes, unless it is to be kept.
func (c *Cloud) TestBoot(ctx context.Context, env *builder.Env, a builder.Artifact) (err error) {
	if !env.Plan.Spec.AWS.TestBoot {
		return nil
	}
	builderGroup, builderImage, builderMachine := c.group, c.base, c.instance
	c.base = types.Image{ImageId: sdk.String(a.Images[0].ID)}
	c.group = "" // it needs no way in: the VPC's default group serves
	defer func() { c.group, c.base, c.instance = builderGroup, builderImage, builderMachine }()

	data, err := templates.Render("aws/testboot.yaml", map[string]any{"Mark": bootMark, "Minutes": int(bootLimit.Minutes()) + 5})
	if err != nil {
		return err
	}
	if len(c.places) == 0 { // published from a disk
		if err := c.findPlaces(ctx, env); err != nil {
			return err
		}
	}
	var started bool
	for _, p := range c.places {
		out, err := c.runTagged(ctx, env, p, false, false, "test", data...)
		if IsCode(err, "InsufficientInstanceCapacity") {
			continue
		}
		if err != nil {
			return explain(c.region, err)
		}
		c.instance, started = out.Instances[0], true
		break
	}
	if !started {
		return fmt.Errorf("there is no capacity anywhere to boot the image: name more sizes with --size")
	}
	id := *c.instance.InstanceId
	if err := c.record(env, kindInstance, c.region, id); err != nil {
		return err
	}
	env.Progress.Info("test boot: instance %s from %s", id, a.Images[0].ID)
	err = c.watchSelftest(ctx, id)
	if endErr := c.acct.fresh(context.WithoutCancel(ctx), builder.Entry{ID: id, Region: c.region, Time: time.Now()},
		func(ctx context.Context) error { return c.acct.terminate(ctx, c.region, id) }); endErr == nil {
		err = errors.Join(err, env.Ledger.Done(kindInstance, id))
	} else {
		err = errors.Join(err, endErr)
	}
	if err != nil && env.Plan.Spec.AWS.KeepFailed && ctx.Err() == nil {
		if keepErr := c.keepFailed(ctx, env, a); keepErr != nil {
			return errors.Join(err, keepErr)
		}
		return fmt.Errorf("%w; the image %s is kept for you to look at", err, names(a))
	}
	return err
}

// keepFailed leaves the image of a failed test boot to its author.
func (c *Cloud) keepFailed(ctx context.Context, env *builder.Env, a builder.Artifact) error {
	if err := c.finish(ctx, env, c.region, c.image); err != nil {
		return err
	}
	return env.Ledger.Keep(kindImage, a.Images[0].ID)
}

// watchSelftest reads the console until the self test has ended.
func (c *Cloud) watchSelftest(ctx context.Context, id string) error {
	var text string
	err := until(ctx, "the self test of "+id, bootLimit, func(ctx context.Context) (bool, error) {
		got, err := c.acct.console(ctx, c.region, id)
		if notFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		text = got
		return strings.Contains(text, bootMark+": "), nil
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("the image was booted, but: %w; its console ended with:\n%s", err, lastLines(text, 20))
	case !strings.Contains(text, bootMark+": passed"):
		return fmt.Errorf("the image was booted and its self test failed; its console ended with:\n%s", lastLines(text, 20))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func decodeConsole(text string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", fmt.Errorf("console output: %w", err)
	}
	return string(b), nil
}
