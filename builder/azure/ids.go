package azure

import (
	"fmt"
	"slices"
	"strings"
)

// resourceID is a resource id taken apart.
type resourceID struct {
	group string
	kind  string   // "Microsoft.Compute/galleries/images"; "" for a resource group
	names []string // one per type in kind
}

func parseID(id string) (resourceID, error) {
	parts := strings.Split(strings.Trim(id, "/"), "/")
	if len(parts) < 4 || len(parts)%2 != 0 || !strings.EqualFold(parts[0], "subscriptions") || !strings.EqualFold(parts[2], "resourceGroups") {
		return resourceID{}, fmt.Errorf("%q is not the id of an Azure resource: write it as /subscriptions/ID/resourceGroups/NAME/providers/TYPE/NAME", id)
	}
	r := resourceID{group: parts[3]}
	if len(parts) == 4 {
		return r, nil
	}
	if !strings.EqualFold(parts[4], "providers") || len(parts) < 8 {
		return resourceID{}, fmt.Errorf("%q is not the id of an Azure resource", id)
	}
	r.kind = parts[5]
	for i := 6; i < len(parts); i += 2 {
		r.kind += "/" + parts[i]
		r.names = append(r.names, parts[i+1])
	}
	return r, nil
}

// apiVersion is the one that deleting the resource is asked with.
func (r resourceID) apiVersion() string {
	i := slices.IndexFunc(kinds, func(k struct{ kind, resourceType, version string }) bool {
		return strings.EqualFold(k.resourceType, r.kind)
	})
	if i < 0 {
		return "2024-03-01"
	}
	return kinds[i].version
}

func (r resourceID) name() string { return r.names[len(r.names)-1] }

// region is a location in the form that ids and comparisons use: "West Europe" is westeurope.
func region(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }

// inUse says that something else holds a resource.
func inUse(err error) bool {
	switch code(err) {
	case "NicInUse", "PublicIPAddressCannotBeDeleted", "InUseNetworkSecurityGroupCannotBeDeleted", "InUseSubnetCannotBeDeleted",
		"CannotDeleteResource", "AnotherOperationInProgress", "OperationNotAllowed", "Conflict":
		return true
	}
	return false
}
