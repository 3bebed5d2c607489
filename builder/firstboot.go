package builder

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// machines are the architectures as an ELF file names them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// FindFirstBoot finds the first-boot program for an architecture beside the running program. Whether it really is one,
// and for that architecture, Bake checks.
func FindFirstBoot(arch string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("where this program is: %w", err)
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	name := "dorunner-firstboot-linux-" + arch
	for _, name := range []string{name, "dorunner-firstboot"} {
		file := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
	}
	return "", fmt.Errorf("%s is not beside %s: unpack it there from the release, or build it "+
		"(GOOS=linux GOARCH=%s go build -o %s ./cmd/dorunner-firstboot), or name the file", name, self, arch, name)
}

// checkFirstBoot says what keeps a file from being a program for Linux on an architecture.
func checkFirstBoot(file, arch string) error {
	f, err := elf.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("first-boot program: %w", err)
	}
	if err != nil {
		return fmt.Errorf("first-boot program %s: it is no Linux program", file)
	}
	defer func() { _ = f.Close() }()
	if f.Machine != machines[arch] {
		return fmt.Errorf("first-boot program %s: it is for %s, and the image is for %s: name one for it", file, f.Machine, arch)
	}
	return nil
}
