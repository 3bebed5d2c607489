package lint

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// defaultMerge is what cloud-init does with parts that say nothing: the later one wins, lists and all.
const defaultMerge = "dict(replace)+list()+str()"

// merger is one rule of a merge type: for which kind of value, and how.
type merger struct {
	kind    string // dict, list or str
	options []string
}

func (m merger) has(options ...string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return slices.Contains(m.options, o) })
}

// first is the first of the options that is set, or the default, which comes last.
func (m merger) first(of ...string) string {
	for _, o := range of {
		if m.has(o) {
			return o
		}
	}
	return of[len(of)-1]
}

var mergerForm = regexp.MustCompile(`^([a-z_][a-z0-9_]*)\((.*?)\)$`)

// parseMerge reads "list(append)+dict(no_replace,recurse_list)+str()".
func parseMerge(text string) ([]merger, error) {
	var out []merger
	for word := range strings.SplitSeq(text, "+") {
		word = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(word)), "-", "_")
		if word == "" {
			continue
		}
		m := mergerForm.FindStringSubmatch(word)
		if m == nil {
			return nil, fmt.Errorf("%q is not of the form list(append)", word)
		}
		var options []string
		for o := range strings.SplitSeq(m[2], ",") {
			if o = strings.TrimSpace(o); o != "" {
				options = append(options, o)
			}
		}
		out = append(out, merger{strings.TrimPrefix(m[1], "m_"), options})
	}
	return out, checkMergers(out)
}

func checkMergers(all []merger) error {
	for _, m := range all {
		if m.kind != "dict" && m.kind != "list" && m.kind != "str" {
			return fmt.Errorf("%q is none of dict, list and str", m.kind)
		}
	}
	return nil
}

// ownMerge is the merge type that a document carries in merge_how or merge_type, removed from its values.
func ownMerge(values map[string]any) ([]merger, error) {
	var raw any
	for _, name := range []string{"merge_how", "merge_type"} {
		if raw == nil {
			raw = values[name]
			delete(values, name)
		}
	}
	switch v := raw.(type) {
	case string:
		return parseMerge(v)
	case []any:
		var out []merger
		for _, item := range v {
			m, _ := item.(map[string]any)
			name, _ := m["name"].(string)
			settings, _ := m["settings"].([]any)
			if name == "" || m["settings"] == nil {
				return nil, fmt.Errorf("each item needs name and settings")
			}
			one := merger{kind: strings.TrimPrefix(strings.TrimSpace(strings.ReplaceAll(name, "-", "_")), "m_")}
			for _, s := range settings {
				one.options = append(one.options, fmt.Sprint(s))
			}
			out = append(out, one)
		}
		return out, checkMergers(out)
	}
	return nil, nil
}

// combine is cloud-init's merge of two values; the error is what makes it drop the whole part.
func combine(all []merger, old, with any) (any, error) {
	kind := map[string]string{"map[string]interface {}": "dict", "[]interface {}": "list", "string": "str"}[fmt.Sprintf("%T", old)]
	i := slices.IndexFunc(all, func(m merger) bool { return m.kind == kind })
	if i < 0 {
		return old, nil
	}
	m := all[i]
	// deeper merges what the options recurse into, and keeps otherwise.
	deeper := func(a, b, otherwise any) (any, error) {
		_, isList := b.([]any)
		_, isStr := b.(string)
		_, isDict := b.(map[string]any)
		if isList && m.has("recurse_array", "recurse_list") || isStr && m.has("recurse_str") || isDict && (kind == "dict" || m.has("recurse_dict")) {
			return combine(all, a, b)
		}
		return otherwise, nil
	}
	switch old := old.(type) {
	case map[string]any:
		with, ok := with.(map[string]any)
		if !ok {
			return old, nil
		}
		out := map[string]any{}
		for k, v := range old {
			out[k] = v
		}
		replace := m.first("replace", "no_replace") == "replace"
		for _, k := range sortedKeys(with) {
			v := with[k]
			was, both := out[k]
			switch {
			case !both:
				out[k] = v
			case v == nil && m.has("allow_delete"):
				delete(out, k)
			case replace:
				out[k] = v
			default:
				next, err := deeper(was, v, was)
				if err != nil {
					return nil, err
				}
				out[k] = next
			}
		}
		return out, nil
	case []any:
		how := m.first("append", "prepend", "replace", "no_replace", "replace")
		list, ok := with.([]any)
		if text, is := with.(string); is && how != "replace" { // Python extends a list by a text's characters
			ok = true
			for _, r := range text {
				list = append(list, string(r))
			}
		}
		switch {
		case !ok && how == "replace":
			return with, nil
		case !ok:
			return nil, fmt.Errorf("a list cannot be merged with something that is none")
		case how == "append":
			return slices.Concat(old, list), nil
		case how == "prepend":
			return slices.Concat(list, old), nil
		}
		out := slices.Clone(old)
		for i := range min(len(old), len(list)) {
			if how == "no_replace" {
				continue
			}
			next, err := deeper(out[i], list[i], list[i])
			if err != nil {
				return nil, err
			}
			out[i] = next
		}
		return out, nil
	}
	if !m.has("append") {
		return with, nil
	}
	s, ok := with.(string)
	if !ok {
		return nil, fmt.Errorf("a text cannot be appended to with something that is none")
	}
	return old.(string) + s, nil
}

