// Package firstboot turns a booted image into an online runner: the boot pipeline, its journal, watching and
// draining. It touches the world only through Host and Platform, so that every failure can be rehearsed.
package firstboot

import (
	"context"
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

// Marker is a Platform that can tell the outside how first boot ended: a launch hook completed or abandoned, an
// instance set unhealthy.
type Marker interface {
	Online(ctx context.Context) error
	Unhealthy(ctx context.Context, reason string) error
}
