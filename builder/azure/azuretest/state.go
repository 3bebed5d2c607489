package azuretest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
)

// resource is one thing in the subscription, as JSON.
type resource struct {
	id, kind string // kind is the lower-case resource type, "microsoft.compute/disks"
	body     map[string]any
	state    string // provisioning state
	op       *operation

	power       string // of a machine: running, stopped, deallocated
	generalized bool
	upload      string // of a disk: "", ReadyToUpload, ActiveUpload, Unattached, Attached
	replicated  []string
	set         *scaleSet // what a scale set does
	member      *member   // what a machine is in one
}

// operation is a long-running one.
type operation struct {
	id, location string
	due          time.Time
	failure      *armError
	then         func()      // what happens when it succeeds
	ready        func() bool // what it waits for besides; nil for nothing
	target       *resource
	status       string
	result       any
}

// settle lets every operation end whose time has come. The caller holds the lock.
func (s *Server) settle() {
	now := time.Now()
	s.work()
	for _, id := range slices.Sorted(maps.Keys(s.ops)) {
		op := s.ops[id]
		if op.status != "InProgress" || now.Before(op.due) || op.ready != nil && !op.ready() {
			continue
		}
		op.status = "Succeeded"
		state := "Succeeded"
		if op.failure != nil {
			op.status, state = "Failed", "Failed"
		}
		if op.target != nil && op.target.op == op {
			op.target.op = nil
			op.target.setState(state)
		}
		if op.failure == nil && op.then != nil {
			op.then()
		}
	}
}

// begin starts an operation on a resource. The caller holds the lock.
func (s *Server) begin(ctx context.Context, target *resource, delay time.Duration, then func()) {
	s.seq++
	op := &operation{id: fmt.Sprintf("op%06d", s.seq), location: "westeurope", due: time.Now().Add(delay), then: then,
		target: target, status: "InProgress"}
	s.ops[op.id] = op
	target.op = op
	if b, ok := ctx.Value(begunKey{}).(*begun); ok {
		b.op = op
	}
}

