package cloudinit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"mime"
	"strings"
)

// part is one part of a MIME message.
type part struct {
	name    string
	kind    string // text/cloud-config, ...
	merge   string // Merge-Type, for cloud-config
	content []byte
}

// encode is the part with its headers. Every part is base64: cloud-init corrupts other text that is not ASCII.
func (p part) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Content-Type: %s; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n", p.kind)
	fmt.Fprintf(&b, "Content-Disposition: %s\n", mime.FormatMediaType("attachment", map[string]string{"filename": fileName(p.name)}))
	if p.merge != "" {
		fmt.Fprintf(&b, "Merge-Type: %s\n", p.merge)
	}
	b.WriteString("\n" + wrap(base64.StdEncoding.EncodeToString(p.content)))
	return b.Bytes()
}

// fileName keeps of a name what every reader of MIME headers agrees on.
func fileName(name string) string {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '_'
	}, name)
}

// message is a MIME message of the parts. Its boundary follows from the parts, so the same parts give the same bytes; no
// line of base64 can look like one.
func message(parts []part) []byte {
	sum := sha256.New()
	for _, p := range parts {
		sum.Write(p.encode())
	}
	boundary := fmt.Sprintf("==dorunner-%x==", sum.Sum(nil)[:12])
	var b bytes.Buffer
	fmt.Fprintf(&b, "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=%q\n\n", boundary)
	for _, p := range parts {
		fmt.Fprintf(&b, "--%s\n%s\n", boundary, p.encode())
	}
	fmt.Fprintf(&b, "--%s--\n", boundary)
	return b.Bytes()
}

// wrap breaks a line into the 76 characters that base64 in messages has.
func wrap(s string) string {
	var b strings.Builder
	for len(s) > 76 {
		b.WriteString(s[:76] + "\n")
		s = s[76:]
	}
	b.WriteString(s + "\n")
	return b.String()
}

// plainValue turns the big integers of the merge prediction into what the YAML encoder writes as numbers.
func plainValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[k] = plainValue(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = plainValue(x)
		}
		return out
	case *big.Int:
		if v.IsInt64() {
			return v.Int64()
		}
		return v.String()
	}
	return v
}
