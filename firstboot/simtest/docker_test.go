package simtest

import (
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A Docker daemon that comes a minute late, or goes away for a minute at any moment of the boot, costs that minute and
// no more than a second on top of it.
func TestDockerDownForAMinute(t *testing.T) {
	const down = time.Minute
	for after := range 14 {
		root := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}})
			h, _ := fakeHost(t, root, gl, "name: dataops-runner\nurl: http://gitlab\nregister: api\ntoken: plain:"+regToken+"\n")
			real, calls, gone := h.Docker, 0, time.Time{}
			h.Docker = roundTrip(func(r *http.Request) (*http.Response, error) {
				if calls++; calls > after {
					if gone.IsZero() {
						gone = time.Now()
					}
					if time.Since(gone) < down {
						return nil, &net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}
					}
				}
				return real.RoundTrip(r)
			})
			began := time.Now()
			if err := firstboot.Boot(t.Context(), h, place{"i-1"}); err != nil {
				t.Fatalf("away after %d calls: %v", after, err)
			}
			if took := time.Since(began); !gone.IsZero() && (took < down || took > down+2*time.Second) {
				t.Errorf("away after %d calls: took %s", after, took)
			}
			if n := gl.Count("POST", "/runners"); n != 1 {
				t.Errorf("away after %d calls: registered %d times", after, n)
			}
		})
	}
}
