package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/firstboot"
)

// put writes a file below root.
func put(t *testing.T, root, file, text string) {
	t.Helper()
	p := filepath.Join(root, file)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// One machine, and what each command line says on it.
func TestCommandLine(t *testing.T) {
	root := t.TempDir()
	put(t, root, firstboot.PlatformFile, "nocloud\n")
	put(t, root, "/var/lib/cloud/data/instance-id", "i-1\n")
	put(t, root, firstboot.DefaultsFile, "concurrent: 3\n")
	put(t, root, firstboot.RunnerFile, "name: lab\nurl: https://gitlab.example\ntoken: GR1348941canary\n")
	put(t, root, firstboot.StatusFile, `{"state":"failed","runner":"n","step":"register","error":"GitLab answers 403","time":"2026-11-23T10:00:00Z"}`)
	bare := t.TempDir()
	odd := t.TempDir()
	put(t, odd, firstboot.PlatformFile, "gcp")
	for _, tt := range []struct {
		args     string
		code     int
		out, err string // regular expressions
	}{
		{"", 2, "^$", "boot .* register, configure and start"},
		{"help", 0, "boot .* register", "^$"},
		{"version", 0, `^dorunner-firstboot \S+\n$`, "^$"},
		{"--version", 0, `^dorunner-firstboot`, "^$"},
		{"reboot --root " + root, 2, "^$", `there is no command "reboot"`},
		{"boot --fast", 2, "^$", "not defined: -fast"},
		{"drain now", 2, "^$", `takes no argument "now"`},
		{"drain --root " + root, 1, "^$", "there is no runner on this machine"},
		{"boot --root " + bare, 1, "^$", "which platform this is: .* write aws, azure or nocloud there"},
		{"boot --root " + odd, 1, "^$", `"gcp" is no platform: write aws, azure or nocloud there`},
		{"status --root " + root, 1, `(?s)state +failed\n.*step +register\nerror +GitLab answers 403\n`, "the runner is failed"},
		{"status --json --root " + root, 1, `"step": "register"`, "the runner is failed"},
		{"status --root " + bare, 1, "^$", "has not begun its first boot"},
		{"config --root " + root, 0, `(?s)name: lab\n.*token: '?\[redacted\]'?\n.*concurrent: 3\n`, "^$"},
		{"selftest --offline --root " + root, 0, `(?s)ok   spec: valid, for lab\n.*--   platform: not asked`, "^$"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			if strings.HasPrefix(tt.args, "selftest") {
				if _, err := os.Stat(firstboot.DockerSocket); err == nil && testing.Short() {
					t.Skip("a Docker daemon runs, and would be asked")
				}
			}
			var out, errOut strings.Builder
			code := Main(context.Background(), strings.Fields(tt.args), &out, &errOut)
			if code != tt.code || !regexp.MustCompile(tt.out).MatchString(out.String()) || !regexp.MustCompile(tt.err).MatchString(errOut.String()) {
				t.Errorf("exit %d, want %d\nstdout: %s\nstderr: %s", code, tt.code, out.String(), errOut.String())
			}
			if strings.Contains(out.String()+errOut.String(), "canary") {
				t.Error("the token is shown")
			}
		})
	}
}

// The units start in an order that systemd accepts next to cloud-init's and Docker's; the order that people try first
// is a cycle, which the same judge finds.
func TestUnitsHaveNoCycle(t *testing.T) {
	if testing.Short() {
		t.Skip("asks systemd-analyze")
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("systemd-analyze is missing: apt-get install systemd")
	}
	analyze := func(change func(name, text string) string, wantedBy string) string {
		dir := t.TempDir()
		files, err := filepath.Glob("testdata/units/*")
		if err != nil || len(files) == 0 {
			t.Fatal("no test data", err)
		}
		units, err := filepath.Glob("../../templates/files/units/dorunner-*.service")
		if err != nil || len(units) != 2 {
			t.Fatal(units, err)
		}
		for _, f := range append(files, units...) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(f)
			put(t, dir, name, change(name, strings.ReplaceAll(string(text), "/usr/local/bin/dorunner-firstboot", "/bin/true")))
			if m := regexp.MustCompile(`(?m)^WantedBy=(.*)$`).FindStringSubmatch(string(text)); m != nil {
				target := m[1]
				if name == "dorunner-firstboot.service" && wantedBy != "" {
					target = wantedBy
				}
				if err := os.MkdirAll(filepath.Join(dir, target+".wants"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("../"+name, filepath.Join(dir, target+".wants", name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		cmd := exec.Command("systemd-analyze", "verify", "multi-user.target")
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Fatal(err)
		}
		return string(out)
	}
	same := func(_, text string) string { return text }
	if out := analyze(same, ""); strings.Contains(out, "dorunner") || strings.Contains(out, "cycle") {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	naive := func(name, text string) string {
		if name == "dorunner-firstboot.service" {
			return strings.Replace(text, "After=cloud-config.target", "After=cloud-init.target", 1)
		}
		return text
	}
	if out := analyze(naive, "multi-user.target"); !strings.Contains(out, "ordering cycle") {
		t.Errorf("the judge does not see a cycle where there is one:\n%s", out)
	}
}
