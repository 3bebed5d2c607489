package lint

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
)

// maxDepth and maxNodes end the walk of a document that refers to itself or unfolds without end.
const (
	maxDepth = 100
	maxNodes = 200_000
)

// document is one YAML text and what stands in it.
type document struct {
	layer *decode.Layer
	root  *yaml.Node
	name  string // of the part
	merge string // its Merge-Type header
	jinja []byte // a template's text before blanking; nil for others
}

// parse reads a document, or says why cloud-init cannot. nil when there is nothing to go on with.
func (l *linter) parse(layer *decode.Layer) *yaml.Node {
	if off := bytes.IndexFunc(layer.Data, func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff || r == 0xfeff
	}); off >= 0 {
		l.add(layer, off, "yaml", false, "", "remove it, or write it as an escape in double quotes", "a control character cannot stand in YAML")
		return nil
	}
	d := yaml.NewDecoder(bytes.NewReader(layer.Data))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) {
			off, message, hint := explain(layer.Data, err)
			l.add(layer, off, "yaml", false, "", hint, "%s", message)
		}
		return nil
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		off := len(layer.Data)
		if m := secondDocument.FindAllIndex(layer.Data[layer.Offset(doc.Content[0].Line, 1):], 1); m != nil {
			off = layer.Offset(doc.Content[0].Line, 1) + m[0][0]
		}
		l.add(layer, off, "yaml", false, "", "keep one document, or send several as MIME parts", "a second YAML document follows, and cloud-init then reads neither")
		return nil
	}
	root := doc.Content[0]
	if !l.sane(layer, root, map[*yaml.Node]bool{}, new(int)) {
		return nil
	}
	return root
}

var secondDocument = regexp.MustCompile(`(?m)^---`)

// sane refuses what YAML allows and cloud-init's reader or any reader does not: tags of one's own, an alias within
// itself, aliases that unfold without end. It also tells of keys that stand twice, of which the last silently wins.
func (l *linter) sane(layer *decode.Layer, n *yaml.Node, open map[*yaml.Node]bool, count *int) bool {
	at := layer.Offset(n.Line, n.Column)
	if *count++; *count > max(maxNodes, len(layer.Data)) || len(open) > maxDepth { // what stands in the text takes a byte each
		l.add(layer, at, "yaml", false, "", "", "the document is nested too deeply, or its aliases unfold without end")
		return false
	}
	if n.Style&yaml.TaggedStyle != 0 && !strings.HasPrefix(n.Tag, "!!") || n.Kind == yaml.ScalarNode && n.Tag != "!!merge" && n.Style == 0 && n.Value == "=" {
		l.add(layer, at, "yaml", false, "", "remove the tag, or quote the value", "cloud-init's YAML reader refuses the tag of %q", n.Tag+" "+n.Value)
		return false
	}
	if open[n] {
		l.add(layer, at, "yaml", false, "", "", "an alias stands inside what it refers to")
		return false
	}
	open[n] = true
	defer delete(open, n)
	if n.Kind == yaml.AliasNode {
		return l.sane(layer, n.Alias, open, count)
	}
	seen := map[string]*yaml.Node{}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Kind == yaml.ScalarNode {
			id := kindOf(c) + " " + c.Value
			if first := seen[id]; first != nil && c.Tag != "!!merge" {
				l.add(layer, layer.Offset(c.Line, c.Column), "duplicate-key", false, "", "keep one of them",
					"the key %q stands here for the second time: line %d is silently lost", c.Value, layer.Locate(layer.Offset(first.Line, first.Column)).InLine)
			}
			seen[id] = c
		}
		if !l.sane(layer, c, open, count) {
			return false
		}
	}
	return true
}

// pairs yields a mapping's keys and values, those merged in by << last. A key that stands twice is yielded twice.
func pairs(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(k, v *yaml.Node) bool) { eachPair(n, map[string]bool{}, 0, yield) }
}

func eachPair(n *yaml.Node, seen map[string]bool, depth int, yield func(k, v *yaml.Node) bool) bool {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode { // <<: [*a, *b]
		for _, c := range n.Content {
			if !eachPair(c, seen, depth+1, yield) {
				return false
			}
		}
		return true
	}
	if n.Kind != yaml.MappingNode || depth > maxDepth {
		return true
	}
	var merged []*yaml.Node
	own := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Tag == "!!merge" {
			merged = append(merged, v)
			continue
		}
		if seen[k.Value] {
			continue
		}
		own[k.Value] = true
		if !yield(k, v) {
			return false
		}
	}
	for k := range own {
		seen[k] = true
	}
	for _, m := range merged {
		if !eachPair(m, seen, depth+1, yield) {
			return false
		}
	}
	return true
}

