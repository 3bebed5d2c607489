package metal

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/internal/tail"
)

// writeFormats turns the sealed disk into the files that were asked for. Each is written under a temporary name in
// the results directory and renamed when all of them are whole. consume says that the source may be moved away.
func writeFormats(ctx context.Context, env *builder.Env, source, sourceFormat string, consume bool) (builder.Artifact, error) {
	formats := env.Plan.Spec.Metal.Formats
	var out builder.Artifact
	name, err := env.Plan.ImageName(env.Plan.Hash, time.Now())
	if err != nil {
		return out, err
	}
	// The raw file comes last, so that the others can still be made from a source that is moved.
	for _, raw := range []bool{false, true} {
		for i, format := range formats {
			if (format == "raw") != raw {
				continue
			}
			temp := tempFile(env, format)
			if err := record(env, kindFile, temp, func(context.Context, builder.Entry) error { return removeFile(temp) }); err != nil {
				return out, err
			}
			env.Progress.Count("images", int64(i), int64(len(formats)), "files")
			result := filepath.Join(env.OutDir, name+"."+format)
			move := consume && raw && sourceFormat == "raw"
			if err := convert(ctx, source, sourceFormat, temp, format, move); err != nil {
				return out, explainFull(fmt.Errorf("writing %s: %w", result, err), env.OutDir)
			}
			id := builder.ImageID{ID: result, Format: format}
			var err error
			if id.Size, id.SHA256, err = digest(ctx, temp); err != nil {
				return out, err
			}
			out.Images = append(out.Images, id)
		}
	}
	env.Progress.Count("images", int64(len(formats)), int64(len(formats)), "files")
	for _, id := range out.Images {
		temp := tempFile(env, id.Format)
		// Until the end of the bake the results are ours to take away again.
		if err := record(env, kindFile, id.ID, func(context.Context, builder.Entry) error { return removeFile(id.ID) }); err != nil {
			return out, err
		}
		if err := os.Rename(temp, id.ID); err != nil {
			return out, err
		}
		if err := env.Ledger.Done(kindFile, temp); err != nil {
			return out, err
		}
	}
	return out, nil
}

func tempFile(env *builder.Env, format string) string {
	return filepath.Join(env.OutDir, "."+env.BakeID+"."+format+".part")
}

// convert writes source as file, on disk when it returns.
func convert(ctx context.Context, source, sourceFormat, file, format string, move bool) error {
	if move && os.Rename(source, file) == nil {
		return nil
	}
	args := []string{"convert", "-f", sourceFormat, "-O", "raw", source, file}
	if format == "qcow2" {
		// zstd is four times as fast as zlib and packs better; QEMU reads it since 5.1.
		args = []string{"convert", "-f", sourceFormat, "-O", "qcow2", "-c", "-o", "compression_type=zstd", "-W", source, file}
	}
	if err := run(ctx, "qemu-img", args...); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if format == "vhd" {
		err = addVHDFooter(f)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// addVHDFooter makes a fixed VHD of a raw disk: a footer of 512 bytes behind it (Virtual Hard Disk Image Format
// Specification 1.0). The creator is Windows': QEMU rounds the size of disks whose creator it does not know.
func addVHDFooter(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size%(1<<20) != 0 {
		return fmt.Errorf("a fixed VHD is a whole number of MiB, not %d bytes", size)
	}
	be := binary.BigEndian
	footer := make([]byte, 512)
	copy(footer, "conectix")
	be.PutUint32(footer[8:], 2)           // features: the bit that is always set
	be.PutUint32(footer[12:], 0x00010000) // format version
	be.PutUint64(footer[16:], 1<<64-1)    // no dynamic header
	be.PutUint32(footer[24:], uint32(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds()))
	copy(footer[28:], "win ")
	be.PutUint32(footer[32:], 0x000a0000)
	copy(footer[36:], "Wi2k")
	be.PutUint64(footer[40:], uint64(size))
	be.PutUint64(footer[48:], uint64(size))
	be.PutUint32(footer[56:], vhdGeometry(size))
	be.PutUint32(footer[60:], 2)    // fixed
	_, _ = rand.Read(footer[68:84]) // its unique id
	var sum uint32
	for _, b := range footer {
		sum += uint32(b)
	}
	be.PutUint32(footer[64:], ^sum)
	_, err = f.WriteAt(footer, size)
	return err
}

// vhdGeometry is the specification's cylinders (16 bits), heads and sectors (8 bits each) for a disk of size bytes.
func vhdGeometry(size int64) uint32 {
	total := min(size/sector, 65535*16*255)
	perTrack, heads := int64(255), int64(16)
	cylinderHeads := total / perTrack
	if total < 65536*16*63 {
		perTrack = 17
		cylinderHeads = total / perTrack
		heads = max((cylinderHeads+1023)/1024, 4)
		if cylinderHeads >= heads*1024 || heads > 16 {
			perTrack, heads = 31, 16
			cylinderHeads = total / perTrack
		}
		if cylinderHeads >= heads*1024 {
			perTrack, heads = 63, 16
			cylinderHeads = total / perTrack
		}
	}
	return uint32(cylinderHeads/heads)<<16 | uint32(heads)<<8 | uint32(perTrack)
}

// digest reads a file once for its size and SHA-256. Holes, most of a fresh disk, are hashed without being read.
func digest(ctx context.Context, file string) (int64, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	h, size := sha256.New(), info.Size()
	for at := int64(0); at < size && err == nil; {
		data, hole := nextData(f, at, size)
		_, err = io.CopyN(h, whileAlive(ctx, zeros{}), data-at)
		if err == nil {
			_, err = io.Copy(h, whileAlive(ctx, io.NewSectionReader(f, data, hole-data)))
		}
		at = hole
	}
	if err != nil {
		return 0, "", fmt.Errorf("reading %s: %w", file, err)
	}
	return size, hex.EncodeToString(h.Sum(nil)), nil
}

// nextData is where the next data after at begins and ends; all of it, where the file system does not tell.
func nextData(f *os.File, at, size int64) (data, hole int64) {
	data, err := f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil {
		return at, size
	}
	if hole, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
		return data, size
	}
	return data, min(hole, size)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// whileAlive reads until the context ends.
func whileAlive(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}

type readerFunc func([]byte) (int, error)

func (r readerFunc) Read(p []byte) (int, error) { return r(p) }

// run runs a program of this machine; an error shows the end of its output. The program dies with us.
func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// output is run that gives what the program printed on stdout.
func output(ctx context.Context, name string, args ...string) (string, error) {
	var last tail.Buffer
	var out strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&last, &out), &last
	dieWithUs(cmd)
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.As(err, &exit):
		return out.String(), &builder.ExitError{Args: cmd.Args, Code: exit.ExitCode(), Tail: last.String()}
	}
	return out.String(), err
}
