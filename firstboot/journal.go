package firstboot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// JournalFile remembers what a boot did on this instance.
const JournalFile = "/var/lib/dorunner/journal.json"

// journal is what cannot be read from the machine itself. It belongs to one instance: a copy of it on another (a
// snapshot, a captured image) is discarded. It holds no secret.
type journal struct {
	InstanceID  string `json:"instance_id"`
	Name        string `json:"name"`
	URL         string `json:"url"`
	Description string `json:"description"`
	// Kind of the token that registered: how to unregister, and who else may share the runner.
	Kind tokenKind `json:"token_kind,omitempty"`
	// Registering stands while a registration is under way whose answer is not on disk yet.
	Registering bool                 `json:"registering,omitempty"`
	Lost        int                  `json:"lost,omitempty"`  // answers to registrations
	Steps       map[string]time.Time `json:"steps,omitempty"` // when each was done; a step that held already is absent
	Warnings    []string             `json:"warnings,omitempty"`
	Failure     string               `json:"failure,omitempty"` // the last boot's, with its step
	Drained     time.Time            `json:"drained,omitzero"`  // the machine has given its runner back
}

// readJournal gives the journal found on disk; nil when there is none, or none that can be read.
func readJournal(h *Host) (*journal, error) {
	data, err := h.readFile(JournalFile)
	if err != nil || data == nil {
		return nil, err
	}
	j := &journal{}
	if json.Unmarshal(data, j) != nil {
		return nil, nil //nolint:nilerr // written by something else: it says nothing
	}
	return j, nil
}

func (j *journal) write(h *Host) error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := h.writeFile(JournalFile, append(data, '\n')); err != nil {
		return fmt.Errorf("write the journal %s: %w", JournalFile, err)
	}
	return nil
}

// done notes a step that was carried out.
func (j *journal) done(h *Host, step string) error {
	if j.Steps == nil {
		j.Steps = map[string]time.Time{}
	}
	j.Steps[step] = h.Now().UTC()
	return j.write(h)
}

// outcome notes how the boot ended; nothing is written when it ended as the last one did.
func (j *journal) outcome(h *Host, failure string) error {
	settled := failure == "" && j.Registering // a kill came between the registration and its note
	if j.Failure == failure && !settled {
		return nil
	}
	j.Failure, j.Registering = failure, j.Registering && !settled
	return j.write(h)
}

// lost counts an answer to a registration that was lost, and has this boot's report and every later one say so, in one
// sentence however often it happened.
func (j *journal) lost(h *Host, desc string) (string, error) {
	j.Lost++
	times, many := "", "a second runner"
	if j.Lost > 1 {
		times, many = fmt.Sprintf(" %d times, the last", j.Lost), fmt.Sprintf("up to %d more runners", j.Lost)
	}
	text := fmt.Sprintf("%s%s at %s: GitLab may hold %s %q that never contacted it; delete such in the group's settings",
		lostAnswer, times, h.Now().UTC().Format(time.RFC3339), many, desc)
	j.Warnings = slices.DeleteFunc(j.Warnings, func(w string) bool { return strings.HasPrefix(w, lostAnswer) })
	j.Warnings = append(j.Warnings, text)
	return text, j.write(h)
}

const lostAnswer = "a registration's answer was lost"

// journalIsOurs loads the journal.
func (b *boot) journalIsOurs(context.Context) (bool, error) {
	j, err := readJournal(b.h)
	if err != nil || j == nil || j.InstanceID != b.id.InstanceID || !j.Drained.IsZero() {
		return false, err
	}
	b.journal = j
	return true, nil
}

// startOver begins a journal of this machine. Where the one found is another machine's, so are its registration,
// its system id and its container: they go first, so that a kill in between finds the same journal again. The
// other machine's runner stays registered: it is its own.
func (b *boot) startOver(ctx context.Context) error {
	old, err := readJournal(b.h)
	if err != nil {
		return err
	}
	if old != nil && old.InstanceID != b.id.InstanceID {
		b.logf("the journal is that of %s: this machine is %s and starts over", old.InstanceID, b.id.InstanceID)
		if err := b.disown(ctx, old); err != nil {
			return fmt.Errorf("discard what belongs to %s: %w", old.InstanceID, err)
		}
	}
	b.journal = &journal{InstanceID: b.id.InstanceID, Name: b.spec.Name, URL: b.spec.URL, Description: b.desc}
	return b.journal.write(b.h)
}

// disown removes from this machine what another one's journal says it made.
func (b *boot) disown(ctx context.Context, old *journal) error {
	for _, name := range []string{old.Name, registerName(old.Name)} {
		c, err := b.docker.inspect(ctx, name)
		if err == nil && c.Config.Labels[labelInstance] == old.InstanceID {
			err = b.docker.remove(ctx, name)
		}
		if err != nil && !isNotFound(err) {
			return err
		}
	}
	dir := configDir(old.Name)
	if err := dropEntry(b.h, dir+"/config.toml", old.Description, old.URL); err != nil {
		return err
	}
	for _, f := range []string{dir + "/register.toml", dir + "/.runner_system_id"} {
		if err := removeFile(b.h.path(f)); err != nil {
			return err
		}
	}
	return nil
}
