// Package metaltest makes what tests of several rooms boot: a plain disk, and the first-boot program.
package metaltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/images"
)

// BaseDisk is a debian-12 disk as bakes begin with, built when the cache has none, which needs root. Nobody writes to it.
func BaseDisk(t testing.TB) string {
	t.Helper()
	plan, err := images.Resolve(&images.Spec{Image: images.Image{OS: "debian-12"}}, "metal", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := metal.BaseDisk(t.Context(), plan, builder.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// FirstBoot builds dorunner-firstboot into a directory.
func FirstBoot(t testing.TB, dir string) string {
	t.Helper()
	program := filepath.Join(dir, "dorunner-firstboot")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", program, "github.com/dorunner/dorunner-bake/cmd/dorunner-firstboot")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
