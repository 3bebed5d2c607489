package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dorunner/dorunner-bake/builder"
)

// serve is a machine: it answers one client key with one host key and runs what it is told through /bin/sh, with a
// sudo that only drops its own options.
func serve(t *testing.T, host Key, client ssh.PublicKey) string {
	t.Helper()
	bin := t.TempDir()
	sudo := "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift\nSUDO=yes exec \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "sudo"), []byte(sudo), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), client.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	conf.AddHostKey(host.Signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, channels, requests, err := ssh.NewServerConn(c, conf)
				if err != nil {
					return
				}
				defer conn.Close()
				go ssh.DiscardRequests(requests)
				for ch := range channels {
					channel, requests, err := ch.Accept()
					if err != nil {
						return
					}
					go session(channel, requests, bin)
				}
			}()
		}
	}()
	return l.Addr().String()
}

func session(channel ssh.Channel, requests <-chan *ssh.Request, bin string) {
	defer channel.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		var line struct{ Command string }
		_ = ssh.Unmarshal(r.Payload, &line)
		if line.Command == "vanish" {
			return
		}
		cmd := exec.Command("/bin/sh", "-c", line.Command)
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = channel, channel, channel.Stderr()
		// As sshd, do not wait for the rest of the input once the program has ended.
		cmd.WaitDelay = 100 * time.Millisecond
		_ = cmd.Run()
		status := make([]byte, 4)
		status[3] = byte(cmd.ProcessState.ExitCode())
		_, _ = channel.SendRequest("exit-status", false, status)
		return
	}
}

func newKey(t *testing.T) Key {
	t.Helper()
	k, err := NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func dial(t *testing.T, user string) *Guest {
	t.Helper()
	host, client := newKey(t), newKey(t)
	g, err := Dial(t.Context(), Config{Addr: serve(t, host, client.Signer.PublicKey()), User: user,
		Signer: client.Signer, HostKey: host.Signer.PublicKey(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func TestRun(t *testing.T) {
	hard := "a 'b' \"$HOME\" `id` \\ \n* ;&|"
	tests := []struct {
		name, user  string
		c           builder.Command
		out, stderr string
	}{
		{"argv arrives as it is", "root", builder.Command{Args: []string{"printf", "[%s]", hard, "", "-n"}}, "[" + hard + "][][-n]", ""},
		{"so through sudo", "admin", builder.Command{Args: []string{"printf", "[%s]", hard, ""}}, "[" + hard + "][]", ""},
		{"sudo only for others than root", "admin", builder.Command{Args: []string{"sh", "-c", "echo $SUDO"}}, "yes\n", ""},
		{"stdin", "root", builder.Command{Args: []string{"cat"}, Stdin: strings.NewReader("in")}, "in", ""},
		{"environment before stdin", "admin", builder.Command{Args: []string{"sh", "-c", `printf %s "$A|$B|"; cat`},
			Env: []string{"A=" + hard, "B=x=y\n"}, Stdin: strings.NewReader("rest")}, hard + "|x=y\n|rest", ""},
		{"environment alone", "root", builder.Command{Args: []string{"printenv", "A"}, Env: []string{"A=1"}}, "1\n", ""},
		{"streams apart", "root", builder.Command{Args: []string{"sh", "-c", "echo out; echo err >&2"}}, "out\n", "err\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			tt.c.Stdout, tt.c.Stderr = &out, &stderr
			if err := dial(t, tt.user).Run(t.Context(), tt.c); err != nil {
				t.Fatal(err)
			}
			if out.String() != tt.out || stderr.String() != tt.stderr {
				t.Errorf("got %q and %q, want %q and %q", out.String(), stderr.String(), tt.out, tt.stderr)
			}
		})
	}
}

func TestRunTellsHowACommandFailed(t *testing.T) {
	g := dial(t, "admin")
	err := g.Run(t.Context(), builder.Command{Args: []string{"sh", "-c", "seq 30; echo last >&2; exit 7"}})
	var exit *builder.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || exit.Args[0] != "sh" {
		t.Fatalf("got %v", err)
	}
	if lines := strings.Split(exit.Tail, "\n"); len(lines) != 20 {
		t.Errorf("the tail has %d lines: %q", len(lines), exit.Tail)
	}
	if err := g.Run(t.Context(), builder.Command{Args: []string{"true"}, Env: []string{"A B=secret"}}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a wrong environment gives %v", err)
	}
}

func TestRunEndsWithItsContextAndWithTheConnection(t *testing.T) {
	g := dial(t, "root")
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("interrupted")
	r, w := io.Pipe()
	go func() {
		_, _ = r.Read(make([]byte, 1)) // it runs
		cancel(reason)
	}()
	if err := g.Run(ctx, builder.Command{Args: []string{"sh", "-c", "echo; exec sleep 60"}, Stdout: w}); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	if err := g.Run(t.Context(), builder.Command{Args: []string{"vanish"}}); err == nil || !strings.Contains(err.Error(), "was lost") {
		t.Errorf("got %v", err)
	}
}

func TestUploadAndDownload(t *testing.T) {
	g := dial(t, "admin")
	dir := t.TempDir()
	file := filepath.Join(dir, "new dir", "it's")
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := g.Upload(t.Context(), file, bytes.NewReader(big), 0o640); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	var back bytes.Buffer
	if err := g.Download(t.Context(), file, &back); err != nil || !bytes.Equal(back.Bytes(), big) {
		t.Errorf("%d bytes came back: %v", back.Len(), err)
	}
	// A source that breaks leaves the old file and nothing else.
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("disk on fire")))
	if err := g.Upload(t.Context(), file, broken, 0o640); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, big) {
		t.Errorf("the file has changed: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := g.Download(t.Context(), filepath.Join(dir, "none"), &back); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v", err)
	}
}

func TestDialRefusesAnotherHostKey(t *testing.T) {
	host, client := newKey(t), newKey(t)
	_, err := Dial(t.Context(), Config{Addr: serve(t, host, client.Signer.PublicKey()), User: "root",
		Signer: client.Signer, HostKey: newKey(t).Signer.PublicKey(), Timeout: time.Minute})
	if !errors.Is(err, errWrongHostKey) {
		t.Errorf("got %v", err)
	}
}

func TestDialWaitsForTheMachine(t *testing.T) {
	host, client := newKey(t), newKey(t)
	addr := serve(t, host, client.Signer.PublicKey())
	tries := 0
	c := Config{Addr: addr, User: "root", Signer: client.Signer, HostKey: host.Signer.PublicKey(), Timeout: time.Minute,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if tries++; tries == 1 {
				return nil, errors.New("not up yet")
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}
	g, err := Dial(t.Context(), c)
	if err != nil || tries != 2 {
		t.Fatalf("%d tries: %v", tries, err)
	}
	g.Close()

	c.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
	c.Timeout = time.Millisecond
	want := fmt.Sprintf("root@%s did not answer SSH within 1ms: no route", addr)
	if _, err := Dial(t.Context(), c); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
