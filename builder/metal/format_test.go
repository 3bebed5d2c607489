package metal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

func TestVHDIsWhatQEMUReads(t *testing.T) {
	needTool(t, "qemu-img")
	dir := t.TempDir()
	raw, vhd, back := filepath.Join(dir, "raw"), filepath.Join(dir, "vhd"), filepath.Join(dir, "back")
	content := bytes.Repeat([]byte("disk"), 5<<18) // 5 MiB
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := convert(t.Context(), raw, "raw", vhd, "vhd", false); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(vhd)
	if err != nil || len(text) != len(content)+512 || string(text[len(content):len(content)+8]) != "conectix" {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	// The footer's checksum and size are right when QEMU gives the same bytes back.
	if err := run(t.Context(), "qemu-img", "convert", "-f", "vpc", "-O", "raw", vhd, back); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	f, err := os.OpenFile(back, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.Write([]byte("x"))
	if err := addVHDFooter(f); err == nil || !strings.Contains(err.Error(), "whole number of MiB") {
		t.Errorf("an odd size gives %v", err)
	}
}

func TestVHDGeometry(t *testing.T) {
	// From the table of QEMU's and Hyper-V's disks: cylinders, heads, sectors.
	for size, want := range map[int64][3]uint32{
		1 << 20: {30, 4, 17}, 1 << 30: {2080, 16, 63}, 8 << 30: {16644, 16, 63}, 1 << 40: {65535, 16, 255},
	} {
		g := vhdGeometry(size)
		if got := [3]uint32{g >> 16, g >> 8 & 0xff, g & 0xff}; got != want {
			t.Errorf("%d bytes: %v, want %v", size, got, want)
		}
	}
}

// smallEnv has formats and directories, and no disk.
func smallEnv(t *testing.T, formats ...string) *builder.Env {
	t.Helper()
	dir := t.TempDir()
	ledger, err := builder.OpenLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ledger.Close() })
	plan := &images.Plan{Hash: strings.Repeat("a", 64), Spec: images.Spec{Image: images.Image{Name: "x-{{.Hash}}"}, Metal: images.Metal{Formats: formats}}}
	return &builder.Env{Plan: plan, Ledger: ledger, Progress: builder.Discard(), BakeID: "id", OutDir: dir, WorkDir: dir}
}

func TestResultsAppearTogetherOrNotAtAll(t *testing.T) {
	needTool(t, "qemu-img")
	env := smallEnv(t, "raw", "qcow2", "vhd")
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	names := func() (out []string) {
		all, _ := os.ReadDir(env.OutDir)
		for _, e := range all {
			if e.Name() != "ledger" {
				out = append(out, e.Name())
			}
		}
		return out
	}
	if _, err := writeFormats(t.Context(), env, disk+"x", "raw", false); err == nil {
		t.Fatal("a missing disk is no error")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("interrupted")
	cancel(reason)
	if _, err := writeFormats(ctx, env, disk, "raw", false); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	if err := env.Ledger.Unwind(t.Context(), func(builder.Entry, error) {}); err != nil || names() != nil {
		t.Errorf("left behind: %v, %v", names(), err)
	}

	env.Plan.Spec.Metal.Formats = []string{"raw", "qcow2", "vhd"}
	a, err := writeFormats(t.Context(), env, disk, "raw", true)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"x-aaaaaaaaaaaa.qcow2", "x-aaaaaaaaaaaa.raw", "x-aaaaaaaaaaaa.vhd"}; !slices.Equal(names(), want) {
		t.Errorf("got %v, want %v", names(), want)
	}
	c := New("vm")
	if _, err := c.Distribute(t.Context(), env, a); err != nil || len(env.Ledger.Entries()) != 0 {
		t.Errorf("%v, %v", err, env.Ledger.Entries())
	}
}

func TestExplainFull(t *testing.T) {
	err := explainFull(errors.New("qemu-img: error while writing: No space left on device"), "/out")
	if !strings.Contains(err.Error(), "make room in /out") {
		t.Errorf("got %v", err)
	}
	if explainFull(nil, "/out") != nil {
		t.Error("nothing became an error")
	}
}

func TestDigestOfHoles(t *testing.T) {
	f := newDisk(t, 9<<20+123)
	for _, at := range []int64{0, 3<<20 + 17, 9 << 20} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(text)
	size, got, err := digest(t.Context(), f.Name())
	if err != nil || size != int64(len(text)) || got != hex.EncodeToString(want[:]) {
		t.Errorf("%d bytes, %s, %v", size, got, err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if size, _, err := digest(t.Context(), f.Name()); err != nil || size != 0 {
		t.Errorf("an empty file: %d bytes, %v", size, err)
	}
}
