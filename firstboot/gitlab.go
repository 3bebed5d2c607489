package firstboot

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// gitlab is the part of GitLab's API (docs.gitlab.com/api/runners) that a machine uses itself.
type gitlab struct {
	rt   http.RoundTripper
	now  func() time.Time
	base string // without a trailing slash, and without the "/ci" of old addresses, as gitlab-runner has it
	warn func(format string, args ...any)
}

func gitlabBase(u string) string {
	return strings.TrimSuffix(strings.TrimRight(u, "/"), "/ci")
}

// gitlabCall bounds one request.
const gitlabCall = 20 * time.Second

// credentials is GitLab's answer to a registration or verification.
type credentials struct {
	ID      int       `json:"id"`
	Token   string    `json:"token"`
	Expires time.Time `json:"token_expires_at"`
}

// registration is what a registration token may say of the new runner.
type registration struct {
	Token       string         `json:"token"`
	Description string         `json:"description"`
	Tags        string         `json:"tag_list"`
	RunUntagged bool           `json:"run_untagged"`
	Locked      bool           `json:"locked"`
	Info        map[string]any `json:"info"`
}

// probe asks whether an API answers: without a token GitLab says 401 there, in JSON. A captive portal says 200 in HTML.
func (g *gitlab) probe(ctx context.Context) error {
	err := g.call(ctx, http.MethodGet, "/version", nil, nil)
	if f, ok := errors.AsType[*refusal](err); ok && (f.status == http.StatusUnauthorized || f.status == http.StatusForbidden) {
		return nil
	}
	return err
}

func (g *gitlab) register(ctx context.Context, r registration) (credentials, error) {
	var c credentials
	err := g.call(ctx, http.MethodPost, "/runners", r, &c)
	return c, err
}

func (g *gitlab) verify(ctx context.Context, token, systemID string) (credentials, error) {
	var c credentials
	err := g.call(ctx, http.MethodPost, "/runners/verify", machineID{token, systemID}, &c)
	return c, err
}

type machineID struct {
	Token    string `json:"token"`
	SystemID string `json:"system_id,omitempty"`
}

// unregister gives a runner back: only this machine's manager of it, or, where the runner is this machine's own, the
// runner. A runner that GitLab no longer knows is given back already.
func (g *gitlab) unregister(ctx context.Context, token, systemID string, own bool) error {
	path, who := "/runners/managers", machineID{token, systemID}
	if own {
		path, who = "/runners", machineID{Token: token}
	}
	err := g.call(ctx, http.MethodDelete, path, who, nil)
	if f, ok := errors.AsType[*refusal](err); ok && (f.status == http.StatusForbidden || f.status == http.StatusNotFound) {
		return nil
	}
	return err
}

// call sends one request and reads a JSON answer into out. Errors are Failures.
func (g *gitlab) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, gitlabCall)
	defer cancel()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.base+"/api/v4"+path, body)
	if err != nil {
		return final(err, "mend the spec's url")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "dorunner-firstboot")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := g.rt.RoundTrip(req) // redirects are not followed: an API does not redirect
	if err != nil {
		return g.transportFailure(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return &Failure{Err: fmt.Errorf("GitLab's answer broke off: %w", err), Lost: true}
	}
	g.checkClock(resp)
	return g.judge(resp, data, out)
}

// judge tells an answer of the API from everything else that answers HTTP.
func (g *gitlab) judge(resp *http.Response, data []byte, out any) error {
	isJSON := strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json")
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return g.redirected(resp)
	case resp.StatusCode >= 400:
		return refused(resp.StatusCode, message(resp, data, isJSON), isJSON, retryAfter(resp.Header.Get("Retry-After"), g.now()))
	case resp.StatusCode == http.StatusNoContent:
		return nil
	case !isJSON:
		return &Failure{Err: fmt.Errorf("%s answers %d with %q, not with GitLab's API", g.base, resp.StatusCode, resp.Header.Get("Content-Type")),
			Hint: "a captive portal or proxy stands in between, or the url is not GitLab's"}
	case out != nil:
		if err := json.Unmarshal(data, out); err != nil {
			return &Failure{Err: fmt.Errorf("GitLab's answer is not JSON: %w", err), Lost: true}
		}
	}
	return nil
}