// operation answers a poll, or gives an operation's result.
func (s *Server) operation(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	op, ok := s.ops[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
	if !ok {
		writeError(w, fail(http.StatusNotFound, "NotFound", "no such operation"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("result") != "" {
		if op.result == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_ = json.NewEncoder(w).Encode(op.result)
		return
	}
	out := map[string]any{"status": op.status, "name": op.id}
	if op.failure != nil && op.status == "Failed" {
		out["error"] = map[string]string{"code": op.failure.code, "message": op.failure.message}
	}
	if op.result != nil && op.status == "Succeeded" {
		out["properties"] = map[string]any{"output": op.result}
	}
	w.Header().Set("Retry-After", "10") // the hint that a client in a hurry does not follow
	_ = json.NewEncoder(w).Encode(out)
}

func (r *resource) setState(state string) {
	r.state = state
	props, _ := r.body["properties"].(map[string]any)
	if props == nil {
		props = map[string]any{}
		r.body["properties"] = props
	}
	props["provisioningState"] = state
}

func (r *resource) location() string {
	l, _ := r.body["location"].(string)
	return strings.ToLower(strings.ReplaceAll(l, " ", ""))
}

func (r *resource) tags() map[string]string {
	out := map[string]string{}
	tags, _ := r.body["tags"].(map[string]any)
	for k, v := range tags {
		out[k], _ = v.(string)
	}
	return out
}

// kindOf is the lower-case type of what an id names; of something that hangs on another resource, its own.
func kindOf(id string) string {
	parts := strings.Split(strings.Trim(strings.ToLower(id), "/"), "/")
	for i := len(parts) - 3; i >= 0; i-- {
		if parts[i] == "providers" {
			kind := parts[i+1]
			for j := i + 2; j < len(parts); j += 2 {
				kind += "/" + parts[j]
			}
			return kind
		}
	}
	return "resourcegroups"
}

func groupID(rg string) string { return "/subscriptions/" + Subscription + "/resourceGroups/" + rg }

func rid(rg, provider string, rest ...string) string {
	return groupID(rg) + "/providers/" + provider + "/" + strings.Join(rest, "/")
}

// find gives a resource by its id. The caller holds the lock.
func (s *Server) find(id string) (*resource, *armError) {
	r, ok := s.store[strings.ToLower(id)]
	if !ok {
		code := "ResourceNotFound"
		if kindOf(id) == "resourcegroups" {
			code = "ResourceGroupNotFound"
		}
		return nil, fail(http.StatusNotFound, code, "The Resource '%s' was not found.", id)
	}
	return r, nil
}

// put creates or replaces a resource, an operation of delay unless sync, after check has agreed to its body.
// The caller holds the lock.
func (s *Server) put(ctx context.Context, id string, in any, delay time.Duration, check func(r *resource) *armError, then func(r *resource)) (*resource, *armError) {
	if kindOf(id) != "resourcegroups" {
		if _, e := s.find(id[:strings.Index(strings.ToLower(id), "/providers/")]); e != nil {
			return nil, e
		}
	}
	r := &resource{id: id, kind: kindOf(id), body: toMap(in)}
	if loc, _ := r.body["location"].(string); loc == "" {
		return nil, fail(http.StatusBadRequest, "LocationRequired", "The location property is required for this definition.")
	}
	r.body["id"], r.body["name"], r.body["type"] = id, id[strings.LastIndex(id, "/")+1:], r.kind
	old, exists := s.store[strings.ToLower(id)]
	if exists {
		if old.location() != r.location() {
			return nil, fail(http.StatusConflict, "InvalidResourceLocation", "The resource '%s' already exists in location '%s'.", id, old.location())
		}
		r.power, r.generalized, r.upload, r.replicated = old.power, old.generalized, old.upload, old.replicated
	}
	if check != nil {
		if e := check(r); e != nil {
			return nil, e
		}
	}
	r.setState("Creating")
	s.store[strings.ToLower(id)] = r
	s.begin(ctx, r, delay, func() {
		if then != nil {
			then(r)
		}
	})
	return r, nil
}

// remove deletes a resource and what is inside it.
func (s *Server) remove(id string) {
	prefix := strings.ToLower(id)
	for k := range s.store {
		if k == prefix || strings.HasPrefix(k, prefix+"/") {
			delete(s.store, k)
		}
	}
}

// all lists the resources of a kind whose id begins with prefix, in the order of their ids. The caller holds the lock.
func (s *Server) all(kind, prefix string) []*resource {
	var out []*resource
	for _, k := range slices.Sorted(maps.Keys(s.store)) {
		r := s.store[k]
		if (kind == "" || r.kind == kind) && strings.HasPrefix(k, strings.ToLower(prefix)) {
			out = append(out, r)
		}
	}
	return out
}

// Left are the ids of everything in the subscription, resource groups included.
func (s *Server) Left() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	var out []string
	for _, r := range s.all("", "") {
		out = append(out, r.id)
	}
	return out
}

// Tags are the tags of one resource; nil when it does not exist.
func (s *Server) Tags(id string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return nil
	}
	return r.tags()
}

// Properties gives one resource's JSON; nil when it does not exist.
func (s *Server) Properties(id string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, e := s.find(id)
	if e != nil {
		return nil
	}
	return toMap(r.body)
}

func toMap(v any) map[string]any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

// from turns a resource's JSON into the SDK's type.
func from[T any](body map[string]any) T {
	var out T
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

// at walks JSON by keys; "" when there is nothing.
func at(body map[string]any, keys ...string) string {
	var v any = body
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[k]
	}
	out, _ := v.(string)
	return out
}

// answer makes a scalar response of a handler's result.
func answer[T any](v T, e *armError) (resp azfake.Responder[T], errResp azfake.ErrorResponder) {
	if e != nil {
		errResp.SetError(e)
		return resp, errResp
	}
	resp.SetResponse(http.StatusOK, v, nil)
	return resp, errResp
}

// accepted makes the first response of a long-running one.
func accepted[T any](v T, e *armError) (resp azfake.PollerResponder[T], errResp azfake.ErrorResponder) {
	if e != nil {
		errResp.SetError(e)
		return resp, errResp
	}
	resp.SetTerminalResponse(http.StatusOK, v, nil)
	return resp, errResp
}

// paged cuts a listing into pages.
func paged[T, E any](s *Server, items []E, page func([]*E) T) (resp azfake.PagerResponder[T]) {
	for len(items) > s.Page {
		resp.AddPage(http.StatusOK, page(pointers(items[:s.Page])), nil)
		items = items[s.Page:]
	}
	resp.AddPage(http.StatusOK, page(pointers(items)), nil)
	return resp
}

func pointers[E any](items []E) []*E {
	out := make([]*E, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
