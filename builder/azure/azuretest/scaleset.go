package azuretest

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	compute "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7/fake"
)

const (
	setKind = "microsoft.compute/virtualmachinescalesets"
	vmKind  = "microsoft.compute/virtualmachines"
)

// scaleSet is what is going on in a scale set of orchestration mode Flexible.
type scaleSet struct {
	made       int
	customData string // never given out again
	model      int    // counts the changes of what machines are made of
	roll       *roll
	deleting   bool
}

// roll is a rolling upgrade with surge: new machines come, and old ones go when those are healthy.
type roll struct {
	code     armcompute.RollingUpgradeStatusCode
	started  time.Time
	batch    []string // of the new machines under way
	next     time.Time
	done     int
	failed   int
	trouble  string
	policy   *armcompute.RollingUpgradePolicy
	deadline time.Time // for the batch to be healthy
}

// member is a machine of a scale set.
type member struct {
	set   string // lower-case id
	model int
	up    time.Time // when it has booted
	leave time.Time // when it is ended whatever it does; zero unless it is to go
	asked bool      // it was asked to go
}

// Killed are the machines of scale sets that were ended before they approved.
func (s *Server) Killed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.killed)
}

// Machines are those of a scale set that are not on their way out, by name.
func (s *Server) Machines(set string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	var out []string
	for _, vm := range s.members(set, false) {
		out = append(out, at(vm.body, "name"))
	}
	return out
}

// members are the machines of a set, oldest first; those that are to go too, where wanted. The caller holds the lock.
func (s *Server) members(set string, leaving bool) []*resource {
	var out []*resource
	for _, vm := range s.all(vmKind, "") {
		if vm.member != nil && vm.member.set == strings.ToLower(set) && (leaving || !vm.member.asked) {
			out = append(out, vm)
		}
	}
	slices.SortFunc(out, func(a, b *resource) int {
		return cmp.Or(cmp.Compare(len(a.id), len(b.id)), cmp.Compare(a.id, b.id))
	})
	return out
}

