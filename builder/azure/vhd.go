package azure

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/dorunner/dorunner-bake/builder"
)

const (
	chunk     = 4 << 20 // the most that one call writes, in bytes
	inFlight  = 16      // calls at once
	footerLen = 512     // bytes at the end of a fixed VHD
	// saveEvery is after how many bytes a killed upload would go on; each costs one small file.
	saveEvery  = 64 << 20
	accessTime = 24 * time.Hour
)

func (c *Cloud) fromDisk() bool { return c.spec.FromVHD != "" }

// BakedElsewhere says that the disk to publish is sealed already, and what is known of it: the manifest beside it.
func (c *Cloud) BakedElsewhere() (*builder.Manifest, bool) {
	if !c.fromDisk() {
		return nil, false
	}
	return manifestBeside(c.spec.FromVHD), true
}

// checkDisk holds the file against what Azure takes.
func (c *Cloud) checkDisk(ctx context.Context, env *builder.Env, f *findings) {
	if c.spec.TrustedLaunch {
		f.addf("a disk from a file cannot be captured as a Trusted Launch image: leave --trusted-launch away; machines made from the image may use Trusted Launch all the same")
	}
	c.base.generation = armcompute.HyperVGenerationTypesV2
	if _, err := vhdSize(c.spec.FromVHD); err != nil {
		f.add(err)
	}
	if m := manifestBeside(c.spec.FromVHD); m != nil && m.Platform != "azure" {
		f.addf("%s was baked for the platform %s: bake it again with `dorunner-bake metal --platform azure --format vhd`", c.spec.FromVHD, m.Platform)
	}
	if c.spec.TestBoot {
		c.checkSizes(ctx, env.Plan, f)
	}
}

// vhdSize checks that a file is a fixed VHD as Azure wants it, and gives its length in bytes, footer included.
func vhdSize(file string) (int64, error) {
	in, err := os.Open(file)
	if err != nil {
		return 0, fmt.Errorf("from_vhd: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, fmt.Errorf("from_vhd: %w", err)
	}
	const remedy = "`dorunner-bake metal --platform azure --format vhd` writes a right one"
	size := info.Size()
	footer := make([]byte, footerLen)
	if size > footerLen {
		if _, err := in.ReadAt(footer, size-footerLen); err != nil {
			return 0, fmt.Errorf("from_vhd: %w", err)
		}
	}
	switch {
	case string(footer[:8]) != "conectix":
		return 0, fmt.Errorf("%s is no VHD: %s", file, remedy)
	case binary.BigEndian.Uint32(footer[60:]) != 2:
		return 0, fmt.Errorf("%s is a dynamic VHD and Azure takes fixed ones: %s", file, remedy)
	case (size-footerLen)%(1<<20) != 0:
		return 0, fmt.Errorf("%s holds a disk of %d bytes, which is no multiple of 1 MiB: %s", file, size-footerLen, remedy)
	case int64(binary.BigEndian.Uint64(footer[48:])) != size-footerLen:
		return 0, fmt.Errorf("%s is %d bytes long and its footer says %d: it is damaged or was cut short", file, size-footerLen, binary.BigEndian.Uint64(footer[48:]))
	case size < 20<<20+footerLen:
		return 0, fmt.Errorf("%s is smaller than the 20 MiB that Azure asks for", file)
	}
	return size, nil
}

// upload makes a managed disk of the file. An upload of the same file that was killed goes on where it was.
func (c *Cloud) upload(ctx context.Context, env *builder.Env) error {
	size, err := vhdSize(c.spec.FromVHD)
	if err != nil {
		return err
	}
	if c.disk == "" {
		if err := c.createDisk(ctx, env, size); err != nil {
			return err
		}
	} else {
		env.Progress.Info("going on with an upload that was killed, at %d MiB of %d MiB", c.sent>>20, size>>20)
	}
	r, err := parseID(c.disk)
	if err != nil {
		return err
	}
	// Write access is an entry of its own: a disk that may be written to cannot be deleted.
	e := c.entry(kindAccess, c.disk)
	e.Attrs = map[string]string{attrFile: c.fileKey(), attrSent: strconv.FormatInt(c.sent, 10)}
	access, err := create(ctx, c, env, e, quickTime, func() (*runtime.Poller[armcompute.DisksClientGrantAccessResponse], error) {
		return c.api.disks.BeginGrantAccess(ctx, c.spec.ResourceGroup, r.name(), armcompute.GrantAccessData{
			Access: new(armcompute.AccessLevelWrite), DurationInSeconds: new(int32(accessTime.Seconds()))}, nil)
	})
	if err != nil {
		return err
	}
	if access.AccessSAS == nil {
		return errors.New("write access to the disk was granted without saying where")
	}
	if err := c.send(ctx, env, c.spec.FromVHD, size, *access.AccessSAS); err != nil {
		return err
	}
	if err := c.revoke(ctx, c.disk); err != nil {
		return fmt.Errorf("closing the disk: %w", err)
	}
	return env.Ledger.Done(kindAccess, c.disk)
}

func (c *Cloud) createDisk(ctx context.Context, env *builder.Env, size int64) error {
	n := name(env, "disk")
	e := c.entry(kindDisk, c.id("Microsoft.Compute", "disks", n))
	e.Attrs = map[string]string{attrFile: c.fileKey()}
	_, err := create(ctx, c, env, e, quickTime, func() (*runtime.Poller[armcompute.DisksClientCreateOrUpdateResponse], error) {
		return c.api.disks.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, n, armcompute.Disk{Location: &c.location, Tags: c.tags(env),
			SKU: &armcompute.DiskSKU{Name: new(armcompute.DiskStorageAccountTypesStandardSSDLRS)},
			Properties: &armcompute.DiskProperties{OSType: new(armcompute.OperatingSystemTypesLinux), HyperVGeneration: new(armcompute.HyperVGenerationV2),
				SupportedCapabilities: &armcompute.SupportedCapabilities{Architecture: new(architecture(env.Plan.Spec.Image.Arch))},
				CreationData:          &armcompute.CreationData{CreateOption: new(armcompute.DiskCreateOptionUpload), UploadSizeBytes: &size}}}, nil)
	})
	c.disk = e.ID
	return err
}

