package simtest

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/azure"
	"github.com/dorunner/dorunner-bake/firstboot/azure/azuretest"
	"github.com/dorunner/dorunner-bake/firstboot/ec2"
	"github.com/dorunner/dorunner-bake/firstboot/ec2/ec2test"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

const shared = "glrt-t3_sharedbymanymachin"

// A machine of a group holds its scale-in protection while a job runs, and publishes its busy slots once a minute.
func TestBusyMachineOfAGroup(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		gl := gitlabtest.New(gitlabtest.Options{})
		gl.AddRunner(gitlabtest.Runner{Token: shared})
		cloud := ec2test.New(t)
		cloud.Parameters = map[string]string{"/token": shared}
		cloud.Hooks = []string{"ours"}
		cloud.OutOfGroup = true // until some time after its launch hook
		p := ec2.New(ec2.Options{Metadata: cloud.Metadata(), API: cloud.API()})
		h, d := fakeHost(t, root, gl, "name: overridden\nurl: http://gitlab\ntoken: ssm:/token\nregister: api\nconcurrent: 4\npublish_load: true\nprotect_busy: true\n")
		if err := firstboot.Boot(t.Context(), h, p); err != nil {
			t.Fatal(err)
		}
		d.polling = true
		watched := make(chan error, 1)
		go func() { watched <- firstboot.Watch(t.Context(), h, p) }()
		protected := func() bool { return cloud.Get(func() bool { return cloud.Protected }) }
		after := func(wait time.Duration, want bool, calls int, when string) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if got := protected(); got != want {
				t.Errorf("%s: protected %t", when, got)
			}
			if n := len(cloud.Did("SetInstanceProtection")); calls > 0 && n != calls {
				t.Errorf("%s: %d calls, not %d", when, n, calls)
			}
		}
		d.setJob(time.Hour)
		after(7*time.Second, false, 0, "before its service")
		cloud.Get(func() bool { cloud.OutOfGroup = false; return true })
		after(6*time.Second, true, 0, "with a job")
		calls := len(cloud.Did("SetInstanceProtection"))
		d.setJob(0)
		after(30*time.Second, true, calls, "a moment after the job")
		d.setJob(time.Hour)
		after(30*time.Second, true, calls, "with the next job")
		d.setJob(0)
		after(80*time.Second, false, calls+1, "idle")
		after(5*time.Minute, false, calls+1, "idle for long")
		if r, err := firstboot.ReadStatus(h); err != nil || len(r.Warnings) > 0 {
			t.Errorf("%+v %v", r, err)
		}

		// A role that may not: a warning that says so, and goes with its cause.
		cloud.Get(func() bool { cloud.Denied = true; return true })
		d.setJob(time.Hour)
		time.Sleep(2 * time.Minute)
		r, err := firstboot.ReadStatus(h)
		if said := strings.Join(r.Warnings, "\n"); err != nil || strings.Count(said, "\n") != 0 || !strings.Contains(said, "autoscaling:SetInstanceProtection") || !strings.Contains(said, "cloudwatch:PutMetricData") {
			t.Errorf("%q %v", r.Warnings, err)
		}
		cloud.Get(func() bool { cloud.Denied = false; return true })
		after(2*time.Minute, true, 0, "allowed again")
		if r, err = firstboot.ReadStatus(h); err != nil || len(r.Warnings) > 0 || r.State != runner.Online {
			t.Errorf("%+v %v", r, err)
		}

		// Given back by hand: nothing may keep the group from taking the empty machine.
		d.setJob(0)
		if err := firstboot.Drain(t.Context(), h, p, time.Minute); err != nil {
			t.Error(err)
		}
		if err := <-watched; err != nil {
			t.Error(err)
		}
		if protected() {
			t.Error("a drained machine is still protected")
		}
		busy, idle := 0, 0
		for _, s := range cloud.Load {
			switch s {
			case ec2test.Sample{Sum: 100, Count: 4, Min: 25, Max: 25}:
				busy++
			case ec2test.Sample{Count: 4}:
				idle++
			default:
				t.Errorf("published %+v", s)
			}
		}
		if busy < 2 || idle < 5 || busy+idle > 12 {
			t.Errorf("published %d times busy, %d times idle in some 12 minutes", busy, idle)
		}
	})
}

