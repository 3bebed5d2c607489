package azure

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
)

// callsOf counts the calls of a bake that goes well.
func callsOf(t *testing.T, set func(*world)) (n int) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		set(w)
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		n = len(w.server.Calls())
	})
	return n
}

// variants are the bakes that everything is rehearsed with.
func variants(t *testing.T) map[string]func(*world) {
	vhd := writeVHD(t, 32<<20)
	return map[string]func(*world){
		"gallery, two regions": func(w *world) {
			w.server.Delays = azuretest.Delays{Network: time.Second, VM: 9 * time.Second, Image: 5 * time.Second, Version: 11 * time.Second, Replicate: 5 * time.Second, Delete: 5 * time.Second}
		},
		"fresh group, managed image": func(w *world) {
			w.spec.Azure.Gallery, w.spec.Azure.Definition, w.spec.Azure.ReplicateTo = "", "", nil
			w.spec.Azure.ResourceGroup, w.spec.Azure.Location, w.spec.Azure.TestBoot = "fresh", "westeurope", false
		},
		"from a disk": func(w *world) { w.spec.Azure.FromVHD, w.spec.Azure.TestBoot = vhd, false },
	}
}

// everyCall runs a bake with something going wrong at call n, for every nth of its calls: all of them in a soak, few in
// short mode.
func everyCall(t *testing.T, nth int, do func(t *testing.T, w *world, n int)) {
	for name, set := range variants(t) {
		t.Run(name, func(t *testing.T) {
			calls := callsOf(t, set)
			step := nth
			switch {
			case testing.Short():
				step = 13
			case os.Getenv("DORUNNER_SOAK") != "":
				step = 1
			case name != "gallery, two regions":
				step = 3
			}
			for n := 1; n <= calls; n += step {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					set(w)
					do(t, w, n)
					w.strict()
					if t.Failed() {
						t.Logf("at call %d of %d: %s\nlog:\n%s", n, calls, w.server.Calls()[min(n, len(w.server.Calls()))-1].API, w.log.String())
					}
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}

// accounted fails the test unless everything that is there is the finished image, or what it lies in, or is named by
// the error. The disk that Azure makes for a machine goes with the machine.
func accounted(t *testing.T, w *world, r result) {
	t.Helper()
	for _, id := range w.left() {
		id = "/subscriptions/" + azuretest.Subscription + id
		result := r.made && slices.ContainsFunc(r.artifact.Images, func(i builder.ImageID) bool { return i.ID == id || strings.HasPrefix(i.ID, id+"/") })
		switch {
		case result && w.server.Tags(id)[TagExpires] != "":
			t.Errorf("%s stays and has an expiry", id)
		case !result && !named(r.err, id) && !named(r.err, strings.TrimSuffix(strings.Replace(id, "/disks/", "/virtualMachines/", 1), "-os")):
			t.Errorf("%s is left and the error does not name it: %v", id, r.err)
		}
	}
}

func named(err error, id string) bool { return err != nil && strings.Contains(err.Error(), id) }

func TestFailAtEveryCall(t *testing.T) {
	everyCall(t, 1, func(t *testing.T, w *world, n int) {
		w.server.Faults = []*azuretest.Fault{{N: n}}
		r := w.bake(t.Context())
		accounted(t, w, r)
	})
}

// The operation that call n began fails, if it began one.
func TestOperationFailsAtEveryCall(t *testing.T) {
	everyCall(t, 1, func(t *testing.T, w *world, n int) {
		w.server.Faults = []*azuretest.Fault{{N: n, Async: true}}
		accounted(t, w, w.bake(t.Context()))
	})
}

// The answer to call n is lost, though the call took effect: the SDK asks again.
func TestLostAnswerAtEveryCall(t *testing.T) {
	everyCall(t, 1, func(t *testing.T, w *world, n int) {
		w.server.Faults = []*azuretest.Fault{{N: n, Lost: true}}
		accounted(t, w, w.bake(t.Context()))
	})
}

func TestCancelAtEveryCall(t *testing.T) {
	everyCall(t, 1, func(t *testing.T, w *world, n int) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		interrupted := errors.New("interrupted")
		w.server.OnCall = func(c azuretest.Call) {
			if c.N == n {
				cancel(interrupted)
			}
		}
		r := w.bake(ctx)
		if r.err != nil && !errors.Is(r.err, interrupted) {
			t.Errorf("error: %v", r.err)
		}
		accounted(t, w, r)
	})
}

// A bake that is killed leaves its ledger and its tags; gc by tag alone finds everything. What it had finished stays.
func TestKillAtEveryCallThenGC(t *testing.T) {
	everyCall(t, 1, func(t *testing.T, w *world, n int) {
		w.kill(n)
		for round := 0; ; round++ {
			found := w.garbage(t.Context())
			if len(found) == 0 {
				break
			}
			err := w.cloud().Remove(t.Context(), found, func(Left, error) {})
			if err != nil && round > 0 {
				t.Fatalf("gc: %v", err)
			}
			if round == 5 {
				t.Fatalf("gc never ends: %v", found)
			}
		}
		for _, id := range w.left() {
			// What a finished version lies in may not have been told that it stays.
			holds := slices.ContainsFunc(w.left(), func(v string) bool { return strings.HasPrefix(v, id+"/") })
			if tags := w.server.Tags("/subscriptions/" + azuretest.Subscription + id); tags[TagExpires] != "" && !holds || tags[TagPlan] == "" {
				t.Errorf("gc leaves %s, tagged %v", id, tags)
			}
		}
	})
}

// kill runs a bake whose process ends at call n: from there on no call of it arrives, and what it wrote stays.
func (w *world) kill(n int) {
	w.server.OnCall = func(c azuretest.Call) {
		if c.N == n {
			w.server.Die()
		}
	}
	w.bake(w.t.Context())
	w.server.OnCall = nil
	w.server.Revive()
}

// The next bake of a killed one's plan gives back what it left, and goes on with what it had begun to publish or
// upload instead of starting over.
func TestKillAtEveryCallThenBakeAgain(t *testing.T) {
	everyCall(t, 1, func(t *testing.T, w *world, n int) {
		w.kill(n)
		before := len(w.server.Calls())
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		accounted(t, w, r)
		if g := w.garbage(t.Context()); len(g) > 0 {
			t.Errorf("gc finds %v", g)
		}
		var begun, again int
		for i, c := range w.server.Calls() {
			if c.API == "GalleryImageVersionsClient.BeginCreateOrUpdate" {
				if i < before {
					begun++
				} else {
					again++
				}
			}
		}
		if begun > 1 || begun == 1 && again > 1 {
			t.Errorf("published %d times, then %d times", begun, again)
		}
	})
}

// A bake killed while its version is being published is finished by the next one, which bakes nothing.
func TestResumePublishing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.server.Delays = azuretest.Delays{Version: 20 * time.Minute}
		published := false
		w.server.OnCall = func(c azuretest.Call) {
			if c.API == "GalleryImageVersionsClient.BeginCreateOrUpdate" {
				published = true
			} else if published && c.API == "Operation" {
				w.server.Die()
			}
		}
		w.bake(t.Context())
		w.server.OnCall = nil
		w.server.Revive()
		before := len(w.server.Calls())
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.strict()
		if !r.reused || len(r.artifact.Images) != 3 {
			t.Errorf("%+v", r)
		}
		for _, c := range w.server.Calls()[before:] {
			if strings.HasSuffix(c.API, "BeginCreateOrUpdate") && !strings.HasSuffix(c.Path, "-test") && !strings.Contains(c.Path, "test-nic") && !strings.Contains(c.Path, "vnet") {
				t.Errorf("the second bake began anew: %s %s", c.API, c.Path)
			}
		}
		accounted(t, w, r)
	})
}

// Cleaning up that fails names what is left.
func TestLeftBehindIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.server.Faults = []*azuretest.Fault{{API: "ImagesClient.BeginCreate"}, {API: "Client.BeginDeleteByID", Status: 409, Code: "ScopeLocked"}}
		r := w.bake(t.Context())
		if r.err == nil || len(r.left) < 5 {
			t.Fatalf("%+v", r)
		}
		accounted(t, w, r)
		if !strings.Contains(r.err.Error(), "remove the lock") {
			t.Errorf("error: %v", r.err)
		}
	})
}
