package cloudinit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
)

// TestMain is also the program that BenchmarkISO2GiB measures from outside: with DORUNNER_BENCH_ISO set it writes one image.
func TestMain(m *testing.M) {
	out := os.Getenv("DORUNNER_BENCH_ISO")
	if out == "" {
		os.Exit(m.Run())
	}
	f, err := iso9660.FromDisk("payload.img", filepath.Join(filepath.Dir(out), "tree", "payload.img"), 0)
	if err == nil {
		err = cloudinit.WriteISO(out, cloudinit.SeedLabel, []iso9660.File{f})
	}
	if err != nil {
		panic(err)
	}
}

// BenchmarkISO2GiB writes an image with 2 GiB in it, by us and by xorriso in turn, both to disk for good.
func BenchmarkISO2GiB(b *testing.B) {
	if _, err := exec.LookPath("xorriso"); err != nil {
		b.Skip("xorriso is not installed")
	}
	dir := b.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		b.Fatal(err)
	}
	payload, err := os.Create(filepath.Join(dir, "tree", "payload.img"))
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for i := range 2048 {
		for k := range block {
			block[k] = byte(i + k*7)
		}
		if _, err := payload.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := payload.Sync(); err != nil {
		b.Fatal(err)
	}
	payload.Close()
	out := filepath.Join(dir, "out.iso")
	run := func(cmd *exec.Cmd) (time.Duration, float64) {
		if err := os.Remove(out); err != nil && !os.IsNotExist(err) {
			b.Fatal(err)
		}
		start := time.Now()
		if text, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, text)
		}
		f, err := os.OpenFile(out, os.O_RDWR, 0)
		if err != nil || f.Sync() != nil { // ours has done so; xorriso may leave it to the kernel
			b.Fatal(err)
		}
		took := time.Since(start)
		f.Close()
		return took, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024
	}
	var ours, theirs time.Duration
	var memory, theirMemory float64
	for b.Loop() {
		us := exec.Command(os.Args[0])
		us.Env = append(os.Environ(), "DORUNNER_BENCH_ISO="+out)
		took, mem := run(us)
		ours, memory = ours+took, max(memory, mem)
		took, mem = run(exec.Command("xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-V", cloudinit.SeedLabel, "-o", out, filepath.Join(dir, "tree")))
		theirs, theirMemory = theirs+took, max(theirMemory, mem)
	}
	b.ReportMetric(ours.Seconds()/float64(b.N), "s/iso")
	b.ReportMetric(theirs.Seconds()/float64(b.N), "s/xorriso")
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-of-xorriso")
	b.ReportMetric(memory, "MiB-resident")
	b.ReportMetric(theirMemory, "MiB-xorriso")
}
