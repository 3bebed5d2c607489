package fleet

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Status is a group as the cloud and GitLab see it together.
type Status struct {
	*Census
	Asked       bool      `json:"gitlab"`                // whether GitLab was
	Runnerless  []*Member `json:"runnerless,omitempty"`  // machines that serve, says the cloud, and whose runner GitLab does not hear
	Machineless []*Runner `json:"machineless,omitempty"` // runners of machines that are gone
}

// Look joins what the cloud and GitLab know. Without GitLab (nil) the machines' runners stay unknown.
func Look(ctx context.Context, g *Group, c Cloud, l *GitLab) (*Status, error) {
	census, err := c.Census(ctx)
	if err != nil {
		return nil, err
	}
	s := &Status{Census: census}
	census.Sort()
	if l == nil {
		return s, nil
	}
	runners, err := l.Runners(ctx, g)
	if err != nil {
		return s, err
	}
	s.Asked = true
	s.join(g, runners, time.Now())
	return s, nil
}

// join finds each machine's runner. Orphans are only what has been silent long enough to be sure of: GitLab counts a
// runner as online for two hours.
func (s *Status) join(g *Group, runners []*Runner, now time.Time) {
	bySystem, byInstance := map[string]*Runner{}, map[string]*Runner{}
	form := g.pattern()
	for _, r := range runners {
		if r.SystemID != "" {
			bySystem[r.SystemID] = r
		} else if m := form.FindStringSubmatch(r.Description); len(m) > 1 { // its own name tells the machine's id
			byInstance[m[1]] = r
		}
	}
	known := map[*Runner]bool{}
	for _, m := range s.Members {
		m.Runner = byInstance[m.self()]
		if m.Runner == nil {
			m.Runner = bySystem[runner.SystemID(m.self())]
		}
		if m.Runner != nil {
			known[m.Runner] = true
		}
		if m.Phase == Serving && (m.Runner == nil || m.Runner.Status != "online") && now.Sub(m.Launched) > g.BootLimit() {
			s.Runnerless = append(s.Runnerless, m)
		}
	}
	for _, r := range runners {
		// One that was made a moment ago may be a machine's that the cloud was asked about before there was one.
		if !known[r] && r.Status != "online" && now.Sub(r.Created) > g.BootLimit() {
			s.Machineless = append(s.Machineless, r)
		}
	}
}

// instancePlace is what stands for the instance's id in a description.
const instancePlace = "\x00"

// pattern matches the descriptions of the group's machines; its one group is the instance's id.
func (g *Group) pattern() *regexp.Regexp {
	facts := runner.Facts{InstanceID: instancePlace, Hostname: "\x01", Region: "\x01", Zone: "\x01"}
	text, err := g.Runner.Describe(facts)
	if err != nil { // it was validated
		return regexp.MustCompile(`^$`)
	}
	form := regexp.QuoteMeta(text)
	form = strings.Replace(form, instancePlace, `([0-9a-zA-Z-]+)`, 1)
	form = strings.NewReplacer(instancePlace, `[0-9a-zA-Z-]+`, "\x01", `.+`).Replace(form)
	return regexp.MustCompile("^" + form + "$")
}

// Clean removes orphans on both sides: runners of machines that are gone, and machines that GitLab does not hear, which
// the group replaces. told is called after each.
func (s *Status) Clean(ctx context.Context, c Cloud, l *GitLab, told func(string)) error {
	var errs []error
	for _, r := range s.Machineless {
		if err := l.Remove(ctx, r); err != nil {
			errs = append(errs, err)
			continue
		}
		told(fmt.Sprintf("removed runner %d (%s)", r.ID, r.Description))
	}
	cleaner, can := c.(Cleaner)
	for _, m := range s.Runnerless {
		if !can {
			errs = append(errs, fmt.Errorf("machine %s has no runner, and this cloud's groups replace none on request", m.ID))
			continue
		}
		if err := cleaner.Replace(ctx, m.ID); err != nil {
			errs = append(errs, fmt.Errorf("machine %s: %w", m.ID, err))
			continue
		}
		told("replacing machine " + m.ID)
	}
	return errors.Join(errs...)
}
