package standinimage_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

func TestArchive(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	dir := t.TempDir()
	var first []byte
	for _, file := range []string{"a.tar", "b.tar"} {
		path := filepath.Join(dir, file)
		if err := standinimage.Archive(t.Context(), path, "amd64"); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
		} else if string(first) != string(b) {
			t.Error("the same source makes different archives")
		}
	}
	tag, err := name.NewTag(standinimage.Runner)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(filepath.Join(dir, "a.tar"), &tag)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Architecture != "amd64" || c.Config.StopSignal != "SIGQUIT" || len(c.Config.Volumes) != 2 || c.Config.Cmd[0] != "run" {
		t.Errorf("%+v", c.Config)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}
