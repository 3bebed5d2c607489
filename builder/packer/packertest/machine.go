package packertest

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	builderssh "github.com/dorunner/dorunner-bake/builder/ssh"
)

// sudo answers the engine's own scripts as a machine on which all goes well, runs what a provisioner runs within its
// directory, and refuses everything else.
//
//go:embed sudo.sh
var sudo []byte

// Machine is a machine in a cloud's test account: a real SSH server that takes its host key and its users' keys from
// user-data, as cloud-init would. It is an awstest.Machines.
type Machine struct {
	Port int
	Dir  string // what provisioners may write below

	t        testing.TB
	listener net.Listener
	mu       sync.Mutex
	conf     *ssh.ServerConfig
	asked    []string // the users that logged in
	refused  []string
	running  sync.WaitGroup
	// PowerOff is called when the machine switches itself off; optional.
	PowerOff func()
}

// NewMachine listens on loopback until the test ends. Nobody can log in before Boot.
func NewMachine(t testing.TB) *Machine {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t, Port: l.Addr().(*net.TCPAddr).Port, Dir: t.TempDir(), listener: l}
	for name, text := range map[string][]byte{"sudo": sudo, "id": []byte("#!/bin/sh\necho 1000\n")} { // all that its login shell finds
		if err := os.WriteFile(filepath.Join(m.Dir, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.running.Go(m.serve)
	t.Cleanup(func() {
		l.Close()
		m.running.Wait()
		for _, r := range m.refused {
			t.Errorf("the machine refused: %s", r)
		}
	})
	return m
}

// Boot reads user-data: what may log in, and which key the machine is known by. Extra are more public keys.
func (m *Machine) Boot(userData string, extra ...ssh.PublicKey) error {
	var doc struct {
		Keys struct {
			Private string `yaml:"ed25519_private"`
		} `yaml:"ssh_keys"`
		Authorized []string `yaml:"ssh_authorized_keys"`
	}
	if err := yaml.Unmarshal([]byte(userData), &doc); err != nil {
		return fmt.Errorf("user-data: %w", err)
	}
	if doc.Keys.Private == "" {
		return nil // a test boot: nobody logs in
	}
	host, err := ssh.ParsePrivateKey([]byte(doc.Keys.Private))
	if err != nil {
		return fmt.Errorf("user-data: %w", err)
	}
	allowed := map[string]bool{}
	for _, line := range doc.Authorized {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return fmt.Errorf("user-data: %w", err)
		}
		allowed[string(key.Marshal())] = true
	}
	for _, key := range extra {
		allowed[string(key.Marshal())] = true
	}
	conf := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) { //nolint:gosec // it notes who asked, and decides by the key alone
		if !allowed[string(key.Marshal())] {
			return nil, errors.New("another key")
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asked = append(m.asked, c.User())
		return nil, nil
	}}
	conf.AddHostKey(host)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conf = conf
	return nil
}

// Users are those who logged in.
func (m *Machine) Users() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// Start makes it, with Stop and Console, an awstest.Machines; each new instance is this machine, booted anew.
func (m *Machine) Start(i awstest.Machine) (string, error) { return "127.0.0.1", m.Boot(i.UserData) }

// Stop is Start's opposite.
func (m *Machine) Stop(string) error { return nil }

// Console says that a test boot went well.
func (m *Machine) Console(string) string { return "booting\ndorunner-selftest: passed\n" }

func (m *Machine) serve() {
	for {
		conn, err := m.listener.Accept()
		if err != nil {
			return
		}
		m.mu.Lock()
		conf := m.conf
		m.mu.Unlock()
		if conf == nil {
			conn.Close()
			continue
		}
		m.running.Go(func() { m.session(conn, conf) })
	}
}

func (m *Machine) session(conn net.Conn, conf *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, conf)
	if err != nil {
		return
	}
	go func() { // keepalives want an answer
		for r := range requests {
			_ = r.Reply(false, nil)
		}
	}()
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		ch, reqs, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range reqs {
				if r.Type != "exec" {
					_ = r.Reply(false, nil)
					continue
				}
				_ = r.Reply(true, nil)
				var line struct{ Command string }
				if ssh.Unmarshal(r.Payload, &line) == nil {
					go m.exec(ch, line.Command)
				}
			}
		}()
	}
}

// exec runs a line as the login shell of a user whose only program is sudo.
func (m *Machine) exec(ch ssh.Channel, line string) {
	defer ch.Close()
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env = []string{"PATH=" + m.Dir, "MACHINE=" + m.Dir}
	cmd.Dir, cmd.Stdout, cmd.Stderr = m.Dir, ch, ch.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Errorf("the machine cannot run anything: %v", err)
		return
	}
	go func() {
		_, _ = io.Copy(in, ch) // ends with the client's input, or with the client
		in.Close()
	}()
	_ = cmd.Wait() // its status says all
	code := cmd.ProcessState.ExitCode()
	if code == 97 {
		m.mu.Lock()
		m.refused = append(m.refused, line)
		m.mu.Unlock()
	}
	if code == 98 && m.PowerOff != nil {
		code = 0
		m.PowerOff()
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)}))
}

// Bastion is an SSH server that only passes connections on.
type Bastion struct {
	Port    int
	KeyFile string // a private key that may log in
	passed  atomic.Int32
}

// NewBastion listens on loopback until the test ends.
func NewBastion(t testing.TB) *Bastion {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, err1 := builderssh.NewKey("bastion")
	user, err2 := builderssh.NewKey("jump")
	b := &Bastion{Port: l.Addr().(*net.TCPAddr).Port, KeyFile: filepath.Join(t.TempDir(), "key")}
	if err := errors.Join(err1, err2, os.WriteFile(b.KeyFile, []byte(user.PrivatePEM), 0o600)); err != nil {
		t.Fatal(err)
	}
	conf := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(user.Signer.PublicKey().Marshal()) {
			return nil, errors.New("another key")
		}
		return nil, nil
	}}
	conf.AddHostKey(host.Signer)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go b.pass(conn, conf)
		}
	}()
	t.Cleanup(func() { l.Close() })
	return b
}

// Passed counts the connections that were passed on.
func (b *Bastion) Passed() int { return int(b.passed.Load()) }

func (b *Bastion) pass(conn net.Conn, conf *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, conf)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		var to struct {
			Host     string
			Port     uint32
			From     string
			FromPort uint32
		}
		if c.ChannelType() != "direct-tcpip" || ssh.Unmarshal(c.ExtraData(), &to) != nil {
			_ = c.Reject(ssh.UnknownChannelType, "only through")
			continue
		}
		out, err := net.Dial("tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
		if err != nil {
			_ = c.Reject(ssh.ConnectionFailed, err.Error())
			continue
		}
		in, reqs, err := c.Accept()
		if err != nil {
			out.Close()
			return
		}
		b.passed.Add(1)
		go ssh.DiscardRequests(reqs)
		go func() { _, _ = io.Copy(in, out); in.Close() }()
		go func() { _, _ = io.Copy(out, in); out.Close() }()
	}
}
