package packer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"github.com/hashicorp/packer-plugin-sdk/communicator"
	sdkssh "github.com/hashicorp/packer-plugin-sdk/communicator/ssh"
	"github.com/hashicorp/packer-plugin-sdk/multistep"
	"github.com/hashicorp/packer-plugin-sdk/pathing"
	packerssh "github.com/hashicorp/packer-plugin-sdk/sdk-internals/communicator/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/net/proxy"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
)

// link is how a cloud's machine is reached: the engine's own SSH, host key pinned and with a key that lasts for the
// bake, along the way that the SDK's ssh_* attributes describe.
type link struct{ config *communicator.Config }

// heeded are the communicator's attributes that mean something here; any other that is set is told of.
var heeded = map[string]bool{
	"communicator": true, "ssh_host": true, "ssh_port": true, "ssh_username": true, "ssh_password": true, "ssh_timeout": true,
	"ssh_private_key_file": true, "ssh_certificate_file": true, "ssh_agent_auth": true, "ssh_ciphers": true, "ssh_key_exchange_algorithms": true,
	"ssh_bastion_host": true, "ssh_bastion_port": true, "ssh_bastion_username": true, "ssh_bastion_password": true, "ssh_bastion_agent_auth": true,
	"ssh_bastion_private_key_file": true, "ssh_bastion_certificate_file": true,
	"ssh_proxy_host": true, "ssh_proxy_port": true, "ssh_proxy_username": true, "ssh_proxy_password": true,
	// The seal removes every key, whatever this says.
	"ssh_clear_authorized_keys": true,
}

// prepare checks the attributes as the SDK does, once the login of the operating system's own image is known.
func (l *link) prepare(user string) (warnings []string, errs []error) {
	c := l.config
	if c.Type != "" && c.Type != "ssh" {
		return nil, []error{fmt.Errorf("communicator: %q is not possible: the machine is reached over ssh", c.Type)}
	}
	for _, name := range unheeded(reflect.ValueOf(c).Elem()) {
		warnings = append(warnings, name+" has no effect with this builder")
	}
	given := *c // Prepare fills in what nobody asked for
	if c.SSHUsername == "" {
		c.SSHUsername = user
	}
	errs = c.Prepare(nil)
	c.SSHUsername, c.SSHPort, c.SSHTimeout = given.SSHUsername, given.SSHPort, max(given.SSHTimeout, given.SSHWaitTimeout)
	return warnings, errs
}

// unheeded are the attributes that are set and mean nothing here.
func unheeded(v reflect.Value) (names []string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			names = append(names, unheeded(v.Field(i))...)
			continue
		}
		if name := f.Tag.Get("mapstructure"); name != "" && !heeded[name] && !v.Field(i).IsZero() {
			names = append(names, name)
		}
	}
	return names
}

// private reads ssh_interface; nil is "not said".
func (l *link) private(iface string) (*bool, error) {
	switch iface {
	case "":
		return nil, nil
	case "public_ip", "private_ip":
		return new(iface == "private_ip"), nil
	}
	return nil, fmt.Errorf("ssh_interface: %q is neither public_ip nor private_ip", iface)
}

// dial reaches the machine as the attributes say.
func (l *link) dial(ctx context.Context, conf ssh.Config) (builder.Guest, error) {
	c := l.config
	host, port, err := net.SplitHostPort(conf.Addr)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", conf.Addr, err)
	}
	if c.SSHHost != "" {
		host = c.SSHHost
	}
	if c.SSHPort != 0 {
		port = strconv.Itoa(c.SSHPort)
	}
	conf.Addr = net.JoinHostPort(host, port)
	if c.SSHUsername != "" {
		conf.User = c.SSHUsername
	}
	if c.SSHTimeout != 0 {
		conf.Timeout = c.SSHTimeout
	}
	more, err := c.SSHConfigFunc()(new(multistep.BasicStateBag))
	if err != nil {
		return nil, err
	}
	conf.More, conf.Crypto = more.Auth, more.Config
	if conf.DialContext, err = l.way(); err != nil {
		return nil, err
	}
	return ssh.Dial(ctx, conf)
}

