package azure

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
)

func TestBakeIntoGallery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.strict()
		version := r.artifact.Images[0].ID
		if n := len(r.artifact.Images); n != 3 || r.artifact.Images[0].Format != "gallery-version" || r.artifact.Images[2].Region != "uksouth" {
			t.Errorf("artifact: %+v", r.artifact)
		}
		if got := strings.Join(w.server.Replicated(version), " "); got != "northeurope uksouth westeurope" {
			t.Errorf("replicated to %s", got)
		}
		// Nothing is left but the version and what it lies in, none of it with an expiry.
		if left := w.left(); len(left) != 3 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		for _, id := range []string{version, version[:strings.Index(version, "/versions/")], version[:strings.Index(version, "/images/runner")]} {
			tags := w.server.Tags(id)
			if tags[TagPlan] == "" || tags[TagBake] != r.bakeID || tags[TagExpires] != "" {
				t.Errorf("%s is tagged %v", id, tags)
			}
		}
		if g := w.garbage(t.Context()); len(g) > 0 || len(r.left) > 0 {
			t.Errorf("gc finds %v, the ledger holds %v", g, r.left)
		}
		if w.dialed.User != bakeUser || w.dialed.HostKey == nil || w.dialed.Addr != "127.0.0.1:22" {
			t.Errorf("dialed %+v", w.dialed)
		}

		// The same bake again is nothing to do.
		before := len(w.server.Calls())
		again := w.bake(t.Context())
		if again.err != nil || !again.reused || again.artifact.Images[0].ID != version {
			t.Errorf("again: %+v", again)
		}
		for _, c := range w.server.Calls()[before:] {
			if c.Method != http.MethodGet {
				t.Errorf("an unchanged bake called %s %s", c.Method, c.Path)
			}
		}
	})
}

func TestBakeManagedImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.Gallery, w.spec.Azure.Definition, w.spec.Azure.ReplicateTo = "", "", nil
		w.spec.Azure.Tags = map[string]string{"team": "data"}
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.strict()
		if left := w.left(); len(left) != 1 || r.artifact.Images[0].Format != "managed-image" {
			t.Errorf("left %v, made %+v", left, r.artifact)
		}
		if tags := w.server.Tags(r.artifact.Images[0].ID); tags["team"] != "data" || tags[TagExpires] != "" {
			t.Errorf("tags %v", tags)
		}
		if again := w.bake(t.Context()); again.err != nil || !again.reused {
			t.Errorf("again: %+v", again)
		}
	})
}

func TestBakeTrustedLaunch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.TrustedLaunch = true
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.strict()
		for _, api := range w.apis() {
			if api == "ImagesClient.BeginCreateOrUpdate" {
				t.Error("a Trusted Launch machine went through a managed image")
			}
		}
	})
}

// A resource group that the bake makes stays with the image, and goes when the bake fails.
func TestResourceGroupIsMade(t *testing.T) {
	for name, fail := range map[string]bool{"kept": false, "given back": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.spec.Azure.ResourceGroup, w.spec.Azure.Location = "fresh", "northeurope"
				if fail {
					w.server.Faults = []*azuretest.Fault{{API: "GalleryImageVersionsClient.BeginCreate", Async: true}}
				}
				r := w.bake(t.Context())
				if (r.err != nil) != fail {
					t.Fatal(r.err)
				}
				w.strict()
				if left := w.left(); fail && len(left) > 0 || !fail && len(left) != 4 {
					t.Errorf("left %v", left)
				}
			})
		})
	}
}

func TestCapacityFallsBackToZonesAndSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.Sizes = []string{"Standard_D4as_v5", "Standard_D4s_v5"}
		w.server.NoRoom = map[string]string{"Standard_D4as_v5": "AllocationFailed", "Standard_D4as_v5/2": "SkuNotAvailable", "Standard_D4s_v5": "SkuNotAvailable", "Standard_D4s_v5/1": ""}
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.strict()
		if !strings.Contains(w.log.String(), "no room for Standard_D4as_v5 in zone 3 (AllocationFailed)") ||
			!strings.Contains(w.log.String(), "no room for Standard_D4s_v5 (SkuNotAvailable)") {
			t.Errorf("log:\n%s", w.log.String())
		}

		w = newWorld(t)
		w.server.NoRoom = map[string]string{"Standard_D4as_v5": "AllocationFailed"}
		r = w.bake(t.Context())
		if r.err == nil || !strings.Contains(r.err.Error(), "no wanted size has room in westeurope") || !strings.Contains(r.err.Error(), "several may be given") {
			t.Errorf("error: %v", r.err)
		}
		if left := w.left(); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
}

func TestFailedVersionIsDeletedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.Version = "1.2.3"
		w.server.Faults = []*azuretest.Fault{{API: "GalleryImageVersionsClient.BeginCreate", N: 1, Async: true}}
		if r := w.bake(t.Context()); r.err == nil {
			t.Fatal("the first bake worked")
		}
		w.server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg/providers/Microsoft.Compute/galleries/images", map[string]any{})
		def := map[string]any{"properties": map[string]any{"osType": "Linux", "osState": "Generalized", "hyperVGeneration": "V2", "architecture": "x64",
			"features": []any{map[string]any{"name": "SecurityType", "value": "TrustedLaunchSupported"}}}}
		w.server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg/providers/Microsoft.Compute/galleries/images/images/runner", def)
		w.server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg/providers/Microsoft.Compute/galleries/images/images/runner/versions/1.2.3",
			map[string]any{"properties": map[string]any{"provisioningState": "Failed"}})
		r := w.bake(t.Context())
		if r.err != nil || !strings.HasSuffix(r.artifact.Images[0].ID, "/1.2.3") {
			t.Errorf("%+v", r)
		}
		w.strict()
	})
}

// A selftest that fails takes the image back and shows what the machine said.
func TestFailedSelftest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.server.Console = func(vm string) string {
			return "image missing: dataopslive/dataops-runner\r\ndorunner-selftest " + bakeOf(vm) + ": failed\r\n"
		}
		r := w.bake(t.Context())
		if r.err == nil || !strings.Contains(r.err.Error(), "image missing") {
			t.Errorf("error: %v", r.err)
		}
		if left := w.left(); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		w.strict()
	})
}

// Every wait notices that it is over within 5 s, whatever hint Azure gives (it says 10 s), and throttling is obeyed.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.server.Delays = azuretest.Delays{VM: 21 * time.Second, Deallocate: 13 * time.Second, Image: 47 * time.Second, Version: 301 * time.Second, Replicate: 33 * time.Second}
		w.spec.Azure.TestBoot = false
		began := time.Now()
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		ideal := 415 * time.Second
		if took := time.Since(began); took > ideal+5*5*time.Second {
			t.Errorf("took %v, ideally %v", took, ideal)
		}
		w = newWorld(t)
		w.server.Faults = []*azuretest.Fault{{API: "ImagesClient.BeginCreate", N: 1, Status: 429, Code: "TooManyRequests", RetryAfter: 17 * time.Second}}
		began = time.Now()
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		if took := time.Since(began); took < 17*time.Second || took > 25*time.Second {
			t.Errorf("a throttled bake took %v", took)
		}
	})
}

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.Keep = 2
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		ours := map[string]string{TagPlan: "old", TagBake: "old"}
		old := time.Now().Add(-24 * time.Hour)
		inUse := w.server.AddVersion("rg", "images", "runner", "1.0.1", ours, old)
		gone := w.server.AddVersion("rg", "images", "runner", "1.0.2", ours, old)
		foreign := w.server.AddVersion("rg", "images", "runner", "1.0.3", nil, old)
		inSet := w.server.AddVersion("rg", "images", "runner", "1.0.4", ours, old)
		failed := w.server.AddVersion("rg", "images", "runner", "1.0.9", ours, old)
		w.server.Add(failed, map[string]any{"tags": ours, "properties": map[string]any{"provisioningState": "Failed"}})
		base := "/subscriptions/" + azuretest.Subscription + "/resourceGroups/other/providers/Microsoft.Compute/"
		w.server.Add(base+"virtualMachines/a", map[string]any{"properties": map[string]any{"storageProfile": map[string]any{"imageReference": map[string]any{"id": inUse}}}})
		def := inSet[:strings.Index(inSet, "/versions/")]
		w.server.Add(base+"virtualMachineScaleSets/s", map[string]any{"properties": map[string]any{"virtualMachineProfile": map[string]any{"storageProfile": map[string]any{"imageReference": map[string]any{"id": def}}}}})
		w.server.Add(base+"virtualMachineScaleSets/s/virtualMachines/0", map[string]any{"properties": map[string]any{"storageProfile": map[string]any{"imageReference": map[string]any{"id": def, "exactVersion": "1.0.4"}}}})
		w.spec.Image.Scripts = nil
		w.spec.Image.OS = "ubuntu-22.04" // another plan
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		w.strict()
		for id, want := range map[string]bool{inUse: true, gone: false, foreign: true, inSet: true, failed: true} {
			if has(w.server.Left(), id) != want {
				t.Errorf("%s: there is %v, want %v", id, !want, want)
			}
		}
		if n := len(w.left()); n != 2+6+3 { // gallery and definition, six versions, what uses them
			t.Errorf("left %d:\n%s\n%s", n, strings.Join(w.left(), "\n"), w.log.String())
		}
	})
}
