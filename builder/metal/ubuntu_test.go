//go:build linux

package metal

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestOfflineOnUbuntusLayout opens a disk that is partitioned as Ubuntu's cloud images are: the root is partition 1 but
// lies last, behind the BIOS's and UEFI's (14, 15), and from 24.04 on also behind /boot (16); mounts go by label, and
// resolv.conf points into /run.
func TestOfflineOnUbuntusLayout(t *testing.T) {
	needRoot(t)
	for _, tool := range []string{"sgdisk", "mkfs.vfat", "mke2fs", "mdir"} {
		needTool(t, tool)
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	vfat := bytes.Contains(known, []byte("vfat"))
	for _, tt := range []struct {
		name, boot string
		root       int64 // first sector
	}{
		{"20.04", "", 227328},
		{"24.04", "LABEL=BOOT /boot ext4 defaults 0 2\n", 227328 + 200<<11},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			disk := filepath.Join(dir, "focal.raw")
			const size = 600 << 20
			partitions := []string{"--clear", "-n14:2048:10239", "-t14:ef02", "-n15:10240:227327", "-t15:ef00"}
			if tt.boot != "" {
				partitions = append(partitions, "-n16:227328:+200M", "-t16:ea00")
			}
			partitions = append(partitions, "-n1:"+text(tt.root)+":0", "-t1:8300")
			root := filepath.Join(dir, "root")
			for _, d := range []string{"etc", "proc", "sys", "dev", "run", "tmp", "boot/efi"} {
				if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for file, content := range map[string]string{
				"etc/os-release": "ID=ubuntu\nVERSION_ID=\"" + tt.name + "\"\n",
				"etc/fstab":      "LABEL=cloudimg-rootfs\t/\t ext4\tdefaults\t0 1\n" + tt.boot + "LABEL=UEFI\t/boot/efi\tvfat\tumask=0077\t0 1\n",
			} {
				if err := os.WriteFile(filepath.Join(root, file), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(root, "etc/resolv.conf")); err != nil {
				t.Fatal(err)
			}
			// Each file system is made apart and put in its place.
			tool(t, "truncate", "-s", text(size), disk)
			tool(t, "sgdisk", append(partitions, disk)...)
			place := func(name string, start, length int64, argv ...string) {
				file := filepath.Join(dir, name)
				tool(t, "truncate", "-s", text(length), file)
				tool(t, argv[0], append(argv[1:], file)...)
				tool(t, "dd", "if="+file, "of="+disk, "bs=1M", "oflag=seek_bytes", "seek="+text(start*sector), "conv=notrunc,sparse", "status=none")
			}
			place("efi", 10240, (227328-10240)*sector, "mkfs.vfat", "-n", "UEFI")
			if tt.boot != "" {
				empty := filepath.Join(dir, "boot")
				if err := os.MkdirAll(filepath.Join(empty, "efi"), 0o755); err != nil {
					t.Fatal(err)
				}
				place("bootfs", 227328, 200<<20, "mke2fs", "-q", "-t", "ext4", "-L", "BOOT", "-d", empty)
			}
			place("rootfs", tt.root, size-2<<20-tt.root*sector, "mke2fs", "-q", "-t", "ext4", "-L", "cloudimg-rootfs", "-d", root)

			env := testEnv(t, map[string]any{"metal.method": "offline", "metal.formats": []string{"raw"}, "metal.base": disk})
			t.Setenv("XDG_CACHE_HOME", t.TempDir())
			c := New("offline")
			guest, err := c.Launch(t.Context(), env)
			if err != nil {
				t.Fatal(err)
			}
			if err := guest.Upload(t.Context(), "/boot/efi/probe", strings.NewReader("x"), 0o644); err != nil {
				t.Error(err)
			}
			host, _ := os.ReadFile("/etc/resolv.conf")
			var got bytes.Buffer
			if err := guest.Download(t.Context(), "/etc/resolv.conf", &got); err != nil || got.String() != string(host) {
				t.Errorf("resolv.conf: %q, %v", got.String(), err)
			}
			if err := c.Stop(t.Context(), env); err != nil {
				t.Fatal(err)
			}
			if left := traces(t, env.WorkDir); left != nil {
				t.Errorf("left behind: %q", left)
			}
			baked, _, _ := c.method.disk()
			if out := tool(t, "sgdisk", "--verify", baked); !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk says:\n%s", out)
			}
			if out := tool(t, "sgdisk", "--info=1", baked); !strings.Contains(out, "First sector: "+text(tt.root)) || !strings.Contains(out, "(at 4.0 GiB)") {
				t.Errorf("the root is not grown in place:\n%s", out)
			}
			if out := tool(t, "mdir", "-b", "-i", baked+"@@"+text(10240*sector)); !strings.Contains(out, "probe") && vfat {
				t.Errorf("the EFI partition holds %s", out)
			}
		})
	}
}

// tool runs one and gives what it says.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

func text(n int64) string { return strconv.FormatInt(n, 10) }
