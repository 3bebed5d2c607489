//go:build linux

package metal

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A link with ".." is followed while others rename files all over the machine, which the kernel answers with EAGAIN.
func TestOpenInWhileOthersRename(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"root/etc", "root/usr/lib", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "root/usr/lib/os-release"), []byte("ID=debian\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../usr/lib/os-release", filepath.Join(dir, "root/etc/os-release")); err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(dir, "other/a"), filepath.Join(dir, "other/b")
	if err := os.WriteFile(a, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Rename(a, b)
				_ = os.Rename(b, a)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	root, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for i := range 20_000 {
		fd, err := openIn(root, "/etc/os-release", unix.O_PATH)
		if err != nil {
			t.Fatalf("open %d: %v", i, err)
		}
		unix.Close(fd)
	}
}
