// Command pack writes the stand-in images as a docker archive, for docker load and for a spec's image.archives.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

func main() {
	out := flag.String("o", "standin.tar", "archive to write")
	arch := flag.String("arch", runtime.GOARCH, "amd64 or arm64")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := standinimage.Archive(ctx, *out, *arch); err != nil {
		fmt.Fprintln(os.Stderr, "pack the stand-in:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %s, %s (linux/%s)\n", *out, standinimage.Runner, standinimage.Job, *arch)
}
