package ec2_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/ec2"
	"github.com/dorunner/dorunner-bake/firstboot/ec2/ec2test"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

func platform(c *ec2test.Cloud) *ec2.Platform {
	return ec2.New(ec2.Options{Metadata: c.Metadata(), API: c.API()})
}

func TestIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ec2test.New(t)
		p := platform(c)
		want := firstboot.Identity{InstanceID: "i-0123", Region: "eu-west-1", Zone: "eu-west-1b", Hostname: "ip-10-0-0-1.eu-west-1.compute.internal",
			Overlay: map[string]string{"name": "dataops-runner-dublin", "tags": "dublin,big"}}
		got, err := p.Identity(t.Context())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v %v", got, err)
		}
		asked := c.Asked
		if _, err := p.Identity(t.Context()); err != nil || c.Asked != asked {
			t.Errorf("a known identity is asked for again: %v", err)
		}
	})
}

func TestMetadataFaults(t *testing.T) {
	fail := func(status int) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) { return ec2test.Answer(r, status, ""), nil }
	}
	for _, tt := range []struct {
		name  string
		spoil func(c *ec2test.Cloud)
		err   string // empty for success
		final bool
		limit time.Duration
	}{
		{name: "tags switched off", spoil: func(c *ec2test.Cloud) {
			for k := range c.Paths {
				if strings.HasPrefix(k, "meta-data/tags") {
					delete(c.Paths, k)
				}
			}
		}},
		{name: "503 five times", limit: 20 * time.Second, spoil: func(c *ec2test.Cloud) {
			n := 0
			c.Fault = func(r *http.Request) (*http.Response, error) {
				if n++; n <= 5 {
					return ec2test.Answer(r, 503, ""), nil
				}
				return nil, nil
			}
		}},
		{name: "503 for ever", spoil: func(c *ec2test.Cloud) { c.Fault = fail(503) }, err: "no answer within 1m0s", final: true, limit: 65 * time.Second},
		{name: "switched off", spoil: func(c *ec2test.Cloud) { c.Fault = fail(403) }, err: "set HttpEndpoint to enabled", final: true},
		{name: "IMDSv1 only", spoil: func(c *ec2test.Cloud) {
			c.Fault = func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodPut {
					return ec2test.Answer(r, 405, ""), nil
				}
				return nil, nil // the strict server fails the test when asked without a token
			}
		}, err: "is this machine on EC2", final: true, limit: 65 * time.Second},
		{name: "refused", spoil: func(c *ec2test.Cloud) {
			c.Fault = func(r *http.Request) (*http.Response, error) { return nil, ec2test.Refused(r) }
		}, err: "is this machine on EC2", final: true, limit: 65 * time.Second},
		{name: "hangs", spoil: func(c *ec2test.Cloud) {
			c.Fault = func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
		}, err: "is this machine on EC2", final: true, limit: 65 * time.Second},
		{name: "slow", limit: 40 * time.Second, spoil: func(c *ec2test.Cloud) {
			c.Fault = func(r *http.Request) (*http.Response, error) {
				time.Sleep(2 * time.Second)
				return nil, nil
			}
		}},
		{name: "IPv6 only", limit: 20 * time.Second, spoil: func(c *ec2test.Cloud) {
			c.Fault = func(r *http.Request) (*http.Response, error) {
				if r.URL.Host == "169.254.169.254" {
					time.Sleep(time.Second)
					return nil, ec2test.Refused(r)
				}
				return nil, nil
			}
		}},
		{name: "the token expires early", spoil: func(c *ec2test.Cloud) {
			n := 0
			c.Fault = func(r *http.Request) (*http.Response, error) {
				if n++; n == 4 {
					c.Tokens++ // nobody else asks meanwhile
				}
				return nil, nil
			}
		}, limit: 5 * time.Second},
		{name: "no identity document", spoil: func(c *ec2test.Cloud) { delete(c.Paths, "dynamic/instance-identity/document") }, err: "has not the instance identity document", final: true},
		{name: "HTML", spoil: func(c *ec2test.Cloud) { c.Paths["dynamic/instance-identity/document"] = "<html>\nlog in" }, err: "names no instance"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := ec2test.New(t)
				tt.spoil(c)
				start := time.Now()
				got, err := platform(c).Identity(t.Context())
				if took := time.Since(start); took > tt.limit {
					t.Errorf("took %s, at most %s", took, tt.limit)
				}
				if tt.err == "" {
					if err != nil || got.InstanceID != "i-0123" {
						t.Fatalf("%+v %v", got, err)
					}
					return
				}
				var f *firstboot.Failure
				if err == nil || !strings.Contains(err.Error(), tt.err) || (errors.As(err, &f) && f.Final) != tt.final {
					t.Errorf("%v, want %q", err, tt.err)
				}
			})
		})
	}
}

