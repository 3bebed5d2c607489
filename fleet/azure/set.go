package azure

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
)

// notice is how long Azure waits for a machine that is to go: 5 to 15 minutes.
func (c *Group) notice() string {
	minutes := (time.Duration(c.g.DrainTimeout) + time.Minute - 1) / time.Minute
	return fmt.Sprintf("PT%dM", (min(max(minutes, 5), 15)+4)/5*5)
}

// grace is how long a new machine may be unhealthy before it is replaced: 10 to 90 minutes.
func (c *Group) grace() string {
	return fmt.Sprintf("PT%dM", min(max(int(c.g.BootLimit()/time.Minute), 10), 90))
}

// repairs replace a machine whose first boot failed, or whose runner does not come back.
func (c *Group) repairs() *armcompute.AutomaticRepairsPolicy {
	return &armcompute.AutomaticRepairsPolicy{Enabled: new(true), GracePeriod: new(c.grace()), RepairAction: new(armcompute.RepairActionReplace)}
}

// health is the extension that asks the machine whether it is fit. roll is different for every roll, so that there is
// something to roll out.
func (c *Group) health(roll string) *armcompute.VirtualMachineScaleSetExtensionProfile {
	p := &armcompute.VirtualMachineScaleSetExtensionProperties{
		Publisher: new("Microsoft.ManagedServices"), Type: new("ApplicationHealthLinux"), TypeHandlerVersion: new("2.0"), AutoUpgradeMinorVersion: new(true), EnableAutomaticUpgrade: new(true),
		Settings: map[string]any{"protocol": "http", "port": c.g.Runner.HealthPort, "requestPath": runner.RichHealthPath, "intervalInSeconds": 5, "numberOfProbes": 1,
			// Nothing is said of a machine that is still booting.
			"gracePeriod": int(min(c.g.BootLimit(), 2*time.Hour).Seconds())}}
	if roll != "" {
		p.ForceUpdateTag = &roll
	}
	return &armcompute.VirtualMachineScaleSetExtensionProfile{Extensions: []*armcompute.VirtualMachineScaleSetExtension{{Name: new("health"), Properties: p}}}
}

func (c *Group) events() *armcompute.ScheduledEventsProfile {
	return &armcompute.ScheduledEventsProfile{TerminateNotificationProfile: &armcompute.TerminateNotificationProfile{Enable: new(true), NotBeforeTimeout: new(c.notice())}}
}

// sku is one size, or Mix of several.
func (c *Group) sku(machines int) (*armcompute.SKU, *armcompute.SKUProfile) {
	sku := &armcompute.SKU{Name: &c.sizes[0], Tier: new("Standard"), Capacity: new(int64(machines))}
	if len(c.sizes) == 1 {
		return sku, nil
	}
	sku.Name = new("Mix")
	profile := &armcompute.SKUProfile{AllocationStrategy: new(armcompute.AllocationStrategyPrioritized)}
	for i, s := range c.sizes {
		profile.VMSizes = append(profile.VMSizes, &armcompute.SKUProfileVMSize{Name: new(s), Rank: new(int32(i))})
	}
	return sku, profile
}

// rolling lets new machines come before old ones go, and stops at the first batch of which any does not come online.
func (c *Group) rolling() *armcompute.UpgradePolicy {
	batch := c.how.MaxHealthy - 100
	if c.how.MaxHealthy == 0 {
		batch = 10
	}
	pause := "PT0S"
	if c.how.Delay > 0 && len(c.how.Checkpoints) > 0 {
		pause = fmt.Sprintf("PT%dS", int(c.how.Delay.Seconds()))
	}
	return &armcompute.UpgradePolicy{Mode: new(armcompute.UpgradeModeRolling), RollingUpgradePolicy: &armcompute.RollingUpgradePolicy{
		MaxSurge: new(true), MaxBatchInstancePercent: new(int32(min(max(batch, 5), 100))), MaxUnhealthyInstancePercent: new(int32(100)), MaxUnhealthyUpgradedInstancePercent: new(int32(0)),
		PauseTimeBetweenBatches: &pause, PrioritizeUnhealthyInstances: new(true)}}
}

