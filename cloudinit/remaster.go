package cloudinit

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the installer's own list of checksums has it
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
)

// menus are the files that boot an Ubuntu server image, whichever are there: GRUB for UEFI and newer BIOS, isolinux
// for the BIOS of 20.04.
var menus = []string{"/boot/grub/grub.cfg", "/boot/grub/loopback.cfg", "/isolinux/txt.cfg"}

// Remaster copies a bootable installer image with the seed and more files in it, and its boot menus changed so that it installs
// without a question. Its boot records are kept as they are. out appears whole or not at all.
func Remaster(ctx context.Context, in, out string, seed, more []iso9660.File) error {
	if _, err := exec.LookPath("xorriso"); err != nil {
		return fmt.Errorf("remastering needs xorriso: apt-get install xorriso")
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), ".remaster-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// Our files go into an image of their own first: they may be large, and xorriso reads files, not streams.
	tree := filepath.Join(dir, "tree")
	for _, f := range seed {
		f.Path = "nocloud/" + f.Path
		more = append(more, f)
	}
	for _, f := range more {
		if err := place(filepath.Join(tree, f.Path), f); err != nil {
			return err
		}
	}
	changed, err := changeMenus(ctx, in, dir)
	if err != nil {
		return err
	}
	part := filepath.Join(dir, "out.iso")
	args := []string{"-indev", in, "-outdev", part, "-boot_image", "any", "replay", "-map", tree, "/"}
	for path, file := range changed {
		args = append(args, "-map", file, path)
	}
	if err := xorriso(ctx, append(args, "-commit", "-end")...); err != nil {
		return err
	}
	if err := settle(part); err != nil {
		return err
	}
	return os.Rename(part, out)
}

// settle brings a file to the disk, readable by the owner alone: it says who the machine is.
func settle(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Sync(), f.Close())
}

func place(name string, f iso9660.File) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	w, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, f.Mode.Perm()|0o400)
	if err != nil {
		return err
	}
	_, err = w.ReadFrom(r)
	return errors.Join(err, w.Close())
}

var kernelLine = regexp.MustCompile(`(?m)^(\s*(?:linux|linuxefi|append)\s+[^\n]*?)(\s+---[^\n]*)?$`)

// changeMenus extracts the menus and the checksums, changes them, and gives the new files by their path on the image.
func changeMenus(ctx context.Context, in, dir string) (map[string]string, error) {
	changed := map[string]string{}
	sums := map[string]string{}
	for i, path := range append(menus, "/md5sum.txt") {
		file := filepath.Join(dir, fmt.Sprintf("menu%d", i))
		// What is not on the image is no failure: xorriso says so and exits 5, and there is no file.
		_ = xorriso(ctx, "-abort_on", "FATAL", "-osirrox", "on", "-indev", in, "-extract", path, file)
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch {
		case path == "/md5sum.txt":
			for name, sum := range sums {
				line := regexp.MustCompile(`(?m)^[0-9a-f]{32}  \.` + regexp.QuoteMeta(name) + `$`)
				text = line.ReplaceAll(text, []byte(sum+"  ."+name))
			}
		case bytes.Contains(text, []byte("autoinstall")):
			return nil, fmt.Errorf("%s: its %s says autoinstall already: start from Ubuntu's own image", in, path)
		default:
			text = unattended(text, strings.HasSuffix(path, "txt.cfg"))
			sum := md5.Sum(text) //nolint:gosec // likewise
			sums[path] = hex.EncodeToString(sum[:])
		}
		if err := os.Chmod(file, 0o600); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
		changed[path] = file
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("%s has none of %s: it is no Ubuntu server image", in, strings.Join(menus, ", "))
	}
	return changed, nil
}

// unattended adds to every kernel line where the seed is. GRUB takes a semicolon for the end of a command.
func unattended(menu []byte, isolinux bool) []byte {
	words := ` autoinstall "ds=nocloud;s=/cdrom/nocloud/"`
	if isolinux {
		words = ` autoinstall ds=nocloud;s=/cdrom/nocloud/`
	}
	out := kernelLine.ReplaceAll(menu, []byte("${1}"+words+"${2}"))
	return regexp.MustCompile(`(?m)^(set timeout=)\d+`).ReplaceAll(out, []byte("${1}5"))
}

func xorriso(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "xorriso", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("xorriso: %w\n%s", err, strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return nil
}
