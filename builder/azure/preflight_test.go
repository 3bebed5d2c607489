package azure

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
)

// Everything that would stop a bake is one sentence with what to do, and nothing has been created.
func TestPreflight(t *testing.T) {
	rg := "/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg/providers/Microsoft.Compute/"
	for name, test := range map[string]struct {
		set  func(w *world)
		want []string
	}{
		"no group, no location": {func(w *world) { w.spec.Azure.ResourceGroup = "nowhere" }, []string{"resource group nowhere does not exist", "--location"}},
		"unknown location": {func(w *world) { w.spec.Azure.ReplicateTo = []string{"northeuropa"} },
			[]string{"there is no location northeuropa: did you mean northeurope?"}},
		"size not offered": {func(w *world) { w.spec.Azure.Sizes = []string{"Standard_D8as_v5"} },
			[]string{"size Standard_D8as_v5 is not offered in westeurope", "choose another --size"}},
		"size of the other architecture": {func(w *world) {
			w.spec.Azure.Sizes, w.spec.Image.Arch = []string{"Standard_D4ps_v5"}, "arm64"
			w.spec.Azure.TrustedLaunch = true
		},
			[]string{"Standard_D4ps_v5 has no Trusted Launch"}},
		"quota": {func(w *world) { w.server.SetUsage("standardDASv5Family", 98, 100) },
			[]string{"needs 4 cores and the quota of standardDASv5Family in westeurope has 2 of 100 left"}},
		"version taken": {func(w *world) {
			w.spec.Azure.Version = "1.0.0"
			w.server.AddVersion("rg", "images", "runner", "1.0.0", nil, w.start())
			w.server.Add(rg+"galleries/images", map[string]any{})
			w.server.Add(rg+"galleries/images/images/runner", definition("V2", "x64", "TrustedLaunchSupported"))
		}, []string{"version 1.0.0 of images/runner exists already", "`auto`"}},
		"definition of another kind": {func(w *world) {
			w.server.Add(rg+"galleries/images", map[string]any{})
			w.server.Add(rg+"galleries/images/images/runner", definition("V1", "Arm64", "ConfidentialVM"))
		}, []string{"Hyper-V generation is V1 and the image's is V2", "architecture is Arm64", "ConfidentialVM takes no image", "name another"}},
		"controllers of the size": {func(w *world) { w.server.Controllers = "NVMe" },
			[]string{"size Standard_D4as_v5 has disk controllers of type SCSI and the base image is for NVMe", "choose another --size"}},
		"controllers of the definition": {func(w *world) {
			w.server.Controllers = "SCSI"
			w.server.Add(rg+"galleries/images", map[string]any{})
			def := definition("V2", "x64", "TrustedLaunchSupported")
			features := def["properties"].(map[string]any)["features"].([]any)
			def["properties"].(map[string]any)["features"] = append(features, map[string]any{"name": "DiskControllerTypes", "value": "SCSI, NVMe"})
			w.server.Add(rg+"galleries/images/images/runner", def)
		}, []string{"it promises disk controllers of type SCSI, NVMe and the image is for SCSI", "name another"}},
		"image name taken": {func(w *world) {
			w.spec.Azure.ManagedImage = "mine"
			w.server.Add(rg+"images/mine", map[string]any{})
		}, []string{"a managed image mine exists already"}},
		"no subnet": {func(w *world) {
			w.spec.Azure.Subnet = "/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/v/subnets/s"
		}, []string{"there is no subnet s in virtual network v of resource group rg"}},
		"not a subnet":           {func(w *world) { w.spec.Azure.Subnet = "default" }, []string{`"default" is not the id of a subnet`}},
		"private without subnet": {func(w *world) { w.spec.Azure.PrivateIP = true }, []string{"private_ip needs a subnet"}},
		"trusted launch into a managed image": {func(w *world) { w.spec.Azure.TrustedLaunch, w.spec.Azure.ManagedImage = true, "m" },
			[]string{"a Trusted Launch machine cannot become a managed image"}},
		"permissions": {func(w *world) { w.server.Allow = []string{"*/read", "Microsoft.Network/*"} },
			[]string{"the credentials may not ", "Microsoft.Compute/virtualMachines/write", "docs/azure.md"}},
		"may not read": {func(w *world) { w.server.Allow = []string{} },
			[]string{"the credentials may not Microsoft.Resources/subscriptions/resourcegroups/read on", "docs/azure.md"}},
		"several at once": {func(w *world) {
			w.spec.Azure.ReplicateTo, w.spec.Azure.Sizes = []string{"moon"}, []string{"Standard_D8as_v5"}
			w.server.Allow = []string{"*/read"}
		}, []string{"no location moon", "Standard_D8as_v5 is not offered", "may not"}},
		"no VHD": {func(w *world) { w.spec.Azure.FromVHD = "preflight_test.go" }, []string{"is no VHD"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				test.set(w)
				before := len(w.left())
				r := w.bake(t.Context())
				if r.err == nil {
					t.Fatal("it baked")
				}
				w.strict()
				for _, want := range test.want {
					if !strings.Contains(r.err.Error(), want) {
						t.Errorf("%q is not in the error:\n%v", want, r.err)
					}
				}
				for _, c := range w.server.Calls() {
					if c.Method != http.MethodGet {
						t.Errorf("preflight called %s %s", c.Method, c.Path)
					}
				}
				if after := len(w.left()); after != before {
					t.Errorf("there were %d resources, now %d", before, after)
				}
				if strings.Contains(r.err.Error(), "RESPONSE") {
					t.Errorf("the SDK's page is in the error:\n%v", r.err)
				}
			})
		})
	}
}

