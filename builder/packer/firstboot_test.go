package packer

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// TestBundledFirstBoot: a released plugin unpacks the program that it carries, once.
func TestBundledFirstBoot(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Cleanup(func() { Bundled = nil })
	if _, err := findFirstBoot("arm64"); err == nil {
		t.Fatal("there is none")
	}
	Bundled = fstest.MapFS{"dorunner-firstboot-linux-arm64": {Data: []byte("program")}}
	for range 2 {
		file, err := findFirstBoot("arm64")
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != "program" {
			t.Errorf("%s: %q, %v", file, text, err)
		}
	}
	if _, err := findFirstBoot("amd64"); err == nil || !strings.Contains(err.Error(), "dorunner-firstboot-linux-amd64") {
		t.Errorf("what is not carried: %v", err)
	}
}
