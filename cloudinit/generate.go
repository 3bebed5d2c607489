package cloudinit

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// Formats that Generate writes.
const (
	CloudConfig = "cloud-config"
	MIME        = "mime"
	Script      = "script"
)

// Source is a part that the author wrote: any user-data that cloud-init reads.
type Source struct {
	Name    string
	Content []byte
}

// Options are what Generate is told.
type Options struct {
	Cloud      string // aws, azure or metal: whose limit of size holds
	CloudInit  string // version on the machine, for the check of what was made
	Format     string // "" is cloud-config, or mime where there are sources that need it
	Gzip       bool   // compress even when it fits
	Base64     bool   // encode the whole, as the clouds' programming interfaces take it
	AllowPlain bool   // write literal secrets
	Sources    []Source
}

// Generated is finished user-data.
type Generated struct {
	Data     []byte
	Format   string
	Gzip     bool
	Sent     int // bytes that the cloud's limit counts
	Limit    int // 0 when there is none
	Parts    []PartSize
	Findings []lint.Finding // warnings of the check of the final bytes
}

// PartSize is what a part takes.
type PartSize struct {
	Name  string
	Bytes int // as written by its author
	Sent  int // within the message
}

// TooBig is user-data that its cloud does not take.
type TooBig struct {
	Cloud string
	*Generated
}

func (e *TooBig) Error() string {
	how := "even compressed"
	if !e.Gzip {
		how = "and it cannot be compressed"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the user-data takes %d bytes %s, and %s takes %d: fetch the bulk from elsewhere (#include, a package, the image)\n", e.Sent, how, e.Cloud, e.Limit)
	b.WriteString(e.Table())
	return strings.TrimSuffix(b.String(), "\n")
}

// Table shows what takes the space.
func (g *Generated) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 2, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "\tpart\tbytes\tin the message\t")
	for _, p := range g.Parts {
		_, _ = fmt.Fprintf(w, "\t%s\t%d\t%d\t\n", p.Name, p.Bytes, p.Sent)
	}
	limit := "no limit"
	if g.Limit > 0 {
		limit = fmt.Sprintf("of %d", g.Limit)
	}
	packed := ""
	if g.Gzip {
		packed = " (gzip)"
	}
	_, _ = fmt.Fprintf(w, "\tsent%s\t%d\t%s\t\n", packed, g.Sent, limit)
	_ = w.Flush()
	return b.String()
}

// unreachable are the kinds of reference that a machine on a target cannot follow.
var unreachable = map[string][]string{
	"aws": {"keyvault"}, "azure": {"ssm", "secretsmanager"}, "metal": {"ssm", "secretsmanager", "keyvault"},
}

// checkSecrets refuses references that the machine could not follow.
func checkSecrets(s runner.Spec, cloud string) error {
	for path, secret := range s.Secrets() {
		if slices.Contains(unreachable[cloud], secret.Scheme()) {
			return fmt.Errorf("runner.%s: %s cannot be read by a machine of target %s: use a reference such as file:/path", path, secret, cloud)
		}
	}
	return nil
}

// Generate makes the user-data of one runner and judges the final bytes. The same input gives the same bytes.
func Generate(s runner.Spec, o Options) (*Generated, error) {
	if err := checkSecrets(s, o.Cloud); err != nil {
		return nil, err
	}
	own, err := UserData(s, UserDataOptions{AllowPlain: o.AllowPlain})
	if err != nil {
		return nil, err
	}
	parts, err := sources(o.Sources)
	if err != nil {
		return nil, err
	}
	parts = append(parts, part{name: "dorunner.yaml", kind: decode.CloudConfig, merge: lint.Concatenate, content: own})
	g := &Generated{Format: o.Format, Limit: lint.Limit[o.Cloud]}
	if g.Format == "" {
		g.Format = CloudConfig
		if len(parts) > 1 {
			g.Format = MIME
		}
	}
	var text []byte
	switch g.Format {
	case CloudConfig:
		text, err = oneDocument(parts)
	case MIME:
		text = message(parts)
	case Script:
		if len(parts) > 1 {
			return nil, errors.New("a script carries no other parts: use --format mime")
		}
		var spec []byte
		if spec, err = runner.Encode(s, runner.EncodeOptions{AllowPlain: o.AllowPlain}); err == nil {
			text, err = templates.Render("cloudinit/write-runner.sh", map[string]string{
				"File": RunnerFile, "Content": strings.TrimSpace(wrap(base64.StdEncoding.EncodeToString(spec)))})
		}
	default:
		return nil, fmt.Errorf("format %q is none of cloud-config, mime and script", o.Format)
	}
	if err != nil {
		return nil, err
	}
	g.pack(text, parts, o)
	if g.Limit > 0 && g.Sent > g.Limit {
		return nil, &TooBig{o.Cloud, g}
	}
	g.Findings = lint.Lint(g.Data, lint.Options{Cloud: o.Cloud, CloudInit: o.CloudInit, Kind: "user-data"}).Findings
	for _, f := range g.Findings {
		if !f.Warning {
			return nil, fmt.Errorf("the user-data would not work: %s", strings.TrimSpace(f.Text("user-data")))
		}
	}
	return g, nil
}

// pack compresses what was asked to be or does not fit otherwise, and encodes.
func (g *Generated) pack(text []byte, parts []part, o Options) {
	for _, p := range parts {
		sent := len(p.content)
		if g.Format == MIME {
			sent = len(p.encode())
		}
		g.Parts = append(g.Parts, PartSize{p.name, len(p.content), sent})
	}
	g.Data = text
	if o.Gzip || g.Limit > 0 && len(text) > g.Limit {
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // fails for unknown levels alone
		_, _ = w.Write(text)                                  // a buffer takes everything
		_ = w.Close()
		if o.Gzip || b.Len() < len(text) {
			g.Data, g.Gzip = b.Bytes(), true
		}
	}
	g.Sent = len(g.Data)
	if o.Base64 {
		g.Data = []byte(wrap(base64.StdEncoding.EncodeToString(g.Data)))
	}
}

// sources takes the author's files apart, so that each part can be carried with a merge type.
func sources(files []Source) ([]part, error) {
	var out []part
	for _, f := range files {
		r := decode.UserData(f.Content)
		for _, n := range r.Notes {
			if !n.Warning && n.Rule != decode.JinjaKind {
				p := n.Layer.Locate(n.Off)
				return nil, fmt.Errorf("%s:%d:%d: %s; %s", f.Name, p.Line, p.Col, n.Message, n.Hint)
			}
		}
		for i, p := range r.Parts {
			name := f.Name
			if len(r.Parts) > 1 {
				name = fmt.Sprintf("%s-%d", f.Name, i+1)
			}
			one := part{name: name, kind: p.Type, merge: p.Merge, content: p.Data}
			if p.Jinja {
				one.kind, one.content = decode.Jinja, p.Source
			}
			if one.merge == "" && (p.Type == decode.CloudConfig) {
				one.merge = lint.Concatenate
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// oneDocument merges cloud-config parts here, as the machine would.
func oneDocument(parts []part) ([]byte, error) {
	if len(parts) == 1 {
		return parts[0].content, nil
	}
	for _, p := range parts {
		if p.kind != decode.CloudConfig {
			return nil, fmt.Errorf("%s is %s, which one #cloud-config cannot carry: use --format mime", p.name, p.kind)
		}
	}
	merged := lint.Lint(message(parts), lint.Options{}).Merged
	b := bytes.NewBufferString("#cloud-config\n")
	e := yaml.NewEncoder(b)
	e.SetIndent(2)
	if err := e.Encode(plainValue(merged)); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}
