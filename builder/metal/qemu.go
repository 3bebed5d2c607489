package metal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/internal/tail"
)

// hardware is a virtual machine to start.
type hardware struct {
	Arch     string
	CPUs     int
	MemoryGB int
	Accel    string // kvm or tcg
	Disk     string // a qcow2 file, written to
	Seed     string // a NoCloud seed
	Console  string // the file that the serial console goes to
	Forward  []string
	// Detached leaves the machine running when this program ends.
	Detached bool
}

// emulators are QEMU's programs and packages by architecture.
var emulators = map[string]struct{ program, pkg, machine, firmware string }{
	"amd64": {"qemu-system-x86_64", "qemu-system-x86", "q35", ""},
	"arm64": {"qemu-system-aarch64", "qemu-system-arm", "virt", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"},
}

// checkQEMU finds what keeps virtual machines of an architecture from being started here.
func checkQEMU(arch string) []error {
	e, ok := emulators[arch]
	if !ok {
		return []error{fmt.Errorf("there is no emulator for %s", arch)}
	}
	need := map[string]string{e.program: e.pkg, "qemu-img": "qemu-utils"}
	if e.firmware != "" {
		need[e.firmware] = "qemu-efi-aarch64"
	}
	return missingTools(need)
}

// args is QEMU's command line.
func (h hardware) args() []string {
	e := emulators[h.Arch]
	cpu := "max"
	// One thread for all processors: with a thread each, QEMU 7.2 now and then keeps running a stale translation of code
	// that the guest's kernel has just patched, and that processor spins for ever (seen in booting guests).
	accel := "tcg,thread=single"
	if h.Accel == "kvm" {
		cpu, accel = "host", "kvm"
	}
	a := []string{
		"-nodefaults", "-no-user-config", "-machine", e.machine, "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(h.CPUs), "-m", strconv.Itoa(h.MemoryGB) + "G", "-display", "none", "-serial", "file:" + h.Console,
		// Nothing is lost with cache=unsafe that a bake that failed would need. Blocks that the guest discards or zeroes
		// are given back.
		"-drive", "if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,detect-zeroes=unmap,file=" + comma(h.Disk),
		"-device", "virtio-blk-pci,drive=disk,bootindex=1",
		"-netdev", strings.Join(append([]string{"user,id=net"}, h.Forward...), ","),
		"-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-rng-pci",
	}
	if h.Seed != "" {
		a = append(a, "-drive", "if=none,id=seed,format=raw,readonly=on,file="+comma(h.Seed), "-device", "virtio-blk-pci,drive=seed")
	}
	if e.firmware != "" {
		a = append(a, "-bios", e.firmware)
	}
	return a
}

// comma writes a file name for one of QEMU's options.
func comma(file string) string { return strings.ReplaceAll(file, ",", ",,") }

// forward has connections to a loopback port of this machine reach a port of the guest.
func forward(host string, hostPort, guestPort int) string {
	return fmt.Sprintf("hostfwd=tcp:%s:%d-:%d", host, hostPort, guestPort)
}

// process is a running QEMU.
type process struct {
	cmd    *exec.Cmd
	last   tail.Buffer
	exited chan struct{} // closed once it has ended
	err    error         // why, then
	// monitor takes QMP commands; nil for a detached machine.
	monitor io.Writer
}

// startQEMU starts a machine.
func startQEMU(h hardware) (*process, error) {
	p := &process{cmd: exec.Command(emulators[h.Arch].program, h.args()...), exited: make(chan struct{})}
	if h.Detached {
		detach(p.cmd)
	} else {
		// The monitor needs neither a socket nor a port. What it answers is of no interest.
		p.cmd.Args = append(p.cmd.Args, "-qmp", "stdio")
		p.cmd.Stderr = &p.last
		stdin, err := p.cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		p.monitor = stdin
		ownGroup(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// failure says why QEMU ended by itself.
func (p *process) failure() error {
	text := p.last.String()
	if text == "" && p.err != nil {
		text = p.err.Error()
	}
	if text == "" {
		return errors.New("the machine powered off")
	}
	return fmt.Errorf("QEMU ended: %s", text)
}

// powerButton asks the guest to shut down, as its power button would.
func (p *process) powerButton() {
	if p.monitor != nil { // a machine that has ended needs no asking
		_, _ = io.WriteString(p.monitor, `{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}`+"\n")
	}
}

// kill ends the machine and waits for it.
func (p *process) kill(ctx context.Context) error {
	_ = p.cmd.Process.Kill()
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("QEMU (process %d) does not end: %w", p.cmd.Process.Pid, context.Cause(ctx))
	}
}

// checkPort tells that a loopback port is taken.
func checkPort(host string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("port %d of %s is in use: choose another with --ssh-port, or none for a free one", port, host)
	}
	return l.Close()
}

// freePort chooses a loopback port.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// chooseAccel decides between KVM and TCG, QEMU's emulation. A /dev/kvm says little: in some virtual machines it is
// there and guests hang. So "auto" asks for the processor's module and has a guest run.
func chooseAccel(ctx context.Context, env interface{ Info(string, ...any) }, want, arch string) (string, error) {
	if want == "tcg" {
		return want, nil
	}
	why := checkKVM(ctx, arch)
	switch {
	case why == nil:
		return "kvm", nil
	case want == "kvm":
		return "", fmt.Errorf("KVM does not run guests here: %w; use --accel tcg", why)
	}
	env.Info("KVM does not run guests here (%v): emulating, which is slower", why)
	return "tcg", nil
}

// probeCode is a boot sector: mov dx,0xf4; mov al,0x21; out dx,al; hlt. With QEMU's isa-debug-exit at 0xf4 the exit
// status is 0x21<<1|1.
var probeCode = []byte{0xba, 0xf4, 0x00, 0xb0, 0x21, 0xee, 0xf4}

const probeTimeout = 10 * time.Second

func checkKVM(ctx context.Context, arch string) error {
	if runtime.GOOS != "linux" || arch != runtime.GOARCH {
		return fmt.Errorf("the guest is linux/%s and this is %s/%s", arch, runtime.GOOS, runtime.GOARCH)
	}
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	dev.Close()
	if arch != "amd64" {
		return nil
	}
	if _, err := os.Stat("/sys/module/kvm_intel"); err != nil {
		if _, err := os.Stat("/sys/module/kvm_amd"); err != nil {
			return errors.New("neither kvm_intel nor kvm_amd drives /dev/kvm")
		}
	}
	dir, err := os.MkdirTemp("", "dorunner-kvm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := make([]byte, 1<<20)
	copy(disk, probeCode)
	disk[510], disk[511] = 0x55, 0xaa
	file := filepath.Join(dir, "probe")
	if err := os.WriteFile(file, disk, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, fmt.Errorf("a tiny guest did not end within %v", probeTimeout))
	defer cancel()
	err = run(ctx, emulators[arch].program, "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "64M",
		"-display", "none", "-drive", "format=raw,file="+comma(file), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04")
	var exit *builder.ExitError
	if errors.As(err, &exit) && exit.Code == 0x21<<1|1 {
		return nil
	}
	if err == nil {
		err = errors.New("a tiny guest ended early")
	}
	return err
}

// overlay makes a qcow2 file that holds what differs from backing; size 0 keeps the backing file's. Its clusters are as
// large as a file system's blocks, so that each block the guest discards reads as zeros afterwards.
func overlay(ctx context.Context, file, backing, format string, size int64) error {
	args := []string{"create", "-q", "-f", "qcow2", "-F", format, "-b", backing, "-o", "cluster_size=4096", file}
	if size > 0 {
		args = append(args, strconv.FormatInt(size, 10))
	}
	return run(ctx, "qemu-img", args...)
}
