package simtest

import (
	"fmt"
	"io"
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
	random := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range n {
		takes := time.Duration(random.Int64N(int64(most)))
		if i%50 == 49 {
			takes = 5 * drainLimit
		}
		w.gl.QueueJob(gitlabtest.Job{Tags: []string{"dublin"}, Script: []string{fmt.Sprintf("sleep %d", int(takes.Seconds()))}})
	}
}

func quiet(out io.Writer) fleet.Options {
	p, _ := builder.NewProgress(out, builder.ProgressOptions{Kind: "plain", NoColor: true})
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
			if testing.Short() && protect {
				t.Skip("for the whole run")
			}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, slow)
				g, c := w.fleet(w.image("dorunner-ubuntu-20.04-a", false), most, fleet.How{}, func(s *images.Spec) { s.Fleet.ProtectWhileBusy = protect })
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				_, err := fleet.Apply(t.Context(), g, c, quiet(t.Output()))
				must(err)
				w.queue(4*most, 20*time.Minute)
				unwatch := w.watch(groupName)

				few := max(most/100, 2)
				must(fleet.Scale(t.Context(), g, c, most, quiet(t.Output())))
				w.until(groupName, 20*time.Minute, "up", func(s sample) bool { return s.serving == most && s.jobs > most })
				must(fleet.Scale(t.Context(), g, c, few, quiet(t.Output())))
				limit := drainLimit + 5*time.Minute
				if protect { // who is busy stays, however long
					limit = 6 * drainLimit
				}
				w.until(groupName, limit, "down", func(s sample) bool { return s.serving+s.coming+s.ending == few })
				if s := w.look(groupName); s.managers != few {
					t.Errorf("GitLab knows %d machines of %d", s.managers, few)
				}
				w.queue(2*most, 10*time.Minute)
				must(fleet.Scale(t.Context(), g, c, most, quiet(t.Output())))
				w.until(groupName, 20*time.Minute, "up again", func(s sample) bool { return s.serving == most })
				time.Sleep(5 * time.Minute)
				must(fleet.Destroy(t.Context(), g, c, quiet(t.Output())))
				w.gone()
				unwatch()
				w.end()
				t.Log(w.plot())
				w.draw(*plots, fmt.Sprintf("fleet-%d", most)+map[bool]string{true: "-protected"}[protect], fmt.Sprintf("0, %d, %d, %d, 0 machines", most, few, most))
			})
		})
	}
}

