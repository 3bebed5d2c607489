package packer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/dorunner/dorunner-bake/builder"
)

// guestComm lets Packer's provisioners work on the engine's guest. Its context is the bake's: Packer gives none
// to the methods that copy files.
type guestComm struct {
	ctx     context.Context
	guest   builder.Guest
	touched atomic.Bool // something ran or was written there
}

// Start runs a line of shell and reports its exit status through the command.
func (c *guestComm) Start(ctx context.Context, cmd *packersdk.RemoteCmd) error {
	c.touched.Store(true)
	go func() {
		err := c.guest.Run(ctx, builder.Command{Args: []string{"/bin/sh", "-c", cmd.Command}, Stdin: cmd.Stdin, Stdout: cmd.Stdout, Stderr: cmd.Stderr})
		var exit *builder.ExitError
		switch {
		case err == nil:
			cmd.SetExited(0)
		case errors.As(err, &exit):
			cmd.SetExited(exit.Code)
		default:
			if cmd.Stderr != nil {
				_, _ = fmt.Fprintln(cmd.Stderr, err)
			}
			cmd.SetExited(packersdk.CmdDisconnect)
		}
	}()
	return nil
}

func (c *guestComm) Upload(dst string, r io.Reader, info *os.FileInfo) error {
	c.touched.Store(true)
	mode := fs.FileMode(0o644)
	if info != nil {
		mode = (*info).Mode().Perm()
		if strings.HasSuffix(dst, "/") {
			dst = path.Join(dst, (*info).Name())
		}
	}
	return c.guest.Upload(c.ctx, dst, r, mode)
}

// UploadDir copies a directory as rsync would: its content when src ends in a slash, else the directory itself.
func (c *guestComm) UploadDir(dst, src string, exclude []string) error {
	c.touched.Store(true)
	if !strings.HasSuffix(src, "/") {
		dst = path.Join(dst, filepath.Base(src))
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(pack(w, src, exclude)) }()
	defer r.Close()
	return c.guest.Run(c.ctx, builder.Command{
		Args: []string{"/bin/sh", "-c", `mkdir -p "$1" && exec tar -xf - -C "$1" --no-same-owner`, "sh", dst}, Stdin: r})
}

// pack writes the files below src, symbolic links as such.
func pack(w io.Writer, src string, exclude []string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(src, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(src, file)
		if err != nil || name == "." {
			return err
		}
		if slices.Contains(exclude, name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(file); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name = filepath.ToSlash(name)
		if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(file) //nolint:gosec // the directory is the user's own
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	return errors.Join(err, t.Close())
}

func (c *guestComm) Download(src string, w io.Writer) error {
	return c.guest.Download(c.ctx, src, w)
}

// DownloadDir copies a directory's content into dst; nothing can leave dst.
func (c *guestComm) DownloadDir(src, dst string, exclude []string) error {
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(c.guest.Run(c.ctx, builder.Command{Args: []string{"tar", "-cf", "-", "-C", src, "."}, Stdout: w}))
	}()
	defer r.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // how the command ended
			return err
		} else if err != nil {
			return fmt.Errorf("downloading %s: %w", src, err)
		}
		name := path.Clean(h.Name)
		if slices.Contains(exclude, name) {
			continue
		}
		if err := unpack(root, name, h, t); err != nil {
			return fmt.Errorf("downloading %s: %w", src, err)
		}
	}
}

// unpack writes directories and regular files; nothing else is downloaded.
func unpack(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	return nil
}

var _ packersdk.Communicator = (*guestComm)(nil)
