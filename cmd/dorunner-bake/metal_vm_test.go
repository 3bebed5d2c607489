//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

// vm bakes the disk once more in a virtual machine, from the same registry: the manifest tells the same packages and
// images, and the disk holds no secret either.
func (b *metalBake) vm(disk, host string) {
	t := b.t
	spec := b.spec("vm.yaml", guestHost(host))
	args := []string{"--json", "--file", spec, "--method", "vm", "--accel", "tcg", "--memory", "1", "--base", disk, "--ssh-timeout", "10m"}
	out, err := b.command(t.Context(), append(args, "--out", "second", "--format", "raw", "--name", "again")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.clean("after a bake")
	noSecrets(t, filepath.Join(b.dir, "second", "again.raw"))
	want, got := readManifest(t, filepath.Join(b.dir, "first")), readManifest(t, filepath.Join(b.dir, "second"))
	if diff := cmp.Diff(want.Packages, got.Packages); diff != "" {
		t.Errorf("packages (-offline +vm):\n%s", diff)
	}
	for i := range got.Containers { // the registry has another name there
		got.Containers[i].Ref = strings.Replace(got.Containers[i].Ref, "10.0.2.2", "127.0.0.1", 1)
		got.Containers[i].Digest = strings.Replace(got.Containers[i].Digest, "10.0.2.2", "127.0.0.1", 1)
	}
	if diff := cmp.Diff(want.Containers, got.Containers); diff != "" {
		t.Errorf("containers (-offline +vm):\n%s", diff)
	}
	if want.Docker != got.Docker || want.FirstBoot != got.FirstBoot || len(got.Audit) != 0 {
		t.Errorf("manifests: %+v and %+v", want, got)
	}
	if !soak() {
		return
	}
	b.sameManifests()
	args = append(args, "--out", "out", "--format", "raw")
	for _, at := range []string{"preflight", "launch", "a virtual machine boots", "machine ready", "docker engine", "first boot", "container images",
		"prove", "seal", "stop", "capture", "distribute"} {
		b.interruptAndKill(at, args)
	}
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

// TestMetalSilent has a machine that prints one line and never answers SSH: its last words are shown, and however the
// bake ends then, nothing of it stays.
func TestMetalSilent(t *testing.T) {
	b := newMetalBake(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the boot sector is for amd64")
	}
	disk := filepath.Join(b.dir, "silent.img")
	if err := os.WriteFile(disk, silentDisk("nobody lives here\r\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"--json", "--method", "vm", "--accel", "tcg", "--base", disk, "--out", "out", "--ssh-timeout"}
	out, err := b.command(t.Context(), append(args, "5s")...).CombinedOutput()
	if text := string(out); err == nil || !strings.Contains(text, "did not answer SSH within 5s") || !strings.Contains(text, "nobody lives here") {
		t.Errorf("a machine that never answers: %v\n%s", err, out)
	}
	b.clean("after a machine that never answers")
	args = append(args, "10m")
	for _, at := range []string{"preflight", "launch", "a virtual machine boots"} {
		b.interruptAndKill(at, args)
	}
	b.twice(args)
}

// twice sends Ctrl-C, and again before the first has given everything back: the bake stops at once and names what is left,
// which the next one removes.
func (b *metalBake) twice(args []string) {
	t := b.t
	cmd := b.command(t.Context(), args...)
	var left bytes.Buffer
	cmd.Stderr = &left
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		var e builder.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil && strings.Contains(e.Message, "a virtual machine boots") {
			for range 2 {
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Log(err)
				}
			}
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	// Two signals that come together may be taken for one.
	if !errors.As(err, &exit) || !slices.Contains([]int{exitInterrupted, exitFailure}, exit.ExitCode()) {
		t.Errorf("two interruptions: %v\n%s", err, left.String())
	}
	b.gc("two interruptions")
	b.clean("two interruptions")
}

// silentDisk is a disk whose boot sector prints a text on the serial port and halts.
func silentDisk(text string) []byte {
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
		0xbe, 0x15, 0x7c, // mov si, the text below
		0xac, 0x84, 0xc0, 0x74, 0x06, // lodsb; test al, al; jz to the end
		0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // mov dx, 0x3f8; out dx, al; jmp to lodsb
		0xf4, 0xeb, 0xfd, // hlt; jmp to hlt
	}
	disk := make([]byte, 1<<20)
	copy(disk, append(append(code, text...), 0))
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}
