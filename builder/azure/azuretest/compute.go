package azuretest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	compute "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7/fake"
	"golang.org/x/crypto/ssh"
)

const computeNS = "Microsoft.Compute"

// SKU is a machine size as the subscription offers it in every location.
type SKU struct {
	Name, Family, Arch string
	CPUs, MemoryGB     string
	Generations        string // "V1,V2"
	Controllers        string // of disks: "SCSI, NVMe"; default SCSI, unsaid
	NoTrustedLaunch    bool
	Restricted         bool // not available for this subscription
	Zones              []string
}

func defaultSKUs() []SKU {
	zones := []string{"1", "2", "3"}
	return []SKU{
		{Name: "Standard_D4as_v5", Family: "standardDASv5Family", Arch: "x64", CPUs: "4", MemoryGB: "16", Generations: "V1,V2", Zones: zones},
		{Name: "Standard_D2as_v5", Family: "standardDASv5Family", Arch: "x64", CPUs: "2", MemoryGB: "8", Generations: "V1,V2", Zones: zones},
		{Name: "Standard_D4s_v5", Family: "standardDSv5Family", Arch: "x64", CPUs: "4", MemoryGB: "16", Generations: "V1,V2", Zones: zones},
		{Name: "Standard_D4ps_v5", Family: "standardDPSv5Family", Arch: "Arm64", CPUs: "4", MemoryGB: "16", Generations: "V2", NoTrustedLaunch: true},
		{Name: "Standard_A4_v2", Family: "standardAv2Family", Arch: "x64", CPUs: "4", MemoryGB: "8", Generations: "V1", NoTrustedLaunch: true},
		{Name: "Standard_M8ms", Family: "standardMSFamily", Arch: "x64", CPUs: "8", MemoryGB: "218", Generations: "V1,V2", Restricted: true},
	}
}

// SetUsage sets a quota: "cores" or a family, how many are used and how many there may be.
func (s *Server) SetUsage(name string, used, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage[name] = [2]int{used, limit}
}

func (s *Server) compute() *compute.ServerFactory {
	f := &compute.ServerFactory{}
	s.catalogue(f)
	s.machines(f)
	s.images(f)
	s.galleries(f)
	s.disks(f)
	s.scaleSets(f)
	return f
}

