package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"

	"github.com/dorunner/dorunner-bake/builder/packer/packertest"
)

// TestTemplates holds every pipeline against a golden file, for every target.
func TestTemplates(t *testing.T) {
	for _, target := range targets() {
		spec := filepath.Join("testdata", "template", target.name+".yaml")
		if _, err := os.Stat(spec); err != nil {
			t.Fatal("a target without a golden pipeline")
		}
		for _, k := range templateKinds {
			dir := writeTemplate(t, k.name, spec)
			for _, f := range k.files {
				text, err := os.ReadFile(filepath.Join(dir, f.to))
				if err != nil {
					t.Fatal(err)
				}
				golden(t, filepath.Join("testdata", "golden", "template-"+target.name+"-"+strings.TrimPrefix(filepath.Base(f.to), ".")), string(text))
			}
		}
	}
}

// writeTemplate writes a kind beside a copy of the spec.
func writeTemplate(t *testing.T, kind, spec string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text, err := os.ReadFile(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "dorunner.yaml"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	output(t, "template", kind, "-f", filepath.Join(dir, "dorunner.yaml"), "-o", dir)
	return dir
}

// TestWorkflows are judged by actionlint.
func TestWorkflows(t *testing.T) {
	for _, target := range targets() {
		file := filepath.Join("testdata", "golden", "template-"+target.name+"-dorunner.yml")
		linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{Shellcheck: shellcheck()})
		if err != nil {
			t.Fatal(err)
		}
		found, err := linter.LintFile(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			t.Error(f)
		}
	}
}

func shellcheck() string {
	file, _ := exec.LookPath("shellcheck") // without it, actionlint leaves scripts unchecked
	return file
}

// gitlabCILocal checks a file against GitLab's own schema, and expands it as GitLab does. From npm.
const gitlabCILocal = "gitlab-ci-local@4.61.1"

func TestGitLabPipelines(t *testing.T) {
	if testing.Short() {
		t.Skip("installs " + gitlabCILocal)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not installed: pipelines are not held against GitLab's schema")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(cache, "dorunner-bake", "test", "gitlab-ci-local")
	judge := filepath.Join(home, "node_modules", ".bin", "gitlab-ci-local")
	if _, err := os.Stat(judge); err != nil {
		if out, err := exec.Command(npm, "install", "--no-audit", "--no-fund", "--prefix", home, gitlabCILocal).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run := func(dir, name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, target := range targets() {
		dir := writeTemplate(t, "gitlab-ci", filepath.Join("testdata", "template", target.name+".yaml"))
		for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"remote", "add", "origin", "git@gitlab.com:group/project.git"}} { // the judge asks git
			if out, err := run(dir, "git", args...); err != nil {
				t.Fatalf("git %v: %v\n%s", args, err, out)
			}
		}
		if out, err := run(dir, judge, "--list-all"); err != nil {
			t.Errorf("%s: %v\n%s", target.name, err, out)
		}
		// The judge does see what is wrong.
		file := filepath.Join(dir, ".gitlab-ci.yml")
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, []byte(strings.Replace(string(text), "expire_in: 4 weeks", "expire_in: [4]", 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if out, err := run(dir, judge, "--list-all"); err == nil || !strings.Contains(out, "expire_in") {
			t.Errorf("%s: a wrong pipeline passes\n%s", target.name, out)
		}
	}
}

// TestPackerTemplates are validated and found formatted by the real Packer, and so are the examples.
func TestPackerTemplates(t *testing.T) {
	packer := packertest.Packer(t)
	plugins := t.TempDir()
	run := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.Command(packer, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PACKER_PLUGIN_PATH="+plugins, "PACKER_CONFIG_DIR="+plugins, "CHECKPOINT_DISABLE=1", "SSH_AUTH_SOCK=/none")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("packer %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run(".", "plugins", "install", "--path", packertest.Tool(t, ".", "packer-plugin-dorunner", "../packer-plugin-dorunner"), "github.com/dorunner/dorunner")
	if err := os.WriteFile(filepath.Join(plugins, "github.com", "dorunner", "dorunner", "dorunner-firstboot-linux-amd64"), emptyProgram(), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets() {
		dir := writeTemplate(t, "packer", filepath.Join("testdata", "template", target.name+".yaml"))
		run(dir, "fmt", "-check", "-diff", ".")
		run(dir, "validate", ".")
	}
	examples, err := filepath.Abs("../../examples/packer")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(examples, "*.pkr.hcl"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		run(examples, "fmt", "-check", "-diff", f)
		run(examples, "validate", f)
	}
}
