package ec2_test

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
)

// cloud is EC2 around one instance: strict IMDSv2 at both addresses, and the three services, in this process.
type cloud struct {
	t *testing.T

	mu     sync.Mutex
	paths  map[string]string // instance metadata below /latest/
	tokens int               // session tokens given out; only the last one is good
	asked  int               // requests to metadata
	fault  func(c *cloud, r *http.Request) (*http.Response, error)

	parameters map[string]string
	secrets    map[string]string
	denied     bool
	throttled  int      // answers of "too many" before the services work
	hooks      []string // lifecycle actions that wait
	calls      []string // what the services were asked
	hosts      []string
}

func newCloud(t *testing.T) *cloud {
	return &cloud{t: t, paths: map[string]string{
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

func (c *cloud) set(path, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths[path] = text
}

// did lists the calls to services whose text contains part.
func (c *cloud) did(part string) []string {
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

// metadataTransport reaches instance metadata.
type metadataTransport struct{ *cloud }

func (m metadataTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c := m.cloud
	c.mu.Lock()
	c.asked++
	fault := c.fault
	c.mu.Unlock()
	if h := r.URL.Host; h != "169.254.169.254" && h != "[fd00:ec2::254]" {
		c.t.Errorf("metadata was looked for at %s", h)
	}
	if fault != nil {
		if resp, err := fault(c, r); resp != nil || err != nil {
			return resp, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/latest/")
	switch {
	case !ok || r.Header.Get("X-Forwarded-For") != "":
		c.t.Errorf("%s %s is not a request for metadata", r.Method, r.URL)
		return answer(r, 400, ""), nil
	case r.Method == http.MethodPut && path == "api/token":
		if r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			return answer(r, 400, ""), nil
		}
		c.tokens++
		resp := answer(r, 200, fmt.Sprint("token-", c.tokens))
		resp.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "300")
		return resp, nil
	case r.Method != http.MethodGet:
		c.t.Errorf("%s %s is not a request for metadata", r.Method, r.URL)
		return answer(r, 405, ""), nil
	case r.Header.Get("X-aws-ec2-metadata-token") == "":
		c.t.Errorf("%s was asked without a token: that is IMDSv1", path)
		return answer(r, 401, ""), nil
	case r.Header.Get("X-aws-ec2-metadata-token") != fmt.Sprint("token-", c.tokens):
		return answer(r, 401, ""), nil
	}
	if text, ok := c.paths[path]; ok {
		return answer(r, 200, text), nil
	}
	return answer(r, 404, "not found"), nil
}

func answer(r *http.Request, status int, text string) *http.Response {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	_, _ = w.WriteString(text) // into memory
	resp := w.Result()
	resp.Request = r
	return resp
}

func refusedConnection(r *http.Request) error {
	return &url.Error{Op: r.Method, URL: r.URL.String(), Err: syscall.ECONNREFUSED}
}

// apiTransport reaches the services.
type apiTransport struct{ *cloud }

func (a apiTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c := a.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	service, _, _ := strings.Cut(r.URL.Host, ".")
	c.hosts = append(c.hosts, r.URL.Host)
	if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "Credential=AKID/") || !strings.Contains(auth, "/eu-west-1/"+service+"/aws4_request") || r.Header.Get("X-Amz-Security-Token") != "SESSION" {
		c.t.Errorf("%s: not signed by the role for the region: %q", service, auth)
	}
	if service == "autoscaling" {
		return c.autoscaling(r, string(b))
	}
	target := r.Header.Get("X-Amz-Target")
	c.calls = append(c.calls, target+" "+string(b))
	fail := func(status int, code, message string) (*http.Response, error) {
		resp := answer(r, status, fmt.Sprintf(`{"__type":%q,"message":%q}`, code, message))
		resp.Header.Set("X-Amzn-ErrorType", code)
		return resp, nil
	}
	if c.throttled > 0 {
		c.throttled--
		return fail(400, "ThrottlingException", "Rate exceeded")
	}
	if c.denied {
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
		v, ok := c.parameters[in.Name]
		if !ok || !in.WithDecryption {
			return fail(400, "ParameterNotFound", "")
		}
		out["Parameter"] = map[string]any{"Name": in.Name, "Value": v, "Type": "SecureString"}
	case "secretsmanager.GetSecretValue":
		v, ok := c.secrets[in.SecretId]
		if !ok {
			return fail(400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
		}
		out["SecretString"] = v
	default:
		c.t.Errorf("unknown call %s", target)
		return fail(400, "UnknownOperationException", target)
	}
	text, err := json.Marshal(out)
	resp := answer(r, 200, string(text))
	resp.Header.Set("Content-Type", "application/x-amz-json-1.1")
	return resp, err
}

// autoscaling is the three actions of the Auto Scaling API's query protocol.
func (c *cloud) autoscaling(r *http.Request, body string) (*http.Response, error) {
	form, err := url.ParseQuery(body)
	if err != nil {
		return nil, err
	}
	action := form.Get("Action")
	c.calls = append(c.calls, strings.TrimSpace(fmt.Sprint(action, " ", form.Get("AutoScalingGroupName"), " ", form.Get("LifecycleHookName"), " ", form.Get("LifecycleActionResult"), form.Get("HealthStatus"))))
	if form.Get("InstanceId") != "i-0123" {
		c.t.Errorf("%s for instance %q", action, form.Get("InstanceId"))
	}
	fail := func(code, message string) (*http.Response, error) {
		return answer(r, 400, fmt.Sprintf(`<ErrorResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, code, message)), nil
	}
	if c.denied {
		return fail("AccessDenied", "User: the-role is not authorized")
	}
	switch action {
	case "RecordLifecycleActionHeartbeat", "CompleteLifecycleAction":
		waits := false
		for i, h := range c.hooks {
			if h == form.Get("LifecycleHookName") && form.Get("AutoScalingGroupName") == "runners" {
				waits = true
				if action == "CompleteLifecycleAction" {
					c.hooks = append(c.hooks[:i:i], c.hooks[i+1:]...)
				}
				break
			}
		}
		if !waits {
			return fail("ValidationError", "No active Lifecycle Action found with instance ID i-0123")
		}
	case "SetInstanceHealth":
	default:
		c.t.Errorf("unknown action %s", action)
		return fail("InvalidAction", action)
	}
	return answer(r, 200, fmt.Sprintf(`<%[1]sResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><%[1]sResult/><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%[1]sResponse>`, action)), nil
}
