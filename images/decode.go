package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Load reads a spec strictly: unknown keys, duplicate keys and wrong types are all reported at once. The Spec is
// usable for positions even when there are problems, and Resolve reports them again together with its own.
func Load(file string, data []byte) (*Spec, Problems) {
	s := &Spec{source: newSource(file, data)}
	src := s.source
	d := &decoder{report: func(n *yaml.Node, path, message, hint string) {
		src.problems = append(src.problems, src.problemAt(n, path, message, hint))
	}, src: src}

	docs := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if src.notUTF8() {
		return s, src.problems
	}
	switch err := docs.Decode(&doc); {
	case errors.Is(err, io.EOF): // an empty file says nothing, which is allowed
	case err != nil:
		src.syntax(err)
	default:
		d.value(doc.Content[0], reflect.ValueOf(s).Elem(), "")
		if err := docs.Decode(&second); err == nil {
			src.problems = append(src.problems, src.problemAt(&second, "", "a second document follows the spec", "keep one"))
		} else if !errors.Is(err, io.EOF) {
			src.syntax(err)
		}
	}
	src.problems = src.problems.sorted()
	return s, src.problems
}

const (
	syntaxPrefix = `^yaml: (line \d+: )?`
	// secretLine finds what may be a secret in a line that is no YAML, where no node says so.
	secretLine = `(?i)(tok|pass|secret|salt|content|key)\w*["']?\s*[:=]\s*`
)

// notUTF8 reports the first byte that is no text.
func (s *source) notUTF8() bool {
	for i, line := range s.lines {
		if utf8.ValidString(line) {
			continue
		}
		valid := strings.ToValidUTF8(line, "\uFFFD")
		at := strings.Index(valid, "\uFFFD")
		column := utf8.RuneCountInString(valid[:at]) + 1
		s.hideIn(i + 1)
		s.problems = append(s.problems, s.problemIn(i+1, column, 1, "", "this is not UTF-8", "save the file as UTF-8"))
		return true
	}
	return false
}

// syntax reports text that is no YAML.
func (s *source) syntax(err error) {
	line := s.brokenLine()
	text := s.lines[line-1]
	s.hideIn(line)
	if indent := text[:len(text)-len(strings.TrimLeft(text, " \t"))]; strings.Contains(indent, "\t") {
		s.problems = append(s.problems, s.problemIn(line, strings.Index(indent, "\t")+1, 1, "", "a tab indents this line, and YAML knows only spaces", "write spaces"))
		return
	}
	column := len(text) - len(strings.TrimLeft(text, " ")) + 1
	s.problems = append(s.problems, s.problemIn(line, column, utf8.RuneCountInString(text), "",
		"this is not YAML: "+regexp.MustCompile(syntaxPrefix).ReplaceAllString(err.Error(), ""), "check the indentation, colons and quotes here"))
}

// hideIn hides what may be a secret in a line of which the parser tells nothing.
func (s *source) hideIn(line int) {
	text := s.lines[line-1]
	if at := regexp.MustCompile(secretLine).FindStringIndex(text); at != nil {
		s.hide[line] = utf8.RuneCountInString(text[:at[1]]) + 1
	}
}

// brokenLine finds where text stops being YAML: the first line of what cannot be parsed together with all before it.
// The parser itself often names the line where the surrounding block began.
func (s *source) brokenLine() int {
	good := min(len(s.lines), 1000) - 1
	for ; good > 0; good-- {
		var n yaml.Node
		if yaml.Unmarshal([]byte(strings.Join(s.lines[:good], "\n")), &n) == nil {
			break
		}
	}
	return good + 1
}

// decoder lays YAML over a Spec and reports what does not fit in the author's words, never in Go's.
type decoder struct {
	report func(n *yaml.Node, path, message, hint string)
	src    *source // notes positions; nil for overrides
}

// shorthand are structs that a scalar may stand for, and the field that it fills.
var shorthand = map[reflect.Type]string{reflect.TypeFor[Pull](): "ref"}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	at := n // an alias is reported where it stands
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	wrong := func(expected string) {
		d.report(at, path, fmt.Sprintf("expected %s, found %s", expected, describe(n)), "")
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // nothing said
	}
	if d.src != nil && path != "" {
		d.src.values[path] = at
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.report(at, path, fmt.Sprintf("the tag %s is not understood here", n.Tag), "leave it out")
		return
	}
	if v.Type() == reflect.TypeFor[runner.Secret]() {
		d.hideSecret(n)
	}
	if u, ok := v.Addr().Interface().(yaml.Unmarshaler); ok {
		if n.Kind != yaml.ScalarNode {
			wrong("text")
		} else if err := u.UnmarshalYAML(n); err != nil {
			d.report(at, path, err.Error(), "")
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if field, ok := shorthand[v.Type()]; ok && n.Kind == yaml.ScalarNode {
			d.value(n, fieldOf(v, field), child(path, field))
			return
		}
		if n.Kind != yaml.MappingNode {
			wrong("keys (" + strings.Join(firstOf(keysOf(v.Type()), 3), ", ") + ", ...)")
			return
		}
		d.mapping(n, v, path)
	case reflect.Slice:
		items := []*yaml.Node{n} // one value is a list of one
		if n.Kind == yaml.SequenceNode {
			items = n.Content
		} else if n.Kind == yaml.MappingNode && v.Type().Elem().Kind() != reflect.Struct {
			wrong("a list")
			return
		}
		list := reflect.MakeSlice(v.Type(), len(items), len(items))
		for i, item := range items {
			p := fmt.Sprintf("%s[%d]", path, i)
			if item.Kind == yaml.ScalarNode && item.Tag == "!!null" {
				d.report(item, p, "the list has an empty entry", "")
				continue
			}
			d.value(item, list.Index(i), p)
		}
		v.Set(list)
	case reflect.Map:
		if n.Kind != yaml.MappingNode {
			wrong("keys and values")
			return
		}
		d.stringMap(n, v, path)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), path)
		v.Set(p)
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.Tag == "!!bool" {
			wrong("text")
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		var b bool
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || n.Decode(&b) != nil {
			wrong("true or false")
			return
		}
		v.SetBool(b)
	case reflect.Int:
		var i int
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&i) != nil {
			wrong("a whole number")
			return
		}
		if octal.MatchString(n.Value) {
			d.report(at, path, fmt.Sprintf("%s begins with a zero and would be read as %d", n.Value, i), "leave the zero out")
			return
		}
		v.SetInt(int64(i))
	}
}

