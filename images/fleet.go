package images

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Fleet is a group of identical runners on a cloud's own autoscaling engine.
type Fleet struct {
	Name       string   `yaml:"name"` // of everything that belongs to it; default runner.name
	Min        int      `yaml:"min"`
	Max        int      `yaml:"max"`
	Desired    *int     `yaml:"desired"` // machines; unless said, min to begin with and left alone afterwards
	Sizes      []string `yaml:"sizes"`
	SpotShare  int      `yaml:"spot_share"` // percent of the machines above min
	Subnets    []string `yaml:"subnets"`
	Image      string   `yaml:"image"`                      // latest (default) or an image id
	VolumeRate int      `yaml:"volume_initialization_rate"` // MiB/s, 100 to 300; 0 leaves it off
	// InstanceProfile lets the machines read their token: a name or ARN (on Azure the id of a managed identity), or
	// create: one of the fleet's own that may read what the spec refers to and nothing else.
	InstanceProfile  string          `yaml:"instance_profile"`
	JobRole          bool            `yaml:"job_role"` // job containers may use the machine's role too
	ProtectWhileBusy bool            `yaml:"protect_while_busy"`
	DrainTimeout     runner.Duration `yaml:"drain_timeout"` // how long running jobs may take once a machine is to go; default runner.drain_timeout
	Autoscale        int             `yaml:"autoscale"`     // percent of the job slots to keep busy by adding and removing machines; 0 leaves that off
	Schedule         []Schedule      `yaml:"schedule"`
	GitLabToken      runner.Secret   `yaml:"gitlab_token"` // reads runners (scope read_api); env: or file:, on the operator's machine
}

// Schedule sets the size of a fleet at certain times.
type Schedule struct {
	Cron     string `yaml:"cron" json:"cron"`                   // five fields: "0 7 * * 1-5"
	Timezone string `yaml:"timezone" json:"timezone,omitempty"` // of the IANA; default UTC
	Min      *int   `yaml:"min,omitempty" json:"min,omitempty"` // what is not said stays as it is
	Max      *int   `yaml:"max,omitempty" json:"max,omitempty"`
	Desired  *int   `yaml:"desired,omitempty" json:"desired,omitempty"`
}

// CreateProfile is the instance profile that is made for the fleet.
const CreateProfile = "create"

// isZero says that the author wants none.
func (f *Fleet) isZero() bool { return reflect.ValueOf(f).Elem().IsZero() }

// defaults fill a fleet that the author began; none is assumed.
func (f *Fleet) defaults(r runner.Spec, sizes []string) {
	if f.isZero() {
		return
	}
	desired := 0
	if f.Desired != nil {
		desired = *f.Desired
	}
	fill(reflect.ValueOf(f).Elem(), reflect.ValueOf(Fleet{Name: r.Name, Max: max(1, f.Min, desired), Sizes: slices.Clone(sizes), Image: "latest", DrainTimeout: r.DrainTimeout}))
}

// JobRequestsPerMinute is what GitLab answers per runner token since 18.5 (docs.gitlab.com, rate limits of runners); a
// tenth is kept for the polls that follow a job at once.
const (
	JobRequestsPerMinute = 2000
	pollsPerMinute       = JobRequestsPerMinute * 9 / 10
)

// CheckInterval is the shortest, in seconds, at which so many machines may share one authentication token.
func CheckInterval(machines int) int { return max(1, (60*machines+pollsPerMinute-1)/pollsPerMinute) }