// send writes what of the file is not zero; a new disk reads as zeros.
func (c *Cloud) send(ctx context.Context, env *builder.Env, file string, size int64, sas string) error {
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("from_vhd: %w", err)
	}
	defer in.Close()
	pages, err := pageblob.NewClientWithNoCredential(sas, &pageblob.ClientOptions{ClientOptions: policy.ClientOptions{Transport: c.Transport, Retry: c.Retry}})
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &sending{c: c, env: env, access: c.entry(kindAccess, c.disk), size: size, done: make([]bool, (size+chunk-1)/chunk)}
	s.access.Attrs = map[string]string{attrFile: c.fileKey()}
	s.next = int(c.sent / chunk)
	next := make(chan int)
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			buf := make([]byte, chunk)
			for i := range next {
				if err := s.one(ctx, in, pages, i, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
feed:
	for i := s.next; i < len(s.done); i++ {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	env.Progress.Info("uploaded %d MiB of %d MiB, the rest is zeros", s.bytes>>20, size>>20)
	return nil
}

// sending is an upload under way.
type sending struct {
	c      *Cloud
	env    *builder.Env
	access builder.Entry
	size   int64

	mu    sync.Mutex
	done  []bool
	next  int   // every chunk before it is there
	saved int   // of next, in the ledger
	bytes int64 // sent
}

// one sends one chunk, if there is anything in it.
func (s *sending) one(ctx context.Context, in io.ReaderAt, pages *pageblob.Client, i int, buf []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	at := int64(i) * chunk
	buf = buf[:min(chunk, s.size-at)]
	if _, err := in.ReadAt(buf, at); err != nil {
		return fmt.Errorf("reading the disk to upload: %w", err)
	}
	var sent int64
	for from, to := range data(buf) {
		body := streaming.NopCloser(bytes.NewReader(buf[from:to]))
		_, err := pages.UploadPages(ctx, body, blob.HTTPRange{Offset: at + int64(from), Count: int64(to - from)}, nil)
		if err != nil {
			return fmt.Errorf("upload at byte %d: %w", at+int64(from), explain(cause(ctx, err)))
		}
		sent += int64(to - from)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[i] = true
	s.bytes += sent
	for s.next < len(s.done) && s.done[s.next] {
		s.next++
	}
	s.env.Progress.Count("upload", min(int64(s.next)*chunk, s.size), s.size, "bytes")
	if int64(s.next-s.saved)*chunk < saveEvery {
		return nil
	}
	s.saved = s.next
	e := s.access
	e.Attrs = maps.Clone(e.Attrs)
	e.Attrs[attrSent] = strconv.FormatInt(int64(s.next)*chunk, 10)
	return s.env.Ledger.Update(e)
}

// data gives the parts that are not zero, in whole pages of 512 bytes. A short run of zeros is cheaper to send than to
// make another call for what follows it.
func data(b []byte) iter.Seq2[int, int] {
	const page, short = 512, 64 << 10
	zero := make([]byte, page)
	return func(yield func(from, to int) bool) {
		from, to := -1, 0
		for at := 0; at < len(b); at += page {
			switch {
			case bytes.Equal(b[at:at+page], zero):
				continue
			case from < 0:
				from = at
			case at-to >= short:
				if !yield(from, to) {
					return
				}
				from = at
			}
			to = at + page
		}
		if from >= 0 {
			yield(from, to)
		}
	}
}

// revoke ends write access to a disk; a disk that is gone has none.
func (c *Cloud) revoke(ctx context.Context, id string) error {
	r, err := parseID(id)
	if err != nil {
		return err
	}
	p, err := c.api.disks.BeginRevokeAccess(ctx, r.group, r.name(), nil)
	if err != nil {
		return ignoreGone(cause(ctx, err))
	}
	_, err = poll(ctx, p, quickTime)
	return ignoreGone(err)
}

// takesUpload says whether a disk is there and still waits for what is to be on it.
func (c *Cloud) takesUpload(ctx context.Context, id string) bool {
	r, err := parseID(id)
	if err != nil {
		return false
	}
	d, err := c.api.disks.Get(ctx, r.group, r.name(), nil)
	if err != nil || d.Properties == nil {
		return false
	}
	state := value(d.Properties.DiskState)
	return state == armcompute.DiskStateReadyToUpload || state == armcompute.DiskStateActiveUpload
}

// fileKey tells whether a file is still the one whose upload began.
func (c *Cloud) fileKey() string {
	info, err := os.Stat(c.spec.FromVHD)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", c.spec.FromVHD, info.Size(), info.ModTime().UnixNano()))
	return hex.EncodeToString(sum[:])
}

// manifestBeside is what the bake of a disk wrote beside it; nil when there is none.
func manifestBeside(file string) *builder.Manifest {
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "manifest.json"))
	if err != nil {
		return nil
	}
	var m builder.Manifest
	if json.Unmarshal(text, &m) != nil {
		return nil
	}
	return &m
}
