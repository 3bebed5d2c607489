package aws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/sys/unix"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/images"
)

// TestMain lets a benchmark measure a process of its own.
func TestMain(m *testing.M) {
	if disk := os.Getenv("DORUNNER_BENCH_DISK"); disk != "" {
		if err := uploadAlone(disk); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// overHTTP has the world's account answer on a socket.
func (w *world) overHTTP(tb testing.TB) sdk.Config {
	web := httptest.NewServer(w.server)
	tb.Cleanup(web.Close)
	cfg, err := LoadConfig(tb.Context(), "us-east-1")
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Credentials, cfg.BaseEndpoint = w.config().Credentials, &web.URL
	return cfg
}

// BenchmarkBake bakes in real time, over HTTP, on an account that takes as long as EC2 does; everything on the machine is
// done at once. The ideal is what the account itself takes, the machine's termination aside. Packer's amazon-ebs took
// 79 s and 226 s with these delays, 22 calls without (see docs/aws.md).
func BenchmarkBake(b *testing.B) {
	s := time.Second
	for _, bb := range []struct {
		name   string
		delays awstest.Delays
	}{
		{"delays=none", awstest.Delays{}},
		{"delays=8-12-25-10", awstest.Delays{Run: 8 * s, Stop: 12 * s, Image: 25 * s, Terminate: 10 * s}},
		{"delays=10-30-90-30", awstest.Delays{Run: 10 * s, Stop: 30 * s, Image: 90 * s, Terminate: 30 * s}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			ideal := bb.delays.Run + bb.delays.Stop + bb.delays.Image
			calls := 0
			for b.Loop() {
				w := newWorld(b, awstest.Options{Delays: bb.delays, PageSize: 100})
				c := w.cloud()
				c.acct = newAccount(w.overHTTP(b))
				if r := w.bakeWith(b.Context(), c); r.err != nil {
					b.Fatal(r.err)
				}
				calls = len(w.server.Calls())
			}
			took := b.Elapsed().Seconds() / float64(b.N)
			b.ReportMetric(took, "s/bake")
			b.ReportMetric(float64(calls), "calls")
			if ideal > 0 {
				b.ReportMetric(took/ideal.Seconds(), "x-ideal")
			}
		})
	}
}

// BenchmarkUpload publishes a disk of 3 GiB with 1 GiB of data from a process of its own, against reading the file alone.
func BenchmarkUpload(b *testing.B) {
	w := newWorld(b, awstest.Options{Dir: b.TempDir(), PageSize: 100})
	blocks := map[int64]int64{}
	for i := range int64(2047) { // and the boot sector's
		blocks[i*3+1] = i + 1
	}
	file := diskWith(b, "bench", 3<<30, blocks)
	cfg := w.overHTTP(b)
	var read, sent time.Duration
	var memory int64
	for b.Loop() {
		b.Setenv("DORUNNER_STATE_DIR", b.TempDir())
		read += readAlone(b, file)
		forget(b, file)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "DORUNNER_BENCH_DISK="+file, "AWS_ENDPOINT_URL="+*cfg.BaseEndpoint, "AWS_REGION=us-east-1",
			"AWS_ACCESS_KEY_ID=AKIDTEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true")
		began := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		sent += time.Since(began)
		memory = max(memory, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	n := float64(b.N)
	b.ReportMetric(1024*n/sent.Seconds(), "MiB/s")
	b.ReportMetric(1024*n/read.Seconds(), "MiB/s-read-alone")
	b.ReportMetric(read.Seconds()/sent.Seconds(), "x-read-alone")
	b.ReportMetric(float64(memory)/1024, "MiB-resident")
}

// forget takes a file out of the page cache.
func forget(b *testing.B, file string) {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		if err = f.Sync(); err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
	}
	if err != nil {
		b.Fatal(err)
	}
}

// readAlone reads what of the file has data, from the disk.
func readAlone(b *testing.B, file string) time.Duration {
	forget(b, file)
	f, err := os.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	extents, err := dataExtents(f)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, blockSize)
	for _, e := range extents {
		if _, err := io.CopyBuffer(io.Discard, io.NewSectionReader(f, e.start, e.end-e.start), buf); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

// uploadAlone is the process that is measured.
func uploadAlone(file string) error {
	ctx := context.Background()
	cfg, err := LoadConfig(ctx, "")
	if err != nil {
		return err
	}
	plan, err := images.Resolve(&images.Spec{}, "aws", images.Options{})
	if err != nil {
		return err
	}
	dir := os.Getenv("DORUNNER_STATE_DIR")
	ledger, err := builder.OpenLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		return err
	}
	env := &builder.Env{Plan: plan, Ledger: ledger, Progress: builder.Discard(), BakeID: builder.NewBakeID(), WorkDir: dir, OutDir: dir}
	c := New(Options{Config: cfg, Disk: file})
	c.disk.manifest.BakeID = env.BakeID // another disk each time
	_, _, err = steps(ctx, c, env)
	return errors.Join(err, ledger.Unwind(ctx, nil), ledger.Close())
}
