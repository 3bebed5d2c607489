package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Ledger is what a bake created and how to give it back. It is on disk before each wait, so that a bake that was
// killed can be cleaned up by the next one or by `dorunner-bake gc`.
//
// The file holds one JSON object per line and only grows; the living bake holds its lock, so an unlocked ledger is
// a dead one's. Its methods may be called from several goroutines.
type Ledger struct {
	file string

	mu      sync.Mutex
	f       *os.File
	entries []held // oldest first
}

// held is an entry with what gives it back; nil after a reopening, until Adopt.
type held struct {
	Entry
	undo Undo
}

// Entry is one created resource.
type Entry struct {
	Kind   string            `json:"kind"` // "instance", "security-group", "loop-device", "file"
	ID     string            `json:"id"`
	Region string            `json:"region,omitempty"`
	Attrs  map[string]string `json:"attrs,omitempty"` // what giving it back needs besides the id
	Time   time.Time         `json:"time"`
}

// String names the entry as a person would: "instance i-1 (eu-west-1)".
func (e Entry) String() string {
	if e.Region == "" {
		return e.Kind + " " + e.ID
	}
	return e.Kind + " " + e.ID + " (" + e.Region + ")"
}

// Undo gives one entry back. What is already gone is success.
type Undo func(ctx context.Context, e Entry) error

// line is one line of the file.
type line struct {
	Op string `json:"op"` // record, update, forget
	Entry
}

// ErrLedgerHeld is returned for the ledger of a bake that is still alive.
var ErrLedgerHeld = errors.New("the bake that writes this ledger is still alive")

// OpenLedger starts a ledger in file (its directory is made), or takes over the one that a killed bake left there:
// then Entries tells what is in it, and Adopt says how to give that back. ErrLedgerHeld while its bake lives.
func OpenLedger(file string) (*Ledger, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	for {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("ledger %s: %w", file, ErrLedgerHeld)
			}
			return nil, fmt.Errorf("ledger %s: lock: %w", file, err)
		}
		// Somebody may have cleaned the file away between opening and locking: then begin again with a new one.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(file)
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			_ = f.Close()
			continue
		}
		l := &Ledger{file: file, f: f}
		if err := errors.Join(l.load(), syncDir(filepath.Dir(file))); err != nil {
			_ = f.Close()
			return nil, err
		}
		return l, nil
	}
}

// load reads what is in the file and cuts off a torn last line, so that the next one does not continue it.
func (l *Ledger) load() error {
	data, err := io.ReadAll(l.f)
	if err != nil {
		return fmt.Errorf("ledger %s: %w", l.file, err)
	}
	entries, whole, err := parseLedger(data)
	if err != nil {
		return fmt.Errorf("ledger %s: %w", l.file, err)
	}
	for _, e := range entries {
		l.entries = append(l.entries, held{Entry: e})
	}
	if whole < len(data) {
		if err := l.f.Truncate(int64(whole)); err != nil {
			return fmt.Errorf("ledger %s: %w", l.file, err)
		}
	}
	return nil
}

// ReadLedger reads what a killed bake left. A torn last line is dropped.
func ReadLedger(file string) ([]Entry, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	entries, _, err := parseLedger(data)
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", file, err)
	}
	return entries, nil
}

// parseLedger plays the lines back. whole is how many bytes of data are complete lines. Only the last line can be
// torn, because every line is synced before the next; damage elsewhere is an error.
func parseLedger(data []byte) (entries []Entry, whole int, err error) {
	whole = bytes.LastIndexByte(data, '\n') + 1
	for i, text := range strings.Split(strings.TrimSuffix(string(data[:whole]), "\n"), "\n") {
		if text == "" {
			continue
		}
		var n line
		if err := json.Unmarshal([]byte(text), &n); err != nil {
			return nil, whole, fmt.Errorf("line %d is damaged: %w; what it named has to be found by hand", i+1, err)
		}
		at := slices.IndexFunc(entries, func(e Entry) bool { return e.Kind == n.Kind && e.ID == n.ID })
		switch {
		case n.Op == "forget" && at >= 0:
			entries = slices.Delete(entries, at, at+1)
		case n.Op == "forget":
		case at >= 0:
			entries[at] = n.Entry
		default:
			entries = append(entries, n.Entry)
		}
	}
	return entries, whole, nil
}