// fleet checks the group, if there is to be one, for the target whose sizes are given.
func (r *rules) fleet(table []Size) {
	f := r.spec.Fleet
	if f.isZero() {
		return
	}
	if f.Name == "" {
		r.bad("fleet.name", "a fleet needs a name: its resources carry it", "for example dataops-runner-singapore")
	}
	r.matches("fleet.name", f.Name, nameForm, "a name that every cloud takes", "use 2 to 80 letters, digits, dots, dashes and underscores")
	r.between("fleet.max", f.Max, 0, 10000, " machines")
	r.between("fleet.min", f.Min, 0, f.Max, ": fleet.max")
	if f.Desired != nil {
		r.between("fleet.desired", *f.Desired, f.Min, f.Max, ": fleet.min and fleet.max")
	}
	r.between("fleet.spot_share", f.SpotShare, 0, 100, " percent")
	if f.VolumeRate != 0 {
		r.between("fleet.volume_initialization_rate", f.VolumeRate, 100, 300, " MiB/s")
	}
	r.sizes("fleet.sizes", f.Sizes, table)
	if f.DrainTimeout < 0 || time.Duration(f.DrainTimeout) > 48*time.Hour {
		r.bad("fleet.drain_timeout", "no cloud waits longer than 48h for a machine that is to go", "")
	}
	if f.Autoscale != 0 {
		r.between("fleet.autoscale", f.Autoscale, 10, 95, " percent of the job slots")
		if f.Min == 0 {
			r.warn("fleet.autoscale", "no machine, no metric: a fleet that has come down to 0 machines does not grow by itself", "set fleet.min to 1 or more, or grow it by fleet.schedule")
		}
	}
	switch f.GitLabToken.Scheme() {
	case "", "env", "file":
	case "plain":
		r.literal("fleet.gitlab_token", "env:GITLAB_TOKEN or file:/run/secrets/gitlab")
	default:
		r.bad("fleet.gitlab_token", fmt.Sprintf("%s cannot be read on the machine that looks after the fleet", f.GitLabToken), "use env: or file:")
	}
	for i, s := range f.Schedule {
		r.schedule(fmt.Sprintf("fleet.schedule[%d]", i), s)
	}
	r.polls()
}

// polls holds what the whole fleet asks of GitLab against what GitLab answers on one token.
func (r *rules) polls() {
	f, s := r.spec.Fleet, r.spec.Runner
	every := cmp.Or(s.CheckInterval, 1)
	perMinute := f.Max * 60 / every
	if perMinute <= pollsPerMinute {
		return
	}
	hint := fmt.Sprintf("set runner.check_interval: %d", CheckInterval(f.Max))
	if tokens := (f.Max*60/every + pollsPerMinute - 1) / pollsPerMinute; CheckInterval(f.Max) > 30 {
		hint += fmt.Sprintf(", or make %d fleets of %d machines, each with a token of its own", tokens, (f.Max+tokens-1)/tokens)
	}
	r.warn("fleet.max", fmt.Sprintf("%d machines that poll every %d s ask GitLab %d times a minute, and it answers %d per authentication token (%d jobs at once make no difference to that)",
		f.Max, every, perMinute, JobRequestsPerMinute, f.Max*max(1, s.Concurrent)), hint)
}

const (
	cronField    = form(`^[0-9*,/A-Za-z-]+$`) // names of days and months are left to the cloud
	timezoneForm = form(`^[A-Za-z]+(/[A-Za-z0-9_+-]+)*$`)
)

func (r *rules) schedule(path string, s Schedule) {
	fields := strings.Fields(s.Cron)
	if len(fields) != 5 || slices.ContainsFunc(fields, func(f string) bool { return !cronField.matches(f) }) {
		r.bad(child(path, "cron"), fmt.Sprintf("%q is not the time of a schedule", s.Cron), `write five fields, minute hour day month weekday, for example "0 7 * * 1-5"`)
	}
	r.matches(child(path, "timezone"), s.Timezone, timezoneForm, "a time zone", "write it as Europe/Zurich")
	if s.Min == nil && s.Max == nil && s.Desired == nil {
		r.bad(path, "the schedule changes nothing", "give min, max or desired")
	}
	value := func(n *int, otherwise int) int {
		if n == nil {
			return otherwise
		}
		return *n
	}
	f := r.spec.Fleet
	top := value(s.Max, f.Max)
	low := value(s.Min, f.Min)
	if s.Max != nil {
		r.between(child(path, "max"), top, 0, 10000, " machines")
	}
	if s.Min != nil {
		r.between(child(path, "min"), low, 0, top, ": its max")
	}
	if s.Desired != nil {
		r.between(child(path, "desired"), *s.Desired, low, top, ": its min and max")
	}
}
