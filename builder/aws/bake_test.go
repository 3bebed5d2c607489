package aws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/images"
)

const canonical = "099720109477"

// world is an account with a base image in its first region, on the virtual clock of a bubble.
type world struct {
	t      testing.TB
	server *awstest.Server
	spec   images.Spec
	base   string
	bakes  int
	say    builder.Progress
}

func newWorld(t testing.TB, o awstest.Options) *world {
	s := awstest.New(o)
	s.AddRole("baker")
	w := &world{t: t, server: s, say: builder.Discard()}
	old := time.Now().AddDate(0, -2, 0)
	s.AddBaseImage("us-east-1", canonical, "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20250101", "x86_64", old)
	w.base = s.AddBaseImage("us-east-1", canonical, "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20250301", "x86_64", old.Add(24*time.Hour))
	s.AddBaseImage("us-east-1", canonical, "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-20250201", "x86_64", old.Add(time.Hour))
	s.AddBaseImage("us-east-1", "666666666666", "ubuntu/images/hvm-ssd/ubuntu-focal-20.04-amd64-server-99999999", "x86_64", old.Add(48*time.Hour))
	return w
}

func (w *world) config() sdk.Config {
	return sdk.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""),
		HTTPClient: &http.Client{Transport: w.server.Transport(), Timeout: callDeadline}, BaseEndpoint: sdk.String("http://aws.test")}
}

// quietGuest is a machine on which everything works, in no time.
type quietGuest struct{}

func (quietGuest) Run(context.Context, builder.Command) error                   { return nil }
func (quietGuest) Upload(context.Context, string, io.Reader, fs.FileMode) error { return nil }
func (quietGuest) Download(context.Context, string, io.Writer) error            { return nil }

func (w *world) cloud() *Cloud {
	return New(Options{
		Config:   w.config(),
		Dial:     func(context.Context, ssh.Config) (builder.Guest, error) { return quietGuest{}, nil },
		CallerIP: func(context.Context) (netip.Addr, error) { return netip.MustParseAddr("198.51.100.7"), nil },
	})
}

