//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal/metaltest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

const (
	canaryPassword = "canary-password-7f3a91"
	canaryToken    = "glrt-canary-2c88e0d4"
)

// metalBake is what the heavy tests of the metal target share.
type metalBake struct {
	t         *testing.T
	dir       string
	firstboot string
}

func newMetalBake(t *testing.T) *metalBake {
	t.Helper()
	if testing.Short() {
		t.Skip("bakes disks")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	return &metalBake{t: t, dir: dir, firstboot: metaltest.FirstBoot(t, dir)}
}

// command prepares a bake of debian-12.
func (b *metalBake) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"metal", "--firstboot", b.firstboot, "--os", "debian-12", "--docker-source", "distro", "--disk", "4"}, args...)
	cmd := exec.CommandContext(ctx, "dorunner-bake", args...)
	cmd.Dir = b.dir
	cmd.Env = b.env()
	return cmd
}

func (b *metalBake) env() []string {
	return append(os.Environ(), "DORUNNER_STATE_DIR="+filepath.Join(b.dir, "state"), "CANARY="+canaryPassword, "NO_COLOR=1")
}

// traces are what bakes in this directory have left on the machine: mounts, loop devices, processes, groups, files.
func (b *metalBake) traces() (found []string) {
	look := func(kind, pattern string) {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err == nil && bytes.Contains(text, []byte(b.dir)) {
				found = append(found, kind+" "+f)
			}
		}
	}
	look("mount", "/proc/self/mounts")
	look("loop device", "/sys/block/loop*/loop/backing_file")
	look("process", "/proc/[0-9]*/cmdline")
	for _, p := range []string{"/sys/fs/cgroup/dorunner-*", "/sys/fs/cgroup/*/dorunner-*", filepath.Join(b.dir, "out"), filepath.Join(b.dir, "state", "ledgers", "*")} {
		files, _ := filepath.Glob(p)
		found = append(found, files...)
	}
	return found
}

// clean waits until the kernel has taken away what a killed process held.
func (b *metalBake) clean(when string) {
	b.t.Helper()
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if left = b.traces(); len(left) == 0 {
			return
		}
	}
	b.t.Errorf("%s: left behind: %q", when, left)
}

// TestMetalOffline bakes from a registry that asks for a login, looks for secrets in the disk, and then interrupts and
// kills a bake of that disk in each of its steps.
func TestMetalOffline(t *testing.T) {
	b := newMetalBake(t)
	disk, host := b.first()
	b.clean("after a bake")
	for _, canary := range []string{canaryPassword, canaryToken} {
		if at := find(t, disk, canary); at >= 0 {
			t.Errorf("%q is in the disk, at byte %d", canary, at)
		}
	}
	if find(t, disk, "dorunner-firstboot") < 0 {
		t.Error("the search finds nothing")
	}
	if m := readManifest(t, filepath.Join(b.dir, "first")); len(m.Containers) != 2 || !strings.HasPrefix(m.Containers[0].Digest, host+"/runner@sha256:") && !strings.HasPrefix(m.Containers[0].Digest, "sha256:") || len(m.Audit) != 0 {
		t.Errorf("manifest: %+v, %+v", m.Containers, m.Audit)
	}
	if out, err := b.command(t.Context(), "--format", "raw", "--name", "base", "--out", "first").CombinedOutput(); err != nil || !strings.Contains(string(out), "exists already") {
		t.Errorf("baked again: %v\n%s", err, out)
	}

	again := []string{"--json", "--base", disk, "--out", "out", "--format", "raw", "--format", "qcow2"}
	for _, step := range []string{"preflight", "launch", "provision", "prove", "seal", "stop", "capture"} {
		b.interruptAndKill(step, again)
	}

	// A script of the author's that fails: its last lines are shown.
	script := filepath.Join(b.dir, "fails.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nseq -f 'line %g' 100\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.fails("a script that fails", []string{"--base", disk, "--script", script}, "exit status 3", "line 81\n", "line 100\n")
	b.fails("an unreachable registry", []string{"--base", disk, "--pull", "127.0.0.1:1/nobody:1"},
		"127.0.0.1:1/nobody:1 cannot be pulled: check its name, the login (image.registry) and the network")
	b.wrongKey()
	b.fullDisk(disk)
}

// wrongKey bakes from a mirror of Docker's repository that shows a key of somebody else's.
func (b *metalBake) wrongKey() {
	b.t.Helper()
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/linux/debian/gpg" {
			b.t.Errorf("%s is asked for before the key is known", r.URL.Path)
		}
		http.ServeFile(w, r, "testdata/metal/somebody-elses.asc")
	}))
	defer mirror.Close()
	b.fails("somebody else's key", []string{"--docker-source", mirror.URL}, "it is the key EF5A133EC891F324CCBEB3CED701E0ED9095B1BE, expected 9DC858229FC7DD38854AE2D88D81803C0EBFCD88")
}

