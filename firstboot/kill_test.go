package firstboot_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

// The test program is also the boot program that gets killed: TestMain turns into it when killedRoot is set.
const (
	killedRoot = "FIRSTBOOT_TEST_ROOT" // boot the machine below this directory
	killedAt   = "FIRSTBOOT_TEST_KILL" // kill -9 ourselves at this boundary, counted from 1; 0 for never
)

func TestMain(m *testing.M) {
	if root := os.Getenv(killedRoot); root != "" {
		os.Exit(bootAndDie(root))
	}
	// These tests wait for containers and for the ends of waits: more of them fit at once than there are processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// bootAndDie boots, with a boundary before and behind every line of the log (each step begins with one) and every
// request to Docker and GitLab.
func bootAndDie(root string) int {
	at, err := strconv.ParseInt(os.Getenv(killedAt), 10, 64)
	if err != nil {
		return 3
	}
	d := &death{at: at}
	h := firstboot.Machine()
	h.Root, h.Log, h.Console = root, d, bytes.NewBuffer(nil)
	h.Docker, h.HTTP = d.around(h.Docker), d.around(h.HTTP)
	err = firstboot.Boot(context.Background(), h, where{id: firstboot.Identity{InstanceID: "i-killed"}})
	fmt.Printf("boundaries %d\n", d.passed.Load())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// death counts boundaries and kills this process at one of them.
type death struct {
	at     int64
	passed atomic.Int64
}

func (d *death) boundary() {
	if d.passed.Add(1) == d.at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (d *death) Write(p []byte) (int, error) {
	d.boundary()
	return os.Stderr.Write(p)
}

type mortal struct {
	d  *death
	rt http.RoundTripper
}

func (d *death) around(rt http.RoundTripper) http.RoundTripper { return mortal{d, rt} }

func (m mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	m.d.boundary()
	defer m.d.boundary()
	return m.rt.RoundTrip(r)
}

// killed boots in a process of its own, which dies at a boundary or after a time; neither for 0.
func (m *machine) killed(t *testing.T, at int, after time.Duration) (boundaries int) {
	t.Helper()
	ctx := t.Context()
	if after > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, after) // exec kills with SIGKILL
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), killedRoot+"="+m.Root, killedAt+"="+strconv.Itoa(at))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	died := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err != nil && !died && ctx.Err() == nil { // with ctx over, it ended by itself just before the kill
		t.Fatalf("killed at %d, after %s: %v\n%s\n%s", at, after, err, out, stderr.String())
	}
	if n := regexp.MustCompile(`boundaries (\d+)`).FindSubmatch(out); n != nil {
		boundaries, _ = strconv.Atoi(string(n[1]))
	}
	return boundaries
}

// whole asserts what has to hold after any number of kills and one boot that ended.
func (m *machine) whole(t *testing.T, gl *gitlabtest.Server, vault, register string) {
	t.Helper()
	conf := get(t, m.Root, "/srv/dataops-runner-"+m.name+"/config/config.toml")
	if n := strings.Count(conf, "[[runners]]"); n != 1 {
		t.Errorf("%d [[runners]] entries:\n%s", n, conf)
	}
	if now := get(t, m.Root, "/secrets/vault.salt"); vault != "" && now != vault {
		t.Errorf("the vault's salt was %q and is %q", vault, now)
	}
	names, err := docker("ps", "-a", "--filter", "name="+m.name, "--format", "{{.Names}} {{.State}}")
	if err != nil {
		t.Fatal(err)
	}
	if names != m.name+" running" {
		t.Errorf("containers: %q", names)
	}
	status, err := firstboot.ReadStatus(m.Host)
	if err != nil || status.State != "online" {
		t.Errorf("status %+v %v", status, err)
	}
	if p := gl.Problems(); len(p) > 0 {
		t.Error(p)
	}
	orphans, warned := 0, 0
	for _, w := range status.Warnings {
		if m := regexp.MustCompile(`answer was lost(?: (\d+) times)?`).FindStringSubmatch(w); m != nil {
			warned = 1
			if m[1] != "" {
				warned, _ = strconv.Atoi(m[1])
			}
		}
	}
	for _, r := range gl.Runners() {
		if r.Made == "registration" && r.Polls == 0 {
			orphans++
		}
	}
	if orphans > warned {
		t.Errorf("%d orphans at GitLab, %d reported", orphans, warned)
	}
	if orphans > 0 && register != "api" && register != "random" {
		t.Errorf("%d orphans in mode %s: a register container outlives its boot and is waited for", orphans, register)
	}
}

// Kill -9 at every boundary of a first boot, then boot again. A short run takes every fifth.
func TestKilledAtEveryBoundary(t *testing.T) {
	needDocker(t)
	t.Parallel()
	stride := 5
	if os.Getenv("DORUNNER_SOAK") != "" {
		stride = 1
	}
	for _, tt := range []struct{ mode, token string }{
		{"container", "GR1348941canary"}, {"api", "GR1348941canary"}, {"container", "glrt-canary"}, {"api", "glrt-canary"},
	} {
		t.Run(tt.mode+"-"+tt.token[:4], func(t *testing.T) {
			t.Parallel()
			for at, last := 1+rand.IntN(stride), 1<<30; at <= last; at += stride {
				gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{"GR1348941canary"}})
				gl.AddRunner(gitlabtest.Runner{Token: "glrt-canary"})
				m := newMachine(t, "url: "+listenForContainers(t, gl)+"\ntoken: "+tt.token+"\nregister: "+tt.mode+"\n")
				if n := m.killed(t, at, 0); n > 0 {
					last = n
				}
				salt, _ := os.ReadFile(m.Root + "/secrets/vault.salt")
				m.killed(t, 0, 0)
				m.whole(t, gl, string(salt), tt.mode)
				if t.Failed() {
					t.Fatalf("after a kill at boundary %d", at)
				}
				m.clear()
			}
		})
	}
}

func (m *machine) clear() {
	for _, n := range []string{m.name, m.name + "-register"} {
		_, _ = docker("rm", "-f", "-v", n)
	}
}

// Kill -9 at random moments of one machine's boot, again and again until it is up.
func TestKilledAtRandomMoments(t *testing.T) {
	needDocker(t)
	t.Parallel()
	kills := 10
	if os.Getenv("DORUNNER_SOAK") != "" {
		kills = 200
	}
	const perMachine = 5
	for done := 0; done < kills; {
		gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{"GR1348941canary"}})
		mode := []string{"container", "api"}[rand.IntN(2)]
		m := newMachine(t, "url: "+listenForContainers(t, gl)+"\ntoken: GR1348941canary\nregister: "+mode+"\n")
		salt, moments := "", []time.Duration{}
		for range perMachine {
			after := time.Duration(rand.IntN(700)) * time.Millisecond
			moments = append(moments, after)
			m.killed(t, 0, max(after, time.Millisecond))
			done++
			if b, err := os.ReadFile(m.Root + "/secrets/vault.salt"); err == nil {
				salt = string(b)
			}
		}
		m.killed(t, 0, 0)
		m.whole(t, gl, salt, "random")
		if t.Failed() {
			t.Fatalf("in mode %s, after kills at %v\n%s", mode, moments, get(t, m.Root, firstboot.JournalFile))
		}
		m.clear()
	}
}
