package lint

import (
	"bytes"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
)

// cloudConfig judges a #cloud-config part; nil when it cannot be read.
func (l *linter) cloudConfig(p decode.Part) *document {
	root := l.parse(p.Layer)
	if root == nil {
		return nil
	}
	d := &document{layer: p.Layer, root: root, name: p.Name, merge: p.Merge}
	if p.Jinja {
		d.jinja = p.Source
	}
	if kind := kindOf(root); kind != "map" {
		if kind == "null" {
			return nil
		}
		l.add(d.layer, d.off(root), "root", false, "", "write keys: hostname: x, runcmd: [...]", "a #cloud-config is a map of keys, not %s", article(kind))
		return nil
	}
	l.check(d, root, cloudConfigKeys(), "")
	l.files(d)
	l.passwords(d)
	l.secrets(d)
	return d
}

// plainFile judges a file that is YAML alone: network-config or meta-data.
func (l *linter) plainFile(data []byte) {
	layer := &decode.Layer{Data: data}
	root := l.parse(layer)
	if root == nil {
		return
	}
	d := &document{layer: layer, root: root}
	if kindOf(root) != "map" {
		l.add(layer, d.off(root), "root", false, "", "", "it is a map of keys, not %s", article(kindOf(root)))
		return
	}
	if l.Kind == "meta-data" {
		l.metaData(d)
	} else {
		l.network(d)
	}
}

func (d *document) off(n *yaml.Node) int { return d.layer.Offset(n.Line, n.Column) }

// rendered says that a template fills in this node's line, so that its value is not known yet.
func (d *document) rendered(n *yaml.Node) bool {
	if d.jinja == nil {
		return false
	}
	off := min(d.off(n), len(d.jinja))
	start := bytes.LastIndexByte(d.jinja[:off], '\n') + 1
	line, _, _ := bytes.Cut(d.jinja[start:], []byte("\n"))
	return bytes.Contains(line, []byte("{{")) || bytes.Contains(line, []byte("{%"))
}

// check holds a node against what the table says of its key.
func (l *linter) check(d *document, n *yaml.Node, k *key, path string) {
	n = resolved(n)
	kind := kindOf(n)
	if !k.takes(kind) {
		if !d.rendered(n) {
			l.wrongType(d, n, k, path, kind)
		}
		return
	}
	switch kind {
	case "map":
		l.checkMap(d, n, k, path)
	case "list":
		l.count(d, n, path, "item", len(n.Content), k.least, k.most)
		for i, c := range n.Content {
			sub := path + "[" + strconv.Itoa(i) + "]"
			if k.items != nil {
				l.check(d, c, k.items, sub)
			}
			if k.unique && c.Kind == yaml.ScalarNode && slices.ContainsFunc(n.Content[:i], func(o *yaml.Node) bool { return o.Value == c.Value }) {
				l.add(d.layer, d.off(c), "value", false, sub, "take one away", "%q stands here for the second time", c.Value)
			}
		}
	case "str":
		l.text(d, n, k, path)
	case "int", "num":
		if k.from != nil && lessThan(n, *k.from) && !d.rendered(n) {
			l.add(d.layer, d.off(n), "value", false, path, "", "the smallest number that cloud-init takes here is %d", *k.from)
		}
	}
}

// lessThan says that a number is less than the smallest.
func lessThan(n *yaml.Node, smallest int) bool {
	switch v := valueOf(n, 0).(type) {
	case *big.Int:
		return v.Cmp(big.NewInt(int64(smallest))) < 0
	case float64:
		return v < float64(smallest)
	}
	return false
}

// text holds a text against the words and the form that the table names.
func (l *linter) text(d *document, n *yaml.Node, k *key, path string) {
	word := n.Value
	if k.dashes {
		word = strings.ReplaceAll(word, "-", "_")
	}
	if k.words == nil && k.form == nil || slices.Contains(k.words, word) || k.form != nil && k.form.MatchString(n.Value) || d.rendered(n) {
		return
	}
	hint := "use one of " + strings.Join(k.words, ", ")
	if len(k.words) == 0 {
		hint = ""
	}
	if s := suggest(n.Value, k.words); s != "" {
		hint = "did you mean " + s + "?"
	}
	if k.form != nil {
		l.add(d.layer, d.off(n), "value", false, path, hint, "%q is not of the form that cloud-init takes here: %s", n.Value, k.form)
		return
	}
	l.add(d.layer, d.off(n), "value", false, path, hint, "%q is none of the words that cloud-init knows here", n.Value)
}

// count holds the size of a list or map against the table. What a template will add is not known yet.
func (l *linter) count(d *document, n *yaml.Node, path, what string, have, least, most int) {
	plural := func(n int) string {
		if n == 1 {
			return "1 " + what
		}
		return strconv.Itoa(n) + " " + what + "s"
	}
	switch {
	case d.jinja != nil:
	case have == 0 && least > 0:
		l.add(d.layer, d.off(n), "value", false, path, "leave the key away", "it is empty, and cloud-init takes no less than %s", plural(least))
	case have < least:
		l.add(d.layer, d.off(n), "value", false, path, "", "it has %s, and cloud-init takes no less than %d", plural(have), least)
	case most > 0 && have > most:
		l.add(d.layer, d.off(n), "value", false, path, "", "it has %s, and cloud-init takes no more than %d", plural(have), most)
	}
}

