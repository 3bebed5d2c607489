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
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure/azuretest"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
	"github.com/dorunner/dorunner-bake/images"
)

// emulated has the machines of a subscription run in QEMU. What Azure hands a machine beside its custom data - its
// admin user - is appended to that.
type emulated struct {
	t      *testing.T
	server *azuretest.Server
	base   string // the disk of machines that begin with a platform image
	port   int    // of this machine, that reaches the baked one's SSH

	mu       sync.Mutex
	machines map[string]*metal.Launched
}

func (q *emulated) boot(name string) {
	vm, err := q.start(name)
	if err != nil {
		q.t.Errorf("machine %s: %v", name, err)
		return
	}
	if err := vm.WaitOff(q.t.Context()); err != nil && q.t.Context().Err() == nil {
		q.t.Errorf("machine %s: %v", name, err)
	}
	q.server.PowerOff(name)
}

func (q *emulated) start(name string) (*metal.Launched, error) {
	body := q.server.Properties("/subscriptions/" + azuretest.Subscription + "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/" + name)
	var vm armcompute.VirtualMachine
	text, err := json.Marshal(body)
	if err == nil {
		err = json.Unmarshal(text, &vm)
	}
	if err != nil {
		return nil, err
	}
	profile := vm.Properties.OSProfile
	data, err := base64.StdEncoding.DecodeString(*profile.CustomData)
	if err != nil {
		return nil, err
	}
	data = fmt.Appendf(data, "\nusers:\n- name: %s\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  shell: /bin/bash\n  ssh_authorized_keys: [%q]\n",
		*profile.AdminUsername, *profile.LinuxConfiguration.SSH.PublicKeys[0].KeyData)
	o := metal.LaunchOptions{Image: q.base, Arch: runtime.GOARCH, Count: 1, CPUs: 2, MemoryGB: 1, DiskGB: 6, Accel: "auto", UserData: data,
		Dir: filepath.Join(q.t.TempDir()), Progress: builder.Discard()}
	if vm.Properties.StorageProfile.ImageReference.ID != nil { // made of the machine that was baked
		q.mu.Lock()
		o.Image = q.machines[strings.TrimSuffix(name, "-test")+"-vm"].Machines[0].Disk
		q.mu.Unlock()
	} else {
		o.Forward = []metal.Forward{{Host: q.port, Guest: 22}}
	}
	l, err := metal.Launch(q.t.Context(), o)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	q.machines[name] = l
	q.mu.Unlock()
	return l, nil
}

// console is what a machine has printed so far.
func (q *emulated) console(name string) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.machines[name]
	if l == nil {
		return ""
	}
	text, _ := os.ReadFile(l.Machines[0].Console) // QEMU makes it
	return string(text)
}

func (q *emulated) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.machines {
		if err := l.Close(context.WithoutCancel(q.t.Context())); err != nil {
			q.t.Error(err)
		}
	}
}

// A whole bake, over HTTP and SSH, whose machine is one of QEMU's: cloud-init takes the custom data, Docker is installed,
// the machine is sealed, drops the user of the bake and switches itself off; then a machine from the image passes its selftest.
func TestBakeInQEMU(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short mode: boots two machines")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to look into the disk")
	}
	dir := t.TempDir()
	disk, err := images.Resolve(&images.Spec{Image: images.Image{OS: "debian-12"}}, "metal", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	base, err := metal.BaseDisk(t.Context(), disk, builder.Discard())
	if err != nil {
		t.Fatal(err)
	}
	firstboot, archive := filepath.Join(dir, "dorunner-firstboot"), filepath.Join(dir, "images.tar")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", firstboot, "../../cmd/dorunner-firstboot")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
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
	q := &emulated{t: t, server: server, base: base, port: port, machines: map[string]*metal.Launched{}}
	defer q.close()
	server.Booted, server.Console = q.boot, q.console
	spec := images.Spec{
		Image: images.Image{OS: "debian-12", Arch: runtime.GOARCH, Docker: images.Docker{Source: "distro"},
			Pull: []images.Pull{{Ref: standinimage.Runner, Archive: archive}, {Ref: standinimage.Job, Archive: archive}}},
		Azure: images.Azure{Subscription: azuretest.Subscription, ResourceGroup: "rg", Gallery: "images", Definition: "runner", TestBoot: true, Endpoint: server.URL},
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
	t.Logf("baked and booted in %v\n%s", time.Since(began).Round(time.Second), log.String())
	if u := server.Unknown(); len(u) > 0 || len(m.Artifact.Images) != 1 {
		t.Errorf("unknown calls %v, images %v", u, m.Artifact.Images)
	}
	for _, id := range server.Left() { // the version and what it lies in
		if !strings.HasSuffix(id, "/rg") && !strings.Contains(id, "/galleries/images") {
			t.Errorf("left: %s", id)
		}
	}
	q.inspect("dorunner-" + m.BakeID + "-vm")
}

// inspect looks into the disk of the machine that was baked: neither the bake's user nor an identity is on it.
func (q *emulated) inspect(name string) {
	q.t.Helper()
	dir := q.t.TempDir()
	raw, mnt := filepath.Join(dir, "raw"), filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		q.t.Fatal(err)
	}
	for _, argv := range [][]string{{"qemu-img", "convert", "-O", "raw", q.machines[name].Machines[0].Disk, raw}, {"mount", "-o", "loop,offset=2097152", raw, mnt}} {
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
