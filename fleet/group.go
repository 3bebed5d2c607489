package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/images"
)

// Group is a fleet as the spec wants it, decided: what every cloud needs to know.
type Group struct {
	images.Fleet
	Plan     *images.Plan
	Runner   runner.Spec // who the machines are
	UserData []byte      // tells them so, compressed, with references only
}

// ErrNoFleet is returned for a spec that has none.
var ErrNoFleet = errors.New("the spec has no fleet: give it a section fleet with a name and max (`dorunner-bake init -` shows one)")

// NewGroup decides who the machines of a fleet are. The error is of the spec: what cannot be a group.
func NewGroup(p *images.Plan) (*Group, error) {
	g := &Group{Fleet: p.Spec.Fleet, Plan: p, Runner: p.Runner()}
	if g.Max == 0 {
		return nil, ErrNoFleet
	}
	// Machines that GitLab cannot tell apart are of no use to whoever looks for one.
	if g.Runner.Description == runner.Default().Description {
		g.Runner.Description = "{{.Name}}-{{.InstanceID}}"
	}
	if !strings.Contains(g.Runner.Description, ".InstanceID") && !strings.Contains(g.Runner.Description, ".Hostname") {
		return nil, fmt.Errorf("runner.description %q would be the same on every machine: use {{.InstanceID}} in it", g.Runner.Description)
	}
	// A machine that cannot become a runner is replaced: nobody is going to look after it.
	if g.Runner.OnFailure == runner.Default().OnFailure {
		g.Runner.OnFailure = "unhealthy"
	}
	g.Runner.DrainTimeout = g.DrainTimeout
	// A group that is sized by how busy its machines are needs to be told, and must not take busy ones.
	yes := true
	if g.Fleet.Autoscale > 0 {
		g.Runner.PublishLoad = &yes
	}
	if g.Fleet.Autoscale > 0 || g.ProtectWhileBusy {
		g.Runner.ProtectBusy = &yes
	}
	if err := g.Tell(); err != nil {
		return nil, err
	}
	return g, nil
}

// Tell writes the user-data anew, from what Runner says: for a cloud that has changed it.
func (g *Group) Tell() error {
	made, err := cloudinit.Generate(g.Runner, cloudinit.Options{Cloud: g.Plan.Target, CloudInit: g.Plan.Base.CloudInit, Gzip: true})
	if err != nil {
		return err
	}
	g.UserData = made.Data
	return nil
}

// Digest names user-data without showing it.
func Digest(userData []byte) string {
	sum := sha256.Sum256(userData)
	return "sha256:" + hex.EncodeToString(sum[:8])
}

// Initial is how many machines a new group begins with.
func (g *Group) Initial() int {
	if g.Desired != nil {
		return *g.Desired
	}
	return g.Min
}

// SelfSizing says that something other than the spec's desired decides how many machines there are.
func (g *Group) SelfSizing() bool { return g.Desired == nil || g.Autoscale > 0 || len(g.Schedule) > 0 }

// BootLimit is how long a machine may take to be online, from its launch.
func (g *Group) BootLimit() time.Duration {
	return time.Duration(g.Runner.BootTimeout) + 2*time.Minute
}

// How says how a cloud makes changes that can be made in more than one way.
type How struct {
	RollOptions
	Now  bool                             // remove machines without waiting for their jobs
	Info func(format string, args ...any) // tells what takes long; never nil
}

// RollOptions say how machines are replaced.
type RollOptions struct {
	Force       bool          // also machines that are as they should be
	MaxHealthy  int           // percent of the desired machines that may be there at once; 110 when 0, at most 200
	Checkpoints []int         // percent at which to wait, ascending
	Delay       time.Duration // how long at each
}
