package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"gopkg.in/yaml.v3"
)

// ErrPlainSecret is returned by Encode for a literal secret that may not be written.
var ErrPlainSecret = errors.New("a secret is given literally; name it by reference (ssm:, secretsmanager:, keyvault:, file:, env:, credential:) or allow plain secrets")

// EncodeOptions says what Encode may write.
type EncodeOptions struct {
	AllowPlain bool // write literal secrets as plain:VALUE
}

// Encode writes the spec as YAML, deterministically. A literal secret is ErrPlainSecret unless allowed.
func Encode(s Spec, o EncodeOptions) ([]byte, error) {
	var out any = s
	for path, sec := range s.Secrets() {
		if !sec.IsPlain() {
			continue
		}
		if !o.AllowPlain {
			return nil, fmt.Errorf("runner.%s: %w", path, ErrPlainSecret)
		}
		n, ok := out.(*yaml.Node) // only a document with literals is worth the second encoding
		if !ok {
			n = new(yaml.Node)
			if err := n.Encode(s); err != nil {
				return nil, err
			}
			out = n
		}
		if at := lookup(n, path); at != nil {
			at.SetString("plain:" + sec.value)
		}
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(out); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// Decode lays data over s: keys that are present replace, the rest stays. Unknown and duplicate keys are errors.
// Empty data changes nothing.
func Decode(s *Spec, data []byte) error {
	next := *s
	for _, b := range []**bool{&next.RunUntagged, &next.Locked, &next.Debug, &next.DrainOnShutdown, &next.PublishLoad, &next.ProtectBusy} {
		if *b != nil { // the decoder writes through pointers: into a spec that this one was copied from, too
			v := **b
			*b = &v
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&next); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return unknownKeys(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("a second YAML document follows the spec: keep one")
	}
	*s = next
	return nil
}

// ErrUnknownKey is behind an error of Decode about a key that a spec does not have.
var ErrUnknownKey = errors.New("unknown key")

var unknownField = regexp.MustCompile(`field (.*) not found in type runner\.\w+`)

// unknownKeys words the decoder's errors for who does not know Go's types.
func unknownKeys(err error) error {
	var list *yaml.TypeError
	if !errors.As(err, &list) {
		return err
	}
	errs := make([]error, len(list.Errors))
	for i, text := range list.Errors {
		if m := unknownField.FindStringSubmatchIndex(text); m != nil {
			errs[i] = fmt.Errorf("%s%w %q", text[:m[0]], ErrUnknownKey, text[m[2]:m[3]])
		} else {
			errs[i] = errors.New(text)
		}
	}
	return fmt.Errorf("yaml: %w", errors.Join(errs...))
}

// Secrets lists every secret field that is set, by its path.
func (s Spec) Secrets() map[string]Secret {
	all := map[string]Secret{"token": s.Token, "vault.content": s.Vault.Content, "vault.salt": s.Vault.Salt}
	for k, v := range all {
		if v.IsZero() {
			delete(all, k)
		}
	}
	return all
}

// UnmarshalYAML reads a Go duration such as "90s".
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return fmt.Errorf("%q is not a duration: write it as 90s, 15m or 1h", n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes the form that UnmarshalYAML reads.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// MarshalText serves encoding/json.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// lookup finds the value node at a dotted path of mapping keys.
func lookup(n *yaml.Node, path string) *yaml.Node {
	for key, rest, more := cut(path); ; key, rest, more = cut(rest) {
		var found *yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				found = n.Content[i+1]
			}
		}
		if found == nil || !more {
			return found
		}
		n = found
	}
}

func cut(path string) (key, rest string, more bool) {
	for i := range path {
		if path[i] == '.' {
			return path[:i], path[i+1:], true
		}
	}
	return path, "", false
}
