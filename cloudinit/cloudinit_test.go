package cloudinit_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

func spec(description string) runner.Spec {
	s := runner.Default()
	s.Name, s.URL, s.Description = "dataops-runner-singapore", "https://app.dataops.live", description
	s.Token, _ = runner.ParseSecret("ssm:/dorunner/token")
	return s
}

func TestUserDataCarriesTheSpec(t *testing.T) {
	for name, tc := range map[string]struct{ description, encoding string }{
		"plain":             {"{{.Name}}-{{.InstanceID}}", ""},
		"not ASCII":         {"Läufer", "b64"},
		"looks like MIME":   {"MIME-Version: 1.0", "b64"},
		"trailing blanks":   {"a  ", ""},
		"YAML in disguise":  {"- {a: b} # 'c' \"d\"", ""},
		"a number, to 1.1":  {"12:30:45", ""},
		"a boolean, to 1.1": {"yes", ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := spec(tc.description)
			b, err := cloudinit.UserData(want, cloudinit.UserDataOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(b), "#cloud-config\n") {
				t.Fatalf("no header: %q", b)
			}
			var doc map[string][]map[string]string
			if err := yaml.Unmarshal(b, &doc); err != nil || len(doc) != 1 || len(doc["write_files"]) != 1 {
				t.Fatalf("it does more than write one file: %v\n%s", err, b)
			}
			f := doc["write_files"][0]
			if f["path"] != "/etc/dorunner/runner.yaml" || f["permissions"] != "0600" || f["encoding"] != tc.encoding {
				t.Errorf("the file is %v", f)
			}
			content := []byte(f["content"])
			if f["encoding"] == "b64" {
				content, _ = base64.StdEncoding.DecodeString(f["content"])
			}
			var got runner.Spec
			if err := runner.Decode(&got, content); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmp.AllowUnexported(runner.Secret{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestUserDataRefusesALiteralToken(t *testing.T) {
	s := spec("d")
	s.Token = runner.Plain("glrt-verysecret")
	_, err := cloudinit.UserData(s, cloudinit.UserDataOptions{})
	if !errors.Is(err, runner.ErrPlainSecret) || strings.Contains(err.Error(), "verysecret") {
		t.Errorf("got %v", err)
	}
	b, err := cloudinit.UserData(s, cloudinit.UserDataOptions{AllowPlain: true})
	if err != nil || !strings.Contains(string(b), "plain:glrt-verysecret") {
		t.Errorf("allowed, and yet: %v\n%s", err, b)
	}
}

func TestTooBigIsToldByPart(t *testing.T) {
	noise := make([]byte, 30000)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"[r.IntN(64)]
	}
	big := cloudinit.Source{Name: "big.sh", Content: append([]byte("#!/bin/sh\n# "), noise...)}
	o := cloudinit.Options{Cloud: "aws", Sources: []cloudinit.Source{big}}
	_, err := cloudinit.Generate(spec("d"), o)
	var tooBig *cloudinit.TooBig
	if !errors.As(err, &tooBig) || !tooBig.Gzip || tooBig.Sent <= tooBig.Limit {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"aws takes 16383", "big.sh", "dorunner.yaml", "sent (gzip)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	o.Cloud = ""
	if g, err := cloudinit.Generate(spec("d"), o); err != nil || g.Gzip {
		t.Errorf("where there is no limit: %v", err)
	}
	if !bytes.Equal(generate(t, o), generate(t, o)) {
		t.Error("the same input gave other bytes")
	}
}

func TestWriteSeed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "seed.iso")
	if err := cloudinit.WriteSeed(file, cloudinit.Meta{}, nil, nil); err == nil {
		t.Error("a seed without an instance-id was written")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the refused seed is there")
	}
	if err := cloudinit.WriteSeed(file, cloudinit.Meta{InstanceID: "i-1", LocalHostname: "h"}, []byte("#cloud-config\n"), []byte("version: 2\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("isoinfo"); err != nil {
		t.Skip("isoinfo is not installed")
	}
	for name, want := range map[string]string{
		"/user-data": "#cloud-config\n", "/meta-data": "instance-id: i-1\nlocal-hostname: h\n", "/network-config": "version: 2\n",
	} {
		if got, err := exec.Command("isoinfo", "-R", "-x", name, "-i", file).Output(); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
}
