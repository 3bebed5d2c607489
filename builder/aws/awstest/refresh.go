package awstest

import (
	"fmt"
	"slices"
	"time"
)

// refresh is an instance refresh.
type refresh struct {
	id, status, reason string
	prefs              refreshPrefs
	desired            *desiredConfig
	start, end         time.Time
	old                map[string]bool // the members to be replaced, by id
	total              int             // how many they were
	checkpoint         int             // the next of the preferences'
	paused             time.Time       // until then, at a checkpoint
	blocked            time.Time       // since when only protected members are left
	failing            time.Time       // since when new members do not come up
	wait               bool            // when cancelling, for what is under way
	back               *rollback
}

type rollback struct {
	reason   string
	start    time.Time
	progress int // percent of the refresh when it began
}

func (r *refresh) rollingBack() bool { return r.status == "RollbackInProgress" }

func (r *refresh) active() bool {
	return slices.Contains([]string{"Pending", "InProgress", "Cancelling", "RollbackInProgress", "Baking"}, r.status)
}

func (g *scaling) activeRefresh() *refresh {
	if n := len(g.refreshes); n > 0 && g.refreshes[n-1].active() {
		return g.refreshes[n-1]
	}
	return nil
}

// percent of the refresh that is done. In a rollback it goes back down to zero.
func (g *scaling) percent(r *refresh) int {
	if r.total == 0 {
		return 100
	}
	done := (r.total - g.left(r)) * 100 / r.total
	if r.rollingBack() && r.back != nil {
		return r.back.progress * (100 - done) / 100
	}
	return done
}

// left counts the members still to be replaced: those on their way out count until they are gone.
func (g *scaling) left(r *refresh) int {
	n := 0
	for id := range r.old {
		if g.members[id] != nil {
			n++
		}
	}
	return n
}

// allowed is how many may be replaced up to the next checkpoint.
func (r *refresh) allowed() int {
	if p := r.prefs.CheckpointPercentages.Member; r.checkpoint < len(p) && !r.rollingBack() {
		return (r.total*p[r.checkpoint] + 99) / 100
	}
	if p := r.prefs.CheckpointPercentages.Member; len(p) > 0 && !r.rollingBack() {
		return (r.total*p[len(p)-1] + 99) / 100
	}
	return r.total
}

// bounds are the least healthy and the most members that the preferences allow.
func (g *scaling) bounds(r *refresh) (least, most int) {
	minimum, maximum := 90, 100
	if p := r.prefs.MinHealthyPercentage; p != nil {
		minimum = *p
	}
	if p := r.prefs.MaxHealthyPercentage; p != nil {
		maximum = *p
	}
	least, most = (g.desired*minimum+99)/100, g.desired*maximum/100
	if r.prefs.MaxHealthyPercentage != nil && least >= g.desired && most <= g.desired {
		most = g.desired + 1 // else nothing could be replaced: a new one comes first
	}
	if r.prefs.MaxHealthyPercentage == nil && least >= g.desired && g.desired > 0 {
		least = g.desired - 1 // likewise: one goes first
	}
	return least, most
}

// surge is how many members a refresh wants alive now, and the most that are not ended as too many.
func (g *scaling) surge(r *refresh, alive int) (want, most int) {
	_, limit := g.bounds(r)
	if r.status == "Cancelling" || r.status == "Baking" {
		return g.desired, g.desired
	}
	fresh := 0
	for id, m := range g.members {
		if m.alive() && !r.old[id] {
			fresh++
		}
	}
	keep := r.total - r.allowed() // the old ones beyond the next checkpoint
	extra := min(limit-alive, g.desired-keep-fresh)
	if time.Now().Before(r.paused) {
		extra = 0
	}
	return max(g.desired, alive+max(extra, 0)), max(limit, g.desired)
}

