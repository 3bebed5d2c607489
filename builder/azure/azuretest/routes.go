package azuretest

import (
	"encoding/json"
	"net/http"
	"path"
	"strings"
)

// route is a call that the server knows: the module whose fake serves it and the SDK's name for it.
type route struct{ method, pattern, module, api string }

const (
	inSub   = "/subscriptions/*"
	inGroup = inSub + "/resourcegroups/*"
	compu   = inGroup + "/providers/microsoft.compute"
	tags    = "/providers/microsoft.resources/tags/default"
	roles   = "/providers/microsoft.authorization/roleassignments"
	netw    = inGroup + "/providers/microsoft.network"
)

// routes are all the calls; a segment * stands for a name.
var routes = []route{
	{"GET", inSub + "/providers/*/locations/*/operations/*", "operation", "Operation"},
	{"GET", inSub + "/providers/microsoft.authorization/permissions", "permissions", "Permissions"},
	{"GET", inGroup + "/providers/microsoft.authorization/permissions", "permissions", "Permissions"},

	{"GET", inSub + "/providers/*", "resources", "ProvidersClient.Get"},
	{"GET", inSub + "/resources", "resources", "Client.NewListPager"},
	{"GET", inGroup, "resources", "ResourceGroupsClient.Get"},
	{"PUT", inGroup, "resources", "ResourceGroupsClient.CreateOrUpdate"},
	{"DELETE", inGroup, "resources", "ResourceGroupsClient.BeginDelete"},
	{"GET", inSub + "/resourcegroups", "resources", "ResourceGroupsClient.NewListPager"},
	{"GET", inGroup + "/resources", "resources", "Client.NewListByResourceGroupPager"},
	{"PATCH", inGroup + tags, "resources", "TagsClient.BeginUpdateAtScope"},
	{"PATCH", inGroup + "/providers/*/*/*" + tags, "resources", "TagsClient.BeginUpdateAtScope"},
	{"PATCH", inGroup + "/providers/*/*/*/*/*" + tags, "resources", "TagsClient.BeginUpdateAtScope"},
	{"DELETE", compu + "/virtualmachinescalesets/*", "compute", "VirtualMachineScaleSetsClient.BeginDelete"},
	{"DELETE", inGroup + "/providers/*/*/*", "resources", "Client.BeginDeleteByID"},
	{"DELETE", inGroup + "/providers/*/*/*/*/*", "resources", "Client.BeginDeleteByID"},
	{"DELETE", inGroup + "/providers/*/*/*/*/*/*/*", "resources", "Client.BeginDeleteByID"},
	{"DELETE", inGroup + "/providers/*/*/*/*/*" + roles + "/*", "resources", "Client.BeginDeleteByID"},
	{"GET", inSub + roles, "roles", "RoleAssignments"},
	{"PUT", inGroup + "/providers/microsoft.managedidentity/userassignedidentities/*", "resources", "Client.BeginCreateOrUpdateByID"},
	{"GET", inGroup + "/providers/microsoft.managedidentity/userassignedidentities/*", "resources", "Client.GetByID"},
	{"PUT", inGroup + "/providers/microsoft.insights/autoscalesettings/*", "resources", "Client.BeginCreateOrUpdateByID"},
	{"GET", inGroup + "/providers/microsoft.insights/autoscalesettings/*", "resources", "Client.GetByID"},
	{"PUT", inGroup + "/providers/*/*/*" + roles + "/*", "resources", "Client.BeginCreateOrUpdateByID"},
	{"GET", inGroup + "/providers/*/*/*" + roles + "/*", "resources", "Client.GetByID"},
	{"PUT", inGroup + "/providers/*/*/*/*/*" + roles + "/*", "resources", "Client.BeginCreateOrUpdateByID"},
	{"GET", inGroup + "/providers/*/*/*/*/*" + roles + "/*", "resources", "Client.GetByID"},

	{"PUT", netw + "/networksecuritygroups/*", "network", "SecurityGroupsClient.BeginCreateOrUpdate"},
	{"GET", netw + "/networksecuritygroups/*", "network", "SecurityGroupsClient.Get"},
	{"PUT", netw + "/virtualnetworks/*", "network", "VirtualNetworksClient.BeginCreateOrUpdate"},
	{"GET", netw + "/virtualnetworks/*", "network", "VirtualNetworksClient.Get"},
	{"GET", netw + "/virtualnetworks/*/subnets/*", "network", "SubnetsClient.Get"},
	{"PUT", netw + "/publicipaddresses/*", "network", "PublicIPAddressesClient.BeginCreateOrUpdate"},
	{"GET", netw + "/publicipaddresses/*", "network", "PublicIPAddressesClient.Get"},
	{"PUT", netw + "/networkinterfaces/*", "network", "InterfacesClient.BeginCreateOrUpdate"},
	{"GET", netw + "/networkinterfaces/*", "network", "InterfacesClient.Get"},

	{"GET", inSub + "/providers/microsoft.compute/skus", "compute", "ResourceSKUsClient.NewListPager"},
	{"GET", inSub + "/providers/microsoft.compute/locations/*/usages", "compute", "UsageClient.NewListPager"},
	{"GET", inSub + "/providers/microsoft.compute/locations/*/publishers/*/artifacttypes/vmimage/offers/*/skus/*/versions", "compute", "VirtualMachineImagesClient.List"},
	{"GET", inSub + "/providers/microsoft.compute/locations/*/publishers/*/artifacttypes/vmimage/offers/*/skus/*/versions/*", "compute", "VirtualMachineImagesClient.Get"},
	{"GET", inSub + "/providers/microsoft.compute/virtualmachines", "compute", "VirtualMachinesClient.NewListAllPager"},
	{"GET", inSub + "/providers/microsoft.compute/virtualmachinescalesets", "compute", "VirtualMachineScaleSetsClient.NewListAllPager"},
	{"GET", compu + "/virtualmachinescalesets/*/virtualmachines", "compute", "VirtualMachineScaleSetVMsClient.NewListPager"},
	{"PUT", compu + "/virtualmachinescalesets/*", "compute", "VirtualMachineScaleSetsClient.BeginCreateOrUpdate"},
	{"PATCH", compu + "/virtualmachinescalesets/*", "compute", "VirtualMachineScaleSetsClient.BeginUpdate"},
	{"GET", compu + "/virtualmachinescalesets/*", "compute", "VirtualMachineScaleSetsClient.Get"},
	{"POST", compu + "/virtualmachinescalesets/*/delete", "compute", "VirtualMachineScaleSetsClient.BeginDeleteInstances"},
	{"GET", compu + "/virtualmachinescalesets/*/rollingupgrades/latest", "compute", "VirtualMachineScaleSetRollingUpgradesClient.GetLatest"},
	{"POST", compu + "/virtualmachinescalesets/*/rollingupgrades/cancel", "compute", "VirtualMachineScaleSetRollingUpgradesClient.BeginCancel"},
	{"GET", compu + "/virtualmachines", "compute", "VirtualMachinesClient.NewListPager"},
	{"PUT", compu + "/virtualmachines/*", "compute", "VirtualMachinesClient.BeginCreateOrUpdate"},
	{"PATCH", compu + "/virtualmachines/*", "compute", "VirtualMachinesClient.BeginUpdate"},
	{"GET", compu + "/virtualmachines/*", "compute", "VirtualMachinesClient.Get"},
	{"GET", compu + "/virtualmachines/*/instanceview", "compute", "VirtualMachinesClient.InstanceView"},
	{"POST", compu + "/virtualmachines/*/deallocate", "compute", "VirtualMachinesClient.BeginDeallocate"},
	{"POST", compu + "/virtualmachines/*/generalize", "compute", "VirtualMachinesClient.Generalize"},
	{"POST", compu + "/virtualmachines/*/retrievebootdiagnosticsdata", "compute", "VirtualMachinesClient.RetrieveBootDiagnosticsData"},
	{"PUT", compu + "/images/*", "compute", "ImagesClient.BeginCreateOrUpdate"},
	{"GET", compu + "/images/*", "compute", "ImagesClient.Get"},
	{"GET", compu + "/images", "compute", "ImagesClient.NewListByResourceGroupPager"},
	{"PUT", compu + "/galleries/*", "compute", "GalleriesClient.BeginCreateOrUpdate"},
	{"GET", compu + "/galleries/*", "compute", "GalleriesClient.Get"},
	{"PUT", compu + "/galleries/*/images/*", "compute", "GalleryImagesClient.BeginCreateOrUpdate"},
	{"GET", compu + "/galleries/*/images/*", "compute", "GalleryImagesClient.Get"},
	{"PUT", compu + "/galleries/*/images/*/versions/*", "compute", "GalleryImageVersionsClient.BeginCreateOrUpdate"},
	{"PATCH", compu + "/galleries/*/images/*/versions/*", "compute", "GalleryImageVersionsClient.BeginUpdate"},
	{"GET", compu + "/galleries/*/images/*/versions/*", "compute", "GalleryImageVersionsClient.Get"},
	{"GET", compu + "/galleries/*/images/*/versions", "compute", "GalleryImageVersionsClient.NewListByGalleryImagePager"},
	{"PUT", compu + "/disks/*", "compute", "DisksClient.BeginCreateOrUpdate"},
	{"GET", compu + "/disks/*", "compute", "DisksClient.Get"},
	{"POST", compu + "/disks/*/begingetaccess", "compute", "DisksClient.BeginGrantAccess"},
	{"POST", compu + "/disks/*/endgetaccess", "compute", "DisksClient.BeginRevokeAccess"},
}

