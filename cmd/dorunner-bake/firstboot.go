package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// findFirstBoot finds the first-boot program for an architecture beside this program. Whether it really is one, and for
// that architecture, the engine checks.
func findFirstBoot(arch string) (string, error) {
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
		"(GOOS=linux GOARCH=%s go build -o %s ./cmd/dorunner-firstboot), or name it with --firstboot FILE", name, self, arch, name)
}
