package awstest

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// scaling is an Auto Scaling group. What it does by itself it does in step, whenever something is due: on the clock
// of the time package, and with timers rather than a goroutine, so that it works on the virtual one of testing/synctest.
type scaling struct {
	r       *region
	name    string
	created time.Time
	// What the API sets.
	min, max, desired       int
	spec                    *templateSpec
	mixed                   *mixedPolicy
	subnets                 string
	zones                   []string
	cooldown, grace, warmup int // seconds; a warmup of -1 is none
	protectNew, rebalance   bool
	tags                    map[string]groupTag
	hooks                   map[string]*lifecycleHook
	suspended               map[string]bool
	schedule                map[string]*scheduled
	policies                map[string]*scalingPolicy
	metrics                 bool
	// What came of it.
	members    map[string]*member
	activities []*activity // the oldest first
	refreshes  []*refresh  // likewise
	deleting   bool
	retry      time.Time // after a failed launch, no other before this
	failures   int       // in a row
	next       time.Time // when step has something to do; zero for nothing
	dirty      bool      // step has something to do now
}

type groupTag struct {
	value     string
	propagate bool
}

// lifecycleHook holds machines up on their way in or out.
type lifecycleHook struct {
	name, transition, result, metadata string
	heartbeat                          int // seconds
}

const (
	launching   = "autoscaling:EC2_INSTANCE_LAUNCHING"
	terminating = "autoscaling:EC2_INSTANCE_TERMINATING"
)

// The states of a member, as docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html has them.
const (
	pending           = "Pending"
	pendingWait       = "Pending:Wait"
	pendingProceed    = "Pending:Proceed"
	inService         = "InService"
	terminatingPlain  = "Terminating"
	terminatingWait   = "Terminating:Wait"
	terminatingGo     = "Terminating:Proceed"
	hookLimit         = 48 * time.Hour
	heartbeatsAtMost  = 100
	firstRetry        = 30 * time.Second
	longestRetry      = 5 * time.Minute
	protectionPatient = time.Hour // a refresh waits for protection to be taken off
)

// member is an instance of a group.
type member struct {
	instance  *instance
	template  templateSpec // with the number of the version
	size      string
	state     string
	unhealthy bool
	protected bool
	actions   map[string]*action // the hooks that wait
	proceed   time.Time          // when a Proceed state ends
	serving   time.Time          // since when it is in service
	activity  *activity          // the one under way
	killed    bool               // EC2 has been told to terminate it
}

// action is a hook that waits for one member.
type action struct {
	hook            *lifecycleHook
	token           string
	deadline, limit time.Time
}

// alive says that a member counts towards the desired capacity.
func (m *member) alive() bool { return strings.HasPrefix(m.state, pending) || m.state == inService }

type activity struct {
	id, description, cause, status, message string
	start, end                              time.Time
}

func (g *scaling) begin(description, cause string) *activity {
	g.r.s.nextID++
	a := &activity{id: fmt.Sprintf("activity-%06d", g.r.s.nextID), description: description, cause: cause, status: "InProgress", start: time.Now()}
	g.activities = append(g.activities, a)
	return a
}

func (a *activity) finish(status, message string) {
	if a != nil && a.end.IsZero() {
		a.status, a.message, a.end = status, message, time.Now()
	}
}

// settleGroups has every group do what is due, and sets the timer for what comes next.
func (s *Server) settleGroups() {
	now := time.Now()
	var next time.Time
	for _, r := range s.regions {
		for _, g := range r.scalings {
			for range 100 { // one thing leads to another
				if !g.dirty && (g.next.IsZero() || now.Before(g.next)) {
					break
				}
				g.dirty, g.next = false, time.Time{}
				g.step(now)
			}
			if g.deleting && len(g.members) == 0 {
				delete(r.scalings, g.name)
				continue
			}
			if !g.next.IsZero() && (next.IsZero() || g.next.Before(next)) {
				next = g.next
			}
		}
	}
	if next.IsZero() || next.Equal(s.wake) {
		return
	}
	s.wake = next
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(max(next.Sub(now), 0), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wake = time.Time{}
		for _, r := range s.regions {
			r.settle()
		}
		s.settleGroups()
	})
}

// due notes that step has something to do at a time.
func (g *scaling) due(at time.Time) {
	if !at.IsZero() && (g.next.IsZero() || at.Before(g.next)) {
		g.next = at
	}
}

