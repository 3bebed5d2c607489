package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
)

const (
	metadataBase = "http://169.254.169.254/metadata/"
	// metadataLimit bounds the wait for instance metadata, which may be gone for up to 70 seconds while it is updated.
	metadataLimit = 90 * time.Second
	// askLimit bounds one question.
	askLimit = 5 * time.Second
)

var errNoMetadata = fmt.Errorf("no answer within %s", metadataLimit)

// metadataTransport knows no proxy: nobody but this machine can be asked.
func metadataTransport() http.RoundTripper {
	return &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, IdleConnTimeout: 30 * time.Second}
}

// statusError is an answer that is not 200.
type statusError struct {
	status int
	body   string
}

func (e statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("status %d %s", e.status, e.body))
}

// ask sends one request to metadata.
func (p *Platform) ask(ctx context.Context, limit time.Duration, method, path, version string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, metadataBase+path+"?api-version="+url.QueryEscape(version), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Metadata", "true")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.metadata.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read to its end
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, statusError{resp.StatusCode, strings.Join(strings.Fields(string(b[:min(len(b), 200)])), " ")}
	}
	return b, nil
}

// instance asks for the machine's description until there is an answer, a refusal, or the end of ctx.
func (p *Platform) instance(ctx context.Context) ([]byte, error) {
	for n := 0; ; n++ {
		b, err := p.ask(ctx, askLimit, http.MethodGet, "instance", "2021-12-13", nil)
		if err == nil {
			return b, nil
		}
		var s statusError
		if errors.As(err, &s) && (s.status == http.StatusBadRequest || s.status == http.StatusForbidden || s.status == http.StatusMethodNotAllowed) {
			return nil, &firstboot.Failure{Err: fmt.Errorf("instance metadata refuses: %w", err), Final: true, Hint: "look for a proxy or a firewall rule in the way to 169.254.169.254"}
		}
		t := time.NewTimer(rand.N(min(250*time.Millisecond<<min(n, 10), 5*time.Second))) //nolint:gosec // jitter
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, &firstboot.Failure{Err: fmt.Errorf("instance metadata at 169.254.169.254: asked %d times: %w: %w", n+1, context.Cause(ctx), err), Final: true, Hint: "is this machine on Azure?"}
		}
	}
}