// catalogue is what Azure offers: sizes, quotas, platform images.
func (s *Server) catalogue(f *compute.ServerFactory) {
	f.ResourceSKUsServer.NewListPager = func(o *armcompute.ResourceSKUsClientListOptions) azfake.PagerResponder[armcompute.ResourceSKUsClientListResponse] {
		s.mu.Lock()
		defer s.mu.Unlock()
		loc := "westeurope"
		if o != nil && o.Filter != nil {
			loc = strings.Trim(strings.TrimPrefix(*o.Filter, "location eq "), "'")
		}
		var out []armcompute.ResourceSKU
		for _, k := range s.skus {
			capability := func(n, v string) *armcompute.ResourceSKUCapabilities {
				return &armcompute.ResourceSKUCapabilities{Name: &n, Value: &v}
			}
			sku := armcompute.ResourceSKU{Name: &k.Name, ResourceType: to.Ptr("virtualMachines"), Family: &k.Family, Locations: []*string{&loc},
				LocationInfo: []*armcompute.ResourceSKULocationInfo{{Location: &loc, Zones: to.SliceOfPtrs(k.Zones...)}},
				Capabilities: []*armcompute.ResourceSKUCapabilities{capability("vCPUs", k.CPUs), capability("MemoryGB", k.MemoryGB),
					capability("HyperVGenerations", k.Generations), capability("CpuArchitectureType", k.Arch), capability("PremiumIO", "True")}}
			if k.NoTrustedLaunch {
				sku.Capabilities = append(sku.Capabilities, capability("TrustedLaunchDisabled", "True"))
			}
			if k.Controllers != "" {
				sku.Capabilities = append(sku.Capabilities, capability("DiskControllerTypes", k.Controllers))
			}
			if k.Restricted {
				sku.Restrictions = []*armcompute.ResourceSKURestrictions{{Type: to.Ptr(armcompute.ResourceSKURestrictionsTypeLocation),
					ReasonCode: to.Ptr(armcompute.ResourceSKURestrictionsReasonCodeNotAvailableForSubscription), Values: []*string{&loc}}}
			}
			out = append(out, sku)
		}
		out = append(out, armcompute.ResourceSKU{Name: to.Ptr("Premium_LRS"), ResourceType: to.Ptr("disks"), Locations: []*string{&loc}})
		return paged(s, out, func(v []*armcompute.ResourceSKU) armcompute.ResourceSKUsClientListResponse {
			return armcompute.ResourceSKUsClientListResponse{ResourceSKUsResult: armcompute.ResourceSKUsResult{Value: v}}
		})
	}
	f.UsageServer.NewListPager = func(string, *armcompute.UsageClientListOptions) azfake.PagerResponder[armcompute.UsageClientListResponse] {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := map[string][2]int{"cores": {0, 100}, "standardDASv5Family": {0, 100}, "standardDSv5Family": {0, 100}, "standardDPSv5Family": {0, 100}, "standardAv2Family": {0, 100}}
		maps.Copy(all, s.usage)
		var out []armcompute.Usage
		for _, name := range slices.Sorted(maps.Keys(all)) {
			out = append(out, armcompute.Usage{Name: &armcompute.UsageName{Value: &name}, CurrentValue: to.Ptr(int32(all[name][0])), Limit: to.Ptr(int64(all[name][1])), Unit: to.Ptr("Count")})
		}
		return paged(s, out, func(v []*armcompute.Usage) armcompute.UsageClientListResponse {
			return armcompute.UsageClientListResponse{ListUsagesResult: armcompute.ListUsagesResult{Value: v}}
		})
	}
	f.VirtualMachineImagesServer.List = func(_ context.Context, loc, pub, offer, sku string, _ *armcompute.VirtualMachineImagesClientListOptions) (azfake.Responder[armcompute.VirtualMachineImagesClientListResponse], azfake.ErrorResponder) {
		if !strings.EqualFold(pub, "Canonical") && !strings.EqualFold(pub, "Debian") {
			return answer(armcompute.VirtualMachineImagesClientListResponse{}, fail(http.StatusNotFound, "NotFound", "Artifact: VMImage was not found."))
		}
		return answer(armcompute.VirtualMachineImagesClientListResponse{VirtualMachineImageResourceArray: []*armcompute.VirtualMachineImageResource{
			{Name: to.Ptr("20.04.202505200"), Location: &loc}}}, nil)
	}
	f.VirtualMachineImagesServer.Get = func(_ context.Context, loc, pub, offer, sku, version string, _ *armcompute.VirtualMachineImagesClientGetOptions) (azfake.Responder[armcompute.VirtualMachineImagesClientGetResponse], azfake.ErrorResponder) {
		arch := armcompute.ArchitectureTypesX64
		if strings.Contains(sku, "arm64") {
			arch = armcompute.ArchitectureTypesArm64
		}
		return answer(armcompute.VirtualMachineImagesClientGetResponse{VirtualMachineImage: armcompute.VirtualMachineImage{Name: &version, Location: &loc,
			Properties: &armcompute.VirtualMachineImageProperties{HyperVGeneration: to.Ptr(armcompute.HyperVGenerationTypesV2), Architecture: &arch,
				Features: []*armcompute.VirtualMachineImageFeature{{Name: to.Ptr("SecurityType"), Value: to.Ptr("TrustedLaunchSupported")},
					{Name: to.Ptr("DiskControllerTypes"), Value: &s.Controllers}}}}}, nil)
	}
}

