//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

// TestMetalVM bakes a disk both ways from one registry: the manifests tell the same container images, no disk holds a
// secret. With DORUNNER_SOAK=1, which boots many machines, one plan gives the same manifest both ways from the plain base,
// and a bake in a virtual machine ends in each step without a trace.
func TestMetalVM(t *testing.T) {
	b := newMetalBake(t)
	disk, host := b.first()
	// QEMU's user network shows the registry to a guest at another address, and Docker then wants TLS of it.
	guestHost := strings.Replace(host, "127.0.0.1", "10.0.2.2", 1)
	script := filepath.Join(b.dir, "insecure.sh")
	text := "#!/bin/sh\nsed -i '0,/{/s//{ \"insecure-registries\": [\"" + guestHost + "\"],/' /etc/docker/daemon.json\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	bake := func(out string, args ...string) builder.Manifest {
		t.Helper()
		if text, err := b.command(t.Context(), append(args, "--format", "raw", "--name", "disk", "--out", out)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return readManifest(t, filepath.Join(b.dir, out))
	}
	offline := bake("second", "--base", disk, "--script", script)
	disk = filepath.Join(b.dir, "second", "disk.raw")

	spec := filepath.Join(b.dir, "vm.yaml")
	text = fmt.Sprintf("runner: {image: '%[1]s/runner:1', job_image: '%[1]s/job:1', token: '%[2]s'}\n"+
		"image: {registry: {server: '%[1]s', username: puller, password: 'env:CANARY'}}\n", guestHost, canaryToken)
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--json", "--file", spec, "--method", "vm", "--accel", "tcg", "--base", disk, "--ssh-timeout", "10m"}
	vm := bake("third", args...)
	b.clean("after a bake")
	for _, canary := range []string{canaryPassword, canaryToken} {
		if at := find(t, filepath.Join(b.dir, "third", "disk.raw"), canary); at >= 0 {
			t.Errorf("%q is in the disk, at byte %d", canary, at)
		}
	}
	for i := range vm.Containers {
		vm.Containers[i].Ref = strings.Replace(vm.Containers[i].Ref, guestHost, host, 1)
		vm.Containers[i].Digest = strings.Replace(vm.Containers[i].Digest, guestHost, host, 1)
	}
	if diff := cmp.Diff(offline.Containers, vm.Containers); diff != "" {
		t.Errorf("containers (-offline +vm):\n%s", diff)
	}
	if os.Getenv("DORUNNER_SOAK") == "" {
		return
	}
	b.sameManifests()

	args = append(args, "--out", "out", "--format", "raw")
	for _, at := range []string{"preflight", "launch", "a virtual machine boots", "machine ready", "docker engine", "first boot", "container images",
		"prove", "seal", "stop", "capture"} {
		b.interruptAndKill(at, args)
	}
}

func readManifest(t *testing.T, dir string) builder.Manifest {
	t.Helper()
	var m builder.Manifest
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sameManifests bakes one plan both ways, Docker Engine's installation included: the manifests differ in times alone.
func (b *metalBake) sameManifests() {
	t := b.t
	archive := filepath.Join(b.dir, "images.tar")
	if err := standinimage.Archive(t.Context(), archive, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	var both [2]builder.Manifest
	for i, method := range []string{"offline", "vm"} {
		cmd := b.command(t.Context(), "--method", method, "--accel", "tcg", "--format", "raw", "--name", "same", "--out", "same-"+method, "--ssh-timeout", "10m",
			"--archive", standinimage.Runner+"="+archive, "--archive", standinimage.Job+"="+archive)
		cmd.Dir = t.TempDir() // without a spec
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		m := readManifest(t, filepath.Join(cmd.Dir, "same-"+method))
		// The disks are not the same bytes: file systems are written to in another order.
		m.BakeID, m.Artifact, m.Steps, m.Started, m.Finished, m.Sizes = "", builder.Artifact{}, nil, time.Time{}, time.Time{}, nil
		both[i] = m
	}
	if diff := cmp.Diff(both[0], both[1]); diff != "" {
		t.Errorf("manifests of one plan (-offline +vm):\n%s", diff)
	}
}
