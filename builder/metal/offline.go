//go:build linux

package metal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dorunner/dorunner-bake/builder"
)

// offline provisions a mounted disk, chrooted in private namespaces: no machine at all.
type offline struct {
	file  string // the copy of the base
	root  partition
	space *space
	log   string // of the disk's own dockerd
}

// offlineTools are the programs that the method needs of this machine.
var offlineTools = map[string]string{"unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "blkid": "util-linux",
	"fstrim": "util-linux", "chroot": "coreutils", "e2fsck": "e2fsprogs", "resize2fs": "e2fsprogs"}

func (o *offline) check(_ context.Context, env *builder.Env) []error {
	errs := missingTools(offlineTools)
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("the offline method mounts disks and needs root: use sudo, or --method vm"))
	}
	if arch := env.Plan.Spec.Image.Arch; arch != runtime.GOARCH {
		errs = append(errs, fmt.Errorf("the offline method runs the image's own programs, and this machine is %s, not %s: use --method vm", runtime.GOARCH, arch))
	}
	return errs
}

func (o *offline) start(ctx context.Context, env *builder.Env, b base) (builder.Guest, error) {
	o.file = filepath.Join(env.WorkDir, "disk.raw")
	o.log = filepath.Join(env.WorkDir, "dockerd.log")
	if err := o.copyBase(ctx, env, b); err != nil {
		return nil, explainFull(err, env.WorkDir)
	}
	mnt := filepath.Join(env.WorkDir, "root")
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		return nil, err
	}
	s, err := newSpace(ctx, mnt)
	if err != nil {
		return nil, err
	}
	o.space = s
	undo := func(ctx context.Context, _ builder.Entry) error { return s.close(ctx) }
	if err := record(env, kindSpace, mnt, undo); err != nil {
		return nil, errors.Join(err, s.close(context.WithoutCancel(ctx)))
	}
	if err := o.mount(ctx, env.Progress); err != nil {
		return nil, err
	}
	return &chrootGuest{space: s, env: env, log: o.log}, nil
}

