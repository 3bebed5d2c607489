package lint

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
)

//go:embed keys.txt
var keysText string

//go:embed network1.txt
var network1Text string

//go:embed network2.txt
var network2Text string

//go:embed hosts.txt
var hostsText string

// The tables are read once, when first needed.
var (
	cloudConfigKeys = sync.OnceValue(func() *key { return parseTable(keysText) })
	network1Keys    = sync.OnceValue(func() *key { return parseTable(network1Text) })
	hostsKeys       = sync.OnceValue(func() *key { return parseTable(hostsText) })
	network2Keys    = sync.OnceValue(func() *key { return parseTable(network2Text) })
)

// key is what the table says of one key.
type key struct {
	types      []string // of str, int, num, bool, list, map, null; or any
	required   bool
	open       bool     // a map that may hold others than its keys
	words      []string // allowed words of a string
	dashes     bool     // in words - and _ are the same
	since      string   // first cloud-init release that knows it; "" is 22.4 or before
	deprecated string
	keys       map[string]*key // of a map
	any        *key            // of a map: every other key
	items      *key            // of a list
	needed     []string        // the required ones of keys, in order
}

func (k *key) takes(kind string) bool {
	return slices.Contains(k.types, kind) || slices.Contains(k.types, "any") || kind == "int" && slices.Contains(k.types, "num")
}

// parseTable reads the notation that keys.txt explains. The tables are part of the program: a mistake in one panics in
// the first test.
func parseTable(text string) *key {
	root := &key{types: []string{"map"}, keys: map[string]*key{}}
	defs := map[string]*key{}
	def := func(name string) *key {
		if defs[name] == nil {
			defs[name] = &key{}
		}
		return defs[name]
	}
	refs := map[*key]*key{}
	holders := []*key{root}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
		k := &key{}
		name, attrs := words[0], words[1:]
		if strings.HasPrefix(name, "@") {
			k = def(name)
		} else {
			types := attrs[0]
			types, k.required = strings.CutSuffix(types, "!")
			types, k.open = strings.CutSuffix(types, "~")
			k.types, attrs = strings.Split(types, "|"), attrs[1:]
			switch parent := holders[depth]; name {
			case "-":
				parent.items = k
			case "*":
				parent.any = k
			default:
				if parent.keys == nil {
					parent.keys = map[string]*key{}
				}
				parent.keys[name] = k
				if k.required {
					parent.needed = append(parent.needed, name)
				}
			}
		}
		for _, a := range attrs {
			switch {
			case strings.HasPrefix(a, "=~"):
				k.words, k.dashes = strings.Split(a[2:], ","), true
			case strings.HasPrefix(a, "="):
				k.words = strings.Split(a[1:], ",")
			case strings.HasPrefix(a, "since:"):
				k.since = a[len("since:"):]
			case strings.HasPrefix(a, "deprecated:"):
				k.deprecated = a[len("deprecated:"):]
			case strings.HasPrefix(a, "@"):
				refs[k] = def(a)
			default:
				panic("key table: " + line)
			}
		}
		holders = append(holders[:depth+1], k)
	}
	for k, d := range refs {
		k.keys, k.any = d.keys, d.any
		if d.items != nil {
			k.items = d.items
		}
		k.needed = d.needed
		if k.words == nil {
			k.words, k.dashes = d.words, d.dashes
		}
	}
	return root
}

// free is a map of which the table says nothing.
func (k *key) free() bool { return k.open || len(k.keys) == 0 && k.any == nil }
