package lint

import (
	"regexp"
	"slices"
	"strings"

	"github.com/dorunner/dorunner-bake/cloudinit/decode"
)

var unitPath = regexp.MustCompile(`^/(?:etc|run|lib|usr/lib|usr/local/lib)/systemd/system/(?:([^/]+\.(?:service|target|timer|socket|path|mount))|([^/]+)\.d/[^/]+\.conf)$`)

// unit is a systemd unit that a document writes, or a drop-in for one.
type unit struct {
	name     string
	layer    *decode.Layer
	after    []ref // it waits for these
	before   []ref // these wait for it, among them the targets that want it
	defaults bool  // DefaultDependencies
}

// ref is another unit's name, and where it stands.
type ref struct {
	name string
	off  int
}

func parseUnit(path string, text *decode.Layer) unit {
	m := unitPath.FindStringSubmatch(path)
	u := unit{name: m[1] + m[2], layer: text, defaults: true}
	off := 0
	for line := range strings.Lines(string(text.Data)) {
		at := off
		off += len(line)
		name, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if !found || strings.HasPrefix(name, "#") || strings.HasPrefix(name, ";") {
			continue
		}
		for word := range strings.FieldsSeq(value) {
			r := ref{word, at + max(0, strings.Index(line, word))}
			switch strings.TrimSpace(name) {
			case "After":
				u.after = append(u.after, r)
			case "Before", "WantedBy", "RequiredBy", "UpheldBy": // a target is ordered after what it wants
				if strings.TrimSpace(name) == "Before" || strings.HasSuffix(word, ".target") {
					u.before = append(u.before, r)
				}
			case "DefaultDependencies":
				u.defaults = !slices.Contains([]string{"no", "false", "0", "off"}, strings.ToLower(word))
			}
		}
	}
	return u
}

// boot is the order of a boot with cloud-init: on each line what comes first, then what waits for it. From the units
// of systemd 252 and cloud-init 22.4 to 26.1; cloud-init.service is named cloud-init-network.service since 24.3.
const boot = `
local-fs.target sysinit.target
cloud-init-local.service network-pre.target cloud-init.service cloud-init-network.service sysinit.target
network-pre.target network.target cloud-init.service cloud-init-network.service
network.target network-online.target
cloud-init.service network-online.target sysinit.target cloud-config.target
cloud-init-network.service network-online.target sysinit.target cloud-config.target
sysinit.target basic.target sockets.target paths.target timers.target
sockets.target basic.target
paths.target basic.target
basic.target multi-user.target
network-online.target cloud-config.service cloud-final.service
cloud-config.target cloud-config.service
cloud-config.service cloud-final.service
multi-user.target graphical.target cloud-final.service cloud-init.target
cloud-final.service cloud-init.target
`

// edge says that one unit waits for another, because of a line of a written unit or of the system's own.
type edge struct {
	to  string
	own *unit
	off int
}

// cycles finds units that wait for themselves. systemd breaks such a circle by dropping a job, and the unit never runs.
func (l *linter) cycles(units []unit) {
	if len(units) == 0 {
		return
	}
	next := map[string][]edge{}
	for line := range strings.Lines(boot) {
		if w := strings.Fields(line); len(w) > 1 {
			for _, to := range w[1:] {
				next[w[0]] = append(next[w[0]], edge{to: to})
			}
		}
	}
	for i := range units {
		u := &units[i]
		for _, r := range u.before {
			next[u.name] = append(next[u.name], edge{r.name, u, r.off})
		}
		for _, r := range u.after {
			next[r.name] = append(next[r.name], edge{u.name, u, r.off})
		}
		if u.defaults && strings.HasSuffix(u.name, ".service") {
			next["basic.target"] = append(next["basic.target"], edge{to: u.name})
		}
	}
	for i := range units {
		u := &units[i]
		circle := shortest(next, u.name)
		if circle == nil {
			continue
		}
		names := []string{u.name}
		off, own := 0, false
		for _, e := range circle {
			names = append(names, e.to)
			if e.own == u && (!own || e.off < off) {
				off, own = e.off, true
			}
		}
		slices.Reverse(names)
		l.add(u.layer, off, "unit-cycle", false, "", "order it after cloud-config.target, or let cloud-init.target want it",
			"systemd finds a circle and drops a job, so the unit silently never runs: %s", strings.Join(names, " waits for "))
	}
}

// shortest is the shortest way from a unit back to itself.
func shortest(next map[string][]edge, start string) []edge {
	type step struct {
		at   string
		path []edge
	}
	seen := map[string]bool{}
	for queue := []step{{at: start}}; len(queue) > 0; queue = queue[1:] {
		for _, e := range next[queue[0].at] {
			path := append(slices.Clone(queue[0].path), e)
			if e.to == start {
				return path
			}
			if !seen[e.to] {
				seen[e.to] = true
				queue = append(queue, step{e.to, path})
			}
		}
	}
	return nil
}
