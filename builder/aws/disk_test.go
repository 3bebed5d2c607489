package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
)

// diskWith makes a disk of the metal target with data here and there, and what stands beside it.
func diskWith(t testing.TB, bakeID string, size int64, blocks map[int64]int64) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "dorunner.raw")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	boot := append(bytes.Repeat([]byte{0xfa}, 510), 0x55, 0xaa)
	fill(t, f, 0, 1)
	if _, err := f.WriteAt(boot, 0); err != nil {
		t.Fatal(err)
	}
	for i, seed := range blocks {
		fill(t, f, i, seed)
	}
	m, err := json.Marshal(builder.Manifest{PlanHash: "abc", Platform: "aws", BakeID: bakeID})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "manifest.json"), m, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// fill writes a block of noise; seed 0 is zeros that were written.
func fill(t testing.TB, f *os.File, block, seed int64) {
	t.Helper()
	b := make([]byte, blockSize)
	if seed != 0 {
		r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
		_, _ = r.Read(b) // never fails
	}
	if _, err := f.WriteAt(b, block*blockSize); err != nil {
		t.Fatal(err)
	}
}

func (w *world) publisher(file string) *Cloud { return New(Options{Config: w.config(), Disk: file}) }

// same compares a snapshot with a disk, byte by byte; what is a hole in both is zeros in both.
func (w *world) same(file, snapshot string) (puts int) {
	w.t.Helper()
	disk, _, puts := w.server.Disk("us-east-1", snapshot)
	f, err := os.Open(file)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	for _, of := range []*os.File{f, disk} {
		extents, err := dataExtents(of)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range extents {
			a, b := make([]byte, e.end-e.start), make([]byte, e.end-e.start)
			n1, err1 := disk.ReadAt(a, e.start)
			n2, err2 := f.ReadAt(b, e.start)
			if n1 == 0 || err1 != nil && err1 != io.EOF || n2 == 0 && of == f || err2 != nil && err2 != io.EOF || !bytes.Equal(a, b) {
				w.t.Fatalf("the snapshot differs from the disk within %d bytes at %d (%v, %v)", len(a), e.start, err1, err2)
			}
		}
	}
	return puts
}

func scattered(n int) map[int64]int64 {
	out := map[int64]int64{}
	for i := range int64(n) {
		out[i*7+3] = i + 100
	}
	return out
}

func TestPublishDisk(t *testing.T) {
	t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
	w := newWorld(t, awstest.Options{Dir: t.TempDir(), Machines: selftest{}})
	w.spec.AWS.TestBoot = true
	blocks := scattered(150)
	blocks[2000] = 0                                        // zeros that were written
	file := diskWith(t, "first", 3<<30-blockSize/2, blocks) // not whole blocks, not whole GiB
	r := w.bakeWith(t.Context(), w.publisher(file))
	if r.err != nil {
		t.Fatal(r.err)
	}
	w.noComplaints()
	all := w.onlyFinished()
	if len(all) != 1 || all[0].Imds != "v2.0" || !all[0].Encrypted {
		t.Fatalf("images %+v", all)
	}
	if puts := w.same(file, all[0].Snapshots[0]); puts != 151 {
		t.Errorf("%d blocks were sent of 151 with data", puts)
	}
	if again := w.bakeWith(t.Context(), w.publisher(file)); again.err != nil || !again.reused {
		t.Errorf("the same disk again: %+v", again)
	}

	// Another disk of the same name: two blocks differ, one is new, one is zeros now, one is a hole.
	blocks[3], blocks[10], blocks[5000], blocks[17] = 7001, 7002, 7003, 0
	delete(blocks, 24)
	next := diskWith(t, "second", 3<<30-blockSize/2, blocks)
	r = w.bakeWith(t.Context(), w.publisher(next))
	if r.err != nil {
		t.Fatal(r.err)
	}
	all = w.onlyFinished()
	if puts := w.same(next, all[1].Snapshots[0]); puts != 5 {
		t.Errorf("%d blocks were sent of 5 that differ", puts)
	}
	w.noComplaints()
}

