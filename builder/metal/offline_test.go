//go:build linux

package metal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// testEnv is a bake's surroundings for a debian-12 disk, with overrides such as "metal.method": "vm".
func testEnv(t *testing.T, over map[string]any) *builder.Env {
	t.Helper()
	all := map[string]any{"image.os": "debian-12", "image.docker.source": "distro", "image.disk_gb": 4, "image.name": "test"}
	for k, v := range over {
		all[k] = v
	}
	var o images.Options
	for k, v := range all {
		o.Overrides = append(o.Overrides, images.Override{Path: k, Value: v, From: k})
	}
	plan, err := images.Resolve(&images.Spec{}, "metal", o)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ledger, err := builder.OpenLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	env := &builder.Env{Plan: plan, Ledger: ledger, Progress: builder.Discard(), BakeID: "test-" + filepath.Base(dir),
		WorkDir: filepath.Join(dir, "work"), OutDir: filepath.Join(dir, "out")}
	for _, d := range []string{env.WorkDir, env.OutDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := ledger.Unwind(context.WithoutCancel(t.Context()), func(builder.Entry, error) {}); err != nil {
			t.Error(err)
		}
		if err := ledger.Close(); err != nil {
			t.Error(err)
		}
	})
	return env
}

// needRoot skips a test that mounts disks.
func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("mounts disks")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// traces are what this program's bakes could leave on the machine: mounts, loop devices and cgroups of theirs.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		if strings.Contains(l, dir) {
			found = append(found, "mount "+l)
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if backing, err := os.ReadFile(f); err == nil && strings.Contains(string(backing), dir) {
			found = append(found, "loop device "+f)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/dorunner-test-*")
	return append(found, groups...)
}

// TestOffline takes a disk through every step of the method by hand.
func TestOffline(t *testing.T) {
	needRoot(t)
	env := testEnv(t, map[string]any{"metal.method": "offline", "metal.formats": []string{"raw", "qcow2", "vhd"}})
	c := New("offline")
	if err := c.Preflight(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	guest, err := c.Launch(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := guest.Run(t.Context(), builder.Command{Args: args, Env: []string{"CANARY=in the environment"}, Stdin: strings.NewReader("in"), Stdout: &out})
		return strings.TrimSpace(out.String()), err
	}
	for _, tt := range []struct{ want, script string }{
		{"0", "id -u"},
		{"in the environment", "printenv CANARY"},
		{"in", "cat"},
		{"yes", "[ $$ -lt 1000 ] && [ -e /proc/self ] && echo yes"},
		{"/", "pwd"},
		{"yes", "[ $(df --output=size -BM / | tail -1 | tr -dc 0-9) -gt 3500 ] && echo yes"},
		{"", "ls /dev | grep -E '^(loop|vd|sd)' || true"},
		{"ok", "getent hosts localhost >/dev/null && echo ok"},
	} {
		if got, err := run("sh", "-c", tt.script); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v", tt.script, got, err)
		}
	}
	var exit *builder.ExitError
	if _, err := run("sh", "-c", "echo why >&2; exit 3"); !errors.As(err, &exit) || exit.Code != 3 || exit.Tail != "why" {
		t.Errorf("got %v", err)
	}

	// Links of the disk do not lead onto this machine.
	if _, err := run("sh", "-c", "ln -s / /root/away; ln -s ../../../../etc /root/etc"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"/root/away/tmp/canary-a", "/root/etc/canary-b", "/new/directory/c", "/var/run/canary-d"} {
		if err := guest.Upload(t.Context(), file, strings.NewReader(file), 0o640); err != nil {
			t.Error(err)
		}
		if got, err := run("stat", "-c", "%U %a", file); err != nil || got != "root 640" {
			t.Errorf("%s: %q, %v", file, got, err)
		}
		var back bytes.Buffer
		if err := guest.Download(t.Context(), file, &back); err != nil || back.String() != file {
			t.Errorf("%s: %q, %v", file, back.String(), err)
		}
	}
	for _, file := range []string{"/tmp/canary-a", "/etc/canary-b", "/run/canary-d"} {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is on this machine", file)
		}
	}

	// A cancelled command ends with all that it started.
	ctx, cancel := context.WithCancel(t.Context())
	go func() { cancel() }()
	if err := guest.Run(ctx, builder.Command{Args: []string{"sh", "-c", "sleep 1000 & sleep 1000"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}

	if err := c.Stop(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	if left := traces(t, env.WorkDir); left != nil {
		t.Errorf("left behind: %q", left)
	}
	a, err := c.Capture(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = c.Distribute(t.Context(), env, a); err != nil {
		t.Fatal(err)
	}
	for _, id := range a.Images {
		checkFormat(t, id)
	}
	if left, _ := os.ReadDir(env.OutDir); len(left) != 3 {
		t.Errorf("the results are %v", left)
	}
	if left := env.Ledger.Entries(); len(left) != 0 {
		t.Errorf("the ledger still has %v", left)
	}
}

// checkFormat holds a result against qemu-img.
func checkFormat(t *testing.T, id builder.ImageID) {
	t.Helper()
	format := map[string]string{"raw": "raw", "qcow2": "qcow2", "vhd": "vpc"}[id.Format]
	out, err := output(t.Context(), "qemu-img", "info", "-f", format, "--output=json", id.ID)
	if err != nil || !strings.Contains(out, `"virtual-size": 4294967296`) {
		t.Errorf("%s: %s, %v", id.Format, out, err)
	}
	if info, err := os.Stat(id.ID); err != nil || info.Size() != id.Size || len(id.SHA256) != 64 {
		t.Errorf("%s is not as recorded: %+v, %v", id.ID, id, err)
	}
}
