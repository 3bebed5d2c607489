// Package lint says what is wrong with user-data, network configuration and meta-data before a machine does: it decodes
// them as cloud-init would and holds every layer, key and value against what cloud-init is documented to read.
package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
)

// Options say what the machine will be.
type Options struct {
	// CloudInit is the version on the target, as "24.4.1"; "" is the oldest of the operating systems that are offered.
	CloudInit string
	// Cloud is aws, azure or metal, whose limit of size is then an error; "" warns about each.
	Cloud string
	// Kind is what the bytes are: user-data, network-config or meta-data; "" finds out.
	Kind string
}

// Finding is one thing that is wrong, where, and what to do about it.
type Finding struct {
	File    string   `json:"file,omitempty"` // of a seed, the file in it
	Rule    string   `json:"rule"`
	Warning bool     `json:"warning,omitempty"`
	Line    int      `json:"line"` // in the file, from 1
	Col     int      `json:"col"`
	Via     []string `json:"via,omitempty"`  // layers around the text that the rest speaks of
	InLine  int      `json:"inner_line"`     // in that text
	InCol   int      `json:"inner_col"`      //
	Message string   `json:"message"`        // one sentence
	Hint    string   `json:"hint,omitempty"` // what to do
	Snippet string   `json:"text,omitempty"` // the line of that text
	Part    string   `json:"part,omitempty"` // the part's name, when there are several
	Path    string   `json:"path,omitempty"` // the key, as runcmd[1]
}

// Report is everything that is to be said of a file.
type Report struct {
	Findings []Finding `json:"findings"`
	Parts    []Part    `json:"parts"`
	Sent     int       `json:"sent"` // bytes that a cloud counts
	// Merged is the cloud-config that the machine ends up with; nil when there is none.
	Merged map[string]any `json:"-"`
}

// Part is one part and what it takes.
type Part struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Bytes int    `json:"bytes"`
}

// Errors counts the findings that keep the file from doing what it says.
func (r *Report) Errors() int {
	n := 0
	for _, f := range r.Findings {
		if !f.Warning {
			n++
		}
	}
	return n
}

// linter collects findings.
type linter struct {
	Options
	report Report
	part   string
	seen   map[string]bool
}

// Lint judges a file. It says something of any bytes at all.
func Lint(data []byte, o Options) *Report {
	l := &linter{Options: o, seen: map[string]bool{}}
	l.report.Findings, l.report.Parts = []Finding{}, []Part{}
	if l.CloudInit == "" {
		l.CloudInit = "22.4.2"
	}
	if l.Kind == "" {
		l.Kind = guessKind(data)
	}
	switch l.Kind {
	case "network-config", "meta-data":
		l.plainFile(data)
	default:
		l.userData(data)
	}
	l.sort()
	return &l.report
}

// sort puts the findings in the order in which their places stand in the file.
func (l *linter) sort() {
	slices.SortStableFunc(l.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.InLine, b.InLine), cmp.Compare(a.InCol, b.InCol))
	})
}

func (l *linter) userData(data []byte) {
	r := decode.UserData(data)
	for _, n := range r.Notes {
		if n.Rule == decode.JinjaKind && !older(l.CloudInit, "23.2") {
			continue
		}
		l.add(n.Layer, n.Off, n.Rule, n.Warning, "", n.Hint, "%s", n.Message)
	}
	l.report.Sent = r.Sent
	var docs []*document
	for _, p := range r.Parts {
		l.part = ""
		if len(r.Parts) > 1 {
			l.part = p.Name
		}
		l.report.Parts = append(l.report.Parts, Part{p.Name, p.Type, len(p.Data)})
		switch p.Type {
		case decode.CloudConfig:
			if d := l.cloudConfig(p); d != nil {
				docs = append(docs, d)
			}
		case decode.Script, decode.Boothook, "text/x-shellscript-per-boot", "text/x-shellscript-per-instance", "text/x-shellscript-per-once":
			l.script(p)
		case "text/x-include-url", "text/x-include-once-url":
			l.include(p)
		}
	}
	l.part = ""
	l.merge(docs)
	l.sizes(r)
}

// add records a finding at an offset of a layer, once.
func (l *linter) add(at *decode.Layer, off int, rule string, warning bool, path, hint, format string, args ...any) {
	p := at.Locate(off)
	f := Finding{Rule: rule, Warning: warning, Line: p.Line, Col: p.Col, Via: p.Via, InLine: p.InLine, InCol: p.InCol,
		Message: fmt.Sprintf(format, args...), Hint: hint, Snippet: p.Text, Part: l.part, Path: path}
	id := fmt.Sprint(f.Line, f.Col, f.InLine, f.InCol, f.Rule, f.Message)
	if !l.seen[id] {
		l.seen[id] = true
		l.report.Findings = append(l.report.Findings, f)
	}
}

// Text is the finding as people read it: file:line:col, the message, the line and a caret, what to do.
func (f Finding) Text(file string) string {
	var b strings.Builder
	kind := "error"
	if f.Warning {
		kind = "warning"
	}
	fmt.Fprintf(&b, "%s:%d:%d: %s: ", file, f.Line, f.Col, kind)
	if len(f.Via) > 0 {
		fmt.Fprintf(&b, "in %s, line %d:%d: ", strings.Join(f.Via, ", "), f.InLine, f.InCol)
	}
	if f.Path != "" {
		fmt.Fprintf(&b, "%s: ", f.Path)
	}
	fmt.Fprintf(&b, "%s [%s]\n", f.Message, f.Rule)
	if strings.TrimSpace(f.Snippet) != "" {
		line, caret := window(f.Snippet, f.InCol)
		fmt.Fprintf(&b, "    %s\n    %s^\n", line, caret)
	}
	if f.Hint != "" {
		fmt.Fprintf(&b, "    %s\n", f.Hint)
	}
	return b.String()
}

// window shows at most 100 characters around a column, and the blanks that put a caret under it.
func window(text string, col int) (line, blanks string) {
	const width = 100
	r := []rune(text)
	col = min(max(col-1, 0), len(r))
	start := 0
	if col > width-10 {
		start = col - width/2
	}
	r = r[start:min(len(r), start+width)]
	var pad strings.Builder
	for i, c := range r {
		if i >= col-start {
			break
		}
		if c == '\t' {
			pad.WriteByte('\t')
		} else {
			pad.WriteByte(' ')
		}
	}
	for i, c := range r { // what a terminal would act on
		if c < ' ' && c != '\t' || c == 0x7f {
			r[i] = '\ufffd'
		}
	}
	return string(r), pad.String()
}