func (l *linter) checkMap(d *document, n *yaml.Node, k *key, path string) {
	have := map[string]bool{}
	for kn, v := range pairs(n) {
		name := kn.Value
		have[name] = true
		sub := join(path, name)
		if kn.Kind != yaml.ScalarNode {
			continue
		}
		if kind := kindOf(kn); kind == "bool" && k.keys != nil && k.any == nil {
			l.add(d.layer, d.off(kn), "unknown-key", false, path, "quote the key", "the key %s is a boolean to cloud-init, not a name", name)
			continue
		}
		next := k.keys[name]
		if next == nil && k.any != nil {
			next = k.any
			if k.names != nil && !k.names.MatchString(name) && !d.rendered(kn) {
				l.add(d.layer, d.off(kn), "unknown-key", false, sub, "", "the name is not of the form that cloud-init takes here: %s", k.names)
				continue
			}
		}
		if next == nil {
			l.unknown(d, kn, k, sub)
			continue
		}
		l.age(d, kn, next, sub)
		l.check(d, v, next, sub)
		l.special(d, v, sub)
	}
	for _, name := range k.needed {
		if !have[name] {
			l.add(d.layer, d.off(n), "missing-key", false, path, "", "%q is required here", name)
		}
	}
	lacks := func(set []string) bool {
		return slices.ContainsFunc(set, func(name string) bool { return !have[name] })
	}
	if len(k.either) > 0 && !slices.ContainsFunc(k.either, func(set []string) bool { return !lacks(set) }) {
		var ways []string
		for _, set := range k.either {
			ways = append(ways, strings.Join(set, " and "))
		}
		l.add(d.layer, d.off(n), "missing-key", false, path, "", "cloud-init wants %s here", strings.Join(ways, ", or "))
	}
	l.count(d, n, path, "key", len(have), k.filled, 0)
}

// unknown tells of a key that the table does not have.
func (l *linter) unknown(d *document, kn *yaml.Node, k *key, path string) {
	if d.rendered(kn) {
		return
	}
	s := suggest(kn.Value, sortedKeys(k.keys))
	hint := ""
	if s != "" {
		hint = "did you mean " + s + "?"
	}
	switch {
	case !k.free():
		message := "cloud-init knows no key of this name and ignores it"
		if l.Kind == "hosts" {
			message = "there is no key of this name"
		}
		l.add(d.layer, d.off(kn), "unknown-key", false, path, hint, "%s", message)
	case s != "":
		l.add(d.layer, d.off(kn), "unknown-key", true, path, hint, "the name is close to one that is known")
	}
}

// age compares a key with the target's cloud-init.
func (l *linter) age(d *document, kn *yaml.Node, k *key, path string) {
	if k.since != "" && older(l.CloudInit, k.since) {
		l.add(d.layer, d.off(kn), "newer-key", false, path, "", "cloud-init knows this key since %s; the target's %s ignores it", k.since, l.CloudInit)
	}
	if k.deprecated != "" && !older(l.CloudInit, k.deprecated) {
		hint := ""
		if s := strings.ReplaceAll(kn.Value, "-", "_"); s != kn.Value {
			hint = "write " + s
		}
		l.add(d.layer, d.off(kn), "deprecated-key", true, path, hint, "the key is deprecated since cloud-init %s", k.deprecated)
	}
}

// wrongType says what cloud-init makes of a value that is not what the key takes.
func (l *linter) wrongType(d *document, n *yaml.Node, k *key, path, kind string) {
	var want []string
	for _, t := range k.types {
		want = append(want, article(t))
	}
	message, hint := fmt.Sprintf("it takes %s, and this is %s", strings.Join(want, " or "), article(kind)), ""
	if n.Kind == yaml.ScalarNode && slices.Contains(k.types, "str") && kind != "null" {
		switch v := valueOf(n, 0); {
		case kind == "int" && fmt.Sprint(v) != n.Value:
			message = fmt.Sprintf("it takes a text, and YAML 1.1 reads %s as the number %v", n.Value, v)
		case kind == "bool":
			message = fmt.Sprintf("it takes a text, and YAML 1.1 reads %s as %v", n.Value, v)
		case kind == "time":
			message = fmt.Sprintf("it takes a text, and YAML 1.1 reads %s as a date", n.Value)
		}
		hint = fmt.Sprintf("quote it: %q", n.Value)
	}
	if kind == "map" && slices.Contains(k.types, "str") && len(n.Content) == 2 && n.Content[1].Line == n.Line {
		hint = "a colon and a blank make a map: quote the text"
	}
	if kind == "str" && slices.Contains(k.types, "bool") && n.Style != 0 && form11Bool.MatchString(n.Value) {
		hint = "take the quotes away"
	}
	l.add(d.layer, d.off(n), "type", false, path, hint, "%s", message)
}

func article(kind string) string {
	return map[string]string{"str": "a text", "int": "a whole number", "num": "a number", "bool": "true or false", "list": "a list",
		"map": "a map", "null": "nothing", "time": "a date", "any": "anything"}[kind]
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// older compares releases such as 24.4.1 and 24.1 number by number.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m < n
		}
	}
	return false // 24.4 and 24.4.1 know the same keys
}

// suggest is the name that a misspelt one most likely stands for, or "".
func suggest(name string, known []string) string {
	best, at := "", 1+len(name)/4
	plain := strings.NewReplacer("-", "", "_", "", " ", "").Replace
	for _, k := range known {
		if strings.EqualFold(plain(name), plain(k)) {
			return k
		}
		if d := distance(strings.ToLower(name), k, at); d <= at && (best == "" || d < at) {
			best, at = k, d
		}
	}
	return best
}

// distance counts the letters to change, insert, drop or swap (optimal string alignment); anything above most is most+1.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most || len(a) > 64 {
		return most + 1
	}
	rows := [3][]int{}
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
	}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row := rows[(i+2)%3], rows[i%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
