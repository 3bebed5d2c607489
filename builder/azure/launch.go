package azure

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/templates"
)

// bakeUser is who the bake logs in as; Stop removes it.
const bakeUser = "dorunner-bake"

// Launch starts the machine that is baked and connects to it, its host key pinned: both ends' keys are made here
// and travel in the custom data.
func (c *Cloud) Launch(ctx context.Context, env *builder.Env) (builder.Guest, error) {
	client, err := ssh.NewKey("dorunner-bake " + env.BakeID)
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewKey("root@" + name(env, "vm"))
	if err != nil {
		return nil, err
	}
	data, err := templates.Render("azure/bake.yaml", map[string]string{"HostKey": host.PrivatePEM, "HostKeyPublic": host.Authorized, "User": bakeUser})
	if err != nil {
		return nil, err
	}
	if err := c.ensureGroup(ctx, env); err != nil {
		return nil, err
	}
	nic, address, err := c.network(ctx, env)
	if err != nil {
		return nil, err
	}
	b := c.base
	c.vm, err = c.machine(ctx, env, machineSpec{
		name: "vm", nic: nic, customData: data, key: client.Authorized, diskGB: env.Plan.Spec.Image.DiskGB, trusted: c.spec.TrustedLaunch,
		image: &armcompute.ImageReference{Publisher: &b.publisher, Offer: &b.offer, SKU: &b.sku, Version: &b.version},
	})
	if err != nil {
		return nil, err
	}
	c.vm.address = address
	env.Progress.Info("virtual machine %s (%s) is at %s", c.vm.name, c.vm.size, address)
	c.guest, err = c.Dial(ctx, ssh.Config{
		Addr: net.JoinHostPort(address, "22"), User: bakeUser, Signer: client.Signer, HostKey: host.Signer.PublicKey(), Timeout: 5 * time.Minute,
	})
	return c.guest, err
}

// ensureGroup makes the resource group when it is not there. A finished image keeps it.
func (c *Cloud) ensureGroup(ctx context.Context, env *builder.Env) error {
	if !c.groupNew {
		return nil
	}
	id := "/subscriptions/" + c.api.subscription + "/resourceGroups/" + c.spec.ResourceGroup
	if err := env.Ledger.Record(builder.Entry{Kind: kindGroup, ID: id, Region: c.location}, c.undo); err != nil {
		return err
	}
	_, err := c.api.groups.CreateOrUpdate(ctx, c.spec.ResourceGroup, armresources.ResourceGroup{Location: &c.location, Tags: c.tags(env)}, nil)
	if err != nil {
		return fmt.Errorf("resource group %s: %w", c.spec.ResourceGroup, explain(cause(ctx, err)))
	}
	env.Progress.Info("made resource group %s in %s", c.spec.ResourceGroup, c.location)
	c.groupNew = false
	return nil
}

// network makes what a machine needs to be reached, and gives its interface and address.
func (c *Cloud) network(ctx context.Context, env *builder.Env) (nic, address string, err error) {
	var nsg *armnetwork.SecurityGroup
	var ip *armnetwork.PublicIPAddress
	// The three do not depend on each other; each takes seconds.
	todo := []func(context.Context) error{func(ctx context.Context) error { return c.ensureSubnet(ctx, env) }}
	if !c.spec.PrivateIP {
		todo = append(todo,
			func(ctx context.Context) (err error) { nsg, err = c.securityGroup(ctx, env); return err },
			func(ctx context.Context) (err error) { ip, err = c.publicAddress(ctx, env); return err })
	}
	if err := together(ctx, todo...); err != nil {
		return "", "", err
	}
	got, err := c.networkInterface(ctx, env, "nic", nsg, ip)
	if err != nil {
		return "", "", err
	}
	if ip != nil {
		return value(got.ID), value(ip.Properties.IPAddress), nil
	}
	return value(got.ID), value(got.Properties.IPConfigurations[0].Properties.PrivateIPAddress), nil
}

// securityGroup lets in the one who bakes, and nobody else.
func (c *Cloud) securityGroup(ctx context.Context, env *builder.Env) (*armnetwork.SecurityGroup, error) {
	n := name(env, "nsg")
	rule := &armnetwork.SecurityRule{Name: new("ssh-from-the-baker"), Properties: &armnetwork.SecurityRulePropertiesFormat{
		Access: new(armnetwork.SecurityRuleAccessAllow), Direction: new(armnetwork.SecurityRuleDirectionInbound),
		Protocol: new(armnetwork.SecurityRuleProtocolTCP), Priority: new(int32(100)),
		SourceAddressPrefix: &c.sourceCIDR, SourcePortRange: new("*"), DestinationAddressPrefix: new("*"), DestinationPortRange: new("22")}}
	got, err := create(ctx, c, env, c.entry(kindNSG, c.id("Microsoft.Network", "networkSecurityGroups", n)), quickTime,
		func() (*runtime.Poller[armnetwork.SecurityGroupsClientCreateOrUpdateResponse], error) {
			return c.api.nsgs.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, n, armnetwork.SecurityGroup{Location: &c.location, Tags: c.tags(env),
				Properties: &armnetwork.SecurityGroupPropertiesFormat{SecurityRules: []*armnetwork.SecurityRule{rule}}}, nil)
		})
	return &got.SecurityGroup, err
}