// way is through a bastion or a SOCKS proxy; nil is straight ahead.
func (l *link) way() (func(ctx context.Context, network, addr string) (net.Conn, error), error) {
	c := l.config
	var open func(network, addr string) func() (net.Conn, error)
	switch {
	case c.SSHBastionHost != "":
		conf, err := l.bastion()
		if err != nil {
			return nil, fmt.Errorf("ssh_bastion_host: %w", err)
		}
		open = func(network, addr string) func() (net.Conn, error) {
			return packerssh.BastionConnectFunc("tcp", net.JoinHostPort(c.SSHBastionHost, strconv.Itoa(c.SSHBastionPort)), conf, network, addr)
		}
	case c.SSHProxyHost != "":
		var auth *proxy.Auth
		if c.SSHProxyUsername != "" {
			auth = &proxy.Auth{User: c.SSHProxyUsername, Password: c.SSHProxyPassword}
		}
		open = func(network, addr string) func() (net.Conn, error) {
			return packerssh.ProxyConnectFunc(net.JoinHostPort(c.SSHProxyHost, strconv.Itoa(c.SSHProxyPort)), auth, network, addr)
		}
	default:
		return nil, nil
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		type result struct {
			conn net.Conn
			err  error
		}
		opened := make(chan result, 1)
		go func() {
			conn, err := open(network, addr)()
			opened <- result{conn, err}
		}()
		select {
		case r := <-opened:
			return r.conn, r.err
		case <-ctx.Done():
			go func() { // the SDK's way knows no context: it ends by itself, too late to be of use
				if r := <-opened; r.conn != nil {
					_ = r.conn.Close()
				}
			}()
			return nil, context.Cause(ctx)
		}
	}, nil
}

const bastionTimeout = 15 * time.Second

// bastion is the login there. Its host key is checked where known_hosts lists it; what passes through is encrypted for
// the machine itself, whose key is pinned.
func (l *link) bastion() (*gossh.ClientConfig, error) {
	c := l.config
	conf := &gossh.ClientConfig{User: c.SSHBastionUsername, Timeout: bastionTimeout, HostKeyCallback: listedKey()}
	if c.SSHBastionAgentAuth {
		socket, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK")) //nolint:gosec // the user's own agent
		if err != nil {
			return nil, fmt.Errorf("ssh_bastion_agent_auth: no agent answers at SSH_AUTH_SOCK: %w", err)
		}
		conf.Auth = append(conf.Auth, gossh.PublicKeysCallback(agent.NewClient(socket).Signers))
	}
	if c.SSHBastionPassword != "" {
		conf.Auth = append(conf.Auth, gossh.Password(c.SSHBastionPassword), gossh.KeyboardInteractive(packerssh.PasswordKeyboardInteractive(c.SSHBastionPassword)))
	}
	if c.SSHBastionPrivateKeyFile != "" {
		file, err := pathing.ExpandUser(c.SSHBastionPrivateKeyFile)
		if err != nil {
			return nil, err
		}
		signer, err := sdkssh.FileSigner(file)
		if c.SSHBastionCertificateFile != "" {
			var cert string
			if cert, err = pathing.ExpandUser(c.SSHBastionCertificateFile); err == nil {
				signer, err = sdkssh.FileSignerWithCert(file, cert)
			}
		}
		if err != nil {
			return nil, err
		}
		conf.Auth = append(conf.Auth, gossh.PublicKeys(signer))
	}
	return conf, nil
}

// listedKey refuses a host whose key differs from what known_hosts lists, and accepts one that is not listed, as Packer
// accepts any.
func listedKey() gossh.HostKeyCallback {
	home, err := os.UserHomeDir()
	if err != nil {
		return gossh.InsecureIgnoreHostKey() //nolint:gosec // there is nothing to compare with
	}
	check, err := knownhosts.New(filepath.Join(home, ".ssh", "known_hosts"))
	if err != nil {
		return gossh.InsecureIgnoreHostKey() //nolint:gosec // likewise
	}
	return func(host string, remote net.Addr, key gossh.PublicKey) error {
		err := check(host, remote, key)
		if unlisted := (*knownhosts.KeyError)(nil); errors.As(err, &unlisted) && len(unlisted.Want) == 0 {
			return nil
		}
		return err
	}
}

// durationText is a duration as the spec has it; "" is "not said".
func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
