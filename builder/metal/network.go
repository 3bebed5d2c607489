//go:build linux

package metal

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dorunner/dorunner-bake/images"
)

// network is the namespace that the image's own dockerd runs in: a second daemon in this machine's would take docker0
// away. The only ways out are listeners of ours on its loopback: an HTTP proxy, through which the daemon pulls, and
// registries of this machine's loopback, which no client asks a proxy for. It goes with this process.
type network struct {
	ns        *os.File
	listeners []net.Listener
	server    *http.Server
}

// proxyAddr is where the proxy listens, in the namespace.
const proxyAddr = "127.0.0.1:3128"

// newNetwork opens a namespace; local are addresses of this machine's loopback to reach from it.
func newNetwork(local []string) (*network, error) {
	n := &network{server: &http.Server{Handler: proxy{}, ReadHeaderTimeout: time.Minute}}
	made := make(chan error, 1)
	go func() {
		// A namespace belongs to a thread, a socket for ever to the namespace it was made in. The thread must come back
		// and not end: children that it has started die with it (see dieWithUs).
		runtime.LockOSThread()
		home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		if err != nil {
			runtime.UnlockOSThread()
			made <- err
			return
		}
		defer home.Close()
		err = n.open(append([]string{proxyAddr}, local...))
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			made <- errors.Join(err, back)
			select {} // nobody else may have this thread
		}
		runtime.UnlockOSThread()
		made <- err
	}()
	if err := <-made; err != nil {
		return nil, errors.Join(fmt.Errorf("a network for the image's dockerd: %w", err), n.close())
	}
	go func() { _ = n.server.Serve(n.listeners[0]) }()
	for i, l := range n.listeners[1:] {
		go forwardAll(l, local[i])
	}
	return n, nil
}

// open makes the namespace on the calling thread.
func (n *network) open(addrs []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	var err error
	if n.ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	for _, a := range addrs {
		l, err := net.Listen("tcp4", a)
		if err != nil {
			return err
		}
		n.listeners = append(n.listeners, l)
	}
	return nil
}

// enter is what goes before a program that is to run in the namespace.
func (n *network) enter() []string {
	return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), n.ns.Fd()), "--"}
}

// env tells a program in the namespace of the proxy.
func (n *network) env() []string {
	at := "http://" + proxyAddr
	return []string{"HTTP_PROXY=" + at, "HTTPS_PROXY=" + at, "http_proxy=" + at, "https_proxy=" + at, "NO_PROXY=", "no_proxy="}
}

func (n *network) close() error {
	errs := []error{n.server.Close()}
	for _, l := range n.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.ns != nil {
		errs = append(errs, n.ns.Close())
	}
	return errors.Join(errs...)
}

// localRegistries are the registries of a plan that lie on this machine's loopback, such as 127.0.0.1:5000.
func localRegistries(p *images.Plan) []string {
	seen := map[string]bool{}
	var out []string
	add := func(host string) {
		name, port, err := net.SplitHostPort(host)
		if err != nil || port == "" {
			return
		}
		if ip := net.ParseIP(name); name != "localhost" && (ip == nil || !ip.IsLoopback() || ip.To4() == nil) {
			return
		}
		if name == "localhost" {
			host = "127.0.0.1:" + port
		}
		if host != proxyAddr && !seen[host] {
			seen[host] = true
			out = append(out, host)
		}
	}
	for _, c := range p.Containers {
		host, _, _ := strings.Cut(c.Ref, "/")
		add(host)
	}
	add(p.Spec.Image.Login.Server)
	return out
}

// dialTimeout is how long a registry may take to accept a connection.
const dialTimeout = 30 * time.Second

// forwardAll hands each connection on to addr, on this side.
func forwardAll(l net.Listener, addr string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			out, err := net.DialTimeout("tcp", addr, dialTimeout)
			if err != nil {
				in.Close()
				return
			}
			join(in, out)
		}()
	}
}

// join copies both ways until both ends are done.
func join(a, b net.Conn) {
	done := make(chan struct{}, 2)
	half := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
		done <- struct{}{}
	}
	go half(a, b)
	go half(b, a)
	<-done
	<-done
	a.Close()
	b.Close()
}

// proxy is an HTTP proxy, and goes through this machine's own where it has one.
type proxy struct{}

func (proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		forwarder.ServeHTTP(w, r)
		return
	}
	out, err := dialOut(r.Context(), r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		out.Close()
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n")
	if early := buffered.Reader.Buffered(); early > 0 { // a client that did not wait for the answer
		_, _ = io.CopyN(out, buffered, int64(early))
	}
	join(in, out)
}

var forwarder = &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}

// dialOut connects to a TLS server, through this machine's proxy if it has one.
func dialOut(ctx context.Context, host string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	via, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: host}})
	if err != nil {
		return nil, err
	}
	if via == nil {
		return (&net.Dialer{}).DialContext(ctx, "tcp", host)
	}
	return tunnel(ctx, via, host)
}

// tunnel connects to host through an HTTP proxy.
func tunnel(ctx context.Context, via *url.URL, host string) (net.Conn, error) {
	if via.Scheme != "http" {
		return nil, fmt.Errorf("the proxy %s: only http:// ones are known", via.Redacted())
	}
	at := via.Host
	if via.Port() == "" {
		at = net.JoinHostPort(via.Hostname(), "80")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: host}, Host: host, Header: http.Header{}}
	if via.User != nil {
		password, _ := via.User.Password()
		login := base64.StdEncoding.EncodeToString([]byte(via.User.Username() + ":" + password))
		req.Header.Set("Proxy-Authorization", "Basic "+login)
	}
	err = req.Write(c)
	var answer *http.Response
	if err == nil { // the server behind a tunnel waits for us to speak: nothing is read too far
		answer, err = http.ReadResponse(bufio.NewReader(c), req) //nolint:bodyclose // the answer to CONNECT has none
	}
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s", answer.Status)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("the proxy %s: %w", via.Redacted(), err)
	}
	return c, nil
}
