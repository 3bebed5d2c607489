package awstest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// scheduled is a scheduled action of a group.
type scheduled struct {
	ScheduledActionName, Recurrence, TimeZone, StartTime string
	MinSize, MaxSize, DesiredCapacity                    *int
	next                                                 time.Time
}

// cron is a time in the five fields of cron(5).
type cron [5]map[int]bool

var cronRange = [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}}

func parseCron(text string) (cron, error) {
	var out cron
	fields := strings.Fields(text)
	if len(fields) != len(out) {
		return out, fmt.Errorf("%q has not five fields", text)
	}
	for i, f := range fields {
		out[i] = map[int]bool{}
		for part := range strings.SplitSeq(f, ",") {
			span, every, stepped := strings.Cut(part, "/")
			step := 1
			if stepped {
				var err error
				if step, err = strconv.Atoi(every); err != nil || step < 1 {
					return out, fmt.Errorf("%q is no step", part)
				}
			}
			from, to := cronRange[i][0], cronRange[i][1]
			if span != "*" {
				a, b, isRange := strings.Cut(span, "-")
				var err1, err2 error
				from, err1 = cronNumber(i, a)
				if to = from; isRange {
					to, err2 = cronNumber(i, b)
				} else if stepped {
					to = cronRange[i][1]
				}
				if err1 != nil || err2 != nil || from < cronRange[i][0] || to > cronRange[i][1] || to < from {
					return out, fmt.Errorf("%q is out of range", part)
				}
			}
			for n := from; n <= to; n += step {
				out[i][n] = true
			}
		}
	}
	return out, nil
}

func cronNumber(field int, text string) (int, error) {
	if field == 4 {
		if n := slices.Index([]string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}, strings.ToUpper(text)); n >= 0 {
			return n, nil
		}
		if text == "7" {
			text = "0"
		}
	}
	return strconv.Atoi(text)
}

