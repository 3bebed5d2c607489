//go:build !linux

package metal

import (
	"os/exec"
	"syscall"
)

// dieWithUs needs help of the kernel that only Linux gives: elsewhere a killed bake leaves its QEMU.
func dieWithUs(*exec.Cmd) {}

// ownGroup keeps a terminal's Ctrl-C from a child: we unwind.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// detach lets a child outlive this process.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
