//go:build linux

package metal

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/templates"
)

// debianPackages are the base's, beside the essential ones. No package brings grub: extlinux, installed from here,
// starts the kernel. dbus and libpam-systemd serve the power button and a delayed shutdown; containers need apparmor.
var debianPackages = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "dbus", "libpam-systemd", "cloud-init",
	"cloud-guest-utils", "e2fsprogs", "fdisk", "openssh-server", "sudo", "apparmor", "ca-certificates", "iptables", "iproute2",
	"curl", "gpg", "gpgv", "ifupdown-",
}

const (
	debianSize  = 2 << 30 // bytes; every bake grows its copy
	debianStart = 2 << 20 // bytes before the root partition
	keyring     = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// bootCodes are where distributions keep the boot code that starts extlinux from a GPT disk.
var bootCodes = []string{"/usr/lib/EXTLINUX/gptmbr.bin", "/usr/lib/syslinux/mbr/gptmbr.bin", "/usr/share/syslinux/gptmbr.bin"}

// debianTools are the programs and files that building needs, each with the package that has it.
var debianTools = map[string]string{"mmdebstrap": "mmdebstrap", "extlinux": "extlinux", "mke2fs": "e2fsprogs", keyring: "debian-archive-keyring"}

// checkDebian finds what keeps a debian-12 disk from being built here.
func checkDebian(env *builder.Env) []error {
	if dir, err := cacheDir(); err == nil {
		if _, err := os.Stat(debianFile(dir)); err == nil {
			return nil
		}
	}
	if os.Geteuid() != 0 {
		return []error{errors.New("building a debian-12 disk needs root: use sudo, or give a disk with --base")}
	}
	if env.Plan.Spec.Image.Arch != "amd64" {
		return []error{fmt.Errorf("a debian-12 disk is built for amd64, not %s: give one with --base", env.Plan.Spec.Image.Arch)}
	}
	return missingTools(debianTools)
}

// debianFile names the cached disk after everything that goes into it.
func debianFile(dir string) string {
	h := sha256.New()
	fmt.Fprintln(h, "debian-12, second form", debianSize, debianStart, debianPackages)
	for _, name := range debianTexts {
		text, err := templates.Read(name)
		if err != nil { // embedded
			panic(err)
		}
		h.Write(text)
	}
	return filepath.Join(dir, "debian-12-"+hex.EncodeToString(h.Sum(nil))[:16]+".raw")
}

// debianTexts are the files of the base that no package brings, by their name among the templates; what follows
// "metal/debian" is their path on the disk.
var debianTexts = []string{
	"metal/debian/etc/fstab", "metal/debian/etc/hostname", "metal/debian/etc/hosts",
	"metal/debian/etc/cloud/cloud.cfg.d/90_dorunner.cfg", "metal/debian/boot/extlinux/extlinux.conf",
}

// debianBase builds a bootable debian-12 disk, once.
func debianBase(ctx context.Context, env *builder.Env, dir string) (base, error) {
	file := debianFile(dir)
	b := base{file: file, source: "debian-12 built with mmdebstrap from " + debianMirror}
	if _, err := os.Stat(file); err != nil {
		env.Progress.Info("building a debian-12 disk: once, for a minute or two")
		if err := buildDebian(ctx, env, dir, file); err != nil {
			return b, fmt.Errorf("building a debian-12 disk: %w", explainFull(err, dir))
		}
	}
	sum, err := os.ReadFile(file + ".sha256")
	if err != nil {
		return b, err
	}
	b.digest = strings.TrimSpace(string(sum))
	return b, nil
}

func buildDebian(ctx context.Context, env *builder.Env, dir, file string) (err error) {
	scratch, err := os.MkdirTemp(dir, scratchPrefix)
	if err != nil {
		return err
	}
	root, disk, mnt := filepath.Join(scratch, "root"), filepath.Join(scratch, "disk"), filepath.Join(scratch, "mnt")
	if err := errors.Join(os.Mkdir(root, 0o755), os.Mkdir(mnt, 0o755)); err != nil {
		return err
	}
	// mmdebstrap mounts and starts things as well: in a space of ours they end with us.
	s, err := newSpace(ctx, mnt)
	if err != nil {
		return errors.Join(err, os.RemoveAll(scratch))
	}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if closeErr := s.close(undo); closeErr != nil {
			err = errors.Join(err, closeErr)
			return // what is still mounted must not be removed
		}
		err = errors.Join(err, os.RemoveAll(scratch))
	}()

	argv := []string{"mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory", "--include=" + strings.Join(debianPackages, ","),
		`--customize-hook=chroot "$1" systemctl enable systemd-networkd systemd-timesyncd`,
		// Each machine makes its own.
		`--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*`,
		"bookworm", root}
	argv = append(argv, debianSources(ctx)...)
	log := lineWriter(env.Progress.Log)
	if err := runCommand(ctx, s.command(argv...), []string{"mmdebstrap"}, log, log); err != nil {
		return err
	}
	for _, name := range debianTexts {
		text, err := templates.Read(name)
		if err != nil {
			return err
		}
		target := filepath.Join(root, strings.TrimPrefix(name, "metal/debian"))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, text, 0o644); err != nil {
			return err
		}
	}
	p, err := formatDisk(disk)
	if err != nil {
		return err
	}
	// extlinux 6 reads neither 64-bit file systems nor ones with checksums.
	if err := s.run(ctx, "mke2fs", "-q", "-t", "ext4", "-L", "root", "-O", "^64bit,^metadata_csum", "-d", root,
		"-E", fmt.Sprintf("offset=%d", p.start), disk, fmt.Sprintf("%dk", p.size>>10)); err != nil {
		return err
	}
	if err := s.mount(ctx, disk, p, mnt, ""); err != nil {
		return err
	}
	for _, argv := range [][]string{{"extlinux", "--install", mnt + "/boot/extlinux"}, {"umount", mnt}} {
		if err := s.run(ctx, argv...); err != nil {
			return err
		}
	}
	_, sum, err := digest(ctx, disk)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".sha256", []byte(sum+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(disk, file)
}

