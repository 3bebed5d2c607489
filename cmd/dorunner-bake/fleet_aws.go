package main

import (
	"context"

	builderaws "github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/fleet"
	fleetaws "github.com/dorunner/dorunner-bake/fleet/aws"
)

// fleetAWS are groups on EC2 Auto Scaling.
func fleetAWS() fleetTarget {
	return fleetTarget{
		name:   "aws",
		engine: "EC2 Auto Scaling",
		flags: []keyFlag{
			{name: "region", path: "aws.region", usage: "region (default: the AWS configuration's)", value: ""},
			{name: "subnet", path: "fleet.subnets", usage: "subnets of the machines (default: those of the default VPC)", value: []string{}},
			{name: "security-group", path: "aws.security_group", usage: "security group (default: one of the fleet's own, into which nothing connects)", value: ""},
			{name: "instance-profile", path: "fleet.instance_profile", usage: "lets the machines read their token, `NAME|ARN`; create makes one that may do that and no more", value: ""},
			{name: "tag", path: "aws.tags", usage: "tags of everything that belongs to the fleet, KEY=VALUE", value: map[string]string{}},
		},
		open: func(ctx context.Context, g *fleet.Group, how fleet.How) (fleet.Cloud, string, error) {
			cfg, err := builderaws.LoadConfig(ctx, g.Plan.Spec.AWS.Region)
			if err != nil {
				return nil, "", err
			}
			return fleetaws.Open(cfg, g, how), cfg.Region, nil
		},
	}
}