// step is what the group does now.
func (g *scaling) step(now time.Time) {
	g.runSchedule(now)
	g.track(now)
	for _, m := range g.ordered() {
		g.advance(m, now)
	}
	if r := g.activeRefresh(); r != nil {
		g.roll(r, now)
	}
	g.reconcile(now)
	for _, m := range g.members {
		for _, a := range m.actions {
			g.due(a.deadline)
		}
		switch m.state {
		case pending:
			g.due(m.instance.running)
		case pendingProceed, terminatingGo:
			if m.killed {
				g.due(m.instance.terminated)
			} else {
				g.due(m.proceed)
			}
		}
	}
}

// ordered gives the members, the oldest first.
func (g *scaling) ordered() []*member {
	all := slices.Collect(maps.Values(g.members))
	slices.SortFunc(all, func(a, b *member) int { return strings.Compare(a.instance.id, b.instance.id) })
	return all
}

// advance takes a member along its life, as far as it goes now.
func (g *scaling) advance(m *member, now time.Time) {
	_, state := m.instance.state(now)
	if !m.killed && (state == "terminated" || state == "shutting-down" || state == "stopped" || state == "stopping") { // by somebody else
		m.activity.finish("Cancelled", "the instance is "+state)
		m.activity = g.begin("Terminating EC2 instance: "+m.instance.id, "an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped.")
		g.failedInRefresh(m, "instance "+m.instance.id+" is "+state)
		m.actions = nil
		m.state = terminatingGo
		g.kill(m)
	}
	switch m.state {
	case pending:
		if state != "running" {
			return
		}
		if g.wait(m, launching, now); len(m.actions) > 0 {
			m.state = pendingWait
			return
		}
		m.state, m.proceed = pendingProceed, now.Add(g.r.s.o.Delays.Proceed)
		g.dirty = true
	case pendingWait:
		for _, name := range slices.Sorted(maps.Keys(m.actions)) {
			if a := m.actions[name]; !now.Before(a.deadline) {
				g.complete(m, a, a.hook.result, "Lifecycle Action timed out", now)
				if m.state != pendingWait {
					return
				}
			}
		}
		if len(m.actions) == 0 {
			m.state, m.proceed = pendingProceed, now.Add(g.r.s.o.Delays.Proceed)
			g.dirty = true
		}
	case pendingProceed:
		if !now.Before(m.proceed) {
			m.state, m.serving, m.protected = inService, now, g.protectNew
			m.activity.finish("Successful", "")
			m.activity = nil
			g.failures = 0
			g.dirty = true
		}
	case inService:
		if m.unhealthy && !g.suspended["ReplaceUnhealthy"] {
			g.failedInRefresh(m, "instance "+m.instance.id+" failed its health check")
			g.terminate(m, "an instance was taken out of service in response to a user health-check.", now)
		}
	case terminatingWait:
		for _, name := range slices.Sorted(maps.Keys(m.actions)) {
			if a := m.actions[name]; !now.Before(a.deadline) {
				g.complete(m, a, a.hook.result, "Lifecycle Action timed out", now)
			}
		}
		if len(m.actions) == 0 {
			m.state, m.proceed = terminatingGo, now.Add(g.r.s.o.Delays.Proceed)
			g.dirty = true
		}
	case terminatingGo:
		switch {
		case !m.killed && !now.Before(m.proceed):
			g.kill(m)
			g.dirty = true
		case m.killed && state == "terminated":
			m.activity.finish("Successful", "")
			delete(g.members, m.instance.id)
			g.dirty = true
		}
	}
}

// wait starts the hooks of a transition.
func (g *scaling) wait(m *member, transition string, now time.Time) {
	m.actions = map[string]*action{}
	for _, h := range g.hooks {
		if h.transition == transition {
			g.r.s.nextID++
			beat := time.Duration(h.heartbeat) * time.Second
			m.actions[h.name] = &action{h, fmt.Sprintf("00000000-0000-0000-0000-%012x", g.r.s.nextID), now.Add(beat), now.Add(min(hookLimit, heartbeatsAtMost*beat))}
		}
	}
}

