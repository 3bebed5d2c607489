// Package azuretest is an Azure subscription in memory, behind HTTP on loopback: the SDK's generated fake servers
// parse the calls, and around them stand what they leave out and what a client must cope with: bearer tokens, real
// long-running operations, delays, throttling, refused permissions, capacity that runs out, and a fault at call N.
// It is strict: an unknown call is an error and is kept in Unknown.
package azuretest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	compute "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7/fake"
	network "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7/fake"
	resources "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3/fake"
)

// Subscription is the one subscription there is; Token the bearer token that its token endpoint gives.
const (
	Subscription = "11111111-2222-3333-4444-555555555555"
	Token        = "loopback-token"
)

// Delays are how long each kind of operation takes; all zero by default.
type Delays struct {
	Network, VM, Deallocate, Image, Version, Replicate, Disk, Delete time.Duration
}

// Fault is one thing that goes wrong.
type Fault struct {
	N      int    // the Nth call that matches, counted from 1; 0 is every one
	API    string // the beginning of the call's name ("VirtualMachinesClient.Begin"); "" matches every call
	Status int    // default 400
	Code   string // default "InjectedFault"
	Async  bool   // the call is accepted and its operation fails
	Lost   bool   // the call takes effect and its answer is lost
	// RetryAfter is sent along with a 429; clients that honour it wait this long.
	RetryAfter time.Duration

	seen int
}

// Call is one request that was made.
type Call struct {
	N                         int
	API, Method, Path, Action string
}

// Server is the subscription. Set its fields before the first call; everything else is safe at any time.
type Server struct {
	URL         string
	Delays      Delays
	Faults      []*Fault
	OnCall      func(Call)                           // before a call is handled; may cancel the caller or end the world
	Allow       []string                             // RBAC actions that are granted, with *; nil grants all
	NoRoom      map[string]string                    // "SIZE" or "SIZE/ZONE" -> error code of a machine that gets no room
	Booted      func(vm string)                      // a machine has come up
	Console     func(vm string) string               // what a machine's serial console holds
	SAS         func(disk string, size int64) string // where a disk is uploaded to; default this server's own page blobs
	Revoked     func(disk string)                    // access to a disk was revoked
	OnPage      func(put int, at int64) int          // before the Nth write of pages, at a byte; a status refuses it
	Health      func(vm, image string) string        // what the health extension says of a scale set's machine that is up; default healthy
	Drained     func(vm string) bool                 // whether a scale set's machine that is to go has approved of it; default at once
	Controllers string                               // of disks that platform images know; default "SCSI, NVMe"
	Page        int                                  // resources per page of a listing; default 2

	mu      sync.Mutex
	store   map[string]*resource // by lower-case id
	ops     map[string]*operation
	blobs   map[string]*blob
	usage   map[string][2]int // quota name -> used, limit
	skus    []SKU
	calls   []Call
	unknown []string
	killed  []string
	dead    bool
	seq     int
}

// New makes a subscription with nothing in it but what Azure itself offers. It is reached through Do, or over HTTP
// once it listens.
func New() *Server {
	return &Server{
		URL: "https://azure.test", Page: 2, Controllers: "SCSI, NVMe", NoRoom: map[string]string{}, store: map[string]*resource{}, ops: map[string]*operation{},
		blobs: map[string]*blob{}, usage: map[string][2]int{}, skus: defaultSKUs(),
	}
}

// Listen serves HTTP on loopback until stop is called.
func (s *Server) Listen() (stop func()) {
	h := httptest.NewServer(s)
	s.URL = h.URL
	return h.Close
}

// Do is the server as the SDK's transport, without a network: for tests on a virtual clock.
func (s *Server) Do(req *http.Request) (resp *http.Response, err error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r == http.ErrAbortHandler { //nolint:errorlint // a panic's value
			resp, err = nil, errors.New("connection reset by peer")
		} else if r != nil {
			panic(r)
		}
	}()
	if req.Body == nil {
		req.Body = http.NoBody
	}
	defer req.Body.Close()
	rec := httptest.NewRecorder()
	in := req.Clone(req.Context())
	in.Host = req.URL.Host
	in.Header = http.Header{}
	for k, v := range req.Header { // the SDK writes some in lower case, which a network would not carry
		in.Header[http.CanonicalHeaderKey(k)] = v
	}
	s.ServeHTTP(rec, in)
	// The caller may have gone while the call was handled.
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	resp = rec.Result()
	resp.Request = req
	return resp, nil
}