func (s *Server) scaleSets(f *compute.ServerFactory) {
	id := func(rg, name string) string { return rid(rg, computeNS, "virtualMachineScaleSets", name) }
	sets := &f.VirtualMachineScaleSetsServer
	sets.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armcompute.VirtualMachineScaleSet, _ *armcompute.VirtualMachineScaleSetsClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armcompute.VirtualMachineScaleSetsClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := s.putSet(ctx, id(rg, name), in)
		return accepted(armcompute.VirtualMachineScaleSetsClientCreateOrUpdateResponse{VirtualMachineScaleSet: v}, e)
	}
	sets.BeginUpdate = func(ctx context.Context, rg, name string, in armcompute.VirtualMachineScaleSetUpdate, _ *armcompute.VirtualMachineScaleSetsClientBeginUpdateOptions) (azfake.PollerResponder[armcompute.VirtualMachineScaleSetsClientUpdateResponse], azfake.ErrorResponder) {
		v, e := s.patchSet(ctx, id(rg, name), in)
		return accepted(armcompute.VirtualMachineScaleSetsClientUpdateResponse{VirtualMachineScaleSet: v}, e)
	}
	sets.Get = func(_ context.Context, rg, name string, _ *armcompute.VirtualMachineScaleSetsClientGetOptions) (azfake.Responder[armcompute.VirtualMachineScaleSetsClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armcompute.VirtualMachineScaleSet](s, id(rg, name))
		return answer(armcompute.VirtualMachineScaleSetsClientGetResponse{VirtualMachineScaleSet: v}, e)
	}
	sets.BeginDelete = func(ctx context.Context, rg, name string, o *armcompute.VirtualMachineScaleSetsClientBeginDeleteOptions) (azfake.PollerResponder[armcompute.VirtualMachineScaleSetsClientDeleteResponse], azfake.ErrorResponder) {
		e := s.dropSet(ctx, id(rg, name), o != nil && o.ForceDeletion != nil && *o.ForceDeletion)
		return accepted(armcompute.VirtualMachineScaleSetsClientDeleteResponse{}, e)
	}
	sets.BeginDeleteInstances = func(ctx context.Context, rg, name string, in armcompute.VirtualMachineScaleSetVMInstanceRequiredIDs, _ *armcompute.VirtualMachineScaleSetsClientBeginDeleteInstancesOptions) (azfake.PollerResponder[armcompute.VirtualMachineScaleSetsClientDeleteInstancesResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		set, e := s.find(id(rg, name))
		if e == nil {
			for _, i := range in.InstanceIDs {
				vm, missing := s.find(rid(rg, computeNS, "virtualMachines", *i))
				if missing != nil || vm.member == nil || vm.member.set != strings.ToLower(set.id) {
					e = fail(http.StatusBadRequest, "InvalidParameter", "The provided instanceId %s is not an active Virtual Machine Scale Set VM instanceId.", *i)
					break
				}
				s.ask(set, vm)
				s.setCapacity(set, s.capacity(set)-1)
			}
			if e == nil {
				s.begin(ctx, set, 0, nil)
			}
		}
		return accepted(armcompute.VirtualMachineScaleSetsClientDeleteInstancesResponse{}, e)
	}
	rolls := &f.VirtualMachineScaleSetRollingUpgradesServer
	rolls.GetLatest = func(_ context.Context, rg, name string, _ *armcompute.VirtualMachineScaleSetRollingUpgradesClientGetLatestOptions) (azfake.Responder[armcompute.VirtualMachineScaleSetRollingUpgradesClientGetLatestResponse], azfake.ErrorResponder) {
		v, e := s.latestRoll(id(rg, name))
		return answer(armcompute.VirtualMachineScaleSetRollingUpgradesClientGetLatestResponse{RollingUpgradeStatusInfo: v}, e)
	}
	rolls.BeginCancel = func(ctx context.Context, rg, name string, _ *armcompute.VirtualMachineScaleSetRollingUpgradesClientBeginCancelOptions) (azfake.PollerResponder[armcompute.VirtualMachineScaleSetRollingUpgradesClientCancelResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		set, e := s.find(id(rg, name))
		switch {
		case e != nil:
		case set.set.roll == nil || set.set.roll.code != armcompute.RollingUpgradeStatusCodeRollingForward:
			e = fail(http.StatusConflict, "OperationNotAllowed", "There is no ongoing Rolling Upgrade to cancel.")
		default:
			set.set.roll.code = armcompute.RollingUpgradeStatusCodeCancelled
			s.begin(ctx, set, 0, nil)
		}
		return accepted(armcompute.VirtualMachineScaleSetRollingUpgradesClientCancelResponse{}, e)
	}
	f.VirtualMachinesServer.NewListPager = func(rg string, o *armcompute.VirtualMachinesClientListOptions) azfake.PagerResponder[armcompute.VirtualMachinesClientListResponse] {
		var out []armcompute.VirtualMachine
		s.mu.Lock()
		for _, vm := range s.all(vmKind, groupID(rg)+"/") {
			if o != nil && o.Filter != nil {
				set, known := strings.CutPrefix(*o.Filter, "'virtualMachineScaleSet/id' eq '")
				if !known || vm.member == nil || !strings.EqualFold(strings.TrimSuffix(set, "'"), vm.member.set) {
					continue
				}
			}
			v := from[armcompute.VirtualMachine](vm.body)
			if o != nil && o.Expand != nil {
				v.Properties.InstanceView = &armcompute.VirtualMachineInstanceView{Statuses: []*armcompute.InstanceViewStatus{{Code: to.Ptr("PowerState/" + vm.power)}}}
				if h := s.health(vm); h != "" {
					v.Properties.InstanceView.VMHealth = &armcompute.VirtualMachineHealthStatus{Status: &armcompute.InstanceViewStatus{Code: to.Ptr("HealthState/" + h)}}
				}
			}
			out = append(out, v)
		}
		s.mu.Unlock()
		return paged(s, out, func(v []*armcompute.VirtualMachine) armcompute.VirtualMachinesClientListResponse {
			return armcompute.VirtualMachinesClientListResponse{VirtualMachineListResult: armcompute.VirtualMachineListResult{Value: v}}
		})
	}
}

// health is what the health extension says of a machine; nothing before it has booted.
func (s *Server) health(vm *resource) string {
	if vm.member == nil || time.Now().Before(vm.member.up) {
		return ""
	}
	if s.Health == nil {
		return "healthy"
	}
	return s.Health(at(vm.body, "name"), at(vm.body, "properties", "storageProfile", "imageReference", "id"))
}

func (s *Server) capacity(set *resource) int {
	sku, _ := set.body["sku"].(map[string]any)
	n, _ := sku["capacity"].(float64)
	return int(n)
}

func (s *Server) setCapacity(set *resource, n int) {
	set.body["sku"].(map[string]any)["capacity"] = float64(max(0, n))
}

// putSet checks what Azure checks of a new scale set.
func (s *Server) putSet(ctx context.Context, id string, in armcompute.VirtualMachineScaleSet) (out armcompute.VirtualMachineScaleSet, e *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := func(message string) *armError {
		return fail(http.StatusBadRequest, "InvalidParameter", "%s", message)
	}
	if _, exists := s.store[strings.ToLower(id)]; exists {
		return out, fail(http.StatusConflict, "PropertyChangeNotAllowed", "this server takes changes of a scale set by PATCH alone")
	}
	data := ""
	r, e := s.put(ctx, id, in, s.Delays.VM, func(r *resource) *armError {
		p := in.Properties
		switch {
		case p == nil || p.OrchestrationMode == nil || *p.OrchestrationMode != armcompute.OrchestrationModeFlexible:
			return bad("only scale sets of orchestration mode Flexible are known here")
		case p.PlatformFaultDomainCount == nil || *p.PlatformFaultDomainCount != 1 || p.SinglePlacementGroup != nil && *p.SinglePlacementGroup:
			return bad("a Flexible scale set over zones needs platformFaultDomainCount 1 and no single placement group")
		case in.SKU == nil || in.SKU.Name == nil || in.SKU.Capacity == nil:
			return bad("a scale set needs a SKU with a name and a capacity")
		case *in.SKU.Name == "Mix" && (p.SKUProfile == nil || len(p.SKUProfile.VMSizes) == 0 || len(p.SKUProfile.VMSizes) > 5):
			return bad("SKU Mix needs a skuProfile with one to five sizes")
		}
		vm := p.VirtualMachineProfile
		if vm == nil || vm.OSProfile == nil || vm.StorageProfile == nil || vm.NetworkProfile == nil {
			return bad("a scale set needs OS, storage and network profiles")
		}
		if vm.NetworkProfile.NetworkAPIVersion == nil {
			return bad("networkApiVersion is needed in orchestration mode Flexible")
		}
		for _, nic := range vm.NetworkProfile.NetworkInterfaceConfigurations {
			for _, ip := range nic.Properties.IPConfigurations {
				if _, e := s.subnetLocked(*ip.Properties.Subnet.ID); e != nil {
					return e
				}
			}
			if g := nic.Properties.NetworkSecurityGroup; g != nil {
				if e := s.linked(*g.ID, "Microsoft.Network/networkSecurityGroups/join/action"); e != nil {
					return e
				}
			}
		}
		if in.Identity != nil {
			for identity := range in.Identity.UserAssignedIdentities {
				if e := s.linked(identity, "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"); e != nil {
					return e
				}
			}
		}
		if e := s.checkProfile(r, vm.ScheduledEventsProfile, vm.ExtensionProfile, vm.StorageProfile.ImageReference, p.UpgradePolicy, p.AutomaticRepairsPolicy); e != nil {
			return e
		}
		data = str(vm.OSProfile.CustomData)
		if raw, err := base64.StdEncoding.DecodeString(data); err != nil || len(raw) > 65535 {
			return bad("customData is to be base64 of at most 65535 bytes")
		}
		if lc := vm.OSProfile.LinuxConfiguration; lc == nil || lc.SSH == nil || len(lc.SSH.PublicKeys) == 0 {
			return bad("Authentication using either SSH or by user name and password must be enabled in Linux profile.")
		}
		delete(r.body["properties"].(map[string]any)["virtualMachineProfile"].(map[string]any)["osProfile"].(map[string]any), "customData")
		return nil
	}, nil)
	if e != nil {
		return out, e
	}
	r.set = &scaleSet{}
	r.set.customData = data
	return from[armcompute.VirtualMachineScaleSet](r.body), nil
}

// checkProfile holds together what depends on each other.
func (s *Server) checkProfile(r *resource, events *armcompute.ScheduledEventsProfile, ext *armcompute.VirtualMachineScaleSetExtensionProfile, image *armcompute.ImageReference,
	upgrade *armcompute.UpgradePolicy, repairs *armcompute.AutomaticRepairsPolicy) *armError {
	if events != nil && events.TerminateNotificationProfile != nil {
		switch d := str(events.TerminateNotificationProfile.NotBeforeTimeout); d {
		case "PT5M", "PT10M", "PT15M":
		default:
			return fail(http.StatusBadRequest, "InvalidParameter", "notBeforeTimeout %s is not between PT5M and PT15M", d)
		}
	}
	healthy := false
	if ext != nil {
		for _, e := range ext.Extensions {
			healthy = healthy || str(e.Properties.Publisher) == "Microsoft.ManagedServices" && str(e.Properties.Type) == "ApplicationHealthLinux"
		}
		if upgrade != nil && upgrade.Mode != nil && *upgrade.Mode == armcompute.UpgradeModeRolling && !healthy {
			return fail(http.StatusBadRequest, "InvalidParameter", "Rolling Upgrade mode needs a health probe or the Application Health extension.")
		}
	}
	if repairs != nil && repairs.Enabled != nil && *repairs.Enabled {
		var minutes int
		if _, err := fmt.Sscanf(str(repairs.GracePeriod), "PT%dM", &minutes); err != nil || minutes < 10 || minutes > 90 {
			return fail(http.StatusBadRequest, "InvalidParameter", "gracePeriod %s is not between PT10M and PT90M", str(repairs.GracePeriod))
		}
	}
	if image != nil {
		return s.checkImage(image, r.location(), nil)
	}
	return nil
}

// patchSet changes a scale set. A change of what machines are made of, in mode Rolling, starts a rolling upgrade.
func (s *Server) patchSet(ctx context.Context, id string, in armcompute.VirtualMachineScaleSetUpdate) (out armcompute.VirtualMachineScaleSet, e *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return out, e
	}
	if r.op != nil || r.set.deleting {
		return out, fail(http.StatusConflict, "Conflict", "another operation on %s is in progress", id)
	}
	if in.SKU != nil && in.SKU.Capacity != nil && *in.SKU.Capacity < 0 {
		return out, fail(http.StatusBadRequest, "InvalidParameter", "capacity %d", *in.SKU.Capacity)
	}
	model := false
	if p := in.Properties; p != nil {
		var image *armcompute.ImageReference
		var events *armcompute.ScheduledEventsProfile
		if vm := p.VirtualMachineProfile; vm != nil {
			model, events = true, vm.ScheduledEventsProfile
			if vm.StorageProfile != nil {
				image = vm.StorageProfile.ImageReference
			}
			if vm.OSProfile != nil && vm.OSProfile.CustomData != nil {
				r.set.customData = *vm.OSProfile.CustomData
				vm.OSProfile.CustomData = nil
			}
		}
		if e := s.checkProfile(r, events, nil, image, p.UpgradePolicy, p.AutomaticRepairsPolicy); e != nil {
			return out, e
		}
	}
	body := toMap(in)
	if tags, ok := body["tags"]; ok {
		r.body["tags"] = tags
		delete(body, "tags")
	}
	merge(r.body, body)
	if model {
		r.set.model++
		now := from[armcompute.VirtualMachineScaleSet](r.body)
		u := now.Properties.UpgradePolicy
		if u != nil && u.Mode != nil && *u.Mode == armcompute.UpgradeModeRolling && len(s.members(id, false)) > 0 {
			r.set.roll = &roll{code: armcompute.RollingUpgradeStatusCodeRollingForward, started: time.Now(), policy: u.RollingUpgradePolicy}
		}
	}
	r.setState("Updating")
	s.begin(ctx, r, s.Delays.Network, nil)
	return from[armcompute.VirtualMachineScaleSet](r.body), nil
}

