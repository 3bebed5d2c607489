package fleet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/images"
)

// fakeCloud is an engine by hand: some resources, and machines that a function of time gives.
type fakeCloud struct {
	have, want []string
	slow       time.Duration // how long what is made stays unseen
	fail       string        // the resource that cannot be made
	calls      int
	made       map[string]time.Time
	census     func() *Census
	consoles   map[string]string
	stopped    []bool
	roll       bool
}

func (f *fakeCloud) Plan(context.Context) ([]Change, error) {
	var out []Change
	for _, w := range f.want {
		if slices.Contains(f.have, w) && time.Since(f.made[w]) >= f.slow {
			continue
		}
		out = append(out, Change{Action: Create, Kind: "thing", Name: w, Do: func(_ context.Context, created func(string) error) error {
			if f.calls++; w == f.fail {
				return errors.New("no room")
			}
			if !slices.Contains(f.have, w) {
				f.have = append(f.have, w)
				f.made[w] = time.Now()
			}
			return created(w)
		}})
	}
	if f.roll {
		out = append(out, Change{Action: Roll, Kind: "machines of", Name: "g", Do: func(context.Context, func(string) error) error { return nil }})
	}
	return out, nil
}

func (f *fakeCloud) Remains(context.Context) ([]Change, error) {
	var out []Change
	for _, h := range f.have {
		out = append(out, Change{Action: Delete, Kind: "thing", Name: h, Do: func(context.Context, func(string) error) error {
			f.have = slices.DeleteFunc(f.have, func(s string) bool { return s == h })
			return nil
		}})
	}
	return out, nil
}

func (f *fakeCloud) Census(ctx context.Context) (*Census, error) {
	if f.census == nil {
		return &Census{Exists: true}, ctx.Err()
	}
	return f.census(), ctx.Err()
}
func (f *fakeCloud) Console(_ context.Context, id string) (string, error) {
	return f.consoles[id], nil
}

func (f *fakeCloud) StopRoll(_ context.Context, rollback bool) error {
	f.stopped = append(f.stopped, rollback)
	return nil
}

func group(t *testing.T, change func(*images.Spec)) *Group {
	t.Helper()
	s := &images.Spec{Runner: runner.Spec{Name: "dublin", URL: "http://gitlab", Token: ref(t, "ssm:/dorunner/token")}, Fleet: images.Fleet{Min: 1, Max: 4}}
	if change != nil {
		change(s)
	}
	plan, err := images.Resolve(s, "aws", images.Options{Launch: true})
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGroup(plan)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func ref(t *testing.T, text string) runner.Secret {
	t.Helper()
	s, err := runner.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// progress keeps what was told.
func progress() (builder.Progress, *strings.Builder) {
	var b strings.Builder
	p, _ := builder.NewProgress(&b, builder.ProgressOptions{Kind: "plain", NoColor: true})
	return p, &b
}

// A second apply changes nothing; one that failed half-way goes on from there, and says what there is until then.
func TestApplyConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := progress()
		c := &fakeCloud{want: []string{"role", "template", "group"}, made: map[string]time.Time{}, slow: 7 * time.Second, fail: "group"}
		o := Options{Progress: p, Ledger: filepath.Join(t.TempDir(), "l.jsonl")}
		_, err := Apply(t.Context(), group(t, nil), c, o)
		if err == nil || !strings.Contains(err.Error(), "create thing group: no room") || !strings.Contains(err.Error(), "so far there is: thing role, thing template") {
			t.Fatal(err)
		}
		time.Sleep(c.slow)
		c.fail, c.calls = "", 0
		changed, err := Apply(t.Context(), group(t, nil), c, o)
		if err != nil || len(changed) != 1 || c.calls != 1 {
			t.Errorf("%v %d changes, %d calls", err, len(changed), c.calls)
		}
		o.Confirm = func([]Change) error { return errors.New("asked about nothing") }
		if changed, err := Apply(t.Context(), group(t, nil), c, o); err != nil || len(changed) != 0 || c.calls != 1 {
			t.Errorf("a second apply: %v %v", changed, err)
		}
		o.Confirm = nil
		if err := Destroy(t.Context(), group(t, nil), c, o); err != nil || len(c.have) > 0 {
			t.Errorf("%v, left %v", err, c.have)
		}
	})
}

