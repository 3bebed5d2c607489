package builder

import (
	"context"
	"errors"

	"github.com/dorunner/dorunner-bake/images"
)

// Options are what a bake needs beside the plan and the cloud.
type Options struct {
	FirstBoot string // path of the dorunner-firstboot binary for the plan's architecture (Linux ELF)
	OutDir    string // where manifest.json and report.html go
	Progress  Progress
	Force     bool // bake even when an image of this plan exists
	DryRun    bool // preflight only; say what would be done
	// Customize runs between provisioning and the proof: Packer's provisioners. The plan's scripts run before it.
	Customize func(ctx context.Context, g Guest) error
}

// Bake makes one image. On failure or cancellation everything it created is given back, or named in the error.
func Bake(ctx context.Context, plan *images.Plan, cloud Cloud, o Options) (*Manifest, error) {
	return nil, errors.New("builder: not built yet")
}
