package runner_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

var secrets = cmp.Comparer(func(a, b runner.Secret) bool { return a == b })

// full is a spec in which every field is set.
func full() runner.Spec {
	yes := func() *bool { b := true; return &b }
	ref := func(s string) runner.Secret {
		r, err := runner.ParseSecret(s)
		if err != nil {
			panic(err)
		}
		return r
	}
	return runner.Spec{
		Name: "dataops-runner-london", Description: "{{.Name}}-{{.InstanceID}}", URL: "https://app.dataops.live", Token: ref("ssm:/dorunner/token"),
		Tags: []string{"london", "big"}, Image: "registry:5000/r/i:1", JobImage: "j", Concurrent: 4, CheckInterval: 3, RunUntagged: yes(), Locked: yes(), Executor: "docker",
		Volumes: []string{"/app:/local_config:rw"}, PullPolicy: []string{"never"}, Debug: yes(), Register: "api", RegisterTimeout: runner.Duration(90 * time.Second),
		BootTimeout: runner.Duration(10 * time.Minute), DrainTimeout: runner.Duration(2 * time.Hour), DrainOnShutdown: yes(), OnFailure: "unhealthy",
		Vault: runner.Vault{Path: "/v", Content: ref("keyvault:https://v.vault.azure.net/secrets/c"), Salt: ref("credential:salt")},
	}
}

