package azuretest

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7"
	network "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"
	resources "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3/fake"
)

// Locations are the regions there are.
var Locations = []string{"West Europe", "North Europe", "Germany West Central", "UK South"}

func (s *Server) resources() *resources.ServerFactory {
	f := &resources.ServerFactory{}
	f.ProvidersServer.Get = func(_ context.Context, ns string, _ *armresources.ProvidersClientGetOptions) (azfake.Responder[armresources.ProvidersClientGetResponse], azfake.ErrorResponder) {
		p := armresources.Provider{Namespace: &ns, RegistrationState: to.Ptr("Registered"), ResourceTypes: []*armresources.ProviderResourceType{
			{ResourceType: to.Ptr("virtualMachines"), Locations: to.SliceOfPtrs(Locations...)},
			{ResourceType: to.Ptr("galleries/images/versions"), Locations: to.SliceOfPtrs(Locations...)}}}
		return answer(armresources.ProvidersClientGetResponse{Provider: p}, nil)
	}
	f.ResourceGroupsServer.Get = func(_ context.Context, rg string, _ *armresources.ResourceGroupsClientGetOptions) (azfake.Responder[armresources.ResourceGroupsClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armresources.ResourceGroup](s, groupID(rg))
		return answer(armresources.ResourceGroupsClientGetResponse{ResourceGroup: v}, e)
	}
	f.ResourceGroupsServer.CreateOrUpdate = func(ctx context.Context, rg string, in armresources.ResourceGroup, _ *armresources.ResourceGroupsClientCreateOrUpdateOptions) (azfake.Responder[armresources.ResourceGroupsClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, e := s.put(context.Background(), groupID(rg), in, 0, nil, nil)
		if e != nil {
			return answer(armresources.ResourceGroupsClientCreateOrUpdateResponse{}, e)
		}
		return answer(armresources.ResourceGroupsClientCreateOrUpdateResponse{ResourceGroup: from[armresources.ResourceGroup](r.body)}, nil)
	}
	f.ResourceGroupsServer.BeginDelete = func(ctx context.Context, rg string, _ *armresources.ResourceGroupsClientBeginDeleteOptions) (azfake.PollerResponder[armresources.ResourceGroupsClientDeleteResponse], azfake.ErrorResponder) {
		return accepted(armresources.ResourceGroupsClientDeleteResponse{}, s.drop(ctx, groupID(rg)))
	}
	f.ResourceGroupsServer.NewListPager = func(o *armresources.ResourceGroupsClientListOptions) azfake.PagerResponder[armresources.ResourceGroupsClientListResponse] {
		s.mu.Lock()
		defer s.mu.Unlock()
		var out []armresources.ResourceGroup
		for _, r := range s.all("resourcegroups", "") {
			if o == nil || selected(r, o.Filter) {
				out = append(out, from[armresources.ResourceGroup](r.body))
			}
		}
		return paged(s, out, func(v []*armresources.ResourceGroup) armresources.ResourceGroupsClientListResponse {
			return armresources.ResourceGroupsClientListResponse{ResourceGroupListResult: armresources.ResourceGroupListResult{Value: v}}
		})
	}
	f.TagsServer.BeginUpdateAtScope = func(_ context.Context, scope string, in armresources.TagsPatchResource, _ *armresources.TagsClientBeginUpdateAtScopeOptions) (azfake.PollerResponder[armresources.TagsClientUpdateAtScopeResponse], azfake.ErrorResponder) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, e := s.find("/" + strings.TrimPrefix(scope, "/"))
		if e == nil && *in.Operation != armresources.TagsPatchOperationReplace {
			e = fail(http.StatusBadRequest, "InvalidParameter", "only Replace is known here")
		}
		if e == nil {
			r.body["tags"] = toMap(in.Properties)["tags"]
		}
		return accepted(armresources.TagsClientUpdateAtScopeResponse{TagsResource: armresources.TagsResource{Properties: in.Properties}}, e)
	}
	f.Server.NewListByResourceGroupPager = func(rg string, _ *armresources.ClientListByResourceGroupOptions) azfake.PagerResponder[armresources.ClientListByResourceGroupResponse] {
		inside := list[armresources.GenericResourceExpanded](s, "", groupID(rg)+"/")
		return paged(s, inside, func(v []*armresources.GenericResourceExpanded) armresources.ClientListByResourceGroupResponse {
			return armresources.ClientListByResourceGroupResponse{ResourceListResult: armresources.ResourceListResult{Value: v}}
		})
	}
	f.Server.BeginDeleteByID = func(ctx context.Context, id, _ string, _ *armresources.ClientBeginDeleteByIDOptions) (azfake.PollerResponder[armresources.ClientDeleteByIDResponse], azfake.ErrorResponder) {
		return accepted(armresources.ClientDeleteByIDResponse{}, s.drop(ctx, "/"+strings.TrimPrefix(id, "/")))
	}
	f.Server.BeginCreateOrUpdateByID = func(ctx context.Context, id, _ string, in armresources.GenericResource, _ *armresources.ClientBeginCreateOrUpdateByIDOptions) (azfake.PollerResponder[armresources.ClientCreateOrUpdateByIDResponse], azfake.ErrorResponder) {
		v, e := s.putGeneric(ctx, "/"+strings.TrimPrefix(id, "/"), in)
		return accepted(armresources.ClientCreateOrUpdateByIDResponse{GenericResource: v}, e)
	}
	f.Server.GetByID = func(_ context.Context, id, _ string, _ *armresources.ClientGetByIDOptions) (azfake.Responder[armresources.ClientGetByIDResponse], azfake.ErrorResponder) {
		v, e := get[armresources.GenericResource](s, "/"+strings.TrimPrefix(id, "/"))
		return answer(armresources.ClientGetByIDResponse{GenericResource: v}, e)
	}
	f.Server.NewListPager = func(o *armresources.ClientListOptions) azfake.PagerResponder[armresources.ClientListResponse] {
		s.mu.Lock()
		defer s.mu.Unlock()
		var out []armresources.GenericResourceExpanded
		for _, r := range s.all("", "") {
			if r.kind != "resourcegroups" && o != nil && selected(r, o.Filter) {
				body := toMap(r.body)
				delete(body, "properties") // the real listing has none
				out = append(out, from[armresources.GenericResourceExpanded](body))
			}
		}
		return paged(s, out, func(v []*armresources.GenericResourceExpanded) armresources.ClientListResponse {
			return armresources.ClientListResponse{ResourceListResult: armresources.ResourceListResult{Value: v}}
		})
	}
	return f
}

