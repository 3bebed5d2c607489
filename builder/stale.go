package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Undoer is a Cloud that can give back what another, killed bake of its kind recorded: how, by kind of entry.
type Undoer interface {
	Undoes() map[string]Undo
}

// StateDir is where ledgers are: $DORUNNER_STATE_DIR, else dorunner-bake in $XDG_STATE_HOME or ~/.local/state.
func StateDir() (string, error) {
	if dir := os.Getenv("DORUNNER_STATE_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "dorunner-bake"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no directory to keep state in: %w; set DORUNNER_STATE_DIR", err)
	}
	return filepath.Join(home, ".local", "state", "dorunner-bake"), nil
}

// LedgerFile is where the bake with this id writes its ledger.
func LedgerFile(bakeID string) (string, error) {
	dir, err := StateDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "ledgers", bakeID+".jsonl"), nil
}

// Stale is a ledger whose bake is no longer alive.
type Stale struct {
	File    string
	BakeID  string
	Entries []Entry // what it left, oldest first
}

// StaleLedgers lists the ledgers of bakes that were killed. A ledger that cannot be read is named in the error; the
// others are listed all the same.
func StaleLedgers() ([]Stale, error) {
	var out []Stale
	err := eachStale(func(s Stale, _ *Ledger) error {
		out = append(out, s)
		return nil
	})
	return out, err
}

// CleanStale gives back what killed bakes left, as far as undo knows every kind in a ledger; the others are
// returned untouched.
func CleanStale(ctx context.Context, undo map[string]Undo, told func(Entry, error)) (left []Stale, err error) {
	err = eachStale(func(s Stale, l *Ledger) error {
		if unknown := l.Adopt(withOwn(undo)); len(unknown) > 0 {
			left = append(left, s)
			return nil
		}
		return l.Unwind(ctx, told)
	})
	return left, err
}

// eachStale opens, and so locks, each dead ledger in turn. An empty one is removed on closing.
func eachStale(do func(Stale, *Ledger) error) error {
	dir, err := StateDir()
	if err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(dir, "ledgers", "*.jsonl"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		l, err := OpenLedger(name)
		if errors.Is(err, ErrLedgerHeld) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if entries := l.Entries(); len(entries) > 0 {
			s := Stale{File: name, BakeID: strings.TrimSuffix(filepath.Base(name), ".jsonl"), Entries: entries}
			errs = append(errs, do(s, l))
		}
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// The kinds that the engine itself records.
const (
	kindWorkDir = "work-dir"
	kindOutDir  = "out-dir"
)

// withOwn adds the engine's own kinds.
func withOwn(undo map[string]Undo) map[string]Undo {
	all := map[string]Undo{kindWorkDir: removeWorkDir, kindOutDir: removeOutDir}
	for k, u := range undo {
		all[k] = u
	}
	return all
}

// removeWorkDir removes a bake's scratch. It refuses while something is mounted in it: removing would go through the
// mount into whatever is there.
func removeWorkDir(_ context.Context, e Entry) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a system without /proc has no such mounts of ours
		return err
	}
	for l := range strings.Lines(string(mounts)) {
		if f := strings.Fields(l); len(f) > 4 && (f[4] == e.ID || strings.HasPrefix(f[4], e.ID+"/")) {
			return fmt.Errorf("%s is still mounted: unmount it, then remove %s", f[4], e.ID)
		}
	}
	return os.RemoveAll(e.ID)
}

// removeOutDir removes a results directory that the bake made, unless there is a result in it.
func removeOutDir(_ context.Context, e Entry) error {
	left, err := os.ReadDir(e.ID)
	if errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(e.ID)
}
