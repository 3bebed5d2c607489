package azure_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/azure"
	"github.com/dorunner/dorunner-bake/firstboot/azure/azuretest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

func platform(c *azuretest.Cloud) *azure.Platform {
	return azure.New(azure.Options{Metadata: c.Metadata(), API: c.API()})
}

func TestIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := firstboot.Identity{InstanceID: "02aab8a4-74ef-476e-8182-f6d2ba4166a6", Region: "westeurope", Zone: "2", Hostname: "runners000003",
			Overlay: map[string]string{"name": "dataops-runner-amsterdam", "tags": "amsterdam"}}
		if got, err := platform(azuretest.New(t)).Identity(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v %v", got, err)
		}
	})
}

func TestMetadataFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault func(n int, r *http.Request) *http.Response
		err   string
		final bool
		limit time.Duration
	}{
		{name: "gone for a minute", fault: func() func(int, *http.Request) *http.Response {
			var first time.Time
			return func(_ int, r *http.Request) *http.Response {
				if first.IsZero() {
					first = time.Now()
				}
				if time.Since(first) < 70*time.Second {
					return azuretest.Answer(r, 410, "{}")
				}
				return nil
			}
		}(), limit: 80 * time.Second},
		{name: "429 twice", fault: func(n int, r *http.Request) *http.Response {
			if n <= 2 {
				return azuretest.Answer(r, 429, "{}")
			}
			return nil
		}, limit: 5 * time.Second},
		{name: "500 for ever", fault: func(_ int, r *http.Request) *http.Response { return azuretest.Answer(r, 500, "{}") }, err: "no answer within 1m30s", final: true, limit: 95 * time.Second},
		{name: "hangs", fault: func(_ int, r *http.Request) *http.Response { <-r.Context().Done(); return nil }, err: "is this machine on Azure", final: true, limit: 95 * time.Second},
		{name: "a proxy in the way", fault: func(_ int, r *http.Request) *http.Response { return azuretest.Answer(r, 403, "{}") }, err: "proxy or a firewall", final: true},
		{name: "HTML", fault: func(_ int, r *http.Request) *http.Response { return azuretest.Answer(r, 200, "<html>") }, err: "not JSON"},
		{name: "no machine", fault: func(_ int, r *http.Request) *http.Response { return azuretest.Answer(r, 200, "{}") }, err: "names no virtual machine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := azuretest.New(t)
				c.Fault = tt.fault
				start := time.Now()
				_, err := platform(c).Identity(t.Context())
				if took := time.Since(start); took > tt.limit {
					t.Errorf("took %s, at most %s", took, tt.limit)
				}
				var f *firstboot.Failure
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || (errors.As(err, &f) && f.Final) != tt.final {
					t.Errorf("%v, want %q", err, tt.err)
				}
			})
		})
	}
}

func TestSecret(t *testing.T) {
	for _, tt := range []struct {
		name, ref string
		setup     func(c *azuretest.Cloud)
		want, err string
		final     bool
	}{
		{name: "latest", ref: "keyvault:https://kv.vault.azure.net/secrets/token", want: "glrt-1"},
		{name: "a version", ref: "keyvault:https://kv.vault.azure.net/secrets/token/v2", want: "glrt-2"},
		{name: "an identity that is seconds old", ref: "keyvault:https://kv.vault.azure.net/secrets/token", setup: func(c *azuretest.Cloud) { c.NoToken = 3 }, want: "glrt-1"},
		{name: "no identity", ref: "keyvault:https://kv.vault.azure.net/secrets/token", setup: func(c *azuretest.Cloud) { c.NoToken = 1000 }, err: "give the machine a managed identity", final: true},
		{name: "missing", ref: "keyvault:https://kv.vault.azure.net/secrets/nothing", err: "no such secret", final: true},
		{name: "forbidden", ref: "keyvault:https://kv.vault.azure.net/secrets/token", setup: func(c *azuretest.Cloud) { c.Refuse = 403 }, err: "Key Vault Secrets User", final: true},
		{name: "not a secret's address", ref: "keyvault:https://kv.vault.azure.net/keys/token", err: "keyvault:https://VAULT/secrets/NAME", final: true},
		{name: "another cloud's", ref: "ssm:/token", err: "use keyvault:", final: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := azuretest.New(t)
				if tt.setup != nil {
					tt.setup(c)
				}
				ref, err := runner.ParseSecret(tt.ref)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				got, err := platform(c).Secret(t.Context(), ref)
				if took := time.Since(start); took > 121*time.Second {
					t.Errorf("took %s", took)
				}
				var f *firstboot.Failure
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || (errors.As(err, &f) && f.Final) != tt.final {
					t.Errorf("%v, want %q", err, tt.err)
				}
				if got != tt.want || (got != "" && c.Client != t.Name()) {
					t.Errorf("%q as %q, want %q", got, c.Client, tt.want)
				}
			})
		})
	}
}

