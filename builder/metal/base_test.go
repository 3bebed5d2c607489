package metal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// mirror serves one disk and its SHA256SUMS as a publisher does.
type mirror struct {
	disk   []byte
	ranges atomic.Int32 // requests for a part
	whole  atomic.Int32 // requests for all of it
	cut    atomic.Int64 // when not 0, the connection breaks after so many bytes, once
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/SHA256SUMS":
		sum := sha256.Sum256(m.disk)
		_, _ = w.Write([]byte(strings.Repeat("0", 64) + " *other.img\n" + hex.EncodeToString(sum[:]) + " *disk.img\n"))
	case "/disk.img":
		if r.Header.Get("Range") != "" {
			m.ranges.Add(1)
		} else {
			m.whole.Add(1)
		}
		if n := m.cut.Swap(0); n != 0 {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(m.disk[:n])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "disk.img", time.Time{}, bytes.NewReader(m.disk))
	default:
		http.NotFound(w, r)
	}
}

// baseEnv is what openBase needs, with a cache of its own.
func baseEnv(t *testing.T, url string) *builder.Env {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	return &builder.Env{Progress: builder.Discard(), Plan: &images.Plan{Base: images.Base{OS: "ubuntu-20.04", DiskURL: url + "/disk.img", SHA256URL: url + "/SHA256SUMS"}}}
}

func TestBaseIsDownloadedOnceAndContinued(t *testing.T) {
	needTool(t, "qemu-img")
	m := &mirror{disk: bytes.Repeat([]byte("0123456789abcdef"), 1<<16)} // raw, as far as qemu-img can tell
	server := httptest.NewServer(m)
	defer server.Close()
	env := baseEnv(t, server.URL)

	m.cut.Store(300_000)
	if _, err := openBase(t.Context(), env); err == nil || !strings.Contains(err.Error(), "run again to continue") {
		t.Fatalf("a broken download gives %v", err)
	}
	b, err := openBase(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(b.file)
	if err != nil || !bytes.Equal(got, m.disk) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if m.ranges.Load() != 1 || m.whole.Load() != 1 {
		t.Errorf("%d whole and %d partial downloads", m.whole.Load(), m.ranges.Load())
	}
	if b.source != server.URL+"/disk.img" || len(b.digest) != 64 {
		t.Errorf("got %+v", b)
	}
	if _, err := openBase(t.Context(), env); err != nil || m.whole.Load()+m.ranges.Load() != 2 {
		t.Errorf("the cache was not used: %v", err)
	}
	// The publisher is gone: what was checked before will do.
	server.Close()
	if again, err := openBase(t.Context(), env); err != nil || again.digest != b.digest || again.source != b.source {
		t.Errorf("got %+v, %v", again, err)
	}
}

func TestBaseThatIsWrong(t *testing.T) {
	server := httptest.NewServer(&mirror{disk: []byte("disk")})
	defer server.Close()
	env := baseEnv(t, server.URL)
	file := filepath.Join(t.TempDir(), "own.img")
	if err := os.WriteFile(file, []byte("own"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name string
		m    images.Metal
		row  images.Base
		want string
	}{
		{"another sum of an address", images.Metal{Base: server.URL + "/disk.img", BaseSHA256: other}, images.Base{}, "and " + other + " is wanted"},
		{"another sum of a file", images.Metal{Base: file, BaseSHA256: strings.ToUpper(other)}, images.Base{}, "and " + other + " is wanted"},
		{"no such file", images.Metal{Base: file + "x"}, images.Base{}, "no such file"},
		{"no such address", images.Metal{Base: server.URL + "/none", BaseSHA256: other}, images.Base{}, "404"},
		{"not published", images.Metal{}, images.Base{DiskURL: server.URL + "/x.img", SHA256URL: server.URL + "/SHA256SUMS"}, "does not list x.img; download the disk elsewhere"},
		{"nowhere", images.Metal{}, images.Base{OS: "plan9"}, "give one with --base"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env.Plan = &images.Plan{Base: tt.row, Spec: images.Spec{Metal: tt.m}}
			if _, err := openBase(t.Context(), env); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
			dir, err := cacheDir()
			if err != nil {
				t.Fatal(err)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "[^l]*"))
			for _, f := range left {
				if info, err := os.Stat(f); err != nil || info.Size() > 0 {
					t.Errorf("left in the cache: %s", f)
				}
			}
		})
	}
}

func TestBaseInAnotherFormat(t *testing.T) {
	needTool(t, "qemu-img")
	env := baseEnv(t, "")
	dir := t.TempDir()
	disk, top := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "top.qcow2")
	for _, args := range [][]string{{"create", "-q", "-f", "qcow2", disk, "1M"}, {"create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk, top}} {
		if err := run(t.Context(), "qemu-img", args...); err != nil {
			t.Fatal(err)
		}
	}
	env.Plan.Spec.Metal.Base = disk
	b, err := openBase(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(b.file); err != nil || info.Size() != 1<<20 || b.source != disk {
		t.Errorf("%+v: %v", b, err)
	}
	env.Plan.Spec.Metal.Base = top
	if _, err := openBase(t.Context(), env); err == nil || !strings.Contains(err.Error(), "flatten it") {
		t.Errorf("got %v", err)
	}
}

// needTool skips a test where a program is not installed; the project's setup installs it.
func needTool(t *testing.T, name string) {
	t.Helper()
	if errs := missingTools(map[string]string{name: name}); errs != nil {
		t.Skip(errs)
	}
}
