package gitlabtest

import (
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

// before acts in place of the server: it answers, cuts the connection, or (nil) lets the server go on.
func (f *Fault) before(w http.ResponseWriter, r *http.Request) *answer {
	switch f.Kind {
	case Status:
		a := failure(f.Status, strconv.Itoa(f.Status)+" "+http.StatusText(f.Status))
		if f.Retry > 0 {
			a.header = map[string]string{"Retry-After": strconv.Itoa(int((f.Retry + time.Second - 1) / time.Second))}
		}
		return &a
	case HTML:
		return &answer{status: http.StatusOK, page: "<!DOCTYPE html><html><head><title>Welcome to the hotel</title></head><body>Please log in.</body></html>"}
	case Reset:
		cut(w)
	case Hang:
		<-r.Context().Done()
		cut(w)
	case Slow:
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			cut(w)
		}
	}
	return nil
}

// after acts on the server's answer, once it has done what was asked.
func (f *Fault) after(w http.ResponseWriter, a *answer) {
	switch f.Kind {
	case Lost:
		cut(w)
	case ContentType:
		if a.header == nil {
			a.header = map[string]string{}
		}
		a.header["Content-Type"] = "text/plain"
	}
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
