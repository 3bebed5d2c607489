package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

// world is a subscription with a network, a key vault and two versions of an image, and what a fleet in it is to be.
type world struct {
	t      *testing.T
	server *azuretest.Server
	spec   images.Spec
	how    fleet.How
	log    strings.Builder
}

const (
	rg     = "/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg"
	subnet = rg + "/providers/Microsoft.Network/virtualNetworks/mine/subnets/runners"
	setID  = rg + "/providers/Microsoft.Compute/virtualMachineScaleSets/dorunner-many"
)

type staticToken struct{}

func (staticToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: azuretest.Token, ExpiresOn: time.Now().Add(24 * time.Hour)}, nil
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, server: azuretest.New()}
	w.server.Add(rg, map[string]any{"location": "westeurope"})
	vnet := strings.TrimSuffix(subnet, "/subnets/runners")
	w.server.Add(vnet, map[string]any{"properties": map[string]any{"subnets": []any{map[string]any{"name": "runners", "id": subnet,
		"properties": map[string]any{"natGateway": map[string]any{"id": "nat"}}}}}})
	w.server.Add(rg+"/providers/Microsoft.KeyVault/vaults/v", map[string]any{})
	w.server.Add(rg+"/providers/Microsoft.Compute/galleries/images", map[string]any{})
	w.server.Add(rg+"/providers/Microsoft.Compute/galleries/images/images/runner", map[string]any{})
	w.image("1.0.0")
	w.server.Delays = azuretest.Delays{VM: 90 * time.Second, Network: 2 * time.Second, Delete: 5 * time.Second}
	token, err := runner.ParseSecret("keyvault:https://v.vault.azure.net/secrets/token")
	if err != nil {
		t.Fatal(err)
	}
	w.spec.Runner.Name, w.spec.Runner.URL, w.spec.Runner.Token = "many", "https://gitlab.example.com", token
	w.spec.Azure = images.Azure{Subscription: azuretest.Subscription, ResourceGroup: "rg", Gallery: "images", Definition: "runner", Tags: map[string]string{"team": "data"}}
	w.spec.Fleet = images.Fleet{Name: "many", Min: 1, Max: 10, Desired: new(4), Subnets: []string{subnet}, InstanceProfile: images.CreateProfile,
		DrainTimeout: runner.Duration(10 * time.Minute)}
	w.how.Info = func(format string, args ...any) { fmt.Fprintf(&w.log, format+"\n", args...) }
	return w
}

// image has a version of the image be there.
func (w *world) image(version string) string {
	return w.server.AddVersion("rg", "images", "runner", version, map[string]string{azure.TagPlan: version}, time.Now())
}

