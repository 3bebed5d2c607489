package aws

import (
	"context"
	"fmt"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/fleet"
)

// subnets are where the machines are to be: the spec's, or those of the default VPC.
func (c *Group) subnets(ctx context.Context) ([]types.Subnet, error) {
	in := &ec2.DescribeSubnetsInput{SubnetIds: c.g.Subnets}
	if len(in.SubnetIds) == 0 && c.g.Plan.Spec.AWS.Subnet != "" {
		in.SubnetIds = []string{c.g.Plan.Spec.AWS.Subnet}
	}
	if len(in.SubnetIds) == 0 {
		in.Filters = []types.Filter{aws.Filter("default-for-az", "true")}
	}
	var out []types.Subnet
	p := ec2.NewDescribeSubnetsPaginator(c.ec2, in)
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Subnets...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no default VPC in %s: name subnets of yours with fleet.subnets", c.region)
	}
	for _, s := range out {
		if sdk.ToString(s.VpcId) != sdk.ToString(out[0].VpcId) {
			return nil, fmt.Errorf("fleet.subnets: %s and %s are in different networks", *out[0].SubnetId, *s.SubnetId)
		}
	}
	return out, nil
}

// planNetwork makes a security group of the fleet's own, into which nothing may connect, unless the spec names one.
func (c *Group) planNetwork(ctx context.Context) ([]fleet.Change, error) {
	if c.securityGroup = c.g.Plan.Spec.AWS.SecurityGroup; c.securityGroup != "" {
		return nil, nil
	}
	subnets, err := c.subnets(ctx)
	if err != nil {
		return nil, err
	}
	vpc := sdk.ToString(subnets[0].VpcId)
	have, err := c.findSecurityGroup(ctx, vpc)
	if err != nil || have != "" {
		c.securityGroup = have
		return nil, err
	}
	return []fleet.Change{{Action: fleet.Create, Kind: "security group", Name: c.name, Fields: []fleet.Field{{Name: "network", New: vpc}, {Name: "inbound", New: "nothing"}, {Name: "outbound", New: "everything"}},
		Do: func(ctx context.Context, created func(string) error) error {
			out, err := c.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: &c.name, VpcId: &vpc, Description: sdk.String("DataOps runners: nothing connects to them"),
				TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSecurityGroup, Tags: aws.TagList(c.tags())}}})
			if aws.IsCode(err, "InvalidGroup.Duplicate") { // an answer was lost, or it is too new to be seen
				err = aws.Until(ctx, "finding security group "+c.name, time.Minute, func(ctx context.Context) (bool, error) {
					c.securityGroup, err = c.findSecurityGroup(ctx, vpc)
					return c.securityGroup != "", err
				})
			} else if err == nil {
				c.securityGroup = *out.GroupId
			}
			if err != nil {
				return c.explain(err)
			}
			return created(c.securityGroup)
		}}}, nil
}

// findSecurityGroup is the fleet's own, "" when there is none; vpc "" looks in every network.
func (c *Group) findSecurityGroup(ctx context.Context, vpc string) (string, error) {
	in := &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{aws.Filter("group-name", c.name)}}
	if vpc != "" {
		in.Filters = append(in.Filters, aws.Filter("vpc-id", vpc))
	}
	p := ec2.NewDescribeSecurityGroupsPaginator(c.ec2, in)
	foreign := false
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, g := range page.SecurityGroups {
			if aws.TagOf(g.Tags, tagFleet) == c.g.Name {
				return *g.GroupId, nil
			}
			foreign = true
		}
	}
	if foreign && vpc != "" {
		return "", c.foreign("a security group", c.name)
	}
	return "", nil
}
