package azure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder"
)

// An operation is looked at every 2 s in its first half minute and every 4 s later, whatever hint Azure gives:
// those hints are made for crowds. Throttled calls wait as they are told; the SDK sees to that.
const (
	lookSoon  = 2 * time.Second
	lookLater = 4 * time.Second
	soon      = 30 * time.Second
)

// The longest that one operation may take. Azure's own limits are in the same order.
const (
	quickTime   = 10 * time.Minute
	machineTime = 20 * time.Minute
	imageTime   = 45 * time.Minute
	versionTime = 3 * time.Hour
)

// errTooLong ends a wait whose time is over.
var errTooLong = errors.New("no end in time")

// poll waits for an operation.
func poll[T any](ctx context.Context, p *runtime.Poller[T], limit time.Duration) (T, error) {
	began := time.Now()
	var none T
	for {
		if !p.Done() {
			if _, err := p.Poll(ctx); err != nil { //nolint:bodyclose // the SDK has read it
				return none, explain(cause(ctx, err))
			}
		}
		if p.Done() {
			got, err := p.Result(ctx)
			return got, explain(cause(ctx, err))
		}
		if time.Since(began) > limit {
			return none, fmt.Errorf("%w (%v)", errTooLong, limit)
		}
		if err := sleep(ctx, pause(time.Since(began))); err != nil {
			return none, err
		}
	}
}

// pause is how long to wait before looking again.
func pause(waited time.Duration) time.Duration {
	if waited < soon {
		return lookSoon
	}
	return lookLater
}

// cause prefers why a context ended to the SDK's "context canceled".
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// create records a resource, begins to create it, writes down how to go on waiting, and waits. The ids of Azure are
// known before anything exists, so nothing can be created that is not in the ledger.
func create[T any](ctx context.Context, c *Cloud, env *builder.Env, e builder.Entry, limit time.Duration, begin func() (*runtime.Poller[T], error)) (T, error) {
	var none T
	if err := env.Ledger.Record(e, c.undo); err != nil {
		return none, err
	}
	p, err := begin()
	if err != nil {
		return none, fmt.Errorf("%s: %w", e.Kind, explain(cause(ctx, err)))
	}
	if token, err := p.ResumeToken(); err == nil {
		if e.Attrs == nil {
			e.Attrs = map[string]string{}
		}
		e.Attrs[attrToken] = token
		if err := env.Ledger.Update(e); err != nil {
			return none, err
		}
	}
	got, err := poll(ctx, p, limit)
	if err != nil {
		return none, fmt.Errorf("%s: %w", e.Kind, err)
	}
	return got, nil
}

// Attributes of ledger entries.
const (
	attrToken = "resume_token" // of the operation that creates the thing
	attrPlan  = "plan"         // the hash of what is published
	attrFile  = "file"         // which file is uploaded
	attrSent  = "sent"         // how many of its bytes are there
)

// The kinds of ledger entries; what they name is a resource id.
const (
	kindGroup      = "azure resource group"
	kindNSG        = "azure network security group"
	kindVNet       = "azure virtual network"
	kindIP         = "azure public address"
	kindNIC        = "azure network interface"
	kindVM         = "azure virtual machine"
	kindImage      = "azure managed image"
	kindGallery    = "azure gallery"
	kindDefinition = "azure image definition"
	kindVersion    = "azure gallery version"
	kindDisk       = "azure disk"
	kindAccess     = "azure write access to disk"
)

// kinds are the resource types, their API version for deleting, and the order in which they can go.
var kinds = []struct{ kind, resourceType, version string }{
	{kindVM, "Microsoft.Compute/virtualMachines", "2024-07-01"},
	{kindNIC, "Microsoft.Network/networkInterfaces", "2024-05-01"},
	{kindIP, "Microsoft.Network/publicIPAddresses", "2024-05-01"},
	{kindNSG, "Microsoft.Network/networkSecurityGroups", "2024-05-01"},
	{kindVNet, "Microsoft.Network/virtualNetworks", "2024-05-01"},
	{kindVersion, "Microsoft.Compute/galleries/images/versions", "2024-03-03"},
	{kindDefinition, "Microsoft.Compute/galleries/images", "2024-03-03"},
	{kindGallery, "Microsoft.Compute/galleries", "2024-03-03"},
	{kindImage, "Microsoft.Compute/images", "2024-07-01"},
	{kindDisk, "Microsoft.Compute/disks", "2024-03-02"},
	{kindGroup, "Microsoft.Resources/resourceGroups", "2024-03-01"},
}

// Undoes says how to give back what a killed bake recorded. What this bake can go on with stays: a gallery version of
// this very plan that is being published, and a half uploaded disk of the same file. Preflight takes it over, Find or
// Capture goes on with it. Nothing is waited for here: a publishing may take longer than cleaning up may.
func (c *Cloud) Undoes() map[string]builder.Undo {
	undo := func(ctx context.Context, e builder.Entry) error {
		if c.goesOn(ctx, e) {
			c.resumed = append(c.resumed, e)
			return nil
		}
		return c.undo(ctx, e)
	}
	all := map[string]builder.Undo{kindAccess: undo}
	for _, k := range kinds {
		all[k.kind] = undo
	}
	return all
}

