// Package decode takes user-data apart as cloud-init does, layer by layer (base64, gzip, MIME, archive, template), and
// remembers where every byte came from, so that what is wrong with the innermost text can be shown in the file.
package decode

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Layer is a text and how it was got from the one around it.
type Layer struct {
	Data   []byte
	About  string // "base64", "gzip", "part 2 (text/cloud-config)"; "" for the file
	Parent *Layer
	// Shown says that the text stands in the parent as it does here, perhaps indented, so that the parent's line can be shown.
	Shown bool
	// from gives the offset in the parent of an offset here.
	from func(int) int
	// starts are the offsets of the lines, once asked for.
	starts []int
}

// Place is where something stands.
type Place struct {
	Line, Col int      // in the file, from 1; Col counts characters
	Via       []string // the layers between the file and the text that the rest speaks of; empty when it is the file's own
	InLine    int      // in that text
	InCol     int
	Text      string // the line of that text
}

// Locate says where the byte at an offset stands.
func (l *Layer) Locate(off int) Place {
	off = min(max(off, 0), len(l.Data))
	for l.Parent != nil && l.Shown {
		l, off = l.Parent, l.from(off)
	}
	var p Place
	p.InLine, p.InCol, p.Text = lineOf(l.Data, off)
	for ; l.Parent != nil; l = l.Parent {
		if l.About != "" {
			p.Via = append([]string{l.About}, p.Via...)
		}
		off = l.from(off)
	}
	p.Line, p.Col, _ = lineOf(l.Data, off)
	return p
}

func lineOf(data []byte, off int) (line, col int, text string) {
	off = min(max(off, 0), len(data))
	start := bytes.LastIndexByte(data[:off], '\n') + 1
	end := len(data)
	if i := bytes.IndexByte(data[start:], '\n'); i >= 0 {
		end = start + i
	}
	return bytes.Count(data[:start], []byte{'\n'}) + 1, utf8.RuneCount(data[start:off]) + 1,
		strings.TrimSuffix(strings.ToValidUTF8(string(data[start:end]), "\ufffd"), "\r")
}

// Offset is the byte at a line and column, both from 1; col counts characters.
func (l *Layer) Offset(line, col int) int {
	if l.starts == nil {
		l.starts = []int{0}
		for i, c := range l.Data {
			if c == '\n' {
				l.starts = append(l.starts, i+1)
			}
		}
	}
	if line > len(l.starts) {
		return len(l.Data)
	}
	off := l.starts[max(line, 1)-1]
	for ; col > 1 && off < len(l.Data) && l.Data[off] != '\n'; col-- {
		_, n := utf8.DecodeRune(l.Data[off:])
		off += n
	}
	return off
}

// slice is a layer that is a stretch of its parent.
func (l *Layer) slice(start, end int, about string) *Layer {
	return &Layer{Data: l.Data[start:end], About: about, Parent: l, Shown: true, from: func(o int) int { return start + o }}
}

// opaque is a layer whose bytes have no place in the parent: they all stand where it begins.
func (l *Layer) opaque(data []byte, about string) *Layer {
	return &Layer{Data: data, About: about, Parent: l, from: func(int) int { return 0 }}
}

// mapped is a layer with a place in the parent for each of its bytes.
func (l *Layer) mapped(data []byte, origin []int, about string) *Layer {
	return &Layer{Data: data, About: about, Parent: l, from: func(o int) int {
		switch {
		case len(origin) == 0:
			return 0
		case o >= len(origin):
			return origin[len(origin)-1]
		}
		return origin[o]
	}}
}

// Lines is a layer made of whole lines of another: line i of data stands at line first+i, indented by indent characters.
// It serves literal blocks of YAML.
func Lines(parent *Layer, data []byte, first, indent int, about string) *Layer {
	l := &Layer{Data: data, About: about, Parent: parent, Shown: true}
	l.from = func(o int) int {
		line, col, _ := lineOf(data, o)
		return parent.Offset(first+line-1, col+indent)
	}
	return l
}

// At is a layer whose text has no places of its own: all of it stands at one offset of the parent.
func At(parent *Layer, data []byte, off int, about string) *Layer {
	return &Layer{Data: data, About: about, Parent: parent, from: func(int) int { return off }}
}

// Note is something that decoding found.
type Note struct {
	Rule    string
	Warning bool
	Layer   *Layer
	Off     int
	Message string
	Hint    string
}

// Part is one thing that cloud-init hands to a handler.
type Part struct {
	*Layer
	Type   string // "text/cloud-config", ...; "" when cloud-init would not know what to do with it
	Name   string // file name, or "part-001"
	Merge  string // the Merge-Type header
	Jinja  bool   // it is a template: Data is the text with the template's own marks blanked
	Source []byte // of a template: the text before blanking
}

// Result is user-data taken apart.
type Result struct {
	File  *Layer
	Sent  int // bytes that a cloud's limit counts: what is left once the base64 around everything is gone
	Parts []Part
	Notes []Note
}

func (r *Result) note(warning bool, rule string, l *Layer, off int, hint, format string, args ...any) {
	r.Notes = append(r.Notes, Note{rule, warning, l, off, fmt.Sprintf(format, args...), hint})
}