// still changes nothing about machines that there are.
func still() *armcompute.UpgradePolicy {
	return &armcompute.UpgradePolicy{Mode: new(armcompute.UpgradeModeManual)}
}

func (c *Group) customData() *string { return new(base64.StdEncoding.EncodeToString(c.g.UserData)) }

// body is a new scale set.
func (c *Group) body() (*armcompute.VirtualMachineScaleSet, error) {
	key, err := ssh.NewKey("nobody") // Azure makes no machine without one; nobody logs in
	if err != nil {
		return nil, err
	}
	sku, mix := c.sku(c.g.Initial())
	ip := &armcompute.VirtualMachineScaleSetIPConfiguration{Name: new("primary"), Properties: &armcompute.VirtualMachineScaleSetIPConfigurationProperties{
		Primary: new(true), Subnet: &armcompute.APIEntityReference{ID: &c.subnet}}}
	nic := &armcompute.VirtualMachineScaleSetNetworkConfiguration{Name: new("primary"), Properties: &armcompute.VirtualMachineScaleSetNetworkConfigurationProperties{
		Primary: new(true), NetworkSecurityGroup: &armcompute.SubResource{ID: new(c.nsgID())}, IPConfigurations: []*armcompute.VirtualMachineScaleSetIPConfiguration{ip}}}
	admin := c.g.Plan.Base.AdminUser
	vm := &armcompute.VirtualMachineScaleSetVMProfile{
		OSProfile: &armcompute.VirtualMachineScaleSetOSProfile{ComputerNamePrefix: new(prefix(c.g.Name)), AdminUsername: &admin, CustomData: c.customData(),
			LinuxConfiguration: &armcompute.LinuxConfiguration{DisablePasswordAuthentication: new(true), SSH: &armcompute.SSHConfiguration{PublicKeys: []*armcompute.SSHPublicKey{
				{Path: new("/home/" + admin + "/.ssh/authorized_keys"), KeyData: &key.Authorized}}}}},
		StorageProfile: &armcompute.VirtualMachineScaleSetStorageProfile{ImageReference: &armcompute.ImageReference{ID: &c.image},
			OSDisk: &armcompute.VirtualMachineScaleSetOSDisk{CreateOption: new(armcompute.DiskCreateOptionTypesFromImage), DeleteOption: new(armcompute.DiskDeleteOptionTypesDelete),
				DiskSizeGB: new(int32(c.g.Plan.Spec.Image.DiskGB)), ManagedDisk: &armcompute.VirtualMachineScaleSetManagedDiskParameters{StorageAccountType: new(armcompute.StorageAccountTypesPremiumLRS)}}},
		NetworkProfile:         &armcompute.VirtualMachineScaleSetNetworkProfile{NetworkAPIVersion: new(armcompute.NetworkAPIVersionTwoThousandTwenty1101), NetworkInterfaceConfigurations: []*armcompute.VirtualMachineScaleSetNetworkConfiguration{nic}},
		DiagnosticsProfile:     &armcompute.DiagnosticsProfile{BootDiagnostics: &armcompute.BootDiagnostics{Enabled: new(true)}},
		ExtensionProfile:       c.health(""),
		ScheduledEventsProfile: c.events(),
	}
	if c.g.Plan.Spec.Azure.TrustedLaunch {
		vm.SecurityProfile = &armcompute.SecurityProfile{SecurityType: new(armcompute.SecurityTypesTrustedLaunch), UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: new(true), VTpmEnabled: new(true)}}
	}
	props := &armcompute.VirtualMachineScaleSetProperties{
		OrchestrationMode: new(armcompute.OrchestrationModeFlexible), PlatformFaultDomainCount: new(int32(1)), SinglePlacementGroup: new(false), SKUProfile: mix,
		UpgradePolicy: still(), AutomaticRepairsPolicy: c.repairs(), ScaleInPolicy: &armcompute.ScaleInPolicy{PrioritizeUnhealthyVMs: new(true)}, VirtualMachineProfile: vm}
	if c.g.SpotShare > 0 {
		vm.Priority, vm.EvictionPolicy = new(armcompute.VirtualMachinePriorityTypesSpot), new(armcompute.VirtualMachineEvictionPolicyTypesDelete)
		props.PriorityMixPolicy = c.mix()
	}
	s := &armcompute.VirtualMachineScaleSet{Location: &c.location, SKU: sku, Properties: props,
		Tags: c.tags(map[string]string{tagUserData: fleet.Digest(c.g.UserData), tagModel: c.now().UTC().Format(time.RFC3339), tagLimits: c.limits()})}
	for _, z := range c.zones {
		s.Zones = append(s.Zones, &z)
	}
	if id := c.identity(); id != "" {
		s.Identity = &armcompute.VirtualMachineScaleSetIdentity{Type: new(armcompute.ResourceIdentityTypeUserAssigned), UserAssignedIdentities: map[string]*armcompute.UserAssignedIdentitiesValue{id: {}}}
	}
	return s, nil
}

