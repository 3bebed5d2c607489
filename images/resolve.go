package images

import "errors"

// source remembers where each key of a file stands.
type source struct{}

// Load reads a spec strictly: unknown keys, duplicate keys and wrong types are all reported at once. The Spec is
// usable for positions even when there are problems.
func Load(file string, data []byte) (*Spec, Problems) { return &Spec{source: &source{}}, nil }

// Options are what Resolve may be told beside the spec.
type Options struct {
	Overrides  []Override
	AllowSmall bool   // accept machines below the documented pilot size
	Launch     bool   // the machine's identity (name, url, token) is needed too
	Dir        string // what relative paths in the spec are relative to
}

// Resolve decides everything: defaults, overrides, rules. It is pure but for reading the scripts and archives that
// the spec names, and idempotent: the Spec of its Plan resolves to the same Plan. The error is Problems.
func Resolve(s *Spec, target string, o Options) (*Plan, error) {
	return nil, errors.New("images: not built yet")
}
