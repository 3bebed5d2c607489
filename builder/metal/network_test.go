//go:build linux

package metal

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/images"
)

func TestNetworkHasTwoWaysOut(t *testing.T) {
	needRoot(t)
	needTool(t, "curl")
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	plain, secure, other := httptest.NewServer(hello), httptest.NewTLSServer(hello), httptest.NewServer(hello)
	defer plain.Close()
	defer secure.Close()
	defer other.Close()
	registry := strings.TrimPrefix(plain.URL, "http://")
	n, err := newNetwork([]string{registry})
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	curl := func(args ...string) (string, error) {
		argv := append(n.enter(), append([]string{"curl", "-sS", "-k", "--max-time", "20", "--noproxy", ""}, args...)...)
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return string(out), err
	}
	for name, args := range map[string][]string{
		"a registry of this machine's loopback": {plain.URL},
		"TLS through the proxy":                 {"-x", "http://" + proxyAddr, secure.URL},
		"plain HTTP through the proxy":          {"-x", "http://" + proxyAddr, other.URL},
	} {
		if out, err := curl(args...); err != nil || out != "hello" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	if out, err := curl(other.URL); err == nil {
		t.Errorf("there is a third way out: %q", out)
	}
	if out, _ := curl("-x", "http://"+proxyAddr, "https://127.0.0.1:1"); !strings.Contains(out, "502") {
		t.Errorf("an unreachable server gives %q", out)
	}
}

func TestTunnelThroughThisMachinesProxy(t *testing.T) {
	upstream := httptest.NewServer(proxy{})
	defer upstream.Close()
	target := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer target.Close()
	via, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DialTLSContext: func(_ context.Context, _, addr string) (net.Conn, error) {
		c, err := tunnel(t.Context(), via, addr)
		if err != nil {
			return nil, err
		}
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true}), nil
	}}}
	r, err := client.Get(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != "hello" {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := tunnel(t.Context(), via, "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("got %v", err)
	}
}

func TestLocalRegistries(t *testing.T) {
	p := &images.Plan{Containers: []images.Pull{
		{Ref: "dataopslive/dataops-runner"}, {Ref: "127.0.0.1:5000/a:1"}, {Ref: "localhost:5000/b"}, {Ref: "127.0.0.1:5000/c"},
		{Ref: "registry.example.com:5000/d"}, {Ref: "10.0.0.1:5000/e"},
	}}
	p.Spec.Image.Login.Server = "127.0.0.1:5001"
	if got, want := localRegistries(p), []string{"127.0.0.1:5000", "127.0.0.1:5001"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
