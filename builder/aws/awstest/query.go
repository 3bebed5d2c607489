package awstest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// members is a list of the query protocol: KEY.member.1 and so on in a request, <KEY><member> in an answer.
type members[T any] struct {
	Member []T `xml:"member"`
}

// below says whether there are parameters that begin with prefix.
func (f *form) below(prefix string) bool {
	for k := range f.v {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}

// read fills a struct from the parameters below prefix. Its fields have the parameters' names; lists are set or
// members; what is nil was not sent.
func (f *form) read(prefix string, into any) { f.fill(prefix, reflect.ValueOf(into).Elem()) }

func (f *form) fill(key string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if f.has(key) || f.below(key+".") || key == "" {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(key, v.Elem())
		}
	case reflect.Struct:
		if v.NumField() == 1 && v.Field(0).Kind() == reflect.Slice { // a list
			if v.Type().Field(0).Name == "Member" {
				key += ".member"
			}
			list := v.Field(0)
			for i := 1; ; i++ {
				at := fmt.Sprintf("%s.%d", key, i)
				if !f.has(at) && !f.below(at+".") {
					return
				}
				item := reflect.New(list.Type().Elem()).Elem()
				f.fill(at, item)
				list.Set(reflect.Append(list, item))
			}
		}
		if key != "" && !strings.HasSuffix(key, ".") {
			key += "."
		}
		for i := range v.NumField() {
			if t := v.Type().Field(i); t.IsExported() && t.Tag.Get("form") != "-" {
				f.fill(key+t.Name, v.Field(i))
			}
		}
	case reflect.String:
		v.SetString(f.str(key))
	default:
		f.scalar(key, v)
	}
}

func (f *form) scalar(key string, v reflect.Value) {
	text := f.str(key)
	if text == "" {
		return
	}
	var err error
	switch v.Kind() {
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		v.SetBool(b)
	case reflect.Int:
		var n int
		n, err = strconv.Atoi(text)
		v.SetInt(int64(n))
	case reflect.Float64:
		var n float64
		n, err = strconv.ParseFloat(text, 64)
		v.SetFloat(n)
	default:
		panic("awstest: no parameter is a " + v.Kind().String())
	}
	if err != nil && f.err == nil {
		f.err = fail("ValidationError", "Value (%s) for parameter %s is invalid.", text, key)
	}
}

// tagItems is a list of tags in the query protocol.
func tagItems(tags map[string]string) members[queryTag] {
	var out members[queryTag]
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out.Member = append(out.Member, queryTag{k, tags[k]})
	}
	return out
}

type queryTag struct{ Key, Value string }

// only refuses a value that is none of those allowed.
func (f *form) only(key, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) && f.err == nil {
		f.err = fail("ValidationError", "1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: Member must satisfy enum value set: [%s]", value, key, strings.Join(allowed, ", "))
	}
}

// within refuses a number outside a range.
func (f *form) within(key string, value *int, least, most int) {
	if value != nil && (*value < least || *value > most) && f.err == nil {
		f.err = fail("ValidationError", "%s must be between %d and %d", key, least, most)
	}
}