// Env are the environment variables by which azidentity's managed identity finds this server's token endpoint.
func (s *Server) Env() map[string]string {
	return map[string]string{"IDENTITY_ENDPOINT": s.URL + "/msi/token", "IDENTITY_HEADER": "loopback"}
}

// Die makes every call fail from now on, as if the caller's process had been killed.
func (s *Server) Die() { s.mu.Lock(); s.dead = true; s.mu.Unlock() }

// Revive undoes Die.
func (s *Server) Revive() { s.mu.Lock(); s.dead = false; s.mu.Unlock() }

// Calls are the calls so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Unknown are the calls that the server does not know, which a test must find empty.
func (s *Server) Unknown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.unknown...)
}

// armError is an error as Azure writes it.
type armError struct {
	status        int
	code, message string
	retryAfter    time.Duration
}

func (e *armError) Error() string { return e.code + ": " + e.message }

func fail(status int, code, format string, args ...any) *armError {
	return &armError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// ServeHTTP handles one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/msi/token":
		s.token(w, r)
	case strings.HasPrefix(r.URL.Path, "/console/"):
		s.console(w, r)
	case strings.HasPrefix(r.URL.Path, "/blob/"):
		s.pages(w, r)
	default:
		s.arm(w, r)
	}
}

// token is the App Service form of the managed identity endpoint.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Identity-Header") != "loopback" {
		http.Error(w, `{"error":"invalid_request"}`, http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"access_token": Token, "token_type": "Bearer",
		"expires_on": fmt.Sprint(time.Now().Add(24 * time.Hour).Unix()), "resource": r.URL.Query().Get("resource")})
}

func (s *Server) console(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	console := s.Console
	s.mu.Unlock()
	if console == nil {
		http.NotFound(w, r)
		return
	}
	_, _ = io.WriteString(w, console(strings.TrimPrefix(r.URL.Path, "/console/")))
}

// begun carries the operation that a handler starts back to the HTTP layer.
type begun struct{ op *operation }

type begunKey struct{}

