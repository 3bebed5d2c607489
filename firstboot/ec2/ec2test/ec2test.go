// Package ec2test is EC2 around one instance, in this process: strict instance metadata (IMDSv2 at both addresses)
// and the calls to Parameter Store, Secrets Manager, Auto Scaling and CloudWatch that a machine makes. What the real services
// would refuse, or was not asked as they want it, fails the test.
package ec2test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// Cloud is EC2 around the instance i-0123 of the group "runners" in eu-west-1. Its exported fields are set before it
// is used, and read when nobody uses it any more.
type Cloud struct {
	Paths  map[string]string // instance metadata below /latest/
	Tokens int               // session tokens given out; only the last one is good
	Asked  int               // requests to metadata
	// Fault answers a request to metadata in its place, unless it returns neither an answer nor an error.
	Fault func(r *http.Request) (*http.Response, error)

	Parameters map[string]string
	Secrets    map[string]string
	Denied     bool     // the role may do nothing
	Throttled  int      // answers of "too many" before the services work
	Skewed     int      // answers of "signature expired" before the instance's clock is set
	Hooks      []string // lifecycle actions that wait
	Hosts      []string // where the services were asked
	OutOfGroup bool     // the group does not count on the instance, yet or any more
	Protected  bool     // from scale-in
	Load       []Sample // what was put into the group's metric

	t     testing.TB
	mu    sync.Mutex
	calls []string // what the services were asked
}

// Sample is one datum of the metric.
type Sample struct{ Sum, Count, Min, Max float64 }

// New makes the cloud, with everything in place.
func New(t testing.TB) *Cloud {
	return &Cloud{t: t, Paths: map[string]string{
		"dynamic/instance-identity/document":                `{"instanceId":"i-0123","region":"eu-west-1","availabilityZone":"eu-west-1b","accountId":"123456789012"}`,
		"meta-data/local-hostname":                          "ip-10-0-0-1.eu-west-1.compute.internal",
		"meta-data/tags/instance":                           "Name\naws:autoscaling:groupName\ndorunner:name\ndorunner:tags\ndorunner:launch_hook",
		"meta-data/tags/instance/Name":                      "box",
		"meta-data/tags/instance/aws:autoscaling:groupName": "runners",
		"meta-data/tags/instance/dorunner:name":             "dataops-runner-dublin",
		"meta-data/tags/instance/dorunner:tags":             "dublin,big",
		"meta-data/tags/instance/dorunner:launch_hook":      "ours",
		"meta-data/iam/security-credentials/":               "the-role",
		"meta-data/iam/security-credentials/the-role": fmt.Sprintf(`{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"AKID","SecretAccessKey":"SECRET","Token":"SESSION","Expiration":%q}`,
			time.Now().Add(6*time.Hour).UTC().Format(time.RFC3339)),
	}}
}

// Set changes what metadata says, while it is in use.
func (c *Cloud) Set(path, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Paths[path] = text
}

// Get reads or changes exported fields while the cloud is in use.
func (c *Cloud) Get(f func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f()
}

// Did lists the calls to services whose text contains part.
func (c *Cloud) Did(part string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, call := range c.calls {
		if strings.Contains(call, part) {
			out = append(out, call)
		}
	}
	return out
}

// Metadata reaches instance metadata.
func (c *Cloud) Metadata() http.RoundTripper { return metadata{c} }

type metadata struct{ *Cloud }

func (m metadata) RoundTrip(r *http.Request) (*http.Response, error) {
	c := m.Cloud
	c.mu.Lock()
	c.Asked++
	fault := c.Fault
	c.mu.Unlock()
	if h := r.URL.Host; h != "169.254.169.254" && h != "[fd00:ec2::254]" {
		c.t.Errorf("metadata was looked for at %s", h)
	}
	if fault != nil {
		if resp, err := fault(r); resp != nil || err != nil {
			return resp, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/latest/")
	switch {
	case !ok || r.Header.Get("X-Forwarded-For") != "":
		c.t.Errorf("%s %s is not a request for metadata", r.Method, r.URL)
		return Answer(r, 400, ""), nil
	case r.Method == http.MethodPut && path == "api/token":
		if r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			return Answer(r, 400, ""), nil
		}
		c.Tokens++
		resp := Answer(r, 200, fmt.Sprint("token-", c.Tokens))
		resp.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "300")
		return resp, nil
	case r.Method != http.MethodGet:
		c.t.Errorf("%s %s is not a request for metadata", r.Method, r.URL)
		return Answer(r, 405, ""), nil
	case r.Header.Get("X-aws-ec2-metadata-token") == "":
		c.t.Errorf("%s was asked without a token: that is IMDSv1", path)
		return Answer(r, 401, ""), nil
	case r.Header.Get("X-aws-ec2-metadata-token") != fmt.Sprint("token-", c.Tokens):
		return Answer(r, 401, ""), nil
	}
	if text, ok := c.Paths[path]; ok {
		return Answer(r, 200, text), nil
	}
	return Answer(r, 404, "not found"), nil
}

