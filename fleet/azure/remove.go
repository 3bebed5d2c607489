package azure

import (
	"context"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/fleet"
)

const networkVersion = "2024-05-01"

// Remains lists what there is of the fleet, in order of removal: what others use goes after them.
func (c *Group) Remains(ctx context.Context) ([]fleet.Change, error) {
	var all []fleet.Change
	add := func(kind, name, note string, do func(context.Context) error) {
		all = append(all, fleet.Change{Action: fleet.Delete, Kind: kind, Name: name, Note: note, Do: func(ctx context.Context, _ func(string) error) error { return do(ctx) }})
	}
	scale, err := c.a.Resource(ctx, c.autoscaleID(), autoscaleVersion)
	if err != nil {
		return nil, err
	}
	if scale != nil && c.ours(scale.Tags) {
		all = append(all, c.dropAutoscale())
	}
	// Roles first: they cannot be found any more once the identity is gone.
	principal, err := c.principal(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.a.Sets.Get(ctx, c.group, c.name, nil)
	if err != nil && !azure.Gone(err) {
		return nil, azure.Explain(ctx, err)
	}
	if err == nil && c.ours(s.Tags) {
		note := ""
		if n := value(s.SKU.Capacity); n > 0 {
			note = fmt.Sprintf("%d machines finish their jobs first, within 15 minutes at most", n)
			if c.how.Now {
				note = fmt.Sprintf("%d machines end at once, and their jobs are lost", n)
			}
		}
		add("scale set", c.name, note, c.removeSet)
	}
	if principal != "" {
		grants, err := c.a.Grants(ctx, principal)
		if err != nil {
			return nil, err
		}
		for _, g := range grants {
			add("role assignment", c.name, "on "+g.Scope, func(ctx context.Context) error { return c.a.Delete(ctx, g.ID, azure.GrantVersion) })
		}
		id := c.id("Microsoft.ManagedIdentity/userAssignedIdentities", c.name)
		add("managed identity", c.name, "", func(ctx context.Context) error { return c.a.Delete(ctx, id, identityVersion) })
	}
	nsg, err := c.a.NSGs.Get(ctx, c.group, c.name, nil)
	if err != nil && !azure.Gone(err) {
		return nil, azure.Explain(ctx, err)
	}
	if err == nil && c.ours(nsg.Tags) {
		add("network security group", c.name, "", func(ctx context.Context) error { return c.a.Delete(ctx, c.nsgID(), networkVersion) })
	}
	return all, nil
}

// removeSet lets the machines drain, and removes the scale set with them.
func (c *Group) removeSet(ctx context.Context) error {
	p, err := c.a.Sets.BeginDelete(ctx, c.group, c.name, &armcompute.VirtualMachineScaleSetsClientBeginDeleteOptions{ForceDeletion: &c.how.Now})
	_, err = azure.Wait(ctx, p, err, 30*time.Minute)
	if azure.Gone(err) {
		return nil
	}
	return err
}
