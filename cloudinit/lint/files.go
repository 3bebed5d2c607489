package lint

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// RunnerFile is where a machine that we baked reads who it is.
const RunnerFile = "/etc/dorunner/runner.yaml"

var permissionsForm = regexp.MustCompile(`^(0o)?[0-7]{3,5}$`)

// special are the rules that a table of types cannot hold.
func (l *linter) special(d *document, n *yaml.Node, path string) {
	n = resolved(n)
	if n.Kind != yaml.ScalarNode || d.rendered(n) {
		return
	}
	bad := func(hint, format string, args ...any) {
		l.add(d.layer, d.off(n), "value", false, path, hint, format, args...)
	}
	switch {
	case strings.HasPrefix(path, "write_files[") && strings.HasSuffix(path, "].path"):
		if kindOf(n) == "str" && !strings.HasPrefix(n.Value, "/") {
			bad("begin it with /", "the path is not absolute, and cloud-init writes it wherever it happens to run")
		}
	case strings.HasPrefix(path, "write_files[") && strings.HasSuffix(path, "].permissions"):
		if kindOf(n) == "str" && !permissionsForm.MatchString(n.Value) {
			bad(`write it as "0644"`, "%q is no octal mode, so cloud-init keeps the default", n.Value)
		}
	case strings.HasPrefix(path, "autoinstall.identity.password"):
		if kindOf(n) == "str" && !strings.HasPrefix(n.Value, "$") && n.Value != "!" {
			bad("make one with: openssl passwd -6", "the password is not a hash, and the installer takes nothing else")
		}
	}
}

// files judges the content of the files that a document writes: units, and who the runner is.
func (l *linter) files(d *document) {
	list := get(d.root, "write_files")
	if list == nil || list.Kind != yaml.SequenceNode {
		return
	}
	var units []unit
	for _, item := range list.Content {
		item = resolved(item)
		path, content := get(item, "path"), get(item, "content")
		if path == nil || content == nil || content.Kind != yaml.ScalarNode || d.rendered(content) {
			continue
		}
		enc := ""
		if n := get(item, "encoding"); n != nil {
			enc = n.Value
		}
		text := l.decodeContent(d, content, enc, path.Value)
		if text == nil {
			continue
		}
		switch {
		case path.Value == RunnerFile:
			l.runnerSpec(text)
		case unitPath.MatchString(path.Value):
			units = append(units, parseUnit(path.Value, text))
		}
	}
	l.cycles(units)
}

// decodeContent undoes the encoding of a file's content; nil when that is wrong.
func (l *linter) decodeContent(d *document, n *yaml.Node, enc, path string) *decode.Layer {
	enc = strings.ToLower(enc)
	text := decode.Scalar(d.layer, n, path)
	if n.Tag == "!!binary" {
		if text, _ = decode.Base64(text, path+" (base64)"); text == nil {
			l.add(d.layer, d.off(n), "base64", false, "", "encode the content again", "the content of %s is not base64, which !!binary says", path)
			return nil
		}
	}
	if strings.HasSuffix(enc, "b64") || strings.HasSuffix(enc, "base64") {
		inner, stray := decode.Base64(text, path+" (base64)")
		switch {
		case inner == nil:
			l.add(text, max(stray, 0), "base64", false, "", "encode the content again", "the content of %s is not the base64 that its encoding says", path)
			return nil
		case stray >= 0:
			l.add(text, stray, "base64", true, "", "encode the content again", "%q is no base64, and cloud-init passes over it: the content of %s may be damaged", text.Data[stray], path)
		}
		text = inner
	}
	if !strings.HasPrefix(enc, "gz") {
		return text
	}
	inner := decode.Gunzip(text)
	if inner == nil {
		l.add(text, 0, "gzip", false, "", "encode the content again", "the content of %s is not the gzip that its encoding says", path)
	}
	return inner
}

// passwords judges the forms that an entry of chpasswd may have.
func (l *linter) passwords(d *document) {
	chpasswd := get(d.root, "chpasswd")
	if chpasswd == nil {
		return
	}
	for i, u := range items(get(chpasswd, "users")) {
		u = resolved(u)
		kind, password, path := get(u, "type"), get(u, "password"), fmt.Sprintf("chpasswd.users[%d]", i)
		switch random := kind != nil && kind.Value == "RANDOM"; {
		case random && password != nil:
			l.add(d.layer, d.off(password), "value", false, path+".password", "take it away, or the type", "a password is given, and the type asks for a random one")
		case !random && kind != nil && password == nil && !d.rendered(kind):
			l.add(d.layer, d.off(kind), "missing-key", false, path, "", "\"password\" is required here, unless the type is RANDOM")
		}
	}
}

// runnerSpec judges our own file the way the machine will.
func (l *linter) runnerSpec(text *decode.Layer) {
	var s runner.Spec
	if err := runner.Decode(&s, text.Data); err != nil {
		off, message := 0, strings.Replace(err.Error(), "unmarshal errors:\n  ", "", 1)
		if m := yamlLine.FindStringSubmatch(message); m != nil {
			line, _ := strconv.Atoi(m[1])
			off, message = text.Offset(line, 1), m[2]
		}
		message = strings.NewReplacer("in type runner.Spec", "", "not found", "is not known").Replace(message)
		l.add(text, off, "runner", false, "", "see docs/user-data.md for the keys", "the first boot will refuse it: %s", strings.TrimSpace(message))
		return
	}
	for _, f := range s.Validate() {
		l.add(text, keyLine(text.Data, f.Path), "runner", false, "", f.Hint, "runner.%s: %s", f.Path, f.Message)
	}
	for name, sec := range s.Secrets() {
		if sec.IsPlain() {
			l.secret(text, keyLine(text.Data, name), sec.Reveal(), "runner."+name+" is given literally")
		}
	}
}

// keyLine finds the line of a dotted path's last key, well enough for a file that holds each name once.
func keyLine(data []byte, path string) int {
	name, _, _ := strings.Cut(path[strings.LastIndex(path, ".")+1:], "[")
	if i := bytes.Index(data, []byte(name+":")); i >= 0 {
		return i
	}
	return 0
}
