package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

const autoscaleVersion = "2022-10-01"

func (c *Group) autoscaleID() string { return c.id("Microsoft.Insights/autoscaleSettings", c.name) }

// The parts of an autoscale setting (learn.microsoft.com/rest/api/monitor/autoscale-settings); sizes are strings there.
type (
	setting struct {
		Enabled  bool      `json:"enabled"`
		Target   string    `json:"targetResourceUri"`
		Profiles []profile `json:"profiles"`
	}
	profile struct {
		Name     string `json:"name"`
		Capacity struct {
			Minimum string `json:"minimum"`
			Maximum string `json:"maximum"`
			Default string `json:"default"`
		} `json:"capacity"`
		Rules      []rule      `json:"rules"`
		Recurrence *recurrence `json:"recurrence,omitempty"`
	}
	rule struct {
		Trigger trigger `json:"metricTrigger"`
		Action  action  `json:"scaleAction"`
	}
	trigger struct {
		Metric      string  `json:"metricName"`
		Namespace   string  `json:"metricNamespace"`
		Resource    string  `json:"metricResourceUri"`
		Grain       string  `json:"timeGrain"`
		Statistic   string  `json:"statistic"`
		Window      string  `json:"timeWindow"`
		Aggregation string  `json:"timeAggregation"`
		Operator    string  `json:"operator"`
		Threshold   float64 `json:"threshold"`
	}
	action struct {
		Direction string `json:"direction"`
		Type      string `json:"type"`
		Value     string `json:"value"`
		Cooldown  string `json:"cooldown"`
	}
	recurrence struct {
		Frequency string `json:"frequency"`
		Schedule  struct {
			TimeZone string   `json:"timeZone"`
			Days     []string `json:"days"`
			Hours    []int    `json:"hours"`
			Minutes  []int    `json:"minutes"`
		} `json:"schedule"`
	}
)

// rules keep so many percent of the job slots busy. Azure has no target tracking: it adds a tenth of the machines, at
// least one, when more are busy, and takes one away when the rest could do the work well below the target.
func (c *Group) rules(percent int) []rule {
	t := trigger{Metric: runner.LoadMetric, Namespace: runner.LoadNamespace, Resource: c.setID(), Grain: "PT1M", Statistic: "Average", Window: "PT5M", Aggregation: "Average",
		Operator: "GreaterThan", Threshold: float64(percent)}
	more := rule{t, action{"Increase", "PercentChangeCount", "10", "PT3M"}}
	t.Window, t.Operator, t.Threshold = "PT10M", "LessThan", float64(percent)/2
	return []rule{more, {t, action{"Decrease", "ChangeCount", "1", "PT10M"}}}
}

// setting is what the fleet's spec says, with this share of the slots to keep busy; 0 is without rules.
func (c *Group) setting(percent int) (*setting, error) {
	make1 := func(name string, least, most, machines int) profile {
		p := profile{Name: name, Rules: []rule{}}
		p.Capacity.Minimum, p.Capacity.Maximum, p.Capacity.Default = strconv.Itoa(least), strconv.Itoa(most), strconv.Itoa(min(max(machines, least), most))
		if percent > 0 {
			p.Rules = c.rules(percent)
		}
		return p
	}
	s := &setting{Enabled: true, Target: c.setID(), Profiles: []profile{make1("always", c.g.Min, c.g.Max, c.g.Initial())}}
	for i, at := range c.g.Schedule {
		when, err := weekly(at)
		if err != nil {
			return nil, fmt.Errorf("fleet.schedule[%d]: %w", i, err)
		}
		least, most := c.g.Min, c.g.Max
		if at.Min != nil {
			least = *at.Min
		}
		if at.Max != nil {
			most = *at.Max
		}
		machines := least
		if at.Desired != nil {
			machines = *at.Desired
			if percent == 0 { // nothing else decides
				least, most = machines, machines
			}
		}
		p := make1(fmt.Sprintf("schedule-%d", i+1), least, most, machines)
		p.Recurrence = when
		s.Profiles = append(s.Profiles, p)
	}
	if len(s.Profiles) > 20 {
		return nil, fmt.Errorf("fleet.schedule has %d times, and Azure keeps 19", len(c.g.Schedule))
	}
	return s, nil
}

var weekdays = []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}

