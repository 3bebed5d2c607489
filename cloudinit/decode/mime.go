package decode

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"regexp"
	"strings"
)

var headerLine = regexp.MustCompile(`^([!-9;-~]+)[ \t]*:[ \t]*(.*)$`)

// maxDepth bounds messages within messages.
const maxDepth = 8

// message is user-data that cloud-init reads as a MIME message, because "mime-version:" stands near its beginning.
func (r *Result) message(l *Layer) {
	first, _, _ := bytes.Cut(l.Data, []byte("\n"))
	if !r.text(l) {
		return
	}
	at := bytes.Index(bytes.ToLower(l.Data), []byte("mime-version:"))
	switch {
	case KindOf(l.Data) != "":
		r.note(false, "mime-inside", l, at, "carry that text in base64, or send the document as a MIME part",
			`"MIME-Version:" makes cloud-init read the whole document as a MIME message, and this part of it is lost`)
		return
	case len(bytes.TrimSpace(first)) == 0:
		r.note(false, "mime-headers", l, 0, "begin with the headers", "a blank line before the MIME headers ends them: cloud-init sees no parts")
		return
	case !headerLine.Match(bytes.TrimRight(first, "\r")) && !bytes.HasPrefix(first, []byte("From ")):
		r.note(false, "mime-headers", l, 0, "begin with the headers", "this is not a MIME header, so cloud-init sees no parts")
		return
	}
	before := len(r.Parts) + len(r.Notes)
	n := 0
	r.entity(l, &n, 0)
	if len(r.Parts)+len(r.Notes) == before {
		r.note(false, "no-parts", l, 0, "", "the MIME message holds no parts")
	}
}

// field is one header of a MIME entity.
type field struct {
	value string
	at    int
}

// entity is a message or a part of one: headers, a blank line, a body.
func (r *Result) entity(l *Layer, n *int, depth int) {
	fields := map[string]field{}
	body, last, unlike := 0, "", "" // unlike is a line that ends the headers without being empty
	for body < len(l.Data) {
		line, _, _ := bytes.Cut(l.Data[body:], []byte("\n"))
		text := strings.TrimSuffix(string(line), "\r")
		next := min(body+len(line)+1, len(l.Data))
		m := headerLine.FindStringSubmatch(text)
		switch {
		case text == "":
			body = next
			goto found
		case last != "" && (text[0] == ' ' || text[0] == '\t'):
			if strings.TrimSpace(text) == "" {
				r.note(last != "content-transfer-encoding", "mime-headers", l, body, "take the blanks away", "a line of blanks does not end the headers")
			}
			f := fields[last]
			f.value += " " + strings.TrimSpace(text)
			fields[last] = f
		case m != nil:
			last = strings.ToLower(m[1])
			if strings.HasSuffix(last, "merge-type") && m[1] != "Merge-Type" && m[1] != "X-Merge-Type" {
				r.note(true, "merge-header", l, body, `write "Merge-Type"`, "cloud-init looks for Merge-Type in exactly this spelling and ignores %q", m[1])
			} else if _, twice := fields[last]; !twice {
				fields[last] = field{strings.TrimSpace(m[2]), body}
			}
		case body == 0 && strings.HasPrefix(text, "From "):
		default:
			unlike = text
			goto found
		}
		body = next
	}
found:
	kind, params := "text/plain", map[string]string{}
	ct, given := fields["content-type"]
	if given {
		k, p, err := mime.ParseMediaType(ct.value)
		switch {
		case k != "":
			kind, params = k, p
		case err != nil:
			r.note(false, "content-type", l, ct.at, "write it as: Content-Type: text/cloud-config", "the content type does not parse: %s", strings.TrimPrefix(err.Error(), "mime: "))
		}
	}
	multi := strings.HasPrefix(kind, "multipart/")
	if unlike != "" {
		harmless := multi || strings.HasPrefix(unlike, "--") || KindOf([]byte(unlike)) != "" || strings.EqualFold(fields["content-transfer-encoding"].value, "base64")
		r.note(harmless, "mime-headers", l, body, "put an empty line between the headers and the body", "%q is not a MIME header: it ends them, and what follows counts as text", clip(unlike))
	}
	if multi {
		r.multipart(l, body, ct.at, params["boundary"], n, depth)
		return
	}
	*n++
	r.leaf(l, body, kind, params, fields, *n)
}