// copyBase makes the disk of the wanted size, its root partition grown to the end.
func (o *offline) copyBase(ctx context.Context, env *builder.Env, b base) error {
	// Holes stay holes, and where the file system can, nothing is copied at all.
	if err := run(ctx, "cp", "--reflink=auto", "--sparse=always", b.file, o.file); err != nil {
		return fmt.Errorf("copying the base disk: %w", err)
	}
	f, err := os.OpenFile(o.file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := int64(env.Plan.Spec.Image.DiskGB) << 30
	if info.Size() > size {
		return fmt.Errorf("the base disk is %d GiB large, and image.disk_gb asks for %d: ask for more", (info.Size()+1<<30-1)>>30, size>>30)
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	t, err := readTable(f)
	if err != nil {
		return err
	}
	root, err := findRoot(ctx, o.file, t)
	if err != nil {
		return err
	}
	if o.root, err = t.grow(f, root, size); err != nil {
		return fmt.Errorf("growing the root partition: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return o.growRoot(ctx)
}

// findRoot is the largest partition with a file system.
func findRoot(ctx context.Context, disk string, t *table) (partition, error) {
	var root partition
	var kind string
	for _, p := range t.partitions {
		if k := probe(ctx, disk, p)["TYPE"]; k != "" && k != "swap" && p.size > root.size {
			root, kind = p, k
		}
	}
	switch kind {
	case "ext4":
		return root, nil
	case "":
		return root, errors.New("no partition of the base disk holds a file system")
	}
	return root, fmt.Errorf("the base disk's root is %s, and the offline method knows ext4: use --method vm", kind)
}

// probe tells what blkid says of a partition: TYPE, LABEL, UUID.
func probe(ctx context.Context, disk string, p partition) map[string]string {
	text, _ := output(ctx, "blkid", "-p", "-o", "export", "-O", strconv.FormatInt(p.start, 10), "-S", strconv.FormatInt(p.size, 10), disk)
	found := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			found[k] = v
		}
	}
	return found
}

// growRoot grows the root's file system to its partition. It is done unmounted: it then works without CAP_SYS_RESOURCE,
// which containers lack.
func (o *offline) growRoot(ctx context.Context) error {
	device, err := openLoop(o.file, o.root)
	if err != nil {
		return err
	}
	defer device.Close()
	var exit *builder.ExitError
	// resize2fs asks for a check; 1 says that something was mended.
	if err := run(ctx, "e2fsck", "-fp", device.Name()); err != nil && (!errors.As(err, &exit) || exit.Code != 1) {
		return fmt.Errorf("checking the base disk's root: %w", err)
	}
	if err := run(ctx, "resize2fs", device.Name()); err != nil {
		return fmt.Errorf("growing the root file system: %w", err)
	}
	return nil
}

// mount mounts the disk as its own /etc/fstab would.
func (o *offline) mount(ctx context.Context, p builder.Progress) error {
	s := o.space
	if err := s.mount(ctx, o.file, o.root, s.root, ""); err != nil {
		return fmt.Errorf("mounting the root partition: %w", err)
	}
	root, err := s.open()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	fd, err := openIn(root, "/etc/os-release", unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return errors.New("the base disk's largest partition holds no operating system (/etc/os-release is not there): use --method vm")
	}
	if err != nil {
		return err
	}
	unix.Close(fd)
	if err := o.mountOthers(ctx, root, p); err != nil {
		return err
	}
	return s.mountSystem(ctx)
}

// mountOthers mounts /boot and what is below it: packages write there.
func (o *offline) mountOthers(ctx context.Context, root int, p builder.Progress) error {
	var fstab bytes.Buffer
	if err := readFile(root, "/etc/fstab", &fstab); err != nil {
		return nil // a disk with one partition needs none
	}
	f, err := os.Open(o.file)
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := readTable(f)
	if err != nil {
		return err
	}
	for line := range strings.Lines(fstab.String()) {
		w := strings.Fields(line)
		if len(w) < 3 || strings.HasPrefix(w[0], "#") || (w[1] != "/boot" && !strings.HasPrefix(w[1], "/boot/")) {
			continue
		}
		key, value, _ := strings.Cut(w[0], "=")
		i := slices.IndexFunc(t.partitions, func(one partition) bool {
			return value != "" && probe(ctx, o.file, one)[key] == strings.Trim(value, `"`)
		})
		if i < 0 {
			return fmt.Errorf("the disk's /etc/fstab mounts %s on %s, and no partition is that: use --method vm", w[0], w[1])
		}
		// The root's mount is ours, but what it mounts is named by its own fstab.
		err := o.space.mount(ctx, o.file, t.partitions[i], filepath.Join(o.space.root, filepath.Clean(w[1])), "")
		if err != nil && w[2] == "vfat" && strings.Contains(err.Error(), "unknown filesystem type") {
			// Only a new boot loader is written there, and a bake installs none.
			p.Warn("%s stays closed: this kernel knows no vfat", w[1])
			continue
		}
		if err != nil {
			return fmt.Errorf("mounting %s: %w", w[1], err)
		}
	}
	return nil
}

func (o *offline) stop(ctx context.Context, env *builder.Env) error {
	if err := o.space.unmount(ctx); err != nil {
		return err
	}
	if err := o.space.close(ctx); err != nil {
		return err
	}
	if err := env.Ledger.Done(kindSpace, o.space.root); err != nil {
		return err
	}
	if err := run(ctx, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", o.file, o.root.start)); err != nil {
		return fmt.Errorf("the baked file system is damaged: %w", err)
	}
	return nil
}

func (o *offline) disk() (string, string, bool) { return o.file, "raw", true }

// console has only the disk's own dockerd to tell of.
func (o *offline) console() string { return tailOf(o.log) }

// chrootGuest is the mounted disk as a Guest.
type chrootGuest struct {
	space *space
	env   *builder.Env
	log   string
}

var (
	_ builder.Guest    = (*chrootGuest)(nil)
	_ builder.Unbooted = (*chrootGuest)(nil)
)

func (g *chrootGuest) Run(ctx context.Context, c builder.Command) error {
	cmd := g.space.chroot(nil, c.Args, c.Env)
	cmd.Stdin = c.Stdin
	return runCommand(ctx, cmd, c.Args, c.Stdout, c.Stderr)
}

func (g *chrootGuest) Upload(ctx context.Context, file string, r io.Reader, mode fs.FileMode) error {
	root, err := g.space.open()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return explainFull(writeFile(root, file, whileAlive(ctx, r), mode), g.env.WorkDir)
}

func (g *chrootGuest) Download(_ context.Context, file string, w io.Writer) error {
	root, err := g.space.open()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return readFile(root, file, w)
}

// StartDocker runs the image's own containerd and dockerd as its units would, in a network of their own.
func (g *chrootGuest) StartDocker(ctx context.Context) (func(context.Context) error, error) {
	cgroup := "dorunner-" + g.env.BakeID
	if err := record(g.env, kindCgroup, cgroup, func(context.Context, builder.Entry) error { return removeCgroup(cgroup) }); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	n, err := newNetwork(localRegistries(g.env.Plan))
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	var running []*daemon
	stop := func(ctx context.Context) error {
		var errs []error
		for _, d := range slices.Backward(running) { // dockerd before its containerd
			errs = append(errs, d.stop(ctx))
		}
		errs = append(errs, n.close())
		if err := removeCgroup(cgroup); err != nil {
			errs = append(errs, err)
		} else {
			errs = append(errs, g.env.Ledger.Done(kindCgroup, cgroup))
		}
		return errors.Join(append(errs, log.Close())...)
	}
	for _, argv := range [][]string{
		// The same containerd as on the booted machine: newer engines keep images in it.
		{"containerd"},
		{"dockerd", "--host=unix:///run/docker.sock", "--containerd=/run/containerd/containerd.sock",
			"--iptables=false", "--ip6tables=false", "--bridge=none", "--cgroup-parent=/" + cgroup},
	} {
		d, err := startDaemon(g.space.chroot(n.enter(), argv, n.env()), log)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("starting the image's %s: %w", argv[0], err), stop(context.WithoutCancel(ctx)))
		}
		running = append(running, d)
		socket := "/run/docker.sock"
		if argv[0] == "containerd" {
			socket = "/run/containerd/containerd.sock"
		}
		if err := g.waitFor(ctx, d, socket); err != nil {
			return nil, errors.Join(fmt.Errorf("the image's %s does not come up: %w\n%s", argv[0], err, tailOf(g.log)), stop(context.WithoutCancel(ctx)))
		}
	}
	return stop, nil
}