func TestEncodeAndDecodeAreInverse(t *testing.T) {
	for name, spec := range map[string]runner.Spec{"empty": {}, "default": runner.Default(), "full": full()} {
		text, err := runner.Encode(spec, runner.EncodeOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var back runner.Spec
		if err := runner.Decode(&back, text); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if diff := cmp.Diff(spec, back, secrets); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		again, err := runner.Encode(back, runner.EncodeOptions{})
		if err != nil || string(again) != string(text) {
			t.Errorf("%s: not deterministic (%v)", name, err)
		}
	}
}

func TestDecodeIsStrictAndLaysOver(t *testing.T) {
	for text, want := range map[string]string{
		"nam: x":              "nam",
		"name: x\nname: y":    "already defined",
		"concurrent: many":    "many",
		"boot_timeout: 90":    "write it as 90s",
		"token: vualt:/x":     "unknown kind of secret",
		"token: 'ssm:'":       "names nothing",
		"token: '[redacted]'": "stands where the secret was",
		"name: x\n---\n":      "a second YAML document",
	} {
		s := runner.Default()
		err := runner.Decode(&s, []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(runner.Default(), s, secrets); diff != "" {
			t.Errorf("%q changed the spec although it was refused: %s", text, diff)
		}
	}
	s := runner.Default()
	for _, layer := range []string{"", "concurrent: 2\nvault: {path: /v}\n", "name: n\nrun_untagged: true\n"} {
		if err := runner.Decode(&s, []byte(layer)); err != nil {
			t.Fatal(err)
		}
	}
	if s.Concurrent != 2 || s.Vault.Path != "/v" || s.Name != "n" || !*s.RunUntagged || *s.Locked || s.CheckInterval != 1 {
		t.Errorf("%+v", s)
	}
}

// A literal secret leaves in one way only.
func TestLiteralSecretsStay(t *testing.T) {
	const canary = "glrt-canary"
	s := runner.Default()
	s.Token, s.Vault.Salt = runner.Plain(canary), runner.Plain(canary)
	if _, err := runner.Encode(s, runner.EncodeOptions{}); !errors.Is(err, runner.ErrPlainSecret) {
		t.Errorf("encoded without leave: %v", err)
	}
	asJSON, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for how, text := range map[string]string{"json": string(asJSON), "yaml": string(asYAML), "%v": fmt.Sprintf("%v", s), "%+v": fmt.Sprintf("%+v", s), "%#v": fmt.Sprintf("%#v", s), "print": fmt.Sprint(s.Token)} {
		if strings.Contains(text, "canary") {
			t.Errorf("%s shows it: %s", how, text)
		}
	}
	text, err := runner.Encode(s, runner.EncodeOptions{AllowPlain: true})
	if err != nil || strings.Count(string(text), "plain:"+canary) != 2 {
		t.Errorf("%v\n%s", err, text)
	}
	var back runner.Spec
	if err := runner.Decode(&back, text); err != nil || back.Token.Reveal() != canary || back.Vault.Salt.Reveal() != canary {
		t.Errorf("%v %q", err, back.Token.Reveal())
	}
}

func TestValidate(t *testing.T) {
	if bad := full().ValidateIdentity(); len(bad) > 0 {
		t.Errorf("a good spec: %v", bad)
	}
	if bad := runner.Default().Validate(); len(bad) > 0 {
		t.Errorf("the defaults: %v", bad)
	}
	if bad := runner.Default().ValidateIdentity(); len(bad) != 3 {
		t.Errorf("without identity: %v", bad)
	}
	for path, harm := range map[string]func(*runner.Spec){
		"name":             func(s *runner.Spec) { s.Name = "a b" },
		"description":      func(s *runner.Spec) { s.Description = "{{.Nam}}" },
		"url":              func(s *runner.Spec) { s.URL = "app.dataops.live" },
		"tags[1]":          func(s *runner.Spec) { s.Tags = []string{"a", "b,c"} },
		"image":            func(s *runner.Spec) { s.Image = "UPPER" },
		"concurrent":       func(s *runner.Spec) { s.Concurrent = -1 },
		"executor":         func(s *runner.Spec) { s.Executor = "shell" },
		"pull_policy[0]":   func(s *runner.Spec) { s.PullPolicy = []string{"sometimes"} },
		"volumes[0]":       func(s *runner.Spec) { s.Volumes = []string{"app:/x"} },
		"register_timeout": func(s *runner.Spec) { s.RegisterTimeout = -1 },
		"on_failure":       func(s *runner.Spec) { s.OnFailure = "explode" },
		"vault.path":       func(s *runner.Spec) { s.Vault.Path = "/" },
	} {
		s := full()
		harm(&s)
		if bad := s.Validate(); len(bad) != 1 || bad[0].Path != path {
			t.Errorf("%s: %v", path, bad)
		}
	}
}

func TestDescribe(t *testing.T) {
	f := runner.Facts{InstanceID: "i-1", Hostname: "h", Region: "eu-west-1", Zone: "eu-west-1a"}
	for text, want := range map[string]string{
		"{{.Name}}":                           "n",
		"{{.Name}}-{{ .InstanceID }}":         "n-i-1",
		"{{.Region}}/{{.Zone}} {{.Hostname}}": "eu-west-1/eu-west-1a h",
		"plain { braces }":                    "plain { braces }",
		"":                                    "",
	} {
		if got, err := (runner.Spec{Name: "n", Description: text}).Describe(f); err != nil || got != want {
			t.Errorf("%q: %q %v", text, got, err)
		}
	}
	for _, text := range []string{"{{.Nam}}", "{{.Name", "{{if .Name}}x{{end}}", "{{.Name | printf}}", "{{}}"} {
		if got, err := (runner.Spec{Name: "n", Description: text}).Describe(f); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
	// A value is text, whatever it holds.
	if got, err := (runner.Spec{Name: "n", Description: "{{.Hostname}}"}).Describe(runner.Facts{Hostname: "{{.Name}}"}); err != nil || got != "{{.Name}}" {
		t.Errorf("%q %v", got, err)
	}
}

// What a machine prints is what a launcher reads, behind whatever the kernel puts before it.
func TestConsoleLine(t *testing.T) {
	r := runner.Report{State: runner.Online, Runner: "n", InstanceID: "i-1", Uptime: 31.5, FirstPoll: 0.6, Jobs: 2, LastPoll: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Warnings: []string{"a \"b\"\nc"}}
	line := r.ConsoleLine()
	if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
		t.Errorf("not one line: %q", line)
	}
	for _, before := range []string{"", "[   12.3] ", "\x1b[0m", "login: "} {
		got, found := runner.ParseConsoleLine(before + strings.TrimSuffix(line, "\n") + "\r\n")
		if diff := cmp.Diff(r, got); !found || diff != "" {
			t.Errorf("behind %q: %t %s", before, found, diff)
		}
	}
	for _, line := range []string{"", "dorunner-report: ", "dorunner-report: {", "dorunner-report: {}", `{"state":"online"}`} {
		if _, found := runner.ParseConsoleLine(line); found {
			t.Errorf("%q was taken for a report", line)
		}
	}
}

// What decodes encodes again, and no text makes Decode panic or half-change the spec.
func FuzzDecode(f *testing.F) {
	text, err := runner.Encode(full(), runner.EncodeOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("name: &a x\ndescription: *a\n"))
	f.Add([]byte("volumes: {}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := runner.Default()
		if runner.Decode(&s, in) != nil {
			if diff := cmp.Diff(runner.Default(), s, secrets); diff != "" {
				t.Fatal(diff)
			}
			return
		}
		out, err := runner.Encode(s, runner.EncodeOptions{AllowPlain: true})
		if err != nil {
			t.Fatal(err)
		}
		var back runner.Spec
		if err := runner.Decode(&back, out); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for path, sec := range s.Secrets() {
			if back.Secrets()[path] != sec {
				t.Fatalf("%s is another secret", path)
			}
		}
	})
}
