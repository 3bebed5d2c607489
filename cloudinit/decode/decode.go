package decode

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxText is where unpacking stops: no cloud takes user-data of this size, and a gzip bomb ends here.
const maxText = 16 << 20

// headers are the first words by which cloud-init tells what a text is, the longest first.
var headers = []struct{ prefix, kind string }{
	{"#cloud-config-archive", Archive},
	{"#cloud-config-jsonp", JSONPatch},
	{"## template: jinja", Jinja},
	{"#cloud-boothook", Boothook},
	{"#include-once", "text/x-include-once-url"},
	{"#cloud-config", CloudConfig},
	{"#part-handler", PartHandler},
	{"#include", "text/x-include-url"},
	{"#!", Script},
}

// The kinds of part that the rest of the program tells apart.
const (
	CloudConfig = "text/cloud-config"
	Archive     = "text/cloud-config-archive"
	JSONPatch   = "text/cloud-config-jsonp"
	Jinja       = "text/jinja2"
	Boothook    = "text/cloud-boothook"
	Script      = "text/x-shellscript"
	PartHandler = "text/part-handler"
)

// JinjaKind is the rule of a note that does not hold for cloud-init 23.2 and later.
const JinjaKind = "jinja-kind"

// KindOf is what cloud-init takes a text for by its beginning: case and leading white space are forgiven. "" is nothing.
func KindOf(text []byte) string {
	head := strings.ToLower(string(bytes.TrimLeft(text, " \t\n\v\f\r")[:min(64, len(bytes.TrimLeft(text, " \t\n\v\f\r")))]))
	for _, h := range headers {
		if strings.HasPrefix(head, h.prefix) {
			return h.kind
		}
	}
	return ""
}

// UserData takes user-data apart.
func UserData(data []byte) *Result {
	r := &Result{File: &Layer{Data: data}, Sent: len(data)}
	l := r.File
	if inner := wholeBase64(l); inner != nil {
		l, r.Sent = inner, len(inner.Data)
	}
	if isGzip(l.Data) {
		inner := r.gunzip(l)
		if inner == nil {
			return r
		}
		l = inner
		if isGzip(l.Data) {
			r.note(false, "gzip-twice", l, 0, "compress it once", "it is compressed twice: cloud-init unpacks one layer and ignores what it finds")
			return r
		}
		if wholeBase64(l) != nil {
			r.note(false, "base64-inside", l, 0, "compress first, then encode", "inside gzip stands base64, which cloud-init does not decode")
			return r
		}
	}
	switch {
	case len(bytes.TrimSpace(l.Data)) == 0:
		r.note(true, "empty", l, 0, "", "there is no user-data")
	case bytes.Contains(bytes.ToLower(l.Data[:min(4096, len(l.Data))]), []byte("mime-version:")):
		r.message(l)
	default:
		r.plain(l)
	}
	return r
}

var mimeStart = regexp.MustCompile(`^(?i)[ \t\r\n]*(content-type:[ \t]*multipart/|content-type:[^\n]*\n(content-|mime-)|from |--[^\n]+\ncontent-type:)`)

// plain is user-data that is not a MIME message: one part, told by its first line.
func (r *Result) plain(l *Layer) {
	if !r.text(l) {
		return
	}
	if mimeStart.Match(l.Data) {
		r.note(false, "mime-version", l, 0, `begin with "MIME-Version: 1.0"`,
			"it looks like a MIME message but has no MIME-Version header, so cloud-init ignores all of it")
		return
	}
	kind := KindOf(l.Data)
	if kind == "" {
		r.noHeader(l, "")
	}
	r.part(l, kind, "part-001", "", 0)
}

// text refuses what cloud-init could not even read as text.
func (r *Result) text(l *Layer) bool {
	for _, b := range []struct{ mark, name string }{{"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"}} {
		if strings.HasPrefix(string(l.Data), b.mark) {
			r.note(false, "encoding", l, 0, "save it as UTF-8 without a byte order mark", "the text is %s: cloud-init reads UTF-8 alone", b.name)
			return false
		}
	}
	if bytes.HasPrefix(l.Data, []byte("\xef\xbb\xbf")) {
		r.note(false, "bom", l, 0, "save it as UTF-8 without a byte order mark",
			"a byte order mark hides the first line: cloud-init ignores the whole document")
		return false
	}
	for off := 0; off < len(l.Data); {
		c, n := utf8.DecodeRune(l.Data[off:])
		if c == utf8.RuneError && n == 1 {
			r.note(false, "encoding", l, off, "save it as UTF-8", "byte 0x%02x is not UTF-8, the only encoding that cloud-init reads", l.Data[off])
			return false
		}
		off += n
	}
	return true
}

var nearHeader = regexp.MustCompile(`^(?i)(#+\s*(cloud[-_ ]*(config|boothook|init)[-a-z]*|include|part[-_]handler|template\s*:\s*\w*)|cloud-config|/bin/|[\w-]+:(\s|$))`)

