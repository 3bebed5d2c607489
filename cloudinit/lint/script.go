package lint

import (
	"bytes"
	"strings"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
)

// script judges a script or boothook as far as it can be told without running it.
func (l *linter) script(p decode.Part) {
	text := p.Data
	off := len(text) - len(bytes.TrimLeft(text, " \t\r\n"))
	what := "script"
	if p.Type == decode.Boothook {
		what = "boothook"
		if rest := text[off:]; len(rest) >= len("#cloud-boothook") && strings.EqualFold(string(rest[:len("#cloud-boothook")]), "#cloud-boothook") {
			off += len("#cloud-boothook")
			off += len(text[off:]) - len(bytes.TrimLeft(text[off:], " \t\r\n"))
		}
	} else if off > 0 && !p.Jinja {
		l.add(p.Layer, 0, "shebang", false, "", `put "#!" first`, "white space before #! keeps the kernel from running the script")
	}
	line, _, _ := bytes.Cut(text[off:], []byte("\n"))
	interpreter, is := strings.CutPrefix(strings.TrimSpace(string(line)), "#!")
	switch {
	case len(bytes.TrimSpace(text[off:])) == 0:
		l.add(p.Layer, 0, "empty", true, "", "", "the %s is empty", what)
	case !is:
		l.add(p.Layer, off, "shebang", false, "", `begin it with "#!/bin/sh"`, "the %s names no interpreter, so the kernel refuses to run it", what)
	case !strings.HasPrefix(strings.TrimSpace(interpreter), "/"):
		l.add(p.Layer, off, "shebang", false, "", "write its path from /", "the interpreter %q is not an absolute path", strings.TrimSpace(interpreter))
	}
	l.scan(p.Layer)
}

// include judges a list of addresses. What stands there is not fetched.
func (l *linter) include(p decode.Part) {
	off, any := 0, false
	for line := range bytes.Lines(p.Data) {
		text := strings.TrimSpace(string(line))
		for _, h := range []string{"#include-once", "#include"} {
			if len(text) >= len(h) && strings.EqualFold(text[:len(h)], h) {
				text = strings.TrimSpace(text[len(h):])
				break
			}
		}
		if text != "" && !strings.HasPrefix(text, "#") {
			any = true
			at := off + max(0, bytes.Index(line, []byte(text)))
			switch scheme, _, _ := strings.Cut(text, "://"); scheme {
			case "https", "file":
			case "http":
				l.add(p.Layer, at, "include", true, "", "use https", "what is fetched without encryption runs as root")
			default:
				l.add(p.Layer, at, "include", false, "", "write an https:// address", "%q is no address that cloud-init fetches", text)
			}
		}
		off += len(line)
	}
	if !any {
		l.add(p.Layer, 0, "include", true, "", "", "the list of addresses is empty")
	}
}
