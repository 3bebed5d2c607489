package firstboot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DockerSocket is where dockerd listens, and what the runner gets to start its jobs with.
const DockerSocket = "/var/run/docker.sock"

// Host is the machine: the boot program's only touch of the world. Tests replace its parts one by one; waits use
// the time package, so that a test inside testing/synctest needs no clock of its own.
type Host struct {
	Root    string            // "/" on a machine: every path of ours lies below it
	Socket  string            // the Docker socket, seen from this machine; bound into the runner's container
	Docker  http.RoundTripper // reaches dockerd; the request's host means nothing
	HTTP    http.RoundTripper // reaches GitLab
	Local   http.RoundTripper // reaches the runner's metrics in its container, past any proxy
	Now     func() time.Time  // the wall clock, which may be wrong by years on a first boot
	Uptime  func() float64    // seconds since power-on
	Exec    func(ctx context.Context, name string, args ...string) (string, error)
	Getenv  func(string) string
	Console io.Writer // one line when the machine's state changes
	Log     io.Writer // what happens, line by line; systemd's journal on a machine
}

// Machine is the host that this program runs on.
func Machine() *Host {
	h := &Host{Root: "/", Socket: DockerSocket, Now: time.Now, Uptime: uptime, Exec: run, Getenv: os.Getenv, Console: console{}, Log: os.Stderr}
	h.Docker = SocketTransport(DockerSocket)
	h.HTTP = Transport(nil, time.Now)
	h.Local = &http.Transport{ResponseHeaderTimeout: 5 * time.Second}
	return h
}

// SocketTransport reaches a Docker daemon through its unix socket.
func SocketTransport(path string) http.RoundTripper {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		MaxIdleConns: 4,
	}
}

// Transport reaches GitLab. Roots are the machine's own when nil; now decides whether a certificate is valid yet.
func Transport(roots *x509.CertPool, now func() time.Time) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 20 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		TLSClientConfig:       &tls.Config{RootCAs: roots, Time: now, MinVersion: tls.VersionTLS12},
	}
}

// path is where an absolute path of the machine lies on this host.
func (h *Host) path(p string) string { return filepath.Join(h.Root, p) }

func (h *Host) logf(format string, args ...any) { _, _ = fmt.Fprintf(h.Log, format+"\n", args...) }

// readFile reads a file of the machine; a missing one is no error and no data.
func (h *Host) readFile(p string) ([]byte, error) {
	b, err := os.ReadFile(h.path(p))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// writeFile makes a file appear whole or not at all, and outlive a power cut: temporary name, fsync, rename, fsync
// of the directory. It is for root alone (0600), and so are the directories that are made for it.
func (h *Host) writeFile(p string, data []byte) error {
	p = h.path(p)
	dir := filepath.Dir(p)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return diskError(err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(p)+".tmp-")
	if err != nil {
		return diskError(err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), p)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the reason is in err
		return diskError(err)
	}
	return diskError(syncDir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockFile keeps two boots, or a boot and a drain, from working at the same time: a runner would be registered twice.
const lockFile = "/run/dorunner/lock"

// lock waits for its turn. The kernel lets go of it with the process, however that ends.
func (h *Host) lock(ctx context.Context) (unlock func(), err error) {
	p := h.path(lockFile)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return nil, diskError(err)
	}
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, diskError(err)
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", lockFile, err), f.Close())
		}
		if !told {
			h.logf("another dorunner-firstboot works on this machine: waiting for it")
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, errors.Join(fmt.Errorf("another dorunner-firstboot works on this machine: %w", err), f.Close())
		}
	}
}

// diskError says what to do about a disk that takes nothing: no retry mends it.
func diskError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return final(err, "the disk is full: free space or give the machine a larger disk")
	case errors.Is(err, syscall.EROFS):
		return final(err, "the file system is read-only: see dmesg for disk errors, or remount it read-write")
	case errors.Is(err, os.ErrPermission):
		return final(err, "run as root")
	}
	return err
}

// run executes a program and gives its output.
func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLine(string(out)))
	}
	return string(out), nil
}

// uptime reads /proc/uptime; 0 when it cannot.
func uptime() float64 {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	s, _ := strconv.ParseFloat(first, 64) // the kernel's own format; 0 says "unknown"
	return s
}

// console writes to the machine's console without ever waiting for it: a serial line may be stuck for ever.
type console struct{}

func (console) Write(p []byte) (int, error) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	_ = f.SetWriteDeadline(time.Now().Add(2 * time.Second)) // not every console can be polled
	return f.Write(p)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
