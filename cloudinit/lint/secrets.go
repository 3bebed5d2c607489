package lint

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
)

// secretForms are texts that are secrets wherever they stand; the last group of the form is the secret. A form is tried
// only where one of the words stands.
var secretForms = []struct {
	what  string
	words []string
	form  *regexp.Regexp
}{
	{"a GitLab runner token", []string{"glrt", "GR1348941"}, regexp.MustCompile(`\b(gl(?:rt|rtr)-[A-Za-z0-9_.-]{8,}|GR1348941[A-Za-z0-9_-]{8,})`)},
	{"a GitLab access token", []string{"gl"}, regexp.MustCompile(`\b(gl(?:pat|dt|cbt|ptt|agent)-[A-Za-z0-9_-]{16,})`)},
	{"a GitHub token", []string{"gh", "github_pat"}, regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})`)},
	{"an AWS key", []string{"AKIA", "ASIA"}, regexp.MustCompile(`\b((?:AKIA|ASIA)[0-9A-Z]{16})\b`)},
	{"an AWS secret key", []string{"secret_access_key", "SECRET_ACCESS_KEY"}, regexp.MustCompile(`(?i)aws_secret_access_key["']?\s*[=:]\s*["']?([A-Za-z0-9/+]{40})\b`)},
	{"a private key", []string{"PRIVATE KEY"}, regexp.MustCompile(`(-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----)`)},
	{"a Docker Hub token", []string{"dckr_pat"}, regexp.MustCompile(`\b(dckr_pat_[A-Za-z0-9_-]{16,})`)},
	{"a Slack token", []string{"xox"}, regexp.MustCompile(`\b(xox[abprs]-[A-Za-z0-9-]{10,})`)},
	{"a password on a command line", []string{"login"}, regexp.MustCompile(`docker\s+login\b[^\n|;&]*?\s(?:-p|--password)[ =]["']?([^\s"'$]{3,})`)},
	{"a token on a command line", []string{"--token", "--registration-token"}, regexp.MustCompile(`--(?:registration-)?token[ =]["']?([^\s"'$<]{8,})`)},
	{"a password in an address", []string{"@"}, regexp.MustCompile(`[a-z]://[^/\s:@"']+:([^/\s@"'$]{3,})@`)},
}

// scan finds secrets in any text.
func (l *linter) scan(text *decode.Layer) {
	for _, s := range secretForms {
		if !slices.ContainsFunc(s.words, func(w string) bool { return bytes.Contains(text.Data, []byte(w)) }) {
			continue
		}
		for _, m := range s.form.FindAllSubmatchIndex(text.Data, -1) {
			start, end := m[len(m)-2], m[len(m)-1]
			l.secret(text, start, string(text.Data[start:end]), s.what+" stands in plain sight")
		}
	}
}

// secret records a finding whose shown line does not repeat the secret.
func (l *linter) secret(at *decode.Layer, off int, value, message string) {
	place := at.Locate(off)
	if slices.ContainsFunc(l.report.Findings, func(f Finding) bool { // two forms may match one secret
		return f.Rule == "plain-secret" && f.Line == place.Line && f.Col == place.Col && f.InLine == place.InLine && f.InCol == place.InCol
	}) {
		return
	}
	before := len(l.report.Findings)
	l.add(at, off, "plain-secret", true, "", "user-data stays readable on the machine and in the cloud's console: name it by reference (ssm:, keyvault:, file:)", "%s", message)
	for i := before; i < len(l.report.Findings); i++ {
		f := &l.report.Findings[i]
		f.Snippet = strings.ReplaceAll(f.Snippet, value, "[redacted]")
	}
}

// secretKeys are the keys whose value is a secret by its place, with the test that tells a secret from a stand-in.
var secretKeys = []struct {
	path   *regexp.Regexp
	secret func(string) bool
}{
	{regexp.MustCompile(`^password$`), notHash},
	{regexp.MustCompile(`^(users\[\d+\]|user)\.plain[_-]text[_-]passwd$`), any3},
	{regexp.MustCompile(`^(users\[\d+\]|user)\.passwd$`), notHash},
	{regexp.MustCompile(`^chpasswd\.users\[\d+\]\.password$`), notHash},
	{regexp.MustCompile(`^(ubuntu_pro|ubuntu_advantage)\.token$`), any3},
	{regexp.MustCompile(`^(rh_subscription\.password|lxd\.init\.trust_password|landscape\.client\.registration_key|chef\.(validation_key|encrypted_data_bag_secret))$`), any3},
	{regexp.MustCompile(`^reporting\.[^.]+\.(consumer_secret|token_secret)$`), any3},
	{regexp.MustCompile(`^autoinstall\.storage\.layout\.password$`), any3},
}

// secretTops are the top keys under which secretKeys and encoded files stand.
var secretTops = map[string]bool{
	"password": true, "user": true, "users": true, "chpasswd": true, "ubuntu_pro": true, "ubuntu_advantage": true, "rh_subscription": true,
	"lxd": true, "landscape": true, "chef": true, "reporting": true, "autoinstall": true, "write_files": true,
}

func any3(v string) bool { return len(v) > 2 }
func notHash(v string) bool {
	return v != "" && v[0] != '$' && v[0] != '!' && v[0] != '*' && v != "RANDOM" && v != "R"
}

// secrets finds secrets in a document: by their form anywhere, by their key, inside encoded files.
func (l *linter) secrets(d *document) {
	if d.jinja == nil {
		l.scan(d.layer)
	}
	l.secretNodes(d, d.root, "", 0)
}

func (l *linter) secretNodes(d *document, n *yaml.Node, path string, depth int) {
	if n = resolved(n); depth > maxDepth || d.rendered(n) {
		return
	}
	switch n.Kind {
	case yaml.MappingNode:
		for k, v := range pairs(n) {
			if depth > 0 || secretTops[k.Value] {
				l.secretNodes(d, v, join(path, k.Value), depth+1)
			}
		}
		if enc := get(n, "encoding"); enc != nil && strings.HasPrefix(path, "write_files[") {
			if c := get(n, "content"); c != nil && c.Kind == yaml.ScalarNode {
				quiet := linter{seen: map[string]bool{}} // what is wrong with the encoding is told once
				if text := quiet.decodeContent(d, c, enc.Value, path); text != nil {
					l.scan(text)
				}
			}
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			l.secretNodes(d, c, path+fmt.Sprintf("[%d]", i), depth+1)
		}
	case yaml.ScalarNode:
		if strings.HasPrefix(path, "write_files[") {
			return // its text was scanned with the document's
		}
		for _, k := range secretKeys {
			if k.path.MatchString(path) && k.secret(n.Value) {
				l.secret(d.layer, d.off(n), n.Value, "the secret of "+path+" stands in plain sight")
			}
		}
		if strings.HasPrefix(path, "chpasswd.list") {
			text := decode.Scalar(d.layer, n, "chpasswd.list")
			off := 0
			for line := range bytes.Lines(text.Data) {
				if user, pass, found := strings.Cut(strings.TrimSpace(string(line)), ":"); found && notHash(pass) {
					l.secret(text, off+bytes.Index(line, []byte(":"))+1, pass, "the password of "+user+" stands in plain sight")
				}
				off += len(line)
			}
		}
	}
}
