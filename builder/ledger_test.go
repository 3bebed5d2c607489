package builder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func names(entries []Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.String())
	}
	return out
}

func mustOpen(t *testing.T, file string) *Ledger {
	t.Helper()
	l, err := OpenLedger(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestUnwindGoesBackwardsPastErrorsAndNamesWhatIsLeft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "l.jsonl")
	l := mustOpen(t, file)
	var order []string
	undo := func(_ context.Context, e Entry) error {
		order = append(order, e.ID)
		if e.ID == "b" {
			return errors.New("in use")
		}
		return nil
	}
	for _, id := range []string{"a", "b", "c", "result", "gone"} {
		if err := l.Record(Entry{Kind: "volume", ID: id, Region: "eu"}, undo); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Keep("volume", "result"), l.Done("volume", "gone"), l.Done("volume", "never")); err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	err := l.Unwind(context.Background(), func(e Entry, err error) { told[e.ID] = err == nil })
	if got := strings.Join(order, " "); got != "c b a" {
		t.Errorf("undone in the order %q", got)
	}
	if err == nil || !strings.Contains(err.Error(), "volume b (eu): in use") || strings.Contains(err.Error(), "volume a") {
		t.Errorf("the error names the wrong things: %v", err)
	}
	if want := map[string]bool{"a": true, "b": false, "c": true}; !reflect.DeepEqual(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := ReadLedger(file)
	if err != nil || !reflect.DeepEqual(names(left), []string{"volume b (eu)"}) {
		t.Errorf("on disk: %v, %v", names(left), err)
	}

	// The next bake knows how, and then the file is gone.
	l = mustOpen(t, file)
	if unknown := l.Adopt(map[string]Undo{"instance": nil}); len(unknown) != 1 {
		t.Errorf("unknown: %v", unknown)
	}
	if err := l.Unwind(context.Background(), nil); err == nil {
		t.Error("an entry of unknown kind was passed over in silence")
	}
	if unknown := l.Adopt(map[string]Undo{"volume": func(context.Context, Entry) error { return nil }}); len(unknown) != 0 {
		t.Errorf("unknown: %v", unknown)
	}
	if err := errors.Join(l.Unwind(context.Background(), nil), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty ledger is left: %v", err)
	}
}

func TestUnwindStopsUndoingWhenItsContextEnds(t *testing.T) {
	l := mustOpen(t, filepath.Join(t.TempDir(), "l"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	undone := 0
	for i := range 3 {
		if err := l.Record(Entry{Kind: "k", ID: fmt.Sprint(i)}, func(context.Context, Entry) error {
			undone++
			cancel()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	err := l.Unwind(ctx, nil)
	if undone != 1 || !errors.Is(err, context.Canceled) || len(l.Entries()) != 2 {
		t.Errorf("undone %d, left %v, error %v", undone, l.Entries(), err)
	}
}

func TestUpdateIsReadBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "l")
	l := mustOpen(t, file)
	if err := l.Record(Entry{Kind: "vm", ID: "1"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Update(Entry{Kind: "vm", ID: "1", Attrs: map[string]string{"token": "t"}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Update(Entry{Kind: "vm", ID: "2"}); err == nil {
		t.Error("updated what was never recorded")
	}
	got, err := ReadLedger(file)
	if err != nil || len(got) != 1 || got[0].Attrs["token"] != "t" || got[0].Time.IsZero() {
		t.Errorf("read %+v, %v", got, err)
	}
}

// However much of the last line a crash left, reading drops it and the next record starts a line of its own.
func TestTornLastLine(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	l := mustOpen(t, whole)
	for _, id := range []string{"1", "2"} {
		if err := l.Record(Entry{Kind: "k", ID: id}, nil); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.IndexByte(string(data), '\n') + 1
	for n := range data {
		file := filepath.Join(dir, "torn")
		if err := os.WriteFile(file, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := []string{"k 1"}
		if n < first {
			want = nil
		}
		got, err := ReadLedger(file)
		if err != nil || !reflect.DeepEqual(names(got), want) {
			t.Fatalf("%d bytes: read %v, %v", n, names(got), err)
		}
		l, err := OpenLedger(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Record(Entry{Kind: "k", ID: "3"}, nil), l.Close()); err != nil {
			t.Fatal(err)
		}
		got, err = ReadLedger(file)
		if err != nil || !reflect.DeepEqual(names(got), append(want, "k 3")) {
			t.Fatalf("%d bytes: after going on: %v, %v", n, names(got), err)
		}
	}
}

func TestDamageInTheMiddleIsSaid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "l")
	if err := os.WriteFile(file, []byte("{\"op\":\"rec\x00\n{\"op\":\"record\",\"kind\":\"k\",\"id\":\"1\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLedger(file); err == nil || !strings.Contains(err.Error(), "line 1 is damaged") {
		t.Errorf("error: %v", err)
	}
}

// A bake that is killed with SIGKILL leaves its ledger, whole and unlocked; while it lives nobody may take it.
func TestSIGKILL(t *testing.T) {
	if file := os.Getenv("LEDGER_OF_CHILD"); file != "" {
		childOfSIGKILL(file)
	}
	t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
	file, err := LedgerFile("killed")
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestSIGKILL$")
	child.Env = append(os.Environ(), "LEDGER_OF_CHILD="+file)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if l, err := bufio.NewReader(out).ReadString('\n'); l != "ready\n" {
		t.Fatalf("the child says %q, %v", l, err)
	}
	if _, err := OpenLedger(file); !errors.Is(err, ErrLedgerHeld) {
		t.Errorf("a living bake's ledger can be taken: %v", err)
	}
	if stale, err := StaleLedgers(); len(stale) != 0 || err != nil {
		t.Errorf("a living bake's ledger is stale: %v, %v", stale, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()

	stale, err := StaleLedgers()
	if err != nil || len(stale) != 1 || stale[0].BakeID != "killed" || len(stale[0].Entries) != 100 {
		t.Fatalf("stale: %+v, %v", stale, err)
	}
	if left, err := CleanStale(context.Background(), nil, nil); len(left) != 1 || err != nil {
		t.Errorf("what nobody knows how to undo must be left: %v, %v", left, err)
	}
	n := 0
	undo := map[string]Undo{"thing": func(context.Context, Entry) error { n++; return nil }}
	if left, err := CleanStale(context.Background(), undo, nil); len(left) != 0 || err != nil || n != 100 {
		t.Errorf("cleaned %d, left %v, %v", n, left, err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ledger is still there: %v", err)
	}
}

func childOfSIGKILL(file string) {
	l, err := OpenLedger(file)
	for i := 0; err == nil && i < 100; i++ {
		err = l.Record(Entry{Kind: "thing", ID: fmt.Sprint(i)}, func(context.Context, Entry) error { return nil })
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	time.Sleep(time.Hour) // until killed
}

func TestWorkDirOfKilledBakeIsRemoved(t *testing.T) {
	t.Setenv("DORUNNER_STATE_DIR", t.TempDir())
	out := filepath.Join(t.TempDir(), "out")
	work := filepath.Join(out, "work")
	if err := os.MkdirAll(filepath.Join(work, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := LedgerFile("dead")
	if err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, file)
	if err := errors.Join(
		l.Record(Entry{Kind: kindOutDir, ID: out}, nil), l.Record(Entry{Kind: kindWorkDir, ID: work}, nil), l.Close(),
	); err != nil {
		t.Fatal(err)
	}
	if left, err := CleanStale(context.Background(), nil, nil); len(left) != 0 || err != nil {
		t.Fatalf("left %v, %v", left, err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty results directory is left: %v", err)
	}
}
