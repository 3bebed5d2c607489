package awstest

import (
	"path/filepath"
	"slices"
	"time"
)

func (r *region) image(id string) (*image, *Error) {
	return find(r.images, id, "InvalidAMIID.NotFound", "image")
}

func (r *region) snapshot(id string) (*snapshot, *Error) {
	return find(r.snapshots, id, "InvalidSnapshot.NotFound", "snapshot")
}

// own is image, of the account's own only.
func (c *call) own(id string) (*image, resource, *Error) {
	i, err := c.r.image(id)
	on := resource{arn: c.arn("image", id)}
	switch {
	case err != nil:
		return nil, on, err
	case i.owner != c.s.o.Account:
		return nil, on, &Error{403, "AuthFailure", "Not authorized for image:" + id}
	}
	on.tags = i.tags
	return i, on, nil
}

type ebsItem struct {
	Snapshot  string `xml:"snapshotId,omitempty"`
	Size      int    `xml:"volumeSize"`
	Encrypted bool   `xml:"encrypted"`
	Type      string `xml:"volumeType"`
	Delete    bool   `xml:"deleteOnTermination"`
}

type mappingItem struct {
	Device string  `xml:"deviceName"`
	Ebs    ebsItem `xml:"ebs"`
}

type imageItem struct {
	ID         string           `xml:"imageId"`
	Name       string           `xml:"name"`
	Desc       string           `xml:"description"`
	State      string           `xml:"imageState"`
	Owner      string           `xml:"imageOwnerId"`
	Arch       string           `xml:"architecture"`
	Created    string           `xml:"creationDate"`
	Root       string           `xml:"rootDeviceName"`
	RootType   string           `xml:"rootDeviceType"`
	Virt       string           `xml:"virtualizationType"`
	Ena        bool             `xml:"enaSupport"`
	BootMode   string           `xml:"bootMode,omitempty"`
	Imds       string           `xml:"imdsSupport,omitempty"`
	Platform   string           `xml:"platformDetails"`
	Deprecated string           `xml:"deprecationTime,omitempty"`
	Protection string           `xml:"deregistrationProtection"`
	Public     bool             `xml:"isPublic"`
	Mapping    set[mappingItem] `xml:"blockDeviceMapping"`
	Tags       set[tagItem]     `xml:"tagSet"`
	Reason     *struct {
		Code    string `xml:"code"`
		Message string `xml:"message"`
	} `xml:"stateReason,omitempty"`
}