// Record writes the entry to disk before it returns. Record a resource the moment its id exists. When the disk
// refuses, the entry is still held in memory and given back by Unwind.
func (l *Ledger) Record(e Entry, undo Undo) error {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.find(e.Kind, e.ID); at >= 0 {
		l.entries[at] = held{e, undo}
	} else {
		l.entries = append(l.entries, held{e, undo})
	}
	return l.write("record", e)
}

// Update rewrites an entry's attributes (a resume token, a state), on disk before it returns.
func (l *Ledger) Update(e Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.find(e.Kind, e.ID)
	if at < 0 {
		return fmt.Errorf("ledger %s: %s is not in it", l.file, e)
	}
	if e.Time.IsZero() {
		e.Time = l.entries[at].Time
	}
	l.entries[at].Entry = e
	return l.write("update", e)
}

// Done forgets an entry that has been given back in the ordinary course of things.
func (l *Ledger) Done(kind, id string) error { return l.forget(kind, id) }

// Keep forgets an entry that is the result and must stay.
func (l *Ledger) Keep(kind, id string) error { return l.forget(kind, id) }

func (l *Ledger) forget(kind, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.find(kind, id)
	if at < 0 {
		return nil
	}
	e := l.entries[at].Entry
	l.entries = slices.Delete(l.entries, at, at+1)
	return l.write("forget", Entry{Kind: e.Kind, ID: e.ID, Region: e.Region, Time: time.Now().UTC()})
}

// Adopt says how to give back the entries of a ledger that was reopened, by kind. It returns the entries of kinds
// that undo does not know.
func (l *Ledger) Adopt(undo map[string]Undo) (unknown []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.entries {
		h := &l.entries[i]
		if h.undo == nil {
			h.undo = undo[h.Kind]
		}
		if h.undo == nil {
			unknown = append(unknown, h.Entry)
		}
	}
	return unknown
}

// Entries lists what is not given back yet, oldest first.
func (l *Ledger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Entry, len(l.entries))
	for i, h := range l.entries {
		out[i] = h.Entry
	}
	return out
}

// Unwind gives everything back, newest first, past errors. Its error joins them and names what is left. Call it
// with a context of its own: the bake's is often already cancelled.
func (l *Ledger) Unwind(ctx context.Context, told func(Entry, error)) error {
	l.mu.Lock()
	todo := slices.Clone(l.entries)
	l.mu.Unlock()
	var errs []error
	for _, h := range slices.Backward(todo) {
		err := ctx.Err()
		switch {
		case err != nil:
		case h.undo == nil:
			err = errors.New("nothing here knows how to give it back")
		default:
			err = h.undo(ctx, h.Entry)
		}
		if told != nil {
			told(h.Entry, err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("left behind: %s: %w", h.Entry, err))
			continue
		}
		// Forgetting late is harmless: what is already gone is given back without complaint.
		if err := l.forget(h.Kind, h.ID); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close removes the file when nothing is left in it, and lets go of it in any case.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	var err error
	if len(l.entries) == 0 {
		if err = os.Remove(l.file); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	err = errors.Join(err, l.f.Close())
	l.f = nil
	return err
}

func (l *Ledger) find(kind, id string) int {
	return slices.IndexFunc(l.entries, func(h held) bool { return h.Kind == kind && h.ID == id })
}

func (l *Ledger) write(op string, e Entry) error {
	if l.f == nil {
		return fmt.Errorf("ledger %s: it is closed", l.file)
	}
	b, err := json.Marshal(line{op, e})
	if err == nil {
		_, err = l.f.Write(append(b, '\n'))
	}
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("ledger %s: record %s: %w", l.file, e, err)
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
