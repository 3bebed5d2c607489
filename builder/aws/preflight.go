package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// place is somewhere that the machine may run: one size in one subnet.
type place struct {
	size, subnet, zone string
}

// Preflight asks everything that can be asked without creating anything, and tells all that is wrong at once.
func (c *Cloud) Preflight(ctx context.Context, env *builder.Env) error {
	now := time.Now()
	c.expires = now.Add(lifetime)
	c.hash = env.Plan.Hash
	if c.disk != nil {
		if c.disk.err != nil {
			return c.disk.err
		}
		c.hash = c.disk.hash()
		if c.disk.resume != nil { // it is this bake's now, to finish or to give back
			if err := c.recordUpload(env, c.disk.resume); err != nil {
				return err
			}
		}
	}
	var err error
	if c.name, err = env.Plan.ImageName(c.hash, now); err != nil {
		return err
	}
	if c.family, err = Family(env.Plan); err != nil {
		return err
	}
	// Without an identity every other answer would be the same complaint.
	if _, err := c.acct.sts().GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err != nil && !Unsupported(err) {
		return explain(c.region, err)
	}
	a := env.Plan.Spec.AWS
	checks := []func(context.Context, *builder.Env) error{c.findBase, c.checkKeys}
	if c.disk == nil {
		checks = append(checks, c.findPlaces)
	}
	if len(a.CopyTo) > 0 {
		checks = append(checks, c.checkRegions)
	}
	if err := together(ctx, env, checks); err != nil {
		return err
	}
	if c.disk != nil {
		return c.checkDisk(ctx, env)
	}
	// With what was found, the real request as a rehearsal.
	if err := c.rehearseRun(ctx, env, c.places[0]); err != nil {
		return explain(c.region, err)
	}
	return c.findOpening(ctx, env)
}

// rehearseRun is RunInstances as a dry run. A server that does not know those starts a machine, which is ended at once.
func (c *Cloud) rehearseRun(ctx context.Context, env *builder.Env, p place) error {
	out, err := c.run(ctx, env, p, env.Plan.Spec.AWS.Spot, true)
	switch {
	case IsCode(err, "DryRunOperation"):
		return nil
	case Unsupported(err):
		c.noDryRun = true
		env.Progress.Warn("the server does not know DryRun: permissions cannot be checked beforehand")
		return nil
	case err != nil:
		return err
	}
	c.noDryRun = true
	env.Progress.Warn("the server ignores DryRun and started a machine, which is ended again: permissions cannot be checked beforehand")
	for _, i := range out.Instances {
		id := *i.InstanceId
		if err := c.record(env, kindInstance, c.region, id); err != nil {
			return err
		}
		err := c.acct.fresh(ctx, builder.Entry{ID: id, Region: c.region, Time: time.Now()}, func(ctx context.Context) error { return c.acct.terminate(ctx, c.region, id) })
		if err != nil {
			return err
		}
		if err := env.Ledger.Done(kindInstance, id); err != nil {
			return err
		}
	}
	return nil
}

// without warns that a check is left out because the server does not know what it asks; other errors stay.
func without(env *builder.Env, region, action, loss string, err error) error {
	if !Unsupported(err) {
		return explain(region, err)
	}
	env.Progress.Warn("the server does not know %s: %s", action, loss)
	return nil
}

// Family is what the names of all images of one template have in common.
func Family(p *images.Plan) (string, error) { return p.ImageName("", time.Unix(0, 0)) }