// daemonTimeout is how long the image's dockerd may take to answer; it takes well below a second.
const daemonTimeout = time.Minute

// waitFor waits until a daemon has made its socket, which both do last.
func (g *chrootGuest) waitFor(ctx context.Context, d *daemon, socket string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, daemonTimeout, fmt.Errorf("no answer within %v", daemonTimeout))
	defer cancel()
	root, err := g.space.open()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if fd, err := openIn(root, socket, unix.O_PATH); err == nil {
			unix.Close(fd)
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.exited:
			return errors.New("it ended at once")
		case <-tick.C:
		}
	}
}

// daemon is a long-running program of the disk.
type daemon struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func startDaemon(cmd *exec.Cmd, log *os.File) (*daemon, error) {
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemon{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(d.exited)
	}()
	return d, nil
}

// stop asks the daemon to end, and makes it after a while.
func (d *daemon) stop(ctx context.Context) error {
	pid := d.cmd.Process.Pid // nsenter's; its only child is the daemon
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(n, syscall.SIGTERM)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	select {
	case <-d.exited:
		return nil
	case <-ctx.Done():
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		<-d.exited
		return fmt.Errorf("%s did not end by itself", d.cmd.Args[len(d.cmd.Args)-1])
	}
}

// removeCgroup removes a group of ours below every controller (cgroup v1) or below the root (v2), and what
// containers left in it.
func removeCgroup(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, _ := filepath.Glob(pattern + name)
		for _, top := range found {
			var dirs []string
			_ = filepath.WalkDir(top, func(p string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					dirs = append(dirs, p)
				}
				return nil
			})
			for _, d := range slices.Backward(dirs) {
				// Not RemoveAll: the files in a group cannot be removed, the directory can.
				if err := syscall.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, fmt.Errorf("removing the cgroup %s: %w", d, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}
