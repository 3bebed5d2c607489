package iso9660_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
)

// files are the shapes that other writers got wrong: empty files, whole sectors, an empty last file, directories
// whose records fill a sector, names that collide when shortened.
func files() []iso9660.File {
	out := []iso9660.File{
		iso9660.Bytes("user-data", []byte("#cloud-config\n"), 0o400),
		iso9660.Bytes("meta-data", []byte("instance-id: i\n"), 0),
		iso9660.Bytes("empty", nil, 0),
		iso9660.Bytes("whole-sector", bytes.Repeat([]byte("x"), 2048), 0),
		iso9660.Bytes("dir/sub/Größe.txt", []byte("umlaut"), 0),
		iso9660.Bytes("dir/sub/run.sh", []byte("#!/bin/sh\n"), 0o555),
		iso9660.Bytes("docker-ce-rootless-extras_5%3a28.1.1-1~ubuntu.20.04~focal_amd64.deb", []byte("deb"), 0),
		iso9660.Bytes(strings.Repeat("n", 103), []byte("longest"), 0),
		iso9660.Bytes("zz-empty", nil, 0),
	}
	for i := range 200 {
		out = append(out, iso9660.Bytes(fmt.Sprintf("many/a-file-with-a-long-name-%03d", i), fmt.Appendf(nil, "%d", i), 0))
	}
	return out
}

func write(t testing.TB, label string, fs []iso9660.File) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "out.iso")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := iso9660.Write(f, label, fs); err != nil {
		t.Fatal(err)
	}
	return name
}

func tool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.Bytes())
	}
	for _, bad := range []string{"FAILURE", "SORRY", "WARNING", "damaged"} {
		if strings.Contains(stderr.String(), bad) {
			t.Fatalf("%s %v complains:\n%s", name, args, stderr.Bytes())
		}
	}
	return stdout.Bytes()
}

func TestIsoinfoAgrees(t *testing.T) {
	fs := files()
	iso := write(t, "CIDATA", fs)
	if out := tool(t, "isoinfo", "-d", "-i", iso); !bytes.Contains(out, []byte("Volume id: CIDATA\n")) {
		t.Errorf("the label is not CIDATA:\n%s", out)
	}
	for _, ext := range []string{"-R", "-J"} {
		var got []string
		listing := tool(t, "isoinfo", ext, "-f", "-j", "iso8859-1", "-i", iso)
		if ext == "-J" { // isoinfo knows no UTF-8: it converts Joliet names, and passes Rock Ridge ones through
			listing = []byte(string(latin1(listing)))
		}
		for line := range strings.Lines(string(listing)) {
			line = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "/"), ";1")
			if line != "dir" && line != "dir/sub" && line != "many" {
				got = append(got, line)
			}
		}
		want := paths(fs)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("isoinfo %s shows %q, want %q", ext, got, want)
		}
		for _, f := range fs[:len(fs)-195] {
			name := "/" + f.Path
			if ext == "-J" {
				name = strings.ReplaceAll(name, "ö", "\xf6")
				name = strings.ReplaceAll(name, "ß", "\xdf") + ";1"
			}
			if got := tool(t, "isoinfo", ext, "-j", "iso8859-1", "-x", name, "-i", iso); !bytes.Equal(got, content(t, f)) {
				t.Errorf("isoinfo %s reads %q from %s", ext, got, f.Path)
			}
		}
	}
}

func TestXorrisoAgrees(t *testing.T) {
	fs := files()
	iso := write(t, "CIDATA", fs)
	dir := t.TempDir()
	out := tool(t, "xorriso", "-indev", iso, "-pvd_info", "-check_media", "--", "-osirrox", "on", "-extract", "/", dir)
	if !bytes.Contains(out, []byte("CIDATA")) {
		t.Errorf("xorriso does not see the label:\n%s", out)
	}
	for _, f := range fs {
		got, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil || !bytes.Equal(got, content(t, f)) {
			t.Errorf("%s: xorriso extracts %q, %v", f.Path, got, err)
		}
		i, err := os.Stat(filepath.Join(dir, f.Path))
		if want := max(f.Mode, 0o400); err == nil && f.Mode != 0 && i.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v", f.Path, i.Mode(), want)
		}
	}
	_ = exec.Command("chmod", "-R", "u+w", dir).Run()
}

func TestSameBytesTwice(t *testing.T) {
	var a, b bytes.Buffer
	fs := files()
	if err := iso9660.Write(&a, "CIDATA", fs); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(fs)
	if err := iso9660.Write(&b, "CIDATA", fs); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two images of the same files differ")
	}
}

