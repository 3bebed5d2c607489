package images

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxArchiveJSON bounds what is read of an archive's descriptions, in bytes.
const maxArchiveJSON = 16 << 20

// readArchive reads the description of a docker-archive (docker save, plain or gzip) and gives the id of the image
// that a full reference names: the digest of its configuration, which pins every layer. The id is empty when the
// archive does not hold it; tags are what it holds.
func readArchive(file, ref string) (id string, tags []string, err error) {
	manifest, err := archiveEntry(file, "manifest.json")
	if err != nil {
		return "", nil, err
	}
	var held []struct {
		Config   string
		RepoTags []string
	}
	if err := json.Unmarshal(manifest, &held); err != nil {
		return "", nil, fmt.Errorf("%s is no archive of docker save: its manifest.json is damaged", filepath.Base(file))
	}
	for _, image := range held {
		for _, tag := range image.RepoTags {
			tags = append(tags, tag)
			if got, err := canonicalRef(tag); err != nil || got.Name() != ref {
				continue
			}
			config, err := archiveEntry(file, image.Config)
			if err != nil {
				return "", tags, err
			}
			sum := sha256.Sum256(config)
			return "sha256:" + hex.EncodeToString(sum[:]), tags, nil
		}
	}
	return "", tags, nil
}

// archiveEntry reads one small file of an archive. Layers are skipped by seeking.
func archiveEntry(file, entry string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("the archive cannot be read: %w", plainFileError(err))
	}
	defer func() { _ = f.Close() }()
	var r io.Reader = f
	if magic, _ := bufio.NewReader(f).Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		if r, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s is damaged: %w", filepath.Base(file), err)
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s is no archive of docker save: it holds no %s", filepath.Base(file), entry)
		}
		if err != nil {
			return nil, fmt.Errorf("%s is no archive of docker save, or is cut short", filepath.Base(file))
		}
		if filepath.Clean(h.Name) == filepath.Clean(entry) {
			return io.ReadAll(io.LimitReader(t, maxArchiveJSON))
		}
	}
}

// plainFileError drops the operation of a file error, which means nothing to an author.
func plainFileError(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}
