package packer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

// tool is the real Packer with our plugin installed, and what a template of the tests refers to.
type tool struct {
	t             *testing.T
	dir, packer   string
	archive, boot string
	env           []string
}

func newTool(t *testing.T) *tool {
	t.Helper()
	if testing.Short() {
		t.Skip("builds Packer")
	}
	dir := t.TempDir()
	p := &tool{t: t, dir: dir, packer: filepath.Join(dir, "packer"), archive: filepath.Join(dir, "images.tar"), boot: filepath.Join(dir, "dorunner-firstboot")}
	p.env = append(os.Environ(), "PACKER_PLUGIN_PATH="+filepath.Join(dir, "plugins"), "PACKER_CONFIG_DIR="+dir, "CHECKPOINT_DISABLE=1",
		"PACKER_NO_COLOR=1", "DORUNNER_STATE_DIR="+filepath.Join(dir, "state"))
	plugin := filepath.Join(dir, "packer-plugin-dorunner")
	p.build("testdata/packer", p.packer, "github.com/hashicorp/packer")
	p.build(".", plugin, "../../cmd/packer-plugin-dorunner")
	p.build(".", p.boot, "../../cmd/dorunner-firstboot")
	images, err := standinimage.Build(t.Context(), runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]v1.Image{}
	for ref, img := range images {
		all[ref] = img
	}
	if err := standinimage.Save(p.archive, all); err != nil {
		t.Fatal(err)
	}
	p.run(0, "plugins", "install", "--path", plugin, "github.com/dorunner/dorunner")
	return p
}

func (p *tool) build(dir, out, pkg string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "go", "build", "-o", out, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("building %s: %v\n%s", pkg, err, text)
	}
}

// run runs Packer and returns what it printed, which is shown when the exit status is not the one wanted.
func (p *tool) run(status int, args ...string) string {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), p.packer, args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status {
		p.t.Fatalf("packer %s: exit status %d, want %d (%v)\n%s", strings.Join(args, " "), got, status, err, out)
	}
	return string(out)
}

