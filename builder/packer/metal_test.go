package packer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/images"
)

// TestMetalThroughPacker bakes disk images with the real Packer: the same ones as without it.
func TestMetalThroughPacker(t *testing.T) {
	whole := newTool(t)

	same := func(t *testing.T, method string) {
		p := whole.on(t)
		p.limit = 13 * time.Minute
		out := p.run(0, "build", p.template("", p.metal(fmt.Sprintf("  method        = %q\n  accelerator   = \"tcg\"\n  ssh_timeout   = \"10m\"\n  output_directory = \"output-%[1]s\"\n", method))))
		p.says(out, "images were created:", ".raw")

		plan, err := images.Resolve(&images.Spec{}, "metal", images.Options{Overrides: []images.Override{
			{Path: "image.os", Value: "debian-12"}, {Path: "image.docker.source", Value: "distro"}, {Path: "image.disk_gb", Value: 4}, {Path: "metal.formats", Value: "raw"},
			{Path: "metal.method", Value: method}, {Path: "metal.accel", Value: "tcg"}, {Path: "metal.ssh_timeout", Value: "10m"},
			{Path: "image.pull[]", Value: images.Pull{Ref: "dataopslive/dataops-runner", Archive: filepath.Join(p.dir, "images.tar")}},
			{Path: "image.pull[]", Value: images.Pull{Ref: "dataopslive/dataops-utils-runner", Archive: filepath.Join(p.dir, "images.tar")}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
		direct, err := builder.Bake(t.Context(), plan, metal.New(method), builder.Options{FirstBoot: p.boot, OutDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		through := p.manifest("output-" + method)
		// Times, ids, and the disk's own bytes: files in it have times too.
		ignore := cmp.Options{cmpopts.IgnoreFields(builder.Manifest{}, "BakeID", "Started", "Finished"), cmpopts.IgnoreFields(builder.ManifestStep{}, "Seconds"),
			cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".ID" || p.Last().String() == ".SHA256" }, cmp.Ignore()),
			cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Sizes" }, cmp.Comparer(nearly))}
		if d := cmp.Diff(direct, through, ignore); d != "" {
			t.Errorf("without Packer (-) and with it (+):\n%s", d)
		}
		if a, b := filepath.Base(direct.Artifact.Images[0].ID), filepath.Base(through.Artifact.Images[0].ID); a != b {
			t.Errorf("the images are called %s and %s", a, b)
		}
	}
	t.Run("the same image as without Packer", func(t *testing.T) { same(t, "offline") })
	t.Run("the same image as without Packer, by a machine", func(t *testing.T) {
		if os.Getenv("DORUNNER_SOAK") == "" {
			t.Skip("boots two machines: DORUNNER_SOAK=1")
		}
		same(t, "vm")
	})

	t.Run("provisioners work in the image", func(t *testing.T) {
		p := whole.on(t)
		log := filepath.Join(p.dir, "builds.json")
		out := p.run(0, "build", "-only=dorunner-metal.runner", p.template(fmt.Sprintf(`
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
  }
`, p.boot, log), p.metal("  output_directory = \""+filepath.Join(p.dir, "good")+"\"\n"), p.account().source))
		p.says(out, "from debian-12", "it is there", "images were created")
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
		if err == nil {
			err = json.Unmarshal(text, &builds)
		}
		if err != nil || len(builds.Builds) != 1 {
			t.Fatalf("%v: %s", err, text)
		}
		if b := builds.Builds[0]; len(b.Files) != 3 || b.Files[0].Name != b.ArtifactID || b.Files[0].Size != 4<<30 {
			t.Errorf("the artifact is %+v", b)
		}
	})

	for _, tt := range []struct {
		name string
		args []string
		want []string // launches and seals
	}{
		{"a cloud and a disk at the same time", nil, []string{"launch", "launch", "seal", "seal"}},
		{"a cloud and a disk one after the other", []string{"-parallel-builds=1"}, []string{"launch", "seal", "launch", "seal"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := whole.on(t)
			a := p.account()
			var order []string
			launched := map[string]bool{}
			p.onLine = func(line string) {
				if at, _, found := strings.Cut(line, ": launch"); found && !launched[at] {
					launched[at] = true
					order = append(order, "launch")
				}
				if strings.Contains(line, ": seal done") {
					order = append(order, "seal")
				}
			}
			out := p.run(0, append(append([]string{"build"}, tt.args...), p.template(`
  provisioner "shell" {
    inline = ["echo here is ${source.type}"]
  }
`, p.metal("  output_directory = \""+filepath.Join(p.dir, "both")+"\"\n"), a.source))...)
			p.says(out, "here is dorunner-metal", "here is dorunner-aws", "us-east-1: ami-", ".raw")
			a.onlyImages(t, 1)
			if !slices.Equal(order, tt.want) {
				t.Errorf("%q, want %q\n%s", order, tt.want, out)
			}
		})
	}

	t.Run("a failed provisioner leaves nothing", func(t *testing.T) {
		p := whole.on(t)
		out := p.run(1, "build", p.template(`
  provisioner "shell" {
    inline = ["echo about to fail", "exit 7"]
  }
`, p.metal("  output_directory = \""+filepath.Join(p.dir, "bad")+"\"\n")))
		p.says(out, "about to fail", "exit status: 7")
		for _, name := range []string{"bad", "state/ledgers"} {
			if left, _ := os.ReadDir(filepath.Join(p.dir, name)); len(left) > 0 {
				t.Errorf("left behind in %s: %v", name, left)
			}
		}
	})
}

func (p *tool) manifest(dir string) *builder.Manifest {
	p.t.Helper()
	m := new(builder.Manifest)
	text, err := os.ReadFile(filepath.Join(p.dir, dir, "manifest.json"))
	if err == nil {
		err = json.Unmarshal(text, m)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// nearly lets what a file system takes differ by a percent: directories grow with the names of temporary files.
func nearly(a, b map[string]int64) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if d := v - b[k]; d*100 > v || -d*100 > v {
			return false
		}
	}
	return true
}
