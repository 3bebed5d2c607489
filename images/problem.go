package images

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Error prints the problems one below the other, each with its snippet.
func (p Problems) Error() string {
	var b strings.Builder
	p.Render(&b, false)
	return strings.TrimSuffix(b.String(), "\n")
}

// Errors are the problems that keep the plan from being made.
func (p Problems) Errors() Problems {
	return slices.DeleteFunc(slices.Clone(p), func(q Problem) bool { return q.Warning })
}

// Warnings are the problems that do not.
func (p Problems) Warnings() Problems {
	return slices.DeleteFunc(slices.Clone(p), func(q Problem) bool { return !q.Warning })
}

// Error is the problem on one line.
func (p Problem) Error() string {
	s := p.Message
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Source != "" {
		s = p.Source + ": " + s
	}
	if p.Hint != "" {
		s += "; " + p.Hint
	}
	return s
}

// The escape sequences of a coloured rendering.
const (
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

// Render draws every problem: where, what, what to do, and the offending line with the text underlined.
func (p Problems) Render(w io.Writer, colour bool) {
	paint := func(code, s string) string {
		if !colour {
			return s
		}
		return code + s + reset
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	for _, q := range p {
		kind, code := "error", red
		if q.Warning {
			kind, code = "warning", yellow
		}
		where := ""
		if q.Source != "" {
			where = paint(bold, q.Source+":") + " "
		}
		path := ""
		if q.Path != "" {
			path = q.Path + ": "
		}
		hint := ""
		if q.Hint != "" {
			hint = "; " + q.Hint
		}
		say("%s%s %s%s%s\n", where, paint(code, kind+":"), path, q.Message, hint)
		if q.Snippet == "" {
			continue
		}
		line, caret, _ := strings.Cut(q.Snippet, "\n")
		say("    %s\n", line)
		if caret != "" {
			say("    %s\n", paint(code, caret))
		}
	}
}

// sorted puts the problems in the order of the file; those from outside it come first. Two of one place and text are one.
func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column), cmp.Compare(a.Path, b.Path))
	})
	return slices.CompactFunc(p, func(a, b Problem) bool { return a == b })
}
