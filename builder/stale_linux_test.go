package builder

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Removing a scratch directory through a mount would empty whatever is mounted.
func TestWorkDirWithAMountInItStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	mounted := t.TempDir()
	precious := filepath.Join(mounted, "precious")
	work := filepath.Join(t.TempDir(), "work")
	at := filepath.Join(work, "root")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(mounted, at, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("bind mounts: %v", err)
	}
	e := Entry{Kind: kindWorkDir, ID: work}
	err := removeWorkDir(context.Background(), e)
	if err2 := syscall.Unmount(at, 0); err2 != nil {
		t.Fatal(err2)
	}
	if err == nil || !strings.Contains(err.Error(), at+" is still mounted") {
		t.Errorf("error: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was mounted is gone: %v", err)
	}
	if err := removeWorkDir(context.Background(), e); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(work); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
