package main

import (
	"cmp"
	"context"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/images"
)

// awsTarget bakes AMIs.
func awsTarget() target {
	return target{
		name:  "aws",
		short: "Bake an AMI",
		long: `Bake an AMI in a temporary EC2 instance, which is gone afterwards whatever happens.

Everything that can be known is checked first: credentials, permissions, the base image, where the size is offered, the
network. A key pair of EC2's is not needed: keys that last for the bake travel in the machine's user-data.
Prints the id of the AMI, then one per region it was copied to. When an image of this spec exists, that is the result.
Credentials, region and endpoint come from where the AWS command line finds them (AWS_PROFILE, SSO, roles, ...).
docs/aws.md has the permissions that are needed.`,
		example: `  dorunner-bake aws --size t3a.xlarge
  dorunner-bake aws --os ubuntu-22.04 --region eu-west-1 --copy-to us-east-1,ap-southeast-1
  dorunner-bake aws --size t3a.xlarge,m6a.xlarge --spot --test-boot --publish /dorunner/ami --keep 3
  dorunner-bake aws --dry-run
  dorunner-bake metal --platform aws --format raw && dorunner-bake aws --from-disk out/dorunner.raw`,
		flags: []keyFlag{
			{name: "size", path: "aws.sizes", usage: "instance type to bake on; several are tried in order", value: []string{}, words: func() []string { return images.SizeNames("aws") }},
			{name: "region", path: "aws.region", usage: "region to bake in (default: the AWS configuration's)", value: ""},
			{name: "base-image", path: "aws.base_image", usage: "AMI to begin with (default: the newest of the operating system's publisher)", value: ""},
			{name: "copy-to", path: "aws.copy_to", usage: "other regions to copy the AMI to", value: []string{}},
			{name: "share", path: "aws.share", usage: "account ids or organization ARNs that may use the AMI (needs --kms-key)", value: []string{}},
			{name: "kms-key", path: "aws.kms_key", usage: "key that encrypts the disk (default: the account's EBS key): alias/NAME, or an ARN of each region with commas between", value: ""},
			{name: "subnet", path: "aws.subnet", usage: "subnet to bake in (default: one of the default VPC)", value: ""},
			{name: "security-group", path: "aws.security_group", usage: "security group of the machine (default: a temporary one)", value: ""},
			{name: "instance-profile", path: "aws.instance_profile", usage: "instance profile of the machine while it bakes, `NAME|ARN`", value: ""},
			{name: "spot", path: "aws.spot", usage: "bake on a spot instance, on demand when there is none", value: false},
			{name: "allow-cidr", path: "aws.allow_cidr", usage: "who may reach the machine's SSH (default: our own address)", value: ""},
			{name: "private-ip", path: "aws.private_ip", usage: "reach the machine by its private address, from within the network", value: false},
			{name: "ssh-host", path: "aws.ssh_host", usage: "reach the machine at this address instead of its own", value: ""},
			{name: "ssh-port", path: "aws.ssh_port", usage: "reach the machine at this port (default 22)", value: 0},
			{name: "ssh-timeout", path: "aws.ssh_timeout", usage: "how long the machine may take to answer (default 5m)", value: ""},
			{name: "tag", path: "aws.tags", usage: "tags of the AMI and its snapshots, KEY=VALUE", value: map[string]string{}},
			{name: "keep", path: "aws.keep", usage: "how many images of this name to keep (default: all); those in use stay", value: 0},
			{name: "deprecate-after", path: "aws.deprecate_after", usage: "days after which the AMI is deprecated", value: 0},
			{name: "protect", path: "aws.protect", usage: "protect the AMI from being deregistered", value: false},
			{name: "publish", path: "aws.publish", usage: "SSM parameter that gets the id of the AMI, in each region", value: ""},
			{name: "test-boot", path: "aws.test_boot", usage: "boot the AMI and wait for its selftest before it is given out", value: false},
			{name: "keep-failed", path: "aws.keep_failed", usage: "leave an AMI whose test boot failed", value: false},
			{name: "from-disk", path: "aws.from_disk", usage: "disk of the metal target (platform aws) to make the AMI from, without any machine", value: "", file: true},
		},
		cloud: func(ctx context.Context, plan *images.Plan) (builder.Cloud, error) {
			cfg, err := aws.LoadConfig(ctx, plan.Spec.AWS.Region)
			if err != nil {
				return nil, err
			}
			return aws.New(aws.Options{Config: cfg, Disk: plan.Spec.AWS.FromDisk}), nil
		},
		pipeline: func(plan *images.Plan) pipeline {
			a := plan.Spec.AWS
			p := pipeline{ //nolint:gosec // names of variables
				Flags: " --test-boot", TestBoot: true, Before: []string{"dorunner-bake gc aws --yes"}, Prune: "dorunner-bake images aws prune",
				Needs: []string{"AWS_ROLE_ARN and AWS_REGION are variables: a role that trusts this project's identity (OpenID Connect), with the",
					"policy of docs/aws.md, and the region."},
				IDToken: "sts.amazonaws.com",
				Login:   []string{`printf %s "$DORUNNER_ID_TOKEN" >/tmp/id-token`, "export AWS_WEB_IDENTITY_TOKEN_FILE=/tmp/id-token"},
				Actions: []action{{"aws-actions/configure-aws-credentials@v4", []string{"role-to-assume: ${{ vars.AWS_ROLE_ARN }}",
					"aws-region: ${{ vars.AWS_REGION }}", "role-duration-seconds: 10800"}}},
				Values: []packerValue{{"region", "The region to bake in.", a.Region}, {"instance_types", "Instance types to bake on, in order.", a.Sizes},
					{"ami_regions", "Other regions to copy the AMI to.", a.CopyTo}, {"publish", "The SSM parameter that gets the AMI's id.", cmp.Or(a.Publish, ciParameter)},
					{"keep", "How many images to keep.", cmp.Or(a.Keep, ciKeep)}},
			}
			if a.Publish == "" {
				p.Flags += " --publish " + ciParameter
			}
			return p
		},
	}
}

// ciParameter is where a pipeline publishes the AMI's id unless the spec says.
const ciParameter = "/dorunner/ami"