// multipart finds the parts between the boundaries. A wrong boundary gives cloud-init no parts and no error.
func (r *Result) multipart(l *Layer, body, at int, boundary string, n *int, depth int) {
	if boundary == "" {
		r.note(false, "boundary", l, at, `write: Content-Type: multipart/mixed; boundary="..."`, "a multipart message without a boundary has no parts: cloud-init ignores all of it without an error")
		return
	}
	if depth >= maxDepth {
		r.note(false, "nesting", l, at, "", "messages are nested more than %d deep", maxDepth)
		return
	}
	start, parts, closed := -1, 0, false
	for off := body; off < len(l.Data); {
		line, _, _ := bytes.Cut(l.Data[off:], []byte("\n"))
		text := strings.TrimRight(string(line), " \t\r")
		if rest, is := strings.CutPrefix(text, "--"+boundary); is && (rest == "" || rest == "--") {
			if closed && rest == "" {
				r.note(false, "boundary", l, off, "take the two dashes at the end of the earlier line away", "parts stand behind the last boundary, where cloud-init ignores them")
				break
			}
			if closed {
				break
			}
			if start >= 0 {
				end := off
				if end > start && l.Data[end-1] == '\n' {
					end--
				}
				if end > start && l.Data[end-1] == '\r' {
					end--
				}
				r.entity(l.slice(start, max(start, end), ""), n, depth+1)
				parts++
			}
			start, closed = min(off+len(line)+1, len(l.Data)), rest == "--"
		}
		off += len(line) + 1
	}
	switch {
	case start < 0:
		r.note(false, "boundary", l, at, "make the parts' lines the boundary with two dashes before it", "no line is \"--%s\": with a wrong boundary cloud-init sees no parts, and gives no error", clip(boundary))
	case !closed:
		r.entity(l.slice(start, len(l.Data), ""), n, depth+1)
		r.note(true, "boundary-end", l, len(l.Data), fmt.Sprintf("end it with \"--%s--\"", clip(boundary)), "the message has no last boundary: it may have been cut")
	case parts == 0:
		r.note(true, "no-parts", l, at, "", "the MIME message holds no parts")
	}
}

// gzipTypes are the content types that say that a part is compressed.
var gzipTypes = map[string]bool{
	"application/gzip": true, "application/gzip-compressed": true, "application/gzipped": true, "application/x-compress": true,
	"application/x-compressed": true, "application/x-gunzip": true, "application/x-gzip": true, "application/x-gzip-compressed": true,
}

// known are the content types that cloud-init has handlers for.
var known = map[string]bool{
	CloudConfig: true, Archive: true, JSONPatch: true, Jinja: true, Boothook: true, Script: true, PartHandler: true,
	"text/x-include-url": true, "text/x-include-once-url": true,
	"text/x-shellscript-per-boot": true, "text/x-shellscript-per-instance": true, "text/x-shellscript-per-once": true,
}

