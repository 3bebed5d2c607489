package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
)

const (
	eventsVersion = "2020-07-01"
	// eventsInterval leaves most of the thirty seconds that a Preempt event gives, and of metadata's five requests
	// a second.
	eventsInterval = 2 * time.Second
	// eventsLimit is more than the two minutes that the first question of a machine may take: it switches the service on.
	eventsLimit = 130 * time.Second
)

// event is one scheduled event.
type event struct {
	ID        string   `json:"EventId"`
	Type      string   `json:"EventType"`
	Resources []string `json:"Resources"`
	Status    string   `json:"EventStatus"`
	NotBefore string   `json:"NotBefore"`
}

// Notices tells of the events that end this machine, Terminate and Preempt, each once.
func (p *Platform) Notices(ctx context.Context) <-chan firstboot.Notice {
	out := make(chan firstboot.Notice)
	go func() {
		tick := time.NewTicker(eventsInterval)
		defer tick.Stop()
		told := map[string]bool{}
		for {
			for _, n := range p.events(ctx, told) {
				select {
				case out <- n:
				case <-ctx.Done():
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// events asks once; what goes wrong is asked again two seconds later.
func (p *Platform) events(ctx context.Context, told map[string]bool) []firstboot.Notice {
	m, err := p.machine(ctx)
	if err != nil {
		return nil
	}
	b, err := p.ask(ctx, eventsLimit, http.MethodGet, "scheduledevents", eventsVersion, nil)
	if err != nil {
		return nil
	}
	var doc struct{ Events []event }
	if json.Unmarshal(b, &doc) != nil {
		return nil
	}
	var out []firstboot.Notice
	for _, e := range doc.Events {
		// Every machine of an availability set sees the events of all.
		if (e.Type != "Terminate" && e.Type != "Preempt") || !slices.Contains(e.Resources, m.name) || told[e.ID] {
			continue
		}
		told[e.ID] = true
		n := firstboot.Notice{Kind: strings.ToLower(e.Type)}
		if t, err := time.Parse(time.RFC1123, e.NotBefore); err == nil { // empty once it has started
			n.Deadline = t
		}
		if len(e.Resources) == 1 { // approving an event lets it happen to all that it names
			n.Complete = func(ctx context.Context) error { return p.approve(ctx, e.ID) }
		}
		out = append(out, n)
	}
	return out
}

// approve lets an event happen now instead of at its deadline.
func (p *Platform) approve(ctx context.Context, id string) error {
	body, err := json.Marshal(map[string]any{"StartRequests": []map[string]string{{"EventId": id}}})
	if err != nil {
		return err
	}
	if _, err := p.ask(ctx, eventsLimit, http.MethodPost, "scheduledevents", eventsVersion, body); err != nil {
		return fmt.Errorf("approve the scheduled event %s: %w", id, err)
	}
	return nil
}