func (s *Server) arm(w http.ResponseWriter, r *http.Request) {
	rt, ok := findRoute(r)
	call := Call{API: rt.api, Method: r.Method, Path: r.URL.Path, Action: action(r.Method, r.URL.Path)}
	s.mu.Lock()
	call.N = len(s.calls) + 1
	if !s.dead {
		s.calls = append(s.calls, call)
	}
	onCall := s.OnCall
	s.mu.Unlock()
	if onCall != nil {
		onCall(call)
	}
	s.mu.Lock()
	dead := s.dead
	var hit *Fault
	if !dead {
		hit = s.fault(call)
		s.settle()
	}
	s.mu.Unlock()
	switch {
	case dead:
		panic(http.ErrAbortHandler)
	case !ok:
		s.mu.Lock()
		s.unknown = append(s.unknown, r.Method+" "+r.URL.String())
		s.mu.Unlock()
		writeError(w, fail(http.StatusBadRequest, "InvalidResourceType", "unknown call %s %s", r.Method, r.URL))
		return
	case r.Header.Get("Authorization") != "Bearer "+Token:
		writeError(w, fail(http.StatusUnauthorized, "InvalidAuthenticationToken", "the access token is missing or wrong"))
		return
	case r.URL.Query().Get("api-version") == "" && rt.module != "operation":
		writeError(w, fail(http.StatusBadRequest, "MissingApiVersionParameter", "the api-version query parameter is required"))
		return
	case !strings.HasPrefix(strings.ToLower(r.URL.Path), "/subscriptions/"+Subscription):
		writeError(w, fail(http.StatusNotFound, "SubscriptionNotFound", "the subscription in '%s' could not be found", r.URL.Path))
		return
	case hit != nil && !hit.Async && !hit.Lost:
		e := fail(cmp.Or(hit.Status, http.StatusBadRequest), cmp.Or(hit.Code, "InjectedFault"), "fault at call %d, %s", call.N, call.API)
		e.retryAfter = hit.RetryAfter
		writeError(w, e)
		return
	}
	if e := s.authorize(call.Action, call.Path); e != nil {
		writeError(w, e)
		return
	}
	rec := httptest.NewRecorder()
	s.dispatch(rec, r, rt, hit)
	if hit != nil && hit.Lost {
		panic(http.ErrAbortHandler)
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// dispatch lets the generated fake parse the call and adds the long-running operation that its handler began.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request, rt route, hit *Fault) {
	switch rt.module {
	case "operation":
		s.operation(w, r)
		return
	case "permissions":
		s.permissions(w)
		return
	case "roles":
		s.roleAssignments(w, r)
		return
	}
	b := &begun{}
	// The generated fakes panic when their caller leaves; and a real server finishes what it has begun.
	ctx := context.WithValue(context.WithoutCancel(r.Context()), runtime.CtxAPINameKey{}, rt.api)
	req := r.Clone(context.WithValue(ctx, begunKey{}, b))
	scheme, _, _ := strings.Cut(s.URL, ":")
	req.URL.Scheme, req.URL.Host = scheme, r.Host
	page := 0
	if base, number, found := strings.Cut(req.URL.Path, pageSuffix); found {
		req.URL.Path, req.URL.RawPath = base, ""
		page, _ = strconv.Atoi(number)
	}
	// A fake of this call's own: the generated ones keep a listing's place by its path, so that an abandoned
	// listing would spoil the next one.
	fake := s.fake(rt.module)
	resp, err := fake.Do(req)
	for ; page > 0 && err == nil; page-- {
		resp, err = fake.Do(req)
	}
	if err != nil {
		var e *armError
		if !errors.As(err, &e) {
			e = fail(http.StatusBadRequest, "InvalidRequestContent", "%v", err)
		}
		writeError(w, e)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		if k != "Fake-Poller-Status" {
			w.Header()[k] = v
		}
	}
	status := resp.StatusCode
	if b.op != nil {
		s.mu.Lock()
		if hit != nil && hit.Async {
			b.op.failure = fail(http.StatusConflict, cmp.Or(hit.Code, "InjectedFault"), "operation failed at call of %s", rt.api)
		}
		at := s.URL + "/subscriptions/" + Subscription + "/providers/Microsoft.Compute/locations/" + b.op.location + "/operations/" + b.op.id
		s.mu.Unlock()
		w.Header().Set("Azure-AsyncOperation", at+"?api-version=2024-01-01")
		w.Header().Set("Retry-After", "10")
		if r.Method == http.MethodPost || r.Method == http.MethodDelete {
			w.Header().Set("Location", at+"?api-version=2024-01-01&result=true")
			w.WriteHeader(http.StatusAccepted)
			return
		}
	}
	w.WriteHeader(status)
	_, _ = io.Copy(w, resp.Body)
}

// pageSuffix is what the generated fakes append to the path of a listing's further pages.
const pageSuffix = "/fake_page_"

// fake is the generated server of one SDK module, with our handlers.
func (s *Server) fake(module string) policy.Transporter {
	switch module {
	case "compute":
		return compute.NewServerFactoryTransport(s.compute())
	case "network":
		return network.NewServerFactoryTransport(s.network())
	}
	return resources.NewServerFactoryTransport(s.resources())
}

// fault finds what is to go wrong with a call.
func (s *Server) fault(c Call) *Fault {
	var hit *Fault
	for _, f := range s.Faults {
		if !strings.HasPrefix(c.API, f.API) {
			continue
		}
		f.seen++
		if hit == nil && (f.N == 0 || f.N == f.seen) {
			hit = f
		}
	}
	return hit
}

func writeError(w http.ResponseWriter, e *armError) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Ms-Error-Code", e.code)
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After-Ms", fmt.Sprint(e.retryAfter.Milliseconds()))
	}
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": e.code, "message": e.message}})
}
