package iso9660_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
)

func open(t testing.TB, file string) *iso9660.Image {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	i, err := iso9660.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestReadsWhatItWrites(t *testing.T) {
	fs := files()
	i := open(t, write(t, "CIDATA", fs))
	if i.Label != "CIDATA" || i.Names != "Rock Ridge" {
		t.Errorf("label %q, names by %q", i.Label, i.Names)
	}
	var got, want []string
	for _, e := range i.Root {
		got = append(got, e.Name)
		for _, f := range fs {
			if f.Path == e.Name {
				if b, err := i.ReadFile(e, 1<<20); err != nil || !bytes.Equal(b, content(t, f)) {
					t.Errorf("%s holds %q, %v", e.Name, b, err)
				}
			}
		}
	}
	for _, f := range fs {
		first, _, _ := strings.Cut(f.Path, "/")
		want = append(want, first)
	}
	slices.Sort(got)
	slices.Sort(want)
	if want = slices.Compact(want); !slices.Equal(got, want) {
		t.Errorf("the root holds %q, want %q", got, want)
	}
}

// TestReadsOthers reads what other writers make, with long names (that Rock Ridge continues elsewhere) and without any.
func TestReadsOthers(t *testing.T) {
	dir := t.TempDir()
	long := "user-data-" + strings.Repeat("x", 90)
	for _, name := range []string{"user-data", "meta-data", long} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for names, flags := range map[string][]string{
		"Rock Ridge": {"genisoimage", "-quiet", "-V", "cidata", "-R"}, "Joliet": {"genisoimage", "-quiet", "-V", "cidata", "-J", "-joliet-long"},
		"": {"genisoimage", "-quiet", "-V", "cidata"}, "Rock Ridge ": {"xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-R"},
	} {
		out := filepath.Join(t.TempDir(), "out.iso")
		tool(t, flags[0], append(flags[1:], "-o", out, dir)...)
		i := open(t, out)
		if i.Label != "cidata" || i.Names != strings.TrimSpace(names) {
			t.Errorf("%v: label %q, names by %q", flags, i.Label, i.Names)
		}
		at := slices.IndexFunc(i.Root, func(e iso9660.Entry) bool { return e.Name == long })
		if names == "" {
			if at = slices.IndexFunc(i.Root, func(e iso9660.Entry) bool { return e.Name == "USER_DAT.;1" }); at < 0 {
				t.Errorf("%v: the root holds %+v", flags, i.Root)
			}
			continue
		}
		if at < 0 {
			t.Errorf("%v: the root holds %+v", flags, i.Root)
			continue
		}
		if b, err := i.ReadFile(i.Root[at], 1000); err != nil || string(b) != long {
			t.Errorf("%v: it reads %q, %v", flags, b, err)
		}
	}
}

// TestShapes are the shapes that break writers: directories of each fill of their last sector, deep paths, thousands of
// files, names beyond the first plane, names that are the same once shortened.
func TestShapes(t *testing.T) {
	var fs []iso9660.File
	add := func(path string) { fs = append(fs, iso9660.Bytes(path, []byte(path), 0)) }
	for n := range 24 { // a record is 34 bytes and up: one of these fills its sector exactly, in either tree
		for i := range 8 + n {
			add(fmt.Sprintf("fill-%02d/%s%03d", n, strings.Repeat("f", 3+n%7), i))
		}
	}
	many := 1000
	if os.Getenv("DORUNNER_SOAK") != "" {
		many = 10_000
	}
	for i := range many {
		add(fmt.Sprintf("thousands/same-beginning-%05d.tar", i))
	}
	add("1/2/3/4/5/6/7/deep")
	add("planes/😀-𝄞-" + strings.Repeat("𝔘", 30) + ".txt") // of which xorriso says that UCS-2 has no such characters
	add("planes/case")
	add("planes/CASE")
	add(strings.Repeat("d", 103) + "/" + strings.Repeat("f", 103))
	iso := write(t, "CIDATA", fs)
	dir := t.TempDir()
	for _, tree := range []string{"rock", "joliet"} {
		to := filepath.Join(dir, tree)
		read := []string{"-read_fs", "norock", "-osirrox", "on", "-indev", iso, "-extract", "/", to}
		if tree == "rock" {
			read = read[2:]
		}
		if _, err := exec.LookPath("xorriso"); err != nil {
			t.Skip("xorriso is not installed")
		}
		cmd := exec.Command("xorriso", read...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8") // it writes Joliet's names in the locale's charset
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("xorriso %v: %v\n%s", read, err, out)
		}
		t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+w", to).Run() }) // who is not root could not remove them
		n := 0
		for _, f := range fs {
			b, err := os.ReadFile(filepath.Join(to, f.Path))
			if err != nil || string(b) != f.Path {
				t.Errorf("%s: %s holds %q, %v", tree, f.Path, b, err)
				if n++; n > 5 {
					break
				}
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := iso9660.Write(&b, "CIDATA", files()[:1]); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[16*2048:])
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := iso9660.Read(bytes.NewReader(append(make([]byte, 16*2048), data...)))
		if err != nil {
			return
		}
		for _, e := range i.Root {
			_, _ = i.ReadFile(e, 1<<20)
		}
	})
}