func (c *Group) mix() *armcompute.PriorityMixPolicy {
	return &armcompute.PriorityMixPolicy{BaseRegularPriorityCount: new(int32(c.g.Min)), RegularPriorityPercentageAboveBase: new(int32(100 - c.g.SpotShare))}
}

// prefix is how the host names of machines begin: Azure appends 6 characters, and a name has 15 where it must.
func prefix(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, name)
	return strings.Trim(clean[:min(len(clean), 50)], "-")
}

// planSet compares the scale set: how many at once, what they are made of by a roll.
func (c *Group) planSet(ctx context.Context) ([]fleet.Change, error) {
	have, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	if have == nil {
		return c.planNew(), nil
	}
	if value(have.Properties.ProvisioningState) == "Deleting" {
		return nil, fmt.Errorf("fleet %s is being removed: wait until it is gone, or finish it with `dorunner-bake fleet destroy azure`", c.g.Name)
	}
	if spot := have.Properties.PriorityMixPolicy != nil; spot != (c.g.SpotShare > 0) {
		return nil, fmt.Errorf("a scale set cannot be changed from spot machines to others, or back: destroy fleet %s first, or keep fleet.spot_share above 0", c.g.Name)
	}
	census, err := c.census(ctx, have)
	if err != nil {
		return nil, err
	}
	settings := c.settings(have)
	changes := settings
	model := c.modelFields(have)
	outdated := 0
	for _, m := range census.Members {
		if m.Outdated && m.Phase != fleet.Leaving {
			outdated++
		}
	}
	underWay := census.Roll != nil && !census.Roll.Done
	switch {
	case len(census.Members) == 0 && census.Desired == 0 && len(model) > 0:
		return append(changes, fleet.Change{Action: fleet.Update, Kind: "scale set", Name: c.name, Fields: model, Do: func(ctx context.Context, _ func(string) error) error {
			return c.setModel(ctx, c.image, "", still())
		}}), nil
	case underWay && len(model) == 0:
		return append(changes, fleet.Change{Action: fleet.Roll, Kind: "machines of", Name: c.name, Note: fmt.Sprintf("under way: %s, %d %%", census.Roll.Status, census.Roll.Percent),
			Do: func(context.Context, func(string) error) error { return nil }}), nil // it is followed
	case len(model) == 0 && outdated == 0 && !c.how.Force:
		return changes, nil
	}
	note := fmt.Sprintf("%d machines are replaced: new ones come first, old ones finish their jobs", len(census.Members))
	return append(changes, fleet.Change{Action: fleet.Roll, Kind: "machines of", Name: c.name, Fields: model, Note: note, Do: func(ctx context.Context, created func(string) error) error {
		if underWay {
			return fmt.Errorf("another roll is under way: wait for it (`dorunner-bake fleet roll azure --follow`) or end it (--cancel, --rollback)")
		}
		before := ""
		if ref := have.Properties.VirtualMachineProfile.StorageProfile.ImageReference; ref != nil {
			before = value(ref.ID)
		}
		if err := c.setModel(ctx, c.image, before, c.rolling()); err != nil {
			return err
		}
		return created(c.setID())
	}}), nil
}