// weekly writes a time as Azure has them: minutes and hours of some days of the week, in UTC.
func weekly(s images.Schedule) (*recurrence, error) {
	if s.Timezone != "" && s.Timezone != "UTC" && s.Timezone != "Etc/UTC" {
		return nil, fmt.Errorf("Azure knows %s under a name of its own: write the time in UTC", s.Timezone)
	}
	f := strings.Fields(s.Cron)
	minute, err1 := strconv.Atoi(f[0])
	hour, err2 := strconv.Atoi(f[1])
	if err1 != nil || err2 != nil || f[2] != "*" || f[3] != "*" || minute > 59 || hour > 23 {
		return nil, fmt.Errorf("Azure repeats times by the week: write %q with one minute and one hour, and * for day and month", s.Cron)
	}
	r := &recurrence{Frequency: "Week"}
	r.Schedule.TimeZone, r.Schedule.Hours, r.Schedule.Minutes = "UTC", []int{hour}, []int{minute}
	for part := range strings.SplitSeq(f[4], ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, last := weekday(from), weekday(to)
		switch {
		case part == "*":
			first, last = 0, 6
		case !isRange:
			last = first
		}
		if first < 0 || last < first {
			return nil, fmt.Errorf("%q is no day of the week: write 0 to 6, SUN to SAT, or a range", part)
		}
		r.Schedule.Days = append(r.Schedule.Days, weekdays[first:last+1]...)
	}
	return r, nil
}

// weekday is 0 for Sunday; -1 for what is none.
func weekday(s string) int {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 7 {
		return n % 7
	}
	return slices.IndexFunc(weekdays, func(d string) bool { return len(s) == 3 && strings.EqualFold(d[:3], s) })
}

// planAutoscale compares the rules and times by which the group is sized.
func (c *Group) planAutoscale(ctx context.Context) ([]fleet.Change, error) {
	have, err := c.a.Resource(ctx, c.autoscaleID(), autoscaleVersion)
	if err != nil {
		return nil, err
	}
	if have != nil && !c.ours(have.Tags) {
		return nil, c.foreign("an autoscale setting", c.name)
	}
	wanted := c.g.Autoscale > 0 || len(c.g.Schedule) > 0
	if !wanted {
		if have == nil {
			return nil, nil
		}
		return []fleet.Change{c.dropAutoscale()}, nil
	}
	want, err := c.setting(c.g.Autoscale)
	if err != nil {
		return nil, err
	}
	var f fleet.Fields
	is := setting{}
	if have != nil {
		text, err := json.Marshal(have.Properties)
		if err == nil {
			err = json.Unmarshal(text, &is)
		}
		if err != nil {
			return nil, fmt.Errorf("autoscale setting %s: %w", c.name, err)
		}
	}
	f.Diff("rules and times", is.text(), want.text())
	if have != nil && failed(have) {
		f.Set("state", "made again: the last attempt failed")
	}
	if len(f) == 0 {
		return nil, nil
	}
	verb := fleet.Create
	if have != nil {
		verb = fleet.Update
	}
	return []fleet.Change{{Action: verb, Kind: "autoscale setting", Name: c.name, Fields: f, Do: func(ctx context.Context, created func(string) error) error {
		if err := c.putAutoscale(ctx, want); err != nil {
			return err
		}
		return created(c.autoscaleID())
	}}}, nil
}

// text is a setting as people read it.
func (s *setting) text() string {
	var out []string
	for _, p := range s.Profiles {
		text := fmt.Sprintf("%s: %s to %s machines", p.Name, p.Capacity.Minimum, p.Capacity.Maximum)
		if r := p.Recurrence; r != nil {
			text += fmt.Sprintf(" from %v:%v on %s", r.Schedule.Hours, r.Schedule.Minutes, strings.Join(r.Schedule.Days, " "))
		}
		for _, r := range p.Rules {
			text += fmt.Sprintf(", %s %s above or below %g %%", strings.ToLower(r.Action.Direction), r.Action.Value, r.Trigger.Threshold)
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// Autoscale is the setting by which Azure would keep so many percent of the job slots busy.
func (c *Group) Autoscale(percent int) any {
	s, err := c.setting(percent)
	if err != nil { // planning it says so too
		return map[string]string{"error": err.Error()}
	}
	return s
}

func (c *Group) putAutoscale(ctx context.Context, s *setting) error {
	_, err := c.a.Put(ctx, c.autoscaleID(), autoscaleVersion, armresources.GenericResource{Location: &c.location, Tags: c.tags(nil), Properties: s})
	return err
}

func (c *Group) dropAutoscale() fleet.Change {
	return fleet.Change{Action: fleet.Delete, Kind: "autoscale setting", Name: c.name, Do: func(ctx context.Context, _ func(string) error) error {
		return c.a.Delete(ctx, c.autoscaleID(), autoscaleVersion)
	}}
}