// complete ends one hook's wait for a member.
func (g *scaling) complete(m *member, a *action, result, why string, now time.Time) {
	delete(m.actions, a.hook.name)
	g.dirty = true
	if result == "CONTINUE" {
		return
	}
	m.actions = nil // the others need not be waited for
	if m.state == pendingWait {
		message := fmt.Sprintf("Instance failed to complete user's Lifecycle Action: Lifecycle Action with token %s was abandoned: %s", a.token, why)
		m.activity.finish("Cancelled", message)
		m.activity = nil
		g.failedInRefresh(m, message)
		g.backOff(now)
		g.terminate(m, "an instance was taken out of service because its lifecycle action was abandoned.", now)
	}
}

// backOff has the group wait before it launches again after a failure.
func (g *scaling) backOff(now time.Time) {
	g.retry = now.Add(min(firstRetry<<min(g.failures, 10), longestRetry))
	g.failures++
}

// terminate begins a member's way out: through the terminate hooks.
func (g *scaling) terminate(m *member, cause string, now time.Time) {
	if !m.alive() {
		return
	}
	m.activity.finish("Cancelled", cause)
	m.activity = g.begin("Terminating EC2 instance: "+m.instance.id, cause)
	m.protected = false
	g.dirty = true
	if g.wait(m, terminating, now); len(m.actions) > 0 {
		m.state = terminatingWait
		return
	}
	m.state, m.proceed = terminatingGo, now.Add(g.r.s.o.Delays.Proceed)
}

// kill has EC2 terminate a member.
func (g *scaling) kill(m *member) {
	m.killed = true
	if err := g.r.s.endInstance(m.instance); err != nil { // which only Stop makes fail
		panic(err)
	}
}

// reconcile launches what is missing and ends what is too much.
func (g *scaling) reconcile(now time.Time) {
	alive, most := 0, g.desired
	for _, m := range g.members {
		if m.alive() {
			alive++
		}
	}
	if g.deleting {
		return
	}
	want := g.desired
	if r := g.activeRefresh(); r != nil {
		want, most = g.surge(r, alive)
	}
	switch {
	case alive < want && !g.suspended["Launch"]:
		if now.Before(g.retry) {
			g.due(g.retry)
			return
		}
		cause := fmt.Sprintf("an instance was started in response to a difference between desired and actual capacity, increasing the capacity from %d to %d.", alive, want)
		for range want - alive {
			if !g.launch(cause, now) {
				return
			}
		}
	case alive > most && !g.suspended["Terminate"]:
		g.shrink(alive-most, now)
	}
}

// shrink ends idle members: of the zone with most of them the one with the oldest template, the oldest first. Those
// under protection are left, however many the group has.
func (g *scaling) shrink(n int, now time.Time) {
	cause := fmt.Sprintf("an instance was taken out of service in response to a difference between desired and actual capacity, shrinking the capacity by %d.", n)
	for range n {
		inZone := map[string]int{}
		for _, m := range g.members {
			if m.alive() {
				inZone[m.instance.zone]++
			}
		}
		var pick *member
		for _, m := range g.ordered() {
			if m.state != inService || m.protected {
				continue
			}
			if pick == nil || inZone[m.instance.zone] > inZone[pick.instance.zone] ||
				inZone[m.instance.zone] == inZone[pick.instance.zone] && number(m.template.Version) < number(pick.template.Version) {
				pick = m
			}
		}
		if pick == nil {
			return
		}
		g.terminate(pick, cause, now)
	}
}

// config is what new members are made of now.
func (g *scaling) config() (templateSpec, *mixedPolicy) {
	if r := g.activeRefresh(); r != nil && r.desired != nil && !r.rollingBack() {
		return r.desired.of()
	}
	d := desiredConfig{g.spec, g.mixed}
	return d.of()
}

// launch starts one member; false when there is none to be had.
func (g *scaling) launch(cause string, now time.Time) bool {
	spec, mixed := g.config()
	t, err := g.r.template(spec.LaunchTemplateId, spec.LaunchTemplateName)
	var v *templateVersion
	if err == nil {
		v, err = t.version(spec.Version)
	}
	var item *instanceItem
	size := ""
	if err == nil {
		size = v.data.InstanceType
		item, size, err = g.tryLaunch(t, v, mixed, size)
	}
	if err != nil {
		a := g.begin("Launching a new EC2 instance.  Status Reason: "+err.Message+" Launching EC2 instance failed.", cause)
		a.finish("Failed", err.Message+" Launching EC2 instance failed.")
		g.backOff(now)
		g.due(g.retry)
		if r := g.activeRefresh(); r != nil {
			g.fails(r, err.Message, now)
		}
		return false
	}
	i := g.r.instances[item.ID]
	m := &member{instance: i, template: templateSpec{t.id, t.name, fmt.Sprint(v.number)}, size: size, state: pending, activity: g.begin("Launching a new EC2 instance: "+i.id, cause)}
	g.members[i.id] = m
	g.dirty = true
	return true
}