// formatDisk makes an empty disk with a bootable root partition.
func formatDisk(file string) (partition, error) {
	var ids [2][16]byte
	for i := range ids {
		_, _ = rand.Read(ids[i][:])
		ids[i][7], ids[i][8] = ids[i][7]&0x0f|0x40, ids[i][8]&0x3f|0x80 // a random GUID, version 4
	}
	t := newTable(debianStart, debianSize, ids)
	i := slices.IndexFunc(bootCodes, func(f string) bool { _, err := os.Stat(f); return err == nil })
	if i < 0 {
		return partition{}, errors.New("gptmbr.bin is not there: apt-get install extlinux")
	}
	code, err := os.ReadFile(bootCodes[i])
	if err != nil {
		return partition{}, err
	}
	mbr, err := protectiveMBR(code, debianSize)
	if err != nil {
		return partition{}, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return partition{}, err
	}
	_, err = f.WriteAt(mbr, 0)
	return t.partitions[0], errors.Join(err, f.Truncate(debianSize), t.write(f, debianSize), f.Close())
}

const debianMirror = "http://deb.debian.org/debian"

// debianSources are the lines of sources.list that the disk is built from: this machine's own where it runs the same
// Debian, so that a mirror it was given is used.
func debianSources(ctx context.Context) []string {
	line := func(uri, suite string) string {
		return fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, uri, suite)
	}
	suites := map[string]string{"bookworm": debianMirror, "bookworm-updates": debianMirror, "bookworm-security": debianMirror + "-security"}
	if _, err := exec.LookPath("apt-get"); err == nil {
		// On another distribution, or without apt, nothing is found and Debian's own are taken.
		own, _ := output(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
		for l := range strings.Lines(own) {
			f := strings.Fields(l)
			if len(f) == 3 && f[2] == "main" && suites[f[1]] != "" && strings.HasPrefix(f[0], "http") {
				suites[f[1]] = strings.TrimSuffix(f[0], "/")
			}
		}
	}
	var out []string
	for _, suite := range []string{"bookworm", "bookworm-updates", "bookworm-security"} {
		out = append(out, line(suites[suite], suite))
	}
	return out
}