// Answer is a response.
func Answer(r *http.Request, status int, text string) *http.Response {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	_, _ = w.WriteString(text) // into memory
	resp := w.Result()
	resp.Request = r
	return resp
}

// Refused is what a connection to a closed port fails with.
func Refused(r *http.Request) error {
	return &url.Error{Op: r.Method, URL: r.URL.String(), Err: syscall.ECONNREFUSED}
}

// API reaches the services.
func (c *Cloud) API() http.RoundTripper { return api{c} }

type api struct{ *Cloud }

func (a api) RoundTrip(r *http.Request) (*http.Response, error) {
	c := a.Cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	service, _, _ := strings.Cut(r.URL.Host, ".")
	c.Hosts = append(c.Hosts, r.URL.Host)
	if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "Credential=AKID/") || !strings.Contains(auth, "/eu-west-1/"+service+"/aws4_request") || r.Header.Get("X-Amz-Security-Token") != "SESSION" {
		c.t.Errorf("%s: not signed by the role for the region: %q", service, auth)
	}
	switch service {
	case "autoscaling":
		return c.autoscaling(r, string(b))
	case "monitoring":
		return c.cloudwatch(r, b)
	}
	target := r.Header.Get("X-Amz-Target")
	c.calls = append(c.calls, target+" "+string(b))
	fail := func(status int, code, message string) (*http.Response, error) {
		resp := Answer(r, status, fmt.Sprintf(`{"__type":%q,"message":%q}`, code, message))
		resp.Header.Set("X-Amzn-ErrorType", code)
		return resp, nil
	}
	if c.Skewed > 0 {
		c.Skewed--
		return fail(400, "InvalidSignatureException", "Signature expired: 20251126T040000Z is now earlier than 20261126T035500Z")
	}
	if c.Throttled > 0 {
		c.Throttled--
		return fail(400, "ThrottlingException", "Rate exceeded")
	}
	if c.Denied {
		return fail(400, "AccessDeniedException", "User: the-role is not authorized")
	}
	var in struct {
		Name, SecretId string
		WithDecryption bool
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	out := map[string]any{}
	switch target {
	case "AmazonSSM.GetParameter":
		v, ok := c.Parameters[in.Name]
		if !ok || !in.WithDecryption {
			return fail(400, "ParameterNotFound", "")
		}
		out["Parameter"] = map[string]any{"Name": in.Name, "Value": v, "Type": "SecureString"}
	case "secretsmanager.GetSecretValue":
		v, ok := c.Secrets[in.SecretId]
		if !ok {
			return fail(400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
		}
		out["SecretString"] = v
	default:
		c.t.Errorf("unknown call %s", target)
		return fail(400, "UnknownOperationException", target)
	}
	text, err := json.Marshal(out)
	resp := Answer(r, 200, string(text))
	resp.Header.Set("Content-Type", "application/x-amz-json-1.1")
	return resp, err
}

// cloudwatch is PutMetricData in the RPC v2 CBOR protocol (smithy.io), for this group's metric alone.
func (c *Cloud) cloudwatch(r *http.Request, body []byte) (*http.Response, error) {
	c.calls = append(c.calls, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	answer := func(status int, v cbor.Map) (*http.Response, error) {
		resp := Answer(r, status, string(cbor.Encode(v)))
		resp.Header.Set("Content-Type", "application/cbor")
		resp.Header.Set("Smithy-Protocol", "rpc-v2-cbor")
		return resp, nil
	}
	if c.Denied {
		return answer(400, cbor.Map{"__type": cbor.String("com.amazonaws.cloudwatch#AccessDenied"), "message": cbor.String("User: the-role is not authorized")})
	}
	if r.URL.Path != "/service/GraniteServiceVersion20100801/operation/PutMetricData" || r.Header.Get("Smithy-Protocol") != "rpc-v2-cbor" {
		c.t.Errorf("unknown call %s", r.URL.Path)
		return answer(404, cbor.Map{})
	}
	v, err := cbor.Decode(body)
	if err != nil {
		return nil, err
	}
	at := func(v cbor.Value, path ...any) cbor.Value { // nil for what is not there
		for _, p := range path {
			switch key := p.(type) {
			case string:
				m, _ := v.(cbor.Map)
				v = m[key]
			case int:
				l, _ := v.(cbor.List)
				if len(l) != key+1 { // the last one of its list, and so the only one
					return nil
				}
				v = l[key]
			}
		}
		return v
	}
	datum := at(v, "MetricData", 0)
	for want, got := range map[string]cbor.Value{
		"DORunner": at(v, "Namespace"), "BusySlots": at(datum, "MetricName"), "Percent": at(datum, "Unit"),
		"AutoScalingGroupName": at(datum, "Dimensions", 0, "Name"), "runners": at(datum, "Dimensions", 0, "Value"),
	} {
		if got != cbor.String(want) {
			c.t.Errorf("PutMetricData says %v where the group's metric has %q", got, want)
		}
	}
	number := func(key string) float64 {
		f, err := cbor.AsFloat64(at(datum, "StatisticValues", key))
		if err != nil {
			c.t.Errorf("PutMetricData: %s: %v", key, err)
		}
		return f
	}
	s := Sample{number("Sum"), number("SampleCount"), number("Minimum"), number("Maximum")}
	if s.Count < 1 || s.Min > s.Sum/s.Count || s.Max < s.Sum/s.Count {
		c.t.Errorf("PutMetricData: the statistics contradict themselves: %+v", s)
	}
	c.Load = append(c.Load, s)
	return answer(200, cbor.Map{})
}

// autoscaling is the four actions of the Auto Scaling API's query protocol.
func (c *Cloud) autoscaling(r *http.Request, body string) (*http.Response, error) {
	form, err := url.ParseQuery(body)
	if err != nil {
		return nil, err
	}
	action := form.Get("Action")
	c.calls = append(c.calls, strings.TrimSpace(fmt.Sprint(action, " ", form.Get("AutoScalingGroupName"), " ", form.Get("LifecycleHookName"), " ", form.Get("LifecycleActionResult"), form.Get("HealthStatus"), form.Get("ProtectedFromScaleIn"))))
	if id := form.Get("InstanceId") + form.Get("InstanceIds.member.1"); id != "i-0123" {
		c.t.Errorf("%s for instance %q", action, id)
	}
	fail := func(code, message string) (*http.Response, error) {
		return Answer(r, 400, fmt.Sprintf(`<ErrorResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, code, message)), nil
	}
	if c.Denied {
		return fail("AccessDenied", "User: the-role is not authorized")
	}
	switch action {
	case "RecordLifecycleActionHeartbeat", "CompleteLifecycleAction":
		waits := false
		for i, h := range c.Hooks {
			if h == form.Get("LifecycleHookName") && form.Get("AutoScalingGroupName") == "runners" {
				waits = true
				if action == "CompleteLifecycleAction" {
					c.Hooks = append(c.Hooks[:i:i], c.Hooks[i+1:]...)
				}
				break
			}
		}
		if !waits {
			return fail("ValidationError", "No active Lifecycle Action found with instance ID i-0123")
		}
	case "SetInstanceHealth":
	case "SetInstanceProtection":
		if c.OutOfGroup {
			return fail("ValidationError", "The instance i-0123 is not in InService or EnteringStandby or Standby.")
		}
		if form.Get("AutoScalingGroupName") != "runners" {
			return fail("ValidationError", "AutoScalingGroup name not found")
		}
		c.Protected = form.Get("ProtectedFromScaleIn") == "true"
	default:
		c.t.Errorf("unknown action %s", action)
		return fail("InvalidAction", action)
	}
	return Answer(r, 200, fmt.Sprintf(`<%[1]sResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><%[1]sResult/><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%[1]sResponse>`, action)), nil
}