func (c *Group) planNew() []fleet.Change {
	var f fleet.Fields
	f.Set("machines", fmt.Sprintf("%d (min %d, max %d)", c.g.Initial(), c.g.Min, c.g.Max))
	f.Set("sizes", c.sizes)
	f.Set("zones", c.zones)
	f.Set("spot", fmt.Sprintf("%d %% above min", c.g.SpotShare))
	f.Set("image", c.image)
	f.Set("user-data", fleet.Digest(c.g.UserData))
	f.Set("subnet", c.subnet)
	f.Set("identity", c.identity())
	f.Set("notice before a machine ends", c.notice())
	f.Set("a machine that is not online after", c.grace()+" is replaced")
	return []fleet.Change{{Action: fleet.Create, Kind: "scale set", Name: c.name, Fields: f, Note: strings.Join(c.notes, "\n    # "), Do: func(ctx context.Context, created func(string) error) error {
		b, err := c.body()
		if err != nil {
			return err
		}
		p, err := c.a.Sets.BeginCreateOrUpdate(ctx, c.group, c.name, *b, nil)
		if err == nil {
			err = created(c.setID())
		}
		_, err = azure.Wait(ctx, p, err, 20*time.Minute)
		return err
	}}}
}

// settings compares what can be changed without touching machines.
func (c *Group) settings(have *armcompute.VirtualMachineScaleSet) []fleet.Change {
	var f fleet.Fields
	up := armcompute.VirtualMachineScaleSetUpdate{Properties: &armcompute.VirtualMachineScaleSetUpdateProperties{}}
	p := have.Properties
	least, most := limits(have)
	f.Diff("min", least, c.g.Min)
	f.Diff("max", most, c.g.Max)
	capacity := int(value(have.SKU.Capacity))
	switch {
	case !c.g.SelfSizing():
		if f.Diff("machines", capacity, *c.g.Desired) {
			up.SKU = c.resize(have, *c.g.Desired)
		}
	case capacity < c.g.Min || capacity > c.g.Max:
		if f.Diff("machines", capacity, min(max(capacity, c.g.Min), c.g.Max)) {
			up.SKU = c.resize(have, min(max(capacity, c.g.Min), c.g.Max))
		}
	}
	grace := ""
	if r := p.AutomaticRepairsPolicy; r != nil && value(r.Enabled) {
		grace = value(r.GracePeriod)
	}
	if f.Diff("a machine that is not online is replaced after", grace, c.grace()) {
		up.Properties.AutomaticRepairsPolicy = c.repairs()
	}
	if c.g.SpotShare > 0 {
		m := value(p.PriorityMixPolicy)
		if f.Diff("regular machines at least", m.BaseRegularPriorityCount, c.g.Min) {
			up.Properties.PriorityMixPolicy = c.mix()
		}
		if f.Diff("regular above that, percent", m.RegularPriorityPercentageAboveBase, 100-c.g.SpotShare) {
			up.Properties.PriorityMixPolicy = c.mix()
		}
	}
	f.Diff("state", value(p.ProvisioningState) == "Failed", false)
	for _, k := range slices.Sorted(maps.Keys(c.g.Plan.Spec.Azure.Tags)) {
		f.Diff("tag "+k, have.Tags[k], c.g.Plan.Spec.Azure.Tags[k])
	}
	if len(f) == 0 {
		return nil
	}
	return []fleet.Change{{Action: fleet.Update, Kind: "scale set", Name: c.name, Fields: f, Do: func(ctx context.Context, _ func(string) error) error {
		up.Tags = c.keep(have.Tags, map[string]string{tagLimits: c.limits()})
		return c.update(ctx, up)
	}}}
}

// resize is the scale set's own size with another number of machines.
func (c *Group) resize(have *armcompute.VirtualMachineScaleSet, machines int) *armcompute.SKU {
	return &armcompute.SKU{Name: have.SKU.Name, Tier: have.SKU.Tier, Capacity: new(int64(machines))}
}

func (c *Group) update(ctx context.Context, up armcompute.VirtualMachineScaleSetUpdate) error {
	p, err := c.a.Sets.BeginUpdate(ctx, c.group, c.name, up, nil)
	_, err = azure.Wait(ctx, p, err, 20*time.Minute)
	return err
}

