// Package fleet runs machines from images: one, several, or a group of identical runners on a cloud's own engine. Here
// is what all clouds share; each cloud's room knows its SDK.
package fleet

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Machine is one that was launched.
type Machine struct {
	ID      string        `json:"id"`
	Zone    string        `json:"zone,omitempty"`
	Address string        `json:"address,omitempty"`
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"-"` // from the launch to the last report
	Report  runner.Report `json:"report"`
}

// Read takes the newest report out of what the machine printed on its console, and says whether it is a new state or step.
func (m *Machine) Read(console string) (news bool) {
	for line := range strings.Lines(console) {
		r, ok := runner.ParseConsoleLine(line)
		if !ok || r.State == m.Report.State && r.Step == m.Report.Step {
			continue
		}
		m.Report, m.Took, news = r, time.Since(m.Started), true
	}
	return news
}

// Settled says that first boot has ended, well or badly.
func (m *Machine) Settled() bool { return m.Report.State != "" && m.Report.State != runner.Booting }

// Check is nil when every machine's runner is online, and says of each other one why it is not.
func Check(machines []*Machine) error {
	var errs []error
	for _, m := range machines {
		switch {
		case m.Report.State == runner.Online:
		case m.Report.State == "":
			errs = append(errs, fmt.Errorf("machine %s has not reported anything: is it from an image of this program's?", m.ID))
		case m.Report.Error != "":
			errs = append(errs, fmt.Errorf("machine %s failed at %s: %s", m.ID, m.Report.Step, m.Report.Error))
		default:
			errs = append(errs, fmt.Errorf("machine %s is %s at %s", m.ID, m.Report.State, m.Report.Step))
		}
	}
	return errors.Join(errs...)
}
