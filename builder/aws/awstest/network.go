package awstest

import (
	"slices"
	"strings"
	"time"
)

func describeRegions(c *call) (any, *Error) {
	names := c.f.list("RegionName")
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	type item struct {
		Name  string `xml:"regionName"`
		OptIn string `xml:"optInStatus"`
	}
	var out struct {
		Info set[item] `xml:"regionInfo"`
	}
	for _, n := range names {
		if c.s.regions[n] == nil {
			return nil, fail("InvalidParameterValue", "Invalid region: %s", n)
		}
	}
	for _, n := range c.s.o.Regions {
		if len(names) == 0 || slices.Contains(names, n) {
			out.Info.Item = append(out.Info.Item, item{n, "opt-in-not-required"})
		}
	}
	return out, nil
}

func describeSubnets(c *call) (any, *Error) {
	ids, filters := c.f.list("SubnetId"), c.f.filters("default-for-az", "vpc-id", "availability-zone", "state")
	type item struct {
		ID      string `xml:"subnetId"`
		Zone    string `xml:"availabilityZone"`
		VPC     string `xml:"vpcId"`
		Default bool   `xml:"defaultForAz"`
		Free    int    `xml:"availableIpAddressCount"`
		State   string `xml:"state"`
	}
	var all []item
	for _, s := range c.r.subnets {
		is := map[string]string{"default-for-az": yesNo(s.isDefault), "vpc-id": s.vpc, "availability-zone": s.zone, "state": "available"}
		if match(filters, nil, is) && (len(ids) == 0 || slices.Contains(ids, s.id)) {
			all = append(all, item{s.id, s.zone, s.vpc, s.isDefault, 100, "available"})
		}
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if len(all) < len(ids) {
		return nil, fail("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", ids[0])
	}
	return struct {
		Set  set[item] `xml:"subnetSet"`
		Next string    `xml:"nextToken,omitempty"`
	}{set[item]{part}, next}, perr
}

func yesNo(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

func describeRouteTables(c *call) (any, *Error) {
	filters := c.f.filters("vpc-id", "association.subnet-id", "association.main")
	type route struct {
		To      string `xml:"destinationCidrBlock"`
		Gateway string `xml:"gatewayId,omitempty"`
		Nat     string `xml:"natGatewayId,omitempty"`
		State   string `xml:"state"`
	}
	type assoc struct {
		Main   bool   `xml:"main"`
		Subnet string `xml:"subnetId,omitempty"`
	}
	type item struct {
		ID     string     `xml:"routeTableId"`
		VPC    string     `xml:"vpcId"`
		Assoc  set[assoc] `xml:"associationSet"`
		Routes set[route] `xml:"routeSet"`
	}
	tables := map[string]*item{}
	var order []string
	for _, s := range c.r.subnets {
		if !match(filters, nil, map[string]string{"vpc-id": s.vpc, "association.subnet-id": s.id, "association.main": yesNo(s.isDefault)}) {
			continue
		}
		key := s.vpc + yesNo(s.public)
		if tables[key] == nil {
			t := &item{ID: "rtb-" + key, VPC: s.vpc, Routes: set[route]{[]route{{To: "172.31.0.0/16", Gateway: "local", State: "active"}}}}
			if s.public {
				t.Routes.Item = append(t.Routes.Item, route{To: "0.0.0.0/0", Gateway: "igw-1", State: "active"})
			}
			tables[key], order = t, append(order, key)
		}
		if a := &tables[key].Assoc.Item; s.isDefault {
			*a = []assoc{{Main: true}}
		} else {
			*a = append(*a, assoc{Subnet: s.id})
		}
	}
	var all []item
	for _, k := range order {
		all = append(all, *tables[k])
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	return struct {
		Set  set[item] `xml:"routeTableSet"`
		Next string    `xml:"nextToken,omitempty"`
	}{set[item]{part}, next}, perr
}

// knownSizes are the machine types that every zone offers, but for t3a in the third.
var knownSizes = []string{"t3a.large", "t3a.xlarge", "t3.large", "t3.xlarge", "m6a.xlarge", "m6i.xlarge", "m7g.xlarge", "t4g.xlarge"}

func describeOfferings(c *call) (any, *Error) {
	kind := c.f.of("LocationType", "region", "availability-zone")
	filters := c.f.filters("instance-type", "location")
	type item struct {
		Type     string `xml:"instanceType"`
		Location string `xml:"location"`
		Kind     string `xml:"locationType"`
	}
	var all []item
	for _, z := range []string{"a", "b", "c"} {
		for _, size := range knownSizes {
			where := c.r.name + z
			if kind == "availability-zone" && (z != "c" || !strings.HasPrefix(size, "t3a.")) &&
				match(filters, nil, map[string]string{"instance-type": size, "location": where}) {
				all = append(all, item{size, where, kind})
			}
		}
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	return struct {
		Set  set[item] `xml:"instanceTypeOfferingSet"`
		Next string    `xml:"nextToken,omitempty"`
	}{set[item]{part}, next}, perr
}

func createGroup(c *call) (any, *Error) {
	name, desc, vpc := c.f.need("GroupName"), c.f.need("GroupDescription"), c.f.str("VpcId")
	tags := c.f.tags("security-group")["security-group"]
	if err := c.begin(c.fresh("security-group", tags), resource{arn: c.arn("vpc", vpc)}); err != nil {
		return nil, err
	}
	if vpc == "" {
		if c.s.o.NoDefaultVPC {
			return nil, fail("VPCIdNotSpecified", "No default VPC for this user")
		}
		vpc = "vpc-" + c.r.name
	}
	for _, g := range c.r.groups {
		if g.name == name && g.vpc == vpc {
			return nil, fail("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", name, vpc)
		}
	}
	g := &group{meta: c.s.newMeta("sg", tags), name: name, vpc: vpc, desc: desc}
	c.r.groups[g.id] = g
	return struct {
		ID string `xml:"groupId"`
	}{g.id}, nil
}

func (r *region) group(id string) (*group, *Error) {
	return find(r.groups, id, "InvalidGroup.NotFound", "security group")
}

func authorizeGroup(c *call) (any, *Error) {
	id := c.f.need("GroupId")
	var rules []string
	for _, p := range c.f.groups("IpPermissions") {
		proto, from, to := c.f.str(p+"IpProtocol"), c.f.str(p+"FromPort"), c.f.str(p+"ToPort")
		for _, q := range c.f.groups(p + "IpRanges") {
			c.f.str(q + "Description")
			rules = append(rules, strings.Join([]string{proto, from, to, c.f.str(q + "CidrIp")}, " "))
		}
	}
	g, ferr := c.r.group(id)
	on := resource{arn: c.arn("security-group", id)}
	if g != nil {
		on.tags = g.tags
	}
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	for _, r := range rules {
		if slices.Contains(g.ingress, r) {
			return nil, fail("InvalidPermission.Duplicate", "the specified rule \"%s\" already exists", r)
		}
	}
	g.ingress = append(g.ingress, rules...)
	return done{true}, nil
}

func describeGroups(c *call) (any, *Error) {
	ids, filters := c.f.list("GroupId"), c.f.filters("group-name", "vpc-id", "tag-key")
	type item struct {
		ID   string       `xml:"groupId"`
		Name string       `xml:"groupName"`
		VPC  string       `xml:"vpcId"`
		Tags set[tagItem] `xml:"tagSet"`
	}
	var all []item
	for _, g := range list(c.r.groups) {
		if match(filters, g.tags, map[string]string{"group-name": g.name, "vpc-id": g.vpc}) && (len(ids) == 0 || slices.Contains(ids, g.id)) {
			all = append(all, item{g.id, g.name, g.vpc, tagSet(g.tags)})
		}
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if len(all) < len(ids) {
		return nil, fail("InvalidGroup.NotFound", "The security group '%s' does not exist", ids[0])
	}
	return struct {
		Set  set[item] `xml:"securityGroupInfo"`
		Next string    `xml:"nextToken,omitempty"`
	}{set[item]{part}, next}, perr
}

func deleteGroup(c *call) (any, *Error) {
	id := c.f.need("GroupId")
	g, ferr := c.r.group(id)
	on := resource{arn: c.arn("security-group", id)}
	if g != nil {
		on.tags = g.tags
	}
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	if g.name == defaultGroup {
		return nil, fail("CannotDelete", "the specified group: \"%s\" name: \"default\" cannot be deleted by a user", id)
	}
	for _, i := range c.r.instances {
		if _, state := i.state(time.Now()); state != "terminated" && slices.Contains(i.groups, id) {
			return nil, fail("DependencyViolation", "resource %s has a dependent object", id)
		}
	}
	delete(c.r.groups, id)
	return done{true}, nil
}