// dropSet has every machine of a set end, and then the set.
func (s *Server) dropSet(ctx context.Context, id string, force bool) *armError {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return e
	}
	r.set.deleting = true
	s.setCapacity(r, 0)
	for _, vm := range s.members(id, true) {
		if force {
			s.end(vm)
		} else {
			s.ask(r, vm)
		}
	}
	r.setState("Deleting")
	s.begin(ctx, r, s.Delays.Delete, func() { s.remove(r.id) })
	r.op.ready = func() bool { return len(s.members(id, true)) == 0 }
	return nil
}

func (s *Server) latestRoll(id string) (out armcompute.RollingUpgradeStatusInfo, e *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return out, e
	}
	u := r.set.roll
	if u == nil {
		return out, fail(http.StatusNotFound, "NotFound", "No Rolling Upgrade has been found for %s.", id)
	}
	left := 0
	for _, vm := range s.members(id, false) {
		if vm.member.model < r.set.model {
			left++
		}
	}
	out.Properties = &armcompute.RollingUpgradeStatusInfoProperties{Policy: u.policy,
		Progress: &armcompute.RollingUpgradeProgressInfo{SuccessfulInstanceCount: to.Ptr(int32(u.done)), FailedInstanceCount: to.Ptr(int32(u.failed)),
			InProgressInstanceCount: to.Ptr(int32(len(u.batch))), PendingInstanceCount: to.Ptr(int32(left))},
		RunningStatus: &armcompute.RollingUpgradeRunningStatus{Code: &u.code, StartTime: &u.started}}
	if u.trouble != "" {
		out.Properties.Error = &armcompute.APIError{Code: to.Ptr("MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"), Message: &u.trouble}
	}
	return out, nil
}

