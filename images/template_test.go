package images

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// TestTemplateShowsEveryKey: the commented spec is right with each of its keys enabled, and there is no key that it hides.
func TestTemplateShowsEveryKey(t *testing.T) {
	s, problems := Load("enabled.yaml", []byte(enabledTemplate(t)))
	if len(problems) > 0 {
		t.Errorf("with every key enabled:\n%v", problems)
	}
	var walk func(t reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		for f := range fields(typ) {
			p := child(path, f.key)
			if s.source.keys[p] == nil {
				t.Errorf("the template does not show %s", p)
			}
			if f.typ.Kind() == reflect.Struct && !f.typ.Implements(reflect.TypeFor[interface{ IsPlain() bool }]()) {
				walk(f.typ, p)
			}
		}
	}
	walk(reflect.TypeFor[Spec](), "")
}

// TestTemplateSaysTheDefaults: what the template shows of the runner is what the empty spec resolves to, where that is anything.
func TestTemplateSaysTheDefaults(t *testing.T) {
	s, _ := Load("enabled.yaml", []byte(enabledTemplate(t)))
	got, want := reflect.ValueOf(s.Runner), reflect.ValueOf(resolve(t, "aws", "", Options{}).Spec.Runner)
	for f := range fields(want.Type()) {
		if w := want.Field(f.index); f.key != "vault" && !w.IsZero() && !cmp.Equal(w.Interface(), got.Field(f.index).Interface()) {
			t.Errorf("runner.%s: the template says %v, the default is %v", f.key, got.Field(f.index), w)
		}
	}
}

// enabledTemplate is the template with every key that stands there disabled.
func enabledTemplate(t *testing.T) string {
	text, err := templates.Render("dorunner.yaml.tmpl", runner.Spec{Name: "n", URL: "https://x.y"})
	if err != nil {
		t.Fatal(err)
	}
	var enabled strings.Builder
	for line := range strings.Lines(string(text)) {
		key := strings.TrimLeft(line, " ")
		if len(key) > 1 && key[0] == '#' && key[1] != ' ' { // a remark has a space behind the #, a disabled key has none
			line = line[:len(line)-len(key)] + key[1:]
		}
		enabled.WriteString(line)
	}
	return enabled.String()
}