func (w *world) open() (*fleet.Group, *Group) {
	w.t.Helper()
	spec := w.spec
	plan, err := images.Resolve(&spec, "azure", images.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	g, err := fleet.NewGroup(plan)
	if err != nil {
		w.t.Fatal(err)
	}
	cloud, err := azure.New(plan, azure.Options{Credential: staticToken{}, Transport: w.server})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := Open(cloud, g, w.how)
	if err != nil {
		w.t.Fatal(err)
	}
	return g, c
}

func (w *world) options() fleet.Options {
	progress, _ := builder.NewProgress(&w.log, builder.ProgressOptions{Kind: "plain"})
	return fleet.Options{Progress: progress}
}

func (w *world) apply(ctx context.Context) error {
	g, c := w.open()
	_, err := fleet.Apply(ctx, g, c, w.options())
	return err
}

func (w *world) destroy(ctx context.Context) error {
	g, c := w.open()
	return fleet.Destroy(ctx, g, c, w.options())
}

// changes counts the calls since n that change something.
func (w *world) changes(n int) (out []string) {
	for _, c := range w.server.Calls()[n:] {
		if c.Method != http.MethodGet {
			out = append(out, c.API)
		}
	}
	return out
}

func (w *world) strict() {
	w.t.Helper()
	if u := w.server.Unknown(); len(u) > 0 {
		w.t.Errorf("unknown calls: %v", u)
	}
}

// ours are the resources that a fleet has made.
func (w *world) ours() (out []string) {
	for _, id := range w.server.Left() {
		if strings.Contains(id, "dorunner-many") || strings.Contains(id, "/roleAssignments/") {
			out = append(out, strings.TrimPrefix(id, rg))
		}
	}
	return out
}

// imageOf is what a machine was made from.
func (w *world) imageOf(vm string) string {
	p := w.server.Properties(rg + "/providers/Microsoft.Compute/virtualMachines/" + vm)["properties"].(map[string]any)
	id := p["storageProfile"].(map[string]any)["imageReference"].(map[string]any)["id"].(string)
	return id[strings.LastIndex(id, "/")+1:]
}

func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Fleet.Autoscale, w.spec.Fleet.Desired = 70, nil
		w.spec.Fleet.Min = 2
		w.spec.Fleet.Schedule = []images.Schedule{{Cron: "0 7 * * 1-5", Min: new(4)}}
		if err := w.apply(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, w.log.String())
		}
		w.strict()
		_, c := w.open()
		census, err := c.Census(t.Context())
		if err != nil || !census.Settled() || census.Desired != 2 || census.Min != 2 || census.Max != 10 || len(census.Members) != 2 {
			t.Errorf("%v %+v", err, census)
		}
		if m := census.Members[0]; m.Outdated || m.Unhealthy || m.Zone == "" || m.State != "running" || m.Self == "" {
			t.Errorf("%+v", m)
		}
		if data := w.server.SetData(setID); !slices.Equal(data, c.g.UserData) {
			t.Errorf("custom data of %d bytes", len(data))
		}
		// The machines may read the token and publish their load, and nothing else.
		grants := 0
		for _, id := range w.ours() {
			if strings.Contains(id, "/roleAssignments/") {
				grants++
				if !strings.Contains(id, "/vaults/v/secrets/token/") && !strings.Contains(id, "/virtualMachineScaleSets/dorunner-many/") {
					t.Errorf("a role on %s", id)
				}
			}
		}
		if grants != 2 {
			t.Errorf("%d roles:\n%s", grants, strings.Join(w.ours(), "\n"))
		}
		n := len(w.server.Calls())
		if err := w.apply(t.Context()); err != nil || len(w.changes(n)) > 0 {
			t.Errorf("a second apply: %v, %v", err, w.changes(n))
		}
		// What others change is changed back.
		w.spec.Fleet.Autoscale, w.spec.Fleet.Schedule, w.spec.Fleet.Desired = 0, nil, new(3)
		if err := w.apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := len(w.server.Machines(setID)); left != 3 {
			t.Errorf("%d machines", left)
		}
		if slices.ContainsFunc(w.ours(), func(s string) bool { return strings.Contains(strings.ToLower(s), "autoscale") }) {
			t.Error("the autoscale setting stays")
		}
		w.strict()
	})
}

// A roll keeps as many machines serving as are wanted, and lets each of the old ones finish.
func TestRoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := w.apply(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, w.log.String())
		}
		w.image("2.0.0")
		// Jobs take three minutes more.
		asked := map[string]time.Time{}
		w.server.Drained = func(vm string) bool {
			if asked[vm].IsZero() {
				asked[vm] = time.Now()
			}
			return time.Since(asked[vm]) > 3*time.Minute
		}
		least := 4
		w.server.OnCall = func(azuretest.Call) { least = min(least, len(w.server.Machines(setID))) }
		if err := w.apply(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, w.log.String())
		}
		w.server.OnCall = nil
		w.strict()
		if least < 4 {
			t.Errorf("at a time there were %d machines", least)
		}
		for _, vm := range w.server.Machines(setID) {
			if w.imageOf(vm) != "2.0.0" {
				t.Errorf("%s is of image %s", vm, w.imageOf(vm))
			}
		}
		if k := w.server.Killed(); len(k) > 0 {
			t.Errorf("killed: %v", k)
		}
	})
}