// A roll to a good image never has fewer machines in service than wanted. One to an image whose first boot fails stops
// with its first batch and brings the old machines back, which never stopped taking jobs.
func TestRoll(t *testing.T) {
	const machines = 10
	for _, tt := range []struct {
		name     string
		broken   bool
		patience time.Duration // of the engine's, with machines that do not come up
		newest   int           // machines of the new image, ever
	}{
		{name: "good", newest: machines},
		{name: "broken", broken: true, newest: 2},
		{name: "broken, of a patient engine", broken: true, patience: time.Hour, newest: 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.patience > 0 {
				t.Skip("for the whole run")
			}
			synctest.Test(t, func(t *testing.T) {
				o := slow
				o.RefreshPatience = tt.patience
				w := newWorld(t, o)
				before, after := w.image("dorunner-ubuntu-20.04-a", false), w.image("dorunner-ubuntu-20.04-b", tt.broken)
				want := machines
				size := func(s *images.Spec) { s.Fleet.Desired, s.Fleet.ProtectWhileBusy = &want, true }
				wait := quiet(t.Output())
				wait.NoWait = false
				g, c := w.fleet(before, machines, fleet.How{RollOptions: fleet.RollOptions{MaxHealthy: 120}}, size)
				if _, err := fleet.Apply(t.Context(), g, c, wait); err != nil {
					t.Fatal(err)
				}

				// Jobs come all the time, and somebody looks all the time.
				rolled := make(chan struct{})
				watched := make(chan int)
				type queued struct {
					id int
					at time.Time
				}
				var jobs []queued
				least := machines
				go func() {
					defer close(watched)
					for n := 0; ; n++ {
						select {
						case <-rolled:
							return
						case <-time.After(5 * time.Second):
						}
						if n%3 == 0 {
							jobs = append(jobs, queued{w.gl.QueueJob(gitlabtest.Job{Tags: []string{"dublin"}, Script: []string{"sleep 150"}}), time.Now()})
						}
						least = min(least, w.look(groupName).serving)
					}
				}()
				began := time.Now()
				g, c = w.fleet(after, machines, fleet.How{RollOptions: fleet.RollOptions{MaxHealthy: 120}}, size)
				_, err := fleet.Apply(t.Context(), g, c, wait)
				took := time.Since(began)
				close(rolled)
				<-watched
				if (err != nil) != tt.broken {
					t.Errorf("the roll: %v", err)
				}
				time.Sleep(2 * drainLimit)
				w.look(groupName)

				is := map[string]int{}
				w.mu.Lock()
				for _, b := range w.boxes {
					is[b.m.ImageID]++
				}
				w.mu.Unlock()
				if least < machines || is[after] > tt.newest {
					t.Errorf("at least %d of %d machines in service; %d of the new image", least, machines, is[after])
				}
				for id, n := range w.aws.MemberImages(region, groupName) {
					if want := map[bool]string{false: after, true: before}[tt.broken]; id != want || n != machines {
						t.Errorf("%d members of %s", n, id)
					}
				}
				var longest time.Duration
				for _, q := range jobs {
					j, _ := w.gl.Job(q.id)
					if j.State != "success" {
						t.Errorf("job %d, queued %s after the begin: %s", q.id, q.at.Sub(began), j.State)
						continue
					}
					longest = max(longest, j.Started.Sub(q.at))
				}
				if longest > 30*time.Second {
					t.Errorf("a job waited for %s", longest)
				}
				t.Logf("the roll took %s; at least %d in service; %d machines of the new image were tried; %d jobs, of which one waited for %s; %v", took, least, is[after], len(jobs), longest, err)
				g, c = w.fleet(after, machines, fleet.How{}, size)
				if err := fleet.Destroy(t.Context(), g, c, quiet(t.Output())); err != nil {
					t.Fatal(err)
				}
				w.gone()
				w.end()
				t.Log(w.plot())
			})
		})
	}
}

// A fleet sized by its load grows while jobs wait, and gives back idle machines only: no job of any length is lost.
func TestFleetByLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, slow)
		const most = 8
		g, c := w.fleet(w.image("dorunner-ubuntu-20.04-a", false), most, fleet.How{}, func(s *images.Spec) {
			s.Fleet.Min, s.Fleet.Desired, s.Fleet.Autoscale, s.Fleet.ProtectWhileBusy = 1, nil, 70, true
		})
		wait := quiet(t.Output())
		wait.NoWait = false
		if _, err := fleet.Apply(t.Context(), g, c, wait); err != nil {
			t.Fatal(err)
		}
		unwatch := w.watch(groupName)
		time.Sleep(30 * time.Minute)
		if s := w.look(groupName); s.desired != 1 || s.serving != 1 {
			t.Errorf("without jobs: %+v", s)
		}
		w.queue(60, 30*time.Minute)
		w.until(groupName, time.Hour, "grown", func(s sample) bool { return s.serving > most/2 && s.jobs > most })
		w.until(groupName, 8*time.Hour, "shrunk", func(s sample) bool { return s.desired == 1 && s.serving+s.coming+s.ending == 1 && s.jobs == 0 })
		if w.finished != 60 || len(w.lost) > 0 {
			t.Errorf("%d jobs finished, lost: %+v", w.finished, w.lost)
		}
		if err := fleet.Destroy(t.Context(), g, c, quiet(t.Output())); err != nil {
			t.Fatal(err)
		}
		w.gone()
		unwatch()
		w.end()
		t.Log(w.plot())
		w.draw(*plots, "fleet-by-load", "60 jobs come; busy slots are kept at 70 %")
	})
}
