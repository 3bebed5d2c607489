//go:build bundled

package main

import (
	"embed"
	"io/fs"

	"github.com/dorunner/dorunner-bake/builder/packer"
)

// bundled are the first-boot programs that a release carries: `packer init` installs one file. The release builds them
// into this directory first (.goreleaser.yaml).
//
//go:embed bundled
var bundled embed.FS

func init() {
	sub, err := fs.Sub(bundled, "bundled")
	if err != nil { // the directory is embedded above
		panic(err)
	}
	packer.Bundled = sub
}
