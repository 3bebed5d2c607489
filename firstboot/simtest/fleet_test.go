package simtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

// slow are the times of a real account, in small.
var slow = awstest.Options{PageSize: 50, Consistency: 2 * time.Second, ParametersPerSecond: 40,
	Delays: awstest.Delays{Run: 8 * time.Second, Stop: 10 * time.Second, Terminate: 30 * time.Second, Proceed: 2 * time.Second}}

// group is the name of the world's fleet in the account.
const groupName = "dorunner-dublin"

// queue has so many jobs wait, of up to most each, and one in fifty that is longer than any drain.
func (w *world) queue(n int, most time.Duration) {
	random := rand.New(rand.NewPCG(1, uint64(n))) //nolint:gosec // a test's
	for i := range n {
		takes := time.Duration(random.Int64N(int64(most)))
		if i%50 == 49 {
			takes = 5 * drainLimit
		}
		w.gl.QueueJob(gitlabtest.Job{Tags: []string{"dublin"}, Script: []string{fmt.Sprintf("sleep %d", int(takes.Seconds()))}})
	}
}

func quiet() fleet.Options {
	p, _ := builder.NewProgress(os.Stderr, builder.ProgressOptions{Kind: "plain", NoColor: true})
	return fleet.Options{Progress: p, Timeout: time.Hour, NoWait: true}
}

// A fleet goes from nothing to its most, down to a hundredth of that while jobs run, up again, and away: no job is
// interrupted before the drain's limit, nothing is left anywhere, and GitLab's limit is kept to.
func TestFleetUpAndDown(t *testing.T) {
	most := 60 // a sample; the whole takes minutes
	if os.Getenv("DORUNNER_SOAK") != "" {
		most = 1000
	}
	if testing.Short() {
		most = 20
	}
	for _, protect := range []bool{false, true} {
		t.Run(fmt.Sprintf("protect=%t", protect), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, slow)
				g, c := w.fleet(w.image("dorunner-ubuntu-20.04-a", false), most, fleet.How{}, func(s *images.Spec) { s.Fleet.ProtectWhileBusy = protect })
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				_, err := fleet.Apply(t.Context(), g, c, quiet())
				must(err)
				w.queue(4*most, 20*time.Minute)

				few := max(most/100, 2)
				must(fleet.Scale(t.Context(), g, c, most, quiet()))
				w.until(groupName, 20*time.Minute, "up", func(s sample) bool { return s.serving == most && s.jobs > most })
				must(fleet.Scale(t.Context(), g, c, few, quiet()))
				limit := drainLimit + 5*time.Minute
				if protect { // who is busy stays, however long
					limit = 6 * drainLimit
				}
				w.until(groupName, limit, "down", func(s sample) bool { return s.serving+s.coming+s.ending == few })
				if s := w.look(groupName); s.managers != few {
					t.Errorf("GitLab knows %d machines of %d", s.managers, few)
				}
				w.queue(2*most, 10*time.Minute)
				must(fleet.Scale(t.Context(), g, c, most, quiet()))
				w.until(groupName, 20*time.Minute, "up again", func(s sample) bool { return s.serving == most })
				time.Sleep(5 * time.Minute)
				w.look(groupName)
				must(fleet.Destroy(t.Context(), g, c, quiet()))
				w.gone()
				w.end()
				if protect && len(w.lost) > 100 {
					t.Errorf("%d jobs interrupted", len(w.lost))
				}
				t.Log(w.plot())
			})
		})
	}
}