// merge predicts what the machine makes of all cloud-config parts together, and tells what is lost on the way.
func (l *linter) merge(docs []*document) {
	var sum any = map[string]any{}
	said := map[string]string{} // which part a key's value is from
	for i, d := range docs {
		values, _ := valueOf(d.root, 0).(map[string]any)
		own, err := ownMerge(values)
		if err != nil {
			l.add(d.layer, d.off(get(d.root, mergeKey(d.root))), "merge-type", false, "", `write "`+Concatenate+`"`, "the merge type does not parse, and cloud-init drops the whole part: %v", err)
			continue
		}
		header, err := parseMerge(d.merge)
		if err != nil {
			l.add(d.layer, 0, "merge-type", false, "", `write "`+Concatenate+`"`, "the Merge-Type of this part does not parse, and cloud-init drops the whole part: %v", err)
			continue
		}
		how := append(own, header...)
		if len(how) == 0 {
			how, _ = parseMerge(defaultMerge)
		}
		next, err := combine(how, sum, values)
		if err != nil {
			l.add(d.layer, 0, "merge-type", false, "", "", "cloud-init fails to merge this part and drops it: %v", err)
			continue
		}
		after, _ := next.(map[string]any)
		before, _ := sum.(map[string]any)
		if i > 0 {
			l.lost(d, before, after, values, said)
		}
		for k := range values {
			said[k] = d.name
		}
		sum = next
	}
	if len(docs) > 0 {
		l.report.Merged, _ = sum.(map[string]any)
	}
}

// lost tells of keys that two parts give and of which one does not survive.
func (l *linter) lost(d *document, before, after, values map[string]any, said map[string]string) {
	for k, v := range pairs(d.root) {
		name := k.Value
		old, both := before[name]
		if _, still := values[name]; !both || !still {
			continue
		}
		switch {
		case !contains(after[name], old):
			l.add(d.layer, d.off(k), "merge-replaces", true, name, `send the part with "Merge-Type: `+Concatenate+`" to keep both`,
				"cloud-init replaces what %s says of it", said[name])
		case !contains(after[name], valueOf(v, 0)):
			l.add(d.layer, d.off(k), "merge-ignored", true, name, "", "cloud-init ignores it, because %s says something else and the merge type keeps that", said[name])
		}
	}
}

// Concatenate is the merge type that keeps what every part says.
const Concatenate = "list(append)+dict(no_replace,recurse_list)+str()"

// contains says that nothing of part is missing in whole.
func contains(whole, part any) bool {
	switch p := part.(type) {
	case map[string]any:
		w, ok := whole.(map[string]any)
		for k, v := range p {
			ok = ok && contains(w[k], v)
		}
		return ok
	case []any:
		w, ok := whole.([]any)
		for _, v := range p {
			ok = ok && slices.ContainsFunc(w, func(x any) bool { return reflect.DeepEqual(x, v) })
		}
		return ok
	}
	return reflect.DeepEqual(whole, part)
}

func mergeKey(n *yaml.Node) string {
	if get(n, "merge_how") != nil {
		return "merge_how"
	}
	return "merge_type"
}
