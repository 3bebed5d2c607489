//go:build linux

package metal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/internal/tail"
)

// space is a private mount and pid namespace in which a disk is mounted. A holder process keeps it alive. When the
// holder ends, however that comes, the kernel kills every process inside, and with the last one go the mounts and,
// through autoclear, their loop devices: a killed bake leaves nothing of them behind.
type space struct {
	holder *exec.Cmd
	root   string // where the disk is mounted, inside
	exited chan struct{}
}

// newSpace opens a space for mounts at root, an existing directory.
func newSpace(ctx context.Context, root string) (*space, error) {
	// The shell reaps what daemons leave behind; it is process 1 in there.
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
		"/bin/sh", "-c", "echo ready; while :; do sleep 3600 & wait; done")
	var last tail.Buffer
	cmd.Stderr = &last
	dieWithUs(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("opening private namespaces: %w", err)
	}
	s := &space{holder: cmd, root: root, exited: make(chan struct{})}
	ready := make(chan bool, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line == "ready\n"
		_ = cmd.Wait()
		close(s.exited)
	}()
	select {
	case ok := <-ready:
		if !ok {
			<-s.exited
			return nil, fmt.Errorf("private namespaces cannot be opened here: %s; use --method vm", last.String())
		}
		return s, nil
	case <-ctx.Done():
		_ = s.close(context.WithoutCancel(ctx))
		return nil, context.Cause(ctx)
	}
}

// close ends everything inside and waits for it.
func (s *space) close(ctx context.Context) error {
	_ = s.holder.Process.Kill()
	select {
	case <-s.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d does not end: %w", s.holder.Process.Pid, context.Cause(ctx))
	}
}

// command prepares a program of this machine to run inside. before, such as unshare --net, goes around it.
func (s *space) command(argv ...string) *exec.Cmd {
	pid := s.holder.Process.Pid
	cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", pid),
		fmt.Sprintf("--pid=/proc/%d/ns/pid_for_children", pid), "--"}, argv...)...)
	cmd.Dir = "/"
	dieWithUs(cmd)
	// nsenter forks; a group of their own lets both be killed, and keeps a terminal's Ctrl-C to us, who unwind.
	cmd.SysProcAttr.Setpgid = true
	return cmd
}

// run runs a program of this machine inside.
func (s *space) run(ctx context.Context, argv ...string) error {
	return runCommand(ctx, s.command(argv...), argv, nil, nil)
}

// chroot prepares a program of the mounted disk.
func (s *space) chroot(around []string, argv, env []string) *exec.Cmd {
	cmd := s.command(append(append(around, "chroot", s.root), argv...)...)
	cmd.Env = append(guestEnv(), env...)
	return cmd
}

// guestEnv is what every program of the disk sees of this machine: how to reach the network.
func guestEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}
	for _, k := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if v := os.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// runCommand runs a prepared command until its context ends, killing its whole group then; argv is what errors name.
func runCommand(ctx context.Context, cmd *exec.Cmd, argv []string, stdout, stderr io.Writer) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var last tail.Buffer
	cmd.Stdout, cmd.Stderr = tee(&last, stdout), tee(&last, stderr)
	cmd.WaitDelay = 2 * time.Second // for a daemon that kept the output open
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	stop()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", argv[0], context.Cause(ctx))
	case errors.As(err, &exit):
		return &builder.ExitError{Args: argv, Code: exit.ExitCode(), Tail: last.String()}
	case errors.Is(err, exec.ErrWaitDelay):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	return nil
}

func tee(last *tail.Buffer, w io.Writer) io.Writer {
	if w == nil {
		return last
	}
	return io.MultiWriter(last, w)
}

// mount mounts a partition of a raw disk.
func (s *space) mount(ctx context.Context, disk string, p partition, where, options string) error {
	o := fmt.Sprintf("loop,offset=%d,sizelimit=%d", p.start, p.size)
	if options != "" {
		o += "," + options
	}
	return s.run(ctx, "mount", "-o", o, disk, where)
}