// A roll to an image whose first boot fails stops at its first batch; the old machines never stop, and new ones are made
// as they were.
func TestRollToBrokenImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := w.apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		old := w.server.Machines(setID)
		w.image("2.0.0")
		w.server.Health = func(_, image string) string {
			if strings.HasSuffix(image, "/2.0.0") {
				return "unhealthy"
			}
			return "healthy"
		}
		err := w.apply(t.Context())
		if err == nil || !strings.Contains(err.Error(), "the roll ended as Faulted") {
			t.Fatalf("%v\n%s", err, w.log.String())
		}
		w.strict()
		time.Sleep(time.Hour)
		now := w.server.Machines(setID)
		if !slices.Equal(old, now) {
			t.Errorf("before %v, after %v", old, now)
		}
		if err := w.scale(t.Context(), 6); err != nil {
			t.Fatalf("%v\n%s", err, w.log.String())
		}
		for _, vm := range w.server.Machines(setID) {
			if w.imageOf(vm) != "1.0.0" {
				t.Errorf("%s is of image %s", vm, w.imageOf(vm))
			}
		}
		_, c := w.open()
		if changes, err := c.Plan(t.Context()); err != nil || !slices.ContainsFunc(changes, func(c fleet.Change) bool { return c.Action == fleet.Roll }) {
			t.Errorf("the plan forgets the roll: %v, %v", changes, err)
		}
	})
}

func (w *world) scale(ctx context.Context, machines int) error {
	g, c := w.open()
	return fleet.Scale(ctx, g, c, machines, w.options())
}

// The documented role, with the right to give roles, suffices for everything, and holds nothing that is never used.
func TestDocumentedRole(t *testing.T) {
	text, err := os.ReadFile("../../docs/azure.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "<!-- role: fleet -->\n```json\n")
	body, _, _ := strings.Cut(after, "```")
	var role struct{ Actions []string }
	if err := json.Unmarshal([]byte(body), &role); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Fleet.Schedule = []images.Schedule{{Cron: "30 6 * * MON-FRI", Desired: new(5)}}
		w.server.Allow = append(slices.Clone(role.Actions), "Microsoft.Authorization/roleAssignments/write", "Microsoft.Authorization/roleAssignments/delete")
		for _, version := range []string{"1.0.0", "2.0.0"} {
			w.image(version)
			if err := w.apply(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		_, c := w.open()
		if err := c.Replace(t.Context(), w.server.Machines(setID)[0]); err != nil {
			t.Error(err)
		}
		if err := c.StopRoll(t.Context(), false); err != nil {
			t.Error(err)
		}
		if err := w.destroy(t.Context()); err != nil {
			t.Error(err)
		}
		w.strict()
		for _, a := range role.Actions {
			used := slices.ContainsFunc(w.server.Calls(), func(c azuretest.Call) bool { return strings.EqualFold(c.Action, a) })
			// These are asked for along with writing, or when a machine does not come online.
			if !used && a != "*/read" && !strings.Contains(a, "join/") && !strings.Contains(a, "assign/") && !strings.Contains(a, "BootDiagnostics") {
				t.Errorf("%s is in the role and never used", a)
			}
		}
	})
}

func TestForeign(t *testing.T) {
	for _, kind := range []string{"Microsoft.Compute/virtualMachineScaleSets", "Microsoft.Network/networkSecurityGroups", "Microsoft.ManagedIdentity/userAssignedIdentities"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			theirs := rg + "/providers/" + kind + "/dorunner-many"
			w.server.Add(theirs, map[string]any{"tags": map[string]string{"owner": "somebody"}, "sku": map[string]any{"capacity": 0}})
			if err := w.apply(t.Context()); err == nil || !strings.Contains(err.Error(), "is not this fleet's") {
				t.Errorf("%s: %v", kind, err)
			}
			if err := w.destroy(t.Context()); err != nil || w.server.Tags(theirs) == nil {
				t.Errorf("%s: destroyed: %v", kind, err)
			}
			w.strict()
		})
	}
}