func (w *world) plan() *images.Plan {
	p, err := images.Resolve(&w.spec, "aws", images.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

type result struct {
	artifact builder.Artifact
	reused   bool
	err      error
	left     []builder.Entry // in the ledger
	ended    time.Time       // when its steps did; giving back comes after
}

// bake does what the engine does, without anything on the machine.
func (w *world) bake(ctx context.Context) (r result) { return w.bakeWith(ctx, w.cloud()) }

func (w *world) bakeWith(ctx context.Context, c *Cloud) (r result) {
	w.bakes++
	ledger, err := builder.OpenLedger(filepath.Join(w.t.TempDir(), "ledger.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	env := &builder.Env{Plan: w.plan(), Ledger: ledger, Progress: w.say, BakeID: fmt.Sprintf("20260101-000000-%06x", w.bakes), WorkDir: w.t.TempDir(), OutDir: w.t.TempDir()}
	r.artifact, r.reused, r.err = steps(ctx, c, env)
	r.ended = time.Now()
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Minute)
	defer cancel()
	r.err = errors.Join(r.err, ledger.Unwind(undo, nil))
	r.left = ledger.Entries()
	if err := ledger.Close(); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func steps(ctx context.Context, c *Cloud, env *builder.Env) (a builder.Artifact, reused bool, err error) {
	_, elsewhere := c.BakedElsewhere()
	if err = c.Preflight(ctx, env); err != nil {
		return a, false, fmt.Errorf("preflight: %w", err)
	}
	if a, reused, err = c.Find(ctx, env); reused || err != nil {
		return a, reused, err
	}
	if !elsewhere {
		if _, err = c.Launch(ctx, env); err != nil {
			return a, false, fmt.Errorf("launch: %w", err)
		}
		if err = c.Stop(ctx, env); err != nil {
			return a, false, fmt.Errorf("stop: %w", err)
		}
	}
	if a, err = c.Capture(ctx, env); err != nil {
		return a, false, fmt.Errorf("capture: %w", err)
	}
	if err = c.TestBoot(ctx, env, a); err != nil {
		return a, false, fmt.Errorf("test-boot: %w", err)
	}
	if a, err = c.Distribute(ctx, env, a); err != nil {
		return a, false, fmt.Errorf("distribute: %w", err)
	}
	return a, false, nil
}

func (w *world) noComplaints() {
	w.t.Helper()
	for _, c := range w.server.Complaints() {
		w.t.Errorf("the service complains: %s", c)
	}
}

// images that are whole, the base's snapshots aside.
func (w *world) onlyFinished() []awstest.Image {
	w.t.Helper()
	own := map[string]bool{}
	for _, i := range w.server.Images() {
		own[i.ID] = true
		for _, s := range i.Snapshots {
			own[s] = true
		}
		if i.Tags[tagExpires] != "" || i.State != "available" {
			w.t.Errorf("image %s in %s is unfinished: %v", i.ID, i.Region, i.Tags)
		}
	}
	for _, l := range w.server.Left() {
		if id := strings.Fields(l)[1]; !own[id] {
			w.t.Errorf("left behind: %s", l)
		}
	}
	return w.server.Images()
}

func TestBake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, awstest.Options{Consistency: time.Second, Delays: awstest.Delays{Run: 8 * time.Second, Stop: 12 * time.Second, Image: 25 * time.Second, Copy: 40 * time.Second, Terminate: 10 * time.Second}})
		w.spec.AWS = images.AWS{CopyTo: []string{"eu-west-1", "us-east-1", "ap-southeast-1"}, KMSKey: "alias/runner", Share: []string{"210987654321", "arn:aws:organizations::123456789012:organization/o-1"},
			Publish: "/dorunner/ami", DeprecateAfter: 90, Protect: true, InstanceProfile: "baker", Tags: map[string]string{"team": "data"}}
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.noComplaints()
		all := w.onlyFinished()
		if len(all) != 3 || len(r.artifact.Images) != 3 || r.artifact.Images[0].Region != "us-east-1" {
			t.Fatalf("images %v, artifact %v", all, r.artifact)
		}
		for _, i := range all {
			if i.Imds != "v2.0" || !i.Encrypted || !i.Protected || i.Deprecated == "" || len(i.Shared) != 2 || i.Tags["team"] != "data" || i.Tags[tagPlan] != w.plan().Hash || i.Tags[tagBase] != w.base {
				t.Errorf("image %+v", i)
			}
			if w.server.Parameter(i.Region, "/dorunner/ami") != i.ID {
				t.Errorf("%s: the parameter holds %q", i.Region, w.server.Parameter(i.Region, "/dorunner/ami"))
			}
		}
		if ud := w.server.UserData(); !strings.HasPrefix(ud, "#cloud-config\n") || !strings.Contains(ud, "ed25519_private") || !strings.Contains(ud, "+90") {
			t.Errorf("user-data %q", ud)
		}
		again := w.bake(t.Context())
		if again.err != nil || !again.reused || again.artifact.Images[0].ID != r.artifact.Images[0].ID || len(again.artifact.Images) != 3 {
			t.Errorf("the second bake: %+v", again)
		}
	})
}

// TestSpeed holds a bake against what the service itself takes: the clock is virtual, so every second is ours or EC2's.
func TestSpeed(t *testing.T) {
	s := time.Second
	for _, tt := range []struct {
		name     string
		delays   awstest.Delays
		ideal    time.Duration
		maxCalls int
	}{
		{"no delays", awstest.Delays{}, 0, 20},
		{"short", awstest.Delays{Run: 8 * s, Stop: 12 * s, Image: 25 * s, Terminate: 10 * s}, 45 * s, 70},
		{"long", awstest.Delays{Run: 10 * s, Stop: 30 * s, Image: 90 * s, Terminate: 30 * s}, 130 * s, 70},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, awstest.Options{Delays: tt.delays, PageSize: 100})
				began := time.Now()
				r := w.bake(t.Context())
				took, calls := time.Since(began), len(w.server.Calls())
				if r.err != nil {
					t.Fatal(r.err)
				}
				t.Logf("took %v of ideally %v, %d calls", took, tt.ideal, calls)
				if took > tt.ideal*110/100+500*time.Millisecond || calls > tt.maxCalls {
					t.Errorf("took %v of ideally %v with %d calls, at most %d are allowed:", took, tt.ideal, calls, tt.maxCalls)
					for _, c := range w.server.Calls() {
						t.Log(c)
					}
				}
				time.Sleep(time.Minute)
				w.onlyFinished()
				w.noComplaints()
			})
		})
	}
}

var idForm = regexp.MustCompile(`(ami|i|sg|snap)-[0-9a-f]{17}`)