func findRoute(r *http.Request) (route, bool) {
	p := strings.ToLower(strings.TrimSuffix(r.URL.Path, "/"))
	p, _, _ = strings.Cut(p, pageSuffix)
	for _, rt := range routes {
		if rt.method != r.Method {
			continue
		}
		if ok, _ := path.Match(rt.pattern, p); ok {
			return rt, true
		}
	}
	return route{api: "unknown"}, false
}

// action is the RBAC action that a call needs, as Azure derives it from the path.
func action(method, p string) string {
	verb := map[string]string{"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete", "POST": "action"}[method]
	parts := strings.Split(strings.Trim(p, "/"), "/")
	at := -1
	for i, s := range parts {
		if strings.EqualFold(s, "providers") && i+1 < len(parts) {
			at = i + 1
		}
	}
	if at < 0 || len(parts) == at+1 {
		types := []string{"Microsoft.Resources"}
		for i := 0; i < len(parts); i += 2 {
			types = append(types, parts[i])
		}
		return strings.Join(types, "/") + "/" + verb
	}
	types := []string{parts[at]}
	for i := at + 1; i < len(parts); i += 2 {
		types = append(types, parts[i])
	}
	return strings.Join(types, "/") + "/" + verb
}

// granted tells whether a pattern such as Microsoft.Compute/*/read is one of those allowed.
func (s *Server) granted(act string) bool {
	if s.Allow == nil {
		return true
	}
	for _, pattern := range s.Allow {
		if matches(strings.ToLower(pattern), strings.ToLower(act)) {
			return true
		}
	}
	return false
}

// matches is RBAC's wildcard: * stands for any text, slashes included.
func matches(pattern, text string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	if !strings.HasPrefix(text, before) {
		return false
	}
	for rest := text[len(before):]; ; rest = rest[1:] {
		if matches(after, rest) {
			return true
		}
		if rest == "" {
			return false
		}
	}
}

func (s *Server) authorize(act, scope string) *armError {
	if s.granted(act) || strings.HasSuffix(act, "/operations/read") {
		return nil
	}
	return fail(http.StatusForbidden, "AuthorizationFailed", "The client 'loopback' with object id '0' does not have authorization "+
		"to perform action '%s' over scope '%s' or the scope is invalid.", act, scope)
}

func (s *Server) permissions(w http.ResponseWriter) {
	allow := s.Allow
	if allow == nil {
		allow = []string{"*"}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"value": []any{map[string]any{"actions": allow, "notActions": []string{}}}})
}