// ensureSubnet makes a virtual network unless a subnet was named.
func (c *Cloud) ensureSubnet(ctx context.Context, env *builder.Env) error {
	if c.subnetID != "" {
		return nil
	}
	n := name(env, "vnet")
	got, err := create(ctx, c, env, c.entry(kindVNet, c.id("Microsoft.Network", "virtualNetworks", n)), quickTime,
		func() (*runtime.Poller[armnetwork.VirtualNetworksClientCreateOrUpdateResponse], error) {
			return c.api.vnets.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, n, armnetwork.VirtualNetwork{Location: &c.location, Tags: c.tags(env),
				Properties: &armnetwork.VirtualNetworkPropertiesFormat{AddressSpace: &armnetwork.AddressSpace{AddressPrefixes: []*string{new("10.255.0.0/24")}},
					Subnets: []*armnetwork.Subnet{{Name: new("bake"), Properties: &armnetwork.SubnetPropertiesFormat{AddressPrefix: new("10.255.0.0/24")}}}}}, nil)
		})
	if err == nil {
		c.subnetID = value(got.Properties.Subnets[0].ID)
	}
	return err
}

func (c *Cloud) publicAddress(ctx context.Context, env *builder.Env) (*armnetwork.PublicIPAddress, error) {
	n := name(env, "ip")
	got, err := create(ctx, c, env, c.entry(kindIP, c.id("Microsoft.Network", "publicIPAddresses", n)), quickTime,
		func() (*runtime.Poller[armnetwork.PublicIPAddressesClientCreateOrUpdateResponse], error) {
			return c.api.ips.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, n, armnetwork.PublicIPAddress{Location: &c.location, Tags: c.tags(env),
				SKU:        &armnetwork.PublicIPAddressSKU{Name: new(armnetwork.PublicIPAddressSKUNameStandard)},
				Properties: &armnetwork.PublicIPAddressPropertiesFormat{PublicIPAllocationMethod: new(armnetwork.IPAllocationMethodStatic)}}, nil)
		})
	return &got.PublicIPAddress, err
}

// networkInterface makes one in the subnet; group and address may be nil.
func (c *Cloud) networkInterface(ctx context.Context, env *builder.Env, what string, group *armnetwork.SecurityGroup, address *armnetwork.PublicIPAddress) (armnetwork.Interface, error) {
	n := name(env, what)
	ip := &armnetwork.InterfaceIPConfigurationPropertiesFormat{Subnet: &armnetwork.Subnet{ID: &c.subnetID}, Primary: new(true)}
	props := &armnetwork.InterfacePropertiesFormat{IPConfigurations: []*armnetwork.InterfaceIPConfiguration{{Name: new("primary"), Properties: ip}}}
	if address != nil {
		ip.PublicIPAddress = &armnetwork.PublicIPAddress{ID: address.ID}
	}
	if group != nil {
		props.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: group.ID}
	}
	got, err := create(ctx, c, env, c.entry(kindNIC, c.id("Microsoft.Network", "networkInterfaces", n)), quickTime,
		func() (*runtime.Poller[armnetwork.InterfacesClientCreateOrUpdateResponse], error) {
			return c.api.nics.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, n, armnetwork.Interface{Location: &c.location, Tags: c.tags(env), Properties: props}, nil)
		})
	return got.Interface, err
}

// together runs what does not depend on each other; the first error ends the others.
func together(ctx context.Context, do ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make(chan error, len(do))
	for _, f := range do {
		go func() { errs <- f(ctx) }()
	}
	var first error
	for range do {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel(err)
		}
	}
	return first
}

func (c *Cloud) entry(kind, id string) builder.Entry {
	return builder.Entry{Kind: kind, ID: id, Region: c.location}
}

// machineSpec is a virtual machine to be made.
type machineSpec struct {
	name       string // "vm"
	nic        string
	image      *armcompute.ImageReference
	customData []byte
	key        string
	diskGB     int
	trusted    bool
	user       string // default the bake's
	identity   string // id of a user-assigned identity; a runner has one of its own otherwise
	runner     bool   // it stays, and is who it is by its custom data
}

// maxCustomData is Azure's limit in bytes, before base64.
const maxCustomData = 65535

