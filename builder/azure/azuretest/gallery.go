package azuretest

import (
	"context"
	"net/http"
	"strings"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	compute "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7/fake"
)

func (s *Server) galleries(f *compute.ServerFactory) {
	gallery := func(rg, name string) string { return rid(rg, computeNS, "galleries", name) }
	definition := func(rg, g, name string) string { return rid(rg, computeNS, "galleries", g, "images", name) }
	version := func(rg, g, d, name string) string {
		return rid(rg, computeNS, "galleries", g, "images", d, "versions", name)
	}
	f.GalleriesServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armcompute.Gallery, _ *armcompute.GalleriesClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armcompute.GalleriesClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := create[armcompute.Gallery](s, ctx, gallery(rg, name), in, s.Delays.Network, func(*resource) *armError {
			if strings.Contains(name, "-") {
				return fail(http.StatusBadRequest, "InvalidParameter", "The entity name '%s' is invalid according to its validation rule: letters, digits, dots and underscores.", name)
			}
			return nil
		}, nil)
		return accepted(armcompute.GalleriesClientCreateOrUpdateResponse{Gallery: v}, e)
	}
	f.GalleriesServer.Get = func(_ context.Context, rg, name string, _ *armcompute.GalleriesClientGetOptions) (azfake.Responder[armcompute.GalleriesClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armcompute.Gallery](s, gallery(rg, name))
		return answer(armcompute.GalleriesClientGetResponse{Gallery: v}, e)
	}
	f.GalleryImagesServer.BeginCreateOrUpdate = func(ctx context.Context, rg, g, name string, in armcompute.GalleryImage, _ *armcompute.GalleryImagesClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armcompute.GalleryImagesClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := create[armcompute.GalleryImage](s, ctx, definition(rg, g, name), in, s.Delays.Network, func(*resource) *armError {
			if _, e := s.find(gallery(rg, g)); e != nil {
				return e
			}
			p := in.Properties
			if p.HyperVGeneration == nil || p.Architecture == nil || feature(p.Features, "SecurityType") == "" || feature(p.Features, "DiskControllerTypes") == "" {
				return fail(http.StatusBadRequest, "InvalidParameter", "a definition is to say its generation, architecture, security type and disk controllers")
			}
			return nil
		}, nil)
		return accepted(armcompute.GalleryImagesClientCreateOrUpdateResponse{GalleryImage: v}, e)
	}
	f.GalleryImagesServer.Get = func(_ context.Context, rg, g, name string, _ *armcompute.GalleryImagesClientGetOptions) (azfake.Responder[armcompute.GalleryImagesClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armcompute.GalleryImage](s, definition(rg, g, name))
		return answer(armcompute.GalleryImagesClientGetResponse{GalleryImage: v}, e)
	}
	f.GalleryImageVersionsServer.BeginCreateOrUpdate = func(ctx context.Context, rg, g, d, name string, in armcompute.GalleryImageVersion, _ *armcompute.GalleryImageVersionsClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armcompute.GalleryImageVersionsClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		id := version(rg, g, d, name)
		v, e := create[armcompute.GalleryImageVersion](s, ctx, id, in, s.Delays.Version, func(r *resource) *armError {
			return s.checkVersion(r, definition(rg, g, d), in)
		}, func(r *resource) { s.replicate(r) })
		return accepted(armcompute.GalleryImageVersionsClientCreateOrUpdateResponse{GalleryImageVersion: v}, e)
	}
	f.GalleryImageVersionsServer.BeginUpdate = func(ctx context.Context, rg, g, d, name string, in armcompute.GalleryImageVersionUpdate, _ *armcompute.GalleryImageVersionsClientBeginUpdateOptions) (azfake.PollerResponder[armcompute.GalleryImageVersionsClientUpdateResponse], azfake.ErrorResponder) {
		delay := s.Delays.Network
		if in.Properties != nil && in.Properties.PublishingProfile != nil && len(in.Properties.PublishingProfile.TargetRegions) > len(s.Replicated(version(rg, g, d, name))) {
			delay = s.Delays.Replicate
		}
		v, e := s.patch(ctx, version(rg, g, d, name), toMap(in), delay)
		return accepted(armcompute.GalleryImageVersionsClientUpdateResponse{GalleryImageVersion: from[armcompute.GalleryImageVersion](v)}, e)
	}
	f.GalleryImageVersionsServer.Get = func(_ context.Context, rg, g, d, name string, o *armcompute.GalleryImageVersionsClientGetOptions) (azfake.Responder[armcompute.GalleryImageVersionsClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armcompute.GalleryImageVersion](s, version(rg, g, d, name))
		if e == nil && o != nil && o.Expand != nil {
			st := &armcompute.ReplicationStatus{}
			for _, region := range s.Replicated(version(rg, g, d, name)) {
				st.Summary = append(st.Summary, &armcompute.RegionalReplicationStatus{Region: &region, State: to.Ptr(armcompute.ReplicationStateCompleted), Progress: to.Ptr(int32(100))})
			}
			v.Properties.ReplicationStatus = st
		}
		return answer(armcompute.GalleryImageVersionsClientGetResponse{GalleryImageVersion: v}, e)
	}
	f.GalleryImageVersionsServer.NewListByGalleryImagePager = func(rg, g, d string, _ *armcompute.GalleryImageVersionsClientListByGalleryImageOptions) azfake.PagerResponder[armcompute.GalleryImageVersionsClientListByGalleryImageResponse] {
		versions := list[armcompute.GalleryImageVersion](s, "microsoft.compute/galleries/images/versions", definition(rg, g, d)+"/")
		return paged(s, versions, func(v []*armcompute.GalleryImageVersion) armcompute.GalleryImageVersionsClientListByGalleryImageResponse {
			return armcompute.GalleryImageVersionsClientListByGalleryImageResponse{GalleryImageVersionList: armcompute.GalleryImageVersionList{Value: v}}
		})
	}
}