func TestSecret(t *testing.T) {
	for _, tt := range []struct {
		name, ref string
		spoil     func(c *ec2test.Cloud)
		want, err string
		final     bool
	}{
		{name: "parameter", ref: "ssm:/dorunner/token", want: "glrt-1"},
		{name: "parameter, throttled", ref: "ssm:/dorunner/token", spoil: func(c *ec2test.Cloud) { c.Throttled = 3 }, want: "glrt-1"},
		{name: "parameter, clock off by a year", ref: "ssm:/dorunner/token", spoil: func(c *ec2test.Cloud) { c.Skewed = 99 }, err: "timedatectl"},
		{name: "missing parameter", ref: "ssm:/nothing", err: "no such secret in this region", final: true},
		{name: "denied parameter", ref: "ssm:/dorunner/token", spoil: func(c *ec2test.Cloud) { c.Denied = true }, err: "ssm:GetParameter", final: true},
		{name: "secret", ref: "secretsmanager:dorunner", want: `{"token":"glrt-2","n":1}`},
		{name: "secret's key", ref: "secretsmanager:dorunner#token", want: "glrt-2"},
		{name: "secret's missing key", ref: "secretsmanager:dorunner#other", err: `no key "other"`, final: true},
		{name: "secret's number", ref: "secretsmanager:dorunner#n", err: "not a text", final: true},
		{name: "not an object", ref: "secretsmanager:plain#token", err: "not a JSON object", final: true},
		{name: "missing secret", ref: "secretsmanager:nothing", err: "no such secret in this region", final: true},
		{name: "no role", ref: "ssm:/dorunner/token", spoil: func(c *ec2test.Cloud) { delete(c.Paths, "meta-data/iam/security-credentials/") }, err: "attach an instance profile", final: true},
		{name: "another cloud's", ref: "keyvault:https://v.vault.azure.net/secrets/t", err: "use ssm: or secretsmanager:", final: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := ec2test.New(t)
				c.Parameters = map[string]string{"/dorunner/token": "glrt-1"}
				c.Secrets = map[string]string{"dorunner": `{"token":"glrt-2","n":1}`, "plain": "glrt-3"}
				if tt.spoil != nil {
					tt.spoil(c)
				}
				ref, err := runner.ParseSecret(tt.ref)
				if err != nil {
					t.Fatal(err)
				}
				got, err := platform(c).Secret(t.Context(), ref)
				var f *firstboot.Failure
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || (errors.As(err, &f) && f.Final) != tt.final {
					t.Errorf("%v, want %q", err, tt.err)
				}
				if got != tt.want {
					t.Errorf("%q, want %q", got, tt.want)
				}
				if err != nil && strings.Contains(err.Error(), "glrt-") {
					t.Errorf("the error shows a secret: %v", err)
				}
			})
		})
	}
}

func TestIPv6OnlyUsesDualStackEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ec2test.New(t)
		c.Parameters = map[string]string{"/t": "v"}
		c.Fault = func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "169.254.169.254" {
				return nil, ec2test.Refused(r)
			}
			return nil, nil
		}
		ref, err := runner.ParseSecret("ssm:/t")
		if err != nil {
			t.Fatal(err)
		}
		if v, err := platform(c).Secret(t.Context(), ref); err != nil || v != "v" || !strings.HasSuffix(c.Hosts[0], ".api.aws") {
			t.Errorf("%q %v from %v", v, err, c.Hosts)
		}
	})
}