// leaf is a part that is no container: decoded, typed, recorded.
func (r *Result) leaf(l *Layer, body int, kind string, params map[string]string, fields map[string]field, n int) {
	name := fmt.Sprintf("part-%03d", n)
	if d, given := fields["content-disposition"]; given {
		if _, p, err := mime.ParseMediaType(d.value); err == nil && p["filename"] != "" {
			name = p["filename"]
		}
	}
	about := fmt.Sprintf("part %d (%s)", n, clip(kind))
	text := r.transfer(l, body, fields["content-transfer-encoding"], about)
	if text == nil {
		return
	}
	if c := strings.ToLower(params["charset"]); c != "" && c != "utf-8" && c != "utf8" && c != "us-ascii" && c != "ascii" && kind != "application/octet-stream" {
		r.note(true, "charset", l, fields["content-type"].at, "encode the part as UTF-8", "cloud-init ignores charset %q and reads UTF-8", clip(c))
	}
	if gzipTypes[kind] {
		if text = r.gunzip(text); text == nil {
			return
		}
		kind = "text/plain"
	} else if isGzip(text.Data) {
		r.note(false, "gzip-part", l, fields["content-type"].at, "give it Content-Type: application/gzip", "the part is compressed but its type is %s: cloud-init hands it on as it is", clip(kind))
		return
	}
	if !r.text(text) {
		return
	}
	// The type is a guess where the header says little; and many a script part holds something else.
	if kind == "text/plain" || kind == "text/x-not-multipart" || kind == Script {
		if found := KindOf(text.Data); found != "" {
			kind = found
		} else if len(bytes.TrimSpace(text.Data)) == 0 {
			r.note(true, "empty", l, body, "", "the part is empty")
			return
		} else if kind != Script {
			r.noHeader(text, " in a text/plain part")
			return
		}
	}
	if !known[kind] {
		hint := "carry other data in write_files of a text/cloud-config part"
		if k := nearest(kind); k != "" {
			hint = "did you mean " + k + "?"
		}
		r.note(false, "part-type", l, fields["content-type"].at, hint, "cloud-init has no handler for %s: it skips the part and the boot counts as degraded", clip(kind))
		return
	}
	merge := fields["merge-type"].value
	if merge == "" {
		merge = fields["x-merge-type"].value
	}
	r.part(text, kind, name, merge, 0)
}

// transfer undoes the content transfer encoding.
func (r *Result) transfer(l *Layer, body int, enc field, about string) *Layer {
	switch e := strings.ToLower(strings.TrimSpace(enc.value)); e {
	case "base64":
		text, stray := unbase64(l, body, len(l.Data), about, true)
		switch {
		case text == nil:
			r.note(false, "base64", l, max(stray, body), "encode the part again", "the part is not valid base64")
		case stray >= 0:
			r.note(true, "base64", l, stray, "encode the part again", "%q is no base64, and cloud-init passes over it: the part may be damaged", l.Data[stray])
		}
		return text
	case "quoted-printable":
		r.ascii(l, body)
		text, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(l.Data[body:])))
		if err != nil {
			r.note(false, "quoted-printable", l, body, "encode the part again", "the part is not valid quoted-printable")
			return nil
		}
		return At(l, text, body, about)
	case "", "7bit", "8bit", "binary":
		r.ascii(l, body)
		return l.slice(body, len(l.Data), about)
	default:
		r.note(false, "transfer-encoding", l, enc.at, "use base64", "cloud-init does not know the transfer encoding %q", clip(e))
		return nil
	}
}

// ascii refuses what cloud-init corrupts.
func (r *Result) ascii(l *Layer, body int) {
	if i := bytes.IndexFunc(l.Data[body:], func(c rune) bool { return c >= 0x80 }); i >= 0 {
		r.note(false, "not-ascii", l, body+i, "give the part Content-Transfer-Encoding: base64", "cloud-init corrupts characters that are not ASCII in a part without base64")
	}
}

func nearest(kind string) string {
	squeeze := strings.NewReplacer("-", "", "_", "", "x", "", "application/", "text/").Replace
	for _, k := range []string{CloudConfig, Script, Boothook, Jinja, Archive, JSONPatch, PartHandler, "text/x-include-url"} {
		if squeeze(kind) == squeeze(k) || strings.TrimSuffix(kind, "s") == k {
			return k
		}
	}
	return ""
}

func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "..."
	}
	return s
}
