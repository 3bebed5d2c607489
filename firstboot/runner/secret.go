package runner

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// Secret is a reference to a secret, or a literal. It prints as its reference or as [redacted], and a literal
// leaves the program only through Encode with AllowPlain.
//
// Written forms: ssm:/path, secretsmanager:NAME[#JSONKEY], keyvault:https://VAULT/secrets/NAME[/VERSION],
// file:/path, env:NAME, credential:NAME (systemd), plain:VALUE, or a bare literal without a colon.
type Secret struct {
	scheme string // "" when absent, "plain" for a literal
	value  string
}

// Redacted is what a literal secret prints as.
const Redacted = "[redacted]"

// Schemes are the kinds of reference, in the order in which help texts name them.
var Schemes = []string{"ssm", "secretsmanager", "keyvault", "file", "env", "credential", "plain"}

// ParseSecret reads the written form. An unknown scheme is an error, so that a mistyped reference is not taken for a token.
func ParseSecret(s string) (Secret, error) {
	if s == "" {
		return Secret{}, nil
	}
	scheme, value, found := strings.Cut(s, ":")
	if !found {
		return Secret{"plain", s}, nil
	}
	for _, k := range Schemes {
		if scheme == k {
			if value == "" {
				return Secret{}, fmt.Errorf("the %s: reference names nothing", scheme)
			}
			return Secret{scheme, value}, nil
		}
	}
	// The text may be a literal with a colon in it: name nothing but the kinds.
	return Secret{}, fmt.Errorf("unknown kind of secret: write one of %s: before the value", strings.Join(Schemes, ":, "))
}

// Plain makes a literal.
func Plain(value string) Secret { return Secret{"plain", value} }

// IsZero says that nothing was given.
func (s Secret) IsZero() bool { return s.scheme == "" }

// IsPlain says that the secret itself, not a reference, was given.
func (s Secret) IsPlain() bool { return s.scheme == "plain" }

// Scheme is one of Schemes, or "" when absent.
func (s Secret) Scheme() string { return s.scheme }

// Ref is what a reference names; "" for a literal.
func (s Secret) Ref() string {
	if s.IsPlain() {
		return ""
	}
	return s.value
}

// Reveal gives a literal's text; "" for a reference. Call it only where the secret is used.
func (s Secret) Reveal() string {
	if !s.IsPlain() {
		return ""
	}
	return s.value
}

// String shows a reference whole and a literal as [redacted].
func (s Secret) String() string {
	switch {
	case s.IsZero():
		return ""
	case s.IsPlain():
		return Redacted
	}
	return s.scheme + ":" + s.value
}

// GoString keeps %#v from printing a literal.
func (s Secret) GoString() string { return "runner.Secret(" + s.String() + ")" }

// MarshalText serves encoding/json and shows a literal as [redacted].
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML shows a literal as [redacted]; Encode alone writes literals.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// UnmarshalYAML reads the written form.
func (s *Secret) UnmarshalYAML(n *yaml.Node) error {
	var text string
	if err := n.Decode(&text); err != nil {
		return err
	}
	got, err := ParseSecret(text)
	if err != nil {
		return err
	}
	if got.IsPlain() && got.value == Redacted {
		return fmt.Errorf("%s stands where the secret was: write the secret's reference", Redacted)
	}
	*s = got
	return nil
}