// octal is a number that some parsers of YAML read with base 8, and others with base 10.
var octal = regexp.MustCompile(`^[-+]?0[0-9_]+$`)

// mapping fills a struct, key by key.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.report(key, path, "a key must be text, found "+describe(key), "")
			continue
		}
		name := key.Value
		field := fieldOf(v, name)
		if name == "size" && !field.IsValid() { // one size is a list of one
			if field = fieldOf(v, "sizes"); field.IsValid() {
				name = "sizes"
			}
		}
		p := child(path, name)
		if key.Tag == "!!merge" {
			d.report(key, path, "merge keys (<<) are not understood here", "write the keys out")
			continue
		}
		if !field.IsValid() {
			if secretish(name) {
				d.hideSecret(value)
			}
			d.report(key, p, fmt.Sprintf("unknown key %q", name), suggestKey(path, name, keysOf(v.Type())))
			continue
		}
		if first := seen[name]; first != nil {
			if secretish(name) {
				d.hideSecret(value)
			}
			d.report(key, p, fmt.Sprintf("%q is given twice", key.Value), fmt.Sprintf("it was given first on line %d: keep one", first.Line))
			continue
		}
		seen[name] = key
		if d.src != nil {
			d.src.keys[p] = key
		}
		d.value(value, field, p)
	}
}

// stringMap fills a map of texts, such as tags.
func (d *decoder) stringMap(n *yaml.Node, v reflect.Value, path string) {
	m := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		p := child(path, key.Value)
		if key.Kind != yaml.ScalarNode {
			d.report(key, path, "a key must be text, found "+describe(key), "")
			continue
		}
		if _, twice := m[key.Value]; twice {
			d.report(key, p, fmt.Sprintf("%q is given twice", key.Value), "keep one")
			continue
		}
		var text string
		d.value(n.Content[i+1], reflect.ValueOf(&text).Elem(), p)
		m[key.Value] = text
	}
	v.Set(reflect.ValueOf(m))
}

// hideSecret keeps a literal out of every snippet. A reference may be shown.
func (d *decoder) hideSecret(n *yaml.Node) {
	if d.src == nil {
		return
	}
	if n.Kind != yaml.ScalarNode {
		for _, c := range n.Content {
			d.hideSecret(c)
		}
		return
	}
	if ref, err := runner.ParseSecret(n.Value); err == nil && !ref.IsPlain() {
		return
	}
	if at, ok := d.src.hide[n.Line]; !ok || n.Column < at {
		d.src.hide[n.Line] = n.Column
	}
}

// secretish says whether a key, perhaps mistyped, may stand before a secret.
func secretish(key string) bool {
	if form(secretLine).matches(key + ":") {
		return true
	}
	return slices.ContainsFunc([]string{"token", "password", "content", "salt", "secret"}, func(word string) bool {
		return distance(strings.ToLower(key), word) <= 2
	})
}

// describe names what stands in the file in the author's words.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "keys and values"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return n.Value + " (put quotes around a word that is meant as text)"
	case "!!null":
		return "nothing"
	}
	switch strings.ToLower(n.Value) {
	case "yes", "no", "on", "off":
		return fmt.Sprintf("%q (write true or false)", n.Value)
	}
	return "text"
}

// keysOf lists the keys of a struct in the order in which it declares them.
func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range fields(t) {
		keys = append(keys, f.key)
	}
	return keys
}

type field struct {
	key   string
	index int
	typ   reflect.Type
}

func fields(t reflect.Type) func(func(field) bool) {
	return func(yield func(field) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			if key, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); f.IsExported() && !yield(field{key, i, f.Type}) {
				return
			}
		}
	}
}

// fieldOf is the field for a key, invalid when there is none.
func fieldOf(v reflect.Value, key string) reflect.Value {
	for f := range fields(v.Type()) {
		if f.key == key {
			return v.Field(f.index)
		}
	}
	return reflect.Value{}
}

func firstOf(list []string, n int) []string { return slices.Clone(list[:min(n, len(list))]) }