// goesOn tells whether this bake can use what a killed one recorded. Entries come newest first.
func (c *Cloud) goesOn(ctx context.Context, e builder.Entry) bool {
	switch e.Kind {
	case kindVersion:
		return c.planHash != "" && e.Attrs[attrPlan] == c.planHash && e.Attrs[attrToken] != ""
	case kindDisk, kindAccess:
		if c.fromDisk() && e.Attrs[attrFile] != "" && e.Attrs[attrFile] == c.fileKey() && c.takesUpload(ctx, e.ID) {
			if c.disk = e.ID; e.Kind == kindAccess {
				c.sent, _ = strconv.ParseInt(e.Attrs[attrSent], 10, 64)
			}
			return true
		}
	case kindVM, kindNIC, kindIP, kindNSG, kindVNet: // they cost, and only a Trusted Launch machine is a version's source
		return len(c.resumed) > 0 && c.spec.TrustedLaunch
	}
	// What is gone on with is made from, or lies in, what was recorded before it.
	return len(c.resumed) > 0
}

// adopt takes over what Undoes has left for this bake.
func (c *Cloud) adopt(env *builder.Env) error {
	var errs []error
	for _, e := range slices.Backward(c.resumed) { // Undoes saw them newest first
		errs = append(errs, env.Ledger.Record(e, c.undo))
	}
	return errors.Join(errs...)
}

// resumes gives the entry of a version that a killed bake had begun to publish.
func (c *Cloud) resumes(version string) (builder.Entry, bool) {
	i := slices.IndexFunc(c.resumed, func(e builder.Entry) bool { return e.Kind == kindVersion && strings.EqualFold(e.ID, version) })
	if i < 0 {
		return builder.Entry{}, false
	}
	return c.resumed[i], true
}

// drop gives back a version that a killed bake had begun to publish.
func (c *Cloud) drop(ctx context.Context, env *builder.Env, e builder.Entry) error {
	if err := c.undo(ctx, e); err != nil {
		return fmt.Errorf("%s: %w", e, err)
	}
	c.resumed = slices.DeleteFunc(c.resumed, func(r builder.Entry) bool { return r.Kind == e.Kind && r.ID == e.ID })
	return env.Ledger.Done(e.Kind, e.ID)
}

// finish waits for a publishing that another process began. Azure forgets operations after a while; then the version
// itself tells how it went.
func (c *Cloud) finish(ctx context.Context, e builder.Entry) error {
	r, err := parseID(e.ID)
	if err != nil {
		return err
	}
	p, err := c.api.versions.BeginCreateOrUpdate(ctx, r.group, r.names[0], r.names[1], r.names[2], armcompute.GalleryImageVersion{},
		&armcompute.GalleryImageVersionsClientBeginCreateOrUpdateOptions{ResumeToken: e.Attrs[attrToken]})
	if err == nil {
		_, err = poll(ctx, p, versionTime)
	}
	if err == nil || ctx.Err() != nil {
		return cause(ctx, err)
	}
	v, gone := c.api.versions.Get(ctx, r.group, r.names[0], r.names[1], r.names[2], nil)
	if gone == nil && v.Properties != nil && value(v.Properties.ProvisioningState) == armcompute.GalleryProvisioningStateSucceeded {
		return nil
	}
	return explain(err)
}

// undo gives one resource back and waits until it is gone.
func (c *Cloud) undo(ctx context.Context, e builder.Entry) error {
	switch e.Kind {
	case kindAccess:
		return c.revoke(ctx, e.ID)
	case kindGroup:
		return c.deleteGroup(ctx, e.ID)
	}
	return c.delete(ctx, e.ID)
}

// deleteGroup removes a resource group that is empty. One in which anything else lives by now is not ours to remove.
func (c *Cloud) deleteGroup(ctx context.Context, id string) error {
	r, err := parseID(id)
	if err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		var inside []string
		for pager := c.api.resources.NewListByResourceGroupPager(r.group, nil); pager.More(); {
			page, err := pager.NextPage(ctx)
			if err != nil {
				return ignoreGone(cause(ctx, err))
			}
			for _, r := range page.Value {
				inside = append(inside, value(r.Name))
			}
		}
		if len(inside) == 0 {
			break
		}
		// The listing lags behind deletions by seconds.
		if tries == 3 {
			return fmt.Errorf("there is still something in it: %s", strings.Join(inside, ", "))
		}
		if err := sleep(ctx, lookSoon<<tries); err != nil {
			return err
		}
	}
	p, err := c.api.groups.BeginDelete(ctx, r.group, nil)
	if err != nil {
		return ignoreGone(cause(ctx, err))
	}
	_, err = poll(ctx, p, machineTime)
	return ignoreGone(err)
}

// delete removes a resource by its id. What is in use for another moment, by something that is going away itself,
// is tried again.
func (c *Cloud) delete(ctx context.Context, id string) error {
	r, err := parseID(id)
	if err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		err := c.deleteOnce(ctx, id, r.apiVersion())
		if err == nil || !inUse(err) || tries == 3 {
			return ignoreGone(err)
		}
		if err := sleep(ctx, lookSoon<<tries); err != nil {
			return err
		}
	}
}

func (c *Cloud) deleteOnce(ctx context.Context, id, version string) error {
	p, err := c.api.resources.BeginDeleteByID(ctx, id, version, nil)
	if err != nil {
		return explain(cause(ctx, err))
	}
	_, err = poll(ctx, p, machineTime)
	return err
}

func ignoreGone(err error) error {
	if gone(err) {
		return nil
	}
	return explain(err)
}
