package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// client speaks to one GitLab on behalf of one runner.
type client struct {
	app  *app
	base string // .../api/v4
	http *http.Client
}

// result is an answer: status 0 and text when there was none.
type result struct {
	status int
	text   string
	body   []byte
	header http.Header
}

// client trusts the host's certificate from tls-ca-file or, as gitlab-runner does, from certs/HOST.crt beside the
// configuration, in addition to the system's authorities.
func (a *app) client(configFile, address, caFile string) (*client, error) {
	// The "/ci" of addresses from before GitLab 8 is dropped, as gitlab-runner does.
	u, err := url.Parse(strings.TrimSuffix(strings.TrimRight(address, "/"), "/ci"))
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("parsing url %q: only http or https scheme supported", address)
	}
	if caFile == "" {
		caFile = filepath.Join(filepath.Dir(configFile), "certs", u.Hostname()+".crt")
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	if pem, err := os.ReadFile(caFile); err == nil {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		pool.AppendCertsFromPEM(pem)
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &client{app: a, base: u.String() + "/api/v4/", http: &http.Client{Transport: t}}, nil
}

// retries is how often the imitated version asks again after a status.
func (a *app) retries(status int) int {
	switch {
	case a.before(17):
		return 0
	case status == http.StatusTooManyRequests:
		return 4
	case !a.before(19) && (status == http.StatusRequestTimeout || status >= 500):
		return 4
	}
	return 0
}

// registration calls the endpoints that the imitated version retries. What does not answer with a status is never
// asked again, and nothing has a deadline.
func (c *client) registration(ctx context.Context, method, path string, in any) result {
	wait := 100 * time.Millisecond
	for try := 0; ; try++ {
		r := c.json(ctx, method, path, in)
		if try >= c.app.retries(r.status) {
			return r
		}
		pause := wait
		if s, err := strconv.Atoi(r.header.Get("Retry-After")); err == nil {
			pause = time.Duration(s) * time.Second
		}
		if !c.app.before(19) {
			c.app.info("Waiting before making the next call", "context", "ratelimit-requester-gitlab-request", "duration", pause, "method", method, "url", c.base+path)
		}
		select {
		case <-ctx.Done():
			return r
		case <-time.After(pause):
		}
		wait *= 2
	}
}

func (c *client) json(ctx context.Context, method, path string, in any) result {
	b, err := json.Marshal(in)
	if err != nil {
		return result{text: err.Error()}
	}
	r := c.do(ctx, method, path, b, http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}})
	ct, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
	if slices.Contains([]int{200, 201}, r.status) && len(r.body) > 0 && ct != "application/json" {
		return result{text: fmt.Sprintf("expected application/json, got %s", ct)}
	}
	return r
}

func (c *client) do(ctx context.Context, method, path string, body []byte, header http.Header) result {
	fail := func(err error) result {
		return result{text: fmt.Sprintf("couldn't execute %s against %s: %v", method, c.base+path, err)}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	r.Header = header
	r.Header.Set("User-Agent", fmt.Sprintf("gitlab-runner %s (standin; %s; %s/%s)", c.app.version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
	resp, err := c.http.Do(r)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = resp.Body.Close() }() // it is read to its end
	got, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return fail(err)
	}
	return result{status: resp.StatusCode, text: describe(resp, got), body: got, header: resp.Header}
}

// describe is gitlab-runner's words for a status: "410 Gone (410 Gone - runner registration disallowed)".
func describe(resp *http.Response, body []byte) string {
	var m struct {
		Message any `json:"message"`
		Error   any `json:"error"`
	}
	_ = json.Unmarshal(body, &m) // a body of another kind adds nothing
	switch {
	case m.Message != nil:
		return fmt.Sprintf("%s %s: %s (%v)", resp.Request.Method, resp.Request.URL, resp.Status, m.Message)
	case m.Error != nil:
		return fmt.Sprintf("%s %s: %s (%v)", resp.Request.Method, resp.Request.URL, resp.Status, m.Error)
	}
	return fmt.Sprintf("%s %s: %s", resp.Request.Method, resp.Request.URL, resp.Status)
}

// about is what a runner tells of itself.
func (a *app) about(executor string) map[string]any {
	m := map[string]any{"name": "gitlab-runner", "version": a.version, "revision": "standin", "platform": runtime.GOOS, "architecture": runtime.GOARCH,
		"features": map[string]any{"variables": false}}
	if executor != "" {
		m["executor"], m["shell"] = executor, "bash"
	}
	return m
}

// identity is the answer to a registration and to a verification.
type identity struct {
	ID      int        `json:"id"`
	Token   string     `json:"token"`
	Expires *time.Time `json:"token_expires_at"`
}
