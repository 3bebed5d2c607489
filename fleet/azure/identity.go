package azure

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

const identityVersion = "2023-01-31"

// The built-in roles that a machine of the fleet's own identity has, by their ids in every subscription
// (learn.microsoft.com/azure/role-based-access-control/built-in-roles).
const (
	secretsUser      = "4633458b-17de-408a-874b-0445c86b69e6" //nolint:gosec // Key Vault Secrets User
	metricsPublisher = "3913510d-42f4-4e42-8a64-420c390055eb" // Monitoring Metrics Publisher
)

func (c *Group) ownIdentity() bool { return c.g.InstanceProfile == images.CreateProfile }

// identity is the id of the one that machines have; "" for none.
func (c *Group) identity() string {
	if c.ownIdentity() {
		return c.id("Microsoft.ManagedIdentity/userAssignedIdentities", c.name)
	}
	return c.g.InstanceProfile
}

// planIdentity makes the fleet's own identity, and lets it read the secrets that the spec refers to and nothing else.
func (c *Group) planIdentity(ctx context.Context) ([]fleet.Change, error) {
	if !c.ownIdentity() {
		if c.g.InstanceProfile != "" && !strings.HasPrefix(c.g.InstanceProfile, "/subscriptions/") {
			return nil, fmt.Errorf("fleet.instance_profile: %q is not the id of a user-assigned identity: `az identity show --query id` prints it; create makes one", c.g.InstanceProfile)
		}
		return nil, nil
	}
	have, err := c.a.Resource(ctx, c.identity(), identityVersion)
	if err != nil {
		return nil, err
	}
	var changes []fleet.Change
	if have != nil && !c.ours(have.Tags) {
		return nil, c.foreign("a managed identity", c.name)
	}
	if have == nil || failed(have) {
		changes = append(changes, fleet.Change{Action: fleet.Create, Kind: "managed identity", Name: c.name, Do: func(ctx context.Context, created func(string) error) error {
			if _, err := c.a.Put(ctx, c.identity(), identityVersion, armresources.GenericResource{Location: &c.location, Tags: c.tags(nil)}); err != nil {
				return err
			}
			return created(c.identity())
		}})
	}
	for _, s := range c.secrets() {
		scope, err := c.secretScope(ctx, s)
		if err != nil {
			return nil, err
		}
		more, err := c.planGrant(ctx, secretsUser, scope, fmt.Sprintf("may read %s", s.Ref()))
		if err != nil {
			return nil, err
		}
		changes = append(changes, more...)
	}
	return changes, nil
}

// planMetrics lets machines publish how busy they are, where the group is scaled by that.
func (c *Group) planMetrics(ctx context.Context) ([]fleet.Change, error) {
	if !c.ownIdentity() || c.g.Autoscale == 0 {
		return nil, nil
	}
	return c.planGrant(ctx, metricsPublisher, c.setID(), "may publish its load")
}

// secrets are those of the spec that lie in a vault.
func (c *Group) secrets() []runner.Secret {
	var out []runner.Secret
	for _, s := range []runner.Secret{c.g.Runner.Token, c.g.Runner.Vault.Content, c.g.Runner.Vault.Salt} {
		if s.Scheme() == "keyvault" {
			out = append(out, s)
		}
	}
	return out
}

// secretScope is the resource id of a secret that is referred to by its URL.
func (c *Group) secretScope(ctx context.Context, s runner.Secret) (string, error) {
	u, err := url.Parse(s.Ref())
	parts := []string{}
	if err == nil {
		parts = strings.Split(strings.Trim(u.Path, "/"), "/")
	}
	if err != nil || len(parts) < 2 || parts[0] != "secrets" {
		return "", fmt.Errorf("%s is not the address of a secret: write keyvault:https://VAULT.vault.azure.net/secrets/NAME", s)
	}
	vault, _, _ := strings.Cut(u.Hostname(), ".")
	ids, err := c.a.Find(ctx, "Microsoft.KeyVault/vaults", vault)
	if err != nil {
		return "", err
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("there is no key vault %s in the subscription: make an identity yourself that may read the token, and name it in fleet.instance_profile", vault)
	}
	return ids[0] + "/secrets/" + parts[1], nil
}

// grantID is a role assignment's id: the same for the same role on the same thing, so that it is made once.
func (c *Group) grantID(role, scope string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(c.setID() + role + scope)))
	return scope + "/providers/Microsoft.Authorization/roleAssignments/" + uuid(sum[:16])
}

// uuid forms one of 16 bytes.
func uuid(b []byte) string {
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func (c *Group) planGrant(ctx context.Context, role, scope, what string) ([]fleet.Change, error) {
	id := c.grantID(role, scope)
	have, err := c.a.Resource(ctx, id, azure.GrantVersion)
	if err != nil {
		return nil, err
	}
	if have != nil && !failed(have) {
		return nil, nil
	}
	return []fleet.Change{{Action: fleet.Create, Kind: "role assignment", Name: c.name, Note: what, Do: func(ctx context.Context, created func(string) error) error {
		principal, err := c.principal(ctx)
		if err != nil {
			return err
		}
		_, err = c.a.Put(ctx, id, azure.GrantVersion, armresources.GenericResource{Properties: map[string]any{"principalId": principal, "principalType": "ServicePrincipal",
			"roleDefinitionId": "/subscriptions/" + c.a.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + role, "description": tagFleet + "=" + c.g.Name}})
		if err != nil {
			return err
		}
		return created(id)
	}}}, nil
}

// principal is the object id of the fleet's own identity; "" when there is none.
func (c *Group) principal(ctx context.Context) (string, error) {
	have, err := c.a.Resource(ctx, c.id("Microsoft.ManagedIdentity/userAssignedIdentities", c.name), identityVersion)
	if err != nil || have == nil || !c.ours(have.Tags) {
		return "", err
	}
	props, _ := have.Properties.(map[string]any)
	id, _ := props["principalId"].(string)
	return id, nil
}
