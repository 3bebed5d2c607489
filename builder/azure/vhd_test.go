package azure

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// writeVHD makes a fixed VHD with a disk of size bytes, a multiple of 1 MiB, mostly zeros.
func writeVHD(t *testing.T, size int64) string {
	t.Helper()
	disk := make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for _, at := range []int64{0, 5<<20 + 1536, 6 << 20, 9 << 20, size - 4096} { // two in one chunk
		for i := at; i < at+4096; i++ {
			disk[i] = byte(random.UintN(256))
		}
	}
	footer := make([]byte, footerLen)
	copy(footer, "conectix")
	copy(footer[28:], "win ")
	binary.BigEndian.PutUint64(footer[48:], uint64(size))
	binary.BigEndian.PutUint32(footer[60:], 2)
	file := filepath.Join(t.TempDir(), "disk.vhd")
	if err := os.WriteFile(file, append(disk, footer...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (w *world) start() time.Time { return time.Now() }

func TestUpload(t *testing.T) {
	file := writeVHD(t, 64<<20)
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.FromVHD = file
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		w.strict()
		got, puts := w.server.Blob("dorunner-" + r.bakeID + "-disk")
		if !bytes.Equal(got, want) {
			t.Error("the disk in the cloud is another one")
		}
		if puts != 6 { // the five pieces of data and the footer
			t.Errorf("%d writes", puts)
		}
		if left := w.left(); len(left) != 3 {
			t.Errorf("left %v", left)
		}
	})
}

// An upload that fails revokes its access and leaves no disk.
func TestUploadFails(t *testing.T) {
	file := writeVHD(t, 64<<20)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.FromVHD = file
		revoked := false
		w.server.Revoked = func(string) { revoked = true }
		w.server.OnPage = func(put int, _ int64) int {
			if put >= 3 {
				return 403
			}
			return 0
		}
		r := w.bake(t.Context())
		if r.err == nil || !strings.Contains(r.err.Error(), "upload at byte") {
			t.Errorf("error: %v", r.err)
		}
		if !revoked || len(w.left()) > 0 {
			t.Errorf("revoked %v, left %v", revoked, w.left())
		}
	})
}

// An upload that was killed goes on with the same disk, behind what is there.
func TestUploadResumes(t *testing.T) {
	file := writeVHD(t, 256<<20)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spec.Azure.FromVHD, w.spec.Azure.TestBoot = file, false
		dying := false
		w.server.OnPage = func(_ int, at int64) int {
			if at < 128<<20 {
				return 0
			}
			if !dying { // at the last two; what is under way beside them ends first
				dying = true
				go func() { time.Sleep(time.Second); w.server.Die() }()
			}
			return 500
		}
		first := w.bake(t.Context())
		if first.err == nil {
			t.Fatal("the first upload worked")
		}
		w.server.OnPage = nil
		w.server.Revive()
		_, before := w.server.Blob("dorunner-" + first.bakeID + "-disk")
		r := w.bake(t.Context())
		if r.err != nil {
			t.Fatal(r.err)
		}
		got, puts := w.server.Blob("dorunner-" + first.bakeID + "-disk")
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) || puts-before > 2 {
			t.Errorf("%d writes after the kill; the same content: %v", puts-before, bytes.Equal(got, want))
		}
		if g := w.garbage(t.Context()); len(g) > 0 {
			t.Errorf("gc finds %v", g)
		}
	})
}

func TestVHDSizeAgreesWithQEMU(t *testing.T) {
	judge, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed: apt-get install qemu-utils")
	}
	file := filepath.Join(t.TempDir(), "qemu.vhd")
	if out, err := exec.Command(judge, "create", "-f", "vpc", "-o", "subformat=fixed,force_size=on", file, "33M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	size, err := vhdSize(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(judge, "info", "-f", "vpc", "--output=json", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal(out, &info); err != nil || info.Size != size-footerLen {
		t.Errorf("qemu-img says %d (%v), we say %d", info.Size, err, size-footerLen)
	}
}

func TestVHDIsChecked(t *testing.T) {
	good, err := os.ReadFile(writeVHD(t, 32<<20))
	if err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func([]byte) []byte{
		"is no VHD":            func(b []byte) []byte { return b[:len(b)-footerLen] },
		"dynamic VHD":          func(b []byte) []byte { b[len(b)-footerLen+63] = 3; return b },
		"no multiple of 1 MiB": func(b []byte) []byte { return b[512:] },
		"cut short":            func(b []byte) []byte { return b[1<<20:] },
		"smaller than the 20 MiB": func(b []byte) []byte {
			b = b[16<<20:]
			binary.BigEndian.PutUint64(b[len(b)-footerLen+48:], 16<<20)
			return b
		},
	} {
		file := filepath.Join(t.TempDir(), "spoilt.vhd")
		if err := os.WriteFile(file, spoil(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := vhdSize(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
