package images

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Options are what Resolve may be told beside the spec.
type Options struct {
	Overrides  []Override
	AllowSmall bool   // accept machines below the documented pilot size
	Launch     bool   // the machine's identity (name, url, token) is needed too
	Dir        string // what relative paths in the spec are relative to; the working directory when empty
}

// target is what Resolve must know of a kind of machine: its section's defaults and rules.
type target struct {
	platform func(*Spec) string      // which first boot is baked in
	arch     func(*Spec) string      // the architecture, where the author names none
	defaults func(*Spec, Options)    // of its section and of what depends on it; only zero values are set
	files    func(*Spec) []*string   // the section's local paths, URLs among them
	check    func(r *rules) (s Size) // its section's rules
	base     func(*Spec) string      // which base of the author's own is used; empty for the catalogue's
}

// targets are the rows; each stands in its section's file.
var targets = map[string]target{"aws": awsTarget, "azure": azureTarget, "metal": metalTarget}

// Targets are the names that Resolve takes.
func Targets() []string { return slices.Sorted(maps.Keys(targets)) }

// SizeNames are the machine types that a target's sizes may name, the documented ones first.
func SizeNames(target string) []string {
	var names []string
	for _, s := range map[string][]Size{"aws": awsSizes, "azure": azureSizes}[target] {
		names = append(names, s.Name)
	}
	return names
}

// Resolve decides everything: defaults, overrides, rules. It is pure but for reading the scripts and archives that
// the spec names, and idempotent: the Spec of its Plan resolves to the same Plan. The error is Problems.
func Resolve(s *Spec, name string, o Options) (*Plan, error) {
	row, ok := targets[name]
	if !ok {
		return nil, Problems{{Message: fmt.Sprintf("unknown target %q", name), Hint: "the targets are " + strings.Join(Targets(), ", ")}}
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	spec := s.clone()
	r := &rules{Options: o, spec: spec, found: spec.source.problems}

	// What was written, the file first, then what wins over it.
	for _, over := range o.Overrides {
		r.found = append(r.found, spec.override(over)...)
	}
	r.given()

	// Defaults, the general ones first: the documented procedure's.
	spec.defaultImages()
	fill(reflect.ValueOf(&spec.Runner).Elem(), reflect.ValueOf(runner.Default()))
	if spec.Image.Arch == "" {
		spec.Image.Arch = row.arch(spec)
	}
	fill(reflect.ValueOf(&spec.Image).Elem(), reflect.ValueOf(Image{
		Name: "dorunner-{{.OS}}-{{.Hash}}", OS: DefaultOS, Docker: Docker{Source: "docker"}, Login: Registry{Server: "docker.io"},
	}))
	if spec.Metal.Output == "" {
		spec.Metal.Output = "out" // of every target's manifest
	}
	row.defaults(spec, o)
	base, _ := baseFor(spec.Image.OS, spec.Image.Arch) // an unknown one is reported below
	if spec.Image.AdminUser == "" {
		spec.Image.AdminUser = base.AdminUser
	}
	spec.absolute(dir, row.files(spec))

	// Rules.
	r.runner()
	r.image()
	size := row.check(r)
	plan := &Plan{Target: name, Platform: row.platform(spec), Base: base, Size: size, Containers: r.containers(), Scripts: r.scripts()}
	r.found = r.found.sorted()
	if len(r.found.Errors()) > 0 {
		return nil, r.found
	}
	plan.Spec, plan.Warnings = *spec, r.found.Warnings()
	plan.Hash, err = plan.hash(r.archives)
	return plan, err
}

// absolute makes every local path absolute, so that it means the same wherever the plan is read.
func (s *Spec) absolute(dir string, more []*string) {
	more = append(more, &s.Metal.Output)
	for i := range s.Image.Pull {
		more = append(more, &s.Image.Pull[i].Archive)
	}
	for i := range s.Image.Scripts {
		more = append(more, &s.Image.Scripts[i])
	}
	for _, p := range more {
		if *p != "" && !filepath.IsAbs(*p) && !isURL(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

func isURL(s string) bool { return strings.Contains(s, "://") }

// maxScript bounds a script, in bytes; more is a program and belongs into a package.
const maxScript = 1 << 20

// scripts reads the author's own scripts.
func (r *rules) scripts() []Script {
	var list []Script
	each("image.scripts", r.spec.Image.Scripts, func(path, file string) {
		content, err := readBounded(file, maxScript)
		if err != nil {
			r.bad(path, fmt.Sprintf("the script cannot be read: %v", plainFileError(err)), "")
			return
		}
		if !strings.HasPrefix(string(content), "#!") {
			r.bad(path, fmt.Sprintf("%s does not begin with #!", filepath.Base(file)), "name its interpreter on the first line, for example #!/bin/bash")
			return
		}
		list = append(list, Script{Path: file, Content: content})
	})
	return list
}

func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = errors.New("it is larger than 1 MiB")
	}
	return content, err
}
