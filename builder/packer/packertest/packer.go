// Package packertest has what tests of the plugin and of generated templates stand on: the real Packer, and a machine
// that answers the engine over SSH.
package packertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Packer builds the real Packer, once for all tests: it is compiled and linked again only when its pins change.
func Packer(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds Packer")
	}
	_, self, _, _ := runtime.Caller(0)
	return Tool(t, filepath.Join(filepath.Dir(self), "..", "testdata", "packer"), "packer", "github.com/hashicorp/packer")
}

// Tool builds a program of a module into the cache and gives its path; an up-to-date one stays as it is.
func Tool(t testing.TB, dir, name, pkg string, flags ...string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(cache, "dorunner-bake", "tools", name)
	if err := build(t.Context(), dir, file, pkg, flags); err != nil {
		t.Fatal(err)
	}
	return file
}

// build runs go build; test programs of several packages may want the same file at the same time.
func build(ctx context.Context, dir, file, pkg string, flags []string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("waiting for another build of %s: %w", file, err)
	}
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", file, pkg)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return nil
}
