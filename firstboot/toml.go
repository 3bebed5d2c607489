package firstboot

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// runnerEntry is what we read of a [[runners]] entry of gitlab-runner's config.toml.
type runnerEntry struct {
	Name     string `toml:"name"`
	URL      string `toml:"url"`
	Token    string `toml:"token"`
	Executor string `toml:"executor"`
}

// bom is what some editors begin a file with; gitlab-runner reads past it.
var bom = []byte("\xef\xbb\xbf")

// readEntries lists the runners of a config.toml.
func readEntries(doc []byte) ([]runnerEntry, error) {
	var c struct {
		Runners []runnerEntry `toml:"runners"`
	}
	doc = bytes.TrimPrefix(doc, bom)
	if err := toml.Unmarshal(doc, &c); err != nil {
		return nil, err
	}
	return c.Runners, nil
}

// setting is one key of config.toml and its value in TOML. Path is dotted from the top; below "runners" it is the
// entry that the caller names. Keep leaves a value that is there already.
type setting struct {
	path  []string
	value string
	keep  bool
}

// setTOML makes every setting hold, entry (counted from 0) being the [[runners]] meant. Whatever else the document
// holds, comments included, stays byte for byte; applied twice it equals once.
func setTOML(doc []byte, entry int, settings []setting) ([]byte, error) {
	if rest, marked := bytes.CutPrefix(doc, bom); marked {
		rest, err := setTOML(rest, entry, settings)
		return slices.Concat(bom, rest), err
	}
	for _, s := range settings {
		next, err := setOne(doc, entry, s)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", strings.Join(s.path, "."), err)
		}
		doc = next
	}
	var whole map[string]any
	if err := toml.Unmarshal(doc, &whole); err != nil { // a key that one table gives in two ways, for example
		return nil, fmt.Errorf("the patched file does not parse: %w", err)
	}
	return doc, nil
}

// layout is where things stand in a document.
type layout struct {
	keys   []placed
	tables []placed
}

// placed is a key or a table header, with its full path and the [[runners]] entry that it belongs to (-1 for none).
type placed struct {
	path       []string
	entry      int
	start, end int // of the expression for a key; of the table's contents for a header (its lines up to the next header)
	array      bool
	depth      int  // how much of a key's path its table's header says
	inline     bool // the key stands within an inline table
}

// survey walks the document once.
func survey(doc []byte) (layout, error) {
	var l layout
	var p unstable.Parser
	p.Reset(doc)
	l.tables = []placed{{entry: -1}}
	entry := -1
	for p.NextExpression() {
		n := p.Expression()
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			key, first, last := keyOf(n)
			start := bytes.LastIndexByte(doc[:first], '\n') + 1
			if n.Kind == unstable.ArrayTable && slices.Equal(key, []string{"runners"}) {
				entry++
			}
			t := placed{path: key, entry: -1, start: lineEnd(doc, last), array: n.Kind == unstable.ArrayTable}
			if key[0] == "runners" {
				t.entry = entry
			}
			l.tables[len(l.tables)-1].end = start
			l.tables = append(l.tables, t)
		case unstable.KeyValue:
			l.key(n, l.tables[len(l.tables)-1], false)
		}
	}
	l.tables[len(l.tables)-1].end = len(doc)
	return l, p.Error()
}

// key notes a key and, where its value is an inline table, the keys in it.
func (l *layout) key(n *unstable.Node, in placed, inline bool) {
	key, _, _ := keyOf(n)
	k := placed{path: slices.Concat(in.path, key), entry: in.entry, start: int(n.Raw.Offset), end: int(n.Raw.Offset + n.Raw.Length), depth: len(in.path), inline: inline}
	l.keys = append(l.keys, k)
	if v := n.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			l.key(it.Node(), k, true)
		}
	}
}

// keyOf gives a key's parts and the offsets of its first and behind its last byte.
func keyOf(n *unstable.Node) (key []string, first, last int) {
	first = -1
	for it := n.Key(); it.Next(); {
		k := it.Node()
		key = append(key, string(k.Data))
		if first < 0 {
			first = int(k.Raw.Offset)
		}
		last = int(k.Raw.Offset + k.Raw.Length)
	}
	return key, first, last
}

