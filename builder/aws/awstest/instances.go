package awstest

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

var metadataKey = regexp.MustCompile(`^[A-Za-z0-9+\-=._,@:]+$`)

type disk struct {
	device, snapshot string
	size             int
	encrypted, keep  bool
	rate             int
}

func (c *call) disks() []disk {
	var out []disk
	for _, p := range c.f.groups("BlockDeviceMapping") {
		d := disk{device: c.f.need(p + "DeviceName")}
		c.f.str(p + "VirtualName")
		d.snapshot = c.f.str(p + "Ebs.SnapshotId")
		d.size = c.f.num(p + "Ebs.VolumeSize")
		c.f.of(p+"Ebs.VolumeType", "gp2", "gp3", "io2")
		c.f.num(p + "Ebs.Iops")
		c.f.num(p + "Ebs.Throughput")
		d.encrypted = c.f.yes(p + "Ebs.Encrypted")
		c.f.str(p + "Ebs.KmsKeyId")
		d.keep = c.f.of(p+"Ebs.DeleteOnTermination", "true", "false") == "false"
		d.rate = c.f.num(p + "Ebs.VolumeInitializationRate")
		if d.rate != 0 && (d.rate < 100 || d.rate > 300) && c.f.err == nil {
			c.f.err = fail("InvalidParameterValue", "VolumeInitializationRate must be between 100 and 300")
		}
		out = append(out, d)
	}
	return out
}