// A definition takes what its security type says, and preflight knows which.
func TestSecurityTypes(t *testing.T) {
	rg := "/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg/providers/Microsoft.Compute/"
	for security, want := range map[string]struct{ standard, trusted bool }{
		"Standard": {true, false}, "TrustedLaunchSupported": {true, false}, "TrustedLaunch": {false, true},
		"ConfidentialVMSupported": {true, false}, "TrustedLaunchAndConfidentialVmSupported": {true, false}, "ConfidentialVM": {false, false},
	} {
		for trusted, ok := range map[bool]bool{false: want.standard, true: want.trusted} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.spec.Azure.TrustedLaunch = trusted
				w.server.Add(rg+"galleries/images", map[string]any{})
				w.server.Add(rg+"galleries/images/images/runner", definition("V2", "x64", security))
				r := w.bake(t.Context())
				if (r.err == nil) != ok || r.err != nil && !strings.Contains(r.err.Error(), "preflight: the image definition images/runner does not fit") {
					t.Errorf("%s, trusted %v: %v", security, trusted, r.err)
				}
				w.strict()
			})
		}
	}
}

func definition(generation, arch, security string) map[string]any {
	return map[string]any{"properties": map[string]any{"osType": "Linux", "osState": "Generalized", "hyperVGeneration": generation, "architecture": arch,
		"features": []any{map[string]any{"name": "SecurityType", "value": security}}}}
}

type brokenToken struct{}

func (brokenToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, errors.New("DefaultAzureCredential: failed to acquire a token.\nAttempted credentials:\n\tmany")
}

func TestNoCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, err := New(w.plan(), Options{Credential: brokenToken{}, Transport: w.server})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Images(t.Context())
		if err == nil || !strings.Contains(err.Error(), "`az login`") || strings.Contains(err.Error(), "\n") {
			t.Errorf("error: %v", err)
		}
	})
}

// role reads the actions of a role definition in the documentation.
func role(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "azure.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "<!-- role: "+name+" -->\n```json\n")
	body, _, closed := strings.Cut(after, "```")
	var r struct{ Actions []string }
	if err := json.Unmarshal([]byte(body), &r); err != nil || !found || !closed {
		t.Fatalf("role %s: %v", name, err)
	}
	return r.Actions
}

// The documented roles suffice for everything, a failing bake and gc included, and hold nothing that is never used.
func TestDocumentedRoles(t *testing.T) {
	used := map[string]bool{}
	for name, set := range variants(t) {
		for _, fail := range []string{"", "GalleryImageVersionsClient.BeginCreate", "ImagesClient.BeginCreate", "DisksClient.BeginGrant"} {
			t.Run(name+" "+fail, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					set(w)
					w.server.Allow = role(t, "bake")
					if w.spec.Azure.ResourceGroup == "fresh" {
						w.server.Allow = append(w.server.Allow, role(t, "group")...)
					}
					if fail != "" {
						w.server.Faults = []*azuretest.Fault{{API: fail, Async: true}}
					}
					r := w.bake(t.Context())
					if r.err != nil && code(r.err) != "InjectedFault" {
						t.Error(r.err)
					}
					accounted(t, w, r)
					for _, c := range w.server.Calls() {
						used[strings.ToLower(c.Action)] = true
					}
				})
			})
		}
	}
	for _, a := range slices.Concat(role(t, "bake"), role(t, "group")) {
		if !used[strings.ToLower(a)] && a != "*/read" && !strings.HasSuffix(a, "join/action") { // joining is asked for along with writing
			t.Errorf("%s is in a role and never used", a)
		}
	}
	// What preflight asks about is in the roles, so that it complains of nothing that a bake does without.
	all := append(role(t, "bake"), role(t, "group")...)
	for _, n := range needs {
		if !(permission{Actions: all}).grants(n.action) {
			t.Errorf("preflight wants %s, which no role has", n.action)
		}
	}
}