// roll goes on with a refresh, as far as it goes now.
func (g *scaling) roll(r *refresh, now time.Time) {
	switch r.status {
	case "Pending":
		r.status = "InProgress"
	case "Cancelling":
		for _, m := range g.members {
			if r.wait && m.state != inService {
				return // what is under way comes to its end first
			}
		}
		r.finish("Cancelled", "Cancelled due to user request.", now)
		g.dirty = true
		return
	case "Baking":
		if !now.Before(r.paused) {
			g.succeed(r, now)
		} else {
			g.due(r.paused)
		}
		return
	}
	if now.Before(r.paused) {
		g.due(r.paused)
		return
	}
	least, _ := g.bounds(r)
	warmup := max(g.warmup, 0)
	if g.warmup < 0 {
		warmup = g.grace
	}
	if w := r.prefs.InstanceWarmup; w != nil {
		warmup = *w
	}
	ready := 0
	var oldServing, oldPending []*member
	protected := 0
	for _, m := range g.ordered() {
		if !m.alive() {
			continue
		}
		switch {
		case r.old[m.instance.id] && m.state == inService:
			if m.protected && r.prefs.ScaleInProtectedInstances != "Refresh" {
				protected++
			} else {
				oldServing = append(oldServing, m)
			}
			ready++
		case r.old[m.instance.id]:
			oldPending = append(oldPending, m)
		case m.state == inService:
			if at := m.serving.Add(time.Duration(warmup) * time.Second); now.Before(at) {
				g.due(at)
			} else {
				ready++
			}
		}
	}
	if protected > 0 && r.prefs.ScaleInProtectedInstances == "Ignore" {
		for id := range r.old {
			if m := g.members[id]; m != nil && m.protected {
				delete(r.old, id)
				r.total--
			}
		}
		protected = 0
	}
	cause := "an instance was taken out of service in response to an instance refresh."
	for _, m := range oldPending { // it never served: nothing is lost
		g.terminate(m, cause, now)
	}
	replaced := r.total - len(oldServing) - protected
	for n := min(ready-least, r.allowed()-replaced, len(oldServing)); n > 0; n-- {
		g.terminate(oldServing[0], cause, now)
		oldServing = oldServing[1:]
	}
	if len(oldServing) == 0 && protected > 0 { // ScaleInProtectedInstances is Wait
		if r.blocked.IsZero() {
			r.blocked = now
		}
		if now.Sub(r.blocked) >= protectionPatient {
			g.fail(r, "instances were protected from scale in for an hour", now)
			return
		}
		g.due(r.blocked.Add(protectionPatient))
	}
	pct := 100
	if r.total > 0 {
		pct = (r.total - g.left(r)) * 100 / r.total
	}
	if p := r.prefs.CheckpointPercentages.Member; !r.rollingBack() && r.checkpoint < len(p) && pct >= p[r.checkpoint] && p[r.checkpoint] < 100 {
		delay := 3600
		if r.prefs.CheckpointDelay != nil {
			delay = *r.prefs.CheckpointDelay
		}
		r.checkpoint++
		r.paused = now.Add(time.Duration(delay) * time.Second)
		r.reason = fmt.Sprintf("Checkpoint reached at %d%%. Waiting %d seconds before continuing.", p[r.checkpoint-1], delay)
		g.due(r.paused)
		g.dirty = true
		if r.checkpoint == len(p) { // the rest is left as it is
			g.succeed(r, now)
		}
		return
	}
	if g.left(r) == 0 && ready >= g.desired {
		if r.rollingBack() {
			r.finish("RollbackSuccessful", r.reason, now)
		} else if b := r.prefs.BakeTime; b != nil && *b > 0 {
			r.status, r.paused = "Baking", now.Add(time.Duration(*b)*time.Second)
			g.due(r.paused)
		} else {
			g.succeed(r, now)
		}
		g.dirty = true
	}
}

func (g *scaling) succeed(r *refresh, now time.Time) {
	if d := r.desired; d != nil {
		g.spec, g.mixed = d.LaunchTemplate, d.MixedInstancesPolicy
	}
	r.finish("Successful", "", now)
	g.dirty = true
}

func (r *refresh) finish(status, reason string, now time.Time) {
	r.status, r.reason, r.end = status, reason, now
}

// failedInRefresh notes that a member which a refresh brought did not come up or did not last.
func (g *scaling) failedInRefresh(m *member, reason string) {
	r := g.activeRefresh()
	if r != nil && !r.old[m.instance.id] && !r.rollingBack() {
		g.fails(r, reason, time.Now())
	}
}

// fails ends a refresh when its new members have not come up for as long as the account's patience.
func (g *scaling) fails(r *refresh, reason string, now time.Time) {
	if r.failing.IsZero() {
		r.failing = now
	}
	r.reason = reason
	if !r.rollingBack() && now.Sub(r.failing) >= g.r.s.o.RefreshPatience {
		g.fail(r, reason, now)
	}
}

// fail ends a refresh, or has it roll back.
func (g *scaling) fail(r *refresh, reason string, now time.Time) {
	if r.prefs.AutoRollback == nil || !*r.prefs.AutoRollback {
		r.finish("Failed", reason, now)
		g.dirty = true
		return
	}
	g.rollBack(r, reason, now)
}

// rollBack has the refresh replace what it brought by what was there before.
func (g *scaling) rollBack(r *refresh, reason string, now time.Time) {
	r.back = &rollback{reason, now, g.percent(r)}
	old := r.old
	r.old = map[string]bool{}
	for id, m := range g.members {
		if m.alive() && !old[id] && !g.matches(m, desiredConfig{g.spec, g.mixed}) {
			r.old[id] = true
		}
	}
	r.status, r.reason, r.total, r.paused = "RollbackInProgress", reason, len(r.old), time.Time{}
	g.retry, g.failures = time.Time{}, 0
	g.dirty = true
}

// matches says that a member is as a configuration would make it.
func (g *scaling) matches(m *member, d desiredConfig) bool {
	spec, mixed := d.of()
	t, err := g.r.template(spec.LaunchTemplateId, spec.LaunchTemplateName)
	if err != nil {
		return false
	}
	v, err := t.version(spec.Version)
	if err != nil || m.template.LaunchTemplateId != t.id || m.template.Version != fmt.Sprint(v.number) {
		return false
	}
	if mixed == nil || len(mixed.LaunchTemplate.Overrides.Member) == 0 {
		return m.size == v.data.InstanceType
	}
	return slices.ContainsFunc(mixed.LaunchTemplate.Overrides.Member, func(o templateOverride) bool { return o.InstanceType == m.size })
}
