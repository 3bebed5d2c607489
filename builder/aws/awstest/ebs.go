package awstest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// BlockSize is that of the EBS direct APIs, in bytes.
const BlockSize = 512 << 10

// blocks are what a snapshot holds, in a sparse file that has no name.
type blocks struct {
	file   *os.File
	sums   map[int][32]byte // of the blocks that this snapshot or its parent was given
	own    map[int]bool     // those that it was given itself
	sealed bool
}

// path is the file's, which has no name, for other processes of this user.
func (b *blocks) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), b.file.Fd()) }

// share gives the same blocks to another snapshot.
func (b *blocks) share() (*blocks, error) {
	f, err := os.OpenFile(b.path(), os.O_RDWR, 0)
	return &blocks{f, maps.Clone(b.sums), maps.Clone(b.own), b.sealed}, err
}

// takeBlocks makes blocks of a raw file, which goes.
func takeBlocks(file string) (*blocks, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b := &blocks{file: f, sums: map[int][32]byte{}, own: map[int]bool{}, sealed: true}
	data, zero := make([]byte, BlockSize), make([]byte, BlockSize)
	for i := 0; ; i++ {
		n, err := io.ReadFull(f, data)
		if n > 0 {
			clear(data[n:])
			if !bytes.Equal(data, zero) {
				b.sums[i], b.own[i] = sha256.Sum256(data), true
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return b, nil
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
}

func (b *blocks) close() {
	_ = b.file.Close() // a file of the test's own that nobody reads any more
}

// linear is the checksum of the checksums of the blocks that were put, in their order.
func (b *blocks) linear() string {
	h := sha256.New()
	for _, i := range slices.Sorted(maps.Keys(b.own)) {
		sum := b.sums[i]
		h.Write(sum[:])
	}
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func ebsAction(method string, path []string) string {
	switch {
	case method == "POST" && len(path) == 1:
		return "StartSnapshot"
	case method == "POST" && len(path) == 3 && path[1] == "completion":
		return "CompleteSnapshot"
	case method == "PUT" && len(path) == 4:
		return "PutSnapshotBlock"
	case method == "GET" && len(path) == 4:
		return "GetSnapshotBlock"
	case method == "GET" && len(path) == 3 && path[2] == "blocks":
		return "ListSnapshotBlocks"
	}
	return method + " /" + strings.Join(path, "/")
}

func (c *call) refuse(code string, format string, args ...any) *Error {
	e := fail(code, format, args...)
	if code == "ResourceNotFoundException" {
		e.Status = 404
	}
	return e
}

func startSnapshot(c *call) (any, *Error) {
	var in struct {
		VolumeSize                                            int
		ClientToken, Description, KmsKeyArn, ParentSnapshotId string
		Timeout                                               int
		Encrypted                                             *bool
		Tags                                                  []struct{ Key, Value string }
	}
	d := json.NewDecoder(strings.NewReader(string(c.body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		c.s.strict = append(c.s.strict, "StartSnapshot: "+err.Error())
		return nil, c.refuse("ValidationException", "%v", err)
	}
	tags := map[string]string{}
	for _, t := range in.Tags {
		tags[t.Key] = t.Value
	}
	if err := c.begin(c.fresh("snapshot", tags)); err != nil {
		return nil, err
	}
	if in.Timeout < 10 || in.Timeout > 4320 {
		return nil, c.refuse("ValidationException", "Timeout must be 10 to 4320 minutes")
	}
	id := c.r.tokens["snapshot/"+in.ClientToken]
	if in.ClientToken == "" || id == "" {
		f, err := os.CreateTemp(c.s.o.Dir, "snapshot")
		if err != nil {
			return nil, c.refuse("InternalServerException", "%v", err)
		}
		_ = os.Remove(f.Name()) // it lives as long as it is open
		b := &blocks{file: f, sums: map[int][32]byte{}, own: map[int]bool{}}
		sn := &snapshot{meta: c.s.newMeta("snap", tags), size: in.VolumeSize, desc: in.Description, encrypted: in.Encrypted != nil && *in.Encrypted, blocks: b}
		if in.ParentSnapshotId != "" {
			p, perr := c.r.snapshot(in.ParentSnapshotId)
			switch {
			case perr != nil || p.blocks == nil:
				return nil, c.refuse("ResourceNotFoundException", "parent snapshot does not exist")
			case in.Encrypted != nil || in.KmsKeyArn != "":
				return nil, c.refuse("ValidationException", "Encrypted and KmsKeyArn cannot be given with ParentSnapshotId")
			case p.size > in.VolumeSize:
				return nil, c.refuse("ValidationException", "the volume is smaller than its parent's")
			}
			block := make([]byte, BlockSize)
			for i, sum := range p.blocks.sums {
				b.sums[i] = sum
				_, err := p.blocks.file.ReadAt(block, int64(i)*BlockSize)
				if err == nil {
					_, err = f.WriteAt(block, int64(i)*BlockSize)
				}
				if err != nil {
					return nil, c.refuse("InternalServerException", "%v", err)
				}
			}
			sn.encrypted = p.encrypted
		}
		if err := f.Truncate(int64(in.VolumeSize) << 30); err != nil {
			return nil, c.refuse("InternalServerException", "%v", err)
		}
		c.r.snapshots[sn.id], id = sn, sn.id
		c.r.tokens["snapshot/"+in.ClientToken] = id
	}
	return map[string]any{"SnapshotId": id, "BlockSize": BlockSize, "VolumeSize": in.VolumeSize, "Status": "pending"}, nil
}

// writing finds a snapshot that still takes blocks.
func (c *call) writing(id string) (*snapshot, *Error) {
	sn, err := c.r.snapshot(id)
	if err != nil || sn.blocks == nil {
		return nil, c.refuse("ResourceNotFoundException", "The snapshot '%s' does not exist.", id)
	}
	return sn, nil
}

func putBlock(c *call) (any, *Error) {
	sn, ferr := c.writing(c.path[1])
	if err := c.begin(resource{arn: c.arn("snapshot", c.path[1]), tags: tagsOf(sn)}); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	h := c.http.Header
	sum := c.sum
	index, err := strconv.Atoi(c.path[3])
	switch {
	case sn.blocks.sealed:
		return nil, c.refuse("ValidationException", "The snapshot is not in the pending state")
	case err != nil || index < 0 || int64(index+1)*BlockSize > int64(sn.size)<<30:
		return nil, c.refuse("ValidationException", "block index %s is outside the volume", c.path[3])
	case len(c.body) != BlockSize || h.Get("X-Amz-Data-Length") != strconv.Itoa(BlockSize):
		return nil, c.refuse("ValidationException", "a block has %d bytes", BlockSize)
	case h.Get("X-Amz-Checksum-Algorithm") != "SHA256" || h.Get("X-Amz-Checksum") != base64.StdEncoding.EncodeToString(sum[:]):
		return nil, c.refuse("ValidationException", "the checksum does not fit the data")
	}
	if _, err := sn.blocks.file.WriteAt(c.body, int64(index)*BlockSize); err != nil {
		return nil, c.refuse("InternalServerException", "%v", err)
	}
	sn.blocks.sums[index] = sum
	sn.blocks.own[index] = true
	return raw{header: map[string]string{"X-Amz-Checksum": h.Get("X-Amz-Checksum"), "X-Amz-Checksum-Algorithm": "SHA256"}}, nil
}

func tagsOf(sn *snapshot) map[string]string {
	if sn == nil {
		return nil
	}
	return sn.tags
}

func completeSnapshot(c *call) (any, *Error) {
	sn, ferr := c.writing(c.path[2])
	if err := c.begin(resource{arn: c.arn("snapshot", c.path[2]), tags: tagsOf(sn)}); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	h := c.http.Header
	if n, err := strconv.Atoi(h.Get("X-Amz-Changedblockscount")); err != nil || n != len(sn.blocks.own) {
		return nil, c.refuse("ValidationException", "%d blocks were put, not %s", len(sn.blocks.own), h.Get("X-Amz-Changedblockscount"))
	}
	if want := h.Get("X-Amz-Checksum"); want != "" && want != sn.blocks.linear() {
		return nil, c.refuse("ValidationException", "the checksum of all blocks does not fit")
	}
	sn.blocks.sealed = true
	sn.fail = c.s.o.SnapshotError
	return map[string]string{"Status": "pending"}, nil
}

func listBlocks(c *call) (any, *Error) {
	sn, ferr := c.writing(c.path[1])
	if err := c.begin(resource{arn: c.arn("snapshot", c.path[1]), tags: tagsOf(sn)}); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	if !sn.blocks.sealed {
		return nil, c.refuse("ValidationException", "The snapshot is not completed")
	}
	q := c.http.URL.Query()
	start := 0
	if t := q.Get("pageToken"); t != "" {
		start, _ = strconv.Atoi(strings.TrimPrefix(t, "page-")) // a token of ours
	}
	var all []int
	for i := range sn.blocks.sums {
		all = append(all, i)
	}
	slices.Sort(all)
	type item struct {
		BlockIndex int
		BlockToken string
	}
	out := map[string]any{"BlockSize": BlockSize, "VolumeSize": sn.size, "ExpiryTime": 2000000000.0}
	end := min(start+100*c.s.o.PageSize, len(all))
	var part []item
	for _, i := range all[start:end] {
		part = append(part, item{i, fmt.Sprintf("%s.%d", sn.id, i)})
	}
	out["Blocks"] = part
	if end < len(all) {
		out["NextToken"] = fmt.Sprintf("page-%d", end)
	}
	return out, nil
}

func getBlock(c *call) (any, *Error) {
	sn, ferr := c.writing(c.path[1])
	if err := c.begin(resource{arn: c.arn("snapshot", c.path[1]), tags: tagsOf(sn)}); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	index, err := strconv.Atoi(c.path[3])
	sum, have := sn.blocks.sums[index]
	if err != nil || !have || c.http.URL.Query().Get("blockToken") != fmt.Sprintf("%s.%d", sn.id, index) {
		return nil, c.refuse("ValidationException", "no such block")
	}
	b := make([]byte, BlockSize)
	if _, err := sn.blocks.file.ReadAt(b, int64(index)*BlockSize); err != nil {
		return nil, c.refuse("InternalServerException", "%v", err)
	}
	return raw{map[string]string{"X-Amz-Data-Length": strconv.Itoa(BlockSize), "X-Amz-Checksum-Algorithm": "SHA256",
		"X-Amz-Checksum": base64.StdEncoding.EncodeToString(sum[:])}, b}, nil
}

// Disk reads back what a snapshot holds; puts is how many blocks were sent to it.
func (s *Server) Disk(regionName, snapshotID string) (disk *os.File, size int64, puts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := s.regions[regionName].snapshots[snapshotID]
	return sn.blocks.file, int64(sn.size) << 30, len(sn.blocks.own)
}
