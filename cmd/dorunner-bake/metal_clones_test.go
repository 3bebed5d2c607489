//go:build linux

package main

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// TestMetalClones boots two machines from one disk: both come online, and share nothing that makes a machine.
func TestMetalClones(t *testing.T) {
	b := newMetalBake(t)
	disk, host := b.first()
	const registration = "GR1348941canary"
	gitlab := httptest.NewServer(gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{registration}}))
	defer gitlab.Close()
	spec := runner.Default()
	spec.Name, spec.Image, spec.Token = "clone", host+"/runner:1", runner.Plain(registration)
	// QEMU's user network shows the guest this machine's loopback there.
	spec.URL = strings.Replace(gitlab.URL, "127.0.0.1", "10.0.2.2", 1)
	data, err := cloudinit.UserData(spec, cloudinit.UserDataOptions{AllowPlain: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DORUNNER_STATE_DIR", filepath.Join(b.dir, "state"))
	out := filepath.Join(b.dir, "launch")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := metal.Launch(t.Context(), metal.LaunchOptions{Image: disk, Arch: runtime.GOARCH, Count: 2, CPUs: 1, MemoryGB: 1, DiskGB: 6,
		Accel: "auto", UserData: data, Dir: out, Progress: builder.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		b.clean("after launching")
	}()
	if err := l.WaitOnline(t.Context(), 12*time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
	first, second := b.identity(t, l.Machines[0]), b.identity(t, l.Machines[1])
	for _, what := range identities {
		if first[what] == "" || first[what] == second[what] {
			t.Errorf("%s: %q and %q", what, first[what], second[what])
		}
	}
}

// identities are the files that tell one machine from another; a star stands for the runner's name. Docker Engine keeps
// its id in engine-id since 23.0, and before derived it from key.json.
var identities = []string{"etc/machine-id", "etc/ssh/ssh_host_ed25519_key.pub", "{var/lib/docker/engine-id,etc/docker/key.json}",
	"srv/*/config/.runner_system_id", "secrets/vault.salt", "etc/hostname"}

// identity reads them from the disk of a machine that is off.
func (b *metalBake) identity(t *testing.T, m *metal.Machine) map[string]string {
	t.Helper()
	raw, mnt := filepath.Join(b.dir, m.Name+".raw"), filepath.Join(b.dir, m.Name)
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(raw)
	for _, argv := range [][]string{{"qemu-img", "convert", "-O", "raw", m.Disk, raw}, {"mount", "-o", "loop,offset=2097152", raw, mnt}} {
		if text, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", argv[0], err, text)
		}
	}
	defer func() {
		if text, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, text)
		}
	}()
	found := map[string]string{}
	for _, pattern := range identities {
		for one := range strings.SplitSeq(strings.Trim(pattern, "{}"), ",") {
			files, _ := filepath.Glob(filepath.Join(mnt, one))
			for _, f := range files {
				text, _ := os.ReadFile(f)
				found[pattern] += string(text)
			}
		}
	}
	return found
}
