package packer

import (
	"context"
	"errors"
	"os/exec"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
)

// local is Packer's communicator on this machine: its shell alone, which is all that a guest asks of it.
type local struct{ packersdk.Communicator }

func (local) Start(ctx context.Context, cmd *packersdk.RemoteCmd) error {
	sh := exec.CommandContext(ctx, "/bin/sh", "-c", cmd.Command)
	sh.Stdin, sh.Stdout, sh.Stderr = cmd.Stdin, cmd.Stdout, cmd.Stderr
	if err := sh.Start(); err != nil {
		return err
	}
	go func() {
		var exit *exec.ExitError
		switch err := sh.Wait(); {
		case err == nil:
			cmd.SetExited(0)
		case errors.As(err, &exit):
			cmd.SetExited(exit.ExitCode())
		default:
			cmd.SetExited(packersdk.CmdDisconnect)
		}
	}()
	return nil
}