// putGeneric makes what has no client of its own in the SDK's core modules: identities, roles, autoscale settings.
func (s *Server) putGeneric(ctx context.Context, id string, in armresources.GenericResource) (out armresources.GenericResource, e *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := func(format string, args ...any) *armError {
		return fail(http.StatusBadRequest, "BadRequest", format, args...)
	}
	kind := kindOf(id)
	if kind == "microsoft.authorization/roleassignments" && in.Location == nil {
		in.Location = to.Ptr("global") // they live nowhere
	}
	r, e := s.put(ctx, id, in, s.Delays.Network, func(r *resource) *armError {
		props, _ := r.body["properties"].(map[string]any)
		switch kind {
		case "microsoft.managedidentity/userassignedidentities":
			r.body["properties"] = map[string]any{"principalId": "principal-of-" + at(r.body, "name"), "clientId": "client-of-" + at(r.body, "name")}
		case "microsoft.authorization/roleassignments":
			scope := id[:strings.LastIndex(strings.ToLower(id), "/providers/microsoft.authorization")]
			if vault, _, isSecret := strings.Cut(scope, "/secrets/"); isSecret {
				if _, e := s.find(vault); e != nil {
					return e
				}
			} else if _, e := s.find(scope); e != nil {
				return e
			}
			known := s.all("microsoft.managedidentity/userassignedidentities", "")
			if !slices.ContainsFunc(known, func(i *resource) bool { return at(i.body, "properties", "principalId") == at(props, "principalId") }) {
				return bad("PrincipalNotFound: Principal %s does not exist in the directory.", at(props, "principalId"))
			}
			if at(props, "principalType") == "" {
				return bad("a new principal is not known everywhere: principalType says what it is")
			}
			for _, other := range s.all(kind, "") {
				if other.id != id && at(other.body, "properties", "scope") == scope && at(other.body, "properties", "roleDefinitionId") == at(props, "roleDefinitionId") &&
					at(other.body, "properties", "principalId") == at(props, "principalId") {
					return fail(http.StatusConflict, "RoleAssignmentExists", "The role assignment already exists.")
				}
			}
			props["scope"] = scope
		case "microsoft.insights/autoscalesettings":
			if _, e := s.find(at(props, "targetResourceUri")); e != nil {
				return e
			}
			profiles, _ := props["profiles"].([]any)
			if len(profiles) == 0 || len(profiles) > 20 {
				return bad("an autoscale setting has 1 to 20 profiles")
			}
			for _, p := range profiles {
				if c, _ := p.(map[string]any)["capacity"].(map[string]any); at(c, "minimum") == "" || at(c, "maximum") == "" || at(c, "default") == "" {
					return bad("the capacity of a profile is minimum, maximum and default, as strings")
				}
			}
		default:
			return bad("%s is not known here", kind)
		}
		return nil
	}, nil)
	if e != nil {
		return out, e
	}
	return from[armresources.GenericResource](r.body), nil
}

