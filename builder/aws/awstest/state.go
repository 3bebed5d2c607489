package awstest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// meta is what every resource has.
type meta struct {
	id      string
	tags    map[string]string
	created time.Time
	visible time.Time // until then no other call knows the id
}

func (m *meta) base() *meta { return m }

type hasMeta interface{ base() *meta }

func (s *Server) newMeta(kind string, tags map[string]string) meta {
	s.nextID++
	now := time.Now()
	if tags == nil {
		tags = map[string]string{}
	}
	return meta{fmt.Sprintf("%s-%017x", kind, s.nextID), maps.Clone(tags), now, now.Add(s.o.Consistency)}
}

// region is what the account has in one region.
type region struct {
	s    *Server
	name string

	subnets   []subnet
	groups    map[string]*group
	instances map[string]*instance
	volumes   map[string]*volume
	images    map[string]*image
	snapshots map[string]*snapshot
	templates map[string]*template
	scalings  map[string]*scaling
	load      map[string][]Sample  // of metrics, by namespace, name and dimension
	ending    map[string]*instance // that terminate
	params    map[string]string
	refs      map[string][]Reference // of images, beside instances
	tokens    map[string]string      // ClientToken -> id
}

type subnet struct {
	id, zone, vpc string
	isDefault     bool
	public        bool // its route table leads to an internet gateway
}

type group struct {
	meta
	name, vpc, desc string
	ingress         []string // "tcp 22 22 CIDR"
}

type instance struct {
	meta
	image, size, subnet, zone, ip, profile, token, arch, shutdown string
	groups                                                        []string
	volumes                                                       []string
	userData                                                      string
	spot                                                          bool
	running, stopping, stopped, terminating, terminated           time.Time // zero: not asked for
	metadataTags, tokensRequired                                  bool
	volumeRate                                                    int
}

func (i *instance) state(now time.Time) (int, string) {
	switch {
	case !i.terminating.IsZero() && now.Before(i.terminated):
		return 32, "shutting-down"
	case !i.terminating.IsZero():
		return 48, "terminated"
	case !i.stopping.IsZero() && now.Before(i.stopped):
		return 64, "stopping"
	case !i.stopping.IsZero():
		return 80, "stopped"
	case now.Before(i.running):
		return 0, "pending"
	}
	return 16, "running"
}

type volume struct {
	meta
	instance, device    string
	size                int
	deleteOnTermination bool
	encrypted           bool
}

type image struct {
	meta
	name, desc, owner, arch, root, imds, bootMode string
	ready                                         time.Time
	fail                                          string // why it becomes failed instead of available
	snapshots                                     []string
	size                                          int
	encrypted                                     bool
	deprecated                                    string
	protected                                     bool
	shared                                        []string
	platform                                      string
}

func (i *image) state(now time.Time) string {
	switch {
	case now.Before(i.ready):
		return "pending"
	case i.fail != "":
		return "failed"
	}
	return "available"
}

type snapshot struct {
	meta
	size      int // GiB
	desc      string
	encrypted bool
	ready     time.Time
	fail      string
	shared    []string
	blocks    *blocks // written through EBS direct; nil otherwise
}

func (s *snapshot) state(now time.Time) string {
	switch {
	case s.blocks != nil && !s.blocks.sealed, now.Before(s.ready):
		return "pending"
	case s.fail != "":
		return "error"
	}
	return "completed"
}

// Reference is something that uses an image, beside instances.
type Reference struct{ Type, ARN string }

func (s *Server) newRegion(name string) *region {
	r := &region{s: s, name: name, groups: map[string]*group{}, instances: map[string]*instance{}, volumes: map[string]*volume{},
		images: map[string]*image{}, snapshots: map[string]*snapshot{}, templates: map[string]*template{}, scalings: map[string]*scaling{},
		load: map[string][]Sample{}, ending: map[string]*instance{}, params: map[string]string{}, refs: map[string][]Reference{}, tokens: map[string]string{}}
	if !s.o.NoDefaultVPC {
		for _, z := range "abc" {
			r.subnets = append(r.subnets, subnet{fmt.Sprintf("subnet-%s%c", name, z), fmt.Sprintf("%s%c", name, z), "vpc-" + name, true, true})
		}
		r.addDefaultGroup("vpc-" + name)
	}
	return r
}

// addDefaultGroup gives a network the security group that every one has.
func (r *region) addDefaultGroup(vpc string) {
	g := &group{meta: r.s.newMeta("sg", nil), name: defaultGroup, vpc: vpc}
	g.visible = time.Time{}
	r.groups[g.id] = g
}

const defaultGroup = "default"

// settle lets time pass: machines have ended, and what terminated gives up its volumes.
func (r *region) settle() {
	now := time.Now()
	disks, real := r.s.o.Machines.(Disks)
	for _, i := range r.instances {
		if !real {
			break
		}
		if _, state := i.state(now); (state == "running" || state == "stopping") && disks.Off(i.id) {
			i.stopping, i.stopped = now, now
			if state == "running" && i.shutdown == "terminate" {
				_ = r.s.endInstance(i) // which only Stop makes fail
			}
		}
	}
	for id, i := range r.ending {
		if _, state := i.state(now); state == "terminated" {
			delete(r.ending, id)
			for _, v := range i.volumes {
				if vol := r.volumes[v]; vol != nil && vol.deleteOnTermination {
					delete(r.volumes, v)
				}
			}
			i.groups = nil
		}
	}
}