func feature(features []*armcompute.GalleryImageFeature, name string) string {
	for _, f := range features {
		if str(f.Name) == name {
			return str(f.Value)
		}
	}
	return ""
}

// checkVersion is what Azure finds only when a version is published.
func (s *Server) checkVersion(r *resource, definition string, in armcompute.GalleryImageVersion) *armError {
	d, e := s.find(definition)
	if e != nil {
		return e
	}
	if old, exists := s.store[strings.ToLower(r.id)]; exists {
		return fail(http.StatusConflict, "Conflict", "version %s exists in state %s: delete it first", r.id, old.state)
	}
	if !versionName.MatchString(r.id[strings.LastIndex(r.id, "/")+1:]) {
		return fail(http.StatusBadRequest, "InvalidParameter", "the version is to be MAJOR.MINOR.PATCH")
	}
	def := from[armcompute.GalleryImage](d.body)
	security := feature(def.Properties.Features, "SecurityType")
	sp := in.Properties.StorageProfile
	if sp == nil || sp.Source == nil {
		return fail(http.StatusBadRequest, "InvalidParameter", "a version needs a source")
	}
	switch {
	case sp.Source.VirtualMachineID != nil:
		vm, e := s.find(*sp.Source.VirtualMachineID)
		if e != nil {
			return e
		}
		if vm.power != "deallocated" || !vm.generalized {
			return fail(http.StatusConflict, "OperationNotAllowed", "the source machine is to be deallocated and generalized")
		}
		if security != "TrustedLaunch" || at(vm.body, "properties", "securityProfile", "securityType") != "TrustedLaunch" {
			return fail(http.StatusBadRequest, "InvalidParameter", "a machine is the source of a version only where both are Trusted Launch; go through a managed image")
		}
	case sp.Source.ID != nil:
		img, e := s.find(*sp.Source.ID)
		if e != nil {
			return e
		}
		if img.state != "Succeeded" {
			return fail(http.StatusConflict, "OperationNotAllowed", "source %s is %s", img.id, img.state)
		}
		if security == "TrustedLaunch" {
			return fail(http.StatusBadRequest, "InvalidParameter", "a managed image cannot become a version of a TrustedLaunch definition")
		}
		if at(img.body, "properties", "hyperVGeneration") != string(*def.Properties.HyperVGeneration) {
			return fail(http.StatusConflict, "Conflict", "the definition is of another Hyper-V generation than its source")
		}
	}
	pub := in.Properties.PublishingProfile
	if pub == nil || len(pub.TargetRegions) == 0 {
		return fail(http.StatusBadRequest, "InvalidParameter", "a version needs target regions, its own location among them")
	}
	home := false
	for _, t := range pub.TargetRegions {
		home = home || strings.EqualFold(strings.ReplaceAll(*t.Name, " ", ""), r.location())
	}
	if !home {
		return fail(http.StatusBadRequest, "InvalidParameter", "the target regions are to contain %s", r.location())
	}
	return nil
}

// AddVersion puts a finished version into a definition, which is made when absent.
func (s *Server) AddVersion(rg, gallery, definition, name string, tags map[string]string, published time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := rid(rg, computeNS, "galleries", gallery, "images", definition, "versions", name)
	r := &resource{id: id, kind: kindOf(id), state: "Succeeded", replicated: []string{"westeurope"}, body: toMap(armcompute.GalleryImageVersion{
		ID: &id, Name: &name, Location: to.Ptr("westeurope"), Type: to.Ptr("Microsoft.Compute/galleries/images/versions"),
		Properties: &armcompute.GalleryImageVersionProperties{ProvisioningState: to.Ptr(armcompute.GalleryProvisioningStateSucceeded),
			PublishingProfile: &armcompute.GalleryImageVersionPublishingProfile{PublishedDate: &published, ExcludeFromLatest: to.Ptr(false),
				TargetRegions: []*armcompute.TargetRegion{{Name: to.Ptr("westeurope")}}}}})}
	if len(tags) > 0 {
		r.body["tags"] = toMap(tags)
	}
	s.store[strings.ToLower(id)] = r
	return id
}

// Add puts a resource of any kind into the subscription, finished.
func (s *Server) Add(id string, body any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &resource{id: id, kind: kindOf(id), body: toMap(body)}
	r.body["id"], r.body["name"], r.body["type"] = id, id[strings.LastIndex(id, "/")+1:], r.kind
	if r.body["location"] == nil {
		r.body["location"] = "westeurope"
	}
	state := at(r.body, "properties", "provisioningState")
	if state == "" {
		state = "Succeeded"
	}
	if r.kind == "microsoft.compute/virtualmachines" {
		r.power = "running"
	}
	r.setState(state)
	s.store[strings.ToLower(id)] = r
}

// Remove takes a resource away, by its id below the subscription, and what is inside it.
func (s *Server) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove("/subscriptions/" + Subscription + id)
}