// lineEnd is the offset behind the line that holds offset at.
func lineEnd(doc []byte, at int) int {
	if i := bytes.IndexByte(doc[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(doc)
}

func setOne(doc []byte, entry int, s setting) ([]byte, error) {
	l, err := survey(doc)
	if err != nil {
		return nil, err
	}
	if s.path[0] != "runners" {
		entry = -1
	}
	for _, k := range l.keys {
		if k.entry != entry || !slices.Equal(k.path, s.path) {
			continue
		}
		if s.keep {
			return doc, nil
		}
		return splice(doc, k.start, k.end, assignment(doc[k.start:k.end], s)), nil
	}
	line := s.path[len(s.path)-1] + " = " + s.value + "\n"
	table := s.path[:len(s.path)-1]
	for _, t := range l.tables {
		if t.entry == entry && slices.Equal(t.path, table) {
			return insert(doc, t, l, line), nil
		}
	}
	if next := setOtherwise(doc, entry, s, l); next != nil {
		return next, nil
	}
	// The table is missing: it goes behind the last one of its entry.
	at := -1
	for _, t := range l.tables {
		if t.entry == entry {
			at = t.end
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("there is no [[runners]] entry number %d", entry+1)
	}
	return splice(doc, at, at, newline(doc, at)+"  ["+strings.Join(table, ".")+"]\n    "+line), nil
}

// setOtherwise adds a key to a table that is written inline or by dotted keys; nil when it is neither.
func setOtherwise(doc []byte, entry int, s setting, l layout) []byte {
	table := s.path[:len(s.path)-1]
	for _, k := range slices.Backward(l.keys) {
		if k.entry != entry || len(k.path) < len(table) || !slices.Equal(k.path[:len(table)], table) || k.depth >= len(table) {
			continue
		}
		switch {
		case len(k.path) == len(table) && doc[k.end-1] == '}':
			text := s.path[len(table)] + " = " + s.value + " "
			inside := bytes.TrimRight(doc[k.start:k.end-1], " \t")
			if inside[len(inside)-1] != '{' {
				text = ", " + text
			} else {
				text = " " + text
			}
			return splice(doc, k.start+len(inside), k.end-1, text)
		case len(k.path) > len(table) && !k.inline:
			begin, at := bytes.LastIndexByte(doc[:k.start], '\n')+1, lineEnd(doc, k.end)
			return splice(doc, at, at, newline(doc, at)+string(doc[begin:k.start])+strings.Join(s.path[k.depth:], ".")+" = "+s.value+"\n")
		}
	}
	return nil
}

// assignment keeps how the key is written, up to its equals sign.
func assignment(was []byte, s setting) string {
	if i := bytes.IndexByte(was, '='); i >= 0 && !bytes.ContainsAny(was[:i], `"'`) {
		return strings.TrimRight(string(was[:i]), " \t") + " = " + s.value
	}
	return s.path[len(s.path)-1] + " = " + s.value
}

// insert puts a line behind the last key that stands directly in table t, or first in it, indented as its neighbour.
func insert(doc []byte, t placed, l layout, line string) []byte {
	at, indent := t.start, ""
	for _, k := range l.keys {
		if k.start >= t.start && k.end <= t.end {
			at = lineEnd(doc, k.end)
			begin := bytes.LastIndexByte(doc[:k.start], '\n') + 1
			if space := doc[begin:k.start]; len(bytes.TrimSpace(space)) == 0 {
				indent = string(space)
			}
		}
	}
	if at == t.start && len(t.path) > 0 {
		indent = strings.Repeat("  ", len(t.path))
	}
	return splice(doc, at, at, newline(doc, at)+indent+line)
}

// newline ends the line before offset at, when the document's last line has no end.
func newline(doc []byte, at int) string {
	if at > 0 && doc[at-1] != '\n' {
		return "\n"
	}
	return ""
}

func splice(doc []byte, from, to int, text string) []byte {
	return slices.Concat(doc[:from], []byte(text), doc[to:])
}

// cutEntry takes the [[runners]] entry (counted from 0) out of the document, with its sub-tables, and gives both.
func cutEntry(doc []byte, entry int) (rest, cut []byte, err error) {
	if after, marked := bytes.CutPrefix(doc, bom); marked {
		rest, cut, err = cutEntry(after, entry)
		return slices.Concat(bom, rest), cut, err
	}
	l, err := survey(doc)
	if err != nil {
		return nil, nil, err
	}
	rest = slices.Clone(doc)
	for _, t := range slices.Backward(l.tables) {
		if t.entry != entry {
			continue
		}
		header := bytes.LastIndexByte(doc[:t.start-1], '\n') + 1
		cut = slices.Concat(doc[header:t.end], cut)
		rest = splice(rest, header, t.end, "")
	}
	if cut == nil {
		return nil, nil, fmt.Errorf("there is no [[runners]] entry number %d", entry+1)
	}
	return rest, cut, nil
}

// appendEntry puts an entry that cutEntry gave at the end of a document.
func appendEntry(doc, entry []byte) []byte {
	if len(doc) == 0 {
		return entry
	}
	return slices.Concat(doc, []byte(newline(doc, len(doc))+"\n"), bytes.TrimLeft(entry, "\n"))
}

// tomlString quotes as TOML does, whose escapes are fewer than Go's.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func tomlStrings(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = tomlString(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