// work lets every scale set do what is due. The caller holds the lock.
func (s *Server) work() {
	now := time.Now()
	for _, k := range slices.Sorted(maps.Keys(s.store)) {
		vm := s.store[k]
		if vm == nil || vm.member == nil {
			continue
		}
		if vm.power == "starting" && !now.Before(vm.member.up) {
			vm.power = "running"
			vm.setState("Succeeded")
		}
		if !vm.member.asked {
			continue
		}
		name := at(vm.body, "name")
		switch {
		case s.Drained == nil || s.Drained(name):
			s.end(vm)
		case !now.Before(vm.member.leave):
			s.killed = append(s.killed, name)
			s.end(vm)
		}
	}
	for _, set := range s.all(setKind, "") {
		if set.set == nil || set.set.deleting {
			continue
		}
		s.advance(set, now)
		have, want := s.members(set.id, false), s.capacity(set)
		surge := 0
		if u := set.set.roll; u != nil && u.code == armcompute.RollingUpgradeStatusCodeRollingForward {
			surge = len(u.batch)
		}
		for n := len(have); n < want; n++ {
			s.spawn(set)
		}
		// The newest go first, which are the unhealthy ones of a roll that was stopped.
		for n := len(have); n > want+surge; n-- {
			s.ask(set, have[n-1])
		}
		s.repair(set, now)
	}
}