// modelFields are what differs of that which machines are made of.
func (c *Group) modelFields(have *armcompute.VirtualMachineScaleSet) fleet.Fields {
	var f fleet.Fields
	vm := have.Properties.VirtualMachineProfile
	f.Diff("image", strings.ToLower(value(value(vm.StorageProfile.ImageReference).ID)), strings.ToLower(c.image))
	f.Diff("user-data", value(have.Tags[tagUserData]), fleet.Digest(c.g.UserData))
	sizes := []string{value(have.SKU.Name)}
	if m := have.Properties.SKUProfile; m != nil && sizes[0] == "Mix" {
		sizes = nil
		for _, s := range m.VMSizes {
			sizes = append(sizes, value(s.Name))
		}
	}
	f.Diff("sizes", sizes, c.sizes)
	if d := vm.StorageProfile.OSDisk; d != nil {
		f.Diff("disk, GB", d.DiskSizeGB, c.g.Plan.Spec.Image.DiskGB)
	}
	notice := ""
	if e := vm.ScheduledEventsProfile; e != nil && e.TerminateNotificationProfile != nil && value(e.TerminateNotificationProfile.Enable) {
		notice = value(e.TerminateNotificationProfile.NotBeforeTimeout)
	}
	f.Diff("notice before a machine ends", notice, c.notice())
	port := ""
	if e := vm.ExtensionProfile; e != nil {
		for _, x := range e.Extensions {
			if s, ok := x.Properties.Settings.(map[string]any); ok && value(x.Name) == "health" {
				port = fmt.Sprint(s["port"])
			}
		}
	}
	f.Diff("health is asked on port", port, c.g.Runner.HealthPort)
	return f
}

// setModel changes what machines are made of. before is the image to go back to.
func (c *Group) setModel(ctx context.Context, image, before string, policy *armcompute.UpgradePolicy) error {
	have, err := c.find(ctx)
	if err != nil || have == nil {
		return cmp.Or(err, fmt.Errorf("the scale set %s is gone", c.name))
	}
	now := c.now().UTC().Format(time.RFC3339)
	sku, mix := c.sku(int(value(have.SKU.Capacity)))
	return c.update(ctx, armcompute.VirtualMachineScaleSetUpdate{SKU: sku,
		Tags: c.keep(have.Tags, map[string]string{tagUserData: fleet.Digest(c.g.UserData), tagModel: now, tagBefore: before, tagWith: value(have.Tags[tagUserData])}),
		Properties: &armcompute.VirtualMachineScaleSetUpdateProperties{UpgradePolicy: policy, SKUProfile: mix, VirtualMachineProfile: &armcompute.VirtualMachineScaleSetUpdateVMProfile{
			OSProfile: &armcompute.VirtualMachineScaleSetUpdateOSProfile{CustomData: c.customData()},
			StorageProfile: &armcompute.VirtualMachineScaleSetUpdateStorageProfile{ImageReference: &armcompute.ImageReference{ID: &image},
				OSDisk: &armcompute.VirtualMachineScaleSetUpdateOSDisk{DiskSizeGB: new(int32(c.g.Plan.Spec.Image.DiskGB))}},
			ExtensionProfile: c.health(now), ScheduledEventsProfile: c.events()}}})
}

// Scale sets the number of machines.
func (c *Group) Scale(ctx context.Context, machines int) error {
	have, err := c.find(ctx)
	if err != nil || have == nil {
		return cmp.Or(err, fmt.Errorf("there is no fleet %s", c.g.Name))
	}
	return c.update(ctx, armcompute.VirtualMachineScaleSetUpdate{SKU: c.resize(have, machines)})
}

// Replace has a machine end, with time for its jobs, and another start in its place.
func (c *Group) Replace(ctx context.Context, id string) error {
	have, err := c.find(ctx)
	if err != nil || have == nil {
		return cmp.Or(err, fmt.Errorf("there is no fleet %s", c.g.Name))
	}
	p, err := c.a.Sets.BeginDeleteInstances(ctx, c.group, c.name, armcompute.VirtualMachineScaleSetVMInstanceRequiredIDs{InstanceIDs: []*string{&id}}, nil)
	if _, err = azure.Wait(ctx, p, err, 20*time.Minute); err != nil {
		return err
	}
	return c.Scale(ctx, int(value(have.SKU.Capacity))) // deleting a machine has made the set smaller
}

// Console is what a machine printed so far.
func (c *Group) Console(ctx context.Context, id string) (string, error) { return c.a.Console(ctx, id) }