func describeImages(c *call) (any, *Error) {
	f := c.f
	ids, owners := f.list("ImageId"), f.list("Owner")
	filters := f.filters("name", "state", "architecture", "root-device-type", "virtualization-type", "image-id", "tag-key", "owner-id", "is-public")
	f.yes("IncludeDeprecated")
	f.yes("IncludeDisabled")
	now := time.Now()
	var all []imageItem
	for _, i := range list(c.r.images) {
		owned := i.owner == c.s.o.Account
		is := map[string]string{"name": i.name, "state": i.state(now), "architecture": i.arch, "root-device-type": "ebs", "virtualization-type": "hvm", "image-id": i.id, "owner-id": i.owner, "is-public": yesNo(!owned)}
		if (len(ids) > 0 && !slices.Contains(ids, i.id)) || !match(filters, i.tags, is) ||
			(len(owners) > 0 && !slices.Contains(owners, i.owner) && (!owned || !slices.Contains(owners, "self"))) {
			continue
		}
		it := imageItem{ID: i.id, Name: i.name, Desc: i.desc, State: is["state"], Owner: i.owner, Arch: i.arch, Created: stamp(i.created), Root: i.root,
			RootType: "ebs", Virt: "hvm", Ena: true, BootMode: i.bootMode, Imds: i.imds, Platform: i.platform, Deprecated: i.deprecated, Protection: "disabled", Public: !owned, Tags: tagSet(i.tags)}
		if i.protected {
			it.Protection = "enabled-without-cooldown"
		}
		if it.State != "pending" { // before that the snapshots are not told
			for _, sn := range i.snapshots {
				it.Mapping.Item = append(it.Mapping.Item, mappingItem{i.root, ebsItem{sn, i.size, i.encrypted, "gp3", true}})
			}
		}
		if it.State == "failed" {
			it.Reason = &struct {
				Code    string `xml:"code"`
				Message string `xml:"message"`
			}{"Client.InternalError", i.fail}
		}
		all = append(all, it)
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if len(all) < len(ids) {
		return nil, fail("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", ids[0])
	}
	return struct {
		Set  set[imageItem] `xml:"imagesSet"`
		Next string         `xml:"nextToken,omitempty"`
	}{set[imageItem]{part}, next}, perr
}

// addImage makes an image of the account's with one snapshot, which it shares its fate with.
func (c *call) addImage(i *image, tags map[string]string, snapTags map[string]string, takes time.Duration, why string) *Error {
	own := 0
	for _, have := range c.r.images {
		if have.owner != c.s.o.Account {
			continue
		}
		own++
		if have.name == i.name {
			return fail("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", i.name, have.id)
		}
	}
	if c.s.o.ImageQuota > 0 && own >= c.s.o.ImageQuota {
		return fail("AMIQuotaExceeded", "You have reached your quota of %d AMIs in this Region.", c.s.o.ImageQuota)
	}
	i.meta = c.s.newMeta("ami", tags)
	i.owner, i.ready, i.fail = c.s.o.Account, time.Now().Add(takes), why
	if i.snapshots == nil {
		sn := &snapshot{meta: c.s.newMeta("snap", snapTags), size: i.size, ready: i.ready, fail: why, encrypted: i.encrypted, desc: "Created for " + i.id}
		c.r.snapshots[sn.id] = sn
		i.snapshots = []string{sn.id}
	}
	c.r.images[i.id] = i
	return nil
}

type imageID struct {
	ID string `xml:"imageId"`
}

func createImage(c *call) (any, *Error) {
	id, name := c.f.need("InstanceId"), c.f.need("Name")
	desc := c.f.str("Description")
	c.f.of("NoReboot", "true", "false")
	tags := c.f.tags("image", "snapshot")
	i, ferr := c.r.instance(id)
	on := resource{arn: c.arn("instance", id)}
	if i != nil {
		on.tags = i.tags
	}
	if err := c.begin(on, c.fresh("image", tags["image"]), c.fresh("snapshot", tags["snapshot"])); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	if _, state := i.state(time.Now()); state != "stopped" && state != "running" {
		return nil, fail("IncorrectInstanceState", "Instance '%s' is not 'running' or 'stopped'.", id)
	}
	img := &image{name: name, desc: desc, arch: i.arch, root: "/dev/sda1", size: 50, bootMode: "uefi-preferred", platform: "Linux/UNIX"}
	for _, v := range i.volumes {
		img.encrypted, img.size = c.r.volumes[v].encrypted, c.r.volumes[v].size
	}
	takes := c.s.o.Delays.Image
	disks, real := c.s.o.Machines.(Disks)
	if real {
		takes = forever // until its disk is there
	}
	if err := c.addImage(img, tags["image"], tags["snapshot"], takes, c.s.o.SnapshotError); err != nil {
		return nil, err
	}
	if real {
		go c.s.capture(disks, id, img, c.r.snapshots[img.snapshots[0]])
	}
	return imageID{img.id}, nil
}

// capture writes the disk of a machine that is off, or has just been asked to, into the snapshot of an image.
func (s *Server) capture(disks Disks, instanceID string, img *image, sn *snapshot) {
	file := filepath.Join(s.o.Dir, sn.id)
	err := disks.Disk(instanceID, file)
	var b *blocks
	if err == nil {
		b, err = takeBlocks(file)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	img.ready = time.Now()
	sn.ready, sn.blocks = img.ready, b
	if err != nil {
		img.fail, sn.fail = err.Error(), err.Error()
	}
}

func copyImage(c *call) (any, *Error) {
	f := c.f
	id, from, name := f.need("SourceImageId"), f.need("SourceRegion"), f.need("Name")
	desc, token, encrypted := f.str("Description"), f.str("ClientToken"), f.yes("Encrypted")
	f.str("KmsKeyId")
	tags := f.tags("image", "snapshot")
	if err := c.begin(c.fresh("image", tags["image"]), c.fresh("snapshot", tags["snapshot"])); err != nil {
		return nil, err
	}
	src := c.s.regions[from]
	if src == nil {
		return nil, fail("InvalidParameterValue", "Invalid region: %s", from)
	}
	i, err := src.image(id)
	if err != nil || i.state(time.Now()) != "available" {
		return nil, fail("InvalidRequest", "The storage for the ami is not available in the source Region.")
	}
	if have := c.r.tokens["copy/"+token]; token != "" && have != "" {
		return imageID{have}, nil
	}
	dup := *i
	dup.snapshots, dup.name, dup.desc, dup.encrypted = nil, name, desc, i.encrypted || encrypted
	dup.deprecated, dup.shared, dup.protected = "", nil, false // which a copy does not inherit
	if err := c.addImage(&dup, tags["image"], tags["snapshot"], c.s.o.Delays.Copy, c.s.o.CopyError[c.Region]); err != nil {
		return nil, err
	}
	if from := src.snapshots[i.snapshots[0]]; from != nil && from.blocks != nil {
		b, err := from.blocks.share()
		if err != nil {
			return nil, fail("InternalError", "%v", err)
		}
		c.r.snapshots[dup.snapshots[0]].blocks = b
	}
	if token != "" {
		c.r.tokens["copy/"+token] = dup.id
	}
	return imageID{dup.id}, nil
}

func registerImage(c *call) (any, *Error) {
	f := c.f
	img := &image{name: f.need("Name"), desc: f.str("Description"), arch: f.of("Architecture", "x86_64", "arm64"), root: f.need("RootDeviceName"),
		imds: f.of("ImdsSupport", "v2.0"), bootMode: f.of("BootMode", "uefi", "legacy-bios", "uefi-preferred"), platform: "Linux/UNIX"}
	f.of("VirtualizationType", "hvm")
	if f.of("EnaSupport", "true") == "" {
		return nil, fail("InvalidParameterCombination", "current machine types need EnaSupport")
	}
	tags := f.tags("image")
	on := []resource{c.fresh("image", tags["image"])}
	var refused *Error
	for _, d := range c.disks() {
		sn, err := c.r.snapshot(d.snapshot)
		switch {
		case err != nil:
			refused = err
		case sn.state(time.Now()) != "completed":
			refused = fail("InvalidSnapshot.NotCompleted", "Snapshot %s is not completed", sn.id)
		default:
			on = append(on, c.res("snapshot", &sn.meta))
			img.snapshots, img.size, img.encrypted = append(img.snapshots, sn.id), max(sn.size, d.size), sn.encrypted
		}
	}
	if err := c.begin(on...); err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, refused
	}
	if err := c.addImage(img, tags["image"], nil, 0, ""); err != nil {
		return nil, err
	}
	return imageID{img.id}, nil
}

func (r *region) inUse(snapshotID string, but *image) bool {
	for _, i := range r.images {
		if i != but && slices.Contains(i.snapshots, snapshotID) {
			return true
		}
	}
	return false
}

func deregisterImage(c *call) (any, *Error) {
	id, snapshots := c.f.need("ImageId"), c.f.yes("DeleteAssociatedSnapshots")
	i, on, ferr := c.own(id)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	if i.protected {
		return nil, fail("OperationNotPermitted", "The AMI %s is protected from deregistration.", id)
	}
	type result struct {
		ID   string `xml:"snapshotId"`
		Code string `xml:"returnCode"`
	}
	var out struct {
		Return bool        `xml:"return"`
		Set    set[result] `xml:"deleteSnapshotResultSet"`
	}
	out.Return = true
	pending := i.state(time.Now()) == "pending"
	delete(c.r.images, id)
	if snapshots && !c.s.o.Lesser.KeepsSnapshots {
		for _, sn := range i.snapshots {
			code := "success"
			switch {
			case pending || c.r.snapshots[sn] == nil: // the image did not know its snapshots yet
				continue
			case c.r.inUse(sn, i):
				code = "skipped"
			case c.permit("DeleteSnapshot", nil, c.res("snapshot", &c.r.snapshots[sn].meta)) != nil:
				code = "missing-permissions"
			default:
				delete(c.r.snapshots, sn)
			}
			out.Set.Item = append(out.Set.Item, result{sn, code})
		}
	}
	return out, nil
}

func modifyImage(c *call) (any, *Error) {
	id := c.f.need("ImageId")
	imds := c.f.of("ImdsSupport.Value", "v2.0")
	var share []string
	for _, p := range c.f.groups("LaunchPermission.Add") {
		share = append(share, c.f.str(p+"UserId")+c.f.str(p+"OrganizationArn")+c.f.str(p+"OrganizationalUnitArn"))
	}
	i, on, ferr := c.own(id)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	if imds == "" && share == nil || imds != "" && share != nil {
		return nil, fail("InvalidParameterCombination", "Exactly one attribute must be modified")
	}
	if imds != "" {
		i.imds = imds
	}
	i.shared = append(i.shared, share...)
	return done{true}, nil
}

// onImage is a call that changes one of the account's images.
func onImage(c *call, change func(*image)) (any, *Error) {
	i, on, ferr := c.own(c.f.need("ImageId"))
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	change(i)
	return done{true}, nil
}

func deprecateImage(c *call) (any, *Error) {
	at := c.f.need("DeprecateAt")
	return onImage(c, func(i *image) { i.deprecated = at })
}

func protectImage(c *call) (any, *Error) {
	c.f.of("WithCooldown", "true", "false")
	return onImage(c, func(i *image) { i.protected = true })
}

func unprotectImage(c *call) (any, *Error) {
	return onImage(c, func(i *image) { i.protected = false })
}

func describeReferences(c *call) (any, *Error) {
	ids := c.f.list("ImageId")
	if !c.f.yes("IncludeAllResourceTypes") && c.f.err == nil {
		c.f.err = fail("MissingParameter", "IncludeAllResourceTypes or ResourceType is required")
	}
	type item struct {
		ID   string `xml:"imageId"`
		Type string `xml:"resourceType"`
		ARN  string `xml:"arn"`
	}
	var all []item
	for _, id := range ids {
		for _, i := range list(c.r.instances) {
			if _, state := i.state(time.Now()); i.image == id && state != "terminated" {
				all = append(all, item{id, "ec2:Instance", c.arn("instance", i.id)})
			}
		}
		for name, v := range c.r.params {
			if v == id {
				all = append(all, item{id, "ssm:Parameter", "arn:aws:ssm:" + c.Region + ":" + c.s.o.Account + ":parameter" + name})
			}
		}
		for _, ref := range c.r.refs[id] {
			all = append(all, item{id, ref.Type, ref.ARN})
		}
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	return struct {
		Set  set[item] `xml:"imageReferenceSet"`
		Next string    `xml:"nextToken,omitempty"`
	}{set[item]{part}, next}, perr
}

func describeSnapshots(c *call) (any, *Error) {
	ids, owners, filters := c.f.list("SnapshotId"), c.f.list("Owner"), c.f.filters("tag-key", "status", "description")
	type item struct {
		ID        string       `xml:"snapshotId"`
		Status    string       `xml:"status"`
		Message   string       `xml:"statusMessage,omitempty"`
		Progress  string       `xml:"progress"`
		Size      int          `xml:"volumeSize"`
		Encrypted bool         `xml:"encrypted"`
		Start     string       `xml:"startTime"`
		Desc      string       `xml:"description"`
		Tags      set[tagItem] `xml:"tagSet"`
	}
	var all []item
	for _, sn := range list(c.r.snapshots) {
		state := sn.state(time.Now())
		if match(filters, sn.tags, map[string]string{"status": state, "description": sn.desc}) && (len(ids) == 0 || slices.Contains(ids, sn.id)) {
			all = append(all, item{sn.id, state, sn.fail, "50%", sn.size, sn.encrypted, stamp(sn.created), sn.desc, tagSet(sn.tags)})
		}
	}
	part, next, perr := page(c, all)
	if err := c.begin(anything); err != nil {
		return nil, err
	}
	if len(ids) == 0 && !slices.Equal(owners, []string{"self"}) {
		return nil, fail("InvalidParameterValue", "listing everybody's snapshots is never what is meant: say Owner=self")
	}
	if len(all) < len(ids) {
		return nil, fail("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", ids[0])
	}
	return struct {
		Set  set[item] `xml:"snapshotSet"`
		Next string    `xml:"nextToken,omitempty"`
	}{set[item]{part}, next}, perr
}

func deleteSnapshot(c *call) (any, *Error) {
	id := c.f.need("SnapshotId")
	sn, ferr := c.r.snapshot(id)
	on := resource{arn: c.arn("snapshot", id)}
	if sn != nil {
		on.tags = sn.tags
	}
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	if c.r.inUse(id, nil) {
		return nil, fail("InvalidSnapshot.InUse", "The snapshot %s is currently in use by an AMI", id)
	}
	if sn.blocks != nil {
		sn.blocks.close()
	}
	delete(c.r.snapshots, id)
	return done{true}, nil
}

func modifySnapshot(c *call) (any, *Error) {
	id := c.f.need("SnapshotId")
	c.f.of("Attribute", "createVolumePermission")
	var share []string
	for _, p := range c.f.groups("CreateVolumePermission.Add") {
		share = append(share, c.f.str(p+"UserId"))
	}
	sn, ferr := c.r.snapshot(id)
	on := resource{arn: c.arn("snapshot", id)}
	if sn != nil {
		on.tags = sn.tags
	}
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	sn.shared = append(sn.shared, share...)
	return done{true}, nil
}

// tagged finds anything that carries tags.
func (r *region) tagged(id string) (kind string, m *meta) {
	if v, err := r.image(id); err == nil {
		return "image", &v.meta
	}
	if v, err := r.snapshot(id); err == nil {
		return "snapshot", &v.meta
	}
	if v, err := r.instance(id); err == nil {
		return "instance", &v.meta
	}
	if v, err := r.group(id); err == nil {
		return "security-group", &v.meta
	}
	return "", nil
}

func tagCall(c *call, set func(have, want map[string]string)) (any, *Error) {
	ids, want := c.f.list("ResourceId"), c.f.tagList("Tag")
	var on []resource
	var found []*meta
	var missing *Error
	for _, id := range ids {
		kind, m := c.r.tagged(id)
		if m == nil {
			missing = fail("InvalidID", "The ID '%s' is not valid", id)
			on = append(on, anything)
			continue
		}
		found = append(found, m)
		r := c.res(kind, m)
		r.newTags = want
		on = append(on, r)
	}
	if err := c.begin(on...); err != nil {
		return nil, err
	}
	if missing != nil {
		return nil, missing
	}
	for _, m := range found {
		set(m.tags, want)
	}
	return done{true}, nil
}

func createTags(c *call) (any, *Error) {
	return tagCall(c, func(have, want map[string]string) {
		for k, v := range want {
			have[k] = v
		}
	})
}

func deleteTags(c *call) (any, *Error) {
	return tagCall(c, func(have, want map[string]string) {
		for k := range want {
			delete(have, k)
		}
	})
}
