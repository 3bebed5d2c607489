// Package iso9660 writes ISO 9660 images with Rock Ridge and Joliet names: streaming, in constant memory, the same
// bytes for the same input, files of any size. It refuses what a reader would show differently than it was given.
package iso9660

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	sector = 2048
	// maxExtent is how much of a file one directory record describes: the most whole sectors in 32 bits.
	maxExtent = 1<<32 - sector
)

// Stamp is the time that every image and file carries, so that the same input gives the same bytes.
var Stamp = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// File is one file of an image. Directories follow from the paths.
type File struct {
	Path string      // slash-separated, without a leading slash
	Size int64       // bytes
	Mode fs.FileMode // permission bits; 0 means 0444
	Open func() (io.ReadCloser, error)
}

// Bytes is a file whose content is in memory.
func Bytes(path string, content []byte, mode fs.FileMode) File {
	return File{path, int64(len(content)), mode, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

// FromDisk is a file that is read from name while the image is written.
func FromDisk(path, name string, mode fs.FileMode) (File, error) {
	i, err := os.Stat(name)
	if err != nil {
		return File{}, err
	}
	if !i.Mode().IsRegular() {
		return File{}, fmt.Errorf("%s: is not a regular file", name)
	}
	return File{path, i.Size(), mode, func() (io.ReadCloser, error) { return os.Open(name) }}, nil
}

// Write writes an image with the volume label and files to w.
func Write(w io.Writer, label string, files []File) error {
	t, err := newTree(label, files)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, 1<<16)
	if err := t.writeHead(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	var largest int64
	for _, n := range t.files {
		largest = max(largest, n.file.Size)
	}
	buf := make([]byte, min(max(largest, 1), 1<<20))
	for _, n := range t.files {
		if err := copyFile(w, n.file, buf); err != nil {
			return fmt.Errorf("%s: %w", n.file.Path, err)
		}
	}
	return nil
}

// copyFile copies exactly the announced size and pads it to a whole sector.
func copyFile(w io.Writer, f *File, buf []byte) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	n, err := io.CopyBuffer(w, io.LimitReader(r, f.Size), buf)
	if err != nil {
		return err
	}
	if n < f.Size {
		return errors.New("became shorter while it was read")
	}
	if more, _ := io.ReadFull(r, make([]byte, 1)); more > 0 {
		return errors.New("became longer while it was read")
	}
	_, err = w.Write(make([]byte, -f.Size&(sector-1)))
	return err
}
