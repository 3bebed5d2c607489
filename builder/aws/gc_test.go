package aws

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
)

// TestKilled ends the process at every call, the call itself acted upon, and lets gc clean up: by the ledger on the same machine, by
// tags alone on another.
func TestKilled(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		name := map[bool]string{false: "gc with the ledger", true: "gc by tags"}[elsewhere]
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n += stride() {
				reached := false
				synctest.Test(t, func(t *testing.T) {
					t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
					w := distributed(t, false)
					w.spec.AWS.Publish = "" // a published image is in use, and stays
					var dead atomic.Bool
					w.server.OnCall = func(c awstest.Call) awstest.Reaction {
						if dead.Load() {
							return awstest.Reaction{Dead: true}
						}
						if c.N == n {
							reached = true
							dead.Store(true)
							return awstest.Reaction{Lose: true}
						}
						return awstest.Reaction{}
					}
					file, err := builder.LedgerFile("killed")
					if err != nil {
						t.Fatal(err)
					}
					ledger, err := builder.OpenLedger(file)
					if err != nil {
						t.Fatal(err)
					}
					env := &builder.Env{Plan: w.plan(), Ledger: ledger, Progress: builder.Discard(), BakeID: "20260101-000000-dead00", WorkDir: t.TempDir(), OutDir: t.TempDir()}
					_, _, err = steps(t.Context(), w.cloud(), env)
					if (err == nil) == reached {
						t.Fatalf("call %d: %v", n, err)
					}
					if err := ledger.Close(); err != nil { // as the end of the process does
						t.Fatal(err)
					}
					dead.Store(false)
					n = -n // no further interference
					defer func() { n = -n }()
					if !reached {
						return
					}
					house := NewHouse(w.config())
					if !elsewhere {
						if _, err := builder.CleanStale(t.Context(), w.cloud().Undoes(), nil); err != nil {
							t.Errorf("call %d: %v", -n, err)
						}
					}
					time.Sleep(lifetime)
					list := collect(t, house)
					for _, l := range list {
						if !elsewhere {
							t.Errorf("call %d: not found through the ledger: %s", -n, l)
						}
						if time.Now().Before(l.Expires) {
							t.Errorf("call %d: %s is said to be in use", -n, l)
						}
					}
					if err := house.Remove(t.Context(), list, func(Left) {}); err != nil {
						t.Errorf("call %d: %v", -n, err)
					}
					time.Sleep(time.Minute)
					if elsewhere && len(w.server.Images()) > 0 {
						// Between marking the first and the last image as finished, those marked are whole and look it.
						for _, i := range w.server.Images() {
							if i.Tags[tagExpires] != "" || i.State != "available" {
								t.Errorf("call %d: image %s is left", -n, i.ID)
							}
						}
						return
					}
					if left := w.server.Left(); len(left) > 0 {
						t.Errorf("call %d: left behind: %s", -n, strings.Join(left, ", "))
					}
				})
				if !reached || t.Failed() {
					t.Logf("%d calls", n-1)
					return
				}
			}
		})
	}
}

func collect(t *testing.T, house *House) []Left {
	t.Helper()
	regions, err := house.Regions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := house.Left(t.Context(), regions)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestGCLeavesOthersAlone: finished images, and everything that is not ours, are nobody's leftovers.
func TestGCLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{})
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		time.Sleep(30 * 24 * time.Hour)
		if list := collect(t, NewHouse(w.config())); len(list) > 0 {
			t.Errorf("gc would remove %v", list)
		}
	})
}

// TestPrune: the newest images stay, and those that something uses; every page of a long list is read.
func TestPrune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{PageSize: 1})
		var ids []string
		for i := range 6 {
			w.spec.Image.DiskGB = 50 + i // another plan, the same name template
			r := w.bake(t.Context())
			if r.err != nil {
				t.Fatal(r.err)
			}
			ids = append(ids, r.artifact.Images[0].ID)
			time.Sleep(time.Hour)
		}
		w.server.Refer("us-east-1", ids[1], awstest.Reference{Type: "ec2:LaunchTemplate", ARN: "arn:aws:ec2:us-east-1:123456789012:launch-template/lt-1"})
		house := NewHouse(w.config())
		gone, kept, err := house.Prune(t.Context(), []string{"us-east-1", "eu-west-1"}, 0, false)
		if err != nil || len(gone) != 4 || len(kept) != 1 || len(w.server.Images()) != 6 {
			t.Fatalf("rehearsal: gone %v, kept %v, %v", gone, kept, err)
		}
		w.spec.AWS.Keep = 3
		w.spec.Image.DiskGB = 99
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		want := []string{ids[1], ids[4], ids[5], r.artifact.Images[0].ID}
		var have []string
		for _, i := range w.onlyFinished() {
			have = append(have, i.ID)
		}
		if strings.Join(have, " ") != strings.Join(want, " ") {
			t.Errorf("left %v, want %v", have, want)
		}
		w.noComplaints()
	})
}

// TestForce bakes again although the image exists: under a name of its own.
func TestForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{})
		if r := w.bake(t.Context()); r.err != nil {
			t.Fatal(r.err)
		}
		time.Sleep(time.Minute)
		c := w.cloud()
		ledger, err := builder.OpenLedger(filepath.Join(t.TempDir(), "l"))
		if err != nil {
			t.Fatal(err)
		}
		env := &builder.Env{Plan: w.plan(), Ledger: ledger, Progress: builder.Discard(), BakeID: "20260101-000000-abcdef", WorkDir: t.TempDir(), OutDir: t.TempDir()}
		if err := c.Preflight(t.Context(), env); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Launch(t.Context(), env); err != nil {
			t.Fatal(err)
		}
		a, err := c.Capture(t.Context(), env)
		if err == nil {
			_, err = c.Distribute(t.Context(), env, a)
		}
		if err != nil || len(ledger.Entries()) > 0 {
			t.Fatalf("%v, ledger %v", err, ledger.Entries())
		}
		if all := w.onlyFinished(); len(all) != 2 || all[1].Name != all[0].Name+"-abcdef" {
			t.Errorf("images %v", all)
		}
		if r := w.bake(context.Background()); !r.reused || r.artifact.Images[0].ID != a.Images[0].ID {
			t.Errorf("then the newest is reused: %+v", r)
		}
	})
}