// together runs checks at the same time and joins what they find.
func together(ctx context.Context, env *builder.Env, checks []func(context.Context, *builder.Env) error) error {
	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, check := range checks {
		wg.Go(func() { errs[i] = check(ctx, env) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// architectures are ours as EC2 names them.
var architectures = map[string]types.ArchitectureValues{"amd64": types.ArchitectureValuesX8664, "arm64": types.ArchitectureValuesArm64}

// findBase finds the base image, and in the same breath our own images of the wanted name: nothing may have it that is
// not of this plan.
func (c *Cloud) findBase(ctx context.Context, env *builder.Env) error {
	base, a := env.Plan.Base, env.Plan.Spec.AWS
	names := c.nameFilters(env)
	arch := architectures[env.Plan.Spec.Image.Arch]
	// By owner, never by name alone: anybody may publish an image of any name.
	in := &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: []types.Filter{Filter("name", names...)}, IncludeDeprecated: sdk.Bool(true)}
	catalogue := a.BaseImage == "" && c.disk == nil
	if catalogue {
		in.Owners, in.Filters[0].Values = append(in.Owners, base.AMIOwner), append(names, base.AMIName)
	}
	all, err := c.acct.images(ctx, c.region, in)
	if err != nil {
		return explain(c.region, err)
	}
	var bases []types.Image
	for _, i := range all {
		if catalogue && sdk.ToString(i.OwnerId) == base.AMIOwner {
			if i.State == types.ImageStateAvailable && (i.Architecture == arch || i.Architecture == "") {
				bases = append(bases, i)
			}
			continue
		}
		if finished(i) && TagOf(i.Tags, tagPlan) == c.hash {
			c.found = append(c.found, i)
		}
		if sdk.ToString(i.Name) != c.name {
			continue
		}
		if TagOf(i.Tags, tagPlan) != c.hash {
			return fmt.Errorf("the name %s is taken by %s, an image of something else: choose another with --name, or have {{.Hash}} in it", c.name, *i.ImageId)
		}
		c.name += "-" + env.BakeID[max(0, len(env.BakeID)-6):] // baked anew although it exists
	}
	switch {
	case c.disk != nil:
		return nil
	case a.BaseImage != "":
		bases, err = c.acct.images(ctx, c.region, &ec2.DescribeImagesInput{ImageIds: []string{a.BaseImage}, IncludeDeprecated: sdk.Bool(true)})
		if notFound(err) {
			return fmt.Errorf("there is no image %s in %s: image ids differ from region to region", a.BaseImage, c.region)
		}
		if err != nil {
			return explain(c.region, err)
		}
	}
	if len(bases) == 0 {
		return fmt.Errorf("no image %s of owner %s for %s is in %s: choose another --os or --region, or name one with aws.base_image", base.AMIName, base.AMIOwner, env.Plan.Spec.Image.Arch, c.region)
	}
	c.base = slices.MaxFunc(bases, func(a, b types.Image) int {
		return strings.Compare(sdk.ToString(a.CreationDate), sdk.ToString(b.CreationDate))
	})
	c.root = cmp.Or(sdk.ToString(c.base.RootDeviceName), rootDevice)
	if c.base.Architecture != arch && c.base.Architecture != "" {
		return fmt.Errorf("base image %s is for %s, and the plan for %s", *c.base.ImageId, c.base.Architecture, arch)
	}
	for _, m := range c.base.BlockDeviceMappings {
		if sdk.ToString(m.DeviceName) == c.root && m.Ebs != nil && int(sdk.ToInt32(m.Ebs.VolumeSize)) > env.Plan.Spec.Image.DiskGB {
			return fmt.Errorf("base image %s has a disk of %d GB, larger than image.disk_gb %d: give --disk %d", *c.base.ImageId, *m.Ebs.VolumeSize, env.Plan.Spec.Image.DiskGB, *m.Ebs.VolumeSize)
		}
	}
	return nil
}

// nameFilters match every name that an image of this plan may have been given, whenever it was baked.
func (c *Cloud) nameFilters(env *builder.Env) []string {
	day := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	name, err := env.Plan.ImageName(c.hash, day)
	if err != nil { // the caller has rendered it before
		return nil
	}
	name = strings.ReplaceAll(name, day.Format("20060102-150405"), "*")
	return []string{name, name + "-??????"}
}

// finished tells an image that is whole from one that a bake is (or was) still at work on.
func finished(i types.Image) bool {
	return i.State == types.ImageStateAvailable && TagOf(i.Tags, tagExpires) == ""
}

// findPlaces finds where which size is offered, and checks that the machine will have a network.
func (c *Cloud) findPlaces(ctx context.Context, env *builder.Env) error {
	a := env.Plan.Spec.AWS
	client := c.acct.in(c.region)
	var offers []types.InstanceTypeOffering
	anywhere := false // where is not known
	var subnets []types.Subnet
	err := together(ctx, env, []func(context.Context, *builder.Env) error{
		func(ctx context.Context, _ *builder.Env) error {
			p := ec2.NewDescribeInstanceTypeOfferingsPaginator(client, &ec2.DescribeInstanceTypeOfferingsInput{
				LocationType: types.LocationTypeAvailabilityZone, Filters: []types.Filter{Filter("instance-type", a.Sizes...)}})
			for p.HasMorePages() {
				page, err := p.NextPage(ctx)
				if err != nil {
					anywhere = true
					return without(env, c.region, "DescribeInstanceTypeOfferings", "whether the size is offered shows when the machine starts", err)
				}
				offers = append(offers, page.InstanceTypeOfferings...)
			}
			return nil
		},
		func(ctx context.Context, _ *builder.Env) error {
			in := &ec2.DescribeSubnetsInput{Filters: []types.Filter{Filter("default-for-az", "true")}}
			if a.Subnet != "" {
				in = &ec2.DescribeSubnetsInput{SubnetIds: []string{a.Subnet}}
			}
			p := ec2.NewDescribeSubnetsPaginator(client, in)
			for p.HasMorePages() {
				page, err := p.NextPage(ctx)
				if notFound(err) {
					return fmt.Errorf("there is no subnet %s in %s: check aws.subnet and the region", a.Subnet, c.region)
				}
				if err != nil {
					return explain(c.region, err)
				}
				subnets = append(subnets, page.Subnets...)
			}
			if len(subnets) == 0 {
				return fmt.Errorf("%s has no default VPC: name a subnet with --subnet (with a route to the internet), or make one with `aws ec2 create-default-vpc`", c.region)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	c.vpc = sdk.ToString(subnets[0].VpcId)
	for _, size := range a.Sizes {
		for _, s := range subnets {
			if anywhere || slices.ContainsFunc(offers, func(o types.InstanceTypeOffering) bool {
				return string(o.InstanceType) == size && sdk.ToString(o.Location) == sdk.ToString(s.AvailabilityZone)
			}) {
				c.places = append(c.places, place{size, *s.SubnetId, sdk.ToString(s.AvailabilityZone)})
			}
		}
	}
	if len(c.places) == 0 {
		return c.notOffered(a.Sizes, offers)
	}
	return c.checkRoute(ctx, env, subnets)
}

func (c *Cloud) notOffered(sizes []string, offers []types.InstanceTypeOffering) error {
	if len(offers) == 0 {
		return fmt.Errorf("no zone of %s offers %s: choose another with --size", c.region, strings.Join(sizes, " or "))
	}
	var zones []string
	for _, o := range offers {
		zones = append(zones, sdk.ToString(o.Location))
	}
	slices.Sort(zones)
	return fmt.Errorf("%s is offered in %s, but there is no subnet of yours to use there: choose a subnet there with --subnet, or another --size", strings.Join(sizes, " or "), strings.Join(slices.Compact(zones), ", "))
}

// checkRoute checks that packages can be fetched, and that we can reach the machine, before waiting for either in vain.
func (c *Cloud) checkRoute(ctx context.Context, env *builder.Env, subnets []types.Subnet) error {
	p := ec2.NewDescribeRouteTablesPaginator(c.acct.in(c.region), &ec2.DescribeRouteTablesInput{Filters: []types.Filter{Filter("vpc-id", c.vpc)}})
	routes := map[string]types.RouteTable{} // by subnet; "" is the main table
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return without(env, c.region, "DescribeRouteTables", "whether the machine can reach the internet shows when it tries", err)
		}
		for _, t := range page.RouteTables {
			for _, a := range t.Associations {
				if sdk.ToBool(a.Main) {
					routes[""] = t
				} else if a.SubnetId != nil {
					routes[*a.SubnetId] = t
				}
			}
		}
	}
	a := env.Plan.Spec.AWS
	var dark []string
	for _, s := range subnets {
		t, own := routes[*s.SubnetId]
		if !own {
			t = routes[""]
		}
		if !slices.ContainsFunc(t.Routes, func(r types.Route) bool {
			out := sdk.ToString(r.DestinationCidrBlock) == "0.0.0.0/0" && r.State == types.RouteStateActive
			return out && (a.PrivateIP || a.SSHHost != "" || strings.HasPrefix(sdk.ToString(r.GatewayId), "igw-"))
		}) {
			dark = append(dark, *s.SubnetId)
		}
	}
	c.places = slices.DeleteFunc(c.places, func(p place) bool { return slices.Contains(dark, p.subnet) })
	switch {
	case len(c.places) > 0:
		return nil
	case a.SSHHost != "": // who knows the way in may know one out
		for _, s := range subnets {
			for _, size := range a.Sizes {
				c.places = append(c.places, place{size, *s.SubnetId, sdk.ToString(s.AvailabilityZone)})
			}
		}
		env.Progress.Warn("subnet %s has no route out (0.0.0.0/0): the machine must fetch packages some other way", strings.Join(dark, ", "))
		return nil
	case a.PrivateIP:
		return fmt.Errorf("subnet %s has no route out (0.0.0.0/0), and the machine must fetch packages: give it a NAT gateway or choose another --subnet", strings.Join(dark, ", "))
	}
	return fmt.Errorf("subnet %s has no route to an internet gateway, so the machine could not be reached: choose a public --subnet, or add --private-ip when you are inside the network", strings.Join(dark, ", "))
}

// checkRegions checks that the regions to copy to exist and are enabled.
func (c *Cloud) checkRegions(ctx context.Context, env *builder.Env) error {
	a := env.Plan.Spec.AWS
	out, err := c.acct.in(c.region).DescribeRegions(ctx, &ec2.DescribeRegionsInput{})
	if err := without(env, c.region, "DescribeRegions", "whether the regions to copy to are enabled shows when copying", err); err != nil {
		return err
	}
	var errs []error
	for _, r := range a.CopyTo {
		if out != nil && !slices.ContainsFunc(out.Regions, func(have types.Region) bool { return sdk.ToString(have.RegionName) == r }) {
			errs = append(errs, fmt.Errorf("region %s of aws.copy_to does not exist or is not enabled: enable it in the account's settings, or remove it", r))
		}
	}
	return errors.Join(errs...)
}

// checkKeys checks that every region has a key of its own; without one the account's would be taken silently.
func (c *Cloud) checkKeys(_ context.Context, env *builder.Env) error {
	keys := env.Plan.Spec.AWS.KMSKey
	if keys == "" {
		return nil
	}
	var errs []error
	for i, r := range append([]string{c.region}, copyRegions(c.region, env.Plan.Spec.AWS.CopyTo)...) {
		key := KeyIn(r, keys)
		if key == "" || i > 0 && !strings.HasPrefix(key, "alias/") && !strings.HasPrefix(key, "arn:") {
			errs = append(errs, fmt.Errorf("key %s exists in one region only, and the image in %s needs one too: add its ARN there after a comma, name an alias that every region has (alias/NAME), or use a multi-region key", keys, r))
		}
	}
	return errors.Join(errs...)
}

// findOpening decides who may reach the machine's SSH.
func (c *Cloud) findOpening(ctx context.Context, env *builder.Env) error {
	a := env.Plan.Spec.AWS
	switch {
	case !c.ownGroup(env):
		return nil
	case a.AllowCIDR != "":
		p, err := netip.ParsePrefix(a.AllowCIDR)
		if err != nil {
			return fmt.Errorf("aws.allow_cidr: %w", err)
		}
		c.opening = p
		return nil
	}
	ip, err := c.o.CallerIP(ctx)
	if err != nil {
		return fmt.Errorf("our own address on the internet cannot be told (%w): name who may reach the machine, for example --allow-cidr 198.51.100.7/32", err)
	}
	c.opening = netip.PrefixFrom(ip, ip.BitLen())
	return nil
}

// ownGroup tells whether the bake makes a security group: not when one is named, nor when the machine is reached
// within the network, where the VPC's default serves.
func (c *Cloud) ownGroup(env *builder.Env) bool {
	a := env.Plan.Spec.AWS
	return a.SecurityGroup == "" && !a.PrivateIP
}

// Find looks for finished images of this plan in every wanted region.
func (c *Cloud) Find(ctx context.Context, env *builder.Env) (builder.Artifact, bool, error) {
	if len(c.found) == 0 {
		return builder.Artifact{}, false, nil
	}
	copies := copyRegions(c.region, env.Plan.Spec.AWS.CopyTo)
	all := make([]types.Image, 1+len(copies))
	all[0] = newest(c.found)
	var checks []func(context.Context, *builder.Env) error
	for i, r := range copies {
		checks = append(checks, func(ctx context.Context, env *builder.Env) error {
			have, err := c.acct.images(ctx, r, &ec2.DescribeImagesInput{Owners: []string{"self"}, IncludeDeprecated: sdk.Bool(true),
				Filters: []types.Filter{Filter("tag:"+tagPlan, c.hash), Filter("name", c.nameFilters(env)...)}})
			have = slices.DeleteFunc(have, func(i types.Image) bool { return !finished(i) })
			if err == nil && len(have) > 0 {
				all[1+i] = newest(have)
			}
			return explain(r, err)
		})
	}
	if err := together(ctx, env, checks); err != nil {
		return builder.Artifact{}, false, err
	}
	var out builder.Artifact
	for i, r := range append([]string{c.region}, copies...) {
		if all[i].ImageId == nil {
			return builder.Artifact{}, false, nil
		}
		out.Images = append(out.Images, builder.ImageID{Region: r, ID: *all[i].ImageId, Format: "ami"})
	}
	return out, true, nil
}

func newest(list []types.Image) types.Image {
	return slices.MaxFunc(list, func(a, b types.Image) int {
		return strings.Compare(sdk.ToString(a.CreationDate), sdk.ToString(b.CreationDate))
	})
}

// copyRegions are the regions to copy to, each once, without the one that is baked in.
func copyRegions(home string, list []string) []string {
	var out []string
	for _, r := range list {
		if r != home && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}