// template writes a metal build with more attributes and provisioners.
func (p *tool) template(name, attributes, provisioners string) string {
	p.t.Helper()
	text := fmt.Sprintf(`packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

source "dorunner-metal" "runner" {
  os            = "debian-12"
  docker_source = "distro"
  disk_size     = 4
  firstboot     = %q
  formats       = ["raw"]
  container_archives = {
    "dataopslive/dataops-runner"       = %q
    "dataopslive/dataops-utils-runner" = %q
  }
  output_directory = %q
%s
}

build {
  sources = ["source.dorunner-metal.runner"]
%s
}
`, p.boot, p.archive, p.archive, filepath.Join(p.dir, name), attributes, provisioners)
	dir := filepath.Join(p.dir, name+".d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "build.pkr.hcl"), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return dir
}

func TestPacker(t *testing.T) {
	p := newTool(t)

	t.Run("validate tells every problem", func(t *testing.T) {
		p.t = t
		out := p.run(1, "validate", p.template("wrong", "  method = \"onlin\"\n  accelerator = \"warp\"", ""))
		for _, want := range []string{"2 error(s)", "method", "onlin", "accelerator", "warp"} {
			if !strings.Contains(out, want) {
				t.Errorf("validate does not say %q:\n%s", want, out)
			}
		}
	})

	t.Run("build runs provisioners in the image", func(t *testing.T) {
		p.t = t
		if os.Geteuid() != 0 {
			t.Skip("an offline bake needs root")
		}
		log := filepath.Join(p.dir, "builds.json")
		dir := p.template("good", "", fmt.Sprintf(`
  provisioner "shell" {
    inline = ["echo from ${build.SourceImageName}", "id -u"]
  }
  provisioner "file" {
    source      = %q
    destination = "/opt/"
  }
  provisioner "shell" {
    inline = ["test -x /opt/dorunner-firstboot && echo it is there"]
  }
  post-processor "manifest" {
    output = %q
  }`, p.boot, log))
		out := p.run(0, "build", dir)
		for _, want := range []string{"from debian-12", "it is there", "images were created"} {
			if !strings.Contains(out, want) {
				t.Errorf("build does not say %q:\n%s", want, out)
			}
		}
		var builds struct {
			Builds []struct {
				ArtifactID string `json:"artifact_id"`
				Files      []struct {
					Name string `json:"name"`
					Size int64  `json:"size"`
				} `json:"files"`
			} `json:"builds"`
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &builds); err != nil || len(builds.Builds) != 1 {
			t.Fatalf("%v: %s", err, text)
		}
		b := builds.Builds[0]
		if len(b.Files) != 3 || b.Files[0].Name != b.ArtifactID || b.Files[0].Size != 4<<30 {
			t.Errorf("the artifact is %+v", b)
		}
	})

	t.Run("a failed provisioner leaves nothing", func(t *testing.T) {
		p.t = t
		if os.Geteuid() != 0 {
			t.Skip("an offline bake needs root")
		}
		out := p.run(1, "build", p.template("bad", "", `
  provisioner "shell" {
    inline = ["echo about to fail", "exit 7"]
  }
  error-cleanup-provisioner "shell" {
    inline = ["echo cleaned up by hand"]
  }`))
		for _, want := range []string{"about to fail", "exit status: 7", "cleaned up by hand"} {
			if !strings.Contains(out, want) {
				t.Errorf("build does not say %q:\n%s", want, out)
			}
		}
		for _, name := range []string{"bad", "state/ledgers"} {
			if left, _ := os.ReadDir(filepath.Join(p.dir, name)); len(left) > 0 {
				t.Errorf("left behind in %s: %v", name, left)
			}
		}
	})
}

func TestOverridesWinOverTheSpecFile(t *testing.T) {
	spec := filepath.Join(t.TempDir(), "dorunner.yaml")
	if err := os.WriteFile(spec, []byte("image: {os: ubuntu-22.04}\nmetal: {formats: [vhd], cpus: 3}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := new(Metal)
	_, _, err := b.Prepare(map[string]any{"spec_file": spec, "firstboot": spec, "formats": []string{"raw", "qcow2"}, "container_images": []string{"alpine:3"}})
	if err != nil {
		t.Fatal(err)
	}
	got := b.bakery.plan
	if got.Spec.Image.OS != "ubuntu-22.04" || got.Spec.Metal.CPUs != 3 {
		t.Errorf("the spec file is not read: %+v", got.Spec.Metal)
	}
	if strings.Join(got.Spec.Metal.Formats, " ") != "raw qcow2" {
		t.Errorf("formats are %v", got.Spec.Metal.Formats)
	}
	if last := got.Containers[len(got.Containers)-1]; last.Ref != "alpine:3" {
		t.Errorf("containers are %v", got.Containers)
	}
}

func TestCopyingDirectoriesThroughTheCommunicator(t *testing.T) {
	comm := &communicator{context.Background(), newGuest(local{}, false)}
	src, remote, back := t.TempDir(), filepath.Join(t.TempDir(), "remote"), filepath.Join(t.TempDir(), "back")
	for name, text := range map[string]string{"a.txt": "a", "sub/b.txt": "b", "skip/c.txt": "c"} {
		if err := os.MkdirAll(filepath.Join(src, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := comm.UploadDir(remote, src+"/", []string{"skip"}); err != nil {
		t.Fatal(err)
	}
	if err := comm.UploadDir(remote, src, nil); err != nil {
		t.Fatal(err)
	}
	if err := comm.DownloadDir(remote, back, nil); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(src)
	for file, want := range map[string]string{"a.txt": "a", "sub/b.txt": "b", name + "/skip/c.txt": "c"} {
		if got, err := os.ReadFile(filepath.Join(back, file)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(back, "skip")); err == nil {
		t.Error("what was excluded was copied")
	}
}
