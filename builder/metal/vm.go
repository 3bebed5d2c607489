package metal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/cloudinit"
)

// vm provisions a disk in a virtual machine of its own: QEMU over a copy-on-write overlay, reached through a loopback
// port, with a key of ours on either end.
type vm struct {
	accel   string
	port    int
	overlay string
	log     string
	process *process
	guest   *ssh.Guest
}

func (v *vm) check(ctx context.Context, env *builder.Env) []error {
	errs := checkQEMU(env.Plan.Spec.Image.Arch)
	if port := env.Plan.Spec.Metal.SSHPort; port != 0 {
		errs = append(errs, checkPort("127.0.0.1", port))
	}
	if len(errs) > 0 {
		return errs
	}
	accel, err := chooseAccel(ctx, env.Progress, env.Plan.Spec.Metal.Accel, env.Plan.Spec.Image.Arch)
	v.accel = accel
	return []error{err}
}

func (v *vm) start(ctx context.Context, env *builder.Env, b base) (builder.Guest, error) {
	m := env.Plan.Spec.Metal
	v.overlay, v.log = filepath.Join(env.WorkDir, "disk.qcow2"), filepath.Join(env.WorkDir, "console.log")
	if err := overlay(ctx, v.overlay, b.file, "raw", int64(env.Plan.Spec.Image.DiskGB)<<30); err != nil {
		return nil, err
	}
	ours, err := ssh.NewKey("dorunner-bake-" + env.BakeID)
	if err != nil {
		return nil, err
	}
	its, err := ssh.NewKey("dorunner-bake-" + env.BakeID)
	if err != nil {
		return nil, err
	}
	data, err := bakeUserData(ours, its)
	if err != nil {
		return nil, err
	}
	seed := filepath.Join(env.WorkDir, "seed.iso")
	meta := cloudinit.Meta{InstanceID: "bake-" + env.BakeID, LocalHostname: "bake"}
	if err := cloudinit.WriteSeed(seed, meta, data, nil); err != nil {
		return nil, err
	}
	if v.port = m.SSHPort; v.port == 0 {
		if v.port, err = freePort(); err != nil {
			return nil, err
		}
	}
	v.process, err = startQEMU(hardware{Arch: env.Plan.Spec.Image.Arch, CPUs: m.CPUs, MemoryGB: m.MemoryGB, Accel: v.accel,
		Disk: v.overlay, Seed: seed, Console: v.log, Forward: []string{forward("127.0.0.1", v.port, 22)}})
	if err != nil {
		return nil, err
	}
	undo := func(ctx context.Context, _ builder.Entry) error { return v.process.kill(ctx) }
	if err := record(env, kindMachine, v.id(), undo); err != nil {
		return nil, errors.Join(err, v.process.kill(context.WithoutCancel(ctx)))
	}
	env.Progress.Info("a virtual machine boots with %s (port %d, console in %s)", v.accel, v.port, v.log)
	// A machine that ends while it is waited for will never answer.
	dial, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-v.process.exited:
			cancel(v.process.failure())
		case <-dial.Done():
		}
	}()
	v.guest, err = ssh.Dial(dial, ssh.Config{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(v.port)), User: env.Plan.Spec.Image.AdminUser,
		Signer: ours.Signer, HostKey: its.Signer.PublicKey(), Timeout: time.Duration(m.SSHTimeout)})
	if err != nil && dial.Err() == nil {
		err = fmt.Errorf("%w: see what its console said, or give it longer with --ssh-timeout", err)
	}
	if err != nil {
		return nil, err
	}
	return v.guest, nil
}

func (v *vm) id() string { return strconv.Itoa(v.process.cmd.Process.Pid) }

// bakeUserData lets us in as the base's own admin user, and the machine be known by our host key.
func bakeUserData(ours, its ssh.Key) ([]byte, error) {
	doc := map[string]any{
		"users":               []string{"default"},
		"ssh_authorized_keys": []string{ours.Authorized},
		"ssh_deletekeys":      true,
		"ssh_keys":            map[string]string{"ed25519_private": its.PrivatePEM, "ed25519_public": its.Authorized},
		"package_update":      false,
	}
	text, err := yaml.Marshal(doc)
	return append([]byte("#cloud-config\n"), text...), err
}

// powerOffTimeout is how long a sealed machine may take to be off; an emulated one takes seconds.
const powerOffTimeout = 2 * time.Minute

// stop presses the power button: the seal has taken away every way to log in and to become root, has ended whoever would
// write into the sealed disk at shutdown, and has given the free blocks back.
func (v *vm) stop(ctx context.Context, env *builder.Env) error {
	ctx, cancel := context.WithTimeoutCause(ctx, powerOffTimeout, fmt.Errorf("it is not off after %v", powerOffTimeout))
	defer cancel()
	v.process.powerButton()
	select {
	case <-v.process.exited:
	case <-ctx.Done():
		return fmt.Errorf("powering the machine off: %w", context.Cause(ctx))
	}
	_ = v.guest.Close()
	return env.Ledger.Done(kindMachine, v.id())
}

func (v *vm) disk() (string, string, bool) { return v.overlay, "qcow2", false }

func (v *vm) console() string { return tailOf(v.log) }