// find gives a resource whose id is known by now.
func find[T hasMeta](m map[string]T, id, code, what string) (T, *Error) {
	v, ok := m[id]
	if !ok || time.Now().Before(v.base().visible) {
		var none T
		return none, fail(code, "The %s ID '%s' does not exist", what, id)
	}
	return v, nil
}

// list gives what is known by now, in the order of ids.
func list[T hasMeta](m map[string]T) []T {
	var out []T
	for _, id := range slices.Sorted(maps.Keys(m)) {
		if !time.Now().Before(m[id].base().visible) {
			out = append(out, m[id])
		}
	}
	return out
}

// AddBaseImage puts an image of somebody else's into a region and gives its id.
func (s *Server) AddBaseImage(regionName, owner, name, arch string, created time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.regions[regionName]
	i := &image{meta: s.newMeta("ami", nil), name: name, owner: owner, arch: arch, root: "/dev/sda1", size: 8, bootMode: "uefi-preferred", platform: "Linux/UNIX"}
	i.created, i.visible, i.ready = created, created, created
	snap := &snapshot{meta: s.newMeta("snap", nil), size: 8}
	snap.visible = created
	i.snapshots = []string{snap.id}
	r.images[i.id] = i // the snapshot stays its owner's
	return i.id
}

// AddOwnImage puts an image of the account's into a region and gives its id.
func (s *Server) AddOwnImage(regionName, name, arch string, created time.Time, tags map[string]string) string {
	id := s.AddBaseImage(regionName, s.o.Account, name, arch, created)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regions[regionName].images[id].tags = maps.Clone(tags)
	return id
}

// AddSubnet puts a subnet that is nobody's default into a region.
func (s *Server) AddSubnet(regionName, id, zone string, public bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.regions[regionName]
	if !slices.ContainsFunc(r.subnets, func(s subnet) bool { return s.vpc == "vpc-own" }) {
		r.addDefaultGroup("vpc-own")
	}
	r.subnets = append(r.subnets, subnet{id, zone, "vpc-own", false, public})
}

// RemoveNetworks leaves every region without a network.
func (s *Server) RemoveNetworks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.regions {
		r.subnets = nil
	}
}

// Untag takes every tag off an image.
func (s *Server) Untag(regionName, imageID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.regions[regionName].images[imageID].tags)
}

// Refer makes something use an image, as DescribeImageReferences tells.
func (s *Server) Refer(regionName, imageID string, ref Reference) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.regions[regionName].refs[imageID] = append(s.regions[regionName].refs[imageID], ref)
}

// Parameter reads what the SSM parameter holds.
func (s *Server) Parameter(regionName, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.regions[regionName].params[name]
}

// Image is one of the account's own images, for tests.
type Image struct {
	Region, ID, Name, State, Imds, Deprecated string
	Tags                                      map[string]string
	Shared                                    []string
	Snapshots                                 []string
	Encrypted, Protected                      bool
}

// Images lists the account's own images, visible or not.
func (s *Server) Images() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Image
	for _, name := range slices.Sorted(maps.Keys(s.regions)) {
		r := s.regions[name]
		for _, id := range slices.Sorted(maps.Keys(r.images)) {
			if i := r.images[id]; i.owner == s.o.Account {
				out = append(out, Image{name, id, i.name, i.state(time.Now()), i.imds, i.deprecated, maps.Clone(i.tags), i.shared, i.snapshots, i.encrypted, i.protected})
			}
		}
	}
	return out
}

// Left lists everything that costs money or is in the way: running machines, disks, groups, images and snapshots of
// the account, as "REGION ID (what)".
func (s *Server) Left() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(s.regions)) {
		r := s.regions[name]
		r.settle()
		say := func(m *meta, what string) { out = append(out, fmt.Sprintf("%s %s (%s)", name, m.id, what)) }
		for _, i := range r.instances {
			if _, st := i.state(now); st != "terminated" && st != "shutting-down" {
				say(&i.meta, "instance "+st)
			}
		}
		for _, v := range r.volumes {
			if i := r.instances[v.instance]; i == nil || i.terminating.IsZero() || !v.deleteOnTermination {
				say(&v.meta, "volume of "+v.instance)
			}
		}
		for _, g := range r.groups {
			if g.name == defaultGroup {
				continue
			}
			say(&g.meta, "security group")
		}
		for _, i := range r.images {
			if i.owner == s.o.Account {
				say(&i.meta, "image")
			}
		}
		for _, sn := range r.snapshots {
			say(&sn.meta, "snapshot")
		}
		for _, t := range r.templates {
			say(&t.meta, "launch template")
		}
		for _, g := range r.scalings {
			out = append(out, fmt.Sprintf("%s %s (auto scaling group)", name, g.name))
		}
	}
	for name, r := range s.roles {
		if !r.open { // somebody else's are
			out = append(out, name+" (role)")
		}
	}
	for name, p := range s.profiles {
		if r := s.roles[p.role]; r == nil || !r.open {
			out = append(out, name+" (instance profile)")
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}

// UserData is what the newest instance was given, decoded.
func (s *Server) UserData() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var newest *instance
	for _, r := range s.regions {
		for _, i := range r.instances {
			if newest == nil || i.id > newest.id {
				newest = i
			}
		}
	}
	if newest == nil {
		return ""
	}
	return newest.userData
}