// advance carries a rolling upgrade on.
func (s *Server) advance(set *resource, now time.Time) {
	u := set.set.roll
	if u == nil || u.code != armcompute.RollingUpgradeStatusCodeRollingForward || now.Before(u.next) {
		return
	}
	var old []*resource
	for _, vm := range s.members(set.id, false) {
		if vm.member.model < set.set.model {
			old = append(old, vm)
		}
	}
	if len(u.batch) > 0 {
		healthy := 0
		for _, name := range u.batch {
			vm, e := s.find(set.id[:strings.Index(set.id, "/virtualMachineScaleSets")] + "/virtualMachines/" + name)
			if e == nil && s.health(vm) == "unhealthy" || !now.Before(u.deadline) {
				u.code, u.failed = armcompute.RollingUpgradeStatusCodeFaulted, len(u.batch)
				u.trouble = "Rolling Upgrade failed after exceeding the MaxUnhealthyUpgradedInstancePercent value"
				return
			}
			if e == nil && s.health(vm) == "healthy" {
				healthy++
			}
		}
		if healthy < len(u.batch) {
			return
		}
		for i := range min(len(u.batch), len(old)) {
			s.ask(set, old[i])
		}
		u.done, u.batch, u.next = u.done+len(u.batch), nil, now.Add(time.Second)
		return
	}
	if len(old) == 0 {
		u.code = armcompute.RollingUpgradeStatusCodeCompleted
		return
	}
	percent := int32(20)
	if u.policy != nil && u.policy.MaxBatchInstancePercent != nil {
		percent = *u.policy.MaxBatchInstancePercent
	}
	for range min(len(old), max(1, s.capacity(set)*int(percent)/100)) {
		u.batch = append(u.batch, s.spawn(set))
	}
	u.deadline = now.Add(time.Hour)
}

