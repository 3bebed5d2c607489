package firstboot_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// marked is a platform that is told how the boot ended.
type marked struct {
	where
	online, unhealthy, failed int
	waits                     bool // a group's launch hook
}

func (m *marked) Online(context.Context) error            { m.online++; return nil }
func (m *marked) Failed(context.Context) (bool, error)    { m.failed++; return m.waits, nil }
func (m *marked) Unhealthy(context.Context, string) error { m.unhealthy++; return nil }

// A boot that fails for good obeys on_failure, even where it fails before the whole spec is known.
func TestOnFailure(t *testing.T) {
	for _, tt := range []struct {
		name, defaults, spec string
		identity             error
		stopped              bool // systemctl stop, or a shutdown
		waits                bool // a group's launch hook
		powered, unhealthy   int
		told                 int // that first boot failed
	}{
		{name: "stay", spec: "on_failure: stay", told: 1},
		{name: "poweroff", spec: "on_failure: poweroff", powered: 1, told: 1},
		{name: "unhealthy", spec: "on_failure: unhealthy", unhealthy: 1, told: 1},
		{name: "unhealthy in a group that waits", spec: "on_failure: unhealthy", waits: true, told: 1},
		{name: "no metadata", defaults: "on_failure: poweroff", identity: errors.New("no answer"), powered: 1},
		{name: "stopped by somebody", spec: "on_failure: poweroff", stopped: true},
		{name: "user-data wins", defaults: "on_failure: poweroff", spec: "on_failure: stay", told: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, tt.spec+"\n") // without url and token
			put(t, m.Root, firstboot.DefaultsFile, tt.defaults)
			powered := 0
			m.Exec = func(_ context.Context, name string, args ...string) (string, error) {
				if name+" "+strings.Join(args, " ") != "systemctl poweroff --no-block" {
					t.Errorf("ran %s %v", name, args)
				}
				powered++
				return "", nil
			}
			p := &marked{where: where{id: firstboot.Identity{InstanceID: "i"}, err: tt.identity}, waits: tt.waits}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.stopped {
				cancel()
			}
			if err := firstboot.Boot(ctx, m.Host, p); err == nil {
				t.Fatal("the boot succeeded")
			}
			if powered != tt.powered || p.unhealthy != tt.unhealthy || p.online != 0 || p.failed != tt.told {
				t.Errorf("powered off %d, unhealthy %d, online %d, told of the failure %d times", powered, p.unhealthy, p.online, p.failed)
			}
			if r, found := runner.ParseConsoleLine(m.console.String()); !found || r.State != runner.Failed || r.Error == "" {
				t.Errorf("console %q", m.console)
			}
		})
	}
}