// resolved follows an alias.
func resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// get is the value of a key, or nil. The last wins, as in cloud-init.
func get(n *yaml.Node, name string) *yaml.Node {
	var found *yaml.Node
	for k, v := range pairs(n) {
		if k.Value == name {
			found = resolved(v)
		}
	}
	return found
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// explain finds where a YAML error stands and says what to do. The reader names the line where the construct began, or
// none: the line that broke it is the first with which the text fails in the same way.
func explain(data []byte, err error) (off int, message, hint string) {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, err.Error(), ""
	}
	message = m[2]
	first, _ := strconv.Atoi(m[1])
	ends := []int{}
	for i, c := range data {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		ends = append(ends, len(data))
	}
	n := min(max(first, 1), max(len(ends), 1))
	same := func(lines int) bool {
		var doc yaml.Node
		err := yaml.Unmarshal(data[:ends[lines-1]], &doc)
		return err != nil && yamlLine.FindStringSubmatch(err.Error())[2] == message
	}
	switch {
	case len(ends) == 0 || len(data) > 256<<10:
	case strings.Contains(message, "unexpected end of stream"):
		// An open quote reaches to the end: go back to where it opened.
		n = len(ends)
		for n > 1 && same(n-1) {
			n--
		}
	default:
		n += sort.Search(len(ends)-n, func(i int) bool { return same(n + i) })
	}
	start := 0
	if n > 1 {
		start = ends[n-2]
	}
	line, _, _ := strings.Cut(string(data[start:]), "\n")
	col, message, hint := column(line, message)
	return start + col, message, hint
}

var (
	colon    = regexp.MustCompile(`:(\s|$)`)
	badStart = regexp.MustCompile("(^|: +|- +|[\\[,{] *)([@`%]|\t)")
	anchor   = regexp.MustCompile(`unknown anchor '(.*)' referenced`)
)

// column points into a line by what the error says, and words it for people who do not write YAML readers.
func column(line, message string) (col int, text, hint string) {
	col = len(line) - len(strings.TrimLeft(line, " \t"))
	at := func(i int) {
		if i >= 0 {
			col = i
		}
	}
	switch {
	case strings.Contains(message, "mapping values are not allowed"):
		all := colon.FindAllStringIndex(line, 2)
		if len(all) > 0 {
			at(all[len(all)-1][0])
		}
		return col, "a colon and a blank make a key here, where none can stand", "quote the text that holds the colon, or mend the indentation"
	case strings.Contains(message, "cannot start any token"):
		if m := badStart.FindStringSubmatchIndex(line); m != nil {
			at(m[4])
		}
		if strings.Contains(line, "\t") {
			return col, "a tab cannot indent YAML", "indent with blanks"
		}
		return col, "a plain text cannot begin with this character", "quote it"
	case strings.Contains(message, "tab character"):
		return 0, "a tab cannot indent YAML", "indent with blanks"
	case strings.Contains(message, "unexpected end of stream"):
		at(strings.IndexAny(line, `'"`))
		return col, "the quote that opens here is never closed", "close it"
	case strings.Contains(message, "',' or"):
		at(strings.LastIndexAny(line, "[{"))
		return col, "the bracket that opens here is never closed, or a comma is missing", "close it"
	case strings.Contains(message, "block sequence entries"):
		at(strings.Index(line, "- "))
		return col, "a list item cannot stand on the line of its key", "put it on the next line"
	case strings.Contains(message, "escape"):
		at(strings.Index(line, `\`))
		return col, "double quotes know no such escape", `write \\, or use single quotes`
	case anchor.MatchString(message):
		at(strings.Index(line, "*"+anchor.FindStringSubmatch(message)[1]))
		return col, "a text that begins with * refers to an anchor, and there is none of this name", "quote it"
	case strings.Contains(message, "did not find expected"):
		return col, "this line fits nothing above it", "mend the indentation, or quote the text"
	}
	return col, message, ""
}