// repair replaces what has been unhealthy since its grace period ended.
func (s *Server) repair(set *resource, now time.Time) {
	p := from[armcompute.VirtualMachineScaleSet](set.body).Properties.AutomaticRepairsPolicy
	if p == nil || p.Enabled == nil || !*p.Enabled {
		return
	}
	var minutes int
	_, _ = fmt.Sscanf(str(p.GracePeriod), "PT%dM", &minutes)
	for _, vm := range s.members(set.id, false) {
		if s.health(vm) == "unhealthy" && now.After(vm.member.up.Add(time.Duration(minutes)*time.Minute)) {
			s.ask(set, vm)
		}
	}
}

// spawn makes a machine from the set's model.
func (s *Server) spawn(set *resource) string {
	set.set.made++
	name := fmt.Sprintf("%s_%06x", at(set.body, "name"), set.set.made)
	id := set.id[:strings.Index(set.id, "/virtualMachineScaleSets")] + "/virtualMachines/" + name
	model := from[armcompute.VirtualMachineScaleSet](set.body)
	profile := model.Properties.VirtualMachineProfile
	now := time.Now()
	size := str(model.SKU.Name)
	if size == "Mix" {
		size = str(model.Properties.SKUProfile.VMSizes[0].Name)
	}
	vm := armcompute.VirtualMachine{ID: &id, Name: &name, Type: to.Ptr("Microsoft.Compute/virtualMachines"), Location: model.Location, Tags: model.Tags,
		Properties: &armcompute.VirtualMachineProperties{VMID: to.Ptr("vm-" + name), TimeCreated: &now, VirtualMachineScaleSet: &armcompute.SubResource{ID: &set.id},
			HardwareProfile: &armcompute.HardwareProfile{VMSize: to.Ptr(armcompute.VirtualMachineSizeTypes(size))},
			StorageProfile:  &armcompute.StorageProfile{ImageReference: profile.StorageProfile.ImageReference}, Priority: profile.Priority}}
	if len(model.Zones) > 0 {
		vm.Zones = []*string{model.Zones[set.set.made%len(model.Zones)]}
	}
	r := &resource{id: id, kind: vmKind, body: toMap(vm), power: "starting", member: &member{set: strings.ToLower(set.id), model: set.set.model, up: now.Add(s.Delays.VM)}}
	r.setState("Creating")
	s.store[strings.ToLower(id)] = r
	return name
}

// ask tells a machine that it is to go, and gives it the time of the set's termination notice.
func (s *Server) ask(set *resource, vm *resource) {
	if vm.member.asked {
		return
	}
	var minutes int
	if p := from[armcompute.VirtualMachineScaleSet](set.body).Properties.VirtualMachineProfile.ScheduledEventsProfile; p != nil && p.TerminateNotificationProfile != nil {
		_, _ = fmt.Sscanf(str(p.TerminateNotificationProfile.NotBeforeTimeout), "PT%dM", &minutes)
	}
	vm.member.asked, vm.member.leave = true, time.Now().Add(time.Duration(minutes)*time.Minute)
	vm.setState("Deleting")
}

func (s *Server) end(vm *resource) { s.remove(vm.id) }

// SetData is what machines of a scale set are given, which Azure tells nobody.
func (s *Server) SetData(set string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(set)
	if e != nil || r.set == nil {
		return nil
	}
	raw, _ := base64.StdEncoding.DecodeString(r.set.customData)
	return raw
}