// mountSystem gives the root what programs expect: /proc, /sys, a small /dev that holds none of this machine's disks,
// an empty /run and /tmp, and the way to find hosts.
func (s *space) mountSystem(ctx context.Context) error {
	dev := filepath.Join(s.root, "dev")
	steps := [][]string{
		{"mount", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", s.root + "/proc"},
		{"mount", "--rbind", "/sys", s.root + "/sys"},
		{"mount", "-t", "tmpfs", "-o", "mode=0755,nosuid", "dev", dev},
		{"mkdir", dev + "/pts", dev + "/shm"},
		{"mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620,gid=5", "devpts", dev + "/pts"},
		{"mount", "-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "shm", dev + "/shm"},
		{"ln", "-s", "pts/ptmx", dev + "/ptmx"},
		{"ln", "-s", "/proc/self/fd", dev + "/fd"},
		{"ln", "-s", "/proc/self/fd/0", dev + "/stdin"},
		{"ln", "-s", "/proc/self/fd/1", dev + "/stdout"},
		{"ln", "-s", "/proc/self/fd/2", dev + "/stderr"},
		{"mount", "-t", "tmpfs", "-o", "mode=0755,nosuid,nodev", "run", s.root + "/run"},
		{"mkdir", "-m", "1777", s.root + "/run/lock"},
	}
	for name, number := range map[string]string{"null": "3", "zero": "5", "full": "7", "random": "8", "urandom": "9"} {
		steps = append(steps, []string{"mknod", "-m", "666", dev + "/" + name, "c", "1", number})
	}
	steps = append(steps, []string{"mknod", "-m", "666", dev + "/tty", "c", "5", "0"})
	for _, argv := range steps {
		if err := s.run(ctx, argv...); err != nil {
			return fmt.Errorf("preparing the disk: %w", err)
		}
	}
	return s.resolver(ctx)
}

// resolver lets programs of the disk find hosts as this machine does. The image's own resolv.conf mostly points into
// /run, which is ours while we bake; a file of its own is covered.
func (s *space) resolver(ctx context.Context) error {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil // no network here, and none there
	}
	root, err := s.open()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := writeFile(root, "/run/resolv.conf", bytes.NewReader(host), 0o644); err != nil {
		return err
	}
	target := "/etc/resolv.conf"
	if link, err := readLink(root, target); err == nil {
		if target = link; !filepath.IsAbs(link) {
			target = filepath.Join("/etc", link)
		}
		if strings.HasPrefix(target, "/run/") {
			return writeFile(root, target, bytes.NewReader(host), 0o644)
		}
	}
	if fd, err := openIn(root, target, unix.O_PATH); err == nil {
		unix.Close(fd)
		return s.run(ctx, "chroot", s.root, "mount", "--bind", "/run/resolv.conf", target)
	}
	return nil
}

// open gives the mounted root as a directory descriptor. Close it: an open one keeps the disk mounted.
func (s *space) open() (int, error) {
	dir := fmt.Sprintf("/proc/%d/root%s", s.holder.Process.Pid, s.root)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the mounted disk: %w", err)
	}
	return fd, nil
}

// unmount ends what still runs inside, hands free blocks back to the file system that holds the disk, which also
// zeroes them, and unmounts everything.
func (s *space) unmount(ctx context.Context) error {
	for _, argv := range [][]string{
		{"sh", "-c", "kill -KILL -1; :"}, // everything but process 1 and itself
		{"umount", "-R", s.root + "/proc"},
		{"umount", "-R", "-l", s.root + "/sys"},
		{"umount", "-R", s.root + "/dev"},
		{"umount", "-R", s.root + "/run"},
		{"sync", "-f", s.root},
		{"fstrim", s.root},
		{"umount", "-R", s.root},
	} {
		if err := s.run(ctx, argv...); err != nil {
			return fmt.Errorf("closing the disk: %w", err)
		}
	}
	return nil
}
