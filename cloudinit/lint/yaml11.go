package lint

import (
	"math/big"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// cloud-init reads YAML 1.1, where yes, on, 0644 and 12:30:45 are no strings. These are the implicit forms of that version
// as its reader has them; a plain scalar that matches none is a string.
var (
	form11Bool  = regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	form11Null  = regexp.MustCompile(`^(?:~|null|Null|NULL|)$`)
	form11Int   = regexp.MustCompile(`^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	form11Float = regexp.MustCompile(`^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	form11Time  = regexp.MustCompile(`^(?:\d{4}-\d{2}-\d{2}|\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d{2}:\d{2}(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::\d{2})?))?)$`)
)

// kindOf names what cloud-init makes of a node: str, int, num, bool, null, time, list or map.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "map"
	case yaml.SequenceNode:
		return "list"
	case yaml.AliasNode:
		return kindOf(n.Alias)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		switch n.Tag {
		case "!!int":
			return "int"
		case "!!float":
			return "num"
		case "!!bool":
			return "bool"
		case "!!null":
			return "null"
		case "!!timestamp":
			return "time"
		}
		return "str"
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return "str"
	}
	if n.Value != "" && !strings.ContainsRune("~nNyYtTfFoO0123456789+-.", rune(n.Value[0])) {
		return "str" // no implicit form begins so
	}
	switch v := n.Value; {
	case form11Null.MatchString(v):
		return "null"
	case form11Bool.MatchString(v):
		return "bool"
	case form11Int.MatchString(v):
		return "int"
	case form11Float.MatchString(v):
		return "num"
	case form11Time.MatchString(v):
		return "time"
	}
	return "str"
}

// valueOf is the node as cloud-init's Python sees it: map[string]any, []any, string, bool, *big.Int, float64 or nil. Keys
// are written as they stand.
func valueOf(n *yaml.Node, depth int) any {
	if depth > maxDepth {
		return nil
	}
	switch n.Kind {
	case yaml.AliasNode:
		return valueOf(n.Alias, depth+1)
	case yaml.MappingNode:
		m := map[string]any{}
		for k, v := range pairs(n) {
			m[k.Value] = valueOf(v, depth+1)
		}
		return m
	case yaml.SequenceNode:
		l := []any{}
		for _, c := range n.Content {
			l = append(l, valueOf(c, depth+1))
		}
		return l
	}
	switch kindOf(n) {
	case "null":
		return nil
	case "bool":
		switch strings.ToLower(n.Value) {
		case "yes", "true", "on":
			return true
		}
		return false
	case "int":
		return int11(n.Value)
	case "num":
		if f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64); err == nil {
			return f
		}
	}
	return n.Value
}

// int11 reads an integer of YAML 1.1: octal with a leading 0, base 60 with colons.
func int11(s string) *big.Int {
	s = strings.ReplaceAll(s, "_", "")
	negative := strings.HasPrefix(s, "-")
	s = strings.TrimLeft(s, "+-")
	v := new(big.Int)
	if strings.Contains(s, ":") {
		for part := range strings.SplitSeq(s, ":") {
			d, _ := new(big.Int).SetString(part, 10)
			if d == nil {
				d = new(big.Int)
			}
			v.Add(v.Mul(v, big.NewInt(60)), d)
		}
	} else if _, ok := v.SetString(s, 0); !ok {
		v.SetInt64(0)
	}
	if negative {
		v.Neg(v)
	}
	return v
}