func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := azuretest.New(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		notices := platform(c).Notices(ctx)
		c.Schedule("other", "Terminate", "Mon, 19 Sep 2026 18:29:47 GMT", "runners_4")
		c.Schedule("freeze", "Freeze", "Mon, 19 Sep 2026 18:29:47 GMT", "runners_3")
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case n := <-notices:
			t.Fatalf("an event that does not end this machine: %+v", n)
		default:
		}

		start := time.Now()
		c.Schedule("ours", "Terminate", "Mon, 19 Sep 2026 18:29:47 GMT", "runners_3")
		c.Schedule("both", "Preempt", "", "runners_3", "runners_4")
		first, second := <-notices, <-notices
		if first.Kind != "terminate" || first.Deadline.Day() != 19 || first.Heartbeat != nil || time.Since(start) > 2*time.Second {
			t.Errorf("%+v after %s", first, time.Since(start))
		}
		if err := first.Complete(ctx); err != nil {
			t.Error(err)
		}
		if second.Kind != "preempt" || second.Complete != nil {
			t.Errorf("an event that names other machines too must not be approved: %+v", second)
		}
		if fmt.Sprint(c.Approved) != "[ours]" {
			t.Errorf("approved %v", c.Approved)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case n := <-notices:
			t.Errorf("told twice: %+v", n)
		default:
		}
	})
}

// The platform tells its scale set how busy it is.
var _ firstboot.Publisher = (*azure.Platform)(nil)

func TestPublishLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := azuretest.New(t)
		c.NoToken = 1 // its identity is seconds old
		p := platform(c)
		if err := p.PublishLoad(t.Context(), firstboot.Load{Jobs: 3, Slots: 4}); err != nil {
			t.Fatal(err)
		}
		if len(c.Load) != 1 || fmt.Sprint(c.Load[0]) != "{[runners_3] 75 75 300 4}" {
			t.Errorf("%+v", c.Load)
		}
		c.Refuse = 403
		if err := p.PublishLoad(t.Context(), firstboot.Load{Slots: 4}); err == nil || !strings.Contains(err.Error(), "Monitoring Metrics Publisher on its scale set runners") {
			t.Errorf("not allowed: %v", err)
		}
	})
}

func TestScaleSets(t *testing.T) {
	for name, spoil := range map[string]func(map[string]any){
		"uniform": func(c map[string]any) { delete(c, "virtualMachineScaleSet") },
		"none":    func(c map[string]any) { delete(c, "virtualMachineScaleSet"); c["vmScaleSetName"] = "" },
	} {
		synctest.Test(t, func(t *testing.T) {
			c := azuretest.New(t)
			spoil(c.Compute)
			err := platform(c).PublishLoad(t.Context(), firstboot.Load{Slots: 1})
			if name == "uniform" && (err != nil || len(c.Load) != 1) || name == "none" && (err == nil || !strings.Contains(err.Error(), "no scale set")) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
