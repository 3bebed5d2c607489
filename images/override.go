package images

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// override lays one value from outside over the spec, through the same strict decoder as the file. A path that ends
// in "[]" appends to a list; any other replaces what the file says.
func (s *Spec) override(o Override) Problems {
	var found Problems
	report := func(path, message, hint string) {
		found = append(found, Problem{Path: path, Source: o.From, Message: message, Hint: hint})
	}
	var n yaml.Node
	if err := n.Encode(o.Value); err != nil {
		report(o.Path, "the value cannot be written as YAML", "")
		return found
	}
	path, add := strings.CutSuffix(o.Path, "[]")
	v, at := reflect.ValueOf(s).Elem(), ""
	for key := range strings.SplitSeq(path, ".") {
		field := reflect.Value{}
		if v.Kind() == reflect.Struct {
			field = fieldOf(v, key)
		}
		if !field.IsValid() {
			hint := ""
			if v.Kind() == reflect.Struct {
				hint = suggestKey(at, key, keysOf(v.Type()))
			}
			report(o.Path, fmt.Sprintf("unknown key %q", key), hint)
			return found
		}
		v, at = field, child(at, key)
	}
	d := &decoder{report: func(_ *yaml.Node, path, message, hint string) { report(path, message, hint) }}
	if !add || v.Kind() != reflect.Slice {
		d.value(&n, v, at)
		s.source.replace(at, o.From)
		return found
	}
	at = fmt.Sprintf("%s[%d]", at, v.Len())
	item := reflect.New(v.Type().Elem()).Elem()
	d.value(&n, item, at)
	s.source.from[at] = o.From
	list := reflect.MakeSlice(v.Type(), 0, v.Len()+1)
	v.Set(reflect.Append(reflect.AppendSlice(list, v), item))
	return found
}

// clone copies what Resolve writes to, so that the author's Spec stays as it was.
func (s *Spec) clone() *Spec {
	c := *s
	c.source = s.source.clone()
	c.Image.Pull = slices.Clone(s.Image.Pull)
	c.Image.Scripts = slices.Clone(s.Image.Scripts)
	c.AWS.Sizes = slices.Clone(s.AWS.Sizes)
	c.Azure.Sizes = slices.Clone(s.Azure.Sizes)
	c.Fleet.Sizes = slices.Clone(s.Fleet.Sizes)
	return &c
}

// fill sets every zero value of v to that of the defaults, struct by struct.
func fill(v, defaults reflect.Value) {
	for i := range v.NumField() {
		f, d := v.Field(i), defaults.Field(i)
		switch {
		case !f.CanSet():
		case f.Kind() == reflect.Struct && f.Type().NumField() > 0 && f.Type().Field(0).IsExported():
			fill(f, d)
		case f.IsZero():
			f.Set(d)
		}
	}
}
