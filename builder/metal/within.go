//go:build linux

package metal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openIn opens a path as a program chrooted to root would: no symbolic link leads out of it.
func openIn(root int, file string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, file, how)
	// A path with ".." in it is refused with EAGAIN while anything on the machine is renamed or mounted: try again.
	for try := 0; errors.Is(err, unix.EAGAIN) && try < 1000; try++ {
		time.Sleep(time.Duration(min(try, 20)) * time.Millisecond / 2)
		fd, err = unix.Openat2(root, file, how)
	}
	if errors.Is(err, unix.ENOSYS) {
		return -1, errors.New("this kernel has no openat2 (5.6 has): use --method vm")
	}
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: file, Err: err}
	}
	return fd, nil
}

// readFile reads a file below root.
func readFile(root int, file string, w io.Writer) error {
	fd, err := openIn(root, file, unix.O_RDONLY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// readLink tells where a symbolic link below root points.
func readLink(root int, file string) (string, error) {
	fd, err := openIn(root, path.Dir(file), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(fd, path.Base(file), buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// writeFile writes a file below root, making its directories; it appears whole or not at all, with owner root.
func writeFile(root int, file string, r io.Reader, mode fs.FileMode) error {
	dir, err := openDir(root, path.Dir(path.Clean("/"+file)))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(file)
	temp := "." + name + ".part"
	_ = unix.Unlinkat(dir, temp, 0)
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: file, Err: err}
	}
	f := os.NewFile(uintptr(fd), file)
	_, err = io.Copy(f, r)
	err = errors.Join(err, f.Chmod(mode.Perm()), f.Close())
	if err == nil {
		err = unix.Renameat(dir, temp, dir, name)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// openDir opens a directory below root, making what is missing of it.
func openDir(root int, dir string) (int, error) {
	fd, err := openIn(root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	at, made := root, ""
	for _, name := range strings.Split(strings.Trim(dir, "/"), "/") {
		made += "/" + name
		fd, err := openIn(root, made, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) {
			if err := unix.Mkdirat(at, name, 0o755); err != nil {
				return -1, &fs.PathError{Op: "mkdir", Path: made, Err: err}
			}
			fd, err = openIn(root, made, unix.O_PATH|unix.O_DIRECTORY)
		}
		if at != root {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = fd
	}
	return at, nil
}
