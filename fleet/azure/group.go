package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/fleet"
)

// The tags of what belongs to a fleet. Machines read those that begin with "dorunner-" as keys of their spec, and only
// those that are keys; these are none.
const (
	tagFleet    = "dorunner-fleet"    // the fleet's name: what does not carry it is somebody else's
	tagUserData = "dorunner-userdata" // digest of the custom data, which Azure shows nobody
	tagModel    = "dorunner-model"    // when what machines are made of last changed: older machines are outdated
	tagBefore   = "dorunner-before"   // the image before that, to go back to, and the digest of the custom data with it
	tagWith     = "dorunner-before-userdata"
	tagLimits   = "dorunner-limits" // "MIN-MAX": a scale set itself has none
)

// healthPort is where machines answer the health extension, on their loopback alone.
const healthPort = 9101

// Group is a fleet on Virtual Machine Scale Sets of orchestration mode Flexible. All that belongs to it has one name and
// a tag that says that it is ours: what has only the name is somebody else's, and is left alone.
type Group struct {
	g     *fleet.Group
	how   fleet.How
	a     *azure.Account
	name  string
	group string // the resource group

	// What Plan has found out.
	location string
	image    string
	subnet   string
	sizes    []string
	zones    []string
	notes    []string // what whoever makes the group should know
	now      func() time.Time
}

var (
	_ fleet.Cloud      = (*Group)(nil)
	_ fleet.Roller     = (*Group)(nil)
	_ fleet.Scaler     = (*Group)(nil)
	_ fleet.Cleaner    = (*Group)(nil)
	_ fleet.Mender     = (*Group)(nil)
	_ fleet.Autoscaler = (*Group)(nil)
)

// Open reaches a fleet in a subscription; it asks nothing yet.
func Open(cloud *azure.Cloud, g *fleet.Group, how fleet.How) (*Group, error) {
	// The health extension asks for it.
	r := &g.Runner
	r.HealthPort = cmp.Or(r.HealthPort, healthPort)
	r.ProtectBusy = nil // Flexible scale sets know no protection: a machine that is to go drains instead
	if err := g.Tell(); err != nil {
		return nil, err
	}
	return &Group{g: g, how: how, a: cloud.Account(), name: "dorunner-" + g.Name, group: g.Plan.Spec.Azure.ResourceGroup, now: time.Now}, nil
}

// id is the resource id of something of the fleet's.
func (c *Group) id(resourceType, name string) string {
	return "/subscriptions/" + c.a.Subscription + "/resourceGroups/" + c.group + "/providers/" + resourceType + "/" + name
}

func (c *Group) setID() string { return c.id("Microsoft.Compute/virtualMachineScaleSets", c.name) }

// tags are what everything of the fleet's carries: the author's, then ours.
func (c *Group) tags(more map[string]string) map[string]*string {
	t := map[string]*string{}
	for k, v := range c.g.Plan.Spec.Azure.Tags {
		t[k] = new(v)
	}
	for k, v := range more {
		t[k] = new(v)
	}
	t[tagFleet] = new(c.g.Name)
	return t
}

func (c *Group) ours(tags map[string]*string) bool { return value(tags[tagFleet]) == c.g.Name }

// foreign is the error about something that has our name and not our tag.
func (c *Group) foreign(kind, name string) error {
	return fmt.Errorf("there is %s %s in resource group %s that is not this fleet's (it has no tag %s=%s): give the fleet another name with fleet.name", kind, name, c.group, tagFleet, c.g.Name)
}

// Plan reads the subscription and lists what differs from the spec, in the order in which things refer to each other.
func (c *Group) Plan(ctx context.Context) ([]fleet.Change, error) {
	var all []fleet.Change
	for _, part := range []func(context.Context) ([]fleet.Change, error){
		c.look,         // where, from which image, in which sizes, in which network
		c.planNetwork,  // nothing may reach the machines
		c.planIdentity, // lets them read their token
		c.planSet,      // what each machine is, and how many; then the replacement of old ones
		c.planMetrics,  // they may publish how busy they are
		c.planAutoscale,
	} {
		changes, err := part(ctx)
		if err != nil {
			return nil, azure.Explain(ctx, err)
		}
		all = append(all, changes...)
	}
	// Machines are replaced when everything else is as it should be.
	var rest, rolls []fleet.Change
	for _, ch := range all {
		if ch.Action == fleet.Roll {
			rolls = append(rolls, ch)
		} else {
			rest = append(rest, ch)
		}
	}
	return append(rest, rolls...), nil
}

