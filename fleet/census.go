package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Member is a machine of a group.
type Member struct {
	ID        string    `json:"id"`
	Self      string    `json:"instance_id,omitempty"` // what the machine itself calls its id; "" when that is ID
	Zone      string    `json:"zone,omitempty"`
	Size      string    `json:"size,omitempty"`
	State     string    `json:"state"`     // the cloud's: pending, running, terminated
	Lifecycle string    `json:"lifecycle"` // the group's, in the cloud's own words: InService, Terminating:Wait
	Phase     Phase     `json:"phase"`     // the same, for every cloud
	Unhealthy bool      `json:"unhealthy,omitempty"`
	Protected bool      `json:"protected,omitempty"` // from scale-in: a job runs
	Spot      bool      `json:"spot,omitempty"`
	Image     string    `json:"image,omitempty"`
	Baked     time.Time `json:"baked,omitzero"`     // when its image was
	Outdated  bool      `json:"outdated,omitempty"` // made from an older template than the group's newest
	Launched  time.Time `json:"launched,omitzero"`
	Runner    *Runner   `json:"runner,omitempty"` // what GitLab knows of it; nil when it was not asked or knows nothing
}

// self is the id by which the machine makes itself known.
func (m *Member) self() string { return cmp.Or(m.Self, m.ID) }

// Phase is where a machine is in its life.
type Phase string

// The phases.
const (
	Coming  Phase = "coming"  // launched, its runner not online yet
	Serving Phase = "serving" // its runner was online, and jobs may run
	Leaving Phase = "leaving" // draining
)

// Census is a group at one moment.
type Census struct {
	Exists  bool      `json:"exists"`
	Min     int       `json:"min"`
	Max     int       `json:"max"`
	Desired int       `json:"desired"`
	Members []*Member `json:"members"`
	Trouble []string  `json:"trouble,omitempty"` // what the engine says of machines that it could not start, newest first
	Roll    *Rolling  `json:"roll,omitempty"`    // the newest roll
}

// Rolling is a replacement of machines under way or past.
type Rolling struct {
	ID      string    `json:"id"`
	Status  string    `json:"status"` // in the cloud's own words
	Percent int       `json:"percent"`
	Left    int       `json:"left"`             // machines still to replace
	Reason  string    `json:"reason,omitempty"` // why it does not go on, or failed
	Started time.Time `json:"started,omitzero"`
	Done    bool      `json:"done"`
	Failed  bool      `json:"failed"` // done, and not as was wanted
}

// Machines is a number of machines as people write it.
func Machines(n int) string {
	if n == 1 {
		return "1 machine"
	}
	return fmt.Sprintf("%d machines", n)
}

// In counts the members in a phase.
func (c *Census) In(p Phase) int {
	n := 0
	for _, m := range c.Members {
		if m.Phase == p {
			n++
		}
	}
	return n
}

// Settled says that there are as many machines as wanted, all serving.
func (c *Census) Settled() bool { return c.In(Serving) == c.Desired && c.In(Coming) == 0 }

func (c *Census) String() string {
	text := fmt.Sprintf("%d of %d online", c.In(Serving), c.Desired)
	if n := c.In(Coming); n > 0 {
		text += fmt.Sprintf(", %d booting", n)
	}
	if n := c.In(Leaving); n > 0 {
		text += fmt.Sprintf(", %d leaving", n)
	}
	return text
}

// Sort puts members in the order of their launch.
func (c *Census) Sort() {
	slices.SortFunc(c.Members, func(a, b *Member) int { return cmp.Or(a.Launched.Compare(b.Launched), cmp.Compare(a.ID, b.ID)) })
}
