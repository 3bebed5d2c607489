// Package ssh is the Guest of machines that are reached over SSH: key authentication only, the host key pinned,
// commands run as root.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dorunner/dorunner-bake/builder"
)

// Config says where the machine is and how both ends know each other.
type Config struct {
	Addr    string // host:port
	User    string // anyone but root runs everything through sudo -n
	Signer  ssh.Signer
	HostKey ssh.PublicKey // the only one accepted
	Timeout time.Duration // how long the machine may take to answer; default 5 minutes
	// More are tried after Signer.
	More   []ssh.AuthMethod
	Crypto ssh.Config // ciphers and key exchanges; default the library's
	// DialContext reaches Addr; default a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

const (
	attemptTimeout = 15 * time.Second // one connection, handshake included; a slow emulated CPU needs seconds
	retryEvery     = time.Second
	keepaliveEvery = 15 * time.Second
	keepaliveMiss  = 4 // unanswered ones before the connection is given up
)

// Dial connects as soon as the machine answers, and keeps the connection alive. Refused connections and refused
// logins are tried again (cloud-init may not have written the key yet); a wrong host key is final.
func Dial(ctx context.Context, c Config) (*Guest, error) {
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Minute
	}
	if c.DialContext == nil {
		c.DialContext = (&net.Dialer{}).DialContext
	}
	wait, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var last error
	for {
		client, err := connect(wait, c)
		if err == nil {
			g := newGuest(client, c.User != "root")
			g.Addr, g.User = c.Addr, c.User
			go g.keepalive()
			return g, nil
		}
		if errors.Is(err, errWrongHostKey) {
			return nil, fmt.Errorf("ssh to %s: %w", c.Addr, err)
		}
		if wait.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, fmt.Errorf("ssh to %s: %w", c.Addr, context.Cause(ctx))
			}
			return nil, fmt.Errorf("%s@%s did not answer SSH within %v: %w", c.User, c.Addr, c.Timeout, last)
		case <-time.After(retryEvery):
		}
	}
}

var errWrongHostKey = errors.New("another host key than the machine was given: something else answers at this address")

func connect(ctx context.Context, c Config) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	conn, err := c.DialContext(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, err
	}
	// The handshake knows no context: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	wrong := false
	sshConn, channels, requests, err := ssh.NewClientConn(conn, c.Addr, &ssh.ClientConfig{
		Config: c.Crypto, User: c.User,
		Auth: append([]ssh.AuthMethod{ssh.PublicKeys(c.Signer)}, c.More...),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if string(key.Marshal()) != string(c.HostKey.Marshal()) {
				wrong = true
				return errWrongHostKey
			}
			return nil
		},
		// Only keys of this type are offered, so that the machine shows the one that is pinned.
		HostKeyAlgorithms: []string{c.HostKey.Type()},
	})
	if !stop() && err == nil {
		sshConn.Close()
		err = context.Cause(ctx)
	}
	switch {
	case wrong:
		conn.Close()
		return nil, errWrongHostKey
	case err != nil:
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(sshConn, channels, requests), nil
}

// keepalive closes the connection when the machine stops answering, so that no command waits for ever.
func (g *Guest) keepalive() {
	tick := time.NewTicker(keepaliveEvery)
	defer tick.Stop()
	answered := make(chan error, 1)
	waiting, missed := false, 0
	for {
		select {
		case <-g.done:
			return
		case err := <-answered:
			if err != nil {
				g.client.Close()
				return
			}
			waiting, missed = false, 0
		case <-tick.C:
			if waiting {
				if missed++; missed >= keepaliveMiss {
					g.client.Close()
					return
				}
				continue
			}
			waiting = true
			go func() {
				_, _, err := g.client.SendRequest("keepalive@openssh.com", true, nil)
				answered <- err
			}()
		}
	}
}

// Close ends the connection.
func (g *Guest) Close() error {
	g.closing.Do(func() { close(g.done) })
	err := g.client.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

var _ builder.Guest = (*Guest)(nil)
