package builder

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Progress is how a bake tells what it does. Implementations: a live terminal, plain lines, JSON events, Packer's UI.
// Its methods may be called from several goroutines.
type Progress interface {
	// Step begins a named step; the one before it has ended.
	Step(name string)
	// StepDone ends it.
	StepDone(name string, took time.Duration, err error)
	// Info is one line worth reading now; Warn one that the reader should act on.
	Info(format string, args ...any)
	Warn(format string, args ...any)
	// Log takes a line of a command's output; shown with --verbose only.
	Log(line string)
	// Count says how far a counted thing has come (bytes, layers); total 0 when unknown. With done 0 too it only
	// names what the step is at.
	Count(what string, done, total int64, unit string)
}

// ProgressOptions choose how progress looks.
type ProgressOptions struct {
	Kind    string // auto (live on a terminal, else plain), plain, json or quiet; "" is auto
	Verbose bool   // show Log lines
	NoColor bool   // as the environment variable NO_COLOR, which is honoured too
}

// NewProgress writes progress to w. Call done when no more will come, and before writing to the same terminal; until then
// a Progress that is also an io.Writer takes whole lines for it.
func NewProgress(w io.Writer, o ProgressOptions) (p Progress, done func()) {
	if os.Getenv("NO_COLOR") != "" {
		o.NoColor = true
	}
	f, isFile := w.(*os.File)
	switch {
	case o.Kind == "json":
		return &events{w: w, verbose: o.Verbose, now: time.Now}, func() {}
	case o.Kind == "quiet":
		return &plain{w: w, quiet: true}, func() {}
	case o.Kind != "plain" && isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb":
		l := newLive(w, o)
		return l, l.close
	default:
		return &plain{w: w, verbose: o.Verbose}, func() {}
	}
}

// Discard tells nobody.
func Discard() Progress { return &plain{w: io.Discard, quiet: true} }

// plain writes a line per event, for logs.
type plain struct {
	w              io.Writer
	verbose, quiet bool

	mu      sync.Mutex
	quarter map[string]int64 // the last quarter told of each counted thing
}

func (p *plain) Step(name string) {
	if !p.quiet {
		p.line("==> %s", name)
	}
	p.mu.Lock()
	p.quarter = nil
	p.mu.Unlock()
}

func (p *plain) StepDone(name string, took time.Duration, err error) {
	switch {
	case p.quiet:
	case err != nil:
		p.line("    %s failed after %s", name, seconds(took))
	default:
		p.line("    %s done in %s", name, seconds(took))
	}
}

func (p *plain) Info(format string, args ...any) {
	if !p.quiet {
		p.line("    "+format, args...)
	}
}

func (p *plain) Warn(format string, args ...any) { p.line("warning: "+format, args...) }

func (p *plain) Log(l string) {
	if p.verbose {
		p.line("    | %s", l)
	}
}

// Count tells each quarter once: enough for a log.
func (p *plain) Count(what string, done, total int64, unit string) {
	if p.quiet || total <= 0 {
		return
	}
	q := done * 4 / total
	p.mu.Lock()
	told := p.quarter[what]
	if q > told {
		if p.quarter == nil {
			p.quarter = map[string]int64{}
		}
		p.quarter[what] = q
	}
	p.mu.Unlock()
	if q > told {
		p.line("    %s: %s", what, counted(done, total, unit))
	}
}

func (p *plain) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

// events writes one JSON object per line, for programs.
type events struct {
	w       io.Writer
	verbose bool
	now     func() time.Time

	mu      sync.Mutex
	percent map[string]int64
}

// Event is one line of --json. Event says which fields are meant: step (name), step_done (name, seconds, error), info and
// warn and log (message), count (name, done, total, unit).
type Event struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`
	Name    string    `json:"name,omitempty"`
	Seconds float64   `json:"seconds,omitempty"`
	Error   string    `json:"error,omitempty"`
	Message string    `json:"message,omitempty"`
	Done    int64     `json:"done,omitempty"`
	Total   int64     `json:"total,omitempty"`
	Unit    string    `json:"unit,omitempty"`
}

func (e *events) Step(name string) {
	e.mu.Lock()
	e.percent = nil
	e.mu.Unlock()
	e.emit(Event{Event: "step", Name: name})
}

func (e *events) StepDone(name string, took time.Duration, err error) {
	ev := Event{Event: "step_done", Name: name, Seconds: took.Seconds()}
	if err != nil {
		ev.Error = err.Error()
	}
	e.emit(ev)
}

func (e *events) Info(format string, args ...any) {
	e.emit(Event{Event: "info", Message: fmt.Sprintf(format, args...)})
}

func (e *events) Warn(format string, args ...any) {
	e.emit(Event{Event: "warn", Message: fmt.Sprintf(format, args...)})
}

func (e *events) Log(l string) {
	if e.verbose {
		e.emit(Event{Event: "log", Message: l})
	}
}

// Count tells each percent once.
func (e *events) Count(what string, done, total int64, unit string) {
	if total > 0 {
		p := done*100/total + 1
		e.mu.Lock()
		told := e.percent[what]
		if e.percent == nil {
			e.percent = map[string]int64{}
		}
		e.percent[what] = p
		e.mu.Unlock()
		if p <= told {
			return
		}
	}
	e.emit(Event{Event: "count", Name: what, Done: done, Total: total, Unit: unit})
}

func (e *events) emit(ev Event) {
	ev.Time = e.now().UTC()
	b, err := json.Marshal(ev)
	if err != nil { // only unsupported types fail, and there are none
		panic(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, _ = e.w.Write(append(b, '\n'))
}

// seconds prints a duration as people read it: 0.3s, 12.4s, 3m05s.
func seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}

// counted prints "112 of 300 MB"; bytes in decimal units; nothing when nothing is known.
func counted(done, total int64, unit string) string {
	if done == 0 && total <= 0 {
		return ""
	}
	d := fmt.Sprint(done)
	t := fmt.Sprint(total)
	if unit == "bytes" || unit == "B" {
		top := max(done, total)
		div, name := int64(1), "B"
		for _, u := range []string{"kB", "MB", "GB"} {
			if top/div < 1000 {
				break
			}
			div, name = div*1000, u
		}
		prec := 0
		if top/div < 10 && div > 1 {
			prec = 1
		}
		unit = name
		d = fmt.Sprintf("%.*f", prec, float64(done)/float64(div))
		t = fmt.Sprintf("%.*f", prec, float64(total)/float64(div))
	}
	if total <= 0 {
		return strings.TrimSpace(d + " " + unit)
	}
	return strings.TrimSpace(d + " of " + t + " " + unit)
}