// machine makes a virtual machine, in the first of the wanted sizes and zones that has room.
func (c *Cloud) machine(ctx context.Context, env *builder.Env, s machineSpec) (machine, error) {
	if len(s.customData) > maxCustomData {
		return machine{}, fmt.Errorf("the custom data is %d bytes long and Azure takes %d", len(s.customData), maxCustomData)
	}
	var refused []error
	for i, at := range c.places() {
		m := machine{name: name(env, s.name), size: at.size.name}
		if i > 0 {
			m.name = fmt.Sprintf("%s-%d", m.name, i+1)
		}
		m.id = c.id("Microsoft.Compute", "virtualMachines", m.name)
		got, err := create(ctx, c, env, c.entry(kindVM, m.id), machineTime,
			func() (*runtime.Poller[armcompute.VirtualMachinesClientCreateOrUpdateResponse], error) {
				return c.api.vms.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, m.name, c.vmBody(env, s, at), nil)
			})
		if err == nil {
			if sec := got.Properties.SecurityProfile; !s.trusted && sec != nil && value(sec.SecurityType) == armcompute.SecurityTypesTrustedLaunch {
				return m, errors.New("the subscription makes every machine a Trusted Launch one: bake with --trusted-launch into a gallery")
			}
			return m, nil
		}
		if !full(err) {
			return machine{}, err
		}
		refused = append(refused, fmt.Errorf("%s: %w", at, err))
		env.Progress.Info("no room for %s (%s)", at, code(err))
		// A machine that got no room exists all the same, and holds the interface.
		if err := c.undo(ctx, c.entry(kindVM, m.id)); err != nil {
			return machine{}, err
		}
		if err := env.Ledger.Done(kindVM, m.id); err != nil {
			return machine{}, err
		}
	}
	return machine{}, fmt.Errorf("no wanted size has room in %s: %w", c.location, errors.Join(refused...))
}

// place is a size and a zone to ask for.
type place struct {
	size sizeChoice
	zone string // "" lets Azure choose
}

func (p place) String() string {
	if p.zone == "" {
		return p.size.name
	}
	return p.size.name + " in zone " + p.zone
}

// places are the sizes in the author's order, each wherever Azure wants first and then zone by zone.
func (c *Cloud) places() []place {
	var out []place
	for _, s := range c.sizes {
		out = append(out, place{size: s})
		for _, z := range s.zones {
			out = append(out, place{s, z})
		}
	}
	return out
}

func (c *Cloud) vmBody(env *builder.Env, s machineSpec, at place) armcompute.VirtualMachine {
	disk := armcompute.StorageAccountTypesStandardSSDLRS
	if at.size.premium {
		disk = armcompute.StorageAccountTypesPremiumLRS
	}
	size := armcompute.VirtualMachineSizeTypes(at.size.name)
	vm := armcompute.VirtualMachine{Location: &c.location, Tags: c.tags(env), Properties: &armcompute.VirtualMachineProperties{
		HardwareProfile: &armcompute.HardwareProfile{VMSize: &size},
		StorageProfile: &armcompute.StorageProfile{ImageReference: s.image, OSDisk: &armcompute.OSDisk{
			Name: new(name(env, s.name+"-os")), CreateOption: new(armcompute.DiskCreateOptionTypesFromImage), DeleteOption: new(armcompute.DiskDeleteOptionTypesDelete),
			ManagedDisk: &armcompute.ManagedDiskParameters{StorageAccountType: &disk}}},
		OSProfile: &armcompute.OSProfile{
			ComputerName: new("dorunner-bake"), AdminUsername: new(bakeUser), CustomData: new(base64.StdEncoding.EncodeToString(s.customData)),
			LinuxConfiguration: &armcompute.LinuxConfiguration{DisablePasswordAuthentication: new(true), SSH: &armcompute.SSHConfiguration{PublicKeys: []*armcompute.SSHPublicKey{
				{Path: new("/home/" + bakeUser + "/.ssh/authorized_keys"), KeyData: &s.key}}}}},
		// The interface is kept when a machine that got no room goes: the next try uses it.
		NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{{ID: &s.nic,
			Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: new(true), DeleteOption: new(armcompute.DeleteOptionsDetach)}}}},
		DiagnosticsProfile: &armcompute.DiagnosticsProfile{BootDiagnostics: &armcompute.BootDiagnostics{Enabled: new(true)}},
	}}
	if s.user != "" {
		vm.Properties.OSProfile.AdminUsername = &s.user
		vm.Properties.OSProfile.LinuxConfiguration.SSH.PublicKeys[0].Path = new("/home/" + s.user + "/.ssh/authorized_keys")
	}
	if s.runner {
		vm.Properties.OSProfile.ComputerName = new(s.name)
		vm.Identity = &armcompute.VirtualMachineIdentity{Type: new(armcompute.ResourceIdentityTypeSystemAssigned)}
		if s.identity != "" {
			vm.Identity = &armcompute.VirtualMachineIdentity{Type: new(armcompute.ResourceIdentityTypeUserAssigned),
				UserAssignedIdentities: map[string]*armcompute.UserAssignedIdentitiesValue{s.identity: {}}}
		}
	}
	if s.diskGB > 0 {
		vm.Properties.StorageProfile.OSDisk.DiskSizeGB = new(int32(s.diskGB))
	}
	if at.zone != "" {
		vm.Zones = []*string{&at.zone}
	}
	if s.trusted {
		vm.Properties.SecurityProfile = &armcompute.SecurityProfile{SecurityType: new(armcompute.SecurityTypesTrustedLaunch),
			UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: new(true), VTpmEnabled: new(true)}}
	}
	if p := c.base.plan; p != nil {
		vm.Plan = &armcompute.Plan{Name: p.Name, Product: p.Product, Publisher: p.Publisher}
	}
	return vm
}
