package azure

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/images"
)

// Account is a subscription with this program's credentials, retries and errors, for those who run machines from images.
type Account struct {
	c *Cloud

	Subscription string
	Sets         *armcompute.VirtualMachineScaleSetsClient
	Rolls        *armcompute.VirtualMachineScaleSetRollingUpgradesClient
	VMs          *armcompute.VirtualMachinesClient
	NSGs         *armnetwork.SecurityGroupsClient
	Subnets      *armnetwork.SubnetsClient
}

// Account is the subscription that c works in.
func (c *Cloud) Account() *Account {
	return &Account{c: c, Subscription: c.api.subscription, Sets: c.api.sets, Rolls: c.api.rolls, VMs: c.api.vms, NSGs: c.api.nsgs, Subnets: c.api.subnets}
}

// Location is where machines of the resource group live. The group must exist.
func (a *Account) Location(ctx context.Context) (string, error) {
	if err := a.c.checkGroup(ctx); err != nil {
		return "", err
	}
	if a.c.groupNew {
		return "", fmt.Errorf("the resource group %s does not exist: make it (`az group create`), or name one that does", a.c.spec.ResourceGroup)
	}
	return a.c.location, nil
}

// Image finds the image to start machines from: an id, or latest, the newest of ours. When it was made, is zero where
// nobody can tell.
func (a *Account) Image(ctx context.Context, image string) (id string, made time.Time, err error) {
	if id, err = a.c.imageFor(ctx, image); err != nil {
		return "", made, err
	}
	all, err := a.c.Images(ctx)
	for _, i := range all {
		if i.ID == id {
			made = i.Made
		}
	}
	return id, made, err
}

// Zones checks sizes against what Azure offers, what is left of quota, and the plan. It gives the zones in which all of
// those that can be used are offered; the error says why none can.
func (a *Account) Zones(ctx context.Context, plan *images.Plan, sizes []string) (usable, zones []string, err error) {
	probe := *a.c
	probe.spec.Sizes, probe.sizes, probe.base.generation = sizes, nil, armcompute.HyperVGenerationTypesV2
	f := &findings{}
	probe.checkSizes(ctx, plan, f)
	if err := errors.Join(f.errs...); err != nil {
		return nil, nil, err
	}
	for i, s := range probe.sizes {
		usable = append(usable, s.name)
		if i == 0 {
			zones = s.zones
			continue
		}
		var both []string
		for _, z := range zones {
			if containsAll(s.zones, []string{z}) {
				both = append(both, z)
			}
		}
		zones = both
	}
	return usable, zones, nil
}

// Console is what a machine printed on its serial console so far.
func (a *Account) Console(ctx context.Context, vm string) (string, error) { return a.c.serial(ctx, vm) }

// Resource reads anything by its id; nil when it is not there.
func (a *Account) Resource(ctx context.Context, id, version string) (*armresources.GenericResource, error) {
	r, err := a.c.api.resources.GetByID(ctx, id, version, nil)
	if gone(err) {
		return nil, nil
	}
	return &r.GenericResource, explain(cause(ctx, err))
}

// Put makes or changes anything by its id, and waits until that is done.
func (a *Account) Put(ctx context.Context, id, version string, r armresources.GenericResource) (*armresources.GenericResource, error) {
	p, err := a.c.api.resources.BeginCreateOrUpdateByID(ctx, id, version, r, nil)
	if err != nil {
		return nil, explain(cause(ctx, err))
	}
	got, err := poll(ctx, p, quickTime)
	return &got.GenericResource, err
}

// Delete removes anything by its id, and waits until it is gone; what is gone already is success.
func (a *Account) Delete(ctx context.Context, id, version string) error {
	for tries := 0; ; tries++ {
		err := a.c.deleteOnce(ctx, id, version)
		if err == nil || !inUse(err) || tries == 3 {
			return ignoreGone(err)
		}
		if err := sleep(ctx, lookSoon<<tries); err != nil {
			return err
		}
	}
}

// Find lists the ids of resources of a type and name in the subscription.
func (a *Account) Find(ctx context.Context, resourceType, name string) (ids []string, err error) {
	filter := "resourceType eq '" + resourceType + "'"
	err = a.c.eachResource(ctx, filter, func(r *armresources.GenericResourceExpanded) {
		if region(value(r.Name)) == region(name) {
			ids = append(ids, value(r.ID))
		}
	})
	return ids, err
}

// Grant is a role that somebody has on something.
type Grant struct{ ID, Role, Scope string }

// Grants lists the roles of a principal, by its object id.
func (a *Account) Grants(ctx context.Context, principal string) ([]Grant, error) {
	next := a.c.api.raw.Endpoint() + "/subscriptions/" + a.Subscription + "/providers/Microsoft.Authorization/roleAssignments?api-version=" + GrantVersion +
		"&$filter=" + url.QueryEscape("principalId eq '"+principal+"'")
	var all []Grant
	for next != "" {
		req, err := runtime.NewRequest(ctx, http.MethodGet, next)
		if err != nil {
			return nil, err
		}
		resp, err := a.c.api.raw.Pipeline().Do(req) //nolint:bodyclose // Payload and NewResponseError do
		if err != nil {
			return nil, explain(cause(ctx, err))
		}
		if !runtime.HasStatusCode(resp, http.StatusOK) {
			return nil, explain(runtime.NewResponseError(resp))
		}
		var page struct {
			Value []struct {
				ID         string `json:"id"`
				Properties struct{ RoleDefinitionID, Scope string }
			} `json:"value"`
			NextLink string `json:"nextLink"`
		}
		body, err := runtime.Payload(resp)
		if err == nil {
			err = json.Unmarshal(body, &page)
		}
		if err != nil {
			return nil, fmt.Errorf("role assignments: %w", err)
		}
		for _, v := range page.Value {
			all = append(all, Grant{v.ID, v.Properties.RoleDefinitionID, v.Properties.Scope})
		}
		next = page.NextLink
	}
	return all, nil
}

// GrantVersion is the API version of role assignments.
const GrantVersion = "2022-04-01"

// Wait waits for an operation that was begun, and says in one sentence what went wrong.
func Wait[T any](ctx context.Context, p *runtime.Poller[T], err error, limit time.Duration) (T, error) {
	if err != nil {
		return *new(T), explain(cause(ctx, err))
	}
	return poll(ctx, p, cmp.Or(limit, quickTime))
}

// Explain says in one sentence what an error of Azure's means and what to do.
func Explain(ctx context.Context, err error) error { return explain(cause(ctx, err)) }

// Gone says that a thing is not there.
func Gone(err error) bool { return gone(err) }

// Code is Azure's code of an error; "" for any other error.
func Code(err error) string { return code(err) }