// look finds out what a group is made from. It changes nothing, and names everything that cannot be.
func (c *Group) look(ctx context.Context) ([]fleet.Change, error) {
	var err error
	if c.location, err = c.a.Location(ctx); err != nil {
		return nil, err
	}
	c.notes = nil
	var errs []error
	if c.image, _, err = c.a.Image(ctx, c.g.Image); err != nil {
		errs = append(errs, err)
	}
	if c.sizes, c.zones, err = c.a.Zones(ctx, c.g.Plan, c.g.Sizes); err != nil {
		errs = append(errs, err)
	}
	if len(c.sizes) > 5 {
		errs = append(errs, fmt.Errorf("a scale set mixes 5 sizes at most, and fleet.sizes has %d", len(c.sizes)))
	}
	c.subnet = c.g.Plan.Spec.Azure.Subnet
	if len(c.g.Subnets) > 0 {
		c.subnet = c.g.Subnets[0]
	}
	switch {
	case len(c.g.Subnets) > 1:
		errs = append(errs, errors.New("a scale set lives in one subnet, which spans all zones: name one in fleet.subnets"))
	case c.subnet == "":
		errs = append(errs, errors.New("a fleet lives in a network of yours: name its subnet, --subnet ID (`az network vnet subnet show --query id` prints it)"))
	default:
		if err := c.checkSubnet(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if limit := 15 * time.Minute; time.Duration(c.g.DrainTimeout) > limit {
		c.note("Azure waits 15 minutes for a machine that is to go, and fleet.drain_timeout is %s: jobs that take longer are lost when the group shrinks or is rolled", time.Duration(c.g.DrainTimeout))
	}
	return nil, errors.Join(errs...)
}

func (c *Group) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// checkSubnet finds the subnet, and whether machines get out of it: those of a scale set have no way out by themselves.
func (c *Group) checkSubnet(ctx context.Context) error {
	parts := strings.Split(strings.Trim(c.subnet, "/"), "/")
	if len(parts) != 10 || !strings.EqualFold(parts[6], "virtualNetworks") {
		return fmt.Errorf("%q is not the id of a subnet: `az network vnet subnet show --query id` prints it", c.subnet)
	}
	s, err := c.a.Subnets.Get(ctx, parts[3], parts[7], parts[9], nil)
	if azure.Gone(err) {
		return fmt.Errorf("there is no subnet %s in virtual network %s of resource group %s: `az network vnet subnet list` lists them", parts[9], parts[7], parts[3])
	}
	if err != nil {
		return azure.Explain(ctx, err)
	}
	if p := s.Properties; p == nil || p.NatGateway == nil && p.RouteTable == nil {
		c.note("subnet %s has neither a NAT gateway nor a route table: machines of a scale set do not reach the internet from there, and so neither GitLab nor a registry", parts[9])
	}
	return nil
}

// planNetwork makes a security group into which nothing connects: a runner asks for its work.
func (c *Group) planNetwork(ctx context.Context) ([]fleet.Change, error) {
	have, err := c.a.NSGs.Get(ctx, c.group, c.name, nil)
	if err == nil {
		if !c.ours(have.Tags) {
			return nil, c.foreign("a network security group", c.name)
		}
		if p := have.Properties; p == nil || value(p.ProvisioningState) != armnetwork.ProvisioningStateFailed {
			return nil, nil
		}
	} else if !azure.Gone(err) {
		return nil, err
	}
	deny := &armnetwork.SecurityRule{Name: new("nothing-connects"), Properties: &armnetwork.SecurityRulePropertiesFormat{
		Access: new(armnetwork.SecurityRuleAccessDeny), Direction: new(armnetwork.SecurityRuleDirectionInbound), Protocol: new(armnetwork.SecurityRuleProtocolAsterisk),
		Priority: new(int32(4096)), SourceAddressPrefix: new("*"), SourcePortRange: new("*"), DestinationAddressPrefix: new("*"), DestinationPortRange: new("*")}}
	return []fleet.Change{{Action: fleet.Create, Kind: "network security group", Name: c.name, Fields: []fleet.Field{{Name: "inbound", New: "nothing"}},
		Do: func(ctx context.Context, created func(string) error) error {
			p, err := c.a.NSGs.BeginCreateOrUpdate(ctx, c.group, c.name, armnetwork.SecurityGroup{Location: &c.location, Tags: c.tags(nil),
				Properties: &armnetwork.SecurityGroupPropertiesFormat{SecurityRules: []*armnetwork.SecurityRule{deny}}}, nil)
			if err == nil {
				err = created(c.nsgID())
			}
			_, err = azure.Wait(ctx, p, err, 0)
			return err
		}}}, nil
}

func (c *Group) nsgID() string { return c.id("Microsoft.Network/networkSecurityGroups", c.name) }

// find is the scale set; nil when there is none, an error when it is somebody else's.
func (c *Group) find(ctx context.Context) (*armcompute.VirtualMachineScaleSet, error) {
	s, err := c.a.Sets.Get(ctx, c.group, c.name, nil)
	if azure.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, azure.Explain(ctx, err)
	}
	if !c.ours(s.Tags) {
		return nil, c.foreign("a scale set", c.name)
	}
	return &s.VirtualMachineScaleSet, nil
}

// limits are the fewest and most machines that a scale set is to have.
func limits(s *armcompute.VirtualMachineScaleSet) (least, most int) {
	_, _ = fmt.Sscanf(value(s.Tags[tagLimits]), "%d-%d", &least, &most)
	return least, most
}

func (c *Group) limits() string { return fmt.Sprintf("%d-%d", c.g.Min, c.g.Max) }

// failed says that the last attempt to make a thing went wrong: it is made again.
func failed(r *armresources.GenericResource) bool {
	props, _ := r.Properties.(map[string]any)
	return props["provisioningState"] == "Failed"
}

// keep are the tags of a scale set with some of them changed; "" takes one away.
func (c *Group) keep(have map[string]*string, change map[string]string) map[string]*string {
	t := maps.Clone(have)
	if t == nil {
		t = map[string]*string{}
	}
	maps.Copy(t, c.tags(nil))
	for k, v := range change {
		if t[k] = new(v); v == "" {
			delete(t, k)
		}
	}
	return t
}

// value is what a pointer points to; the zero value for nil.
func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}