func runInstances(c *call) (any, *Error) {
	f := c.f
	i := instance{image: f.need("ImageId"), size: f.need("InstanceType"), token: f.str("ClientToken"),
		profile: f.str("IamInstanceProfile.Name") + f.str("IamInstanceProfile.Arn"), shutdown: f.of("InstanceInitiatedShutdownBehavior", "stop", "terminate")}
	least, most := f.num("MinCount"), f.num("MaxCount")
	f.of("CreditSpecification.CpuCredits", "standard", "unlimited")
	i.spot = f.of("InstanceMarketOptions.MarketType", "spot") == "spot"
	f.of("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time")
	f.of("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate")
	i.tokensRequired = f.of("MetadataOptions.HttpTokens", "optional", "required") == "required"
	f.of("MetadataOptions.HttpEndpoint", "enabled")
	f.num("MetadataOptions.HttpPutResponseHopLimit")
	i.metadataTags = f.of("MetadataOptions.InstanceMetadataTags", "enabled", "disabled") == "enabled"
	data, derr := base64.StdEncoding.DecodeString(f.str("UserData"))
	i.userData = string(data)
	f.of("EbsOptimized", "true", "false")
	i.groups, i.subnet = f.list("SecurityGroupId"), f.str("SubnetId")
	public := true
	for _, p := range f.groups("NetworkInterface") {
		f.num(p + "DeviceIndex")
		f.yes(p + "DeleteOnTermination")
		public = f.yes(p + "AssociatePublicIpAddress")
		i.subnet, i.groups = f.str(p+"SubnetId"), f.list(p+"SecurityGroupId")
	}
	tags := f.tags("instance", "volume", "network-interface", "spot-instances-request")
	disks := c.disks()
	img := c.r.images[i.image]
	on := []resource{c.fresh("instance", tags["instance"]), c.fresh("volume", tags["volume"]), c.fresh("network-interface", tags["network-interface"]),
		{arn: c.arn("image", i.image)}, {arn: c.arn("subnet", i.subnet)}}
	if img != nil {
		on[3].tags = img.tags
	}
	for _, g := range i.groups {
		r := resource{arn: c.arn("security-group", g)}
		if have := c.r.groups[g]; have != nil {
			r.tags = have.tags
		}
		on = append(on, r)
	}
	dry := c.DryRun
	c.DryRun = false // EC2 checks what it was given before it says that it would
	if err := c.begin(on...); err != nil {
		return nil, err
	}
	if i.profile != "" {
		if err := c.permitPass(i.profile); err != nil {
			return nil, err
		}
	}
	c.DryRun = dry
	net, verr := c.checkRun(&i, img, len(data), derr, tags["instance"])
	if verr != nil {
		return nil, verr
	}
	if c.DryRun {
		return nil, &Error{412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."}
	}
	if id := c.r.tokens["run/"+i.token]; i.token != "" && id != "" {
		return c.reservation([]*instance{c.r.instances[id]}), nil
	}
	if err := c.checkProfile(i.profile); err != nil {
		return nil, err
	}
	if err := c.capacity(net.zone, i.size, i.spot); err != nil {
		return nil, err
	}
	if least < 1 || most < least {
		return nil, fail("InvalidParameterValue", "MinCount and MaxCount do not fit")
	}
	var made []*instance
	for range most {
		n := i
		n.zone, n.subnet, n.arch = net.zone, net.id, img.arch
		if err := c.startInstance(&n, img, disks, tags["instance"], tags["volume"], public); err != nil {
			return nil, err
		}
		made = append(made, &n)
	}
	if i.token != "" {
		c.r.tokens["run/"+i.token] = made[0].id
	}
	return c.reservation(made), nil
}

// startInstance makes an instance of what n says, with its volumes, and boots it where there are machines.
func (c *call) startInstance(n *instance, img *image, disks []disk, tags, volumeTags map[string]string, public bool) *Error {
	n.meta = c.s.newMeta("i", tags)
	n.running = time.Now().Add(c.s.o.Delays.Run)
	if public {
		n.ip = fmt.Sprintf("203.0.113.%d", c.s.nextID%250+1)
	}
	gib, root := img.size, ""
	if len(disks) == 0 {
		disks = []disk{{device: img.root, size: img.size, encrypted: img.encrypted}}
	}
	for _, d := range disks {
		n.volumeRate = max(n.volumeRate, d.rate)
		v := &volume{meta: c.s.newMeta("vol", volumeTags), instance: n.id, device: d.device, size: max(d.size, img.size), encrypted: d.encrypted, deleteOnTermination: !d.keep}
		if d.device == img.root {
			gib, root = v.size, v.id
		}
		c.r.volumes[v.id] = v
		n.volumes = append(n.volumes, v.id)
	}
	if m := c.s.o.Machines; m != nil {
		file := ""
		if sn := c.r.snapshots[img.snapshots[0]]; sn != nil && sn.blocks != nil {
			file = sn.blocks.path()
		}
		addr, err := m.Start(Machine{ID: n.id, Region: c.Region, ImageID: n.image, UserData: n.userData, Disk: file, DiskGiB: gib, Type: n.size, Zone: n.zone, Subnet: n.subnet,
			Volume: root, Account: c.s.o.Account, Profile: n.profile, Tags: tags, MetadataTags: n.metadataTags, TokensRequired: n.tokensRequired,
			Live: func(path string) (string, bool) { return c.s.live(c.Region, n.id, path) }})
		if err != nil {
			return fail("InternalError", "%v", err)
		}
		n.ip = addr
	}
	c.r.instances[n.id] = n
	return nil
}

// stopInstance asks a running instance to stop.
func (s *Server) stopInstance(i *instance) *Error {
	now := time.Now()
	i.stopping, i.stopped = now, now.Add(s.o.Delays.Stop)
	for _, r := range s.regions {
		r.scalingOf(i.id).wake()
	}
	if m := s.o.Machines; m != nil {
		if err := m.Stop(i.id); err != nil {
			return fail("InternalError", "%v", err)
		}
		if _, real := m.(Disks); real {
			i.stopped = now.Add(forever) // until settle sees that it is off
		}
	}
	return nil
}

// endInstance terminates an instance.
func (s *Server) endInstance(i *instance) *Error {
	now := time.Now()
	_, state := i.state(now)
	if !i.terminating.IsZero() {
		return nil
	}
	if d, real := s.o.Machines.(Disks); real {
		go d.Remove(i.id)
	} else if m := s.o.Machines; m != nil && (state == "running" || state == "pending") {
		if err := m.Stop(i.id); err != nil {
			return fail("InternalError", "%v", err)
		}
	}
	i.terminating, i.terminated = now, now.Add(s.o.Delays.Terminate)
	for _, r := range s.regions {
		if r.instances[i.id] == i {
			r.ending[i.id] = i
			r.scalingOf(i.id).wake()
		}
	}
	return nil
}

// forever is later than anybody waits.
const forever = 1000 * time.Hour

// checkRun refuses what EC2 refuses, dry run or not, and gives the subnet.
func (c *call) checkRun(i *instance, img *image, userData int, derr error, tags map[string]string) (subnet, *Error) {
	var none subnet
	switch {
	case derr != nil || userData > 16384:
		return none, fail("InvalidParameterValue", "User data is limited to 16384 bytes")
	case img == nil || img.state(time.Now()) != "available" || time.Now().Before(img.visible):
		return none, fail("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", i.image)
	case !slices.Contains(knownSizes, i.size):
		return none, fail("InvalidParameterValue", "Invalid value '%s' for InstanceType.", i.size)
	case strings.Contains(i.size, "g.") != (img.arch == "arm64"):
		return none, fail("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI", i.size, img.arch)
	}
	for k := range tags {
		if i.metadataTags && !metadataKey.MatchString(k) {
			return none, fail("InvalidParameterValue", "'%s' is not a valid tag key for instance metadata", k)
		}
	}
	for _, g := range i.groups {
		if _, err := c.r.group(g); err != nil {
			return none, err
		}
	}
	for _, s := range c.r.subnets {
		if s.id == i.subnet || i.subnet == "" && s.isDefault {
			return s, nil
		}
	}
	if i.subnet == "" {
		return none, fail("MissingInput", "No subnets found for the default VPC. Please specify a subnet.")
	}
	return none, fail("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", i.subnet)
}

func (c *call) permitPass(profile string) *Error {
	p := c.policy()
	if c.internal {
		return nil
	}
	arn := "arn:aws:iam::" + c.s.o.Account + ":role/" + profile
	if p != nil && !p.allows("iam:PassRole", resource{arn: arn}, map[string][]string{"iam:PassedToService": {"ec2.amazonaws.com"}}) {
		return &Error{403, "UnauthorizedOperation", fmt.Sprintf("You are not authorized to perform this operation. User: %s is not authorized to perform: iam:PassRole on resource: %s because no identity-based policy allows the iam:PassRole action", c.s.caller(), arn)}
	}
	return nil
}

func (c *call) capacity(zone, size string, spot bool) *Error {
	key := zone + "/" + size
	if spot {
		key = "spot:" + key
	}
	for _, p := range c.s.o.NoCapacity {
		if globMatch(p, key) {
			if spot {
				return fail("InsufficientInstanceCapacity", "There is no Spot capacity available that matches your request.")
			}
			return &Error{500, "InsufficientInstanceCapacity", fmt.Sprintf("We currently do not have sufficient %s capacity in the Availability Zone you requested (%s).", size, zone)}
		}
	}
	running := 0
	for _, i := range c.r.instances {
		if i.terminating.IsZero() {
			running += 4
		}
	}
	if c.s.o.VCPUs > 0 && running+4 > c.s.o.VCPUs {
		return fail("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit of %d allows for the instance bucket that the specified instance type belongs to.", c.s.o.VCPUs)
	}
	return nil
}

type stateItem struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

type instanceItem struct {
	ID        string    `xml:"instanceId"`
	Image     string    `xml:"imageId"`
	State     stateItem `xml:"instanceState"`
	Type      string    `xml:"instanceType"`
	Token     string    `xml:"clientToken"`
	Launch    string    `xml:"launchTime"`
	Public    string    `xml:"ipAddress,omitempty"`
	Private   string    `xml:"privateIpAddress"`
	Subnet    string    `xml:"subnetId"`
	VPC       string    `xml:"vpcId"`
	Root      string    `xml:"rootDeviceName"`
	Arch      string    `xml:"architecture"`
	Lifecycle string    `xml:"instanceLifecycle,omitempty"`
	Placement struct {
		Zone string `xml:"availabilityZone"`
	} `xml:"placement"`
	Groups set[groupItem] `xml:"groupSet"`
	Tags   set[tagItem]   `xml:"tagSet"`
}

type groupItem struct {
	ID string `xml:"groupId"`
}

func (c *call) instanceItem(i *instance) instanceItem {
	code, name := i.state(time.Now())
	it := instanceItem{ID: i.id, Image: i.image, State: stateItem{code, name}, Type: i.size, Token: i.token, Launch: stamp(i.created),
		Private: "172.31.0.9", Subnet: i.subnet, Root: "/dev/sda1", Arch: i.arch, Tags: tagSet(i.tags)}
	it.Placement.Zone = i.zone
	if i.spot {
		it.Lifecycle = "spot"
	}
	if name == "running" {
		it.Public = i.ip
	}
	for _, g := range i.groups {
		it.Groups.Item = append(it.Groups.Item, groupItem{g})
	}
	return it
}

type reservation struct {
	ID        string            `xml:"reservationId"`
	Instances set[instanceItem] `xml:"instancesSet"`
}

func (c *call) reservation(is []*instance) reservation {
	r := reservation{ID: "r-" + is[0].id}
	for _, i := range is {
		r.Instances.Item = append(r.Instances.Item, c.instanceItem(i))
	}
	return r
}

func (r *region) instance(id string) (*instance, *Error) {
	return find(r.instances, id, "InvalidInstanceID.NotFound", "instance")
}

func describeInstances(c *call) (any, *Error) {
	ids, filters := c.f.list("InstanceId"), c.f.filters("tag-key", "instance-state-name", "client-token", "image-id")
	var all []reservation
	var missing *Error
	for _, id := range ids {
		if _, err := c.r.instance(id); err != nil && missing == nil {
			missing = err
		}
	}
	for _, i := range list(c.r.instances) {
		_, state := i.state(time.Now())
		if match(filters, i.tags, map[string]string{"instance-state-name": state, "client-token": i.token, "image-id": i.image}) && (len(ids) == 0 || slices.Contains(ids, i.id)) {
			all = append(all, c.reservation([]*instance{i}))
		}
	}
	part, next := all, ""
	var perr *Error
	if len(ids) == 0 { // by id everything comes at once
		part, next, perr = page(c, all)
	}
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if missing != nil {
		return nil, missing
	}
	return struct {
		Set  set[reservation] `xml:"reservationSet"`
		Next string           `xml:"nextToken,omitempty"`
	}{set[reservation]{part}, next}, perr
}

type changeItem struct {
	ID      string    `xml:"instanceId"`
	Current stateItem `xml:"currentState"`
}

// change brings instances towards a state.
func (c *call) change(act func(i *instance, state string) *Error) (any, *Error) {
	ids := c.f.list("InstanceId")
	var is []*instance
	var on []resource
	var missing *Error
	for _, id := range ids {
		i, err := c.r.instance(id)
		if err != nil {
			missing = err
			on = append(on, resource{arn: c.arn("instance", id)})
			continue
		}
		is, on = append(is, i), append(on, c.res("instance", &i.meta))
	}
	if err := c.begin(on...); err != nil {
		return nil, err
	}
	if missing != nil {
		return nil, missing
	}
	var out struct {
		Set set[changeItem] `xml:"instancesSet"`
	}
	for _, i := range is {
		_, state := i.state(time.Now())
		if err := act(i, state); err != nil {
			return nil, err
		}
		code, name := i.state(time.Now())
		if name == "terminated" && c.Action == "TerminateInstances" && state != "terminated" {
			code, name = 32, "shutting-down" // the real one never answers at once
		}
		out.Set.Item = append(out.Set.Item, changeItem{i.id, stateItem{code, name}})
	}
	return out, nil
}

func stopInstances(c *call) (any, *Error) {
	c.f.of("Force", "true", "false")
	return c.change(func(i *instance, state string) *Error {
		switch {
		case state == "stopping" || state == "stopped":
			return nil
		case i.spot:
			return fail("UnsupportedOperation", "You can't stop the Spot Instance '%s' because it is associated with a one-time Spot Instance request.", i.id)
		case state != "running":
			return fail("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be stopped.", i.id)
		}
		return c.s.stopInstance(i)
	})
}

func terminateInstances(c *call) (any, *Error) {
	return c.change(func(i *instance, _ string) *Error { return c.s.endInstance(i) })
}

func modifyInstance(c *call) (any, *Error) {
	id, groups := c.f.need("InstanceId"), c.f.list("GroupId")
	i, ferr := c.r.instance(id)
	on := []resource{{arn: c.arn("instance", id)}}
	if i != nil {
		on[0].tags = i.tags
	}
	if err := c.begin(on...); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	for _, g := range groups {
		if _, err := c.r.group(g); err != nil {
			return nil, err
		}
	}
	if _, state := i.state(time.Now()); state != "running" && state != "stopped" {
		return nil, fail("IncorrectInstanceState", "The instance '%s' is not in the 'running' or 'stopped' state.", id)
	}
	i.groups = groups
	return done{true}, nil
}

func consoleOutput(c *call) (any, *Error) {
	id := c.f.need("InstanceId")
	c.f.of("Latest", "true", "false")
	i, ferr := c.r.instance(id)
	on := resource{arn: c.arn("instance", id)}
	if i != nil {
		on.tags = i.tags
	}
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	text := ""
	if m := c.s.o.Machines; m != nil {
		text = m.Console(id)
	}
	return struct {
		ID     string `xml:"instanceId"`
		Time   string `xml:"timestamp"`
		Output string `xml:"output"`
	}{id, stamp(time.Now()), base64.StdEncoding.EncodeToString([]byte(text))}, nil
}
