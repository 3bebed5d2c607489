// Package gitlabtest is a strict GitLab-compatible server for the part of the API that runners use: registration,
// verification, job requests, and the ways in which a real server or the network before it fails. What it does not
// know (a path, a method, a JSON field) it refuses and remembers, so that a test can assert that nothing was guessed.
//
// It follows docs.gitlab.com (api/runners, api/jobs, security/rate_limits) and what gitlab-runner 15.11 to 19.4
// send. It uses the time package only, so inside testing/synctest it runs in virtual time; Transport serves it
// without a network there.
package gitlabtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options says what kind of GitLab this is. The zero value is an empty one that registers nobody.
type Options struct {
	// RegistrationTokens are accepted by POST /runners, as long as RegistrationDisabled is unset.
	RegistrationTokens []string
	// RegistrationDisabled answers 410 to every registration token: GitLab's default since 17.0.
	RegistrationDisabled bool
	// Prefix is the relative URL root, "/gitlab" for https://host/gitlab; empty for none.
	Prefix string
	// PrivateToken opens what users see of runners (PRIVATE-TOKEN header); empty closes it. Admin makes its owner an
	// administrator, who also sees the runners of the whole instance.
	PrivateToken string
	Admin        bool
	// RegistrationsPerMinute and JobRequestsPerMinute limit POST /runners altogether and POST /jobs/request per
	// runner token (2,000 at gitlab.com); more is answered 429 until the minute is over. Zero: no limit.
	RegistrationsPerMinute int
	JobRequestsPerMinute   int
	// Version is what GET /version tells; "19.4.0" when empty.
	Version string
	// Now is the server's own clock, for a server whose clock differs from its clients'; time.Now when nil.
	Now func() time.Time
	// Log gets one record per request, never with a token; nil for none.
	Log *slog.Logger
}

// Server is one GitLab. It is an http.Handler and safe for concurrent use.
type Server struct {
	opts Options
	mux  *http.ServeMux

	mu       sync.Mutex
	runners  []*Runner
	jobs     []*Job
	requests []Request
	problems []string
	faults   []*Fault
	limits   map[string]*window
	serial   int // last id and token given out
}

// Request is one line of the request log.
type Request struct {
	Time     time.Time
	Method   string
	Path     string // below Prefix: "/api/v4/runners"
	Status   int    // what the client saw; 0 when it saw no answer
	Runner   int    // the runner's id, when one was named
	SystemID string
	Body     string // as sent: it holds tokens
	Fault    string // the injected fault, empty for none
	Problem  string // why the request was refused as unknown, empty for none
}

// New makes a server.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Version == "" {
		o.Version = "19.4.0"
	}
	o.Prefix = strings.TrimSuffix(o.Prefix, "/")
	s := &Server{opts: o, mux: http.NewServeMux(), limits: map[string]*window{}}
	s.routes()
	return s
}

// Requests returns the log so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Count says how often METHOD path (below /api/v4) was asked for.
func (s *Server) Count(method, path string) int {
	n := 0
	for _, r := range s.Requests() {
		if r.Method == method && r.Path == "/api/v4"+path {
			n++
		}
	}
	return n
}

// Problems lists what was asked that no GitLab knows; a test that talked to the server asserts that it is empty.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// maxBody is more than any runner request needs, traces included.
const maxBody = 4 << 20

// ServeHTTP logs the request, applies the first fault that matches, and otherwise answers as GitLab does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return // the client went away, or sent what nobody sends
	}
	c := &call{Request: Request{Time: s.opts.Now(), Method: r.Method, Path: strings.TrimPrefix(r.URL.Path, s.opts.Prefix), Body: string(body)}, r: r, body: body}
	a, answered := s.respond(c)
	c.Status = a.status
	s.log(c) // before the client can know of it
	if !answered {
		cut(w)
	}
	s.write(w, a)
}

