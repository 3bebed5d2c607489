package simtest

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/azure"
	"github.com/dorunner/dorunner-bake/firstboot/azure/azuretest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

// What a machine of a scale set does from its launch to its end.
func TestLifeInAScaleSet(t *testing.T) {
	const shared = "glrt-t3_sharedbymanymachin"
	for _, tt := range []struct {
		name    string
		kind    string
		warning time.Duration // from the event to its NotBefore
		job     time.Duration
		aborted bool
		within  time.Duration // from the event to the end of the watch
	}{
		{"terminate without a job", "Terminate", 5 * time.Minute, 0, false, 10 * time.Second},
		{"terminate with a job", "Terminate", 5 * time.Minute, 2 * time.Minute, false, 130 * time.Second},
		{"terminate with a long job", "Terminate", 5 * time.Minute, time.Hour, true, 5 * time.Minute},
		{"preempt with a long job", "Preempt", 30 * time.Second, time.Hour, true, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				gl := gitlabtest.New(gitlabtest.Options{})
				gl.AddRunner(gitlabtest.Runner{Token: shared})
				cloud := azuretest.New(t)
				cloud.Secrets = map[string]string{"/secrets/token/": shared}
				cloud.NoToken = 2 // its identity is seconds old
				cloud.Fault = func(n int, r *http.Request) *http.Response {
					if n <= 3 {
						return azuretest.Answer(r, http.StatusGone, "{}") // and so is its metadata
					}
					return nil
				}
				p := azure.New(azure.Options{Metadata: cloud.Metadata(), API: cloud.API()})
				h, d := fakeHost(t, root, gl, "name: overridden\nurl: http://gitlab\ntoken: keyvault:https://kv.vault.azure.net/secrets/token\nregister: api\n")
				if err := firstboot.Boot(ctx, h, p); err != nil {
					t.Fatal(err)
				}

				d.job = tt.job
				watched := make(chan error, 1)
				go func() { watched <- firstboot.Watch(ctx, h, p) }()
				time.Sleep(time.Minute)
				event := time.Now()
				cloud.Schedule("others", tt.kind, event.Add(tt.warning).UTC().Format(http.TimeFormat), "runners_4")
				cloud.Schedule("ours", tt.kind, event.Add(tt.warning).UTC().Format(http.TimeFormat), "runners_3")
				if err := <-watched; err != nil {
					t.Error(err)
				}
				if took := time.Since(event); took > tt.within {
					t.Errorf("after %s, at most %s", took, tt.within)
				}
				if d.aborted != tt.aborted {
					t.Errorf("the job of %s: aborted %v", tt.job, d.aborted)
				}
				if got := strings.Join(cloud.Approved, " "); got != "ours" {
					t.Errorf("approved %q", got)
				}
				if r := gl.Runners(); len(r) != 1 || len(r[0].Managers) != 0 {
					t.Errorf("the shared runner stays, this machine's manager goes: %+v", r)
				}
			})
			findNoSecret(t, root, shared)
		})
	}
}