// Whatever goes wrong at whatever call of a command, the same command afterwards comes to the same end; and destroy takes
// everything of ours and nothing else.
func TestFaultAtEveryCall(t *testing.T) {
	step := 3
	switch {
	case testing.Short():
		step = 19
	case os.Getenv("DORUNNER_SOAK") != "":
		step = 1
	}
	faults := map[string]func(w *world, n int, cancel func()){
		"refused":   func(w *world, n int, _ func()) { w.server.Faults = []*azuretest.Fault{{N: n}} },
		"failed":    func(w *world, n int, _ func()) { w.server.Faults = []*azuretest.Fault{{N: n, Async: true}} },
		"lost":      func(w *world, n int, _ func()) { w.server.Faults = []*azuretest.Fault{{N: n, Lost: true}} },
		"cancelled": func(w *world, n int, cancel func()) { w.at(n, cancel) },
		"killed":    func(w *world, n int, _ func()) { w.at(n, w.server.Die) },
	}
	for _, verb := range []string{"apply", "roll", "destroy"} {
		for name, fault := range faults {
			t.Run(verb+" "+name, func(t *testing.T) {
				for n := 1; ; n += step {
					over := false
					synctest.Test(t, func(t *testing.T) { over = faulty(t, verb, n, fault) })
					if over || t.Failed() {
						break
					}
				}
			})
		}
	}
}

// at does something at the nth call from now on.
func (w *world) at(n int, do func()) {
	from := len(w.server.Calls())
	w.server.OnCall = func(c azuretest.Call) {
		if c.N-from == n {
			do()
		}
	}
}

// faulty has one thing go wrong, and tells whether it was past the command's last call.
func faulty(t *testing.T, verb string, n int, fault func(*world, int, func())) (over bool) {
	w := newWorld(t)
	w.spec.Fleet.Autoscale, w.spec.Fleet.Desired = 70, new(2)
	w.server.Delays.VM, w.server.Page = 10*time.Second, 10
	foreign := []string{rg + "/providers/Microsoft.Network/networkSecurityGroups/theirs", rg + "/providers/Microsoft.Compute/virtualMachineScaleSets/theirs",
		rg + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/theirs"}
	for _, id := range foreign {
		w.server.Add(id, map[string]any{"tags": map[string]string{"dorunner-fleet": "another"}, "sku": map[string]any{"capacity": 0}})
	}
	before := len(w.server.Left())
	do := w.apply
	if verb != "apply" {
		if err := w.apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	switch verb {
	case "roll":
		w.image("2.0.0")
		before++
	case "destroy":
		do = w.destroy
	}
	from := len(w.server.Calls())
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	fault(w, n, func() { cancel(errors.New("interrupted")) })
	first := do(ctx)
	over = len(w.server.Calls())-from < n
	w.server.Faults, w.server.OnCall = nil, nil
	w.server.Revive()
	if err := do(t.Context()); err != nil {
		t.Errorf("%s with trouble at call %d (%v); again: %v", verb, n, first, err)
		return true
	}
	w.strict()
	if verb == "roll" {
		for _, vm := range w.server.Machines(setID) {
			if w.imageOf(vm) != "2.0.0" {
				t.Errorf("trouble at call %d: %s is of image %s", n, vm, w.imageOf(vm))
			}
		}
	}
	if verb != "destroy" {
		calls := len(w.server.Calls())
		if err := w.apply(t.Context()); err != nil || len(w.changes(calls)) > 0 {
			t.Errorf("trouble at call %d of %s: the next apply changes %v, %v", n, verb, w.changes(calls), err)
		}
		if err := w.destroy(t.Context()); err != nil {
			t.Errorf("destroy: %v", err)
		}
	}
	if left := w.server.Left(); len(left) != before {
		t.Errorf("trouble at call %d of %s: left %v", n, verb, w.ours())
	}
	return over
}
