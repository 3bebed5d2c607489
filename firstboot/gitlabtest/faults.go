package gitlabtest

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// FaultKind is a way to fail.
type FaultKind int

// The kinds of faults.
const (
	Status      FaultKind = iota // answer Fault.Status as GitLab words it; nothing is done
	Reset                        // cut the connection before anything is done
	Hang                         // never answer
	Lost                         // do it, then cut the connection instead of answering
	HTML                         // a captive portal: a page with 200; nothing is done
	Slow                         // answer after Fault.Delay
	ContentType                  // the right body, called text/plain
)

func (k FaultKind) String() string {
	return [...]string{"status", "reset", "hang", "lost", "html", "slow", "content-type"}[k]
}

// Fault is a rule: calls number From to From+Count-1 that match Method and Path fail.
type Fault struct {
	Method string // "" matches every one
	Path   string // below /api/v4, "/runners"; "" matches every one
	From   int    // the first call to fail, counted from 1 among the matching ones; 0 is 1
	Count  int    // how many fail; 0 is for ever
	Kind   FaultKind
	Status int           // for Status
	Say    string        // for Status: the message; GitLab's own when empty
	Retry  time.Duration // for Status: sent as Retry-After, in whole seconds; 0 for none
	Delay  time.Duration // for Slow

	seen int
}

// errReset is what a cut connection looks like through Transport.
var errReset error = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}

// Inject adds a rule; the first that matches a call decides.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Heal removes every rule.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// fault picks the rule that decides this call, if any.
func (s *Server) fault(c *call) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if (f.Method != "" && f.Method != c.Method) || (f.Path != "" && "/api/v4"+f.Path != c.Path) {
			continue
		}
		f.seen++
		from := max(f.From, 1)
		if f.seen >= from && (f.Count == 0 || f.seen < from+f.Count) {
			hit := *f
			return &hit
		}
	}
	return nil
}

// before acts in place of the server: with an answer of its own, by letting the server go on (neither), or by having
// the connection cut.
func (f *Fault) before(ctx context.Context) (instead *answer, goOn bool) {
	switch f.Kind {
	case Status:
		a := failure(f.Status, cmp.Or(f.Say, strconv.Itoa(f.Status)+" "+http.StatusText(f.Status)))
		if f.Retry > 0 {
			a.header = map[string]string{"Retry-After": strconv.Itoa(int((f.Retry + time.Second - 1) / time.Second))}
		}
		return &a, true
	case HTML:
		return &answer{status: http.StatusOK, page: "<!DOCTYPE html><html><head><title>Welcome to the hotel</title></head><body>Please log in.</body></html>"}, true
	case Reset:
		return nil, false
	case Hang:
		<-ctx.Done()
		return nil, false
	case Slow:
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, false
		}
	}
	return nil, true
}

// after acts on the server's answer, once it has done what was asked; false has the connection cut instead.
func (f *Fault) after(a *answer) bool {
	if f.Kind == ContentType {
		a.header = map[string]string{"Content-Type": "text/plain"}
	}
	return f.Kind != Lost
}

// cut resets the connection and does not return. A TLS connection cannot be told to reset; it is closed in mid-stream.
func cut(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if conn, _, err := h.Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // a reset instead of an orderly end
			}
			_ = conn.Close()
		}
	}
	panic(http.ErrAbortHandler)
}