// respond is the answer that the first matching fault leaves of GitLab's; none when the connection is to be cut.
func (s *Server) respond(c *call) (a answer, answered bool) {
	fault := s.fault(c)
	if fault == nil {
		return s.answer(c), true
	}
	c.Fault = fault.Kind.String()
	instead, goOn := fault.before(c.r.Context())
	switch {
	case !goOn:
		return answer{}, false
	case instead != nil:
		return *instead, true
	}
	a = s.answer(c)
	if !fault.after(&a) {
		return answer{}, false
	}
	return a, true
}

// answer routes one call.
func (s *Server) answer(c *call) answer {
	if !strings.HasPrefix(c.r.URL.Path, s.opts.Prefix+"/") {
		c.Problem = "the path is outside " + s.opts.Prefix
		return answer{status: http.StatusNotFound, page: "<html><body>Not found</body></html>"}
	}
	r := c.r.Clone(c.r.Context())
	r.URL.Path, r.URL.RawPath = c.Path, ""
	handler, pattern := s.mux.Handler(r)
	if pattern == "" || path.Clean(c.Path) != c.Path { // the mux would redirect //runners; GitLab does not know it
		c.Problem = "unknown method or path"
		return failure(http.StatusNotFound, "404 Not Found")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return handler.(endpoint)(c)
}

// log keeps the request, after its answer.
func (s *Server) log(c *call) {
	s.mu.Lock()
	s.requests = append(s.requests, c.Request)
	if c.Problem != "" {
		s.problems = append(s.problems, fmt.Sprintf("%s %s: %s", c.Method, c.r.URL.Path, c.Problem))
	}
	s.mu.Unlock()
	if s.opts.Log != nil {
		s.opts.Log.Info("request", "method", c.Method, "path", c.Path, "status", c.Status, "runner", c.Runner,
			"system_id", c.SystemID, "fault", c.Fault, "problem", c.Problem)
	}
}

// call is a request under way.
type call struct {
	Request
	r    *http.Request
	body []byte
}

// decode reads the JSON body into v; a field that v does not have is refused and remembered.
func (c *call) decode(v any) (answer, bool) {
	if ct, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";"); ct != "application/json" {
		c.Problem = fmt.Sprintf("the content type is %q", ct)
		return answer{status: http.StatusUnsupportedMediaType, json: map[string]string{"error": "The provided content-type '" + ct + "' is not supported."}}, false
	}
	d := json.NewDecoder(bytes.NewReader(c.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		c.Problem = err.Error()
		return failure(http.StatusBadRequest, "400 Bad request - "+err.Error()), false
	}
	return answer{}, true
}

// answer is what the server says; page wins over json, and neither makes an empty body.
type answer struct {
	status int
	header map[string]string
	json   any
	page   string // sent as text/html, or as the content type that header names
}

// failure is an error as GitLab words it.
func failure(status int, message any) answer {
	return answer{status: status, json: map[string]any{"message": message}}
}

func (s *Server) write(w http.ResponseWriter, a answer) {
	h := w.Header()
	h.Set("Date", s.opts.Now().UTC().Format(http.TimeFormat))
	body := []byte(a.page)
	switch {
	case a.page != "":
		h.Set("Content-Type", "text/html; charset=utf-8")
	case a.json != nil:
		h.Set("Content-Type", "application/json")
		body, _ = json.Marshal(a.json) // maps and structs of plain fields: cannot fail
	}
	for k, v := range a.header {
		h.Set(k, v)
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a client that went away is not the server's trouble
}

// Transport answers requests to any host in this process, without a network: for virtual time. Faults that cut a
// connection come out as errors of the transport.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

type transport struct{ s *Server }

func (t transport) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.RequestURI = r.URL.RequestURI()
	w := httptest.NewRecorder()
	defer func() {
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // a panic's value
			resp, err = nil, fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, errReset)
		} else if p != nil {
			panic(p)
		}
		if ctxErr := r.Context().Err(); ctxErr != nil {
			resp, err = nil, ctxErr
		}
	}()
	t.s.ServeHTTP(w, in)
	resp = w.Result()
	resp.Request = r
	return resp, nil
}
