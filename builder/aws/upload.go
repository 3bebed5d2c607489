package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/sync/errgroup"

	"github.com/dorunner/dorunner-bake/builder"
)

const (
	blockSize     = 512 << 10 // of the EBS direct APIs
	uploads       = 64        // blocks in flight, each in a buffer of its own
	unknownLimit  = 2 * time.Minute
	blockAttempts = 10
)

var zeroBlock = make([]byte, blockSize)

// upload writes the disk's blocks into a snapshot: only those with data, and only those that differ from the snapshot
// of the image before, when it was uploaded from this machine. A killed upload of the same disk is continued.
func (c *Cloud) upload(ctx context.Context, env *builder.Env, r raw) (string, error) {
	client := ebs.NewFromConfig(c.acct.cfg, func(o *ebs.Options) {
		o.Region = c.region
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
			// So many requests at once would empty the client's own allowance of retries in one bad second.
			o.MaxAttempts, o.MaxBackoff, o.RateLimiter = blockAttempts, 10*time.Second, ratelimit.None
		})
	})
	st, err := c.openUpload(ctx, env, client, r)
	if err != nil {
		return "", fmt.Errorf("starting the snapshot: %w", explain(c.region, err))
	}
	defer st.close()
	u := &uploader{client: client, st: st, progress: env.Progress}
	if err := u.run(ctx, r.path); err != nil {
		return "", fmt.Errorf("uploading to %s: %w", st.Snapshot, explain(c.region, err))
	}
	count, sum := st.summary()
	call, cancel := creating(ctx)
	defer cancel()
	_, err = client.CompleteSnapshot(call, &ebs.CompleteSnapshotInput{SnapshotId: &st.Snapshot, ChangedBlocksCount: sdk.Int32(int32(count)),
		Checksum: &sum, ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256, ChecksumAggregationMethod: ebstypes.ChecksumAggregationMethodChecksumAggregationLinear})
	if err != nil {
		return "", fmt.Errorf("completing %s: %w", st.Snapshot, explain(c.region, err))
	}
	took := time.Since(u.began)
	env.Progress.Info("uploaded %d MB of %d MB with data in %.0f s (%.0f MB/s)", u.sent.Load()>>20, u.seen.Load()>>20, took.Seconds(), float64(u.sent.Load())/1e6/max(took.Seconds(), 0.001))
	return st.Snapshot, st.finish(c.indexFile())
}

// openUpload continues what is there, or starts a snapshot.
func (c *Cloud) openUpload(ctx context.Context, env *builder.Env, client *ebs.Client, r raw) (*uploadState, error) {
	key := env.Plan.Spec.AWS.KMSKey
	if st := c.disk.resume; st != nil {
		if before := readIndex(c.indexFile()); before != nil && before.Snapshot == st.Parent {
			st.parent = before.have
		}
		if st.Key == key && (st.Parent == "" || st.parent != nil) {
			env.Progress.Info("continuing %s: %d blocks are there", st.Snapshot, len(st.sent))
			_, err := c.acct.in(c.region).CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{st.Snapshot}, Tags: TagList(c.imageTags(env))})
			return st, err
		}
		if err := c.acct.dropUpload(ctx, c.uploadEntry(env, st)); err != nil {
			return nil, err
		}
		if err := env.Ledger.Done(kindUpload, st.Snapshot); err != nil {
			return nil, err
		}
	}
	in := &ebs.StartSnapshotInput{VolumeSize: sdk.Int64(int64(r.gib)), ClientToken: sdk.String(env.BakeID), Description: sdk.String(c.name), Timeout: sdk.Int32(180)}
	for _, t := range TagList(c.imageTags(env)) {
		in.Tags = append(in.Tags, ebstypes.Tag{Key: t.Key, Value: t.Value})
	}
	parent := readIndex(c.indexFile())
	var out *ebs.StartSnapshotOutput
	var err error
	if parent != nil && parent.Key == key && parent.GiB <= r.gib {
		in.ParentSnapshotId = &parent.Snapshot // and so its encryption
		if out, err = c.startSnapshot(ctx, client, in); err != nil {
			env.Progress.Info("the snapshot before, %s, cannot be built upon (%v): everything is uploaded", parent.Snapshot, explain(c.region, err))
			in.ParentSnapshotId, in.ClientToken, parent = nil, sdk.String(env.BakeID+"-whole"), nil
		}
	} else {
		parent = nil
	}
	if out == nil {
		in.Encrypted, in.KmsKeyArn = sdk.Bool(true), orNil(KeyIn(c.region, key))
		if out, err = c.startSnapshot(ctx, client, in); err != nil {
			return nil, err
		}
	}
	st := &uploadState{Snapshot: *out.SnapshotId, Region: c.region, Disk: c.disk.file, Size: r.size, Time: r.mtime, GiB: r.gib, Key: key, Started: time.Now(), sent: map[int32]sum{}, have: map[int32]sum{}}
	if parent != nil {
		st.parent, st.Parent = parent.have, parent.Snapshot
	}
	if err := c.recordUpload(env, st); err != nil {
		return nil, err
	}
	return st, st.create(c.uploadFile())
}

