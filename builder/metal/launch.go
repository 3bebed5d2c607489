package metal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// LaunchOptions say what to boot and who the machines are.
type LaunchOptions struct {
	Image    string // a disk image; nothing is written to it
	Arch     string // amd64 or arm64
	Count    int    // machines, all the same but for their instance id
	CPUs     int    // of each
	MemoryGB int
	DiskGB   int    // the root grows to this; an image that is larger stays as it is
	Accel    string // auto, kvm or tcg
	UserData []byte
	Forward  []Forward
	Dir      string // for each machine's seed.iso and console log; the disks lie in a directory of their own below it
	Detached bool   // leave the machines running when this program ends
	Progress builder.Progress
}

// Forward has a loopback port of this machine reach a port of the first machine; the next machine has the next port.
type Forward struct{ Host, Guest int }

// Machine is one that was launched.
type Machine struct {
	Name       string // its host name: "dorunner-1"
	InstanceID string
	PID        int
	Seed       string
	Console    string
	Report     runner.Report // the last that it gave
	Took       time.Duration // from power-on to that report
	Disk       string        // what differs from the image; removed by Close
	started    time.Time
	process    *process
}

// Launched are machines that run.
type Launched struct {
	Machines []*Machine
	o        LaunchOptions
	dir      string
	ledger   *builder.Ledger
}

// kindLaunch is the directory with the disks of launched machines.
const kindLaunch = "metal-launch"

