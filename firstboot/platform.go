// Package firstboot turns a booted image into an online runner: the boot pipeline, its journal, watching and
// draining. It touches the world only through Host and Platform, so that every failure can be rehearsed.
package firstboot

import (
	"context"
	"errors"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Identity is which machine this is, as its platform says.
type Identity struct {
	InstanceID string
	Region     string
	Zone       string
	Hostname   string
	// Overlay are the tags "dorunner:KEY" (EC2) or "dorunner-KEY" (Azure), by KEY: they win over user-data.
	Overlay map[string]string
}

// Platform is where the machine runs. Waits inside are bounded; the error says what was asked and how often.
type Platform interface {
	Name() string // aws, azure or nocloud
	Identity(ctx context.Context) (Identity, error)
	// Secret fetches what a reference names. References that need no cloud (file, env, credential) never reach it.
	Secret(ctx context.Context, ref runner.Secret) (string, error)
	// Notices tells of the machine's coming end until ctx ends; nil when the platform has none.
	Notices(ctx context.Context) <-chan Notice
}

// Notice says that the platform is about to take the machine away.
type Notice struct {
	Kind     string    // lifecycle, spot, terminate, preempt
	Deadline time.Time // when it will happen whatever we do; zero when unknown
	// Heartbeat asks for more time while jobs run; Complete says that the machine may go. Either may be nil.
	Heartbeat func(context.Context) error
	Complete  func(context.Context) error
}

// Marker is a Platform that can tell the outside how first boot ended.
type Marker interface {
	// Online completes the launch hook of a group that waits for it.
	Online(ctx context.Context) error
	// Failed has such a group give this machine up; done says that one waited.
	Failed(ctx context.Context) (done bool, err error)
	// Unhealthy has the group replace a machine that it already counts on.
	Unhealthy(ctx context.Context, reason string) error
}

// Load is how busy a machine is: of so many job slots, so many have a job.
type Load struct{ Jobs, Slots int }

// Samples are one for each slot, 100 for one that is busy and 0 for one that is not: their sum, and their average.
func (l Load) Samples() (sum, average float64) {
	sum = 100 * float64(l.Jobs)
	return sum, sum / float64(l.Slots)
}

// Publisher is a Platform with a store of metrics that groups are scaled on.
type Publisher interface {
	PublishLoad(ctx context.Context, l Load) error
}

// Protector is a Platform whose groups leave a protected machine alone when they shrink.
type Protector interface {
	// Protect may fail with ErrNotInService.
	Protect(ctx context.Context, on bool) error
}

// ErrNotInService says that a group does not count on this machine, not yet or no more: it is in no danger.
var ErrNotInService = errors.New("the machine is not in service")
