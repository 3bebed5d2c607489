// Command pack writes the stand-in images as docker archives, one per image: DIR/dataops-runner.tar and
// DIR/dataops-utils-runner.tar, for docker load and for a spec's archives.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

func main() {
	out := flag.String("out", ".", "directory to write to")
	arch := flag.String("arch", runtime.GOARCH, "amd64 or arm64")
	binary := flag.String("binary", "", "the stand-in, compiled already for linux and arch; compiled here when empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *arch, *binary); err != nil {
		fmt.Fprintln(os.Stderr, "pack the stand-in:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, arch, binary string) error {
	images, err := build(ctx, arch, binary)
	if err != nil {
		return err
	}
	for ref, img := range images {
		name, _, _ := strings.Cut(path.Base(ref), ":")
		if err := standinimage.Save(filepath.Join(out, name+".tar"), map[string]v1.Image{ref: img}); err != nil {
			return err
		}
	}
	return nil
}

func build(ctx context.Context, arch, binary string) (map[string]v1.Image, error) {
	if binary == "" {
		return standinimage.Build(ctx, arch)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	return standinimage.From(program, arch)
}
