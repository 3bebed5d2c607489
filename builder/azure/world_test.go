package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/images"
)

// world is a subscription and what is baked in it.
type world struct {
	t      testing.TB
	server *azuretest.Server
	spec   images.Spec
	bakes  int
	ledger string // directory of the ledgers
	log    strings.Builder
	dialed ssh.Config
	// transport carries the calls; the server itself, without a network, unless a test sets it.
	transport policy.Transporter
	retry     policy.RetryOptions
}

// newWorld has a resource group in West Europe; the spec bakes a version into a gallery and two more regions.
func newWorld(t testing.TB) *world {
	w := &world{t: t, server: azuretest.New(), ledger: t.TempDir()}
	w.transport = w.server
	w.server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg", map[string]any{"location": "westeurope"})
	w.spec.Azure = images.Azure{Subscription: azuretest.Subscription, ResourceGroup: "rg", Gallery: "images", Definition: "runner",
		ReplicateTo: []string{"northeurope", "uksouth"}, TestBoot: true}
	w.server.Console = func(vm string) string {
		return "booting\r\ndorunner-selftest " + bakeOf(vm) + ": passed\r\n"
	}
	return w
}

// staticToken is a credential that always works.
type staticToken struct{}

func (staticToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: azuretest.Token, ExpiresOn: time.Now().Add(24 * time.Hour)}, nil
}

// quietGuest is a machine on which everything works, in no time, and that switches itself off when it is told to.
type quietGuest struct {
	server *azuretest.Server
	vm     string
}

func (g quietGuest) Run(_ context.Context, c builder.Command) error {
	if c.Args[0] == "systemd-run" {
		g.server.PowerOff(g.vm)
	}
	return nil
}
func (quietGuest) Upload(context.Context, string, io.Reader, fs.FileMode) error { return nil }
func (quietGuest) Download(context.Context, string, io.Writer) error            { return nil }

func (w *world) plan() *images.Plan {
	w.t.Helper()
	p, err := images.Resolve(&w.spec, "azure", images.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) cloud() *Cloud {
	w.t.Helper()
	var c *Cloud
	c, err := New(w.plan(), Options{
		Credential: staticToken{}, Transport: w.transport, Retry: w.retry,
		Dial: func(_ context.Context, conf ssh.Config) (builder.Guest, error) {
			w.dialed = conf
			return quietGuest{w.server, c.vm.name}, nil
		},
		CallerIP: func(context.Context) (string, error) { return "198.51.100.7", nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

type result struct {
	artifact builder.Artifact
	reused   bool
	err      error
	made     bool            // the image is finished, whatever else went wrong
	left     []builder.Entry // in the ledger
	bakeID   string
}

// bake does what the engine does, without anything on the machine.
func (w *world) bake(ctx context.Context) (r result) {
	w.t.Helper()
	w.bakes++
	r.bakeID = fmt.Sprintf("20260101-000000-%06x", w.bakes)
	c := w.cloud()
	file := filepath.Join(w.ledger, r.bakeID+".jsonl")
	ledger, err := builder.OpenLedger(file)
	if err != nil {
		w.t.Fatal(err)
	}
	progress, _ := builder.NewProgress(&w.log, builder.ProgressOptions{Kind: "plain"})
	env := &builder.Env{Plan: w.plan(), Ledger: ledger, Progress: progress, BakeID: r.bakeID, WorkDir: w.t.TempDir(), OutDir: w.t.TempDir()}
	w.sweep(ctx, c)
	r.artifact, r.reused, r.err = steps(ctx, c, env)
	r.made = r.err == nil
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Minute)
	defer cancel()
	r.err = errors.Join(r.err, ledger.Unwind(undo, nil))
	r.left = ledger.Entries()
	if err := ledger.Close(); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// sweep gives back what killed bakes left, as the engine does first.
func (w *world) sweep(ctx context.Context, c *Cloud) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute) // the engine's
	defer cancel()
	files, err := filepath.Glob(filepath.Join(w.ledger, "*.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range files {
		l, err := builder.OpenLedger(f)
		if errors.Is(err, builder.ErrLedgerHeld) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if unknown := l.Adopt(c.Undoes()); len(unknown) > 0 {
			w.t.Fatalf("a ledger holds what no bake knows: %v", unknown)
		}
		_ = l.Unwind(ctx, nil) // what is left is asserted by whoever called
		if err := l.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func steps(ctx context.Context, c *Cloud, env *builder.Env) (a builder.Artifact, reused bool, err error) {
	_, elsewhere := c.BakedElsewhere()
	if err = c.Preflight(ctx, env); err != nil {
		return a, false, fmt.Errorf("preflight: %w", err)
	}
	if a, reused, err = c.Find(ctx, env); reused || err != nil {
		return a, reused, err
	}
	if !elsewhere {
		if _, err = c.Launch(ctx, env); err != nil {
			return a, false, fmt.Errorf("launch: %w", err)
		}
		if err = c.Stop(ctx, env); err != nil {
			return a, false, fmt.Errorf("stop: %w", err)
		}
	}
	if a, err = c.Capture(ctx, env); err != nil {
		return a, false, fmt.Errorf("capture: %w", err)
	}
	if err = c.TestBoot(ctx, env, a); err != nil {
		return a, false, fmt.Errorf("test boot: %w", err)
	}
	if a, err = c.Distribute(ctx, env, a); err != nil {
		return a, false, fmt.Errorf("distribute: %w", err)
	}
	return a, false, nil
}

// left are the resources in the subscription but the group that was there before, by their names.
func (w *world) left() []string {
	var out []string
	for _, id := range w.server.Left() {
		if !strings.HasSuffix(id, "/resourceGroups/rg") {
			out = append(out, id[strings.LastIndex(id, "/resourceGroups/"):])
		}
	}
	return out
}

// strict fails the test for calls that the server does not know.
func (w *world) strict() {
	w.t.Helper()
	if u := w.server.Unknown(); len(u) > 0 {
		w.t.Errorf("unknown calls: %v", u)
	}
}

// garbage is what gc finds of everything, expired or not.
func (w *world) garbage(ctx context.Context) []Left {
	w.t.Helper()
	var all []Left
	for i := range w.bakes {
		found, err := w.cloud().Garbage(ctx, fmt.Sprintf("20260101-000000-%06x", i+1))
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// apis are the names of the calls that were made.
func (w *world) apis() []string {
	var out []string
	for _, c := range w.server.Calls() {
		out = append(out, c.API)
	}
	return out
}

func has(list []string, want string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, want) })
}