// fails has a bake fail with these words, and leave nothing.
func (b *metalBake) fails(what string, args []string, words ...string) {
	b.t.Helper()
	out, err := b.command(b.t.Context(), append(args, "--out", "out")...).CombinedOutput()
	missing := slices.DeleteFunc(words, func(w string) bool { return strings.Contains(string(out), w) })
	if err == nil || len(missing) > 0 {
		b.t.Errorf("%s: %v, without %q\n%s", what, err, missing, out)
	}
	b.clean("after " + what)
}

// first bakes a raw disk with images from a registry that asks for a login, and gives the disk and the registry.
func (b *metalBake) first() (disk, host string) {
	b.t.Helper()
	host = b.serveImages()
	spec := fmt.Sprintf(`runner:
  image: %[1]s/runner:1
  job_image: %[1]s/job:1
  token: %[2]s
image:
  registry: {server: %[1]q, username: puller, password: "env:CANARY"}
`, host, canaryToken)
	if err := os.WriteFile(filepath.Join(b.dir, "dorunner.yaml"), []byte(spec), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if out, err := b.command(b.t.Context(), "--format", "raw", "--name", "base", "--out", "first").CombinedOutput(); err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	disk = filepath.Join(b.dir, "first", "base.raw")
	return disk, host
}

// fullDisk bakes into a file system with too little room for the result, and into one with none for a bake.
func (b *metalBake) fullDisk(disk string) {
	b.t.Helper()
	for size, want := range map[string]string{"20m": "make room or choose another directory", "2200m": "make room in"} {
		out := filepath.Join(b.dir, "full")
		if err := os.MkdirAll(out, 0o755); err != nil {
			b.t.Fatal(err)
		}
		if text, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "full", out).CombinedOutput(); err != nil {
			b.t.Fatalf("%v: %s", err, text)
		}
		// It takes what preflight saw free.
		script := filepath.Join(b.dir, "fill.sh")
		if err := os.WriteFile(script, []byte("#!/bin/sh\nhead -c 1000M /dev/urandom >/fill\n"), 0o755); err != nil {
			b.t.Fatal(err)
		}
		text, err := b.command(b.t.Context(), "--base", disk, "--out", out, "--script", script).CombinedOutput()
		if err == nil || !strings.Contains(string(text), want) {
			b.t.Errorf("a full disk (%s): %v\n%s", size, err, text)
		}
		left, _ := os.ReadDir(out)
		if len(left) != 0 {
			b.t.Errorf("a full disk (%s): left behind: %v", size, left)
		}
		if text, err := exec.Command("umount", out).CombinedOutput(); err != nil {
			b.t.Errorf("%v: %s", err, text)
		}
	}
}

// serveImages has a registry that asks for a login, with the stand-in images in it.
func (b *metalBake) serveImages() (host string) {
	b.t.Helper()
	inner := registry.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Header.Get("X-Test") == "" && (user != "puller" || password != canaryPassword) {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	b.t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	images, err := standinimage.Build(b.t.Context(), runtime.GOARCH)
	if err != nil {
		b.t.Fatal(err)
	}
	for repository, source := range map[string]string{"runner": standinimage.Runner, "job": standinimage.Job} {
		image, ok := images[source]
		if !ok {
			b.t.Fatalf("there is no stand-in for %s", source)
		}
		ref, err := name.ParseReference(host + "/" + repository + ":1")
		if err != nil {
			b.t.Fatal(err)
		}
		if err := remote.Write(ref, image, remote.WithTransport(marked{}), remote.WithContext(b.t.Context())); err != nil {
			b.t.Fatal(err)
		}
	}
	return host
}

// marked lets the test itself in.
type marked struct{}

func (marked) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Test", "yes")
	return http.DefaultTransport.RoundTrip(r)
}

// signal runs a bake and signals it as it comes to a step, a part of one, or something that it says.
func (b *metalBake) signal(sig syscall.Signal, at string, args []string) (code int, events string) {
	b.t.Helper()
	cmd := b.command(b.t.Context(), args...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	sent := false
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		events += lines.Text() + "\n"
		var e builder.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && (e.Name == at || strings.HasPrefix(e.Message, at)) && !sent {
			sent = true
			if err := cmd.Process.Signal(sig); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if !sent {
		b.t.Errorf("the bake never came to %s: %v\n%s", at, err, events)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), events
	}
	return 0, events
}

// find looks for text in a file; -1 when it is not there.
func find(t *testing.T, file, text string) int64 {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const step = 4 << 20
	buf := make([]byte, step+len(text))
	for at := int64(0); ; at += step {
		n, err := f.ReadAt(buf, at)
		if i := bytes.Index(buf[:n], []byte(text)); i >= 0 {
			return at + int64(i)
		}
		if errors.Is(err, io.EOF) {
			return -1
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
