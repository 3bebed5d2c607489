package ec2test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Mock runs AWS's own amazon-ec2-metadata-mock, IMDSv2 only, until the test ends: an outside judge of what instance
// metadata looks like. Config is its configuration file, empty for its defaults. What it cannot say (the tags of a
// group, a role's credentials that are not expired) is added from extra, by the path below /latest/.
func Mock(t testing.TB, config string, extra map[string]string, args ...string) http.RoundTripper {
	t.Helper()
	dir := t.TempDir()
	_, here, _, _ := runtime.Caller(0)
	mock := filepath.Join(dir, "ec2-metadata-mock")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", mock, "github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock")
	build.Dir = filepath.Join(filepath.Dir(filepath.Dir(here)), "testdata", "mock")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the mock: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	args = append(args, "--imdsv2", "--hostname", "127.0.0.1", "--port", port)
	if config != "" {
		file := filepath.Join(dir, "config.json")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config-file", file)
	}
	ctx, cancel := context.WithCancel(context.Background())
	run := exec.CommandContext(ctx, mock, args...)
	run.Env = append(os.Environ(), "HOME="+dir)
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = run.Wait() // killed
	})
	return &mocked{extra: extra, rt: &http.Transport{DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		if to != "169.254.169.254:80" {
			return nil, errors.New("no route to host")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}}
}

type mocked struct {
	extra map[string]string
	rt    http.RoundTripper
}

func (m *mocked) RoundTrip(r *http.Request) (*http.Response, error) {
	path := strings.TrimPrefix(r.URL.Path, "/latest/")
	if text, found := m.extra[path]; found {
		return Answer(r, 200, text), nil
	}
	return m.rt.RoundTrip(r)
}
