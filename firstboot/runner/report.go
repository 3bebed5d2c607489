package runner

import (
	"encoding/json"
	"strings"
	"time"
)

// Report is what a machine says of its first boot: the body of /run/dorunner/status.json and of the one console
// line by which launchers follow machines they cannot log in to. It never holds a secret.
type Report struct {
	State       string    `json:"state"` // booting, online, failed, draining, drained
	Runner      string    `json:"runner,omitempty"`
	Description string    `json:"description,omitempty"`
	InstanceID  string    `json:"instance_id,omitempty"`
	SystemID    string    `json:"system_id,omitempty"`
	Step        string    `json:"step,omitempty"`         // the step under way, or the one that failed
	Error       string    `json:"error,omitempty"`        // one line: what failed and what to do
	Elsewhere   bool      `json:"elsewhere,omitempty"`    // the cause is not on this machine: another in its place would fare no better
	Uptime      float64   `json:"uptime_s,omitempty"`     // seconds since power-on
	Registered  float64   `json:"registered_s,omitempty"` // seconds from the first step to the registration
	FirstPoll   float64   `json:"first_poll_s,omitempty"` // seconds from the first step to the first answered poll
	Jobs        int       `json:"jobs,omitempty"`         // running jobs
	LastPoll    time.Time `json:"last_poll,omitzero"`
	Time        time.Time `json:"time,omitzero"`
	Warnings    []string  `json:"warnings,omitempty"`
}

// Healthy says whether the machine should be left alone. One that drains is: its jobs are finishing. So is one that
// fails for a cause elsewhere, or an outage of GitLab would have every machine replaced.
func (r Report) Healthy() bool {
	return r.State == Online || r.State == Draining || (r.State == Failed && r.Elsewhere)
}

// The states of a machine, in the order it goes through them.
const (
	Booting  = "booting"
	Online   = "online"
	Failed   = "failed"
	Draining = "draining"
	Drained  = "drained"
)

// consoleMark begins the console line; a serial console mixes in lines of the kernel and of cloud-init.
const consoleMark = "dorunner-report: "

// ConsoleLine is the report as one line, newline included.
func (r Report) ConsoleLine() string {
	b, err := json.Marshal(r)
	if err != nil { // only unsupported types fail, and there are none
		panic(err)
	}
	return consoleMark + string(b) + "\n"
}

// ParseConsoleLine finds a report in a line of console output, behind whatever the kernel put before it.
func ParseConsoleLine(line string) (Report, bool) {
	_, body, found := strings.Cut(line, consoleMark)
	if !found {
		return Report{}, false
	}
	var r Report
	err := json.Unmarshal([]byte(strings.TrimRight(body, "\r\n ")), &r)
	return r, err == nil && r.State != ""
}
