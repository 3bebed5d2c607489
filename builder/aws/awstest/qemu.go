//go:build linux

package awstest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// QEMU runs instances as virtual machines of this computer, emulated, of one processor. Each has a loopback address of its own,
// 127.0.1.N, whose port 22 leads to its SSH (which takes root), instance metadata at 169.254.169.254 and EC2's mark in its
// firmware's tables. It reaches this computer's loopback addresses as 169.254.0.2, and what this computer reaches. Close it.
type QEMU struct {
	Dir  string // where disks and consoles lie
	Base string // the raw disk of images that were not made in this account
	MiB  int    // memory of a machine; default 1024

	mu       sync.Mutex
	machines map[string]*emulated
}

// emulated is one machine.
type emulated struct {
	addr, disk, console string
	cmd                 *exec.Cmd
	monitor             io.Writer
	metadata            *http.Server
	off                 chan struct{} // closed once it is
}

var _ interface {
	Machines
	Disks
} = (*QEMU)(nil)

// HostInGuest is where a machine finds what listens on this computer's loopback address.
const HostInGuest = "169.254.0.2"

// Start boots a machine from a copy of the disk that only what it writes takes room in.
func (q *QEMU) Start(m Machine) (string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.machines == nil {
		q.machines = map[string]*emulated{}
	}
	from := m.Disk
	if from == "" {
		from = q.Base
	}
	addr, err := q.address()
	if err != nil {
		return "", err
	}
	e := &emulated{addr: addr, disk: filepath.Join(q.Dir, m.ID+".qcow2"), console: filepath.Join(q.Dir, m.ID+".log"), off: make(chan struct{})}
	create := []string{"create", "-q", "-f", "qcow2", "-F", "raw", "-b", from, e.disk}
	if m.DiskGiB > 0 {
		create = append(create, fmt.Sprint(m.DiskGiB)+"G")
	}
	if text, err := exec.Command("qemu-img", create...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("qemu-img: %w: %s", err, text)
	}
	m.MAC, m.PrivateIP = "02:00:00:00:00:01", "169.254.0.15"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	e.metadata = &http.Server{Handler: Metadata(m), ReadHeaderTimeout: time.Minute}
	e.metadata.SetKeepAlivesEnabled(false) // a connection is a process of QEMU's
	go func() { _ = e.metadata.Serve(l) }()
	mib := q.MiB
	if mib == 0 {
		mib = 1024
	}
	_, port, _ := net.SplitHostPort(l.Addr().String()) // net made it
	// A bash whose input is a socket takes itself for a remote login and reads ~/.bashrc, for each connection.
	relay := fmt.Sprintf(`bash --norc -c 'exec 3<>/dev/tcp/127.0.0.1/%s 4<&0; cat <&4 >&3 & cat <&3; kill $!'`, port)
	hex := strings.TrimPrefix(m.ID, "i-")
	hex = "ec2" + strings.Repeat("0", 29-len(hex)) + hex
	uuid := strings.Join([]string{hex[:8], hex[8:12], hex[12:16], hex[16:20], hex[20:]}, "-")
	// Without IPv6, which most subnets lack too: cloud-init asks for EC2's metadata over it as well, and would wait for an answer.
	// The addresses are not where slirp puts them in so wide a network.
	e.cmd = exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg", "-cpu", "max",
		"-smp", "1", "-m", fmt.Sprintf("%dM", mib), "-display", "none", "-serial", "file:"+e.console, "-qmp", "stdio",
		"-smbios", "type=0,vendor=Amazon EC2", "-smbios", "type=1,manufacturer=Amazon EC2,product="+m.Type+",serial="+uuid+",uuid="+uuid,
		"-drive", "if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,detect-zeroes=unmap,file="+e.disk,
		"-device", "virtio-blk-pci,drive=disk,bootindex=1,serial="+strings.ReplaceAll(m.Volume, "-", ""),
		"-netdev", fmt.Sprintf("user,id=net,ipv6=off,net=169.254.0.0/16,host="+HostInGuest+",dns=169.254.0.3,dhcpstart="+m.PrivateIP+",hostfwd=tcp:%s:22-:22,guestfwd=tcp:169.254.169.254:80-cmd:%s", addr, strings.ReplaceAll(relay, ",", ",,")),
		"-device", "virtio-net-pci,netdev=net,romfile=,mac="+m.MAC, "-device", "virtio-rng-pci")
	if err := e.boot(); err != nil {
		return "", errors.Join(err, e.metadata.Close())
	}
	q.machines[m.ID] = e
	return addr, nil
}

// boot starts QEMU on a thread that lives as long, so that it ends with this process.
func (e *emulated) boot() error {
	var err error
	if e.monitor, err = e.cmd.StdinPipe(); err != nil {
		return err
	}
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	e.cmd.Stderr = os.Stderr
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := e.cmd.Start()
		started <- err
		if err == nil {
			_ = e.cmd.Wait() // how it ended says its console
			close(e.off)
		}
	}()
	return <-started
}

// address finds a loopback address whose port 22 is free. Other tests may look for one at the same time: they begin elsewhere.
func (q *QEMU) address() (string, error) {
	for i := range 250 {
		addr := fmt.Sprintf("127.0.1.%d", 2+(os.Getpid()+i)%250)
		used := false
		for _, e := range q.machines {
			used = used || e.addr == addr
		}
		if used {
			continue
		}
		if l, err := net.Listen("tcp", addr+":22"); err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("port 22 is free on no address of 127.0.1.0/24: machines need root")
}

func (q *QEMU) machine(id string) *emulated {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.machines[id]
}

// Stop presses the power button.
func (q *QEMU) Stop(id string) error {
	e := q.machine(id)
	if e == nil {
		return fmt.Errorf("there is no machine %s", id)
	}
	// A machine that has ended needs no asking.
	_, _ = io.WriteString(e.monitor, `{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}`+"\n")
	return nil
}

// Console is what it printed so far.
func (q *QEMU) Console(id string) string {
	e := q.machine(id)
	if e == nil {
		return ""
	}
	text, _ := os.ReadFile(e.console) // QEMU makes it
	return string(text[max(0, len(text)-64<<10):])
}

// Off tells that it has ended, by itself or because of Stop.
func (q *QEMU) Off(id string) bool {
	e := q.machine(id)
	if e == nil {
		return true
	}
	select {
	case <-e.off:
		return true
	default:
		return false
	}
}

// Disk writes its disk to a file of blocks.
func (q *QEMU) Disk(id, file string) error {
	e := q.machine(id)
	if e == nil || !q.Off(id) {
		return fmt.Errorf("the disk of %s cannot be had", id)
	}
	if text, err := exec.Command("qemu-img", "convert", "-O", "raw", e.disk, file).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, text)
	}
	return nil
}

// Remove ends it at once and removes its disk.
func (q *QEMU) Remove(id string) {
	e := q.machine(id)
	if e == nil {
		return
	}
	_ = e.cmd.Process.Kill() // it may have ended
	<-e.off
	_ = e.metadata.Close()
	_ = os.Remove(e.disk) // in a directory of the test's
}

// Close ends all.
func (q *QEMU) Close() {
	q.mu.Lock()
	var ids []string
	for id := range q.machines {
		ids = append(ids, id)
	}
	q.mu.Unlock()
	for _, id := range ids {
		q.Remove(id)
	}
}
