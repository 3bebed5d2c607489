// Package azuretest is Azure around one virtual machine, in this process: the instance metadata service, as its
// documentation describes it, one key vault, and the metrics of its scale set. What the real services would refuse fails the test.
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
	Load     []Sample // what was put into the scale set's metric

	t      testing.TB
	mu     sync.Mutex
	events []map[string]any
}

// Sample is one series of the metric.
type Sample struct {
	Machine              []string `json:"dimValues"`
	Min, Max, Sum, Count float64
}

// ScaleSet is the resource id of the machine's scale set.
const ScaleSet = "/subscriptions/8d10da13/resourceGroups/ci/providers/Microsoft.Compute/virtualMachineScaleSets/runners"

// New makes the cloud, with everything in place.
func New(t testing.TB) *Cloud {
	tag := func(name, value string) map[string]string { return map[string]string{"name": name, "value": value} }
	return &Cloud{t: t, Compute: map[string]any{
		"vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "name": "runners_3", "location": "westeurope", "zone": "2", "subscriptionId": "8d10da13", "resourceGroupName": "ci",
		"virtualMachineScaleSet": map[string]string{"id": ScaleSet}, "vmScaleSetName": "runners",
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

// API reaches the vault and the metrics.
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
		token, ok := map[string]string{"https://vault.azure.net": "the-token", "https://monitoring.azure.com/": "the-monitor-token"}[q.Get("resource")]
		if !ok {
			c.t.Errorf("a token for %q", q.Get("resource"))
		}
		c.Client = q.Get("client_id")
		return Answer(r, 200, map[string]string{"access_token": token, "expires_in": "86400", "expires_on": fmt.Sprint(time.Now().Add(24 * time.Hour).Unix()), "resource": q.Get("resource"), "token_type": "Bearer"}), nil
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
	if r.URL.Host == "westeurope.monitoring.azure.com" {
		return c.metrics(r)
	}
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

// metrics takes custom metrics for the scale set (Azure Monitor, "Ingest custom metrics using the REST API").
func (c *Cloud) metrics(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost || r.URL.Scheme != "https" || r.URL.Path != ScaleSet+"/metrics" || r.Header.Get("Content-Type") != "application/json" {
		c.t.Errorf("%s %s is not how a metric is published", r.Method, r.URL)
		return Answer(r, 404, "{}"), nil
	}
	if c.Refuse != 0 {
		return Answer(r, c.Refuse, "{}"), nil
	}
	if got := r.Header.Get("Authorization"); got != "Bearer the-monitor-token" {
		c.t.Errorf("authorization %q", got)
	}
	var in struct {
		Time time.Time
		Data struct {
			BaseData struct {
				Metric, Namespace string
				DimNames          []string
				Series            []Sample
			}
		}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&in)
	b := in.Data.BaseData
	if err != nil || time.Since(in.Time).Abs() > 4*time.Minute || b.Metric != "BusySlots" || b.Namespace != "DORunner" || len(b.DimNames) != 1 || len(b.Series) != 1 || len(b.Series[0].Machine) != 1 {
		c.t.Errorf("not the scale set's metric: %+v %v", in, err)
		return Answer(r, 400, "{}"), nil
	}
	c.Load = append(c.Load, b.Series...)
	return Answer(r, 200, ""), nil
}
