package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// need is an RBAC action and when a bake uses it.
type need struct {
	action string
	when   func(*Cloud) bool
}

func always(*Cloud) bool           { return true }
func withMachine(c *Cloud) bool    { return !c.fromDisk() || c.spec.TestBoot }
func withNetwork(c *Cloud) bool    { return withMachine(c) && c.spec.Subnet == "" }
func withPublicIP(c *Cloud) bool   { return !c.fromDisk() && !c.spec.PrivateIP }
func withGallery(c *Cloud) bool    { return c.gallery() }
func withImage(c *Cloud) bool      { return !c.spec.TrustedLaunch }
func withDiskUpload(c *Cloud) bool { return c.fromDisk() }

// needs are the actions of a bake, of the roles in docs/azure.md.
var needs = []need{
	{"Microsoft.Resources/subscriptions/resourceGroups/read", always},
	{"Microsoft.Resources/subscriptions/resourceGroups/write", func(c *Cloud) bool { return c.groupNew }},
	{"Microsoft.Resources/tags/write", always},
	{"Microsoft.Network/networkSecurityGroups/write", withPublicIP},
	{"Microsoft.Network/networkSecurityGroups/join/action", withPublicIP},
	{"Microsoft.Network/networkSecurityGroups/delete", withPublicIP},
	{"Microsoft.Network/virtualNetworks/write", withNetwork},
	{"Microsoft.Network/virtualNetworks/delete", withNetwork},
	{"Microsoft.Network/virtualNetworks/subnets/join/action", withMachine},
	{"Microsoft.Network/publicIPAddresses/write", withPublicIP},
	{"Microsoft.Network/publicIPAddresses/join/action", withPublicIP},
	{"Microsoft.Network/publicIPAddresses/delete", withPublicIP},
	{"Microsoft.Network/networkInterfaces/write", withMachine},
	{"Microsoft.Network/networkInterfaces/join/action", withMachine},
	{"Microsoft.Network/networkInterfaces/delete", withMachine},
	{"Microsoft.Compute/virtualMachines/read", withMachine},
	{"Microsoft.Compute/virtualMachines/write", withMachine},
	{"Microsoft.Compute/virtualMachines/delete", withMachine},
	{"Microsoft.Compute/virtualMachines/deallocate/action", func(c *Cloud) bool { return !c.fromDisk() }},
	{"Microsoft.Compute/virtualMachines/generalize/action", func(c *Cloud) bool { return !c.fromDisk() }},
	{"Microsoft.Compute/disks/read", always},
	{"Microsoft.Compute/disks/write", withDiskUpload},
	{"Microsoft.Compute/disks/delete", always},
	{"Microsoft.Compute/disks/beginGetAccess/action", withDiskUpload},
	{"Microsoft.Compute/disks/endGetAccess/action", withDiskUpload},
	{"Microsoft.Compute/images/read", withImage},
	{"Microsoft.Compute/images/write", withImage},
	{"Microsoft.Compute/images/delete", withImage},
	{"Microsoft.Compute/galleries/read", withGallery},
	{"Microsoft.Compute/galleries/write", func(c *Cloud) bool { return c.galleryNew }},
	{"Microsoft.Compute/galleries/images/read", withGallery},
	{"Microsoft.Compute/galleries/images/write", func(c *Cloud) bool { return c.defNew }},
	{"Microsoft.Compute/galleries/images/versions/read", withGallery},
	{"Microsoft.Compute/galleries/images/versions/write", withGallery},
	{"Microsoft.Compute/galleries/images/versions/delete", withGallery},
}

// permission is one grant, as Azure lists them: a role's actions less its notActions.
type permission struct {
	Actions    []string `json:"actions"`
	NotActions []string `json:"notActions"`
}

// checkPermissions holds what the identity may do in the resource group against what the bake will do. An identity
// that may not even ask is left to find out.
func (c *Cloud) checkPermissions(ctx context.Context, f *findings) {
	scope := "/subscriptions/" + c.api.subscription
	if !c.groupNew {
		scope += "/resourceGroups/" + c.spec.ResourceGroup
	}
	have, err := c.permissions(ctx, scope)
	if err != nil {
		return
	}
	var missing []string
	for _, n := range needs {
		if n.when(c) && !slices.ContainsFunc(have, func(p permission) bool { return p.grants(n.action) }) {
			missing = append(missing, n.action)
		}
	}
	if len(missing) > 0 {
		f.addf("the credentials may not %s on %s: give the identity the role in docs/azure.md", strings.Join(missing, ", "), scope)
	}
}

// permissions asks what the identity may do; the SDK has this call only in a module of its own.
func (c *Cloud) permissions(ctx context.Context, scope string) ([]permission, error) {
	next := c.api.raw.Endpoint() + scope + "/providers/Microsoft.Authorization/permissions?api-version=2022-04-01"
	var all []permission
	for next != "" {
		req, err := runtime.NewRequest(ctx, http.MethodGet, next)
		if err != nil {
			return nil, err
		}
		resp, err := c.api.raw.Pipeline().Do(req) //nolint:bodyclose // Payload and NewResponseError do
		if err != nil {
			return nil, err
		}
		if !runtime.HasStatusCode(resp, http.StatusOK) {
			return nil, runtime.NewResponseError(resp)
		}
		var page struct {
			Value    []permission `json:"value"`
			NextLink string       `json:"nextLink"`
		}
		body, err := runtime.Payload(resp)
		if err == nil {
			err = json.Unmarshal(body, &page)
		}
		if err != nil {
			return nil, fmt.Errorf("permissions: %w", err)
		}
		all, next = append(all, page.Value...), page.NextLink
	}
	return all, nil
}

func (p permission) grants(action string) bool {
	match := func(pattern string) bool { return wildcard(strings.ToLower(pattern), strings.ToLower(action)) }
	return slices.ContainsFunc(p.Actions, match) && !slices.ContainsFunc(p.NotActions, match)
}

// wildcard matches * against any text, slashes included.
func wildcard(pattern, text string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	if !strings.HasPrefix(text, before) {
		return false
	}
	for rest := text[len(before):]; ; rest = rest[1:] {
		if wildcard(after, rest) {
			return true
		}
		if rest == "" {
			return false
		}
	}
}