// TestOverFourGiB puts a file of 4 GiB and a bit between two small ones. xorriso says where the extents are,
// and that is where the content must stand.
func TestOverFourGiB(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 4 GiB")
	}
	const size = 1<<32 + 4096 + 5
	marks := map[int64]string{0: "start", 1<<32 - 2048 - 5: "last of extent 1", 1<<32 - 2048 + 11: "first of extent 2", size - 3: "end"}
	payload := iso9660.File{Path: "big.img", Size: size, Open: func() (io.ReadCloser, error) { return &zeros{marks: marks, left: size}, nil }}
	iso, err := os.Create(filepath.Join(t.TempDir(), "out.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer iso.Close()
	fs := []iso9660.File{iso9660.Bytes("a", []byte("before"), 0), payload, iso9660.Bytes("z", []byte("after"), 0)}
	if err := iso9660.Write(sparse{iso}, "PAYLOAD", fs); err != nil {
		t.Fatal(err)
	}
	if end, _ := iso.Seek(0, io.SeekCurrent); iso.Truncate(end) != nil {
		t.Fatal("cannot end the image")
	}
	// File data lba:  number , startlba ,  blocks , size , path
	out := string(tool(t, "xorriso", "-indev", iso.Name(), "-find", "/", "-type", "f", "-exec", "report_lba", "--"))
	var starts []int64
	var total int64
	for _, m := range regexp.MustCompile(`(?m)^File data lba:\s*\d+ ,\s*(\d+) ,\s*\d+ ,\s*(\d+) , '/big.img'`).FindAllStringSubmatch(out, -1) {
		at, _ := strconv.ParseInt(m[1], 10, 64)
		n, _ := strconv.ParseInt(m[2], 10, 64)
		starts, total = append(starts, at*2048), n
	}
	if len(starts) != 2 || total != size {
		t.Fatalf("xorriso sees %d extents and %d bytes, want 2 and %d:\n%s", len(starts), total, int64(size), out)
	}
	for at, want := range marks {
		where, extent := starts[0]+at, int64(1<<32-2048)
		if at >= extent {
			where = starts[1] + at - extent
		}
		got := make([]byte, len(want))
		if _, err := iso.ReadAt(got, where); err != nil || string(got[:min(5, len(got))]) != want[:min(5, len(want))] {
			t.Errorf("at %d stands %q, %v, want %q", at, got, err, want)
		}
	}
	for name, want := range map[string]string{"/A.;1": "before", "/Z.;1": "after"} {
		if got := tool(t, "isoinfo", "-x", name, "-i", iso.Name()); string(got) != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
}

// zeros reads as zeros with marks in them.
type zeros struct {
	marks    map[int64]string
	at, left int64
}

func (z *zeros) Read(b []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), z.left)]
	clear(b)
	for at, s := range z.marks {
		for i := range s {
			if k := at + int64(i) - z.at; k >= 0 && k < int64(len(b)) {
				b[k] = s[i]
			}
		}
	}
	z.at, z.left = z.at+int64(len(b)), z.left-int64(len(b))
	return len(b), nil
}

func (z *zeros) Close() error { return nil }

// sparse leaves holes where zeros would be written.
type sparse struct{ f *os.File }

func (s sparse) Write(b []byte) (int, error) {
	if len(bytes.Trim(b, "\x00")) > 0 {
		return s.f.Write(b)
	}
	_, err := s.f.Seek(int64(len(b)), io.SeekCurrent)
	return len(b), err
}

func TestRefuses(t *testing.T) {
	one := func(path string) []iso9660.File { return []iso9660.File{iso9660.Bytes(path, nil, 0)} }
	for name, tc := range map[string]struct {
		label string
		files []iso9660.File
		want  string
	}{
		"name too long":  {"X", one(strings.Repeat("n", 104)), "too long"},
		"bytes too long": {"X", one(strings.Repeat("ä", 71)), "too long"},
		"colon":          {"X", one("a:b"), "':'"},
		"too deep":       {"X", one("a/b/c/d/e/f/g/h/i"), "deeper"},
		"absolute":       {"X", one("/a"), "clean relative"},
		"escapes":        {"X", one("../a"), "clean relative"},
		"not UTF-8":      {"X", one("a\xff"), "UTF-8"},
		"twice":          {"X", append(one("a"), one("a")...), "taken"},
		"file and dir":   {"X", append(one("a"), one("a/b")...), "taken"},
		"lower label":    {"cidata", nil, "label"},
		"shorter":        {"X", []iso9660.File{{Path: "a", Size: 5, Open: reader("abc")}}, "shorter"},
		"longer":         {"X", []iso9660.File{{Path: "a", Size: 2, Open: reader("abc")}}, "longer"},
	} {
		t.Run(name, func(t *testing.T) {
			err := iso9660.Write(io.Discard, tc.label, tc.files)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func reader(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

func paths(fs []iso9660.File) []string {
	var out []string
	for _, f := range fs {
		out = append(out, f.Path)
	}
	slices.Sort(out)
	return out
}

func content(t testing.TB, f iso9660.File) []byte {
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func latin1(b []byte) []rune {
	var out []rune
	for _, c := range b {
		out = append(out, rune(c))
	}
	return out
}
