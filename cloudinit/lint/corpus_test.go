package lint_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/dorunner/dorunner-bake/cloudinit/lint"
)

func corpus(t testing.TB, name string) []txtar.File {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return txtar.Parse(b).Files
}

// target is the cloud-init of Ubuntu 20.04's last update, which the default image has.
var target = lint.Options{CloudInit: "24.4.1"}

func TestGoodDocumentsPass(t *testing.T) {
	files := corpus(t, "good.txtar")
	if len(files) < 60 {
		t.Fatalf("the corpus holds %d good documents", len(files))
	}
	for _, f := range files {
		r := lint.Lint(f.Data, target)
		for _, x := range r.Findings {
			if !x.Warning || !strings.HasSuffix(f.Name, "~") {
				t.Errorf("%s", x.Text(f.Name))
			}
		}
	}
}

func TestBrokenDocumentsAreFoundWhereTheyAre(t *testing.T) {
	files := corpus(t, "broken.txtar")
	if len(files) < 60 {
		t.Fatalf("the corpus holds %d broken documents", len(files))
	}
	for _, f := range files {
		name, want, _ := strings.Cut(f.Name, " | ")
		t.Run(name, func(t *testing.T) {
			r := lint.Lint(f.Data, target)
			expect(t, r, strings.Split(want, ", ")...)
		})
	}
}

// expect compares findings with "line:col rule", in any order.
func expect(t *testing.T, r *lint.Report, want ...string) {
	t.Helper()
	var got []string
	var text strings.Builder
	for _, x := range r.Findings {
		got = append(got, fmt.Sprintf("%d:%d %s", x.Line, x.Col, x.Rule))
		text.WriteString(x.Text("file"))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q\n%s", got, want, text.String())
	}
}

// TestBytesBreak holds what a text file cannot.
func TestBytesBreak(t *testing.T) {
	doc := "#cloud-config\nhostname: a\n"
	for name, tc := range map[string]struct{ data, want string }{
		"bom":                   {"\xef\xbb\xbf" + doc, "1:1 bom"},
		"utf-16":                {"\xff\xfe#\x00c\x00", "1:1 encoding"},
		"latin-1":               {"#cloud-config\nhostname: l\xe4ufer\n", "2:12 encoding"},
		"control character":     {"#cloud-config\nhostname: a\x07b\n", "2:12 yaml"},
		"gzip twice":            {gz(gz(doc)), "1:1 gzip-twice"},
		"gzip cut":              {gz(doc)[:20], "1:1 gzip"},
		"base64 inside gzip":    {gz("I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogYQo="), "1:1 base64-inside"},
		"error inside gzip":     {gz("#cloud-config\nhostnam: a\n"), "1:1 unknown-key"},
		"empty":                 {"", "1:1 empty"},
		"too big for aws":       {"#cloud-config\nfinal_message: " + strings.Repeat("x", 16384) + "\n", "1:1 size"},
		"too big for all":       {"#!/bin/sh\n" + strings.Repeat("#\n", 40000), "1:1 size,1:1 size"},
		"carriage returns":      {"#cloud-config\r\nhostnam: a\r\n", "2:1 unknown-key"},
		"script behind a blank": {"\n#!/bin/sh\n", "1:1 shebang"},
		"deep":                  {"#cloud-config\nruncmd: " + strings.Repeat("[", 300) + strings.Repeat("]", 300), "2:109 yaml"},
		"alias bomb": {"#cloud-config\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
			"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := lint.Lint([]byte(tc.data), target)
			if tc.want == "" {
				if r.Errors() == 0 {
					t.Error("nothing was found")
				}
				return
			}
			expect(t, r, strings.Split(tc.want, ",")...)
		})
	}
}

func gz(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

func TestSecretsAreNotShown(t *testing.T) {
	for _, f := range corpus(t, "broken.txtar") {
		if !strings.Contains(f.Name, "plain-secret") {
			continue
		}
		for _, x := range lint.Lint(f.Data, target).Findings {
			for _, secret := range []string{"glrt-aBc", "hunter2", "s3cretpass", "GR1348941abc", "AKIAIOSF", "whatever"} {
				if strings.Contains(x.Text("f"), secret) {
					t.Errorf("%s: the finding shows the secret:\n%s", f.Name, x.Text("f"))
				}
			}
		}
	}
}

func TestTextOfAFinding(t *testing.T) {
	r := lint.Lint([]byte("#cloud-config\nhostname: a\nrun_cmd: [ls]\n"), target)
	want := "user-data:3:1: error: run_cmd: cloud-init knows no key of this name and ignores it [unknown-key]\n" +
		"    run_cmd: [ls]\n    ^\n    did you mean runcmd?\n"
	if len(r.Findings) != 1 || r.Findings[0].Text("user-data") != want {
		t.Errorf("got %q, want %q", r.Findings[0].Text("user-data"), want)
	}
	inner := lint.Lint([]byte("I2Nsb3VkLWNvbmZpZwpydW5jbWRzOiBbbHNdCg==\n"), target).Findings[0].Text("f")
	if !strings.HasPrefix(inner, "f:1:19: error: in base64, line 2:1: runcmds: ") || !strings.Contains(inner, "    runcmds: [ls]\n    ^\n") {
		t.Errorf("got %q", inner)
	}
}

func FuzzLint(f *testing.F) {
	for _, name := range []string{"good.txtar", "broken.txtar"} {
		for _, doc := range corpus(f, name) {
			f.Add(doc.Data)
		}
	}
	f.Add([]byte(gz("#cloud-config\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, o := range []lint.Options{{}, {Kind: "network-config"}, {Kind: "meta-data", Cloud: "aws"}} {
			for _, x := range lint.Lint(data, o).Findings {
				if x.Line < 1 || x.Col < 1 || x.InLine < 1 || x.InCol < 1 || x.Message == "" || x.Rule == "" {
					t.Errorf("a finding stands nowhere: %+v", x)
				}
				_ = x.Text("file")
			}
		}
	})
}
