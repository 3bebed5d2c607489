package packer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	registryimage "github.com/hashicorp/packer-plugin-sdk/packer/registry/image"

	"github.com/dorunner/dorunner-bake/builder"
)

// artifact is what a bake made, as Packer's post-processors know artifacts.
type artifact struct {
	builderID string
	manifest  *builder.Manifest
	outDir    string
	cloud     any            // removes images that are not files
	state     map[string]any // generated data, for post-processors
}

func (a *artifact) BuilderId() string { return a.builderID }

// Files are the disk images of the metal builder, with what stands beside them; none for a cloud's.
func (a *artifact) Files() []string {
	var files []string
	for _, i := range a.manifest.Artifact.Images {
		if i.Region == "" {
			files = append(files, i.ID)
		}
	}
	if len(files) > 0 {
		for _, name := range []string{"manifest.json", "report.html"} {
			if _, err := os.Stat(filepath.Join(a.outDir, name)); err == nil {
				files = append(files, filepath.Join(a.outDir, name))
			}
		}
	}
	return files
}

// Id is "region:image" joined by commas, as post-processors of the Amazon builders take apart; file paths for metal.
func (a *artifact) Id() string {
	var ids []string
	for _, i := range a.manifest.Artifact.Images {
		if i.Region == "" {
			ids = append(ids, i.ID)
		} else {
			ids = append(ids, i.Region+":"+i.ID)
		}
	}
	return strings.Join(ids, ",")
}

func (a *artifact) String() string {
	var b strings.Builder
	if a.manifest.Artifact.Reused {
		b.WriteString("images of this plan that existed already:")
	} else {
		b.WriteString("images were created:")
	}
	for _, i := range a.manifest.Artifact.Images {
		b.WriteString("\n")
		if i.Region != "" {
			b.WriteString(i.Region + ": ")
		}
		b.WriteString(i.ID)
	}
	return b.String()
}

// State serves HCP Packer's metadata and what the build function shows.
func (a *artifact) State(name string) any {
	if name != registryimage.ArtifactStateURI {
		return a.state[name]
	}
	var all []*registryimage.Image
	for _, i := range a.manifest.Artifact.Images {
		all = append(all, &registryimage.Image{
			ImageID: i.ID, ProviderName: a.manifest.Target, ProviderRegion: i.Region, SourceImageID: a.manifest.Base.Source,
			Labels: map[string]string{"plan_hash": a.manifest.PlanHash, "docker": a.manifest.Docker, "os": a.manifest.Base.OS},
		})
	}
	return all
}

// Destroy removes the images; those that existed before this build stay.
func (a *artifact) Destroy() error {
	if a.manifest.Artifact.Reused {
		return nil
	}
	var errs []error
	for _, f := range a.Files() {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing an image: %w", err))
		}
	}
	if d, ok := a.cloud.(interface {
		Destroy(ctx context.Context, a builder.Artifact) error
	}); ok {
		ctx, cancel := context.WithTimeout(context.Background(), destroyTime)
		defer cancel()
		errs = append(errs, d.Destroy(ctx, a.manifest.Artifact))
	}
	return errors.Join(errs...)
}
