package simtest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

const regToken = "GR1348941abcdefghijklmnopqr"

// place is a platform that says at once which machine this is.
type place struct{ id string }

func (p place) Name() string { return "nocloud" }
func (p place) Identity(context.Context) (firstboot.Identity, error) {
	return firstboot.Identity{InstanceID: p.id}, nil
}
func (place) Secret(context.Context, runner.Secret) (string, error) { return "", nil }
func (place) Notices(context.Context) <-chan firstboot.Notice       { return nil }

// A thousand machines boot in the same second, and GitLab lets 600 register per minute: all come up, they ask little
// more than once each, and those that were told to wait do not come back together.
func TestThousandFirstBoots(t *testing.T) {
	for _, tt := range []struct {
		name, mode string
		retries    int
		atMost     float64 // requests per machine, polls aside
	}{
		{"api", "api", 0, 2.2},
		{"container of 15.11", "container", 0, 2.5}, // one more: the look before the container is run
		{"container of 19.4", "container", 4, 2.5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.mode != "api" {
				t.Skip("for the whole run")
			}
			thousand(t, tt.mode, tt.retries, tt.atMost)
		})
	}
}

func thousand(t *testing.T, mode string, retries int, atMost float64) {
	const machines, perMinute = 1000, 600
	base := t.TempDir()
	if _, err := os.Stat("/dev/shm"); err == nil { // ten thousand fsyncs are not what is tested
		var err error
		if base, err = os.MkdirTemp("/dev/shm", "boots-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(base) })
	}
	synctest.Test(t, func(t *testing.T) {
		gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}, RegistrationsPerMinute: perMinute})
		start := time.Now()
		ended := make([]time.Duration, machines)
		var wg sync.WaitGroup
		for i := range machines {
			h, d := fakeHost(t, filepath.Join(base, fmt.Sprint(i)), gl, "name: dataops-runner\ndescription: '{{.Name}}-{{.InstanceID}}'\nurl: http://gitlab\nregister: "+mode+"\ntoken: plain:"+regToken+"\n")
			h.Log, d.retries = io.Discard, retries
			wg.Go(func() {
				if err := firstboot.Boot(t.Context(), h, place{fmt.Sprintf("i-%04d", i)}); err != nil {
					t.Errorf("machine %d: %v", i, err)
				}
				ended[i] = time.Since(start)
			})
		}
		wg.Wait()
		synctest.Wait()

		if n := len(gl.Runners()); n != machines {
			t.Errorf("%d runners for %d machines", n, machines)
		}
		if p := gl.Problems(); len(p) > 0 {
			t.Errorf("%d problems, the first: %s", len(p), p[0])
		}
		const bucket = 5 * time.Second
		var histogram []int
		perSecond := map[int]int{}
		registrations, refused, polls, others := 0, 0, 0, 0
		for _, r := range gl.Requests() {
			switch {
			case r.Path == "/api/v4/jobs/request":
				polls++
				continue
			case r.Path == "/api/v4/runners" && r.Status == http.StatusTooManyRequests:
				refused++
			case r.Path == "/api/v4/runners":
				registrations++
			default:
				others++
			}
			at := r.Time.Sub(start)
			for len(histogram) <= int(at/bucket) {
				histogram = append(histogram, 0)
			}
			histogram[at/bucket]++
			perSecond[int(at/time.Second)]++
		}
		asked := registrations + refused + others
		last := time.Duration(0)
		for _, e := range ended {
			last = max(last, e)
		}
		t.Logf("%d machines online after %s; %.2f requests each to register (%d registered, %d told 429, %d others) and %.2f first polls",
			machines, last.Round(time.Second), float64(asked)/machines, registrations, refused, others, float64(polls)/machines)
		for i, n := range histogram {
			t.Logf("%4ds %4d %s", i*5, n, strings.Repeat("#", (n+9)/10))
		}
		if got := float64(asked) / machines; got > atMost {
			t.Errorf("%.2f requests per machine, at most %.1f", got, atMost)
		}
		for s, n := range perSecond {
			if s > 0 && n > machines/20 {
				t.Errorf("a wave: %d requests in second %d", n, s)
			}
		}
		if last > 5*time.Minute {
			t.Errorf("the last machine came up after %s", last)
		}
	})
}
