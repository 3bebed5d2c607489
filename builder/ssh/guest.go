package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/dorunner/dorunner-bake/builder/internal/shell"
)

// Guest is a machine over SSH. Commands may run at the same time.
type Guest struct {
	shell.Guest
	Addr, User string // as in Config
	client     *ssh.Client
	done       chan struct{}
	closing    sync.Once
}

func newGuest(client *ssh.Client, sudo bool) *Guest {
	g := &Guest{client: client, done: make(chan struct{})}
	g.Guest = shell.Guest{Exec: g.exec, Sudo: sudo}
	return g
}

func (g *Guest) exec(ctx context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	s, err := g.client.NewSession()
	if err != nil {
		return 0, fmt.Errorf("the connection to the machine is lost: %w", err)
	}
	defer s.Close()
	// When the context ends, closing the session lets Run return; the machine itself is about to go.
	stop := context.AfterFunc(ctx, func() {
		_ = s.Signal(ssh.SIGKILL)
		s.Close()
	})
	defer stop()
	s.Stdin, s.Stdout, s.Stderr = stdin, stdout, stderr
	err = s.Run(line)
	var exit *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case errors.As(err, &exit):
		return exit.ExitStatus(), nil
	case errors.As(err, &missing):
		return 0, errors.New("the connection to the machine was lost while it ran")
	}
	return 0, err
}
