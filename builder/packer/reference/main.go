// Command reference writes docs/packer from the doc comments of the plugin's configurations: `go generate` runs it in
// builder/packer. Each component's page has its example from examples/packer.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// pages are the components: title, configuration, example, and what it gives.
var pages = []struct{ file, title, config, example, output string }{
	{"builder-aws", "Builder dorunner-aws", "AWSConfig", "aws", ""},
	{"builder-azure", "Builder dorunner-azure", "AzureConfig", "azure", ""},
	{"builder-metal", "Builder dorunner-metal", "MetalConfig", "metal", ""},
	{"provisioner", "Provisioner dorunner", "ProvisionerConfig", "provisioner", ""},
	{"datasource-user-data", "Data source dorunner-user-data", "UserDataConfig", "user-data", "UserDataOutput"},
}

// sections are the structs that configurations share, with their headings.
var sections = map[string]string{"ImageConfig": "What goes into the image", "OutputConfig": "Results", "RunnerConfig": "Who the machine is"}

func main() {
	log.SetFlags(0)
	if err := run(".", filepath.Join("..", "..", "docs", "packer"), filepath.Join("..", "..", "examples", "packer")); err != nil {
		log.Fatal(err)
	}
}

// source is what the package declares.
type source struct {
	structs map[string]*ast.StructType
	docs    map[string]string
	heeded  []string // the SDK's ssh_* attributes that mean something
}

func run(pkg, docs, examples string) error {
	s := source{structs: map[string]*ast.StructType{}, docs: map[string]string{}}
	files, err := filepath.Glob(filepath.Join(pkg, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		s.read(f)
	}
	if err := os.MkdirAll(docs, 0o755); err != nil {
		return err
	}
	for _, p := range pages {
		example, err := os.ReadFile(filepath.Join(examples, p.example+".pkr.hcl"))
		if err != nil {
			return err
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, "<!-- Written by `go generate ./builder/packer` from the doc comments there. -->\n\n# %s\n\n%s\n\n", p.title, intro(s.docs[p.config]))
		fmt.Fprintf(&b, "## Example\n\n[examples/packer/%s.pkr.hcl](../../examples/packer/%s.pkr.hcl), which the tests validate with Packer:\n\n```hcl\n%s```\n", p.example, p.example, example)
		fmt.Fprintf(&b, "\n## Attributes\n\nAll are optional unless they say otherwise; `dorunner.yaml`'s names for the same are in brackets.\n\n")
		if err := s.page(&b, p.config, "###"); err != nil {
			return err
		}
		if p.output != "" {
			fmt.Fprintf(&b, "\n## Output\n\n")
			s.table(&b, p.output)
		}
		if err := os.WriteFile(filepath.Join(docs, p.file+".md"), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// read takes down the structs of a file and the list of heeded attributes.
func (s *source) read(f *ast.File) {
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range g.Specs {
			switch t := spec.(type) {
			case *ast.TypeSpec:
				if st, ok := t.Type.(*ast.StructType); ok {
					s.structs[t.Name.Name], s.docs[t.Name.Name] = st, g.Doc.Text()
				}
			case *ast.ValueSpec:
				if t.Names[0].Name != "heeded" {
					continue
				}
				for _, e := range t.Values[0].(*ast.CompositeLit).Elts {
					s.heeded = append(s.heeded, strings.Trim(e.(*ast.KeyValueExpr).Key.(*ast.BasicLit).Value, `"`))
				}
			}
		}
	}
}

// page writes a configuration's own attributes, then those that it shares with others.
func (s *source) page(b *bytes.Buffer, config, level string) error {
	s.table(b, config)
	for _, f := range s.structs[config].Fields.List {
		if len(f.Names) > 0 {
			continue
		}
		switch t := f.Type.(type) {
		case *ast.Ident:
			title, ok := sections[t.Name]
			if !ok {
				return fmt.Errorf("%s embeds %s, which has no heading", config, t.Name)
			}
			fmt.Fprintf(b, "\n%s %s\n\n%s\n\n", level, title, intro(s.docs[t.Name]))
			s.table(b, t.Name)
		case *ast.SelectorExpr:
			if t.Sel.Name != "Config" { // the SDK's communicator
				continue
			}
			slices.Sort(s.heeded)
			fmt.Fprintf(b, "\n%s How the machine is reached\n\nThe [communicator's attributes](https://developer.hashicorp.com/packer/docs/communicators/ssh) `%s` "+
				"work as with any builder. The machine's host key is pinned, and a key that lasts for the bake always opens it; any other attribute of the communicator that is set gets a warning.\n",
				level, strings.Join(s.heeded, "`, `"))
		}
	}
	return nil
}

// table writes the attributes that a struct declares itself; blocks within come after it.
func (s *source) table(b *bytes.Buffer, name string) {
	var blocks []string
	b.WriteString("| attribute | type | |\n|---|---|---|\n")
	for _, f := range s.structs[name].Fields.List {
		if len(f.Names) == 0 || f.Tag == nil {
			continue
		}
		tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`"))
		attribute, kind := tag.Get("mapstructure"), hclType(f.Type)
		if kind == "block" {
			blocks = append(blocks, f.Type.(*ast.Ident).Name)
		}
		key := ""
		if path, _, _ := strings.Cut(tag.Get("override"), "[]"); path != "" && path != attribute {
			key = " [`" + path + "`]"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s%s |\n", attribute, kind, strings.Join(strings.Fields(strings.ReplaceAll(f.Doc.Text(), "|", `\|`)), " "), key)
	}
	for _, block := range blocks {
		fmt.Fprintf(b, "\nBlock `%s`: %s\n\n", strings.ToLower(strings.TrimSuffix(block, "Config")), intro(s.docs[block]))
		s.table(b, block)
	}
}

// intro is a doc comment for people who do not read Go: without the type's name at its beginning.
func intro(doc string) string {
	words := strings.Fields(doc)
	if i := slices.IndexFunc(words, func(w string) bool { return w == "are" || w == "is" }); i >= 0 && i < 2 {
		words = words[i+1:]
	}
	text := strings.Join(words, " ")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// hclType is a Go type as people write it in HCL.
func hclType(e ast.Expr) string {
	switch t := e.(type) {
	case *ast.StarExpr:
		return hclType(t.X)
	case *ast.ArrayType:
		return "list of " + hclType(t.Elt)
	case *ast.MapType:
		return "map of " + hclType(t.Value)
	case *ast.Ident:
		switch t.Name {
		case "int":
			return "number"
		case "string", "bool":
			return t.Name
		}
	}
	return "block"
}
