package metal

import (
	"os/exec"
	"syscall"
)

// dieWithUs has the kernel kill a child when this process ends, even by SIGKILL.
func dieWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// ownGroup is dieWithUs for a child that a terminal's Ctrl-C must not reach: we unwind.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// detach lets a child outlive this process.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