// roleAssignments lists those of one principal.
func (s *Server) roleAssignments(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, a := range s.all("microsoft.authorization/roleassignments", "") {
		if r.URL.Query().Get("$filter") == "principalId eq '"+at(a.body, "properties", "principalId")+"'" {
			out = append(out, a.body)
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"value": out})
}

var filterTerm = regexp.MustCompile(`^(tagName|resourceType) eq '([^']+)'$`)

// selected applies the two filters of the resource listing that we know; any other selects nothing.
func selected(r *resource, filter *string) bool {
	if filter == nil {
		return true
	}
	m := filterTerm.FindStringSubmatch(*filter)
	switch {
	case m == nil:
		return false
	case m[1] == "tagName":
		_, ok := r.tags()[m[2]]
		return ok
	}
	return strings.EqualFold(r.kind, m[2])
}

// get reads one resource.
func get[T any](s *Server, id string) (out T, e *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return out, e
	}
	return from[T](r.body), nil
}

// drop deletes one resource, unless another holds it.
func (s *Server) drop(ctx context.Context, id string) *armError {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return e
	}
	if e := s.held(r); e != nil {
		return e
	}
	delay := s.Delays.Delete
	if r.state == "Deleting" && r.op != nil {
		delay = time.Until(r.op.due) // it is going already
	}
	r.setState("Deleting")
	s.begin(ctx, r, delay, func() {
		if r.kind == "microsoft.compute/virtualmachines" {
			s.cascade(r)
		}
		s.abandon(r)
		s.remove(r.id)
	})
	return nil
}

// held says who keeps a resource from being deleted, with Azure's own codes.
func (s *Server) held(r *resource) *armError {
	users := func(kind string, what func(body map[string]any) bool) *resource {
		for _, u := range s.all(kind, "") {
			if what(u.body) {
				return u
			}
		}
		return nil
	}
	mentions := func(body map[string]any) bool {
		return strings.Contains(strings.ToLower(asJSON(body)), strings.ToLower(`"`+r.id+`"`))
	}
	var by *resource
	code := "ResourceInUse"
	switch r.kind {
	case "microsoft.network/networkinterfaces":
		by, code = users("microsoft.compute/virtualmachines", mentions), "NicInUse"
	case "microsoft.network/publicipaddresses":
		by, code = users("microsoft.network/networkinterfaces", mentions), "PublicIPAddressCannotBeDeleted"
	case "microsoft.network/networksecuritygroups":
		by, code = users("microsoft.network/networkinterfaces", mentions), "InUseNetworkSecurityGroupCannotBeDeleted"
	case "microsoft.network/virtualnetworks":
		within := func(body map[string]any) bool {
			return strings.Contains(strings.ToLower(asJSON(body)), strings.ToLower(r.id+"/subnets/"))
		}
		by, code = users("microsoft.network/networkinterfaces", within), "InUseSubnetCannotBeDeleted"
	case "microsoft.compute/disks":
		if m := at(r.body, "managedBy"); m != "" {
			return fail(http.StatusConflict, "OperationNotAllowed", "Disk %s is attached to VM %s.", r.id, m)
		}
		if r.upload == "ActiveUpload" {
			return fail(http.StatusConflict, "OperationNotAllowed", "Disk %s has an active shared access signature; revoke it first.", r.id)
		}
	case "microsoft.compute/galleries", "microsoft.compute/galleries/images":
		if inside := s.all("", r.id+"/"); len(inside) > 0 {
			return fail(http.StatusConflict, "CannotDeleteResource", "Cannot delete resource %s while nested resources exist: %s.", r.id, inside[0].id)
		}
	}
	if by != nil {
		return fail(http.StatusBadRequest, code, "%s is in use by %s.", r.id, by.id)
	}
	return nil
}

