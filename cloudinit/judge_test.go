package cloudinit_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/cloudinit/cloudinittest"
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
)

const ours = "#cloud-config\nruncmd:\n  - [echo, \"größer\"]\nwrite_files:\n  - {path: /etc/motd, content: hello, permissions: \"0644\"}\n"

func generate(t testing.TB, o cloudinit.Options, sources ...string) []byte {
	t.Helper()
	for _, s := range sources {
		o.Sources = append(o.Sources, cloudinit.Source{Name: "own part.yaml", Content: []byte(s)})
	}
	g, err := cloudinit.Generate(spec("{{.Name}}-{{.InstanceID}}"), o)
	if err != nil {
		t.Fatal(err)
	}
	return g.Data
}

// TestCloudInitAcceptsWhatWeGenerate runs the program itself.
func TestCloudInitAcceptsWhatWeGenerate(t *testing.T) {
	for name, doc := range map[string][]byte{
		"alone":  generate(t, cloudinit.Options{Cloud: "aws"}),
		"merged": generate(t, cloudinit.Options{Cloud: "aws", Format: cloudinit.CloudConfig}, ours),
	} {
		if err := cloudinittest.Schema(t, doc); err != nil {
			t.Errorf("%s: cloud-init schema: %v\n%s", name, err, doc)
		}
	}
	if err := cloudinittest.Schema(t, []byte("#cloud-config\nruncmd: no list\n")); err == nil {
		t.Error("the judge accepts anything")
	}
}

// TestCloudInitSeesOurPartsUnchanged holds its MIME walker against what went in, through every wrapping.
func TestCloudInitSeesOurPartsUnchanged(t *testing.T) {
	template := "## template: jinja\n#cloud-config\nhostname: {{ v1.instance_id }}\n"
	script := "#!/bin/sh\necho 'ünïcode'\n"
	boothook := "#cloud-boothook\n#!/bin/sh\ntrue\n"
	want := [][]string{{"text/cloud-config", ours}, {"text/x-shellscript", script}, {"text/cloud-boothook", boothook}, {"text/jinja2", template}}
	var questions []cloudinittest.Question
	for _, gz := range []bool{false, true} {
		msg := generate(t, cloudinit.Options{Cloud: "aws", Gzip: gz}, ours, script, boothook, template)
		questions = append(questions, cloudinittest.Question{Verb: "walk", Data: msg}, cloudinittest.Question{Verb: "merge", Data: msg})
	}
	for i, answer := range cloudinittest.Ask(t, questions...) {
		if i%2 == 1 {
			continue
		}
		var got [][]string
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want)+1 {
			t.Fatalf("cloud-init sees %d parts, want %d: %s", len(got), len(want)+1, answer)
		}
		for j, p := range want {
			text, _ := base64.StdEncoding.DecodeString(got[j][2])
			if got[j][0] != p[0] || string(text) != p[1] {
				t.Errorf("part %d arrived as %s %q, want %s %q", j, got[j][0], text, p[0], p[1])
			}
		}
		if last := got[len(want)]; last[0] != "text/cloud-config" || last[1] != "dorunner.yaml" {
			t.Errorf("our own part arrived as %v", last)
		}
	}
}