// after gives the first time after t, within a year.
func (c cron) after(t time.Time) time.Time {
	t = t.Truncate(time.Minute).Add(time.Minute)
	anyDay, anyWeekday := len(c[2]) == 31, len(c[4]) == 7
	for end := t.AddDate(1, 0, 0); t.Before(end); {
		day, weekday := c[2][t.Day()], c[4][int(t.Weekday())]
		ok := day && weekday
		if !anyDay && !anyWeekday { // either will do, when both are given
			ok = day || weekday
		}
		switch {
		case !ok || !c[3][int(t.Month())]:
			t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, t.Location())
		case !c[1][t.Hour()]:
			t = t.Truncate(time.Hour).Add(time.Hour)
		case !c[0][t.Minute()]:
			t = t.Add(time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

func (a *scheduled) plan(now time.Time) error {
	zone, err := time.LoadLocation(a.TimeZone)
	if err != nil {
		return err
	}
	when, err := parseCron(a.Recurrence)
	if err != nil {
		return err
	}
	a.next = when.after(now.In(zone))
	return nil
}

// runSchedule changes the group's size where it is time for that.
func (g *scaling) runSchedule(now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(g.schedule)) {
		a := g.schedule[name]
		if !a.next.IsZero() && !now.Before(a.next) {
			if err := a.plan(now); err != nil {
				panic(err) // it was checked when it was put
			}
			if !g.suspended["ScheduledActions"] {
				if a.MinSize != nil {
					g.min = *a.MinSize
				}
				if a.MaxSize != nil {
					g.max = *a.MaxSize
				}
				if a.DesiredCapacity != nil {
					g.desired = *a.DesiredCapacity
				}
				g.desired = min(max(g.desired, g.min), g.max)
			}
		}
		g.due(a.next)
	}
}

func putScheduled(c *call) (any, *Error) {
	a := &scheduled{}
	name := c.f.need("AutoScalingGroupName")
	c.f.read("", a)
	c.f.need("ScheduledActionName")
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	if a.MinSize == nil && a.MaxSize == nil && a.DesiredCapacity == nil {
		return nil, invalid("At least one of MinSize, MaxSize and DesiredCapacity must be specified.")
	}
	if a.Recurrence == "" {
		return nil, invalid("Given start time or recurrence is missing") // one-time actions are not known here
	}
	if err := a.plan(time.Now()); err != nil {
		return nil, invalid("Given recurrence string or time zone is invalid: %v", err)
	}
	g.schedule[a.ScheduledActionName] = a
	g.dirty = true
	return nil, nil
}

func describeScheduled(c *call) (any, *Error) {
	name, names := c.f.str("AutoScalingGroupName"), c.f.list("ScheduledActionNames.member")
	g, _, gerr := c.scaling(name)
	type item struct {
		AutoScalingGroupName, ScheduledActionName, Recurrence, StartTime string
		TimeZone                                                         string `xml:",omitempty"`
		MinSize, MaxSize, DesiredCapacity                                *int
	}
	var all []item
	if g != nil {
		for _, n := range slices.Sorted(maps.Keys(g.schedule)) {
			if a := g.schedule[n]; len(names) == 0 || slices.Contains(names, n) {
				all = append(all, item{name, n, a.Recurrence, stamp(a.next), a.TimeZone, a.MinSize, a.MaxSize, a.DesiredCapacity})
			}
		}
	}
	part, next, err := listed(c, all, gerr)
	if err != nil {
		return nil, err
	}
	return struct {
		ScheduledUpdateGroupActions members[item]
		NextToken                   string `xml:",omitempty"`
	}{part, next}, nil
}

func deleteScheduled(c *call) (any, *Error) {
	name, action := c.f.need("AutoScalingGroupName"), c.f.need("ScheduledActionName")
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	if g.schedule[action] == nil {
		return nil, invalid("Scheduled action name not found - Scheduled action %s not found", action)
	}
	delete(g.schedule, action)
	return nil, nil
}

// scalingPolicy is target tracking on a metric of the account's own.
type scalingPolicy struct {
	PolicyName, PolicyType      string
	TargetTrackingConfiguration *struct {
		TargetValue                   *float64
		DisableScaleIn                *bool
		CustomizedMetricSpecification *struct {
			Namespace, MetricName, Statistic, Unit string
			Dimensions                             members[struct{ Name, Value string }]
		}
	}
	looked time.Time // when the alarms were last looked at
	high   int       // minutes in a row above the target
	low    int       // minutes in a row well below it
}

func putPolicy(c *call) (any, *Error) {
	p := &scalingPolicy{}
	name := c.f.need("AutoScalingGroupName")
	c.f.read("", p)
	c.f.need("PolicyName")
	c.f.only("PolicyType", p.PolicyType, "TargetTrackingScaling")
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	t := p.TargetTrackingConfiguration
	if t == nil || t.TargetValue == nil || t.CustomizedMetricSpecification == nil {
		return nil, invalid("TargetTrackingConfiguration must have a TargetValue and a metric")
	}
	p.looked = time.Now()
	g.policies[p.PolicyName], g.dirty = p, true
	return struct {
		PolicyARN string
		Alarms    members[struct{ AlarmName string }]
	}{PolicyARN: c.scalingARN(name) + ":policyName/" + p.PolicyName}, nil
}

func describePolicies(c *call) (any, *Error) {
	name, names := c.f.str("AutoScalingGroupName"), c.f.list("PolicyNames.member")
	c.f.list("PolicyTypes.member")
	g, _, gerr := c.scaling(name)
	type item struct {
		AutoScalingGroupName, PolicyARN string
		Enabled                         bool
		scalingPolicy
	}
	var all []item
	if g != nil {
		for _, n := range slices.Sorted(maps.Keys(g.policies)) {
			if len(names) == 0 || slices.Contains(names, n) {
				all = append(all, item{name, c.scalingARN(name) + ":policyName/" + n, true, *g.policies[n]})
			}
		}
	}
	part, next, err := listed(c, all, gerr)
	if err != nil {
		return nil, err
	}
	return struct {
		ScalingPolicies members[item]
		NextToken       string `xml:",omitempty"`
	}{part, next}, nil
}

func deletePolicy(c *call) (any, *Error) {
	name, policy := c.f.need("AutoScalingGroupName"), c.f.need("PolicyName")
	g, on, gerr := c.scaling(name)
	if err := c.begin(on); err != nil {
		return nil, err
	}
	if gerr != nil {
		return nil, gerr
	}
	if g.policies[policy] == nil {
		return nil, invalid("No policy found for policy name %s", policy)
	}
	delete(g.policies, policy)
	return nil, nil
}

// The alarms of target tracking, as its documentation has them.
const (
	highMinutes = 3
	lowMinutes  = 15
	lowShare    = 0.9
)

// track adds and removes members so that the metric comes near the target.
func (g *scaling) track(now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(g.policies)) {
		p := g.policies[name]
		t := p.TargetTrackingConfiguration
		for ; !now.Before(p.looked.Add(time.Minute)); p.looked = p.looked.Add(time.Minute) {
			sum, count := 0.0, 0.0
			m := t.CustomizedMetricSpecification
			for _, s := range g.r.load[metricKey(m.Namespace, m.MetricName, m.Dimensions.Member)] {
				if s.Time.After(p.looked) && !s.Time.After(p.looked.Add(time.Minute)) {
					sum, count = sum+s.Sum, count+s.Count
				}
			}
			if count == 0 { // an alarm without data does nothing
				continue
			}
			value := sum / count
			p.high, p.low = p.high+1, p.low+1
			if value <= *t.TargetValue {
				p.high = 0
			}
			if value >= *t.TargetValue*lowShare {
				p.low = 0
			}
			serving := 0
			for _, m := range g.members {
				if m.state == inService {
					serving++
				}
			}
			want := int(math.Ceil(float64(serving) * value / *t.TargetValue))
			if p.high >= highMinutes && !g.suspended["AlarmNotification"] {
				g.desired, p.high = min(max(g.desired, want), g.max), 0
			}
			if p.low >= lowMinutes && (t.DisableScaleIn == nil || !*t.DisableScaleIn) && !g.suspended["AlarmNotification"] {
				g.desired = max(min(g.desired, want), g.min)
			}
		}
		g.due(p.looked.Add(time.Minute))
	}
}

// Sample is what CloudWatch was told of a metric at once.
type Sample struct {
	Time       time.Time
	Sum, Count float64
}

func metricKey(space, name string, dimensions []struct{ Name, Value string }) string {
	key := space + " " + name
	for _, d := range dimensions {
		key += " " + d.Name + "=" + d.Value
	}
	return key
}

// Samples are those of a metric: "NAMESPACE NAME DIMENSION=VALUE".
func (s *Server) Samples(regionName, metric string) []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.regions[regionName].load[metric])
}