func (s *Server) network() *network.ServerFactory {
	f := &network.ServerFactory{}
	const ns = "Microsoft.Network"
	f.SecurityGroupsServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armnetwork.SecurityGroup, _ *armnetwork.SecurityGroupsClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armnetwork.SecurityGroupsClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := create[armnetwork.SecurityGroup](s, ctx, rid(rg, ns, "networkSecurityGroups", name), in, s.Delays.Network, func(r *resource) *armError {
			for _, rule := range in.Properties.SecurityRules {
				if p := rule.Properties; *p.Direction == armnetwork.SecurityRuleDirectionInbound && *p.Access == armnetwork.SecurityRuleAccessAllow && strings.Contains("*Internet0.0.0.0/0", *p.SourceAddressPrefix) {
					return fail(http.StatusForbidden, "RequestDisallowedByPolicy", "a rule that lets in everybody is not allowed here")
				}
			}
			return nil
		}, nil)
		return accepted(armnetwork.SecurityGroupsClientCreateOrUpdateResponse{SecurityGroup: v}, e)
	}
	f.SecurityGroupsServer.Get = func(_ context.Context, rg, name string, _ *armnetwork.SecurityGroupsClientGetOptions) (azfake.Responder[armnetwork.SecurityGroupsClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armnetwork.SecurityGroup](s, rid(rg, ns, "networkSecurityGroups", name))
		return answer(armnetwork.SecurityGroupsClientGetResponse{SecurityGroup: v}, e)
	}
	f.VirtualNetworksServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armnetwork.VirtualNetwork, _ *armnetwork.VirtualNetworksClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armnetwork.VirtualNetworksClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		id := rid(rg, ns, "virtualNetworks", name)
		v, e := create[armnetwork.VirtualNetwork](s, ctx, id, in, s.Delays.Network, func(r *resource) *armError {
			if in.Properties == nil || in.Properties.AddressSpace == nil || len(in.Properties.Subnets) == 0 {
				return fail(http.StatusBadRequest, "InvalidRequestFormat", "a virtual network needs an address space and a subnet")
			}
			props := r.body["properties"].(map[string]any)
			for _, sub := range props["subnets"].([]any) {
				sub := sub.(map[string]any)
				sub["id"] = id + "/subnets/" + sub["name"].(string)
			}
			return nil
		}, nil)
		return accepted(armnetwork.VirtualNetworksClientCreateOrUpdateResponse{VirtualNetwork: v}, e)
	}
	f.VirtualNetworksServer.Get = func(_ context.Context, rg, name string, _ *armnetwork.VirtualNetworksClientGetOptions) (azfake.Responder[armnetwork.VirtualNetworksClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armnetwork.VirtualNetwork](s, rid(rg, ns, "virtualNetworks", name))
		return answer(armnetwork.VirtualNetworksClientGetResponse{VirtualNetwork: v}, e)
	}
	f.SubnetsServer.Get = func(_ context.Context, rg, vnet, name string, _ *armnetwork.SubnetsClientGetOptions) (azfake.Responder[armnetwork.SubnetsClientGetResponse], azfake.ErrorResponder) {
		sub, e := s.subnet(rid(rg, ns, "virtualNetworks", vnet, "subnets", name))
		if e != nil {
			return answer(armnetwork.SubnetsClientGetResponse{}, e)
		}
		return answer(armnetwork.SubnetsClientGetResponse{Subnet: from[armnetwork.Subnet](sub)}, nil)
	}
	f.PublicIPAddressesServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armnetwork.PublicIPAddress, _ *armnetwork.PublicIPAddressesClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armnetwork.PublicIPAddressesClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := create[armnetwork.PublicIPAddress](s, ctx, rid(rg, ns, "publicIPAddresses", name), in, s.Delays.Network, func(r *resource) *armError {
			if in.SKU == nil || *in.SKU.Name != armnetwork.PublicIPAddressSKUNameStandard || *in.Properties.PublicIPAllocationMethod != armnetwork.IPAllocationMethodStatic {
				return fail(http.StatusBadRequest, "IPv4BasicSkuPublicIpCountLimitReached", "basic public addresses are retired: use a static Standard one")
			}
			r.body["properties"].(map[string]any)["ipAddress"] = "127.0.0.1"
			return nil
		}, nil)
		return accepted(armnetwork.PublicIPAddressesClientCreateOrUpdateResponse{PublicIPAddress: v}, e)
	}
	f.PublicIPAddressesServer.Get = func(_ context.Context, rg, name string, _ *armnetwork.PublicIPAddressesClientGetOptions) (azfake.Responder[armnetwork.PublicIPAddressesClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armnetwork.PublicIPAddress](s, rid(rg, ns, "publicIPAddresses", name))
		return answer(armnetwork.PublicIPAddressesClientGetResponse{PublicIPAddress: v}, e)
	}
	f.InterfacesServer.BeginCreateOrUpdate = func(ctx context.Context, rg, name string, in armnetwork.Interface, _ *armnetwork.InterfacesClientBeginCreateOrUpdateOptions) (azfake.PollerResponder[armnetwork.InterfacesClientCreateOrUpdateResponse], azfake.ErrorResponder) {
		v, e := create[armnetwork.Interface](s, ctx, rid(rg, ns, "networkInterfaces", name), in, s.Delays.Network, func(r *resource) *armError { return s.checkNIC(r, in) }, nil)
		return accepted(armnetwork.InterfacesClientCreateOrUpdateResponse{Interface: v}, e)
	}
	f.InterfacesServer.Get = func(_ context.Context, rg, name string, _ *armnetwork.InterfacesClientGetOptions) (azfake.Responder[armnetwork.InterfacesClientGetResponse], azfake.ErrorResponder) {
		v, e := get[armnetwork.Interface](s, rid(rg, ns, "networkInterfaces", name))
		return answer(armnetwork.InterfacesClientGetResponse{Interface: v}, e)
	}
	return f
}

