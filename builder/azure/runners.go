package azure

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/images"
)

// RunnerOptions say which machines StartRunners starts.
type RunnerOptions struct {
	ID         string // of this launch: part of the machines' names
	Image      string // a resource id, or latest: the newest of ours in the gallery or the group
	Count      int
	CustomData []byte // who the machines are
	Identity   string // id of a user-assigned identity that may read the token; default one of the machine's own
	Key        string // a line of authorized_keys for the admin user; by default nobody can log in
	Progress   builder.Progress
}

// Runner is a machine that was started.
type Runner struct {
	ID, Name, Address string
	Size              string // and zone, as it was asked for
}

// StartRunners starts machines from an image, all or none, in the subnet that the spec names. They have no public
// address: a runner asks for its work.
func (c *Cloud) StartRunners(ctx context.Context, plan *images.Plan, o RunnerOptions) (all []Runner, err error) {
	c.spec.PrivateIP = true
	if err := c.checkGroup(ctx); err != nil {
		return nil, err
	}
	if c.groupNew {
		return nil, fmt.Errorf("the resource group %s does not exist", c.spec.ResourceGroup)
	}
	if c.spec.Subnet == "" {
		return nil, errors.New("a runner lives in a network of yours: name its subnet, --subnet ID (`az network vnet subnet show --query id` prints it)")
	}
	f := &findings{}
	c.base.generation = armcompute.HyperVGenerationTypesV2
	c.checkNetwork(ctx, nil, f)
	c.checkSizes(ctx, plan, f)
	image, err := c.imageFor(ctx, o.Image)
	f.add(err)
	if err := errors.Join(f.errs...); err != nil {
		return nil, err
	}
	file, err := builder.LedgerFile(o.ID)
	if err != nil {
		return nil, err
	}
	ledger, err := builder.OpenLedger(file)
	if err != nil {
		return nil, err
	}
	env := &builder.Env{Plan: plan, Ledger: ledger, Progress: o.Progress, BakeID: o.ID}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), machineTime)
		defer cancel()
		err = errors.Join(err, ledger.Unwind(undo, nil), ledger.Close())
	}()
	all = make([]Runner, o.Count)
	var todo []func(context.Context) error
	for i := range all {
		todo = append(todo, func(ctx context.Context) error { return c.startRunner(ctx, env, o, image, i, &all[i]) })
	}
	if err := together(ctx, todo...); err != nil {
		return nil, err
	}
	return all, c.keepRunners(ctx, env)
}

// imageFor is the id of the image to start from.
func (c *Cloud) imageFor(ctx context.Context, image string) (string, error) {
	if image != "latest" {
		_, err := parseID(image)
		return image, err
	}
	all, err := c.Images(ctx)
	if err != nil {
		return "", err
	}
	for _, i := range all {
		if i.State == "Succeeded" {
			return i.ID, nil
		}
	}
	return "", fmt.Errorf("there is no image of ours in resource group %s: bake one with `dorunner-bake azure`, or name one with --image", c.spec.ResourceGroup)
}

func (c *Cloud) startRunner(ctx context.Context, env *builder.Env, o RunnerOptions, image string, i int, out *Runner) error {
	key := o.Key
	if key == "" { // Azure makes no machine without one
		throwaway, err := ssh.NewKey("nobody")
		if err != nil {
			return err
		}
		key = throwaway.Authorized
	}
	what := fmt.Sprintf("runner-%d", i+1)
	nic, err := c.networkInterface(ctx, env, what+"-nic", nil, nil)
	if err != nil {
		return err
	}
	m, err := c.machine(ctx, env, machineSpec{name: what, nic: value(nic.ID), customData: o.CustomData, key: key, user: env.Plan.Base.AdminUser,
		identity: o.Identity, runner: true, trusted: c.spec.TrustedLaunch, image: &armcompute.ImageReference{ID: &image}})
	if err != nil {
		return err
	}
	*out = Runner{ID: m.id, Name: m.name, Size: m.size, Address: value(nic.Properties.IPConfigurations[0].Properties.PrivateIPAddress)}
	return nil
}

// keepRunners makes the machines lasting, and their interfaces go with them some day.
func (c *Cloud) keepRunners(ctx context.Context, env *builder.Env) error {
	var todo []func(context.Context) error
	entries := env.Ledger.Entries()
	for _, e := range entries {
		todo = append(todo, func(ctx context.Context) error {
			if err := c.lasting(ctx, env, e); err != nil {
				return fmt.Errorf("%s: %w", e, explain(cause(ctx, err)))
			}
			return nil
		})
	}
	if err := together(ctx, todo...); err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, env.Ledger.Keep(e.Kind, e.ID))
	}
	return errors.Join(errs...)
}

func (c *Cloud) lasting(ctx context.Context, env *builder.Env, e builder.Entry) error {
	r, err := parseID(e.ID)
	if err != nil {
		return err
	}
	if e.Kind != kindVM {
		p, err := c.api.tags.BeginUpdateAtScope(ctx, e.ID, armresources.TagsPatchResource{
			Operation: new(armresources.TagsPatchOperationReplace), Properties: &armresources.Tags{Tags: c.lastingTags(env)}}, nil)
		if err == nil {
			_, err = poll(ctx, p, quickTime)
		}
		return err
	}
	vm, err := c.api.vms.Get(ctx, r.group, r.name(), nil)
	if err != nil {
		return err
	}
	nics := vm.Properties.NetworkProfile.NetworkInterfaces
	for _, n := range nics {
		n.Properties.DeleteOption = new(armcompute.DeleteOptionsDelete)
	}
	p, err := c.api.vms.BeginUpdate(ctx, r.group, r.name(), armcompute.VirtualMachineUpdate{Tags: c.lastingTags(env),
		Properties: &armcompute.VirtualMachineProperties{NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: nics}}}, nil)
	if err == nil {
		_, err = poll(ctx, p, quickTime)
	}
	return err
}

// FollowRunners reads the serial consoles of machines, every few seconds, until read says of each that it has seen enough.
func (c *Cloud) FollowRunners(ctx context.Context, ids []string, limit time.Duration, read func(i int, console string) (done bool)) error {
	began := time.Now()
	for {
		waiting := []string{}
		for i, id := range ids {
			r, err := parseID(id)
			if err != nil {
				return err
			}
			text, err := c.serial(ctx, r.name())
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			// A console that cannot be read yet holds nothing.
			if err != nil || !read(i, text) {
				waiting = append(waiting, r.name())
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		if time.Since(began) > limit {
			return fmt.Errorf("not online within %v: %s", limit, strings.Join(waiting, ", "))
		}
		if err := sleep(ctx, pause(time.Since(began))); err != nil {
			return err
		}
	}
}
