package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMetalScripts are the promises of the metal target that need no root and no QEMU.
func TestMetalScripts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("dorunner-bake")
	if err != nil {
		t.Fatal(err)
	}
	// The scripts run in subtests of their own that end before this group does.
	t.Run("", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:  filepath.Join("testdata", "metal"),
			Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code},
			Setup: func(e *testscript.Env) error {
				e.Setenv("SELF", self)
				e.Setenv("BIN", filepath.Dir(program))
				e.Setenv("PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
				e.Setenv("DORUNNER_STATE_DIR", filepath.Join(e.WorkDir, "state"))
				e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
				e.Setenv("HOME", e.WorkDir)
				return nil
			},
		})
	})
}
