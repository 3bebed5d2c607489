package packer

import (
	"context"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
	"github.com/hashicorp/packer-plugin-sdk/communicator"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/images"
)

// AWSConfig are the attributes of the builder `dorunner-aws`, which bakes AMIs in a temporary EC2 instance.
// Credentials, region and endpoint come from where the AWS command line finds them (`AWS_PROFILE`, SSO, roles).
type AWSConfig struct {
	common.PackerConfig `mapstructure:",squash"`
	ImageConfig         `mapstructure:",squash"`
	OutputConfig        `mapstructure:",squash"`
	communicator.Config `mapstructure:",squash"`
	// The region to bake in; otherwise the AWS configuration's.
	Region string `mapstructure:"region" override:"aws.region"`
	// The instance type to bake on.
	InstanceType string `mapstructure:"instance_type" override:"aws.sizes"`
	// Instance types to try in order, after `instance_type`, where there is no room for one.
	InstanceTypes []string `mapstructure:"instance_types" override:"aws.sizes"`
	// The AMI to begin with; otherwise the newest of the operating system's publisher.
	SourceAMI string `mapstructure:"source_ami" override:"aws.base_image"`
	// The same as `image_name`.
	AMIName string `mapstructure:"ami_name" override:"image.name"`
	// Other regions to copy the AMI to.
	AMIRegions []string `mapstructure:"ami_regions" override:"aws.copy_to"`
	// Accounts that may use the AMI; needs `kms_key_id`.
	AMIUsers []string `mapstructure:"ami_users" override:"aws.share"`
	// ARNs of organizations that may use the AMI; needs `kms_key_id`.
	AMIOrgARNs []string `mapstructure:"ami_org_arns" override:"aws.share"`
	// ARNs of organizational units that may use the AMI; needs `kms_key_id`.
	AMIOUARNs []string `mapstructure:"ami_ou_arns" override:"aws.share"`
	// The key that encrypts the disk; otherwise the account's EBS key. `alias/NAME` serves in every region.
	KMSKeyID string `mapstructure:"kms_key_id" override:"aws.kms_key"`
	// The subnet to bake in; otherwise one of the default VPC.
	SubnetID string `mapstructure:"subnet_id" override:"aws.subnet"`
	// The machine's security group; otherwise a temporary one that admits this machine alone.
	SecurityGroupID string `mapstructure:"security_group_id" override:"aws.security_group"`
	// Who may reach the machine's SSH through the temporary security group, such as `203.0.113.0/24`; otherwise this
	// machine's own address.
	SourceCIDR string `mapstructure:"temporary_security_group_source_cidr" override:"aws.allow_cidr"`
	// The instance profile of the machine while it bakes, name or ARN.
	InstanceProfile string `mapstructure:"iam_instance_profile" override:"aws.instance_profile"`
	// Bake on a spot instance, on demand where there is none.
	Spot bool `mapstructure:"spot" override:"aws.spot"`
	// Which address of the machine to use: `public_ip` or `private_ip`.
	SSHInterface string `mapstructure:"ssh_interface"`
	// Tags of the AMI and its snapshots.
	Tags map[string]string `mapstructure:"tags" override:"aws.tags"`
	// Boot the AMI and wait for its selftest before it is given out.
	TestBoot bool `mapstructure:"test_boot" override:"aws.test_boot"`
	// Leave an AMI whose test boot failed.
	KeepFailed bool `mapstructure:"keep_failed" override:"aws.keep_failed"`
	// The SSM parameter that gets the AMI's id, in each region, last.
	Publish string `mapstructure:"publish" override:"aws.publish"`
	// How many images of this name to keep; those in use stay. Otherwise all.
	Keep int `mapstructure:"keep" override:"aws.keep"`
	// Days after which the AMI is deprecated.
	DeprecateAfter int `mapstructure:"deprecate_after" override:"aws.deprecate_after"`
	// Protect the AMI from being deregistered.
	Protect bool `mapstructure:"deregistration_protection" override:"aws.protect"`
	// A disk of `dorunner-metal` (platform `aws`) to make the AMI from, without any machine; provisioners cannot run then.
	FromDisk string `mapstructure:"from_disk" override:"aws.from_disk"`

	ctx interpolate.Context
}

// AWS is the builder `dorunner-aws`.
type AWS struct {
	config AWSConfig
	bakery
}

// ConfigSpec is what HCL may hold.
func (b *AWS) ConfigSpec() hcldec.ObjectSpec { return b.config.FlatMapstructure().HCL2Spec() }

// Prepare reads the configuration and decides everything.
func (b *AWS) Prepare(raws ...any) (generated, warnings []string, err error) {
	c := &b.config
	if err := decode(c, raws, &c.ctx); err != nil {
		return nil, nil, err
	}
	over := overridesOf(c)
	for path, value := range map[string]any{"aws.ssh_host": c.SSHHost, "aws.ssh_port": c.SSHPort, "aws.ssh_timeout": durationText(c.SSHTimeout)} {
		if value != "" && value != 0 {
			over = append(over, images.Override{Path: path, Value: value, From: path[len("aws."):]})
		}
	}
	link := &link{config: &c.Config}
	private, err := link.private(c.SSHInterface)
	if private != nil {
		over = append(over, images.Override{Path: "aws.private_ip", Value: *private, From: "ssh_interface"})
	}
	b.bakery = bakery{id: "dorunner.aws", core: c.PackerConfig, image: &c.ImageConfig, link: link,
		disk: func(p *images.Plan) string { return p.Spec.AWS.FromDisk },
		cloud: func(ctx context.Context, plan *images.Plan) (builder.Cloud, error) {
			cfg, err := aws.LoadConfig(ctx, plan.Spec.AWS.Region)
			if err != nil {
				return nil, err
			}
			return aws.New(aws.Options{Config: cfg, Disk: plan.Spec.AWS.FromDisk, Dial: link.dial}), nil
		}}
	return b.bakery.prepare("aws", over, err)
}
