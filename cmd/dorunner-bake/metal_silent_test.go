//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/dorunner/dorunner-bake/builder"
)

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
	args := []string{"--json", "--method", "vm", "--accel", "tcg", "--base", disk, "--out", "out", "--ssh-timeout", "10m"}
	b.fails("a machine that never answers", append(slices.Clone(args), "--ssh-timeout", "5s"), "did not answer SSH within 5s", "nobody lives here")
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

// interruptAndKill has a bake end by Ctrl-C and by SIGKILL as it comes to something: neither leaves anything.
func (b *metalBake) interruptAndKill(at string, args []string) {
	b.t.Helper()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		when := fmt.Sprintf("%v in %s", sig, at)
		code, events := b.signal(sig, at, args)
		if sig == syscall.SIGINT {
			if code != exitFailure {
				b.t.Errorf("%s: exit code %d\n%s", when, code, events)
			}
		} else {
			b.gc(when)
		}
		b.clean(when)
	}
}

// gc clears up after a killed bake.
func (b *metalBake) gc(when string) {
	b.t.Helper()
	gc := exec.CommandContext(b.t.Context(), "dorunner-bake", "gc", "--yes")
	gc.Env = b.env()
	if out, err := gc.CombinedOutput(); err != nil {
		b.t.Errorf("%s: gc: %v\n%s", when, err, out)
	}
}
