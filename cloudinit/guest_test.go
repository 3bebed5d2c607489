package cloudinit_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
)

// checks is the script of the guest: what its kernel and its cloud-init make of the seed, told on the console.
const checks = `#!/bin/sh
exec >/dev/ttyS0 2>&1
echo; echo CHECKS-BEGIN
dev=$(blkid -t LABEL=CIDATA -o device)
echo "LABEL $(blkid -o value -s LABEL "$dev") $(blkid -o value -s TYPE "$dev")"
for how in ro ro,norock; do
    mount -t iso9660 -o "$how" "$dev" /mnt
    (cd /mnt; find . -type f ! -name big.img | LC_ALL=C sort | while read -r f; do echo "FILE $how $(sha256sum <"$f" | cut -c1-64) $(stat -c %s "$f") $f"; done)
    echo "BIG $how $(stat -c %s /mnt/big.img) $(dd if=/mnt/big.img bs=1 skip=4294965244 count=8 2>/dev/null) $(tail -c 3 /mnt/big.img)"
    umount /mnt
done
echo "RUNNER $(stat -c '%a %U' /etc/dorunner/runner.yaml) $(grep ^name: /etc/dorunner/runner.yaml)"
echo "HOSTNAME $(hostname) $(cat /etc/hostname)"
echo "NETWORK $(ip -o -4 addr show dr0 | sed 's/.*inet \([^ ]*\).*/\1/') $(ip route show default | cut -d' ' -f3)"
echo "MOTD $(cat /etc/motd-ours) $(cat /etc/motd-ours-too)"
echo "JINJA $(cat /etc/rendered)"
# The base disk's own "locale: false" is what schema.py of this cloud-init does not know.
grep -E 'WARNING|ERROR|Traceback' /var/log/cloud-init.log | grep -v schema.py >/run/warnings
echo "STATUS $(wc -l </run/warnings) warnings"
cat /run/warnings
echo CHECKS-END
systemctl poweroff
`

// TestGuest boots Debian 12 once, with the real cloud-init and a kernel that knows ISO 9660, from a seed that serves many machines.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	disk := debianDisk(t)
	dir := t.TempDir()
	base := spec("Läufer {{.InstanceID}}")
	files, err := cloudinit.SharedSeed(base, hosts(t), cloudinit.Options{Sources: []cloudinit.Source{
		{Name: "one.yaml", Content: []byte("#cloud-config\nwrite_files:\n  - {path: /etc/motd-ours, content: größer}\n")},
		{Name: "two.yaml", Content: []byte("#cloud-config\nwrite_files:\n  - {path: /etc/motd-ours-too, content: both}\n")},
		{Name: "three.yaml", Content: []byte("## template: jinja\n#cloud-config\nmerge_how: \"list(append)+dict(no_replace,recurse_list)+str()\"\nwrite_files:\n  - {path: /etc/rendered, content: \"{{ v1.instance_id }}\"}\n")},
		{Name: "checks.sh", Content: []byte(checks)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	const size = 1<<32 + 5
	files = append(files,
		iso9660.Bytes("dorunner/docker-ce-rootless-extras_5%3a28.1.1-1~ubuntu.20.04~focal_amd64.deb", []byte("deb"), 0),
		iso9660.Bytes("dorunner/Größe/empty", nil, 0),
		iso9660.File{Path: "big.img", Size: size, Open: func() (io.ReadCloser, error) {
			// "acr" ends the first extent, "oss!!" begins the second.
			return io.NopCloser(io.MultiReader(zeros(1<<32-2048-3-1), strings.NewReader("-acr"), strings.NewReader("oss!"), zeros(2048+5-4-3), strings.NewReader("end"))), nil
		}})
	seed := filepath.Join(dir, "seed.iso")
	f, err := os.Create(seed)
	if err != nil {
		t.Fatal(err)
	}
	if err := iso9660.Write(sparse{f}, cloudinit.SeedLabel, files); err != nil {
		t.Fatal(err)
	}
	if end, _ := f.Seek(0, io.SeekCurrent); f.Truncate(end) != nil || f.Close() != nil {
		t.Fatal("cannot end the seed")
	}
	console := boot(t, disk, seed, "S-1", dir)
	_, console, _ = strings.Cut(console, "CHECKS-BEGIN")
	console, _, ended := strings.Cut(strings.ReplaceAll(console, "\r", ""), "CHECKS-END")
	if !ended {
		t.Fatalf("the guest did not end its checks:\n%s", console)
	}
	want := []string{
		"LABEL CIDATA iso9660", "RUNNER 600 root name: one", "HOSTNAME one one", "NETWORK 192.0.2.11/24 192.0.2.1", "MOTD größer both", "JINJA nocloud", "STATUS 0 warnings",
		fmt.Sprintf("BIG ro %d -across! end", size), fmt.Sprintf("BIG ro,norock %d -across! end", size),
	}
	for _, f := range files {
		if f.Path == "big.img" {
			continue
		}
		sum := sha256.Sum256(read(t, f))
		for _, how := range []string{"ro", "ro,norock"} {
			want = append(want, fmt.Sprintf("FILE %s %x %d ./%s", how, sum, f.Size, f.Path))
		}
	}
	for _, line := range want {
		if !strings.Contains(console, "\n"+line+"\n") {
			t.Errorf("the guest did not say %q", line)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^FILE `).FindAllString(console, -1)); n != 2*(len(files)-1) {
		t.Errorf("the guest sees %d files, want %d", n, 2*(len(files)-1))
	}
	if t.Failed() {
		t.Log(console)
	}
}

func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// sparse leaves holes where zeros would be written.
type sparse struct{ f *os.File }

func (s sparse) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != 0 {
			return s.f.Write(b)
		}
	}
	_, err := s.f.Seek(int64(len(b)), io.SeekCurrent)
	return len(b), err
}

// debianDisk is the debian-12 base disk that a bake on this machine made.
func debianDisk(t *testing.T) string {
	for _, need := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("%s is not installed", need)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	found, _ := filepath.Glob(filepath.Join(cache, "dorunner-bake", "debian-12-*.raw"))
	if len(found) == 0 {
		t.Skip("there is no debian-12 disk: `dorunner-bake metal --os debian-12` makes it")
	}
	return found[len(found)-1]
}

// boot runs a machine until it powers off and gives what it printed.
func boot(t *testing.T, disk, seed, serial, dir string) string {
	t.Helper()
	overlay, log := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "console")
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, overlay)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2",
		"-m", "1G", "-display", "none", "-serial", "file:"+log, "-smbios", "type=1,serial="+serial,
		"-drive", "if=virtio,format=qcow2,cache=unsafe,file="+overlay, "-drive", "if=virtio,format=raw,readonly=on,file="+seed,
		"-netdev", "user,id=n,restrict=on", "-device", "virtio-net-pci,netdev=n,romfile=,mac="+net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0, 1}.String(), "-device", "virtio-rng-pci")
	out, err := cmd.CombinedOutput()
	b, _ := os.ReadFile(log)
	if err != nil {
		t.Fatalf("the machine did not power off: %v\n%s\n%s", err, out, b[max(0, len(b)-4000):])
	}
	return string(b)
}
