package builder

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vbauerster/mpb/v8"
)

var update = flag.Bool("update", false, "write the golden files anew")

// tell plays one bake's progress.
func tell(p Progress) {
	p.Step("preflight")
	p.StepDone("preflight", 120*time.Millisecond, nil)
	p.Step("provision")
	p.Log("Get:1 http://deb.debian.org docker.io")
	for i := range int64(101) {
		p.Count("runner.tar", i*2_000_000, 200_000_000, "bytes")
	}
	p.Count("docker engine", 0, 0, "")
	p.Count("lines", 7, 0, "lines")
	p.Info("docker engine (%s)", "23.1s")
	p.StepDone("provision", 83*time.Second, nil)
	p.Step("prove")
	p.Warn("the container image %s is large", "x")
	p.StepDone("prove", 2*time.Second, errors.New("prove: it does not run"))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./builder -update writes it):\n%s", file, got)
	}
}

func TestProgressLines(t *testing.T) {
	for name, o := range map[string]ProgressOptions{
		"plain": {Kind: "plain"}, "verbose": {Kind: "plain", Verbose: true}, "quiet": {Kind: "quiet"},
		"auto": {}, // no terminal here: the same as plain
	} {
		var b bytes.Buffer
		p, done := NewProgress(&b, o)
		tell(p)
		done()
		if name == "auto" {
			name = "plain"
		}
		golden(t, "progress-"+name+".txt", b.String())
	}
}

func TestProgressEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p, done := NewProgress(&b, ProgressOptions{Kind: "json", Verbose: true})
		tell(p)
		done()
		golden(t, "progress-events.jsonl", b.String())
		for l := range strings.Lines(b.String()) {
			var e Event
			if err := json.Unmarshal([]byte(l), &e); err != nil || e.Event == "" || e.Time.IsZero() {
				t.Errorf("%s: %v", l, err)
			}
		}
	})
}

// The live display leaves the finished steps and messages on the terminal, and nothing of its own line.
func TestProgressLive(t *testing.T) {
	for _, noColor := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var b bytes.Buffer
			l := newLive(&b, ProgressOptions{NoColor: noColor, Verbose: true}, mpb.WithAutoRefresh(), mpb.WithWidth(100))
			l.Step("provision")
			l.Count("runner.tar", 100_000_000, 200_000_000, "bytes")
			time.Sleep(3 * time.Second) // of the bubble's clock: some refreshes
			tell(l)
			l.close()
			got := b.String()
			for _, want := range []string{
				"provision  2.5s  runner.tar 100 of 200 MB  ", "━━━━", "preflight  ", "1m23s", "the container image x is large", "| Get:1",
			} {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in:\n%q", want, got)
				}
			}
			if strings.Contains(got, "\x1b[3") == noColor {
				t.Errorf("colour when noColor is %v", noColor)
			}
			if lastLine := got[strings.LastIndex(strings.TrimRight(got, "\n"), "\n")+1:]; strings.Contains(lastLine, "⠋") {
				t.Errorf("the live line stays: %q", lastLine)
			}
		})
	}
}

func TestNoColorIsHonoured(t *testing.T) {
	// Off a terminal there is no colour at all; the environment decides on one.
	t.Setenv("NO_COLOR", "1")
	var b bytes.Buffer
	p, done := NewProgress(&b, ProgressOptions{})
	tell(p)
	done()
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("escape codes in %q", b.String())
	}
}

func TestCounted(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		unit, want  string
	}{
		{0, 0, "bytes", ""},
		{999, 999, "bytes", "999 of 999 B"},
		{500_000, 1_500_000, "bytes", "0.5 of 1.5 MB"},
		{1_000_000_000, 4_200_000_000, "bytes", "1.0 of 4.2 GB"},
		{3, 7, "layers", "3 of 7 layers"},
		{3, 0, "layers", "3 layers"},
	} {
		if got := counted(c.done, c.total, c.unit); got != c.want {
			t.Errorf("counted(%d, %d, %s) = %q, want %q", c.done, c.total, c.unit, got, c.want)
		}
	}
}

func TestLinesAreHandedOnWhole(t *testing.T) {
	var got []string
	l := &lines{each: func(s string) { got = append(got, s) }}
	for _, part := range []string{"a", "b\r\n", "c\nd\ne", "f"} {
		if _, err := l.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	l.flush()
	l.flush()
	if strings.Join(got, "|") != "ab|c|d|ef" {
		t.Errorf("got %q", got)
	}
}