func (c *Cloud) startSnapshot(ctx context.Context, client *ebs.Client, in *ebs.StartSnapshotInput) (*ebs.StartSnapshotOutput, error) {
	call, cancel := creating(ctx)
	defer cancel()
	out, err := client.StartSnapshot(call, in)
	c.acct.created(c.region, err)
	if err == nil && sdk.ToInt32(out.BlockSize) != blockSize {
		return out, fmt.Errorf("EBS wants blocks of %d bytes, which this program does not know", sdk.ToInt32(out.BlockSize))
	}
	return out, err
}

// uploader sends one disk.
type uploader struct {
	client   *ebs.Client
	st       *uploadState
	progress builder.Progress
	began    time.Time
	seen     atomic.Int64 // bytes with data
	sent     atomic.Int64 // bytes sent by this process
	total    int64        // bytes in the file's extents
	read     atomic.Int64
}

// piece is a block on its way, in a buffer that goes back to the pool.
type piece struct {
	index int32
	data  []byte
}

// run reads the disk from front to back and has its blocks sent by several at once.
func (u *uploader) run(ctx context.Context, path string) error {
	u.began = time.Now()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	extents, err := dataExtents(f)
	if err != nil {
		return err
	}
	for _, e := range extents {
		u.total += e.end - e.start
	}
	free := make(chan []byte, uploads)
	for range uploads {
		free <- nil // made when first used
	}
	work := make(chan piece)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		return u.readAll(ctx, f, extents, free, work)
	})
	for range uploads {
		g.Go(func() error {
			for p := range work {
				if err := u.send(ctx, p); err != nil {
					return err
				}
				free <- p.data
			}
			return nil
		})
	}
	return g.Wait()
}

func (u *uploader) readAll(ctx context.Context, f *os.File, extents []extent, free chan []byte, work chan<- piece) error {
	next := func(index int32, from io.ReaderAt) error {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if buf == nil {
			buf = make([]byte, blockSize)
		}
		n := 0
		if from != nil {
			var err error
			if n, err = from.ReadAt(buf, int64(index)*blockSize); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("reading the disk: %w", err)
			}
		}
		clear(buf[n:])
		select {
		case work <- piece{index, buf}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	last := int32(-1)
	touched := map[int32]bool{}
	for _, e := range extents {
		for i := max(int32(e.start/blockSize), last+1); int64(i)*blockSize < e.end; i++ {
			if err := next(i, f); err != nil {
				return err
			}
			last = i
			if u.st.parent != nil {
				touched[i] = true
			}
			u.progress.Count("upload", u.read.Add(blockSize), u.total, "bytes")
		}
	}
	// What the snapshot before has and this disk has not is written over with zeros.
	for i := range u.st.parent {
		if !touched[i] {
			if err := next(i, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// send sends a block unless the snapshot has it already.
func (u *uploader) send(ctx context.Context, p piece) error {
	before, inParent := u.st.parent[p.index]
	zero := bytes.Equal(p.data, zeroBlock)
	if zero && !inParent {
		return nil // never sent: what is not written is zero
	}
	digest := sum(sha256.Sum256(p.data))
	if !zero {
		u.seen.Add(blockSize)
		u.st.note(p.index, digest)
	}
	if inParent && before == digest || u.st.has(p.index, digest) {
		return nil
	}
	in := &ebs.PutSnapshotBlockInput{SnapshotId: &u.st.Snapshot, BlockIndex: &p.index, DataLength: sdk.Int32(blockSize),
		Checksum: sdk.String(base64.StdEncoding.EncodeToString(digest[:])), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256}
	for {
		in.BlockData = bytes.NewReader(p.data)
		_, err := u.client.PutSnapshotBlock(ctx, in)
		var unknown *ebstypes.ResourceNotFoundException
		if errors.As(err, &unknown) && time.Since(u.st.Started) < unknownLimit { // a new snapshot is not known everywhere
			select {
			case <-time.After(time.Second):
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err != nil {
			return fmt.Errorf("block %d: %w", p.index, err)
		}
		u.sent.Add(blockSize)
		return u.st.add(p.index, digest)
	}
}

// summary is how many blocks the snapshot was given, and their checksums' checksum in the order of the blocks.
func (s *uploadState) summary() (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var order []int32
	for i := range s.sent {
		order = append(order, i)
	}
	slices.Sort(order)
	h := sha256.New()
	for _, i := range order {
		d := s.sent[i]
		h.Write(d[:])
	}
	return len(order), base64.StdEncoding.EncodeToString(h.Sum(nil))
}
