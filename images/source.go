package images

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// source remembers where each key of a file stands, and which values came from outside it.
type source struct {
	file     string
	lines    []string
	keys     map[string]*yaml.Node // by path: the key itself
	values   map[string]*yaml.Node // by path: what stands behind it
	from     map[string]string     // by path: the override that set it
	hide     map[int]int           // by line: the first column that may hold a secret
	problems Problems              // what Load found; Resolve reports it together with its own
}

func newSource(file string, data []byte) *source {
	text := strings.TrimPrefix(string(data), "\ufeff")
	return &source{
		file: file, lines: strings.Split(text, "\n"),
		keys: map[string]*yaml.Node{}, values: map[string]*yaml.Node{}, from: map[string]string{}, hide: map[int]int{},
	}
}

// clone gives Resolve a source of its own to note overrides in.
func (s *source) clone() *source {
	if s == nil {
		return newSource("", nil)
	}
	c := *s
	c.from, c.keys, c.values = maps.Clone(s.from), maps.Clone(s.keys), maps.Clone(s.values)
	c.problems = slices.Clone(s.problems)
	return &c
}

// replace notes that an override took the place of what the file says at path and below it.
func (s *source) replace(path, from string) {
	below := func(p string) bool {
		rest, found := strings.CutPrefix(p, path)
		return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	maps.DeleteFunc(s.from, func(p, _ string) bool { return below(p) })
	maps.DeleteFunc(s.keys, func(p string, _ *yaml.Node) bool { return below(p) })
	maps.DeleteFunc(s.values, func(p string, _ *yaml.Node) bool { return below(p) })
	s.from[path] = from
}

// problem places a message: under the value at path, else under the key of the nearest path above it that exists.
func (s *source) problem(path, message, hint string) Problem {
	for at := path; at != ""; at = parent(at) {
		if from := s.from[at]; from != "" {
			return Problem{Path: path, Source: from, Message: message, Hint: hint}
		}
		n := s.values[at]
		if key := s.keys[at]; key != nil && (at != path || n == nil) {
			n = key
		}
		if n != nil {
			return s.problemAt(n, path, message, hint)
		}
	}
	return Problem{Path: path, Source: s.file, Message: message, Hint: hint}
}

// problemAt places a message under a node of the file.
func (s *source) problemAt(n *yaml.Node, path, message, hint string) Problem {
	width := 1
	switch n.Kind {
	case yaml.ScalarNode:
		width = utf8.RuneCountInString(n.Value)
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			width += 2
		}
	case yaml.AliasNode:
		width = utf8.RuneCountInString(n.Value) + 1
	}
	return s.problemIn(n.Line, n.Column, width, path, message, hint)
}

func (s *source) problemIn(line, column, width int, path, message, hint string) Problem {
	return Problem{
		Path: path, Source: fmt.Sprintf("%s:%d:%d", s.file, line, column), Message: message, Hint: hint,
		Snippet: s.snippet(line, column, width), line: line, column: column,
	}
}

// snippetWidth is how much of a long line is drawn, in characters.
const snippetWidth = 160

// snippet draws a line with ^~~~ under the offending text. What may be a secret is not drawn.
func (s *source) snippet(line, column, width int) string {
	if line < 1 || line > len(s.lines) || column < 1 {
		return ""
	}
	text := []rune(strings.ReplaceAll(strings.TrimRight(s.lines[line-1], "\r"), "\t", " "))
	if hide, ok := s.hide[line]; ok && hide <= len(text) {
		text = append(text[:hide-1:hide-1], []rune(runner.Redacted)...)
		if column >= hide {
			width = len(text) - hide + 1
		}
	}
	if start := column - snippetWidth/2; len(text) > snippetWidth && start > 0 {
		text, column = text[min(start, len(text)):], snippetWidth/2
	}
	if len(text) > snippetWidth {
		text = text[:snippetWidth]
	}
	if column > len(text)+1 {
		return string(text)
	}
	width = max(1, min(width, len(text)-column+1))
	return string(text) + "\n" + strings.Repeat(" ", column-1) + "^" + strings.Repeat("~", width-1)
}

// parent is the path one step up: "a.b[1]" -> "a.b" -> "a" -> "".
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// child is the path one step down.
func child(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
