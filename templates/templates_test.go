package templates_test

import (
	"io/fs"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/templates"
)

// scripts lists the shell scripts that guests run, by name.
func scripts(t *testing.T) (names []string) {
	t.Helper()
	err := fs.WalkDir(templates.FS(), "guest", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Ext(name) == ".sh" {
			names = append(names, name)
		}
		return err
	})
	if err != nil || len(names) == 0 {
		t.Fatalf("scripts: %v, %v", names, err)
	}
	return names
}

func TestScriptsPassShellcheck(t *testing.T) {
	judge, err := exec.LookPath("shellcheck")
	if err != nil {
		if testing.Short() {
			t.Skip("shellcheck is not installed")
		}
		t.Fatal("shellcheck is not installed: apt-get install shellcheck")
	}
	for _, name := range scripts(t) {
		text, err := templates.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command(judge, "--shell=sh", "--format=gcc", "-")
		c.Stdin = strings.NewReader(string(text))
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// Scripts take their parameters from the environment and arguments alone, and stop at the first error.
func TestScriptsAreNotTemplates(t *testing.T) {
	for _, name := range scripts(t) {
		text, err := templates.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\nset -eu\n") {
			t.Errorf("%s does not set -eu", name)
		}
		for _, mark := range []string{"{{if", "{{range .Plan", "{{.Spec", "{{.Plan"} {
			if strings.Contains(string(text), mark) {
				t.Errorf("%s is filled in before it runs: %s", name, mark)
			}
		}
	}
}

func TestRenderRefusesUnknownKeys(t *testing.T) {
	if _, err := templates.Render("guest/prove.sh", map[string]any{}); err == nil {
		t.Error("a missing key renders")
	}
	if _, err := templates.Render("no-such-file", nil); err == nil {
		t.Error("a missing template renders")
	}
}

// A timer that bootcmd starts is ordered after sysinit.target, which waits for cloud-init, which waits for bootcmd: unless
// it is told otherwise, the machine hangs before it can be reached.
func TestBootcmdWaitsForNoTimer(t *testing.T) {
	seen := 0
	err := fs.WalkDir(templates.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".yaml" {
			return err
		}
		text, err := templates.Read(name)
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "[systemd-run,") {
				continue
			}
			seen++
			for _, want := range []string{"--no-block", "--timer-property=DefaultDependencies=no", "--property=DefaultDependencies=no"} {
				if !strings.Contains(line, want) {
					t.Errorf("%s: systemd-run without %s", name, want)
				}
			}
		}
		return err
	})
	if err != nil || seen == 0 {
		t.Errorf("%d timers: %v", seen, err)
	}
}