func (s *Server) machines(f *compute.ServerFactory) {
	id := func(rg, name string) string { return rid(rg, computeNS, "virtualMachines", name) }
	f.VirtualMachinesServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armcompute.VirtualMachine, _ *armcompute.VirtualMachinesClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armcompute.VirtualMachinesClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := s.createVM(ctx, rg, name, in)
		return accepted(armcompute.VirtualMachinesClientCreateOrUpdateResponse{VirtualMachine: v}, e)
	}
	f.VirtualMachinesServer.BeginUpdate = func(ctx context.Context, rg, name string, in armcompute.VirtualMachineUpdate, _ *armcompute.VirtualMachinesClientBeginUpdateOptions) (azfake.PollerResponder[armcompute.VirtualMachinesClientUpdateResponse], azfake.ErrorResponder) {
		v, e := s.patch(ctx, id(rg, name), toMap(in), s.Delays.Network)
		return accepted(armcompute.VirtualMachinesClientUpdateResponse{VirtualMachine: from[armcompute.VirtualMachine](v)}, e)
	}
	f.VirtualMachinesServer.Get = func(_ context.Context, rg, name string, _ *armcompute.VirtualMachinesClientGetOptions) (azfake.Responder[armcompute.VirtualMachinesClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armcompute.VirtualMachine](s, id(rg, name))
		return answer(armcompute.VirtualMachinesClientGetResponse{VirtualMachine: v}, e)
	}
	f.VirtualMachinesServer.InstanceView = func(_ context.Context, rg, name string, _ *armcompute.VirtualMachinesClientInstanceViewOptions) (azfake.Responder[armcompute.VirtualMachinesClientInstanceViewResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, e := s.find(id(rg, name))
		if e != nil {
			return answer(armcompute.VirtualMachinesClientInstanceViewResponse{}, e)
		}
		return answer(armcompute.VirtualMachinesClientInstanceViewResponse{VirtualMachineInstanceView: armcompute.VirtualMachineInstanceView{
			Statuses: []*armcompute.InstanceViewStatus{{Code: to.Ptr("ProvisioningState/" + strings.ToLower(r.state))}, {Code: to.Ptr("PowerState/" + r.power)}}}}, nil)
	}
	f.VirtualMachinesServer.BeginDeallocate = func(ctx context.Context, rg, name string, _ *armcompute.VirtualMachinesClientBeginDeallocateOptions) (azfake.PollerResponder[armcompute.VirtualMachinesClientDeallocateResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, e := s.find(id(rg, name))
		if e == nil {
			r.setState("Updating")
			s.begin(ctx, r, s.Delays.Deallocate, func() { r.power = "deallocated" })
		}
		return accepted(armcompute.VirtualMachinesClientDeallocateResponse{}, e)
	}
	f.VirtualMachinesServer.Generalize = func(_ context.Context, rg, name string, _ *armcompute.VirtualMachinesClientGeneralizeOptions) (azfake.Responder[armcompute.VirtualMachinesClientGeneralizeResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, e := s.find(id(rg, name))
		if e == nil && r.power != "deallocated" && r.power != "stopped" {
			e = fail(http.StatusConflict, "OperationNotAllowed", "Operation 'generalize' is not allowed: the VM is %s.", r.power)
		}
		if e == nil {
			r.generalized = true
		}
		return answer(armcompute.VirtualMachinesClientGeneralizeResponse{}, e)
	}
	f.VirtualMachinesServer.RetrieveBootDiagnosticsData = func(_ context.Context, rg, name string, _ *armcompute.VirtualMachinesClientRetrieveBootDiagnosticsDataOptions) (azfake.Responder[armcompute.VirtualMachinesClientRetrieveBootDiagnosticsDataResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, e := s.find(id(rg, name))
		return answer(armcompute.VirtualMachinesClientRetrieveBootDiagnosticsDataResponse{RetrieveBootDiagnosticsDataResult: armcompute.RetrieveBootDiagnosticsDataResult{
			SerialConsoleLogBlobURI: to.Ptr(s.URL + "/console/" + name)}}, e)
	}
	f.VirtualMachinesServer.NewListAllPager = func(*armcompute.VirtualMachinesClientListAllOptions) azfake.PagerResponder[armcompute.VirtualMachinesClientListAllResponse] {
		return paged(s, list[armcompute.VirtualMachine](s, "microsoft.compute/virtualmachines", ""), func(v []*armcompute.VirtualMachine) armcompute.VirtualMachinesClientListAllResponse {
			return armcompute.VirtualMachinesClientListAllResponse{VirtualMachineListResult: armcompute.VirtualMachineListResult{Value: v}}
		})
	}
	f.VirtualMachineScaleSetsServer.NewListAllPager = func(*armcompute.VirtualMachineScaleSetsClientListAllOptions) azfake.PagerResponder[armcompute.VirtualMachineScaleSetsClientListAllResponse] {
		return paged(s, list[armcompute.VirtualMachineScaleSet](s, "microsoft.compute/virtualmachinescalesets", ""), func(v []*armcompute.VirtualMachineScaleSet) armcompute.VirtualMachineScaleSetsClientListAllResponse {
			return armcompute.VirtualMachineScaleSetsClientListAllResponse{VirtualMachineScaleSetListWithLinkResult: armcompute.VirtualMachineScaleSetListWithLinkResult{Value: v}}
		})
	}
	f.VirtualMachineScaleSetVMsServer.NewListPager = func(rg, set string, _ *armcompute.VirtualMachineScaleSetVMsClientListOptions) azfake.PagerResponder[armcompute.VirtualMachineScaleSetVMsClientListResponse] {
		inside := list[armcompute.VirtualMachineScaleSetVM](s, "microsoft.compute/virtualmachinescalesets/virtualmachines", rid(rg, computeNS, "virtualMachineScaleSets", set)+"/")
		return paged(s, inside, func(v []*armcompute.VirtualMachineScaleSetVM) armcompute.VirtualMachineScaleSetVMsClientListResponse {
			return armcompute.VirtualMachineScaleSetVMsClientListResponse{VirtualMachineScaleSetVMListResult: armcompute.VirtualMachineScaleSetVMListResult{Value: v}}
		})
	}
}

// list reads every resource of a kind below an id.
func list[T any](s *Server, kind, prefix string) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []T
	for _, r := range s.all(kind, prefix) {
		out = append(out, from[T](r.body))
	}
	return out
}

// createVM checks what Azure checks of a machine before and while it makes one.
func (s *Server) createVM(ctx context.Context, rg, name string, in armcompute.VirtualMachine) (out armcompute.VirtualMachine, e *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var size string
	r, e := s.put(ctx, rid(rg, computeNS, "virtualMachines", name), in, s.Delays.VM, func(r *resource) *armError {
		p := in.Properties
		if p == nil || p.HardwareProfile == nil || p.StorageProfile == nil || p.NetworkProfile == nil || p.OSProfile == nil {
			return fail(http.StatusBadRequest, "InvalidParameter", "a virtual machine needs hardware, storage, network and OS profiles")
		}
		size = string(*p.HardwareProfile.VMSize)
		i := slices.IndexFunc(s.skus, func(k SKU) bool { return k.Name == size })
		if i < 0 {
			return fail(http.StatusBadRequest, "InvalidParameter", "The value %s provided for the VM size is not valid.", size)
		}
		zone := ""
		if len(in.Zones) > 0 {
			zone = *in.Zones[0]
			if !slices.Contains(s.skus[i].Zones, zone) {
				return fail(http.StatusBadRequest, "AvailabilityZoneNotSupported", "size %s is not offered in zone %s", size, zone)
			}
		}
		if s.room(size, zone) == "SkuNotAvailable" || s.skus[i].Restricted {
			return fail(http.StatusConflict, "SkuNotAvailable", "The requested VM size '%s' is currently not available in location '%s'.", size, r.location())
		}
		if data, err := base64.StdEncoding.DecodeString(str(p.OSProfile.CustomData)); err != nil || len(data) > 65535 {
			return fail(http.StatusBadRequest, "InvalidParameter", "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 characters.")
		}
		if p.UserData != nil && p.OSProfile.CustomData != nil {
			return fail(http.StatusBadRequest, "InvalidParameter", "cloud-init reads userData only where customData is empty")
		}
		if lc := p.OSProfile.LinuxConfiguration; lc == nil || !*lc.DisablePasswordAuthentication || lc.SSH == nil || len(lc.SSH.PublicKeys) == 0 {
			return fail(http.StatusBadRequest, "InvalidParameter", "Authentication using either SSH or by user name and password must be enabled in Linux profile.")
		}
		for _, nic := range p.NetworkProfile.NetworkInterfaces {
			if e := s.linked(*nic.ID, "Microsoft.Network/networkInterfaces/join/action"); e != nil {
				return e
			}
			n, _ := s.find(*nic.ID)
			if owner := s.ownerOf(n.id); owner != nil && owner.id != r.id {
				return fail(http.StatusBadRequest, "OtherResourceInUse", "%s is used by %s", n.id, owner.id)
			}
		}
		return s.checkImage(p.StorageProfile.ImageReference, r.location(), p.SecurityProfile)
	}, func(r *resource) {
		r.power = "running"
		if s.Booted != nil {
			go s.Booted(name)
		}
	})
	if e != nil {
		return out, e
	}
	r.power = "starting"
	zone := ""
	if len(in.Zones) > 0 {
		zone = *in.Zones[0]
	}
	if code := s.room(size, zone); code != "" {
		r.op.failure = fail(http.StatusConflict, code, "Allocation failed. We do not have sufficient capacity for the requested VM size in this region.")
	}
	// The disk exists as soon as the machine does, and carries no tags.
	osDisk := in.Properties.StorageProfile.OSDisk
	diskID := rid(rg, computeNS, "disks", str(osDisk.Name))
	s.store[strings.ToLower(diskID)] = &resource{id: diskID, kind: "microsoft.compute/disks", state: "Succeeded", body: map[string]any{
		"id": diskID, "name": str(osDisk.Name), "type": "Microsoft.Compute/disks", "location": str(in.Location), "managedBy": r.id, "properties": map[string]any{}}}
	r.body["properties"].(map[string]any)["vmId"] = "vm-" + name
	return from[armcompute.VirtualMachine](r.body), nil
}

func str(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func (s *Server) room(size, zone string) string {
	if code, ok := s.NoRoom[size+"/"+zone]; ok {
		return code
	}
	return s.NoRoom[size]
}

func (s *Server) ownerOf(nic string) *resource {
	for _, vm := range s.all("microsoft.compute/virtualmachines", "") {
		if strings.Contains(strings.ToLower(asJSON(vm.body)), strings.ToLower(`"`+nic+`"`)) {
			return vm
		}
	}
	return nil
}

// checkImage finds the image that a machine is to be made from.
func (s *Server) checkImage(ref *armcompute.ImageReference, location string, sec *armcompute.SecurityProfile) *armError {
	if ref == nil || ref.ID == nil {
		return nil
	}
	img, e := s.find(*ref.ID)
	if e != nil {
		return e
	}
	if img.state != "Succeeded" && !slices.Contains(img.replicated, location) {
		return fail(http.StatusConflict, "ImageNotReady", "%s is %s", img.id, img.state)
	}
	switch img.kind {
	case "microsoft.compute/images":
		if img.location() != location {
			return fail(http.StatusBadRequest, "InvalidParameter", "the managed image is in %s, the machine in %s", img.location(), location)
		}
		if sec != nil && sec.SecurityType != nil {
			return fail(http.StatusBadRequest, "BadRequest", "a machine made from a managed image cannot use security type %s", *sec.SecurityType)
		}
	case "microsoft.compute/galleries/images/versions":
		if !slices.Contains(img.replicated, location) {
			return fail(http.StatusNotFound, "GalleryImageNotFound", "The gallery image %s is not available in %s region.", img.id, location)
		}
	}
	return nil
}

// cascade deletes with a machine what it says is to go with it.
func (s *Server) cascade(vm *resource) {
	p := from[armcompute.VirtualMachine](vm.body).Properties
	for _, d := range s.all("microsoft.compute/disks", "") {
		if !strings.EqualFold(at(d.body, "managedBy"), vm.id) {
			continue
		}
		delete(d.body, "managedBy")
		if o := p.StorageProfile.OSDisk.DeleteOption; o != nil && *o == armcompute.DiskDeleteOptionTypesDelete {
			s.remove(d.id)
		}
	}
	for _, n := range p.NetworkProfile.NetworkInterfaces {
		if n.Properties != nil && n.Properties.DeleteOption != nil && *n.Properties.DeleteOption == armcompute.DeleteOptionsDelete {
			s.remove(*n.ID)
		}
	}
}

// abandon fails the operations that read from a resource which is going away.
func (s *Server) abandon(gone *resource) {
	for _, op := range s.ops {
		if op.status == "InProgress" && op.target != gone && op.target.kind != gone.kind &&
			(op.target.kind == "microsoft.compute/images" || op.target.kind == "microsoft.compute/galleries/images/versions") &&
			strings.Contains(strings.ToLower(asJSON(op.target.body)), strings.ToLower(`"`+gone.id+`"`)) {
			op.failure = fail(http.StatusConflict, "SourceDeleted", "%s was deleted while %s was made from it", gone.id, op.target.id)
		}
	}
}

// PowerOff is the guest of a machine shutting down; its resources stay allocated.
func (s *Server) PowerOff(vm string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.all("microsoft.compute/virtualmachines", "") {
		if strings.EqualFold(at(r.body, "name"), vm) && r.power == "running" {
			r.power = "stopped"
		}
	}
}

// CustomData is what a machine was given for its cloud-init; "" when there is no such machine.
func (s *Server) CustomData(vm string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.all("microsoft.compute/virtualmachines", "") {
		if strings.EqualFold(at(r.body, "name"), vm) {
			data, _ := base64.StdEncoding.DecodeString(at(r.body, "properties", "osProfile", "customData")) // createVM has decoded it
			return string(data)
		}
	}
	return ""
}

// Keys are the public keys that may log in to a machine.
func (s *Server) Keys(vm string) (keys []ssh.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.all("microsoft.compute/virtualmachines", "") {
		linux, _ := json.Marshal(r.body["properties"].(map[string]any)["osProfile"]) // decoded from JSON
		var profile armcompute.OSProfile
		if !strings.EqualFold(at(r.body, "name"), vm) || json.Unmarshal(linux, &profile) != nil || profile.LinuxConfiguration == nil || profile.LinuxConfiguration.SSH == nil {
			continue
		}
		for _, k := range profile.LinuxConfiguration.SSH.PublicKeys {
			if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(str(k.KeyData))); err == nil {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

var versionName = regexp.MustCompile(`^\d{1,10}\.\d{1,10}\.\d{1,10}$`)

func (s *Server) images(f *compute.ServerFactory) {
	id := func(rg, name string) string { return rid(rg, computeNS, "images", name) }
	f.ImagesServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armcompute.Image, _ *armcompute.ImagesClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armcompute.ImagesClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := create[armcompute.Image](s, ctx, id(rg, name), in, s.Delays.Image, func(r *resource) *armError {
			if in.Properties.HyperVGeneration == nil {
				return fail(http.StatusBadRequest, "InvalidParameter", "hyperVGeneration is needed")
			}
			switch {
			case in.Properties.SourceVirtualMachine != nil:
				vm, e := s.find(*in.Properties.SourceVirtualMachine.ID)
				if e != nil {
					return e
				}
				if !vm.generalized || vm.power != "deallocated" {
					return fail(http.StatusConflict, "OperationNotAllowed", "The operation 'Capture Image' requires the VM to be deallocated and generalized.")
				}
				if at(vm.body, "properties", "securityProfile", "securityType") != "" {
					return fail(http.StatusConflict, "OperationNotAllowed", "a managed image cannot be made from a Trusted Launch machine")
				}
			case in.Properties.StorageProfile != nil && in.Properties.StorageProfile.OSDisk.ManagedDisk != nil:
				d, e := s.find(*in.Properties.StorageProfile.OSDisk.ManagedDisk.ID)
				if e != nil {
					return e
				}
				if d.upload != "" && d.upload != "Unattached" {
					return fail(http.StatusConflict, "OperationNotAllowed", "disk %s is in state %s", d.id, d.upload)
				}
			default:
				return fail(http.StatusBadRequest, "InvalidParameter", "an image needs a source")
			}
			return nil
		}, nil)
		return accepted(armcompute.ImagesClientCreateOrUpdateResponse{Image: v}, e)
	}
	f.ImagesServer.Get = func(_ context.Context, rg, name string, _ *armcompute.ImagesClientGetOptions) (azfake.Responder[armcompute.ImagesClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armcompute.Image](s, id(rg, name))
		return answer(armcompute.ImagesClientGetResponse{Image: v}, e)
	}
	f.ImagesServer.NewListByResourceGroupPager = func(rg string, _ *armcompute.ImagesClientListByResourceGroupOptions) azfake.PagerResponder[armcompute.ImagesClientListByResourceGroupResponse] {
		return paged(s, list[armcompute.Image](s, "microsoft.compute/images", groupID(rg)+"/"), func(v []*armcompute.Image) armcompute.ImagesClientListByResourceGroupResponse {
			return armcompute.ImagesClientListByResourceGroupResponse{ImageListResult: armcompute.ImageListResult{Value: v}}
		})
	}
}

// patch replaces tags and merges properties.
func (s *Server) patch(ctx context.Context, id string, in map[string]any, delay time.Duration) (map[string]any, *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return nil, e
	}
	if r.op != nil {
		return nil, fail(http.StatusConflict, "Conflict", "another operation on %s is in progress", id)
	}
	if tags, ok := in["tags"]; ok {
		r.body["tags"] = tags
	}
	merge(r.body, map[string]any{"properties": in["properties"]})
	r.setState("Updating")
	s.begin(ctx, r, delay, func() { s.replicate(r) })
	return toMap(r.body), nil
}

func merge(into, from map[string]any) {
	for k, v := range from {
		a, isMap := v.(map[string]any)
		b, had := into[k].(map[string]any)
		switch {
		case isMap && had:
			merge(b, a)
		case v != nil:
			into[k] = v
		}
	}
}

// replicate makes a version available where its target regions say.
func (s *Server) replicate(r *resource) {
	if r.kind != "microsoft.compute/galleries/images/versions" {
		return
	}
	r.replicated = r.replicated[:0]
	for _, t := range from[armcompute.GalleryImageVersion](r.body).Properties.PublishingProfile.TargetRegions {
		r.replicated = append(r.replicated, strings.ToLower(strings.ReplaceAll(*t.Name, " ", "")))
	}
}

// Replicated tells in which regions a gallery version is available.
func (s *Server) Replicated(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return nil
	}
	return slices.Sorted(slices.Values(r.replicated))
}
