package decode

import (
	"bytes"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

var (
	jinjaHeader = regexp.MustCompile(`^\s*## template: ?jinja[^\n]*\n?`)
	jinjaMarks  = map[string]string{"{{": "}}", "{%": "%}", "{#": "#}"}
)

// template blanks a Jinja template's own marks, byte for byte, and finds what it will be once rendered.
func (r *Result) template(p *Part) {
	l := p.Layer
	p.Source, p.Jinja = l.Data, true
	head := jinjaHeader.FindIndex(l.Data)
	if head == nil {
		r.note(false, "header", l, 0, `write "## template: jinja" on the first line`, "the part is said to be a template but does not begin as one: cloud-init refuses it")
		p.Type = ""
		return
	}
	text := bytes.Clone(l.Data)
	blank(text[head[0]:head[1]], ' ')
	for off := 0; off < len(text)-1; off++ {
		mark := string(text[off : off+2])
		end, opens := jinjaMarks[mark]
		if !opens {
			continue
		}
		n := bytes.Index(text[off:], []byte(end))
		if n < 0 {
			r.note(false, "jinja", l, off, "close it with "+end, "the template's %s is never closed: cloud-init ignores the whole part", mark)
			p.Type = ""
			return
		}
		fill := byte(' ')
		if mark == "{{" {
			fill = 'x'
		}
		blank(text[off:off+n+2], fill)
		off += n + 1
	}
	p.Layer = &Layer{Data: text, About: "", Parent: l, Shown: true, from: func(o int) int { return o }}
	switch p.Type = KindOf(text); p.Type {
	case CloudConfig, Script:
	case "":
		r.note(false, "jinja-header", l, head[1], `put "#cloud-config" or "#!" and an interpreter on the line after "## template: jinja"`, "a template must go on as #cloud-config or a script")
	default:
		r.note(false, JinjaKind, l, head[1], "", "before 23.2 cloud-init renders only #cloud-config and scripts, and ignores this %s", p.Type)
	}
}

func blank(b []byte, fill byte) {
	for i, c := range b {
		if c != '\n' {
			b[i] = fill
		}
	}
}

// archive opens a #cloud-config-archive: a YAML list of parts.
func (r *Result) archive(l *Layer, depth int) {
	var doc yaml.Node
	if err := yaml.Unmarshal(l.Data, &doc); err != nil {
		r.note(false, "yaml", l, 0, "", "the archive is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.SequenceNode {
		r.note(false, "archive", l, 0, "write one list item per part", "a cloud-config-archive is a list of parts")
		return
	}
	for _, item := range doc.Content[0].Content {
		content, kind, name, merge := item, "", "part-001", ""
		if item.Kind == yaml.MappingNode {
			content = nil
			for i := 0; i+1 < len(item.Content); i += 2 {
				switch v := item.Content[i+1]; item.Content[i].Value {
				case "content":
					content = v
				case "type":
					kind = v.Value
				case "filename":
					name = v.Value
				case "Merge-Type", "X-Merge-Type":
					merge = v.Value
				}
			}
		}
		at := l.Offset(item.Line, item.Column)
		if content == nil || content.Kind != yaml.ScalarNode {
			r.note(false, "archive", l, at, "give it content:", "an item of the archive has no content")
			continue
		}
		text := Scalar(l, content, "archive item")
		if kind == "" {
			if kind = KindOf(text.Data); kind == "" {
				kind = CloudConfig
			}
		}
		if !known[kind] {
			r.note(false, "part-type", l, at, "", "cloud-init has no handler for %s and skips the item", clip(kind))
			continue
		}
		r.part(text, kind, name, merge, depth)
	}
}

// Scalar is the text of a YAML scalar as a layer. A literal block keeps its lines, what stands on one line as it is read
// keeps its columns, other styles only their beginning.
func Scalar(l *Layer, n *yaml.Node, about string) *Layer {
	if n.Style&yaml.LiteralStyle == 0 {
		off := l.Offset(n.Line, n.Column)
		start := off
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			start = min(off+1, len(l.Data))
		}
		if n.Style&yaml.FoldedStyle == 0 && bytes.HasPrefix(l.Data[start:], []byte(n.Value)) {
			return l.slice(start, start+len(n.Value), about)
		}
		return At(l, []byte(n.Value), off, about)
	}
	// The block begins on the line after its mark; its indentation is that of its first line with text.
	first := n.Line + 1
	indent, skipped := 0, 0
	for off := l.Offset(first, 1); off < len(l.Data); skipped++ {
		line, _, _ := bytes.Cut(l.Data[off:], []byte("\n"))
		if t := bytes.TrimLeft(line, " "); len(bytes.TrimSpace(t)) > 0 {
			indent = len(line) - len(t)
			break
		}
		off += len(line) + 1
	}
	for _, c := range n.Value { // an indentation indicator keeps leading blanks
		if c == ' ' && indent > 0 {
			indent--
		} else if c != '\n' {
			break
		}
	}
	return Lines(l, []byte(n.Value), first, indent, about)
}
