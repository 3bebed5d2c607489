// Package builder is the bake pipeline: it turns a plan into an image on any Cloud, through any Guest, keeps a
// Ledger of what must be given back and writes a Manifest of what was made. Bake (bake.go) is the story.
package builder

import (
	"context"
	"io"
	"io/fs"

	"github.com/dorunner/dorunner-bake/images"
)

// Cloud is where an image is baked: one bake, one value. A method that creates something records it with
// Env.Ledger the moment its id exists. Every method returns promptly when its context ends.
type Cloud interface {
	// Preflight finds everything that would stop the bake, without creating anything. The error lists all of it.
	Preflight(ctx context.Context, env *Env) error
	// Launch starts the machine that is baked, or opens the disk, and returns once commands run on it.
	Launch(ctx context.Context, env *Env) (Guest, error)
	// Stop ends the sealed machine in an orderly way, its disk whole.
	Stop(ctx context.Context, env *Env) error
	// Capture makes the image. It is not yet public, shared or copied.
	Capture(ctx context.Context, env *Env) (Artifact, error)
	// Distribute copies, shares, tags, publishes and prunes. It returns the artifact as it ended up, and at its end
	// tells the ledger to Keep it: whatever is still recorded afterwards is given back.
	Distribute(ctx context.Context, env *Env, a Artifact) (Artifact, error)
}

// Finder is a Cloud that can tell that an image of this plan exists already.
type Finder interface {
	Find(ctx context.Context, env *Env) (a Artifact, found bool, err error)
}

// TestBooter is a Cloud that can boot a captured image and watch `dorunner-firstboot selftest` on its console.
type TestBooter interface {
	TestBoot(ctx context.Context, env *Env, a Artifact) error
}

// Baked is a Cloud whose disk was provisioned and sealed elsewhere (an image published from a file): the engine
// goes from Preflight straight to Capture.
type Baked interface {
	BakedElsewhere() (*Manifest, bool)
}

// Based is a Cloud that can say, once launched, what the bake began with.
type Based interface {
	Base() ManifestBase
}

// Rehearser is a Cloud that can say, after its Preflight, which calls a bake would make: one line each, in order.
type Rehearser interface {
	Rehearse(env *Env) []string
}

// Console is a Cloud that can show what its machine printed; shown when something fails.
type Console interface {
	ConsoleTail(ctx context.Context, env *Env) string
}

// Env is what one bake shares: the plan and where to write, count and record. Nothing in it is optional.
type Env struct {
	Plan     *images.Plan
	Ledger   *Ledger
	Progress Progress
	BakeID   string // unique per bake; tags and names of temporary resources carry it
	WorkDir  string // scratch of this bake, removed at its end
	OutDir   string // results; files appear whole or not at all
}

// Artifact is an image that exists: where it is known under which id.
type Artifact struct {
	// IDs are by region ("" for metal, whose ids are file paths, one per format).
	Images []ImageID `json:"images"`
	// Reused is set when the image existed before this bake.
	Reused bool `json:"reused,omitempty"`
}

// ImageID is one copy of an image.
type ImageID struct {
	Region string `json:"region,omitempty"`
	ID     string `json:"id"`
	Format string `json:"format,omitempty"` // ami, managed-image, gallery-version, qcow2, raw, vhd
	Size   int64  `json:"size,omitempty"`   // bytes, where known
	SHA256 string `json:"sha256,omitempty"`
}

// Guest is what is being baked: a machine over SSH, Packer's communicator, or a mounted disk.
type Guest interface {
	// Run runs argv (no shell; quoting is the guest's business) and returns *ExitError when it exits non-zero.
	Run(ctx context.Context, c Command) error
	// Upload writes a file with owner root; it appears whole or not at all.
	Upload(ctx context.Context, path string, r io.Reader, mode fs.FileMode) error
	// Download reads a file.
	Download(ctx context.Context, path string, w io.Writer) error
}

// Unbooted is a Guest without a running system: there is no cloud-init to wait for, and services are started by
// hand. StartDocker runs the image's own dockerd on its own root until stop is called.
type Unbooted interface {
	StartDocker(ctx context.Context) (stop func(context.Context) error, err error)
}

// Command is one program to run on a guest, as root.
type Command struct {
	Args   []string
	Env    []string // KEY=VALUE; secrets go here or through Stdin, never into Args
	Stdin  io.Reader
	Stdout io.Writer // nil discards; output also goes to the step's log
	Stderr io.Writer
}

// ExitError is a command that ran and failed.
type ExitError struct {
	Args []string
	Code int
	Tail string // the last 20 lines of its output
}