// Launch boots the machines. Close what it returns.
func Launch(ctx context.Context, o LaunchOptions) (_ *Launched, err error) {
	accel, format, size, err := checkLaunch(ctx, o)
	if err != nil {
		return nil, err
	}
	id := launchID()
	l := &Launched{o: o, dir: filepath.Join(o.Dir, ".launch-"+id)}
	if _, err := builder.CleanStale(ctx, New("vm").Undoes(), func(builder.Entry, error) {}); err != nil {
		o.Progress.Warn("cleaning up after an earlier run: %v", err)
	}
	file, err := builder.LedgerFile("launch-" + id)
	if err != nil {
		return nil, err
	}
	if l.ledger, err = builder.OpenLedger(file); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := l.ledger.Record(builder.Entry{Kind: kindLaunch, ID: l.dir}, removeAll); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, err
	}
	for i := range o.Count {
		m, err := l.prepare(ctx, id, i, format, max(size, int64(o.DiskGB)<<30))
		if err != nil {
			return nil, err
		}
		l.Machines = append(l.Machines, m)
	}
	for i, m := range l.Machines {
		if err := l.start(m, i, accel); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func launchID() string {
	var r [4]byte
	_, _ = rand.Read(r[:]) // never fails
	return hex.EncodeToString(r[:])
}

func removeAll(_ context.Context, e builder.Entry) error { return os.RemoveAll(e.ID) }

// checkLaunch finds everything that would keep the machines from starting.
func checkLaunch(ctx context.Context, o LaunchOptions) (accel, format string, size int64, err error) {
	errs := checkQEMU(o.Arch)
	if len(errs) == 0 {
		if accel, err = chooseAccel(ctx, o.Progress, o.Accel, o.Arch); err != nil {
			errs = append(errs, err)
		}
		if format, size, err = diskInfo(ctx, o.Image); err != nil {
			errs = append(errs, err)
		}
	}
	for i := range o.Count {
		for _, f := range o.Forward {
			if err := checkPort("127.0.0.1", f.Host+i); err != nil {
				errs = append(errs, fmt.Errorf("port %d is in use: choose another with --port-forward", f.Host+i))
			}
		}
	}
	return accel, format, size, errors.Join(errs...)
}

// diskInfo tells the format and the size of a disk image.
func diskInfo(ctx context.Context, file string) (format string, size int64, err error) {
	if _, err := os.Stat(file); err != nil {
		return "", 0, fmt.Errorf("the image: %w", err)
	}
	text, err := output(ctx, "qemu-img", "info", "-U", "--output=json", file)
	if err != nil {
		return "", 0, fmt.Errorf("the image: %w", err)
	}
	var info struct {
		Format string `json:"format"`
		Size   int64  `json:"virtual-size"`
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return "", 0, fmt.Errorf("the image: reading what qemu-img says of %s: %w", file, err)
	}
	// A fixed VHD is a raw disk with a footer, and looks like one.
	if info.Format == "raw" && strings.HasSuffix(file, ".vhd") {
		info.Format, info.Size = "vpc", info.Size/(1<<20)*(1<<20)
	}
	return info.Format, info.Size, nil
}

// prepare makes a machine's disk and seed.
func (l *Launched) prepare(ctx context.Context, id string, i int, format string, size int64) (*Machine, error) {
	image, err := filepath.Abs(l.o.Image)
	if err != nil {
		return nil, err
	}
	suffix := ""
	if l.o.Count > 1 {
		suffix = fmt.Sprintf("-%d", i+1)
	}
	m := &Machine{
		Name:       fmt.Sprintf("dorunner-%d", i+1),
		InstanceID: fmt.Sprintf("i-%s-%d", id, i+1),
		Seed:       filepath.Join(l.o.Dir, "seed"+suffix+".iso"),
		Console:    filepath.Join(l.o.Dir, "console"+suffix+".log"),
		Disk:       filepath.Join(l.dir, fmt.Sprintf("disk-%d.qcow2", i+1)),
	}
	if err := cloudinit.WriteSeed(m.Seed, cloudinit.Meta{InstanceID: m.InstanceID, LocalHostname: m.Name}, l.o.UserData, nil); err != nil {
		return nil, err
	}
	// It may hold a token.
	if err := os.Chmod(m.Seed, 0o600); err != nil {
		return nil, err
	}
	args := []string{"create", "-q", "-f", "qcow2", "-F", format, "-b", image, m.Disk, fmt.Sprint(size)}
	return m, explainFull(run(ctx, "qemu-img", args...), l.o.Dir)
}

func (l *Launched) start(m *Machine, i int, accel string) error {
	h := hardware{Arch: l.o.Arch, CPUs: l.o.CPUs, MemoryGB: l.o.MemoryGB, Accel: accel, Disk: m.Disk, Seed: m.Seed, Console: m.Console, Detached: l.o.Detached}
	for _, f := range l.o.Forward {
		h.Forward = append(h.Forward, forward("127.0.0.1", f.Host+i, f.Guest))
	}
	if err := removeFile(m.Console); err != nil {
		return err
	}
	var err error
	m.started = time.Now()
	if m.process, err = startQEMU(h); err != nil {
		return err
	}
	m.PID = m.process.cmd.Process.Pid
	return nil
}

// WaitOnline follows every machine's console until all of them are online. The error names each that is not, with
// the end of its console. changed, if not nil, is called with each new report.
func (l *Launched) WaitOnline(ctx context.Context, timeout time.Duration, changed func(*Machine)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not online after %v", timeout))
	defer cancel()
	errs := make([]error, len(l.Machines))
	var g errgroup.Group
	for i, m := range l.Machines {
		g.Go(func() error {
			if err := m.wait(ctx, changed); err != nil {
				errs[i] = fmt.Errorf("%s: %w", m.Name, err)
				if text := tailOf(m.Console); text != "" && !errors.Is(err, context.Canceled) {
					errs[i] = fmt.Errorf("%w\n%s ended with:\n    %s", errs[i], m.Console, strings.ReplaceAll(text, "\n", "\n    "))
				}
			}
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(errs...)
}

// wait follows one console.
func (m *Machine) wait(ctx context.Context, changed func(*Machine)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var log *os.File
	var rest []byte
	defer func() {
		if log != nil {
			log.Close()
		}
	}()
	for {
		if log == nil { // QEMU makes it
			log, _ = os.Open(m.Console)
		}
		if log != nil {
			more, err := io.ReadAll(log)
			if err != nil {
				return fmt.Errorf("reading %s: %w", m.Console, err)
			}
			rest = append(rest, more...)
			for {
				line, after, found := bytes.Cut(rest, []byte("\n"))
				if !found {
					break
				}
				rest = after
				r, ok := runner.ParseConsoleLine(string(line))
				if !ok {
					continue
				}
				m.Report, m.Took = r, time.Since(m.started)
				if changed != nil {
					changed(m)
				}
				switch r.State {
				case runner.Online:
					return nil
				case runner.Failed:
					return fmt.Errorf("first boot failed at %s: %s", r.Step, r.Error)
				}
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.process.exited:
			return m.process.failure()
		case <-tick.C:
		}
	}
}

// WaitOff waits until every machine is off by itself. When the context ends first, it has them shut down.
func (l *Launched) WaitOff(ctx context.Context) error {
	for _, m := range l.Machines {
		select {
		case <-m.process.exited:
		case <-ctx.Done():
			return l.PowerOff(context.WithoutCancel(ctx))
		}
	}
	return nil
}

// powerButtonTimeout is how long a machine may take to shut down in an orderly way.
const powerButtonTimeout = 90 * time.Second

// PowerOff presses every machine's power button and waits until they are off; one that does not react is cut off.
func (l *Launched) PowerOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, powerButtonTimeout, fmt.Errorf("not off after %v", powerButtonTimeout))
	defer cancel()
	for _, m := range l.Machines {
		m.process.powerButton()
	}
	var errs []error
	for _, m := range l.Machines {
		select {
		case <-m.process.exited:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("%s: %w; it was cut off", m.Name, context.Cause(ctx)), m.process.kill(context.WithoutCancel(ctx)))
		}
	}
	return errors.Join(errs...)
}

// Release lets the machines run on after this program: it forgets them and their disks.
func (l *Launched) Release() error {
	return errors.Join(l.ledger.Keep(kindLaunch, l.dir), l.ledger.Close())
}

// Close ends every machine at once and removes their disks. Seeds and console logs stay.
func (l *Launched) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	for _, m := range l.Machines {
		if m.process != nil {
			errs = append(errs, m.process.kill(ctx))
		}
	}
	errs = append(errs, l.ledger.Unwind(ctx, func(builder.Entry, error) {}), l.ledger.Close())
	return errors.Join(errs...)
}
