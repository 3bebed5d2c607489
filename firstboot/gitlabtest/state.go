package gitlabtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Runner is a runner as the server knows it.
type Runner struct {
	ID          int
	Token       string
	Description string
	Tags        []string
	RunUntagged bool
	Locked      bool
	Paused      bool
	Instance    bool   // of the whole instance, which only administrators list
	Made        string // "ui": its settings live on the server; "registration": made by POST /runners
	Created     time.Time
	Managers    map[string]Manager // by system id: the machines that use it
	Polls       int                // answered job requests
}

// Manager is one machine of a runner.
type Manager struct {
	SystemID  string
	Version   string
	Contacted time.Time
	Polls     int
}

// Job is one job, from the queue to its end.
type Job struct {
	ID       int
	Tags     []string // which runners may take it; a job without tags needs a runner with run_untagged
	Script   []string // shell lines; the stand-in runner knows echo, sleep and exit
	State    string   // pending, running, success, failed, canceled
	Reason   string   // the failure reason that the runner gave
	Runner   int      // who took it
	SystemID string
	Trace    string
	Started  time.Time
	Ended    time.Time

	token string
}

// AddRunner makes a runner as the UI does and returns its token (glrt-...), or r.Token when given. Description, tags,
// RunUntagged and Locked are taken from r.
func (s *Server) AddRunner(r Runner) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Made = "ui"
	return s.add(r, "glrt-").Token
}

// add keeps a new runner under the next id; the caller holds the lock.
func (s *Server) add(r Runner, prefix string) *Runner {
	s.serial++
	r.ID = s.serial
	if r.Token == "" {
		r.Token = fmt.Sprintf("%st3_%06dabcdefghijklmn", prefix, r.ID) // runners show the first nine characters
	}
	r.Created, r.Managers = s.opts.Now(), map[string]Manager{}
	s.runners = append(s.runners, &r)
	return &r
}

// DeleteRunner removes the runner of a token, as an administrator does in the UI.
func (s *Server) DeleteRunner(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(token)
}

func (s *Server) remove(token string) bool {
	before := len(s.runners)
	s.runners = slices.DeleteFunc(s.runners, func(r *Runner) bool { return r.Token == token })
	return len(s.runners) < before
}

// Runners returns every runner, in order of creation.
func (s *Server) Runners() []Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Runner, len(s.runners))
	for i, r := range s.runners {
		out[i] = *r
		out[i].Tags, out[i].Managers = slices.Clone(r.Tags), maps.Clone(r.Managers)
	}
	return out
}

// Orphans are runners that were made by a registration and never heard of again: what a lost answer leaves behind.
func (s *Server) Orphans() []Runner {
	return slices.DeleteFunc(s.Runners(), func(r Runner) bool { return r.Made != "registration" || len(r.Managers) > 0 })
}

// QueueJob adds a pending job and returns its id.
func (s *Server) QueueJob(j Job) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	j.ID, j.State, j.token = s.serial, "pending", fmt.Sprintf("glcbt-%020d", s.serial)
	s.jobs = append(s.jobs, &j)
	return j.ID
}

// Job returns one job.
func (s *Server) Job(id int) (Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.ID == id {
			return *j, true
		}
	}
	return Job{}, false
}

// byToken finds a runner; the caller holds the lock.
func (s *Server) byToken(token string) *Runner {
	for _, r := range s.runners {
		if r.Token == token {
			return r
		}
	}
	return nil
}

// contact notes that a machine of the runner called.
func (s *Server) contact(r *Runner, systemID, version string, poll int) {
	m := r.Managers[systemID]
	m.SystemID, m.Contacted, m.Polls = systemID, s.opts.Now(), m.Polls+poll
	if version != "" {
		m.Version = version
	}
	r.Managers[systemID] = m
	r.Polls += poll
}

// takes says whether the runner may run the job.
func (r *Runner) takes(j *Job) bool {
	if len(j.Tags) == 0 {
		return r.RunUntagged
	}
	for _, t := range j.Tags {
		if !slices.Contains(r.Tags, t) {
			return false
		}
	}
	return true
}

// splitTags reads GitLab's comma-separated list.
func splitTags(list string) []string {
	var out []string
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}