func TestApplyTwiceAtOnce(t *testing.T) {
	p, _ := progress()
	c := &fakeCloud{}
	o := Options{Progress: p, Ledger: filepath.Join(t.TempDir(), "l.jsonl")}
	o.Confirm = func([]Change) error { return nil }
	l, err := builder.OpenLedger(o.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := Apply(t.Context(), group(t, nil), c, o); err == nil || !strings.Contains(err.Error(), "another dorunner-bake works on fleet dublin") {
		t.Error(err)
	}
}

// What does not come right is named, with the machine's own words.
func TestWhyNotOnline(t *testing.T) {
	member := func(id string, p Phase) *Member { return &Member{ID: id, Phase: p} }
	failed := runner.Report{State: runner.Failed, Step: "register", Error: "403: the token is not valid"}.ConsoleLine()
	for _, tt := range []struct {
		name   string
		census func(since time.Duration) *Census
		want   []string
		within time.Duration
	}{
		{"one hangs", func(time.Duration) *Census {
			return &Census{Desired: 2, Members: []*Member{member("i-1", Serving), member("i-2", Coming)}}
		}, []string{"not within 34m0s (1 of 2 online, 1 booting)", "machine i-2 failed at register: 403: the token is not valid"}, 35 * time.Minute},
		{"each fails, and the group tries again", func(d time.Duration) *Census {
			n := int(d / time.Minute)
			return &Census{Desired: 1, Members: []*Member{member(fmt.Sprintf("i-%d", n), Coming)}}
		}, []string{"the first boot of 3 machines failed, and the group goes on trying", "machine i-0"}, 4 * time.Minute},
		{"none can be started", func(time.Duration) *Census {
			return &Census{Desired: 1, Trouble: []string{"InsufficientInstanceCapacity in us-east-1a"}}
		}, []string{"InsufficientInstanceCapacity"}, 35 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p, _ := progress()
				c := &fakeCloud{consoles: map[string]string{"i-2": "Linux\n" + failed}, census: func() *Census { return tt.census(time.Since(began)) }}
				_, err := Apply(t.Context(), group(t, nil), c, Options{Progress: p})
				for _, w := range tt.want {
					if err == nil || !strings.Contains(err.Error(), w) {
						t.Errorf("no %q in %v", w, err)
					}
				}
				if d := time.Since(began); d > tt.within {
					t.Errorf("after %s", d)
				}
			})
		})
	}
}

// A roll whose new machines fail is brought back at once; an interrupted one is left to the cloud, stopped or brought
// back by choice.
func TestRoll(t *testing.T) {
	rolling := func(done, failed bool) *Rolling { return &Rolling{Status: "S", Done: done, Failed: failed} }
	old := []*Member{{ID: "i-old", Phase: Serving, Outdated: true}}
	t.Run("broken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			p, told := progress()
			c := &fakeCloud{roll: true, consoles: map[string]string{"i-0": runner.Report{State: runner.Failed, Step: "docker", Error: "no docker"}.ConsoleLine()}}
			c.census = func() *Census {
				if len(c.stopped) > 0 {
					return &Census{Desired: 1, Members: old, Roll: rolling(true, true)}
				}
				n := int(time.Since(began) / time.Minute)
				return &Census{Desired: 1, Members: append(slices.Clone(old), &Member{ID: fmt.Sprintf("i-%d", n), Phase: Coming}), Roll: rolling(false, false)}
			}
			_, err := Apply(t.Context(), group(t, nil), c, Options{Progress: p})
			if err == nil || !strings.Contains(err.Error(), "machine i-0 failed at docker: no docker") || !slices.Equal(c.stopped, []bool{true}) || time.Since(began) > 3*time.Minute {
				t.Errorf("%v after %s, stopped %v\n%s", err, time.Since(began), c.stopped, told)
			}
		})
	})
	for choice, want := range map[Interrupt]string{GoOn: "the cloud goes on with the roll", Stop: "the roll has been stopped", Rollback: "brings the old machines back"} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, _ := progress()
				c := &fakeCloud{roll: true, census: func() *Census { return &Census{Members: old, Roll: rolling(false, false)} }}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := Apply(ctx, group(t, nil), c, Options{Progress: p, OnInterrupt: func() Interrupt { return choice }})
				if err == nil || !strings.Contains(err.Error(), want) || (len(c.stopped) > 0) != (choice != GoOn) {
					t.Errorf("%v, stopped %v", err, c.stopped)
				}
			})
		})
	}
}

func TestGroup(t *testing.T) {
	g := group(t, func(s *images.Spec) { s.Fleet.DrainTimeout = runner.Duration(3 * time.Hour) })
	if g.Runner.Description != "{{.Name}}-{{.InstanceID}}" || g.Runner.OnFailure != "unhealthy" || time.Duration(g.Runner.DrainTimeout) != 3*time.Hour || g.Name != "dublin" || g.Initial() != 1 {
		t.Errorf("%+v", g.Runner)
	}
	if len(g.UserData) > 16383 || g.UserData[0] != 0x1f {
		t.Errorf("user-data of %d bytes", len(g.UserData))
	}
	again := group(t, func(s *images.Spec) { s.Fleet.DrainTimeout = runner.Duration(3 * time.Hour) })
	if string(again.UserData) != string(g.UserData) {
		t.Error("the same spec gives other user-data: every plan would replace all machines")
	}
	s := &images.Spec{Runner: runner.Spec{Name: "dublin", URL: "http://gitlab", Token: runner.Plain("glrt-canary")}, Fleet: images.Fleet{Max: 2}}
	plan, err := images.Resolve(s, "aws", images.Options{Launch: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewGroup(plan); !errors.Is(err, runner.ErrPlainSecret) || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
	s.Runner.Description = "all the same"
	s.Runner.Token = ref(t, "ssm:/t")
	if plan, err = images.Resolve(s, "aws", images.Options{Launch: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewGroup(plan); err == nil || !strings.Contains(err.Error(), "would be the same on every machine") {
		t.Error(err)
	}
}

func TestRender(t *testing.T) {
	var f Fields
	f.Diff("image", "ami-1", "ami-2")
	f.Diff("same", 1, "1")
	f.Diff("subnets", []string{"a", "b"}, []string{})
	var b strings.Builder
	Render(&b, []Change{{Action: Create, Kind: "role", Name: "r"}, {Action: Update, Kind: "launch template", Name: "t", Fields: f, Note: "because"}}, false)
	want := "+ role r\n~ launch template t\n    image    ami-1 -> ami-2\n    subnets  a, b -> (none)\n    # because\n"
	if b.String() != want {
		t.Errorf("%s", b.String())
	}
}
