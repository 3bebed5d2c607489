// Package cmd_test keeps imports pointing down: every edge that the house forbids stands here with its reason.
package cmd_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dorunner/dorunner-bake/"

// sdks are the libraries that only some rooms may know, and those rooms.
var sdks = []struct {
	prefix, reason string
	rooms          []string
}{
	{"github.com/aws/aws-sdk-go-v2", "an SDK is known only where its cloud is", []string{"builder/aws", "fleet/aws", "firstboot/ec2"}},
	{"github.com/Azure/azure-sdk-for-go", "an SDK is known only where its cloud is", []string{"builder/azure", "fleet/azure", "firstboot/azure"}},
	{"github.com/hashicorp/packer-plugin-sdk", "one engine, three doors: Packer is one of them", []string{"builder/packer", "cmd/packer-plugin-dorunner"}},
	{"github.com/spf13/cobra", "only the command line parses", []string{"cmd/dorunner-bake"}},
	{"golang.org/x/crypto/ssh", "a guest over SSH is one room", []string{"builder/ssh", "builder/aws", "builder/azure", "builder/metal", "builder/packer"}},
}

// forbidden are edges between our own rooms, by prefix.
var forbidden = []struct{ from, to, reason string }{
	{"firstboot/runner", "", "the contract of both ends imports nothing of ours"},
	{"templates", "", "texts know nobody"},
	{"images", "builder", "a plan does not know who carries it out"},
	{"images", "cloudinit", "a plan does not know who carries it out"},
	{"images", "fleet", "a plan does not know who carries it out"},
	{"firstboot", "builder", "the machine does not carry the bakery"},
	{"firstboot", "images", "the machine reads runner.Spec alone"},
	{"firstboot", "cloudinit", "the machine does not generate"},
	{"cloudinit", "builder", "user-data knows no clouds"},
	{"cloudinit", "images", "user-data is made from runner.Spec alone"},
	{"builder", "fleet", "baking does not launch"},
	{"fleet", "builder/packer", "fleets know no Packer"},
	{"cmd/dorunner-bake", "builder/packer", "the command line needs no Packer"},
}

// pkg is what `go list` tells of one package.
type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImportsPointDown(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(p.ImportPath, module)
		if isTestHelp(room) {
			continue
		}
		for _, imp := range p.Imports {
			for _, s := range sdks {
				if under(imp, s.prefix) && !slices.ContainsFunc(s.rooms, func(r string) bool { return under(room, r) }) {
					t.Errorf("%s imports %s: %s", room, imp, s.reason)
				}
			}
			ours, found := strings.CutPrefix(imp, module)
			if !found {
				continue
			}
			if isTestHelp(ours) {
				t.Errorf("%s imports %s: test servers stay out of programs", room, ours)
			}
			for _, f := range forbidden {
				if under(room, f.from) && (f.to == "" || under(ours, f.to)) && !under(ours, f.from) {
					t.Errorf("%s imports %s: %s", room, ours, f.reason)
				}
			}
		}
	}
	if seen < 8 {
		t.Fatalf("go list told of %d packages only", seen)
	}
}

// isTestHelp tells the servers that tests and examples stand on.
func isTestHelp(room string) bool {
	for part := range strings.SplitSeq(room, "/") {
		if strings.HasSuffix(part, "test") || part == "examples" {
			return true
		}
	}
	return false
}

func under(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