// merges are several parts and how they say they are to be merged: the header, then the document.
var merges = [][][2]string{
	{{"", "runcmd: [a]\nhostname: x\n"}, {"", "runcmd: [b]\n"}},
	{{"", "runcmd: [a]\n"}, {lint.Concatenate, "runcmd: [b]\nhostname: y\n"}},
	{{"", "a: {b: 1, c: [1]}\nhostname: x\n"}, {lint.Concatenate, "a: {b: 2, c: [2], d: 3}\nhostname: y\n"}},
	{{"", "a: {b: {c: 1}}\n"}, {"dict(recurse_array)+list(append)", "a: {b: {d: 2}}\n"}},
	{{"", "a: [1, 2, 3]\n"}, {"dict(recurse_list)+list(prepend)", "a: [0]\n"}},
	{{"", "a: [1, 2, 3]\n"}, {"dict(recurse_list)+list(replace)", "a: [9]\n"}},
	{{"", "a: [1]\n"}, {"dict(recurse_list)+list(replace)", "a: [9, 8]\n"}},
	{{"", "a: [1, {b: 1}]\n"}, {"dict(recurse_list)+list(recurse_dict)", "a: [2, {c: 2}]\n"}},
	{{"", "a: [1]\n"}, {"dict(recurse_list)+list(no_replace)", "a: [9]\n"}},
	{{"", "a: text\n"}, {"dict(recurse_str)+str(append)", "a: more\n"}},
	{{"", "a: text\n"}, {"dict(recurse_str)+str()", "a: more\n"}},
	{{"", "a: text\nb: 1\n"}, {"dict(allow_delete,no_replace)", "a: null\n"}},
	{{"", "a: 1\n"}, {"dict()", "a: 2\nb: 3\n"}},
	{{"", "a: 1\n"}, {"dict(replace)", "a: 2\n"}},
	{{"", "a: 1\n"}, {"", "merge_how: \"dict(no_replace)+list(append)\"\na: 2\nb: 3\n"}},
	{{"", "a: [1]\n"}, {"", "merge_how: [{name: list, settings: [append]}, {name: dict, settings: [no_replace, recurse_list]}]\na: [2]\n"}},
	{{"", "a: [1]\n"}, {"", "merge_type: \"list(append)+dict(recurse_list)+str()\"\na: [2]\n"}},
	{{"", "a: 1\n"}, {"append", "a: 2\n"}, {"", "b: 3\n"}},
	{{"", "a: 1\n"}, {"dictionary(append)", "a: 2\n"}, {"", "b: 3\n"}},
	{{"", "a: [1]\n"}, {"dict(recurse_str)+list(append)", "a: text\n"}},
	{{"", "a: {b: 1}\n"}, {lint.Concatenate, "a: text\n"}},
	{{"", "a: yes\nb: 0644\nc: 12:30:45\nd: 1.5\ne: ~\nf: 2026-11-23x\n"}, {"", "g: 0x1F\nh: 0b11\ni: 1_000\nj: .5\n"}},
	{{"", "a: &x {b: 1}\nc: {<<: *x, d: 2}\n"}, {"", "a: 1\na: 2\n"}},
	{{"LIST(Append)+Dict(No-Replace,Recurse-List)", "a: [1]\n"}, {"LIST(Append)+Dict(No-Replace,Recurse-List)", "a: [2]\n"}},
}

// TestMergePrediction holds what we say a machine ends up with against what cloud-init does.
func TestMergePrediction(t *testing.T) {
	var questions []cloudinittest.Question
	for _, parts := range merges {
		var b strings.Builder
		b.WriteString("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n")
		for _, p := range parts {
			b.WriteString("--b\nContent-Type: text/cloud-config\n")
			if p[0] != "" {
				b.WriteString("Merge-Type: " + p[0] + "\n")
			}
			b.WriteString("\n" + p[1])
		}
		b.WriteString("--b--\n")
		questions = append(questions, cloudinittest.Question{Verb: "merge", Data: []byte(b.String())})
	}
	questions = append(questions, cloudinittest.Question{Verb: "merge", Data: generate(t, cloudinit.Options{Cloud: "aws"}, ours, ours)})
	for i, answer := range cloudinittest.Ask(t, questions...) {
		var got []any
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(lint.Lint(questions[i].Data, lint.Options{}).Merged)
		if err != nil {
			t.Fatal(err)
		}
		var want any
		_ = json.Unmarshal(b, &want)
		if d := cmp.Diff(want, got[0]); d != "" {
			t.Errorf("case %d: predicted (-) and done (+) differ: %s\n%s\nlogged %v", i, d, questions[i].Data, got[1])
		}
	}
}

// TestTemplateIsRenderedAsWeSayIt: what our linter takes a template for is what comes out.
func TestTemplateIsRenderedAsWeSayIt(t *testing.T) {
	text := "## template: jinja\n#cloud-config\nhostname: h-{{ v1.instance_id }}\n{% if v1.region %}\ntimezone: UTC\n{% endif %}\n"
	if f := lint.Lint([]byte(text), lint.Options{}).Findings; len(f) > 0 {
		t.Error(f[0].Text("template"))
	}
	var got string
	if err := json.Unmarshal(cloudinittest.Ask(t, cloudinittest.Question{Verb: "jinja", Data: []byte(text)})[0], &got); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, "hostname: h-i-1\n") || strings.Contains(got, "template") {
		t.Errorf("rendered as %q", got)
	}
}
