package images

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestProblems holds every spec in testdata/problems against what is said about it, positions and carets included.
func TestProblems(t *testing.T) {
	dir, err := filepath.Abs("testdata/problems")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d specs: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(data), "\n")
			target := strings.TrimSpace(strings.TrimPrefix(first, "# target: "))
			s, _ := Load(filepath.Base(file), data)
			_, err = Resolve(s, target, Options{Dir: dir})
			if err == nil {
				t.Fatal("nothing was found wrong")
			}
			got := strings.ReplaceAll(err.Error(), dir, "DIR") + "\n"
			if strings.Contains(got, "CANARY") {
				t.Errorf("a secret is shown:\n%s", got)
			}
			for _, word := range []string{"yaml.Node", "runner.Secret", "reflect", "struct", "[]string", "int64", "!!"} {
				if strings.Contains(strings.ReplaceAll(got, "tag !!int", ""), word) && !strings.Contains(string(data), word) {
					t.Errorf("the inside of the program shows: %q in\n%s", word, got)
				}
			}
			golden(t, filepath.Join(dir, name+".txt"), got)
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: run go test -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", file, diff)
	}
}

func TestRenderInColour(t *testing.T) {
	p := Problems{
		{Path: "a.b", Source: "f:1:2", Message: "no", Hint: "yes", Snippet: " x\n ^"},
		{Message: "hm", Warning: true},
	}
	var b bytes.Buffer
	p.Render(&b, true)
	want := "\x1b[1mf:1:2:\x1b[0m \x1b[31merror:\x1b[0m a.b: no; yes\n     x\n    \x1b[31m ^\x1b[0m\n\x1b[33mwarning:\x1b[0m hm\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

// FuzzLoad proves that no text makes Load or Resolve panic, that a caret always stands inside its line's reach, and
// that a text that loads loads the same again.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/problems/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("\xef\xbb\xbfrunner: {name: a}"))
	f.Add([]byte("a: &a [*a]\nimage: {pull: *a}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, problems := Load("spec.yaml", data)
		for _, p := range problems {
			if line, caret, found := strings.Cut(p.Snippet, "\n"); found && len([]rune(caret)) > len([]rune(line))+1 {
				t.Errorf("the caret stands beyond the line:\n%s", p.Snippet)
			}
		}
		if _, again := Load("spec.yaml", data); !cmp.Equal(problems, again, cmp.AllowUnexported(Problem{})) {
			t.Errorf("two loads differ: %v, %v", problems, again)
		}
		for _, target := range Targets() {
			// A fuzzed path must not reach the file system.
			if len(s.Image.Pull) == 0 && len(s.Image.Scripts) == 0 && s.Metal.Base == "" {
				_, _ = Resolve(s, target, Options{Dir: "/"})
			}
		}
	})
}
