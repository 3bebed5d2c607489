package gitlabtest

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What users see of runners, with an access token of theirs (docs.gitlab.com/api/runners): lists, one runner, its
// managers, its jobs, and its removal. All runners here are the token owner's own, but for the instance's.

// query reads the parameters of a list; one that the API does not have is refused and remembered.
func (c *call) query(known ...string) (url.Values, answer, bool) {
	q := c.r.URL.Query()
	for _, k := range slices.Sorted(maps.Keys(q)) {
		if !slices.Contains(known, k) {
			c.Problem = fmt.Sprintf("unknown parameter %q", k)
			return nil, failure(http.StatusBadRequest, "400 Bad request - "+c.Problem), false
		}
	}
	return q, answer{}, true
}

// pages cuts a list as GitLab does: 20 items unless told, 100 at most.
func pages[T any](q url.Values, items []T) answer {
	number := func(key string, otherwise int) int {
		if n, err := strconv.Atoi(q.Get(key)); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	size, page := min(number("per_page", 20), 100), number("page", 1)
	from := min((page-1)*size, len(items))
	to := min(from+size, len(items))
	next := ""
	if to < len(items) {
		next = strconv.Itoa(page + 1)
	}
	shown := append([]T{}, items[from:to]...) // an empty list, not null
	return answer{status: http.StatusOK, json: shown, header: map[string]string{"X-Next-Page": next, "X-Page": strconv.Itoa(page),
		"X-Per-Page": strconv.Itoa(size), "X-Total": strconv.Itoa(len(items))}}
}

func (s *Server) runnersView(c *call) answer { return s.listRunners(c, false) }

// allRunnersView is for administrators: Options.Admin.
func (s *Server) allRunnersView(c *call) answer { return s.listRunners(c, true) }

func (s *Server) listRunners(c *call, all bool) answer {
	if a, ok := s.private(c); !ok {
		return a
	}
	if all && !s.opts.Admin {
		return failure(http.StatusForbidden, "403 Forbidden")
	}
	q, a, ok := c.query("type", "status", "paused", "tag_list", "version_prefix", "page", "per_page")
	if !ok {
		return a
	}
	var list []map[string]any
	for _, r := range s.runners {
		has := func(t string) bool { return slices.Contains(r.Tags, t) }
		if tags := splitTags(q.Get("tag_list")); len(tags) > 0 && slices.IndexFunc(tags, func(t string) bool { return !has(t) }) >= 0 ||
			r.Instance && !all || q.Get("status") != "" && q.Get("status") != s.status(r.contacted()) {
			continue
		}
		view := s.brief(r)
		list = append(list, view)
	}
	return pages(q, list)
}

// brief is a runner in a list.
func (s *Server) brief(r *Runner) map[string]any {
	kind := "group_type"
	if r.Instance {
		kind = "instance_type"
	}
	return map[string]any{"id": r.ID, "description": r.Description, "active": !r.Paused, "paused": r.Paused, "is_shared": r.Instance, "runner_type": kind, "name": nil,
		"online": s.online(r.contacted()), "status": s.status(r.contacted()), "created_at": r.Created, "ip_address": "", "job_execution_status": s.executing(r.ID, "")}
}

func (s *Server) runnerView(c *call) answer {
	r, a := s.viewed(c)
	if r == nil {
		return a
	}
	view := s.brief(r)
	maps.Copy(view, map[string]any{"tag_list": r.Tags, "run_untagged": r.RunUntagged, "locked": r.Locked, "contacted_at": r.contacted()})
	return answer{status: http.StatusOK, json: view}
}

func (s *Server) managersView(c *call) answer {
	r, a := s.viewed(c)
	if r == nil {
		return a
	}
	q, a, ok := c.query("page", "per_page")
	if !ok {
		return a
	}
	var list []any
	for _, id := range slices.Sorted(maps.Keys(r.Managers)) {
		m := r.Managers[id]
		list = append(list, map[string]any{"id": slices.Index(slices.Sorted(maps.Keys(r.Managers)), id) + 1, "system_id": m.SystemID, "version": m.Version,
			"contacted_at": m.Contacted, "status": s.status(&m.Contacted), "job_execution_status": s.executing(r.ID, m.SystemID)})
	}
	return pages(q, list)
}

// runnerJobsView lists the jobs of a runner, or of one of its managers.
func (s *Server) runnerJobsView(c *call) answer {
	r, a := s.viewed(c)
	if r == nil {
		return a
	}
	q, a, ok := c.query("system_id", "status", "order_by", "sort", "page", "per_page")
	if !ok {
		return a
	}
	var list []any
	for _, j := range s.jobs {
		if j.Runner == r.ID && (q.Get("system_id") == "" || q.Get("system_id") == j.SystemID) && (q.Get("status") == "" || q.Get("status") == j.State) {
			list = append(list, map[string]any{"id": j.ID, "status": j.State, "started_at": j.Started})
		}
	}
	return pages(q, list)
}

// deleteRunner removes a runner by its id, with all its managers.
func (s *Server) deleteRunner(c *call) answer {
	r, a := s.viewed(c)
	if r == nil {
		return a
	}
	s.remove(r.Token)
	return answer{status: http.StatusNoContent}
}

// viewed finds the runner that a path names.
func (s *Server) viewed(c *call) (*Runner, answer) {
	if a, ok := s.private(c); !ok {
		return nil, a
	}
	id := strings.Split(c.Path, "/")[4]
	for _, r := range s.runners {
		if strconv.Itoa(r.ID) == id {
			c.Runner = r.ID
			return r, answer{}
		}
	}
	return nil, failure(http.StatusNotFound, "404 Runner Not Found")
}

// contacted is when a machine of the runner's called last, nil for never.
func (r *Runner) contacted() *time.Time {
	var last *time.Time
	for _, m := range r.Managers {
		if last == nil || m.Contacted.After(*last) {
			last = &m.Contacted
		}
	}
	return last
}

// executing says whether a runner, or one of its managers, has a job.
func (s *Server) executing(runner int, systemID string) string {
	for _, j := range s.jobs {
		if j.State == "running" && j.Runner == runner && cmp.Or(systemID, j.SystemID) == j.SystemID {
			return "active"
		}
	}
	return "idle"
}

// online is GitLab's two-hour rule.
func (s *Server) online(contacted *time.Time) bool {
	return contacted != nil && s.opts.Now().Sub(*contacted) < 2*time.Hour
}

// status follows docs.gitlab.com: a runner that was silent for 7 days is stale.
func (s *Server) status(contacted *time.Time) string {
	switch {
	case contacted == nil:
		return "never_contacted"
	case s.online(contacted):
		return "online"
	case s.opts.Now().Sub(*contacted) > 7*24*time.Hour:
		return "stale"
	}
	return "offline"
}
