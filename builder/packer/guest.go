package packer

import (
	"context"
	"errors"
	"io"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/internal/shell"
)

// newGuest lets the engine work on any builder's machine, through Packer's communicator.
func newGuest(comm packersdk.Communicator, sudo bool) builder.Guest {
	return shell.Guest{Sudo: sudo, Exec: func(ctx context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
		cmd := &packersdk.RemoteCmd{Command: line, Stdin: stdin, Stdout: stdout, Stderr: stderr}
		if err := comm.Start(ctx, cmd); err != nil {
			return 0, err
		}
		ended := make(chan int, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ctx.Done(): // Packer closes the connection; the machine is about to go
			return 0, context.Cause(ctx)
		case status := <-ended:
			if status == packersdk.CmdDisconnect {
				return 0, errors.New("the connection to the machine was lost while it ran")
			}
			return status, nil
		}
	}}
}
