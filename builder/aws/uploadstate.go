package aws

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/dorunner/dorunner-bake/builder"
)

// sum is the SHA-256 of a block.
type sum [sha256.Size]byte

// uploadState is an upload as it stands in a file: what it is of, then one line per block that has arrived, so that a
// killed upload can go on. When it is complete, the same form, with all blocks of the disk, is what the next upload of
// an image of this name compares with.
type uploadState struct {
	Snapshot string    `json:"snapshot"`
	Region   string    `json:"region"`
	Disk     string    `json:"disk"`
	Size     int64     `json:"size"`
	Time     time.Time `json:"time"` // of the disk's last change
	GiB      int       `json:"gib"`
	Key      string    `json:"kms_key,omitempty"`
	Parent   string    `json:"parent,omitempty"`
	Started  time.Time `json:"started"`

	parent map[int32]sum // blocks of the snapshot that it builds upon
	mu     sync.Mutex
	sent   map[int32]sum // blocks that have arrived
	have   map[int32]sum // blocks of the disk with data
	file   *os.File
}

// kindUpload is an unfinished snapshot in the ledger.
const kindUpload = "aws upload"

func stateFile(parts ...string) string {
	dir, err := builder.StateDir()
	if err != nil {
		dir = os.TempDir() // without a home there is nothing to come back to either
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return filepath.Join(dir, "uploads", hex.EncodeToString(sum[:12]))
}

// uploadFile is where the upload of this disk to this region is written down.
func (c *Cloud) uploadFile() string { return stateFile("upload", c.region, c.disk.file) }

// indexFile is where the blocks of the newest image of this name are.
func (c *Cloud) indexFile() string { return stateFile("index", c.region, c.family) }

// recordUpload has the snapshot in the ledger.
func (c *Cloud) recordUpload(env *builder.Env, s *uploadState) error {
	return env.Ledger.Record(c.uploadEntry(env, s), c.acct.dropUpload)
}

func (c *Cloud) uploadEntry(env *builder.Env, s *uploadState) builder.Entry {
	return builder.Entry{Kind: kindUpload, ID: s.Snapshot, Region: s.Region, Time: s.Started, Attrs: map[string]string{"bake": env.BakeID, "file": c.uploadFile()}}
}

// dropUpload gives an unfinished snapshot back.
func (a *account) dropUpload(ctx context.Context, e builder.Entry) error {
	err := a.fresh(ctx, e, func(ctx context.Context) error { return a.deleteSnapshot(ctx, e.Region, e.ID) })
	if IsCode(err, "InvalidSnapshot.InUse") { // by an image that we were not told of any more: it goes first, and takes it along
		_, err = a.sweep(ctx, e.Region, e.Attrs["bake"])
	}
	if err != nil {
		return err
	}
	if err := os.Remove(e.Attrs["file"]); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// adoptUpload leaves a killed upload to this bake when it is of the same, unchanged disk; others are given back.
func (c *Cloud) adoptUpload(ctx context.Context, e builder.Entry) error {
	if c.disk != nil && c.disk.err == nil {
		s, err := readUpload(e.Attrs["file"])
		st, serr := os.Stat(c.disk.file)
		if err == nil && serr == nil && s.Snapshot == e.ID && s.Region == c.region && s.Disk == c.disk.file && s.Time.Equal(st.ModTime()) {
			c.disk.resume = s
			c.acct.spare(e.ID)
			return nil
		}
	}
	return c.acct.dropUpload(ctx, e)
}

// create begins the file.
func (s *uploadState) create(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s.file = f
	return json.NewEncoder(f).Encode(s)
}

func (s *uploadState) close() {
	if s.file != nil {
		_ = s.file.Close() // every line was written before it was relied upon
	}
}

// has tells that a block has arrived as it is now.
func (s *uploadState) has(i int32, d sum) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	got, ok := s.sent[i]
	return ok && got == d
}

// note remembers a block of the disk.
func (s *uploadState) note(i int32, d sum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have[i] = d
}

// add writes down that a block has arrived.
func (s *uploadState) add(i int32, d sum) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[i] = d
	_, err := s.file.WriteString(blockLine(i, d))
	return err
}

func blockLine(i int32, d sum) string {
	return strconv.Itoa(int(i)) + " " + base64.StdEncoding.EncodeToString(d[:]) + "\n"
}

// finish leaves the disk's blocks for the next upload to compare with.
func (s *uploadState) finish(index string) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(s); err != nil {
		return err
	}
	for i, d := range s.have {
		b.WriteString(blockLine(i, d))
	}
	if err := renameio.WriteFile(index, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("upload index: %w", err)
	}
	return os.Remove(s.file.Name())
}

// readIndex reads the blocks of the image before; nil when there is none that can be read.
func readIndex(file string) *uploadState {
	s, blocks, err := readState(file)
	if err != nil {
		return nil
	}
	s.have = blocks
	return s
}

// readUpload reads a killed upload, to go on with it.
func readUpload(file string) (*uploadState, error) {
	s, blocks, err := readState(file)
	if err != nil {
		return nil, err
	}
	s.sent, s.have = blocks, map[int32]sum{}
	if s.file, err = os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	return s, nil
}

func readState(file string) (*uploadState, map[int32]sum, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1] // a torn last line is a block that is sent again
	if len(whole) < len(data) {
		if err := os.Truncate(file, int64(len(whole))); err != nil {
			return nil, nil, err
		}
	}
	s := &uploadState{}
	lines := bufio.NewScanner(bytes.NewReader(whole))
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), s) != nil {
		return nil, nil, fmt.Errorf("%s is damaged", file)
	}
	blocks := map[int32]sum{}
	for lines.Scan() {
		index, text, _ := strings.Cut(lines.Text(), " ")
		i, err1 := strconv.ParseInt(index, 10, 32)
		d, err2 := base64.StdEncoding.DecodeString(text)
		if err1 != nil || err2 != nil || len(d) != sha256.Size {
			return nil, nil, fmt.Errorf("%s is damaged", file)
		}
		blocks[int32(i)] = sum(d)
	}
	return s, blocks, lines.Err()
}

// extent is a part of a file that has data.
type extent struct{ start, end int64 }

// dataExtents lists the parts of a sparse file that were written.
func dataExtents(f *os.File) ([]extent, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var out []extent
	for at := int64(0); at < st.Size(); {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // a hole to the end
			break
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) { // a file system that knows no holes
			return []extent{{0, st.Size()}}, nil
		}
		if err != nil {
			return nil, err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		out = append(out, extent{start, end})
		at = end
	}
	_, err = f.Seek(0, io.SeekStart)
	return out, err
}
