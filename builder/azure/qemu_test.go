//go:build linux

package azure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/builder/metal/metaltest"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
	"github.com/dorunner/dorunner-bake/images"
)

// emulated has the machine of a bake run in QEMU.
type emulated struct {
	t      *testing.T
	server *azuretest.Server
	base   string // the disk that stands for the platform image
	port   int    // of this machine, that reaches its SSH
	vm     *metal.Launched
}

// boot is what Azure does with a machine that it has made; when its guest switches it off, it is stopped.
func (q *emulated) boot(name string) {
	if err := q.start(name); err != nil {
		q.t.Errorf("machine %s: %v", name, err)
		return
	}
	if err := q.vm.WaitOff(q.t.Context()); err != nil && q.t.Context().Err() == nil {
		q.t.Errorf("machine %s: %v", name, err)
	}
	q.server.PowerOff(name)
}

// start boots with the custom data; the admin user, which Azure hands over beside it, is appended to that.
func (q *emulated) start(name string) error {
	text, err := json.Marshal(q.server.Properties("/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/" + name))
	if err != nil {
		return err
	}
	var vm armcompute.VirtualMachine
	if err := json.Unmarshal(text, &vm); err != nil {
		return err
	}
	profile := vm.Properties.OSProfile
	data, err := base64.StdEncoding.DecodeString(*profile.CustomData)
	if err != nil {
		return err
	}
	data = fmt.Appendf(data, "\nusers:\n- name: %s\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  shell: /bin/bash\n  ssh_authorized_keys: [%q]\n",
		*profile.AdminUsername, *profile.LinuxConfiguration.SSH.PublicKeys[0].KeyData)
	q.vm, err = metal.Launch(q.t.Context(), metal.LaunchOptions{Image: q.base, Arch: runtime.GOARCH, Count: 1, CPUs: 2, MemoryGB: 1, DiskGB: 6, Accel: "auto",
		UserData: data, Forward: []metal.Forward{{Host: q.port, Guest: 22}}, Dir: q.t.TempDir(), Progress: builder.Discard()})
	return err
}

func (q *emulated) close() {
	if q.vm != nil {
		if err := q.vm.Close(context.WithoutCancel(q.t.Context())); err != nil {
			q.t.Error(err)
		}
	}
}

// A whole bake, over HTTP and SSH, whose machine is one of QEMU's: cloud-init takes the custom data, Docker is installed,
// the machine is sealed, drops the user of the bake and switches itself off.
func TestBakeInQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short mode: boots a machine")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to look into the disk")
	}
	dir := t.TempDir()
	base, firstboot, archive := metaltest.BaseDisk(t), metaltest.FirstBoot(t, dir), filepath.Join(dir, "images.tar")
	if err := standinimage.Archive(t.Context(), archive, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DORUNNER_STATE_DIR", filepath.Join(dir, "state"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	server := azuretest.New()
	defer server.Listen()()
	server.Add("/subscriptions/"+azuretest.Subscription+"/resourceGroups/rg", map[string]any{"location": "westeurope"})
	q := &emulated{t: t, server: server, base: base, port: port}
	defer q.close()
	server.Booted = q.boot
	spec := images.Spec{
		Image: images.Image{OS: "debian-12", Arch: runtime.GOARCH, Docker: images.Docker{Source: "distro"},
			Pull: []images.Pull{{Ref: standinimage.Runner, Archive: archive}, {Ref: standinimage.Job, Archive: archive}}},
		Azure: images.Azure{Subscription: azuretest.Subscription, ResourceGroup: "rg", Gallery: "images", Definition: "runner", Endpoint: server.URL},
	}
	plan, err := images.Resolve(&spec, "azure", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	progress, done := builder.NewProgress(&log, builder.ProgressOptions{Kind: "plain"})
	defer done()
	cloud, err := New(plan, Options{
		Credential: staticToken{},
		CallerIP:   func(context.Context) (string, error) { return "198.51.100.7", nil },
		Dial: func(ctx context.Context, c ssh.Config) (builder.Guest, error) {
			c.Addr = fmt.Sprintf("127.0.0.1:%d", port)
			return ssh.Dial(ctx, c)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	m, err := builder.Bake(t.Context(), plan, cloud, builder.Options{FirstBoot: firstboot, OutDir: filepath.Join(dir, "out"), Progress: progress})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Logf("baked in %v\n%s", time.Since(began).Round(time.Second), log.String())
	if u := server.Unknown(); len(u) > 0 || len(m.Artifact.Images) != 1 {
		t.Errorf("unknown calls %v, images %v", u, m.Artifact.Images)
	}
	for _, id := range server.Left() { // the version and what it lies in
		if !strings.HasSuffix(id, "/rg") && !strings.Contains(id, "/galleries/images") {
			t.Errorf("left: %s", id)
		}
	}
	q.inspect()
}

// inspect looks into the disk of the machine that was baked: neither the bake's user nor an identity is on it.
func (q *emulated) inspect() {
	q.t.Helper()
	dir := q.t.TempDir()
	raw, mnt := filepath.Join(dir, "raw"), filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		q.t.Fatal(err)
	}
	for _, argv := range [][]string{{"qemu-img", "convert", "-O", "raw", q.vm.Machines[0].Disk, raw}, {"mount", "-o", "loop,offset=2097152", raw, mnt}} {
		if text, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			q.t.Fatalf("%s: %v: %s", argv[0], err, text)
		}
	}
	defer func() {
		if text, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			q.t.Errorf("umount: %v: %s", err, text)
		}
	}()
	for _, pattern := range []string{"home/" + bakeUser, "etc/sudoers.d/9*", "etc/passwd-", "etc/ssh/ssh_host_*", "var/lib/cloud/*", "root/.ssh/authorized_keys", "var/lib/docker/engine-id"} {
		if found, _ := filepath.Glob(filepath.Join(mnt, pattern)); len(found) > 0 {
			q.t.Errorf("in the image: %v", found)
		}
	}
	for _, file := range []string{"passwd", "shadow", "group", "subuid"} {
		text, err := os.ReadFile(filepath.Join(mnt, "etc", file))
		if err != nil || strings.Contains(string(text), bakeUser) {
			q.t.Errorf("the user of the bake is in /etc/%s (%v)", file, err)
		}
	}
	if id, err := os.ReadFile(filepath.Join(mnt, "etc/machine-id")); err != nil || string(id) != "uninitialized\n" {
		q.t.Errorf("machine-id: %q, %v", id, err)
	}
	if _, err := os.Stat(filepath.Join(mnt, "usr/local/bin/dorunner-firstboot")); err != nil {
		q.t.Error(err)
	}
}
