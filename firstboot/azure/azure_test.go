package azure_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/azure"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// cloud is Azure around one machine, in this process: the metadata service as its documentation describes it, and
// one vault.
type cloud struct {
	t *testing.T

	mu       sync.Mutex
	compute  map[string]any
	events   []map[string]any
	approved []string
	fault    func(n int, r *http.Request) *http.Response // of metadata; nil answers, or nil
	asked    int
	tokens   int    // requests for a token
	noToken  int    // of them, the first that are told "Identity not found"
	client   string // the client id that a token was asked for
	secrets  map[string]string
	refuse   int // the vault's status instead of an answer
}

func newCloud(t *testing.T) *cloud {
	tag := func(name, value string) map[string]string { return map[string]string{"name": name, "value": value} }
	return &cloud{t: t, compute: map[string]any{
		"vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "name": "runners_3", "location": "westeurope", "zone": "2",
		"osProfile": map[string]string{"computerName": "runners000003"},
		// Each test has an identity of its own: the SDK keeps tokens for the whole process.
		"tagsList": []any{tag("Dorunner-Name", "dataops-runner-amsterdam"), tag("dorunner-tags", "amsterdam"), tag("owner", "x"), tag("dorunner-identity", t.Name())},
	}, secrets: map[string]string{"/secrets/token/": "glrt-1", "/secrets/token/v2": "glrt-2"}}
}

func platform(c *cloud) *azure.Platform {
	return azure.New(azure.Options{Metadata: metadata{c}, API: vault{c}})
}

func answer(r *http.Request, status int, body any) *http.Response {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	b, err := json.Marshal(body)
	if text, ok := body.(string); ok {
		b, err = []byte(text), nil
	}
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(b) // into memory
	resp := w.Result()
	resp.Request = r
	return resp
}

type metadata struct{ *cloud }

