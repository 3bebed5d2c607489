package firstboot

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// ours is what a boot sets, as an example.
var ours = []setting{
	{path: []string{"concurrent"}, value: "8"},
	{path: []string{"check_interval"}, value: "1"},
	{path: []string{"listen_address"}, value: `":9252"`, keep: true},
	{path: []string{"runners", "docker", "volumes"}, value: `["/app:/local_config:rw", "/secrets:/secrets:ro"]`},
	{path: []string{"runners", "docker", "pull_policy"}, value: `["always", "if-not-present"]`},
}

// Each testdata/toml/NAME.toml is patched in its last [[runners]] entry and becomes NAME.want; UPDATE=1 writes those.
func TestPatchedFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/toml/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			entries, err := readEntries(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := setTOML(in, len(entries)-1, ours)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(f, ".toml") + ".want"
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// writtenOtherwise are files as hands, editors and other tools write them; every one of them is patched.
var writtenOtherwise = []string{
	"\xef\xbb\xbfconcurrent = 1\n[[runners]]\n  name = \"a\"\n  [runners.docker]\n    image = \"x\"\n",
	"concurrent = 1\r\n[[runners]]\r\n  name = \"a\"\r\n  [runners.docker]\r\n    image = \"x\"\r\n    volumes = [\"/cache\"]\r\n",
	"[[runners]]\r\n  name = \"a\"\r\n",
	"[[runners]]\nname='a'\ndocker = { image = \"x\", volumes = [\"/c\"] } # d\n",
	"[[runners]]\nname='a'\ndocker = {}\n",
	"[[runners]]\nname='a'\ndocker = {  }",
	"[[runners]]\nname='a'\n  docker.image='x' # i\nlimit = 3\n",
	"[[runners]]\nname='a'\ndocker.image='x'",
	"\"concurrent\" = 3\n[[\"runners\"]]\n\"name\" = 'a'\n[\"runners\".\"docker\"]\n'volumes' = ['/c']\n",
	"[[ runners ]]\n name='a'\n[ runners . docker ]\n image='x'\n",
	"[[runners]] # mine\n  name = 'a'\n  [runners.docker] # d\n    image = 'x'\n# the end",
	"[[runners]]\n name='a'\n pre_build_script = '''\n[[runners]]\n[runners.docker]\nvolumes = 1\n'''\n [runners.docker]\n volumes = [ # c\n  '/a', # b\n ]\n",
	"[[runners]]\n name='a'\n [runners.docker.services_limit]\n x = 1\n [runners.custom]\n",
	"[[runners]]\n name='a'\n [[runners.docker.services]]\n  name='pg'\n [runners.docker]\n  image='x'\n",
	"[[runners]]\n name='a'\n [[runners.docker.services]]\n  name='pg'\n",
	"[[runners]]\n name='a'\n[session_server]\nx=1\n[runners.docker]\nimage='x'\n",
	"[[runners]]\n name='a'\n[[runners]]\n name='a'\n",
	"\tconcurrent\t=\t1\n[[runners]]\n\tname\t=\t'a'\n\t[runners.docker]\n\t\timage\t=\t'x'\n",
}

func TestWrittenOtherwise(t *testing.T) {
	for _, in := range writtenOtherwise {
		entries, err := readEntries([]byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		out, err := setTOML([]byte(in), len(entries)-1, ours)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		v := values(t, out)["runners"].([]any)[len(entries)-1].(map[string]any)["docker"].(map[string]any)
		if len(v["volumes"].([]any)) != 2 || len(v["pull_policy"].([]any)) != 2 {
			t.Errorf("%q became\n%s", in, out)
		}
	}
}

func TestCutAndAppendEntry(t *testing.T) {
	doc := []byte("concurrent = 1\n\n[[runners]]\n  name = \"a\"\n  [runners.docker]\n    image = \"x\"\n\n# about b\n[[runners]]\n  name = \"b\"\n  [runners.cache]\n    [runners.cache.s3]\n\n[session_server]\n  session_timeout = 1800\n")
	rest, cut, err := cutEntry(doc, 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := "[[runners]]\n  name = \"b\"\n  [runners.cache]\n    [runners.cache.s3]\n\n"; string(cut) != want {
		t.Errorf("cut %q", cut)
	}
	if strings.Contains(string(rest), `"b"`) || !strings.Contains(string(rest), "session_timeout") {
		t.Errorf("rest %q", rest)
	}
	entries, err := readEntries(appendEntry(rest, cut))
	if err != nil || len(entries) != 2 || entries[1].Name != "b" {
		t.Errorf("%v %v", entries, err)
	}
	if _, _, err := cutEntry(doc, 2); err == nil {
		t.Error("an entry that is not there was cut")
	}
}

// What is patched parses, holds what was set and everything else as it was, comments included; twice equals once.
func FuzzPatch(f *testing.F) {
	files, err := filepath.Glob("testdata/toml/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range writtenOtherwise {
		f.Add([]byte(s))
	}
	for _, s := range []string{"[[runners]]", "[[runners]]\ndocker = {image = \"x\"}", "[[runners]]\ndocker.volumes = []", "a=1\n[[runners]]\r\nname='x'\r\n", "[[runners]]\n[runners.docker]\nvolumes = [\n # c\n]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		entries, err := readEntries(in)
		if err != nil || len(entries) == 0 {
			t.Skip()
		}
		at := len(entries) - 1
		once, err := setTOML(in, at, ours)
		if err != nil {
			t.Skip() // refused: nothing was written
		}
		twice, err := setTOML(once, at, ours)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("twice is not once (%v):\n%q\n%q", err, once, twice)
		}
		before, after := values(t, in), values(t, once)
		for _, s := range ours {
			inTable := after
			if s.path[0] == "runners" {
				list := after["runners"].([]any)
				inTable = list[at].(map[string]any)["docker"].(map[string]any)
			}
			key := s.path[len(s.path)-1]
			var want map[string]any
			if err := toml.Unmarshal([]byte("v = "+s.value), &want); err != nil {
				t.Fatal(err)
			}
			if old, had := before[key]; s.keep && had {
				want["v"] = old
			}
			if !reflect.DeepEqual(inTable[key], want["v"]) {
				t.Fatalf("%s is %v, not %v:\n%s", key, inTable[key], want["v"], once)
			}
		}
		forget(before, at)
		forget(after, at)
		if diff := cmp.Diff(before, after); diff != "" {
			t.Fatalf("something else changed: %s\n%q\n%q", diff, in, once)
		}
		if a, b := comments(in), comments(once); !subset(a, b) {
			t.Fatalf("comments were lost: %q of %q", b, a)
		}
	})
}

func values(t *testing.T, doc []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := toml.Unmarshal(bytes.TrimPrefix(doc, bom), &m); err != nil {
		t.Fatalf("does not parse: %v\n%s", err, doc)
	}
	return m
}

// forget removes what ours sets.
func forget(m map[string]any, at int) {
	for _, s := range ours {
		if s.path[0] != "runners" {
			delete(m, s.path[0])
			continue
		}
		entry := m["runners"].([]any)[at].(map[string]any)
		if d, ok := entry["docker"].(map[string]any); ok {
			delete(d, s.path[2])
			if len(d) == 0 {
				delete(entry, "docker")
			}
		}
	}
}

// comments lists the comments that stand on lines of their own or behind a value, but not inside one.
func comments(doc []byte) []string {
	doc = bytes.TrimPrefix(doc, bom)
	var all []string
	var p unstable.Parser
	p.KeepComments = true
	p.Reset(doc)
	for p.NextExpression() {
		for n := p.Expression(); n.Valid(); n = n.Next() {
			if n.Kind == unstable.Comment {
				all = append(all, string(n.Data))
			}
		}
	}
	return all
}

func subset(a, b []string) bool {
	count := map[string]int{}
	for _, s := range b {
		count[s]++
	}
	for _, s := range a {
		if count[s]--; count[s] < 0 {
			return false
		}
	}
	return true
}