// TestUploadKilled ends the process at a block and goes on with the next one; cancelling gives everything back.
func TestUploadKilled(t *testing.T) {
	t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
	w := newWorld(t, awstest.Options{Dir: t.TempDir()})
	file := diskWith(t, "first", 1<<30, scattered(200))
	var puts atomic.Int32
	var dead atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	w.server.OnCall = func(c awstest.Call) awstest.Reaction {
		if c.Action == "PutSnapshotBlock" && puts.Add(1) == 120 {
			dead.Store(true)
			cancel() // no process, no retries
		}
		return awstest.Reaction{Dead: dead.Load()}
	}
	name, err := builder.LedgerFile("killed")
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := builder.OpenLedger(name)
	if err != nil {
		t.Fatal(err)
	}
	env := &builder.Env{Plan: w.plan(), Ledger: ledger, Progress: builder.Discard(), BakeID: "20260101-000000-dead00", WorkDir: t.TempDir(), OutDir: t.TempDir()}
	if _, _, err = steps(ctx, w.publisher(file), env); err == nil {
		t.Fatal("it succeeded")
	}
	if err := ledger.Close(); err != nil {
		t.Fatal(err)
	}
	dead.Store(false)
	if left := w.server.Left(); len(left) != 1 {
		t.Fatalf("left %v", left)
	}

	c := w.publisher(file)
	if _, err := builder.CleanStale(t.Context(), c.Undoes(), nil); err != nil {
		t.Fatal(err)
	}
	before := len(w.server.Calls())
	r := w.bakeWith(t.Context(), c)
	if r.err != nil {
		t.Fatal(r.err)
	}
	sent := 0
	for _, call := range w.server.Calls()[before:] {
		if call.Action == "PutSnapshotBlock" {
			sent++
		}
	}
	if sent >= 201-(120-2*uploads) || sent < 201-120 {
		t.Errorf("%d blocks were sent again", sent)
	}
	all := w.onlyFinished()
	if n := w.same(file, all[0].Snapshots[0]); n != 201 {
		t.Errorf("%d blocks", n)
	}
	w.noComplaints()
}

// TestUploadInterference: a failed or cancelled upload leaves no snapshot.
func TestUploadInterference(t *testing.T) {
	for n := 1; ; n += stride() {
		reached := false
		for _, cancelled := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
				w := newWorld(t, awstest.Options{Dir: t.TempDir()})
				file := diskWith(t, "first", 1<<30, scattered(20))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w.server.OnCall = func(c awstest.Call) awstest.Reaction {
					if c.N != n {
						return awstest.Reaction{}
					}
					reached = true
					if cancelled {
						cancel()
						return awstest.Reaction{}
					}
					return awstest.Reaction{Error: &awstest.Error{Status: 403, Code: "AccessDeniedException", Message: "no"}}
				}
				r := w.bakeWith(ctx, w.publisher(file))
				w.emptyOrNamed(n, r)
				left, err := filepath.Glob(filepath.Join(os.Getenv("DORUNNER_STATE_DIR"), "uploads", "*"))
				if err != nil || r.err != nil && len(left) > 1 {
					t.Errorf("call %d: files are left: %v", n, left)
				}
			})
		}
		if !reached || t.Failed() {
			t.Logf("%d calls", n-1)
			return
		}
	}
}

func TestDiskOfAnotherPlatform(t *testing.T) {
	w := newWorld(t, awstest.Options{})
	file := diskWith(t, "first", 1<<20, nil)
	other := `{"platform":"nocloud"}`
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "manifest.json"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.bakeWith(t.Context(), w.publisher(file))
	if r.err == nil || !strings.Contains(r.err.Error(), "--platform aws") {
		t.Errorf("%v", r.err)
	}
	if len(w.server.Calls()) > 0 {
		t.Errorf("calls %v", w.server.Calls())
	}
}