// A first boot that fails gives up the launch hook at once, whatever on_failure says; one that succeeds completes it
// only when its runner polls.
func TestLaunchHook(t *testing.T) {
	for _, tt := range []struct{ name, token, want string }{
		{"refused", "glrt-t3_nobodyknowsthisone", "ABANDON"},
		{"online", shared, "CONTINUE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				gl := gitlabtest.New(gitlabtest.Options{})
				gl.AddRunner(gitlabtest.Runner{Token: shared})
				cloud := ec2test.New(t)
				cloud.Parameters = map[string]string{"/token": tt.token}
				cloud.Hooks = []string{"ours"}
				h, _ := fakeHost(t, root, gl, "name: overridden\nurl: http://gitlab\ntoken: ssm:/token\nregister: api\n")
				err := firstboot.Boot(t.Context(), h, ec2.New(ec2.Options{Metadata: cloud.Metadata(), API: cloud.API()}))
				if (err == nil) != (tt.want == "CONTINUE") {
					t.Error(err)
				}
				if got := strings.Join(cloud.Did(""), "\n"); !strings.HasSuffix(got, "\nCompleteLifecycleAction runners ours "+tt.want) || strings.Count(got, "Lifecycle") != 1 {
					t.Errorf("%s", got)
				}
			})
		})
	}
}

// What health probes hear: a machine that drains and one that suffers from an outage of GitLab's are to be left alone.
func TestHealth(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		gl := gitlabtest.New(gitlabtest.Options{})
		gl.AddRunner(gitlabtest.Runner{Token: shared})
		cloud := azuretest.New(t)
		cloud.Secrets = map[string]string{"/secrets/token/": shared}
		p := azure.New(azure.Options{Metadata: cloud.Metadata(), API: cloud.API()})
		h, d := fakeHost(t, root, gl, "name: overridden\nurl: http://gitlab\ntoken: keyvault:https://kv.vault.azure.net/secrets/token\nregister: api\npublish_load: true\n")
		probe := func(want bool, when string) {
			t.Helper()
			for path, status := range map[string]int{runner.HealthPath: map[bool]int{true: 200, false: 503}[want], runner.RichHealthPath: 200} {
				w := httptest.NewRecorder()
				firstboot.Health(h).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				var body struct{ ApplicationHealthState string }
				if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != status || (body.ApplicationHealthState == "Healthy") != want {
					t.Errorf("%s: %s answers %d %s", when, path, w.Code, w.Body)
				}
			}
		}
		probe(false, "before the first boot")
		if err := firstboot.Boot(t.Context(), h, p); err != nil {
			t.Fatal(err)
		}
		probe(true, "online")
		d.setJob(2 * time.Minute)
		watched := make(chan error, 1)
		go func() { watched <- firstboot.Watch(t.Context(), h, p) }()
		gl.Inject(gitlabtest.Fault{Kind: gitlabtest.Status, Status: http.StatusServiceUnavailable})
		time.Sleep(5 * time.Minute) // the fake runner does not poll either
		if r, _ := firstboot.ReadStatus(h); r.State != runner.Failed || !r.Elsewhere {
			t.Errorf("in an outage of GitLab: %+v", r)
		}
		probe(true, "in an outage of GitLab")
		gl.Heal()
		event := time.Now()
		cloud.Schedule("ours", "Terminate", event.Add(5*time.Minute).UTC().Format(http.TimeFormat), "runners_3")
		time.Sleep(time.Minute)
		probe(true, "draining")
		if err := <-watched; err != nil {
			t.Error(err)
		}
		probe(false, "drained")
		if len(cloud.Load) == 0 {
			t.Error("nothing was published")
		}
	})
}

// The probe's port is served on the machine's own addresses alone, from before there is a runner to look after.
func TestHealthPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h, _ := fakeHost(t, t.TempDir(), gitlabtest.New(gitlabtest.Options{}), "name: x\nhealth_port: "+strconv.Itoa(port)+"\n")
	watched := make(chan error, 1)
	go func() { watched <- firstboot.Watch(t.Context(), h, place{"i-1"}) }()
	url := "http://127.0.0.1:" + strconv.Itoa(port)
	var resp *http.Response
	for range 500 { // it listens any moment
		if resp, err = http.Get(url + runner.HealthPath); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || string(body) != `{"ApplicationHealthState":"Unhealthy"}` {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
	_ = resp.Body.Close() // it was read
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; !ip.IsLoopback() && ip.To4() != nil {
			if c, err := net.DialTimeout("tcp", net.JoinHostPort(ip.String(), strconv.Itoa(port)), time.Second); err == nil {
				_ = c.Close()
				t.Errorf("%s can be reached from outside", ip)
			}
		}
	}
}
