package builder

import (
	"context"
	"time"
)

// Ledger is what a bake created and how to give it back. It is on disk before each wait, so that a bake that was
// killed can be cleaned up by the next one or by `dorunner-bake gc`.
type Ledger struct{}

// Entry is one created resource.
type Entry struct {
	Kind   string            `json:"kind"` // "instance", "security-group", "loop-device", "file"
	ID     string            `json:"id"`
	Region string            `json:"region,omitempty"`
	Attrs  map[string]string `json:"attrs,omitempty"` // what giving it back needs besides the id
	Time   time.Time         `json:"time"`
}

// Undo gives one entry back. What is already gone is success.
type Undo func(ctx context.Context, e Entry) error

// OpenLedger starts a ledger in file (its directory is made).
func OpenLedger(file string) (*Ledger, error) { return nil, nil }

// ReadLedger reads what a killed bake left. A torn last line is dropped.
func ReadLedger(file string) ([]Entry, error) { return nil, nil }

// Record writes the entry to disk before it returns. Record a resource the moment its id exists.
func (l *Ledger) Record(e Entry, undo Undo) error { return nil }

// Update rewrites an entry's attributes (a resume token, a state), on disk before it returns.
func (l *Ledger) Update(e Entry) error { return nil }

// Done forgets an entry that has been given back in the ordinary course of things.
func (l *Ledger) Done(kind, id string) error { return nil }

// Keep forgets an entry that is the result and must stay.
func (l *Ledger) Keep(kind, id string) error { return nil }

// Entries lists what is not given back yet, oldest first.
func (l *Ledger) Entries() []Entry { return nil }

// Unwind gives everything back, newest first, past errors. Its error joins them and names what is left. Call it
// with a context of its own: the bake's is often already cancelled.
func (l *Ledger) Unwind(ctx context.Context, told func(Entry, error)) error { return nil }

// Close removes the file when nothing is left in it.
func (l *Ledger) Close() error { return nil }