// distributed is a bake whose every N-th call is interfered with.
func distributed(t *testing.T, delays bool) *world {
	o := awstest.Options{Consistency: 2 * time.Second, PageSize: 1}
	if delays {
		o.Delays = awstest.Delays{Run: 4 * time.Second, Stop: 4 * time.Second, Image: 6 * time.Second, Copy: 6 * time.Second, Terminate: 5 * time.Second}
	}
	w := newWorld(t, o)
	w.spec.AWS = images.AWS{CopyTo: []string{"eu-west-1", "ap-southeast-1"}, KMSKey: "alias/runner", Share: []string{"210987654321"}, Publish: "/dorunner/ami", DeprecateAfter: 9, Protect: true, TestBoot: true}
	w.server.Configure(func(o *awstest.Options) { o.Machines = selftest{} })
	return w
}

// selftest are machines whose console says that the image works.
type selftest struct{}

func (selftest) Start(awstest.Machine) (string, error) { return "203.0.113.9", nil }
func (selftest) Stop(string) error                     { return nil }
func (selftest) Console(string) string                 { return "booting\n" + bootMark + ": passed\n" }

// emptyOrNamed: the account holds nothing of ours, or exactly what the error names.
func (w *world) emptyOrNamed(n int, r result) {
	w.t.Helper()
	time.Sleep(time.Minute) // what is shutting down has ended
	if r.err == nil {
		w.onlyFinished()
		return
	}
	named := map[string]bool{}
	for _, id := range idForm.FindAllString(r.err.Error(), -1) {
		named[id] = true
	}
	own := map[string][]string{}
	for _, i := range w.server.Images() {
		own[i.ID] = i.Snapshots
	}
	for id := range named { // an image's snapshots go with it
		for _, s := range own[id] {
			named[s] = true
		}
	}
	for _, l := range w.server.Left() {
		if !slices.ContainsFunc(idForm.FindAllString(l, -1), func(id string) bool { return named[id] }) { // a volume goes with its machine
			w.t.Errorf("call %d: left behind without a word: %s\nerror: %v", n, l, r.err)
		}
	}
}

// stride is 1; where time is short only every seventh call is interfered with.
func stride() int {
	if testing.Short() {
		return 7
	}
	return 1
}

// TestInterference meddles with every single call of a bake with two copies.
func TestInterference(t *testing.T) {
	denied := &awstest.Error{Status: 403, Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation."}
	for _, tt := range []struct {
		name  string
		react awstest.Reaction
		from  bool // every call from N on within a minute, not only N
		stop  bool // cancel the bake at N
		fine  bool // the bake must succeed
		ends  bool // the credentials expire at N
	}{
		{name: "refused", react: awstest.Reaction{Error: denied}},
		{name: "throttled", react: awstest.Reaction{Error: &awstest.Error{Status: 503, Code: "RequestLimitExceeded", Message: "Request limit exceeded."}}, fine: true},
		{name: "answer lost", react: awstest.Reaction{Lose: true}, fine: true},
		{name: "network down for a minute", react: awstest.Reaction{Dead: true}, from: true},
		{name: "answers lost for a minute", react: awstest.Reaction{Lose: true}, from: true},
		{name: "cancelled", stop: true},
		{name: "credentials expire", ends: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for n := 1; ; n += stride() {
				reached := false
				synctest.Test(t, func(t *testing.T) {
					w := distributed(t, true)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var mu sync.Mutex
					var since time.Time
					w.server.OnCall = func(c awstest.Call) awstest.Reaction {
						mu.Lock()
						defer mu.Unlock()
						if c.N == n {
							reached, since = true, time.Now()
							if tt.stop {
								cancel()
							}
							if tt.ends {
								w.server.Expire()
							}
							return tt.react
						}
						if tt.from && c.N > n && time.Since(since) < time.Minute {
							return tt.react
						}
						return awstest.Reaction{}
					}
					r := w.bake(ctx)
					if reached && tt.fine && r.err != nil {
						t.Errorf("call %d (%s): %v", n, w.server.Calls()[n-1], r.err)
					}
					if took := r.ended.Sub(since); tt.stop && reached && r.err != nil && took > 3*time.Second {
						t.Errorf("call %d: it stopped %v after it was cancelled", n, took)
					}
					w.emptyOrNamed(n, r)
					w.noComplaints()
				})
				if !reached || t.Failed() {
					t.Logf("%d calls", n-1)
					return
				}
			}
		})
	}
}
