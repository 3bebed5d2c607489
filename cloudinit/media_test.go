package cloudinit_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

const hostsFile = `
defaults: {gateway: 192.0.2.1, dns: [192.0.2.53], token: "file:/run/token"}
hosts:
  - {name: one, mac: "52:54:00:AA:00:01", serial: S-1, addresses: [192.0.2.11/24], tags: [a]}
  - {name: two, mac: "52:54:00:AA:00:02"}
  - {name: three, serial: S-3, gateway: "2001:db8::1", token: "env:TOKEN"}
`

func hosts(t testing.TB) []cloudinit.Host {
	t.Helper()
	h, err := cloudinit.ReadHosts("hosts.yaml", []byte(hostsFile))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHosts(t *testing.T) {
	h := hosts(t)
	if len(h) != 3 || h[1].Gateway != "192.0.2.1" || h[2].Gateway != "2001:db8::1" || h[2].Token.String() != "env:TOKEN" {
		t.Fatalf("the defaults are not laid under the hosts: %+v", h)
	}
	s := h[0].Spec(spec("d"))
	if s.Name != "one" || !slices.Equal(s.Tags, []string{"a"}) || s.Token.String() != "file:/run/token" || s.URL != "https://app.dataops.live" {
		t.Errorf("host one is %+v", s)
	}
	want := `version: 2
ethernets:
  dr0:
    match:
      macaddress: 52:54:00:aa:00:01
    set-name: dr0
    addresses:
      - 192.0.2.11/24
    routes:
      - to: 0.0.0.0/0
        via: 192.0.2.1
    nameservers:
      addresses:
        - 192.0.2.53
`
	if got, err := h[0].NetworkConfig(); err != nil || string(got) != want {
		t.Errorf("network of one: %v\n%s", err, got)
	}
	if got, err := h[2].NetworkConfig(); err != nil || got != nil {
		t.Errorf("a host without addresses and MAC has a network: %v\n%s", err, got)
	}
	a, b := cloudinit.HostMeta("One", []byte("x")), cloudinit.HostMeta("One", []byte("y"))
	if a.InstanceID == b.InstanceID || a != cloudinit.HostMeta("One", []byte("x")) || !strings.HasPrefix(a.InstanceID, "one-") {
		t.Errorf("instance ids %v and %v", a, b)
	}
}

// TestSharedSeedChooses runs the very boothook of a shared seed over a machine made of files.
func TestSharedSeedChooses(t *testing.T) {
	base := spec("d")
	files, err := cloudinit.SharedSeed(base, hosts(t), cloudinit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	seed := t.TempDir()
	for _, f := range files {
		name := filepath.Join(seed, f.Path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, read(t, f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hook, err := templates.Read("cloudinit/choose-host.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ serial, mac, want string }{
		"by serial, case and blanks apart": {" s-1 ", "52:54:00:bb:00:09", "one"},
		"by MAC":                           {"", "52:54:00:aa:00:02", "two"},
		"serial without MAC":               {"S-3", "52:54:00:bb:00:09", "three"},
		"unknown":                          {"S-9", "52:54:00:bb:00:09", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write := func(path, text string) {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write("sys/class/dmi/id/product_serial", tc.serial+"\n")
			write("sys/class/net/eth0/address", tc.mac+"\n")
			write("sys/class/net/eth0/device", "")
			write("etc/hostname", "old\n")
			write("dev/console", "")
			// The machine's own programs that would reach beyond the root.
			write("bin/blkid", "#!/bin/sh\necho /dev/sr0\n")
			write("bin/mount", "#!/bin/sh\nfor last; do :; done\nrmdir \"$last\" && ln -s "+seed+" \"$last\"\n")
			write("bin/umount", "#!/bin/sh\nrm \"$1\" && mkdir \"$1\"\n")
			write("bin/hostname", "#!/bin/sh\necho old\n")
			script := regexp.MustCompile(`/(sys|etc|dev)/`).ReplaceAllString(string(hook), root+"/$1/")
			script = strings.ReplaceAll(script, "mkdir -p /etc/dorunner", "mkdir -p "+root+"/etc/dorunner")
			write("hook", script)
			cmd := exec.Command(filepath.Join(root, "hook"))
			cmd.Env = []string{"PATH=" + root + "/bin:" + os.Getenv("PATH"), "TMPDIR=" + root}
			out, err := cmd.CombinedOutput()
			got, _ := os.ReadFile(filepath.Join(root, "etc/dorunner/runner.yaml"))
			if tc.want == "" {
				if err == nil || got != nil || !strings.Contains(string(out), "names no machine with serial:s-9") {
					t.Errorf("an unknown machine got %q, %v: %s", got, err, out)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var s runner.Spec
			if err := runner.Decode(&s, got); err != nil || s.Name != tc.want {
				t.Errorf("it took %q for itself, %v", s.Name, err)
			}
			if h, _ := os.ReadFile(filepath.Join(root, "etc/hostname")); string(h) != tc.want+"\n" {
				t.Errorf("its host name became %q", h)
			}
			if i, _ := os.Stat(filepath.Join(root, "etc/dorunner/runner.yaml")); i.Mode().Perm()&0o077 != 0 {
				t.Errorf("runner.yaml has mode %v", i.Mode())
			}
		})
	}
}

func read(t testing.TB, f iso9660.File) []byte {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestParseDisk(t *testing.T) {
	for in, want := range map[string]string{
		"serial=S4X": "serial S4X", "model=Samsung SSD 980": "model Samsung SSD 980", "path=/dev/nvme0n1": "path /dev/nvme0n1",
		"size=480GB": "size 470400000000-489600000000", "size=400GB-1TB": "size 400000000000-1000000000000", "largest": "largest ", "smallest": "smallest ",
		"": "", "biggest": "", "serial=": "", "path=sda": "", "size=": "", "size=5": "", "size=2TB-1TB": "", "size=-1GB": "", "largest=yes": "", `serial=a"b`: "",
	} {
		how, what, err := cloudinit.ParseDisk(in)
		if got := how + " " + what; err == nil && got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v, want %q", in, got, err, want)
		}
	}
}

// TestDiskGuard runs the very script of the installer over a list of disks.
func TestDiskGuard(t *testing.T) {
	guard, err := templates.Read("cloudinit/disk-guard.sh")
	if err != nil {
		t.Fatal(err)
	}
	const disks = `NAME="sda" SIZE="480103981056" TYPE="disk" SERIAL="S4X" MODEL="SSD A" RO="0"
NAME="sdb" SIZE="4000787030016" TYPE="disk" SERIAL="DATA1" MODEL="HDD B" RO="0"
NAME="sdc" SIZE="4000787030016" TYPE="disk" SERIAL="DATA2" MODEL="HDD B" RO="0"
NAME="sdd" SIZE="16000000000" TYPE="disk" SERIAL="USB" MODEL="Stick" RO="1"
NAME="sde" SIZE="16000000000" TYPE="disk" SERIAL="INSTALLER" MODEL="Stick" RO="0"
NAME="sdf" SIZE="8000000000" TYPE="disk" SERIAL="SEED" MODEL="Stick" RO="0"
NAME="sdg" SIZE="0" TYPE="disk" SERIAL="CARDS" MODEL="Reader" RO="0"
NAME="sr0" SIZE="2000000000" TYPE="rom" SERIAL="" MODEL="DVD" RO="0"
`
	for disk, want := range map[string]string{
		"serial=S4X": "/dev/sda", "serial=DATA2": "/dev/sdc", "serial=none": "", "model=SSD A": "/dev/sda", "model=HDD B": "", "serial=USB": "",
		"serial=INSTALLER": "", "serial=SEED": "", "path=/dev/sdg": "",
		"size=480GB": "/dev/sda", "size=4TB": "", "size=1TB-2TB": "", "path=/dev/sdb": "/dev/sdb", "smallest": "/dev/sda", "largest": "",
	} {
		dir := t.TempDir()
		config := filepath.Join(dir, "autoinstall.yaml")
		for name, text := range map[string]string{"guard": string(guard), "lsblk": "#!/bin/sh\ncase \"$*\" in */dev/sde) echo /cdrom; exit;; */dev/sdf) echo CIDATA; exit;; */dev/*) exit;; esac\ncat <<'E'\n" + disks + "E\n", "autoinstall.yaml": "path: DORUNNER_DISK\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		how, what, err := cloudinit.ParseDisk(disk)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", filepath.Join(dir, "guard"), how, what)
		cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "AUTOINSTALL=" + config}
		out, err := cmd.CombinedOutput()
		got, _ := os.ReadFile(config)
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v\n%s", disk, err, out)
		}
		if want == "" {
			want = "DORUNNER_DISK"
		}
		if string(got) != "path: "+want+"\n" {
			t.Errorf("%s: the installer would take %q, want %s", disk, got, want)
		}
	}
}

func TestAutoinstall(t *testing.T) {
	s := spec("d")
	s.Token, _ = runner.ParseSecret("file:/run/token")
	good := cloudinit.Install{Hostname: "one", Username: "ops", PasswordHash: "$6$salt$0123456789", Layout: "lvm", Disk: "serial=S4X"}
	b, err := good.Autoinstall(s, cloudinit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if f := lint.Lint(b, lint.Options{}).Findings; len(f) > 0 {
		t.Error(f[0].Text("autoinstall"))
	}
	var doc struct {
		Autoinstall struct {
			Version int
			Storage struct {
				Layout struct{ Match map[string]string }
			}
			User struct {
				Files []struct{ Path string } `yaml:"write_files"`
			} `yaml:"user-data"`
		}
	}
	if err := yaml.Unmarshal(b, &doc); err != nil || doc.Autoinstall.Version != 1 || doc.Autoinstall.User.Files[0].Path != "/etc/dorunner/runner.yaml" ||
		doc.Autoinstall.Storage.Layout.Match["path"] != "DORUNNER_DISK" {
		t.Errorf("%v\n%s", err, b)
	}
	for name, change := range map[string]func(*cloudinit.Install){
		"no disk":        func(i *cloudinit.Install) { i.Disk = "" },
		"plain password": func(i *cloudinit.Install) { i.PasswordHash = "hunter2" },
		"nobody":         func(i *cloudinit.Install) { i.PasswordHash = "" },
		"user":           func(i *cloudinit.Install) { i.Username = "Ops Team" },
		"layout":         func(i *cloudinit.Install) { i.Layout = "zfs" },
	} {
		i := good
		change(&i)
		if _, err := i.Autoinstall(s, cloudinit.Options{}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPayload(t *testing.T) {
	dir := t.TempDir()
	put := func(name string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	p := cloudinit.Payload{FirstBoot: put("firstboot"), Defaults: runner.Default(), Packages: filepath.Join(dir, "debs"), Arch: "amd64",
		Images: []cloudinit.Archive{{Ref: "example.com/a/runner:1", File: put("a.tar")}}}
	if _, err := p.Files(); err == nil || !strings.Contains(err.Error(), "debs") {
		t.Errorf("no packages: %v", err)
	}
	put("debs/docker-ce_5%3a28.1.1-1~ubuntu.20.04~focal_amd64.deb")
	put("debs/ca-certificates_2023_all.deb")
	files, err := p.Files()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	for _, want := range []string{"dorunner/install.sh", "dorunner/dorunner-firstboot", "dorunner/defaults.yaml", "dorunner/platform", "dorunner/daemon.json",
		"dorunner/units/dorunner-firstboot.service", "dorunner/images/01-runner_1.tar", "dorunner/packages/ca-certificates_2023_all.deb"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing: %q", want, names)
		}
	}
	put("debs/docker.io_1_arm64.deb")
	if _, err := p.Files(); err == nil || !strings.Contains(err.Error(), "not for amd64") {
		t.Errorf("a package for another architecture: %v", err)
	}
}

// isohybrid is the code of a stick's first sector that isolinux brings.
const isohybrid = "/usr/lib/ISOLINUX/isohdpfx.bin"

// layouts are the boot layouts of Ubuntu's installers, as arguments of xorriso. Both boot by El Torito for BIOS and UEFI and
// from a stick; 22.04 and later append the EFI system partition and name it in a GPT, 20.04 keeps it as a file.
var layouts = map[string]func(mbr, efi string) []string{
	"22.04": func(mbr, efi string) []string {
		return []string{"--grub2-mbr", mbr, "-partition_offset", "16",
			"--mbr-force-bootable", "-append_partition", "2", "28732ac11ff8d211ba4b00a0c93ec93b", efi, "-appended_part_as_gpt", "-iso_mbr_part_type", "a2a0d0ebe5b9334487c068b6b72699c7",
			"-c", "boot.catalog", "-b", "boot/grub/i386-pc/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info",
			"-eltorito-alt-boot", "-e", "--interval:appended_partition_2:::", "-no-emul-boot"}
	},
	"20.04": func(_, _ string) []string {
		return []string{"-isohybrid-mbr", isohybrid, "-c", "isolinux/boot.cat", "-b", "isolinux/isolinux.bin", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table",
			"-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat"}
	},
}

// TestRemaster makes small images with the boot layouts of Ubuntu's installers and holds the boot records after against
// those before.
func TestRemaster(t *testing.T) {
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(isohybrid); err != nil && name == "20.04" {
				t.Skip("isolinux is not installed")
			}
			remaster(t, layout)
		})
	}
}

func remaster(t *testing.T, layout func(mbr, efi string) []string) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	put := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	grub := "set timeout=30\nmenuentry \"Install Ubuntu Server\" {\n\tset gfxpayload=keep\n\tlinux\t/casper/vmlinuz  ---\n\tinitrd\t/casper/initrd\n}\n"
	put("boot/grub/grub.cfg", grub)
	put("isolinux/txt.cfg", "label live\n  kernel /casper/vmlinuz\n  append   initrd=/casper/initrd quiet  ---\n")
	put("casper/vmlinuz", "kernel")
	put("md5sum.txt", "00000000000000000000000000000000  ./boot/grub/grub.cfg\n11111111111111111111111111111111  ./casper/vmlinuz\n")
	put("boot/grub/i386-pc/eltorito.img", strings.Repeat("B", 4096))
	isolinux := []byte(strings.Repeat("I", 4096))
	copy(isolinux[64:], "\xfb\xc0\x78\x70") // by which xorriso knows isolinux
	put("isolinux/isolinux.bin", string(isolinux))
	put("boot/grub/efi.img", strings.Repeat("EFI system partition", 5000))
	mbr, efi := filepath.Join(dir, "mbr"), filepath.Join(dir, "efi")
	for name, text := range map[string]string{mbr: strings.Repeat("M", 432) + strings.Repeat("\x00", 80), efi: strings.Repeat("EFI system partition", 5000)} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in, out := filepath.Join(dir, "in.iso"), filepath.Join(dir, "out.iso")
	tool(t, "xorriso", append(append([]string{"-as", "mkisofs", "-quiet", "-V", "Ubuntu-Server", "-J", "-joliet-long", "-R", "-o", in}, layout(mbr, efi)...), tree)...)

	seed, err := cloudinit.SeedFiles(cloudinit.Meta{InstanceID: "i"}, []byte("#cloud-config\nautoinstall: {version: 1}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	more := []iso9660.File{iso9660.Bytes("dorunner/install.sh", []byte("#!/bin/sh\n"), 0o555)}
	if err := cloudinit.Remaster(context.Background(), in, out, seed, more); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(out); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("others may read the image: %v, %v", i.Mode(), err)
	}
	// What firmware boots from is what it was; only block addresses may differ, and what fills the gap behind the second
	// partition.
	boot := func(iso string) string {
		text := tool(t, "xorriso", "-indev", iso, "-report_el_torito", "plain", "-report_system_area", "plain")
		var kept []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "GPT") && strings.Contains(line, " 3  ") {
				continue
			}
			if m := regexp.MustCompile(`^(El Torito (cat|images|boot img|img opts|img path)|System area summary|GPT type GUID|GPT partition name|Partition offset|MBR partition +:)`).FindString(line); m != "" {
				line = regexp.MustCompile(`\s\d{2,}\b`).ReplaceAllString(line, " N")
				kept = append(kept, strings.Join(strings.Fields(line), " "))
			}
		}
		return strings.Join(kept, "\n")
	}
	if a, b := boot(in), boot(out); a != b || !strings.Contains(a, "UEFI") || !strings.Contains(a, "BIOS") {
		t.Errorf("the boot records changed:\n%s\n--- became\n%s", a, b)
	}
	system := func(iso string) []byte {
		b, err := os.ReadFile(iso)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(strings.Repeat("EFI system partition", 5000))) {
			t.Errorf("%s: the EFI system partition is gone", iso)
		}
		return b[:400]
	}
	if a, b := system(in), system(out); !bytes.Equal(a[:0x1b0-0x80], b[:0x1b0-0x80]) {
		t.Error("the MBR's code changed")
	}
	get := func(path string) string {
		file := filepath.Join(t.TempDir(), "f")
		tool(t, "xorriso", "-osirrox", "on", "-indev", out, "-extract", path, file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := get("/boot/grub/grub.cfg"); !strings.Contains(got, "/casper/vmlinuz autoinstall \"ds=nocloud;s=/cdrom/nocloud/\"  ---") || !strings.Contains(got, "set timeout=5") {
		t.Errorf("grub.cfg became\n%s", got)
	}
	if got := get("/isolinux/txt.cfg"); !strings.Contains(got, "quiet autoinstall ds=nocloud;s=/cdrom/nocloud/  ---") {
		t.Errorf("txt.cfg became\n%s", got)
	}
	if got := get("/md5sum.txt"); strings.Contains(got, "0000000000") || !strings.Contains(got, "11111111111111111111111111111111  ./casper/vmlinuz") {
		t.Errorf("md5sum.txt became\n%s", got)
	}
	if got := get("/nocloud/user-data"); !strings.HasPrefix(got, "#cloud-config\n") {
		t.Errorf("the seed is %q", got)
	}
	get("/nocloud/meta-data")
	get("/dorunner/install.sh")

	if err := cloudinit.Remaster(context.Background(), out, filepath.Join(dir, "again.iso"), seed, nil); err == nil || !strings.Contains(err.Error(), "autoinstall already") {
		t.Errorf("an image was remastered twice: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".remaster-*"))
	if _, err := os.Stat(filepath.Join(dir, "again.iso")); err == nil || len(left) > 0 {
		t.Errorf("a failure left something: %v", left)
	}
}

// BenchmarkTenThousandHosts generates and judges the user-data of 10,000 machines.
func BenchmarkTenThousandHosts(b *testing.B) {
	benchmarkHosts(b, func(i int) string { return fmt.Sprintf("serial: S-%05d", i) })
}

// BenchmarkTenThousandHostsNetwork does the same for machines with addresses, and so with a network configuration each.
func BenchmarkTenThousandHostsNetwork(b *testing.B) {
	benchmarkHosts(b, func(i int) string {
		return fmt.Sprintf("mac: \"52:54:00:%02x:%02x:%02x\", addresses: [10.%d.%d.%d/8]", i>>16, i>>8&255, i&255, 1+i>>16, i>>8&255, i&255)
	})
}

func benchmarkHosts(b *testing.B, tell func(int) string) {
	var list strings.Builder
	list.WriteString("defaults: {gateway: 10.0.0.1, dns: [10.0.0.2], token: \"file:/run/token\"}\nhosts:\n")
	for i := range 10_000 {
		fmt.Fprintf(&list, "  - {name: runner-%d, %s}\n", i, tell(i))
	}
	base := spec("{{.Name}}")
	hosts, err := cloudinit.ReadHosts("hosts.yaml", []byte(list.String()))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := cloudinit.HostSeeds(base, hosts, cloudinit.Options{Cloud: "metal"}); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReadHosts(f *testing.F) {
	f.Add([]byte(hostsFile))
	f.Add([]byte("hosts: [{name: a, mac: 1, addresses: x}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		hosts, err := cloudinit.ReadHosts("hosts.yaml", data)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error says nothing")
			}
			return
		}
		for _, h := range hosts {
			if h.Name == "" {
				t.Errorf("a host without a name passed: %q", data)
			}
			if _, err := h.NetworkConfig(); err != nil {
				t.Errorf("a host that passed has no network: %v\n%s", err, data)
			}
		}
	})
}
