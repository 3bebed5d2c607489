package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// app is what the verbs share: where to read and write, how to tell progress, which spec.
type app struct {
	streams
	file       string // --file
	json       bool
	quiet      bool
	verbose    bool
	allowSmall bool
	bakeID     atomic.Pointer[string]    // of the bake under way
	live       atomic.Pointer[io.Writer] // the terminal, while progress redraws its last line
	// interrupted is what a command does at the first Ctrl-C, other than giving back what it created.
	interrupted atomic.Pointer[string]
}

// defaultFile is the spec that is read when none is named; it may be absent.
const defaultFile = "dorunner.yaml"

// spec reads the spec, or none when none was named and there is no dorunner.yaml. dir is what its paths are relative to.
// What is wrong with it, images.Resolve reports.
func (a *app) spec() (s *images.Spec, dir string, err error) {
	file := a.file
	if file == "" {
		file = defaultFile
	}
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && a.file == "":
		return &images.Spec{}, "", nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", usageError{fmt.Errorf("there is no spec %s: `dorunner-bake init %s` writes one", file, file)}
	case err != nil:
		return nil, "", usageError{fmt.Errorf("spec: %w", err)}
	}
	s, _ = images.Load(file, data)
	return s, filepath.Dir(file), nil
}

// plan reads the spec, decides everything for one target and shows the warnings; overrides win over the file.
func (a *app) plan(target string, overrides []images.Override, launch bool) (*images.Plan, error) {
	s, dir, err := a.spec()
	if err != nil {
		return nil, err
	}
	plan, err := images.Resolve(s, target, images.Options{Overrides: overrides, AllowSmall: a.allowSmall, Launch: launch, Dir: dir})
	if err != nil {
		return nil, err
	}
	a.warn(plan.Warnings)
	return plan, nil
}

// warn shows what is worth a second look in a spec that is right.
func (a *app) warn(p images.Problems) {
	if !a.json {
		p.Render(a.err, colour(a.err))
		return
	}
	for _, q := range p {
		a.event(builder.Event{Time: time.Now().UTC(), Event: "warn", Message: q.Error()})
	}
}

// specFlags are the flags of every verb that reads the spec.
func (a *app) specFlags(f *pflag.FlagSet) {
	f.StringVarP(&a.file, "file", "f", "", "the spec (default "+defaultFile+", if there is one)")
	f.BoolVar(&a.allowSmall, "allow-small", false, "accept machines below the documented 2 cores, 8 GB and 50 GB of disk")
}

// outputFlags are the flags of every verb that takes a while.
func (a *app) outputFlags(f *pflag.FlagSet) {
	f.BoolVar(&a.json, "json", false, "one JSON event per line on standard output, the result last")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "only warnings and the result")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "also what the commands print")
}

// progress tells what happens: on standard error, or with --json as events on standard output. Call done before
// printing the result.
func (a *app) progress() (p builder.Progress, done func()) {
	o := builder.ProgressOptions{Kind: "auto", Verbose: a.verbose}
	w := a.err
	switch {
	case a.json:
		o.Kind, w = "json", a.out
	case a.quiet:
		o.Kind = "quiet"
	}
	p, end := builder.NewProgress(w, o)
	if live, ok := p.(io.Writer); ok {
		a.live.Store(&live)
	}
	return p, func() {
		a.live.Store(nil)
		end()
	}
}

// say writes a line to standard error, beside the progress on it.
func (a *app) say(text string) {
	if live := a.live.Load(); live != nil {
		if _, err := io.WriteString(*live, text+"\n"); err == nil {
			return
		}
	}
	_, _ = fmt.Fprintln(a.err, text)
}

// failure is the last event of --json when there is no result.
type failure struct {
	Event    string          `json:"event"` // error
	Message  string          `json:"message,omitempty"`
	Problems images.Problems `json:"problems,omitempty"`
}

// report shows what is wrong with a spec.
func (a *app) report(p images.Problems) {
	if a.json {
		a.event(failure{Event: "error", Message: "the spec is wrong", Problems: p})
		return
	}
	p.Render(a.err, colour(a.err))
}

// tell says one thing, to a program or to a person.
func (a *app) tell(event any, text string) {
	if a.json {
		a.event(event)
		return
	}
	_, _ = fmt.Fprintln(a.err, text)
}

// event writes one line of --json.
func (a *app) event(e any) {
	b, err := json.Marshal(e)
	if err != nil { // only unsupported types fail, and there are none
		panic(err)
	}
	_, _ = a.out.Write(append(b, '\n'))
}

// colour says whether w is a terminal whose owner did not ask for plain text (https://no-color.org).
func colour(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && terminal(w)
}

// terminal says whether somebody sits at a stream.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// sayLeft names what the bake under way has created and not given back.
func (a *app) sayLeft() {
	id := a.bakeID.Load()
	if id == nil {
		return
	}
	file, err := builder.LedgerFile(*id)
	if err != nil {
		return
	}
	left, err := builder.ReadLedger(file)
	if err != nil || len(left) == 0 {
		return
	}
	_, _ = fmt.Fprintln(a.err, "stopped at once; left behind (the next bake, or `dorunner-bake gc`, removes it):")
	for _, e := range left {
		_, _ = fmt.Fprintf(a.err, "  %s\n", e)
	}
}