func (m metadata) RoundTrip(r *http.Request) (*http.Response, error) {
	c := m.cloud
	c.mu.Lock()
	c.asked++
	n, fault := c.asked, c.fault
	c.mu.Unlock()
	if fault != nil {
		if resp := fault(n, r); resp != nil {
			return resp, r.Context().Err()
		}
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := r.URL.Query()
	if r.URL.Host != "169.254.169.254" || r.Header.Get("Metadata") != "true" || r.Header.Get("X-Forwarded-For") != "" || q.Get("api-version") == "" {
		c.t.Errorf("%s %s %v is not a request for metadata", r.Method, r.URL, r.Header)
		return answer(r, 400, `{"error":"Bad request. Required metadata header not specified"}`), nil
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /metadata/instance":
		return answer(r, 200, map[string]any{"compute": c.compute, "network": map[string]any{}}), nil
	case "GET /metadata/identity/oauth2/token":
		c.tokens++
		if c.tokens <= c.noToken {
			return answer(r, 400, `{"error":"invalid_request","error_description":"Identity not found"}`), nil
		}
		if q.Get("resource") != "https://vault.azure.net" {
			c.t.Errorf("a token for %q", q.Get("resource"))
		}
		c.client = q.Get("client_id")
		return answer(r, 200, map[string]string{"access_token": "the-token", "expires_in": "86400", "expires_on": fmt.Sprint(time.Now().Add(24 * time.Hour).Unix()), "resource": q.Get("resource"), "token_type": "Bearer"}), nil
	case "GET /metadata/scheduledevents":
		return answer(r, 200, map[string]any{"DocumentIncarnation": 1, "Events": c.events}), nil
	case "POST /metadata/scheduledevents":
		var in struct{ StartRequests []struct{ EventId string } }
		b, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(b, &in) != nil || len(in.StartRequests) != 1 {
			c.t.Errorf("approval %q %v", b, err)
		}
		c.approved = append(c.approved, in.StartRequests[0].EventId)
		return answer(r, 200, "{}"), nil
	}
	c.t.Errorf("%s %s is unknown", r.Method, r.URL)
	return answer(r, 404, "{}"), nil
}

type vault struct{ *cloud }

func (v vault) RoundTrip(r *http.Request) (*http.Response, error) {
	c := v.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Scheme != "https" || r.URL.Host != "kv.vault.azure.net" {
		c.t.Errorf("the secret was looked for at %s", r.URL)
	}
	if r.Header.Get("Authorization") == "" {
		resp := answer(r, 401, "{}")
		resp.Header.Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"`)
		return resp, nil
	}
	if got := r.Header.Get("Authorization"); got != "Bearer the-token" {
		c.t.Errorf("authorization %q", got)
	}
	fail := func(status int, code string) (*http.Response, error) {
		return answer(r, status, map[string]any{"error": map[string]string{"code": code, "message": "no"}}), nil
	}
	if c.refuse != 0 {
		return fail(c.refuse, "Forbidden")
	}
	value, ok := c.secrets[r.URL.Path]
	if !ok {
		return fail(404, "SecretNotFound")
	}
	return answer(r, 200, map[string]any{"value": value, "id": r.URL.String()}), nil
}

func TestIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := firstboot.Identity{InstanceID: "02aab8a4-74ef-476e-8182-f6d2ba4166a6", Region: "westeurope", Zone: "2", Hostname: "runners000003",
			Overlay: map[string]string{"name": "dataops-runner-amsterdam", "tags": "amsterdam"}}
		if got, err := platform(newCloud(t)).Identity(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
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
					return answer(r, 410, "{}")
				}
				return nil
			}
		}(), limit: 80 * time.Second},
		{name: "429 twice", fault: func(n int, r *http.Request) *http.Response {
			if n <= 2 {
				return answer(r, 429, "{}")
			}
			return nil
		}, limit: 5 * time.Second},
		{name: "500 for ever", fault: func(_ int, r *http.Request) *http.Response { return answer(r, 500, "{}") }, err: "no answer within 1m30s", final: true, limit: 95 * time.Second},
		{name: "hangs", fault: func(_ int, r *http.Request) *http.Response { <-r.Context().Done(); return nil }, err: "is this machine on Azure", final: true, limit: 95 * time.Second},
		{name: "a proxy in the way", fault: func(_ int, r *http.Request) *http.Response { return answer(r, 403, "{}") }, err: "proxy or a firewall", final: true},
		{name: "HTML", fault: func(_ int, r *http.Request) *http.Response { return answer(r, 200, "<html>") }, err: "not JSON"},
		{name: "no machine", fault: func(_ int, r *http.Request) *http.Response { return answer(r, 200, "{}") }, err: "names no virtual machine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t)
				c.fault = tt.fault
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
		setup     func(c *cloud)
		want, err string
		final     bool
	}{
		{name: "latest", ref: "keyvault:https://kv.vault.azure.net/secrets/token", want: "glrt-1"},
		{name: "a version", ref: "keyvault:https://kv.vault.azure.net/secrets/token/v2", want: "glrt-2"},
		{name: "an identity that is seconds old", ref: "keyvault:https://kv.vault.azure.net/secrets/token", setup: func(c *cloud) { c.noToken = 3 }, want: "glrt-1"},
		{name: "no identity", ref: "keyvault:https://kv.vault.azure.net/secrets/token", setup: func(c *cloud) { c.noToken = 1000 }, err: "give the machine a managed identity", final: true},
		{name: "missing", ref: "keyvault:https://kv.vault.azure.net/secrets/nothing", err: "no such secret", final: true},
		{name: "forbidden", ref: "keyvault:https://kv.vault.azure.net/secrets/token", setup: func(c *cloud) { c.refuse = 403 }, err: "Key Vault Secrets User", final: true},
		{name: "not a secret's address", ref: "keyvault:https://kv.vault.azure.net/keys/token", err: "keyvault:https://VAULT/secrets/NAME", final: true},
		{name: "another cloud's", ref: "ssm:/token", err: "use keyvault:", final: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCloud(t)
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
				if got != tt.want || (got != "" && c.client != t.Name()) {
					t.Errorf("%q as %q, want %q", got, c.client, tt.want)
				}
			})
		})
	}
}

func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		notices := platform(c).Notices(ctx)
		e := func(id, kind, status, notBefore string, resources ...string) map[string]any {
			return map[string]any{"EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": resources, "EventStatus": status, "NotBefore": notBefore, "EventSource": "Platform", "DurationInSeconds": -1}
		}
		c.mu.Lock()
		c.events = []map[string]any{
			e("other", "Terminate", "Scheduled", "Mon, 19 Sep 2026 18:29:47 GMT", "runners_4"),
			e("freeze", "Freeze", "Scheduled", "Mon, 19 Sep 2026 18:29:47 GMT", "runners_3"),
		}
		c.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case n := <-notices:
			t.Fatalf("an event that does not end this machine: %+v", n)
		default:
		}

		start := time.Now()
		c.mu.Lock()
		c.events = append(c.events, e("ours", "Terminate", "Scheduled", "Mon, 19 Sep 2026 18:29:47 GMT", "runners_3"), e("both", "Preempt", "Started", "", "runners_3", "runners_4"))
		c.mu.Unlock()
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
		if fmt.Sprint(c.approved) != "[ours]" {
			t.Errorf("approved %v", c.approved)
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