// refusal is an HTTP status of 400 and above.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string {
	return "GitLab answers " + strings.TrimSpace(strconv.Itoa(r.status)+" "+r.message)
}

// refused says what a status means for a registration: which end, and which are worth another try.
func refused(status int, message string, isAPI bool, wait time.Duration) error {
	f := &Failure{Err: &refusal{status, message}, Wait: wait}
	switch {
	case status == http.StatusBadRequest && strings.Contains(strings.ToLower(message), "https"):
		f.Final, f.Hint = true, "the server speaks https there: write the url with https://"
	case !isAPI:
		f.Hint = "not in the way of GitLab's API: is the url right, and does nothing stand in between?"
	case status == http.StatusBadRequest:
		f.Final, f.Hint = true, "mend the runner's settings"
	case status == http.StatusForbidden:
		f.Final, f.Hint = true, "the token is not valid there: make a new runner in the group's settings and put its glrt- token in place"
	case status == http.StatusGone:
		f.Final, f.Hint = true, "registration tokens are disabled there: make the runner in the group's settings and use its glrt- token"
	case status == http.StatusUnprocessableEntity:
		f.Final, f.Hint = true, "GitLab cannot use the token or system id as sent: check the token's kind"
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout:
		f.Lost = true // the gateway gave up; what is behind it may not have
	}
	return f
}

func (g *gitlab) redirected(resp *http.Response) error {
	to := resp.Header.Get("Location")
	err := fmt.Errorf("%s redirects to %s", g.base, to)
	asked, _ := url.Parse(g.base)
	if u, perr := url.Parse(to); perr == nil && u.Hostname() == asked.Hostname() && u.Scheme == "https" && asked.Scheme == "http" {
		return final(err, "write the url with https://")
	}
	return &Failure{Err: err, Hint: "a captive portal stands in between, or GitLab has moved"}
}

// transportFailure words what kept an answer from coming. All of it can pass: networks come up late.
func (g *gitlab) transportFailure(err error) error {
	f := &Failure{Err: fmt.Errorf("GitLab at %s cannot be reached: %w", g.base, err)}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var dns *net.DNSError
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		f.Hint = fmt.Sprintf("this machine's clock says %s: check its time synchronization (timedatectl), then the server's certificate", g.now().UTC().Format(time.DateTime))
	case errors.As(err, &unknown):
		f.Hint = "add the authority to /usr/local/share/ca-certificates and run update-ca-certificates, and for the runner to certs/HOST.crt beside its config.toml; a captive portal looks the same"
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		f.Final, f.Hint = true, "the server speaks http there: write the url with http://"
	case errors.As(err, &dns):
		f.Hint = "the name does not resolve: check the url and the machine's DNS"
	case errors.As(err, &op) && op.Op == "dial":
		f.Hint = "check the url, the route and the firewall"
	default: // the connection stood: the request may have arrived
		f.Lost = true
	}
	return f
}

// clockTolerance is how far our clock may be off before it is worth a warning: tokens and certificates allow for less.
const clockTolerance = 5 * time.Minute

func (g *gitlab) checkClock(resp *http.Response) {
	theirs, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil || g.warn == nil {
		return
	}
	if off := g.now().Sub(theirs); off.Abs() > clockTolerance {
		g.warn("this machine's clock is off by %s against GitLab's: check its time synchronization (timedatectl)", off.Round(time.Second))
		g.warn = nil // once
	}
}

// message is what an error answer says, in one line.
func message(resp *http.Response, data []byte, isJSON bool) string {
	var m struct {
		Message any    `json:"message"`
		Error   string `json:"error"`
	}
	text := ""
	if isJSON && json.Unmarshal(data, &m) == nil {
		text = m.Error
		if m.Message != nil {
			text = fmt.Sprint(m.Message)
		}
	} else if len(data) < 200 && !bytes.Contains(data, []byte("<")) {
		text = string(data)
	}
	text = oneLine(text)
	text = strings.TrimPrefix(text, strconv.Itoa(resp.StatusCode)+" ")
	if text == "" {
		text = http.StatusText(resp.StatusCode)
	}
	return text
}

// retryAfter reads both forms of the header: seconds and a date.
func retryAfter(header string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(header); err == nil {
		return time.Duration(max(n, 0)) * time.Second
	}
	if t, err := http.ParseTime(header); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
