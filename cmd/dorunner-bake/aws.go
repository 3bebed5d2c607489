package main

import (
	"context"
	"errors"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// awsTarget bakes AMIs.
func awsTarget() target {
	return target{
		name:  "aws",
		short: "Bake an AMI",
		long: `Bake an AMI in a temporary EC2 instance, which is gone afterwards whatever happens.

Prints the id of the AMI. Credentials and region come from where the AWS command line finds them.`,
		example: `  dorunner-bake aws --size t3a.xlarge
  dorunner-bake aws --os ubuntu-22.04 --region eu-west-1 --copy-to us-east-1,ap-southeast-1
  dorunner-bake aws --dry-run`,
		flags: []keyFlag{
			{name: "size", path: "aws.sizes", usage: "instance type to bake on; several are tried in order", value: []string{}, words: func() []string { return images.SizeNames("aws") }},
			{name: "region", path: "aws.region", usage: "region to bake in (default: the AWS configuration's)", value: ""},
			{name: "base-image", path: "aws.base_image", usage: "AMI to begin with (default: the newest of the operating system's publisher)", value: ""},
			{name: "copy-to", path: "aws.copy_to", usage: "other regions to copy the AMI to", value: []string{}},
			{name: "share", path: "aws.share", usage: "account ids or organization ARNs that may use the AMI", value: []string{}},
			{name: "subnet", path: "aws.subnet", usage: "subnet to bake in (default: one of the default VPC)", value: ""},
			{name: "spot", path: "aws.spot", usage: "bake on a spot instance", value: false},
			{name: "tag", path: "aws.tags", usage: "tags of the AMI and its snapshots, KEY=VALUE", value: map[string]string{}},
			{name: "keep", path: "aws.keep", usage: "how many images of this name to keep (default: all)", value: 0},
			{name: "publish", path: "aws.publish", usage: "SSM parameter that gets the id of the AMI", value: ""},
			{name: "test-boot", path: "aws.test_boot", usage: "boot the AMI and wait for its selftest before it is given out", value: false},
			{name: "from-disk", path: "aws.from_disk", usage: "raw disk of the metal target (platform aws) to make the AMI from", value: "", file: true},
		},
		cloud: func(context.Context, *images.Plan) (builder.Cloud, error) {
			return nil, errors.New("this build cannot bake on AWS")
		},
	}
}
