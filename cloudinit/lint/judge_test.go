package lint_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/cloudinit/cloudinittest"
)

// Where `cloud-init schema` 22.4.2 is no judge, by the beginning of a document's name.
var (
	refusesGood = map[string]string{
		"header-only":         "a document that says nothing does no harm",
		"packages-by-manager": "23.4 knows it",
	}
	acceptsBroken = map[string]string{
		"unknown-key":        "it does not look for misspelt top-level keys",
		"permissions-not":    "a type is all that it knows of a value",
		"path-not-absolute":  "likewise",
		"content-not-base64": "it decodes nothing",
		"base64-stray":       "likewise",
		"gzip-content":       "likewise",
		"duplicate-":         "its reader keeps the last of two keys",
		"newer-key":          "an unknown top-level key",
		"unit-cycle-":        "it does not look into files",
		"runner-":            "likewise",
		"secret-":            "it does not look for secrets",
		"mime-inside":        "it reads a file where the machine reads a message",
		"autoinstall-":       "the installer's keys are not its own",
	}
	// Misspelt keys below the top it does find.
	findsAll = []string{"unknown-key-nested", "unknown-key-deep"}
)

func known(list map[string]string, name string) bool {
	for prefix := range list {
		if strings.HasPrefix(name, prefix) && !slices.Contains(findsAll, name) {
			return true
		}
	}
	return false
}

// TestRealSchemaOnTheCorpus asks `cloud-init schema` about every plain #cloud-config of the corpus.
func TestRealSchemaOnTheCorpus(t *testing.T) {
	if os.Getenv("DORUNNER_CLOUD_INIT") != "" {
		t.Skip("the exceptions are those of " + cloudinittest.Version)
	}
	var questions []cloudinittest.Question
	var names []string
	for _, file := range []string{"good.txtar", "broken.txtar"} {
		for _, f := range corpus(t, file) {
			if strings.HasPrefix(string(f.Data), "#cloud-config\n") {
				name, _, _ := strings.Cut(f.Name, " | ")
				names = append(names, file+"/"+name)
				questions = append(questions, cloudinittest.Question{Verb: "schema", Data: f.Data})
			}
		}
	}
	for i, a := range cloudinittest.Ask(t, questions...) {
		var said *string
		if err := json.Unmarshal(a, &said); err != nil {
			t.Fatal(err)
		}
		file, name, _ := strings.Cut(names[i], "/")
		switch {
		case file == "good.txtar" && (said != nil) != known(refusesGood, name):
			t.Errorf("good document %s: cloud-init says %v", name, text(said))
		case file == "broken.txtar" && (said == nil) != known(acceptsBroken, name):
			t.Errorf("broken document %s: cloud-init says %v", name, text(said))
		}
	}
}

func text(s *string) string {
	if s == nil {
		return "it is right"
	}
	return *s
}
