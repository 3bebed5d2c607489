package packer

import (
	"context"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
	"github.com/hashicorp/packer-plugin-sdk/communicator"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/images"
)

// AzureConfig are the attributes of the builder `dorunner-azure`, which bakes managed images and gallery versions in a
// temporary virtual machine. Credentials come from where the Azure SDK finds them (`az login`, environment, managed
// identity).
type AzureConfig struct {
	common.PackerConfig `mapstructure:",squash"`
	ImageConfig         `mapstructure:",squash"`
	OutputConfig        `mapstructure:",squash"`
	communicator.Config `mapstructure:",squash"`
	// The subscription to bake in; otherwise `AZURE_SUBSCRIPTION_ID`, or the Azure command line's.
	SubscriptionID string `mapstructure:"subscription_id" override:"azure.subscription"`
	// The resource group of the image; here or in `spec_file` it must be named.
	ResourceGroup string `mapstructure:"resource_group_name" override:"azure.resource_group"`
	// The location to bake in; otherwise the resource group's.
	Location string `mapstructure:"location" override:"azure.location"`
	// The size of the machine to bake on.
	VMSize string `mapstructure:"vm_size" override:"azure.sizes"`
	// Sizes to try in order, after `vm_size`, where there is no room for one.
	VMSizes []string `mapstructure:"vm_sizes" override:"azure.sizes"`
	// The gallery to publish a version in.
	Gallery string `mapstructure:"gallery_name" override:"azure.gallery"`
	// The image definition in the gallery.
	Definition string `mapstructure:"gallery_image_name" override:"azure.definition"`
	// The version to publish: `auto` unless said otherwise, or `MAJOR.MINOR.PATCH`.
	Version string `mapstructure:"gallery_image_version" override:"azure.version"`
	// Other locations of the gallery version.
	ReplicationRegions []string `mapstructure:"replication_regions" override:"azure.replicate_to"`
	// The name of the managed image; otherwise `image_name`.
	ManagedImage string `mapstructure:"managed_image_name" override:"azure.managed_image"`
	// The id of the subnet to bake in; otherwise a temporary one.
	Subnet string `mapstructure:"subnet_id" override:"azure.subnet"`
	// Who may reach the machine's SSH, such as `203.0.113.0/24`; otherwise this machine's own address.
	AllowCIDR string `mapstructure:"allowed_inbound_ip_address" override:"azure.allow_cidr"`
	// Which address of the machine to use: `public_ip` or `private_ip`; the latter needs `subnet_id`.
	SSHInterface string `mapstructure:"ssh_interface"`
	// Bake on a Trusted Launch machine, into a gallery definition for such.
	TrustedLaunch bool `mapstructure:"trusted_launch" override:"azure.trusted_launch"`
	// Tags of the image.
	Tags map[string]string `mapstructure:"tags" override:"azure.tags"`
	// Boot the image and wait for its selftest before it is given out.
	TestBoot bool `mapstructure:"test_boot" override:"azure.test_boot"`
	// How many images of this name to keep; otherwise all.
	Keep int `mapstructure:"keep" override:"azure.keep"`
	// A fixed VHD of `dorunner-metal` (platform `azure`) to make the image from, without any machine; provisioners cannot
	// run then.
	FromVHD string `mapstructure:"from_vhd" override:"azure.from_vhd"`
	// `public` unless said otherwise, `government` or `china`.
	Cloud string `mapstructure:"cloud_environment_name" override:"azure.cloud"`
	// The kind of credentials: `default`, `cli`, `environment`, `managed-identity` or `workload-identity`.
	Auth string `mapstructure:"auth" override:"azure.auth"`
	// A Resource Manager to talk to, instead of the cloud's own.
	Endpoint string `mapstructure:"endpoint" override:"azure.endpoint"`

	ctx interpolate.Context
}

// Azure is the builder `dorunner-azure`.
type Azure struct {
	config AzureConfig
	bakery
}

// ConfigSpec is what HCL may hold.
func (b *Azure) ConfigSpec() hcldec.ObjectSpec { return b.config.FlatMapstructure().HCL2Spec() }

// Prepare reads the configuration and decides everything.
func (b *Azure) Prepare(raws ...any) (generated, warnings []string, err error) {
	c := &b.config
	if err := decode(c, raws, &c.ctx); err != nil {
		return nil, nil, err
	}
	over := overridesOf(c)
	link := &link{config: &c.Config}
	private, err := link.private(c.SSHInterface)
	if private != nil {
		over = append(over, images.Override{Path: "azure.private_ip", Value: *private, From: "ssh_interface"})
	}
	b.bakery = bakery{id: "dorunner.azure", core: c.PackerConfig, image: &c.ImageConfig, link: link,
		disk: func(p *images.Plan) string { return p.Spec.Azure.FromVHD },
		cloud: func(_ context.Context, plan *images.Plan) (builder.Cloud, error) {
			return azure.New(plan, azure.Options{Dial: link.dial})
		}}
	return b.bakery.prepare("azure", over, err)
}
