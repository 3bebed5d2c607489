package azure

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
)

// subnet puts a network of the user's into the subscription.
func (w *world) subnet() {
	id := "/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/mine"
	w.server.Add(id, map[string]any{"properties": map[string]any{"subnets": []any{map[string]any{"name": "runners", "id": id + "/subnets/runners"}}}})
	w.spec.Azure.Subnet = id + "/subnets/runners"
}

func (w *world) launch(ctx context.Context, o RunnerOptions) ([]Runner, error) {
	o.ID, o.Progress = "20260101-000000-00000a", builder.Discard()
	return w.cloud().StartRunners(ctx, w.plan(), o)
}

func TestStartRunners(t *testing.T) {
	t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.subnet()
		baked := w.bake(t.Context())
		if baked.err != nil {
			t.Fatal(baked.err)
		}
		before := len(w.left())
		w.server.Allow = role(t, "launch")
		all, err := w.launch(t.Context(), RunnerOptions{Image: "latest", Count: 2, CustomData: []byte("#cloud-config\n")})
		if err != nil {
			t.Fatal(err)
		}
		w.strict()
		if n := len(w.left()) - before; len(all) != 2 || n != 6 { // each a machine, its disk and its interface
			t.Errorf("%d runners, %d new resources:\n%s", len(all), n, strings.Join(w.left(), "\n"))
		}
		vm := w.server.Properties(all[0].ID)
		props := vm["properties"].(map[string]any)
		image := props["storageProfile"].(map[string]any)["imageReference"].(map[string]any)["id"]
		data, _ := base64.StdEncoding.DecodeString(props["osProfile"].(map[string]any)["customData"].(string))
		if image != baked.artifact.Images[0].ID || string(data) != "#cloud-config\n" || props["userData"] != nil || vm["identity"] == nil {
			t.Errorf("the machine: %v", vm)
		}
		// They stay, whatever gc is told, and the image they came from is in use.
		for _, r := range all {
			if w.server.Tags(r.ID)[TagExpires] != "" {
				t.Errorf("%s expires", r.Name)
			}
		}
		if g, err := w.cloud().Garbage(t.Context(), "20260101-000000-00000a"); err != nil || len(g) > 0 {
			t.Errorf("gc finds %v, %v", g, err)
		}
		w.server.Allow = nil
		// A machine takes its disk and interface along.
		if err := w.cloud().delete(t.Context(), all[0].ID); err != nil {
			t.Fatal(err)
		}
		if n := len(w.left()) - before; n != 3 {
			t.Errorf("%d resources after one machine went", n)
		}
		seen := 0
		err = w.cloud().FollowRunners(t.Context(), []string{all[1].ID}, time.Minute, func(int, string) bool { seen++; return seen > 3 })
		if err != nil || seen != 4 {
			t.Errorf("followed %d times: %v", seen, err)
		}
		if err := w.cloud().FollowRunners(t.Context(), []string{all[1].ID}, time.Minute, func(int, string) bool { return false }); err == nil || !strings.Contains(err.Error(), all[1].Name) {
			t.Errorf("a silent machine: %v", err)
		}
	})
}

// All or none: whatever goes wrong, at whatever call, no machine stays.
func TestStartRunnersFails(t *testing.T) {
	t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
	for n := 1; n <= 30; n += 3 {
		for _, cancelled := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.subnet()
				image := w.server.AddVersion("rg", "images", "runner", "1.0.0", map[string]string{TagPlan: "p"}, time.Now())
				before := len(w.left())
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if cancelled {
					w.server.OnCall = func(c azuretest.Call) {
						if c.N == n {
							cancel(errors.New("interrupted"))
						}
					}
				} else {
					w.server.Faults = []*azuretest.Fault{{N: n, Status: 409}}
				}
				all, err := w.launch(ctx, RunnerOptions{Image: image, Count: 2, CustomData: []byte("#cloud-config\n")})
				if left := len(w.left()) - before; err != nil && left != 0 || err == nil && left != 6 {
					t.Errorf("call %d: %d left, %v, %v", n, left, all, err)
				}
			})
		}
	}
}
