package cmd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

// BenchmarkPrograms measures each program as a whole process: its size, how fast it starts, what it holds resident.
func BenchmarkPrograms(b *testing.B) {
	for _, p := range []struct {
		name string
		args []string
	}{
		{"dorunner-bake", []string{"version"}},           // at most 50 ms
		{"dorunner-firstboot", []string{"version"}},      // at most 14 MB, 20 ms, 25 MB resident
		{"packer-plugin-dorunner", []string{"describe"}}, // at most 150 ms
	} {
		b.Run(p.name, func(b *testing.B) {
			file := filepath.Join(b.TempDir(), p.name)
			build := exec.CommandContext(b.Context(), "go", "build", "-ldflags", "-s -w", "-o", file, "./"+p.name)
			if out, err := build.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
			info, err := os.Stat(file)
			if err != nil {
				b.Fatal(err)
			}
			var took []time.Duration
			var resident int64
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), file, p.args...)
				began := time.Now()
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				took = append(took, time.Since(began))
				if runtime.GOOS == "linux" { // kilobytes there
					resident = max(resident, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-start")
			b.ReportMetric(float64(resident)/1024, "MB-resident")
			b.ReportMetric(float64(info.Size())/1e6, "MB-file")
			b.ReportMetric(0, "ns/op")
		})
	}
}