func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ec2test.New(t)
		c.Hooks = []string{runner.TerminateHook}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		notices := platform(c).Notices(ctx)
		c.Set("meta-data/autoscaling/target-lifecycle-state", "InService")
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case n := <-notices:
			t.Fatalf("a machine in service was told of its end: %+v", n)
		default:
		}

		start := time.Now()
		c.Set("meta-data/spot/instance-action", `{"action":"terminate","time":"2030-01-02T03:04:05Z"}`)
		n := <-notices
		if n.Kind != "spot" || n.Deadline.Year() != 2030 || n.Heartbeat != nil || time.Since(start) > 5*time.Second {
			t.Errorf("%+v after %s", n, time.Since(start))
		}

		if err := n.Complete(ctx); err != nil {
			t.Error(err)
		}
		c.Hooks = []string{runner.TerminateHook}

		c.Set("meta-data/autoscaling/target-lifecycle-state", "Terminated")
		n = <-notices
		if n.Kind != "lifecycle" {
			t.Fatalf("%+v", n)
		}
		if err := n.Heartbeat(ctx); err != nil {
			t.Error(err)
		}
		if err := errors.Join(n.Complete(ctx), n.Complete(ctx)); err != nil { // twice: a drain that was interrupted
			t.Error(err)
		}
		if err := n.Heartbeat(ctx); err == nil || !strings.Contains(err.Error(), "no lifecycle hook") {
			t.Errorf("a heartbeat without a hook: %v", err)
		}
		beat, done := "RecordLifecycleActionHeartbeat runners dorunner-terminate", "CompleteLifecycleAction runners dorunner-terminate CONTINUE"
		if got := c.Did("Lifecycle"); !slices.Equal(got, []string{done, beat, done, done, beat}) {
			t.Errorf("%q", got)
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

func TestMarker(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hooks []string
		setup func(c *ec2test.Cloud)
		call  func(p *ec2.Platform, ctx context.Context) error
		want  []string
		err   string
	}{
		{name: "online in a group that waits", hooks: []string{"ours"}, call: (*ec2.Platform).Online, want: []string{"CompleteLifecycleAction runners ours CONTINUE"}},
		{name: "online again", call: (*ec2.Platform).Online, want: []string{"CompleteLifecycleAction runners ours CONTINUE"}},
		{name: "online without a group", setup: func(c *ec2test.Cloud) { delete(c.Paths, "meta-data/tags/instance") }, call: (*ec2.Platform).Online},
		{name: "online without permission", setup: func(c *ec2test.Cloud) { c.Denied = true }, call: (*ec2.Platform).Online, want: []string{"CompleteLifecycleAction runners ours CONTINUE"}, err: "autoscaling:CompleteLifecycleAction"},
		{name: "failed while the hook waits", hooks: []string{"ours"}, call: failed(true), want: []string{"CompleteLifecycleAction runners ours ABANDON"}},
		{name: "failed at a later boot", call: failed(false), want: []string{"CompleteLifecycleAction runners ours ABANDON"}},
		{name: "failed without a group", setup: func(c *ec2test.Cloud) { delete(c.Paths, "meta-data/tags/instance") }, call: failed(false)},
		{name: "failed without permission", setup: func(c *ec2test.Cloud) { c.Denied = true }, call: failed(false), want: []string{"CompleteLifecycleAction runners ours ABANDON"}, err: "autoscaling:CompleteLifecycleAction"},
		{name: "unhealthy", call: unhealthy, want: []string{"SetInstanceHealth   Unhealthy"}},
		{name: "unhealthy with tags off", setup: func(c *ec2test.Cloud) { delete(c.Paths, "meta-data/tags/instance") }, call: unhealthy, want: []string{"SetInstanceHealth   Unhealthy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := ec2test.New(t)
				c.Hooks = tt.hooks
				if tt.setup != nil {
					tt.setup(c)
				}
				err := tt.call(platform(c), t.Context())
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("%v, want %q", err, tt.err)
				}
				if got := c.Did(""); fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("%q, want %q", got, tt.want)
				}
			})
		})
	}
}

func unhealthy(p *ec2.Platform, ctx context.Context) error {
	return p.Unhealthy(ctx, "registration refused")
}

func failed(want bool) func(*ec2.Platform, context.Context) error {
	return func(p *ec2.Platform, ctx context.Context) error {
		done, err := p.Failed(ctx)
		if done != want {
			return fmt.Errorf("a hook waited: %t; %w", done, err)
		}
		return err
	}
}

// The platform tells the outside how first boot ended, and its group how busy it is.
var (
	_ firstboot.Marker    = (*ec2.Platform)(nil)
	_ firstboot.Protector = (*ec2.Platform)(nil)
	_ firstboot.Publisher = (*ec2.Platform)(nil)
)

func TestProtect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ec2test.New(t)
		p := platform(c)
		for _, on := range []bool{true, false} {
			if err := p.Protect(t.Context(), on); err != nil || c.Protected != on {
				t.Errorf("protected: %t, %v", c.Protected, err)
			}
		}
		c.OutOfGroup = true
		if err := p.Protect(t.Context(), true); !errors.Is(err, firstboot.ErrNotInService) {
			t.Errorf("before its service: %v", err)
		}
		c.Denied = true
		if err := p.Protect(t.Context(), true); err == nil || !strings.Contains(err.Error(), "autoscaling:SetInstanceProtection") {
			t.Errorf("not allowed: %v", err)
		}
		c = ec2test.New(t)
		delete(c.Paths, "meta-data/tags/instance")
		if err := platform(c).Protect(t.Context(), true); err == nil || !strings.Contains(err.Error(), "InstanceMetadataTags") {
			t.Errorf("without a group: %v", err)
		}
	})
}

// A group of three machines of different sizes: the metric's average is busy slots over capacity.
func TestPublishLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ec2test.New(t)
		p := platform(c)
		for _, l := range []firstboot.Load{{Jobs: 8, Slots: 8}, {Jobs: 0, Slots: 2}, {Jobs: 1, Slots: 30}} {
			if err := p.PublishLoad(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
		var sum, count float64
		for _, s := range c.Load {
			sum, count = sum+s.Sum, count+s.Count
		}
		if len(c.Load) != 3 || sum/count != 100*9./40 || count != 40 {
			t.Errorf("%+v", c.Load)
		}
		if !slices.Contains(c.Hosts, "monitoring.eu-west-1.amazonaws.com") {
			t.Errorf("asked %q", c.Hosts)
		}
		c.Denied = true
		if err := p.PublishLoad(t.Context(), firstboot.Load{Slots: 1}); err == nil || !strings.Contains(err.Error(), "cloudwatch:PutMetricData") {
			t.Errorf("not allowed: %v", err)
		}
	})
}
