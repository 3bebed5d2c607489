// Package standinimage packs the stand-in for gitlab-runner into container images, for machines without a registry:
// a docker archive with the runner image and a tiny job image under the names that the documented procedure uses.
package standinimage

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The images in an archive.
const (
	Runner = "dataopslive/dataops-runner:latest"
	Job    = "dataopslive/dataops-utils-runner:latest"
)

// source is the stand-in's package.
const source = "github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standin"

// created is every file's and image's time, so that the same source makes the same bytes.
var created = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Archive builds the stand-in for linux on arch (amd64, arm64) with the go command, which needs this module's source
// as its working directory, and writes both images to path.
func Archive(ctx context.Context, path, arch string) error {
	images, err := Build(ctx, arch)
	if err != nil {
		return err
	}
	return Save(path, images)
}

// Save writes images, by name, to a docker archive.
func Save(path string, images map[string]v1.Image) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".standin-*")
	if err != nil {
		return err
	}
	defer func() { _, _ = tmp.Close(), os.Remove(tmp.Name()) }() // both are done where all went well
	if err := write(tmp, images); err != nil {
		return fmt.Errorf("write the archive %s: %w", path, err)
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// write is tarball.MultiWrite in an order that does not change from run to run.
func write(out io.Writer, images map[string]v1.Image) error {
	byRef := map[name.Reference]v1.Image{}
	for ref, img := range images {
		tag, err := name.NewTag(ref)
		if err != nil {
			return err
		}
		byRef[tag] = img
	}
	manifest, err := tarball.ComputeManifest(byRef)
	if err != nil {
		return err
	}
	index, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	done := map[string]bool{}
	add := func(name string, content []byte) error {
		if done[name] {
			return nil
		}
		done[name] = true
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(content)), ModTime: created}); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	for _, d := range manifest {
		img := images[d.RepoTags[0]]
		config, err := img.RawConfigFile()
		if err != nil {
			return err
		}
		if err := add(d.Config, config); err != nil {
			return err
		}
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		for i, l := range layers {
			r, err := l.Compressed()
			if err != nil {
				return err
			}
			content, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil {
				return err
			}
			if err := add(d.Layers[i], content); err != nil {
				return err
			}
		}
	}
	if err := add("manifest.json", index); err != nil {
		return err
	}
	return w.Close()
}

// Build compiles the stand-in and makes both images, by name.
func Build(ctx context.Context, arch string) (map[string]v1.Image, error) {
	program, err := compile(ctx, arch)
	if err != nil {
		return nil, err
	}
	return From(program, arch)
}

// From makes both images, by name, around a stand-in that is compiled already.
func From(program []byte, arch string) (map[string]v1.Image, error) {
	layer, err := layerOf(program)
	if err != nil {
		return nil, err
	}
	config := v1.Config{
		Entrypoint: []string{"/usr/bin/gitlab-runner"},
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	runner, job := config, config
	runner.Cmd = []string{"run", "--user=gitlab-runner", "--working-directory=/home/gitlab-runner"}
	runner.StopSignal = "SIGQUIT"
	runner.Volumes = map[string]struct{}{"/etc/gitlab-runner": {}, "/home/gitlab-runner": {}}
	job.Cmd = []string{"--version"}
	out := map[string]v1.Image{}
	for ref, c := range map[string]v1.Config{Runner: runner, Job: job} {
		img, err := mutate.AppendLayers(empty.Image, layer)
		if err != nil {
			return nil, err
		}
		file, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		file = file.DeepCopy()
		file.OS, file.Architecture, file.Created, file.Config = "linux", arch, v1.Time{Time: created}, c
		if out[ref], err = mutate.ConfigFile(img, file); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// compile builds the static program.
func compile(ctx context.Context, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "standin-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out := filepath.Join(dir, "gitlab-runner")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the stand-in runner for linux/%s: %w\n%s", arch, err, text)
	}
	return os.ReadFile(out)
}

// layerOf is the one layer that both images share: the program and the directories it needs.
func layerOf(program []byte) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "etc/", Mode: 0o755}, {Name: "etc/gitlab-runner/", Mode: 0o700}, {Name: "home/", Mode: 0o755}, {Name: "home/gitlab-runner/", Mode: 0o755},
		{Name: "tmp/", Mode: 0o1777}, {Name: "usr/", Mode: 0o755}, {Name: "usr/bin/", Mode: 0o755}, {Name: "usr/bin/gitlab-runner", Mode: 0o755, Size: int64(len(program))},
	} {
		h.ModTime, h.Format = created, tar.FormatUSTAR
		if h.Typeflag = tar.TypeDir; h.Size > 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Size > 0 {
			if _, err := w.Write(program); err != nil {
				return nil, err
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}