// checkNIC finds what an interface refers to and asks for the permissions to join it.
func (s *Server) checkNIC(r *resource, in armnetwork.Interface) *armError {
	ip := in.Properties.IPConfigurations[0].Properties
	if ip.Subnet == nil {
		return fail(http.StatusBadRequest, "InvalidRequestFormat", "a network interface needs a subnet")
	}
	if _, e := s.subnetLocked(*ip.Subnet.ID); e != nil {
		return e
	}
	if e := s.authorize("Microsoft.Network/virtualNetworks/subnets/join/action", *ip.Subnet.ID); e != nil {
		return e
	}
	if ip.PublicIPAddress != nil {
		if e := s.linked(*ip.PublicIPAddress.ID, "Microsoft.Network/publicIPAddresses/join/action"); e != nil {
			return e
		}
	}
	if g := in.Properties.NetworkSecurityGroup; g != nil {
		if e := s.linked(*g.ID, "Microsoft.Network/networkSecurityGroups/join/action"); e != nil {
			return e
		}
	}
	cfg := r.body["properties"].(map[string]any)["ipConfigurations"].([]any)[0].(map[string]any)
	cfg["properties"].(map[string]any)["privateIPAddress"] = "127.0.0.1"
	return nil
}

// linked finds a resource that another is to refer to, which must be ready, and asks for a permission on it.
func (s *Server) linked(id, act string) *armError {
	r, e := s.find(id)
	if e != nil {
		return fail(http.StatusBadRequest, "InvalidResourceReference", "Resource %s referenced was not found.", id)
	}
	if r.state != "Succeeded" {
		return fail(http.StatusTooManyRequests, "ReferencedResourceNotProvisioned", "%s is not in Succeeded state: %s.", id, r.state)
	}
	return s.authorize(act, id)
}

func (s *Server) subnet(id string) (map[string]any, *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.subnetLocked(id)
}

func (s *Server) subnetLocked(id string) (map[string]any, *armError) {
	vnetID, name, _ := strings.Cut(id, "/subnets/")
	vnet, e := s.find(vnetID)
	if e != nil {
		return nil, e
	}
	if vnet.state != "Succeeded" {
		return nil, fail(http.StatusTooManyRequests, "ReferencedResourceNotProvisioned", "%s is not in Succeeded state.", vnetID)
	}
	subs, _ := vnet.body["properties"].(map[string]any)["subnets"].([]any)
	for _, sub := range subs {
		if sub := sub.(map[string]any); strings.EqualFold(sub["name"].(string), name) {
			return toMap(sub), nil
		}
	}
	return nil, fail(http.StatusNotFound, "NotFound", "Resource %s not found.", id)
}

// create is put with the SDK's type on both sides.
func create[T any](s *Server, ctx context.Context, id string, in T, delay time.Duration, check func(*resource) *armError, then func(*resource)) (out T, e *armError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.put(ctx, id, in, delay, check, then)
	if e != nil {
		return out, e
	}
	return from[T](r.body), nil
}
