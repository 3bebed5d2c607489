// Package azuretest is Azure around one virtual machine, in this process: the instance metadata service, as its
// documentation describes it, and one key vault. What the real services would refuse fails the test.
package azuretest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Cloud is Azure around the machine runners_3. Its exported fields are set before it is used, and read when nobody
// uses it any more.
type Cloud struct {
	Compute map[string]any // of instance metadata
	Asked   int            // requests to metadata
	// Fault answers the n-th request to metadata in its place, unless it returns nil.
	Fault    func(n int, r *http.Request) *http.Response
	Tokens   int    // requests for a token
	NoToken  int    // of them, the first that are told "Identity not found"
	Client   string // the client id that a token was asked for
	Secrets  map[string]string
	Refuse   int      // the vault's status instead of an answer
	Approved []string // ids of events

	t      testing.TB
	mu     sync.Mutex
	events []map[string]any
}

// New makes the cloud, with everything in place.
func New(t testing.TB) *Cloud {
	tag := func(name, value string) map[string]string { return map[string]string{"name": name, "value": value} }
	return &Cloud{t: t, Compute: map[string]any{
		"vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "name": "runners_3", "location": "westeurope", "zone": "2",
		"osProfile": map[string]string{"computerName": "runners000003"},
		// Each test has an identity of its own: the SDK keeps tokens for the whole process.
		"tagsList": []any{tag("Dorunner-Name", "dataops-runner-amsterdam"), tag("dorunner-tags", "amsterdam"), tag("owner", "x"), tag("dorunner-identity", t.Name())},
	}, Secrets: map[string]string{"/secrets/token/": "glrt-1", "/secrets/token/v2": "glrt-2"}}
}

// Schedule adds a scheduled event while the cloud is in use. NotBefore is empty for one that has started.
func (c *Cloud) Schedule(id, kind, notBefore string, resources ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	status := "Scheduled"
	if notBefore == "" {
		status = "Started"
	}
	c.events = append(c.events, map[string]any{"EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": resources,
		"EventStatus": status, "NotBefore": notBefore, "EventSource": "Platform", "DurationInSeconds": -1})
}

// Metadata reaches the metadata service.
func (c *Cloud) Metadata() http.RoundTripper { return metadata{c} }

// API reaches the vault.
func (c *Cloud) API() http.RoundTripper { return vault{c} }

// Answer is a response with a JSON body; a string is sent as it is.
func Answer(r *http.Request, status int, body any) *http.Response {
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

type metadata struct{ *Cloud }

func (m metadata) RoundTrip(r *http.Request) (*http.Response, error) {
	c := m.Cloud
	c.mu.Lock()
	c.Asked++
	n, fault := c.Asked, c.Fault
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
		return Answer(r, 400, `{"error":"Bad request. Required metadata header not specified"}`), nil
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /metadata/instance":
		return Answer(r, 200, map[string]any{"compute": c.Compute, "network": map[string]any{}}), nil
	case "GET /metadata/identity/oauth2/token":
		c.Tokens++
		if c.Tokens <= c.NoToken {
			return Answer(r, 400, `{"error":"invalid_request","error_description":"Identity not found"}`), nil
		}
		if q.Get("resource") != "https://vault.azure.net" {
			c.t.Errorf("a token for %q", q.Get("resource"))
		}
		c.Client = q.Get("client_id")
		return Answer(r, 200, map[string]string{"access_token": "the-token", "expires_in": "86400", "expires_on": fmt.Sprint(time.Now().Add(24 * time.Hour).Unix()), "resource": q.Get("resource"), "token_type": "Bearer"}), nil
	case "GET /metadata/scheduledevents":
		return Answer(r, 200, map[string]any{"DocumentIncarnation": 1, "Events": c.events}), nil
	case "POST /metadata/scheduledevents":
		var in struct{ StartRequests []struct{ EventId string } }
		b, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(b, &in) != nil || len(in.StartRequests) != 1 {
			c.t.Errorf("approval %q %v", b, err)
		}
		c.Approved = append(c.Approved, in.StartRequests[0].EventId)
		return Answer(r, 200, "{}"), nil
	}
	c.t.Errorf("%s %s is unknown", r.Method, r.URL)
	return Answer(r, 404, "{}"), nil
}

type vault struct{ *Cloud }

func (v vault) RoundTrip(r *http.Request) (*http.Response, error) {
	c := v.Cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Scheme != "https" || r.URL.Host != "kv.vault.azure.net" {
		c.t.Errorf("the secret was looked for at %s", r.URL)
	}
	if r.Header.Get("Authorization") == "" {
		resp := Answer(r, 401, "{}")
		resp.Header.Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"`)
		return resp, nil
	}
	if got := r.Header.Get("Authorization"); got != "Bearer the-token" {
		c.t.Errorf("authorization %q", got)
	}
	fail := func(status int, code string) (*http.Response, error) {
		return Answer(r, status, map[string]any{"error": map[string]string{"code": code, "message": "no"}}), nil
	}
	if c.Refuse != 0 {
		return fail(c.Refuse, "Forbidden")
	}
	value, ok := c.Secrets[r.URL.Path]
	if !ok {
		return fail(404, "SecretNotFound")
	}
	return Answer(r, 200, map[string]any{"value": value, "id": r.URL.String()}), nil
}
