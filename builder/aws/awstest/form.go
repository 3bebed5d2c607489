package awstest

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// form reads the parameters of the query protocol and remembers which were read.
type form struct {
	v    url.Values
	used map[string]bool
	err  *Error
}

func (f *form) has(key string) bool { return f.v.Has(key) }

func (f *form) str(key string) string {
	f.used[key] = true
	return f.v.Get(key)
}

// need is str of a parameter that must be there.
func (f *form) need(key string) string {
	s := f.str(key)
	if s == "" && f.err == nil {
		f.err = fail("MissingParameter", "The request must contain the parameter %s", key)
	}
	return s
}

// of is str that must be one of a list, or absent.
func (f *form) of(key string, values ...string) string {
	s := f.str(key)
	if s != "" && !slices.Contains(values, s) && f.err == nil {
		f.err = fail("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", s, key)
	}
	return s
}

func (f *form) num(key string) int {
	s := f.str(key)
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil && f.err == nil {
		f.err = fail("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", s, key)
	}
	return n
}

func (f *form) yes(key string) bool { return f.of(key, "true", "false") == "true" }

// list reads KEY.1, KEY.2 and so on.
func (f *form) list(key string) []string {
	var out []string
	for i := 1; f.has(fmt.Sprintf("%s.%d", key, i)); i++ {
		out = append(out, f.str(fmt.Sprintf("%s.%d", key, i)))
	}
	return out
}

// groups gives the prefixes KEY.1., KEY.2. and so on that have parameters below them.
func (f *form) groups(key string) []string {
	var out []string
	for i := 1; ; i++ {
		prefix := fmt.Sprintf("%s.%d.", key, i)
		if !slices.ContainsFunc(slices.Collect(maps.Keys(f.v)), func(k string) bool { return strings.HasPrefix(k, prefix) }) {
			return out
		}
		out = append(out, prefix)
	}
}

// tags reads the tags to put on each type of resource, and refuses types other than allowed.
func (f *form) tags(allowed ...string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, p := range f.groups("TagSpecification") {
		t := f.of(p+"ResourceType", allowed...)
		out[t] = f.tagList(p + "Tag")
	}
	return out
}

func (f *form) tagList(key string) map[string]string {
	out := map[string]string{}
	for _, p := range f.groups(key) {
		k := f.str(p + "Key")
		if _, twice := out[k]; twice && f.err == nil {
			f.err = fail("InvalidParameterValue", "Duplicate tag key '%s' specified.", k)
		}
		out[k] = f.str(p + "Value")
	}
	return out
}

// filters reads Filter.N and keeps only known names.
func (f *form) filters(known ...string) map[string][]string {
	out := map[string][]string{}
	for _, p := range f.groups("Filter") {
		name := f.str(p + "Name")
		if f.err == nil && !slices.Contains(known, name) && (!strings.HasPrefix(name, "tag:") || !slices.Contains(known, "tag-key")) {
			f.err = fail("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		out[name] = f.list(p + "Value")
	}
	return out
}

// match tells whether what an item is passes every filter.
func match(filters map[string][]string, tags map[string]string, is map[string]string) bool {
	for name, want := range filters {
		got, have := is[name], true
		switch key, isTag := strings.CutPrefix(name, "tag:"); {
		case isTag:
			got, have = tags[key]
		case name == "tag-key":
			if !slices.ContainsFunc(want, func(w string) bool { _, ok := tags[w]; return ok }) {
				return false
			}
			continue
		}
		if !have || !slices.ContainsFunc(want, func(w string) bool { return globMatch(w, got) }) {
			return false
		}
	}
	return true
}

// globMatch knows * and ? as EC2's filters and IAM's patterns do; a slash is nothing special.
func globMatch(pattern, s string) bool {
	const sep = "\x00" // path.Match treats slashes apart: hide them
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", sep), strings.ReplaceAll(s, "/", sep))
	return err == nil && ok
}

func (f *form) rest() []string {
	var out []string
	for k := range f.v {
		if !f.used[k] {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// page cuts the items that this answer holds.
func page[T any](c *call, items []T) ([]T, string, *Error) {
	size, start := c.s.o.PageSize, 0
	if n := c.f.num("MaxResults"); n > 0 && n < size {
		size = n
	}
	if t := c.f.str("NextToken"); t != "" {
		n, err := strconv.Atoi(strings.TrimPrefix(t, "page-"))
		if err != nil || n > len(items) {
			return nil, "", fail("InvalidNextToken", "The token '%s' is invalid", t)
		}
		start = n
	}
	if start+size >= len(items) {
		return items[start:], "", nil
	}
	return items[start : start+size], fmt.Sprintf("page-%d", start+size), nil
}

type tagItem struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

type set[T any] struct {
	Item []T `xml:"item"`
}

func tagSet(tags map[string]string) set[tagItem] {
	var out set[tagItem]
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out.Item = append(out.Item, tagItem{k, tags[k]})
	}
	return out
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

type done struct {
	Return bool `xml:"return"`
}
