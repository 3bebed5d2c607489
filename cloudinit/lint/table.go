package lint

import (
	"cmp"
	_ "embed"
	"regexp"
	"slices"
	"strconv"
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
	open       bool           // a map that may hold others than its keys
	words      []string       // allowed words of a string
	dashes     bool           // in words - and _ are the same
	form       *regexp.Regexp // of a string that is none of the words
	names      *regexp.Regexp // of a map's other keys
	least      int            // items of a list
	most       int            // likewise; 0 is any number
	filled     int            // keys of a map, at least
	from       *int           // the smallest number
	unique     bool           // no item twice
	either     [][]string     // one of these sets of keys must be there
	since      string         // first cloud-init release that knows it; "" is 22.4 or before
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
	refs := map[*key][]*key{}
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
			case strings.HasPrefix(a, "/"):
				k.form = regexp.MustCompile(strings.Trim(a, "/"))
			case strings.HasPrefix(a, "names:/"):
				k.names = regexp.MustCompile(strings.Trim(a[len("names:"):], "/"))
			case strings.HasPrefix(a, "least:"):
				k.least = number(a)
			case strings.HasPrefix(a, "most:"):
				k.most = number(a)
			case strings.HasPrefix(a, "keys:"):
				k.filled = number(a)
			case strings.HasPrefix(a, "from:"):
				n := number(a)
				k.from = &n
			case a == "unique":
				k.unique = true
			case strings.HasPrefix(a, "either:"):
				for set := range strings.SplitSeq(a[len("either:"):], ",") {
					k.either = append(k.either, strings.Split(set, "+"))
				}
			case strings.HasPrefix(a, "since:"):
				k.since = a[len("since:"):]
			case strings.HasPrefix(a, "deprecated:"):
				k.deprecated = a[len("deprecated:"):]
			case strings.HasPrefix(a, "@"):
				refs[k] = append(refs[k], def(a))
			default:
				panic("key table: " + line)
			}
		}
		holders = append(holders[:depth+1], k)
	}
	for k := range refs {
		k.adopt(refs)
	}
	return root
}

// adopt takes over what the definitions say that a key refers to; what it says itself stands.
func (k *key) adopt(refs map[*key][]*key) {
	from := refs[k]
	delete(refs, k)
	for _, d := range from {
		d.adopt(refs)
		if k.keys == nil {
			k.keys = d.keys
		} else {
			for name, sub := range d.keys {
				if k.keys[name] == nil {
					k.keys[name] = sub
				}
			}
		}
		k.any, k.items = cmp.Or(k.any, d.any), cmp.Or(k.items, d.items)
		k.needed = slices.Concat(k.needed, d.needed)
		if k.words == nil {
			k.words, k.dashes = d.words, d.dashes
		}
		if k.either == nil {
			k.either = d.either
		}
		k.least, k.most, k.filled = cmp.Or(k.least, d.least), cmp.Or(k.most, d.most), cmp.Or(k.filled, d.filled)
	}
}

// number reads the number of "least:1".
func number(attr string) int {
	_, n, _ := strings.Cut(attr, ":")
	v, err := strconv.Atoi(n)
	if err != nil {
		panic("key table: " + attr)
	}
	return v
}

// free is a map of which the table says nothing.
func (k *key) free() bool { return k.open || len(k.keys) == 0 && k.any == nil }
