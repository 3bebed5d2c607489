package packer

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/images"
)

// TestEveryKeyHasAnAttribute: what dorunner.yaml can say about an image, a template can say too.
func TestEveryKeyHasAnAttribute(t *testing.T) {
	ssh := []string{"aws.ssh_host", "aws.ssh_port", "aws.ssh_timeout", "aws.private_ip", "azure.private_ip"} // through the communicator's attributes
	for section, config := range map[string]any{"aws": AWSConfig{}, "azure": AzureConfig{}, "metal": MetalConfig{}} {
		have := tags(reflect.TypeOf(config), "override")
		for _, key := range append(append(keys(reflect.TypeFor[images.Spec](), "image"), keys(reflect.TypeFor[images.Spec](), "runner")...), keys(reflect.TypeFor[images.Spec](), section)...) {
			if !slices.Contains(have, key) && !slices.Contains(ssh, key) {
				t.Errorf("dorunner-%s has no attribute for %s", section, key)
			}
		}
	}
}

// keys are the paths of a spec's section.
func keys(spec reflect.Type, section string) (list []string) {
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if path == "" && name != section || name == "" {
				continue
			}
			p := strings.TrimPrefix(path+"."+name, ".")
			if f.Type.Kind() == reflect.Struct && f.Type.NumField() > 0 && f.Type.Field(0).IsExported() {
				walk(f.Type, p)
				continue
			}
			list = append(list, p)
		}
	}
	walk(spec, "")
	return list
}

// tags are those of a configuration and of what is in it.
func tags(t reflect.Type, key string) (list []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type.Kind() == reflect.Struct {
			list = append(list, tags(f.Type, key)...)
		}
		if tag, _, _ := strings.Cut(f.Tag.Get(key), "[]"); tag != "" {
			list = append(list, tag)
		}
	}
	return list
}

// TestGeneratedIsFresh generates anew what is generated; where that changes a file, it is left fresh, to be committed.
func TestGeneratedIsFresh(t *testing.T) {
	if testing.Short() {
		t.Skip("runs go generate")
	}
	docs, err := filepath.Glob("../../docs/packer/*.md")
	if err != nil || len(docs) < 5 {
		t.Fatalf("%v, %v", docs, err)
	}
	before := map[string][]byte{}
	for _, name := range append(docs, "config.hcl2spec.go") {
		if before[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "generate", ".").CombinedOutput(); err != nil {
		t.Fatalf("go generate: %v\n%s", err, out)
	}
	for name, old := range before {
		if now, err := os.ReadFile(name); err != nil || !bytes.Equal(old, now) {
			t.Errorf("%s was not fresh, and now is: commit it (%v)", name, err)
		}
	}
}

func TestAttributesOfOneListMakeItTogether(t *testing.T) {
	got := overridesOf(AWSConfig{InstanceType: "a", InstanceTypes: []string{"b", "c"}, AMIOrgARNs: []string{"o"}})
	want := []images.Override{{Path: "aws.sizes", Value: []string{"a", "b", "c"}, From: "instance_type, instance_types"}, {Path: "aws.share", Value: []string{"o"}, From: "ami_org_arns"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}