// putMetricData takes the RPC v2 CBOR protocol of smithy.io, which the SDK speaks to CloudWatch.
func putMetricData(c *call) (any, *Error) {
	v, err := cbor.Decode(c.body)
	if err != nil {
		return nil, fail("SerializationException", "%v", err)
	}
	in, ok := v.(cbor.Map)
	if !ok {
		return nil, fail("SerializationException", "no map")
	}
	space, _ := in["Namespace"].(cbor.String)
	if err := c.permit(c.Action, map[string][]string{"cloudwatch:namespace": {string(space)}}, anything); err != nil {
		return nil, err
	}
	data, _ := in["MetricData"].(cbor.List)
	if len(data) == 0 || space == "" {
		return nil, fail("MissingParameter", "The parameters Namespace and MetricData are required.")
	}
	for _, item := range data {
		d, ok := item.(cbor.Map)
		if !ok {
			return nil, fail("InvalidParameterValue", "a datum is no map")
		}
		for k := range d {
			if !slices.Contains([]string{"MetricName", "Dimensions", "Value", "StatisticValues", "Unit", "Timestamp"}, k) {
				c.s.strict = append(c.s.strict, "PutMetricData: unknown member "+k)
				return nil, fail("UnknownParameter", "%s", k)
			}
		}
		name, _ := d["MetricName"].(cbor.String)
		var dims []struct{ Name, Value string }
		list, _ := d["Dimensions"].(cbor.List)
		for _, x := range list {
			m, _ := x.(cbor.Map)
			n, _ := m["Name"].(cbor.String)
			v, _ := m["Value"].(cbor.String)
			dims = append(dims, struct{ Name, Value string }{string(n), string(v)})
		}
		s := Sample{Time: time.Now(), Count: 1}
		var err1, err2 error
		if stats, ok := d["StatisticValues"].(cbor.Map); ok {
			s.Sum, err1 = cbor.AsFloat64(stats["Sum"])
			s.Count, err2 = cbor.AsFloat64(stats["SampleCount"])
		} else {
			s.Sum, err1 = cbor.AsFloat64(d["Value"])
		}
		if err1 != nil || err2 != nil || name == "" || s.Count <= 0 {
			return nil, fail("InvalidParameterValue", "a datum needs a name, and a value or statistics")
		}
		key := metricKey(string(space), string(name), dims)
		c.r.load[key] = append(c.r.load[key], s)
	}
	return cbor.Map{}, nil
}