// tryLaunch runs an instance in the emptiest zone, of the first size that is to be had.
func (g *scaling) tryLaunch(t *template, v *templateVersion, mixed *mixedPolicy, size string) (*instanceItem, string, *Error) {
	sizes, spot := []string{size}, false
	if mixed != nil {
		if over := mixed.LaunchTemplate.Overrides.Member; len(over) > 0 {
			sizes = nil
			for _, o := range over {
				sizes = append(sizes, o.InstanceType)
			}
		}
		spot = g.nextIsSpot(mixed)
	}
	inZone := map[string]int{}
	for _, m := range g.members {
		if m.alive() {
			inZone[m.instance.subnet]++
		}
	}
	subnets := strings.Split(g.subnets, ",")
	slices.SortStableFunc(subnets, func(a, b string) int { return inZone[a] - inZone[b] })
	var last *Error
	for _, s := range sizes {
		for _, subnet := range subnets {
			p := url.Values{}
			maps.Copy(p, v.params)
			p.Set("InstanceType", s)
			p.Set("SubnetId", subnet)
			p.Set("MinCount", "1")
			p.Set("MaxCount", "1")
			if spot {
				p.Set("InstanceMarketOptions.MarketType", "spot")
			}
			n := 1 // the group's own tags go on the instance as well
			for p.Has(fmt.Sprintf("TagSpecification.%d.ResourceType", n)) && p.Get(fmt.Sprintf("TagSpecification.%d.ResourceType", n)) != "instance" {
				n++
			}
			key := fmt.Sprintf("TagSpecification.%d.", n)
			p.Set(key+"ResourceType", "instance")
			k := 1
			for p.Has(fmt.Sprintf("%sTag.%d.Key", key, k)) {
				k++
			}
			add := func(name, value string) {
				p.Set(fmt.Sprintf("%sTag.%d.Key", key, k), name)
				p.Set(fmt.Sprintf("%sTag.%d.Value", key, k), value)
				k++
			}
			add("aws:autoscaling:groupName", g.name)
			add("aws:ec2launchtemplate:id", t.id)
			add("aws:ec2launchtemplate:version", fmt.Sprint(v.number))
			for _, name := range slices.Sorted(maps.Keys(g.tags)) {
				if tag := g.tags[name]; tag.propagate {
					add(name, tag.value)
				}
			}
			c := &call{s: g.r.s, r: g.r, Call: Call{Service: "ec2", Region: g.r.name, Action: "RunInstances", Params: p}, internal: true}
			c.f = &form{v: p, used: map[string]bool{}}
			answer, err := runInstances(c)
			if err != nil {
				last = err
				continue
			}
			return &answer.(reservation).Instances.Item[0], s, nil
		}
	}
	return nil, "", last
}

// nextIsSpot keeps to the distribution that the policy asks for.
func (g *scaling) nextIsSpot(p *mixedPolicy) bool {
	d := p.InstancesDistribution
	if d == nil {
		return false
	}
	base, percent := 0, 100
	if d.OnDemandBaseCapacity != nil {
		base = *d.OnDemandBaseCapacity
	}
	if d.OnDemandPercentageAboveBaseCapacity != nil {
		percent = *d.OnDemandPercentageAboveBaseCapacity
	}
	all, onDemand := 1, 0 // with the new one
	for _, m := range g.members {
		if m.alive() {
			all++
			if !m.instance.spot {
				onDemand++
			}
		}
	}
	need := min(all, base)
	need += ((all-need)*percent + 99) / 100
	return onDemand >= need
}

// Members counts a group's members by their state, and its desired capacity under "desired"; nil when there is no group.
func (s *Server) Members(regionName, group string) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleGroups()
	g := s.regions[regionName].scalings[group]
	if g == nil {
		return nil
	}
	out := map[string]int{"desired": g.desired}
	for _, m := range g.members {
		out[m.state]++
	}
	return out
}

// MemberImages counts a group's members by their image.
func (s *Server) MemberImages(regionName, group string) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	if g := s.regions[regionName].scalings[group]; g != nil {
		for _, m := range g.members {
			out[m.instance.image]++
		}
	}
	return out
}