// noHeader explains why a text's first line says nothing to cloud-init.
func (r *Result) noHeader(l *Layer, where string) {
	trimmed := bytes.TrimLeft(l.Data, " \t\n\v\f\r")
	off := len(l.Data) - len(trimmed)
	first, _, _ := strings.Cut(string(trimmed), "\n")
	first = strings.TrimRight(first, " \r")
	hint := `begin with "#cloud-config", "#!" and an interpreter, "#cloud-boothook" or "## template: jinja"`
	switch m := strings.ToLower(nearHeader.FindString(first)); {
	case strings.HasPrefix(m, "#") && strings.Contains(m, "template"):
		hint = `write "## template: jinja", exactly so`
	case strings.HasPrefix(m, "#") && strings.Contains(m, "boothook"):
		hint = `write "#cloud-boothook"`
	case strings.HasPrefix(m, "#") && strings.Contains(m, "config"), strings.HasPrefix(m, "#") && strings.Contains(m, "init"):
		hint = `write "#cloud-config", without blanks and with a dash`
	case strings.HasPrefix(m, "#") && strings.Contains(m, "include"):
		hint = `write "#include"`
	case strings.HasPrefix(m, "#") && strings.Contains(m, "handler"):
		hint = `write "#part-handler"`
	case strings.HasSuffix(strings.TrimSpace(m), ":"), m == "cloud-config":
		hint = `put "#cloud-config" on a line before it`
	case m == "/bin/":
		hint = `begin with "#!" and the interpreter`
	}
	if len(first) > 40 {
		first = strings.ToValidUTF8(first[:40], "") + "..."
	}
	r.note(false, "header", l, off, hint, "cloud-init does not know what begins with %q%s and ignores it", first, where)
}

// part records one part, opening those that hold others.
func (r *Result) part(l *Layer, kind, name, merge string, depth int) {
	p := Part{Layer: l, Type: kind, Name: name, Merge: merge}
	switch kind {
	case "":
		return
	case Jinja:
		r.template(&p)
	case Archive:
		if depth < 4 {
			r.archive(l, depth+1)
		}
		return
	}
	r.Parts = append(r.Parts, p)
}

func isGzip(b []byte) bool { return len(b) > 2 && b[0] == 0x1f && b[1] == 0x8b }

// gunzip is nil when nothing can be unpacked; then cloud-init takes the bytes as they are, and knows no such header.
func (r *Result) gunzip(l *Layer) *Layer {
	z, err := gzip.NewReader(bytes.NewReader(l.Data))
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(z, maxText+1))
	}
	switch {
	case err != nil:
		r.note(false, "gzip", l, 0, "make it again, and check that nothing cut it", "the gzip data is damaged: %s", strings.TrimPrefix(err.Error(), "gzip: "))
		return nil
	case len(text) > maxText:
		r.note(false, "gzip", l, 0, "", "the gzip data holds more than %d MiB", maxText>>20)
		return nil
	}
	return l.opaque(text, "gzip")
}

// wholeBase64 decodes a file that is base64 as a whole, as the clouds' programming interfaces take it. Ordinary words
// are base64 too, so what comes out must be something that cloud-init knows.
func wholeBase64(l *Layer) *Layer {
	text := bytes.TrimSpace(l.Data)
	if len(text) < 8 || !onlyBase64(text) {
		return nil
	}
	inner, stray := unbase64(l, 0, len(l.Data), "base64", false)
	if inner == nil || stray >= 0 || len(inner.Data) == 0 {
		return nil
	}
	head := bytes.ToLower(inner.Data[:min(4096, len(inner.Data))])
	if isGzip(inner.Data) || KindOf(inner.Data) != "" || bytes.Contains(head, []byte("mime-version:")) ||
		bytes.HasPrefix(head, []byte("\xef\xbb\xbf#")) || nearHeader.Match(inner.Data) || mimeStart.Match(inner.Data) {
		return inner
	}
	return nil
}

func onlyBase64(b []byte) bool {
	for _, c := range b {
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '+', c == '/', c == '=', c == '\n', c == '\r':
		default:
			return false
		}
	}
	return true
}

// unbase64 decodes a stretch of a layer, keeping the place of each byte; nil when Python would refuse it. What is no
// base64 it passes over without a word: stray is where the first such character stands, or -1. Padding that is missing
// is put back where repair says so, as the reader of MIME messages does.
func unbase64(l *Layer, start, end int, about string, repair bool) (text *Layer, stray int) {
	var clean []byte
	var at []int
	pads := 0
	stray = -1
scan:
	for i := start; i < end; i++ {
		switch c := l.Data[i]; {
		case c == '\n', c == '\r', c == ' ', c == '\t':
		case c == '=' && len(clean)%4 >= 2:
			if pads++; len(clean)%4+pads == 4 { // the end, whatever follows
				if rest := bytes.TrimLeft(l.Data[i+1:end], " \t\r\n"); len(rest) > 0 && stray < 0 {
					stray = end - len(rest)
				}
				break scan
			}
		case c == '=', !onlyBase64([]byte{c}):
			if stray < 0 {
				stray = i
			}
		default:
			clean, at = append(clean, c), append(at, i)
			pads = 0
		}
	}
	if n := len(clean) % 4; n == 1 || n > 0 && n+pads < 4 && !repair {
		return nil, stray
	}
	data := make([]byte, base64.RawStdEncoding.DecodedLen(len(clean)))
	if _, err := base64.RawStdEncoding.Decode(data, clean); err != nil {
		return nil, stray
	}
	origin := make([]int, len(data))
	for i := range origin {
		origin[i] = at[i/3*4+i%3]
	}
	return l.mapped(data, origin, about), stray
}

// Base64 decodes the text of a layer as cloud-init decodes the content of a file; nil when it would refuse it. Stray is
// where the first character stands that it passes over, or -1.
func Base64(l *Layer, about string) (text *Layer, stray int) {
	return unbase64(l, 0, len(l.Data), about, false)
}

// Gunzip unpacks a layer; nil when it is not gzip.
func Gunzip(l *Layer) *Layer { return new(Result).gunzip(l) }
