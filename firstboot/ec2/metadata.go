package ec2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/dorunner/dorunner-bake/firstboot"
)

// metadataLimit bounds all that first boot asks of instance metadata. The service may lag behind the machine by
// some seconds; a machine that hears nothing for a minute has it switched off, or is not on EC2.
const metadataLimit = time.Minute

// endpoints are tried in this order: an IPv6-only subnet has no way to the first.
var endpoints = []string{"http://169.254.169.254", "http://[fd00:ec2::254]"}

var errNoMetadata = fmt.Errorf("no answer within %s", metadataLimit)

// metadata is instance metadata over IPv4 or IPv6, whichever answered last.
type metadata struct {
	clients []*imds.Client
	good    atomic.Int32
}

func newMetadata(rt http.RoundTripper) *metadata {
	if rt == nil {
		rt = &http.Transport{ // no proxy: nobody but this machine can be asked
			DialContext:     (&net.Dialer{Timeout: time.Second}).DialContext,
			IdleConnTimeout: 30 * time.Second,
		}
	}
	m := &metadata{}
	for _, e := range endpoints {
		m.clients = append(m.clients, imds.New(imds.Options{
			// Each question has the SDK's deadline of five seconds.
			Endpoint: e, HTTPClient: &http.Client{Transport: rt}, ClientEnableState: imds.ClientEnabled,
			EnableFallback: aws.FalseTernary, // IMDSv2 or nothing
			Retryer:        aws.NopRetryer{}, // retry knows both addresses
		}))
	}
	return m
}

// dualStack has services be reached over IPv6 where metadata is: there may be nothing else.
func (m *metadata) dualStack() aws.DualStackEndpointState {
	if m.good.Load() > 0 {
		return aws.DualStackEndpointStateEnabled
	}
	return aws.DualStackEndpointStateUnset
}

// once asks each address once and returns the text; found is false for what metadata does not have.
func (m *metadata) once(ctx context.Context, path string) (text string, found bool, err error) {
	first := int(m.good.Load())
	for i := range m.clients {
		n := (first + i) % len(m.clients)
		text, found, err = get(ctx, m.clients[n], path)
		if err == nil || answered(err) {
			m.good.Store(int32(n))
			return text, found, err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return "", false, err
}

// retry asks until there is an answer, a refusal, or the end of ctx.
func (m *metadata) retry(ctx context.Context, path string) (string, bool, error) {
	for n := 0; ; n++ {
		text, found, err := m.once(ctx, path)
		if err == nil || refused(err) {
			return text, found, err
		}
		t := time.NewTimer(rand.N(min(250*time.Millisecond<<min(n, 10), 5*time.Second))) //nolint:gosec // jitter
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return "", false, fmt.Errorf("asked %d times: %w: %w", n+1, context.Cause(ctx), err)
		}
	}
}

// GetMetadata serves the SDK's credentials from whichever address answers.
func (m *metadata) GetMetadata(ctx context.Context, in *imds.GetMetadataInput, _ ...func(*imds.Options)) (*imds.GetMetadataOutput, error) {
	text, found, err := m.retry(ctx, "meta-data/"+strings.TrimPrefix(in.Path, "/"))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errNoRole
	}
	return &imds.GetMetadataOutput{Content: io.NopCloser(strings.NewReader(text))}, nil
}

// errNoRole is what a missing path means to the only caller of GetMetadata.
var errNoRole = &firstboot.Failure{Err: errors.New("this instance has no role"), Final: true, Hint: "attach an instance profile whose role may read the secret"}

func get(ctx context.Context, c *imds.Client, path string) (string, bool, error) {
	var body io.ReadCloser
	if rest, ok := strings.CutPrefix(path, "meta-data/"); ok {
		out, err := c.GetMetadata(ctx, &imds.GetMetadataInput{Path: rest})
		if err != nil {
			return missing(err)
		}
		body = out.Content
	} else {
		out, err := c.GetDynamicData(ctx, &imds.GetDynamicDataInput{Path: strings.TrimPrefix(path, "dynamic/")})
		if err != nil {
			return missing(err)
		}
		body = out.Content
	}
	b, err := io.ReadAll(io.LimitReader(body, 1<<20))
	return strings.TrimSpace(string(b)), true, errors.Join(err, body.Close())
}

// missing tells what metadata does not have from what went wrong.
func missing(err error) (string, bool, error) {
	if status(err) == http.StatusNotFound && !forToken(err) {
		return "", false, nil
	}
	return "", false, err
}

// status is the HTTP status behind an error; 0 when there was no answer.
func status(err error) int {
	var s interface{ HTTPStatusCode() int }
	if errors.As(err, &s) {
		return s.HTTPStatusCode()
	}
	n := 0
	if _, rest, ok := strings.Cut(err.Error(), tokenError); ok {
		_, rest, _ = strings.Cut(rest, "StatusCode: ")
		_, _ = fmt.Sscanf(rest, "%d", &n) // no number: no answer
	}
	return n
}

// tokenError marks an error of fetching the session token: the SDK gives it no way to be unwrapped.
const tokenError = "operation error ec2imds: getToken"

// forToken says that it was the session token that could not be had.
func forToken(err error) bool { return strings.Contains(err.Error(), tokenError) }

// answered says that the address is the right one, whatever it said.
func answered(err error) bool { return status(err) != 0 }

// refused says that asking again is of no use: metadata is switched off, or the request is wrong.
func refused(err error) bool {
	s := status(err)
	return s == http.StatusForbidden || s == http.StatusBadRequest
}

// metadataFailure is the end of asking, with what to do.
func metadataFailure(what string, err error) error {
	f := &firstboot.Failure{Final: true, Hint: "is this machine on EC2? Its metadata options must have HttpEndpoint enabled"}
	switch {
	case err == nil:
		f.Err = fmt.Errorf("instance metadata has not %s", what)
	case refused(err):
		f.Err = fmt.Errorf("instance metadata refuses %s (status %d)", what, status(err))
		f.Hint = "instance metadata is switched off: set HttpEndpoint to enabled in the instance's metadata options"
	default:
		f.Err = fmt.Errorf("instance metadata at %s: %s: %w", strings.Join(endpoints, " and "), what, err)
	}
	return f
}
