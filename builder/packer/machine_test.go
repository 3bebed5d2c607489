package packer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/builder/metal/metaltest"
	"github.com/dorunner/dorunner-bake/builder/ssh"
)

// sealed is read by the machine's own user, on the connection that was there before the seal: what clones must not share.
const sealed = `set -eu
    test "$(cat /etc/machine-id)" = uninitialized
    test "$(ls /etc/ssh/ssh_host_* 2>/dev/null | wc -l)" = 0
    test ! -e "$HOME/.ssh/authorized_keys"
    test ! -e /etc/sudoers.d/90-cloud-init-users
    test "$(ls -A /var/lib/cloud | wc -l)" = 0
    test ! -e /var/lib/docker/engine-id
    test "$(cat /etc/dorunner/platform)" = nocloud
    systemctl is-enabled dorunner-firstboot.service
    docker --version
    echo it is sealed`

// TestProvisionerOnAMachine has Packer's null builder make a runner's machine of a plain one that runs in QEMU.
func TestProvisionerOnAMachine(t *testing.T) {
	if os.Getenv("DORUNNER_SOAK") == "" {
		t.Skip("takes minutes: DORUNNER_SOAK=1")
	}
	p := newTool(t)
	p.metal("") // makes the archive
	disk := metaltest.BaseDisk(t)
	key, err1 := ssh.NewKey("test")
	file := filepath.Join(p.dir, "key")
	free, err2 := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err1, err2, os.WriteFile(file, []byte(key.PrivatePEM), 0o600)); err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
	machine, err := metal.Launch(t.Context(), metal.LaunchOptions{Image: disk, Arch: runtime.GOARCH, Count: 1, CPUs: 2, MemoryGB: 2, DiskGB: 8, Accel: "auto",
		UserData: fmt.Appendf(nil, "#cloud-config\nssh_authorized_keys: [%q]\n", key.Authorized),
		Forward:  []metal.Forward{{Host: port, Guest: 22}}, Dir: t.TempDir(), Progress: builder.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = machine.Close(t.Context()) })
	dir := p.template(fmt.Sprintf(`
  provisioner "dorunner" {
  os            = "debian-12"
  docker_source = "distro"
  firstboot     = %q
  container_archives = {
    "dataopslive/dataops-runner"       = %q
    "dataopslive/dataops-utils-runner" = %q
  }
  output_directory = "provisioned"
  }
  provisioner "shell" {
    inline = [<<-EOT
    %s
    EOT
    ]
  }
`, p.boot, filepath.Join(p.dir, "images.tar"), filepath.Join(p.dir, "images.tar"), sealed), fmt.Sprintf(`null   ssh_host             = "127.0.0.1"
  ssh_port             = %d
  ssh_username         = "debian"
  ssh_private_key_file = %q
  ssh_timeout          = "10m"
`, port, file))
	p.limit = 13 * time.Minute
	out := p.run(0, "build", dir)
	p.says(out, "seal done", "it is sealed")
	m := p.manifest("provisioned")
	if len(m.Audit) != 0 || len(m.Containers) != 2 || m.Docker == "" || m.Platform != "nocloud" {
		t.Errorf("manifest %+v", m)
	}
}
