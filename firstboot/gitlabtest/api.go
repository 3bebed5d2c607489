package gitlabtest

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// endpoint answers a call with the server's lock held.
type endpoint func(*call) answer

func (endpoint) ServeHTTP(http.ResponseWriter, *http.Request) {} // routed by the mux, served by Server.answer

func (s *Server) routes() {
	for pattern, e := range map[string]endpoint{
		"POST /api/v4/runners":              s.register,
		"POST /api/v4/runners/verify":       s.verify,
		"DELETE /api/v4/runners":            s.unregister,
		"DELETE /api/v4/runners/managers":   s.unregisterManager,
		"POST /api/v4/jobs/request":         s.requestJob,
		"PATCH /api/v4/jobs/{id}/trace":     s.patchTrace,
		"PUT /api/v4/jobs/{id}":             s.updateJob,
		"GET /api/v4/version":               s.version,
		"GET /api/v4/runners":               s.runnersView,
		"GET /api/v4/runners/all":           s.allRunnersView,
		"GET /api/v4/runners/{id}":          s.runnerView,
		"GET /api/v4/runners/{id}/managers": s.managersView,
		"GET /api/v4/runners/{id}/jobs":     s.runnerJobsView,
		"DELETE /api/v4/runners/{id}":       s.deleteRunner,
	} {
		s.mux.Handle(pattern, e)
	}
}

var systemIDForm = regexp.MustCompile(`^[sr]_[0-9a-zA-Z]{12}$`)

// info is what a runner tells of itself.
type info struct {
	Name         string         `json:"name"`
	Version      string         `json:"version"`
	Revision     string         `json:"revision"`
	Platform     string         `json:"platform"`
	Architecture string         `json:"architecture"`
	Executor     string         `json:"executor"`
	Shell        string         `json:"shell"`
	Features     map[string]any `json:"features"`
	Config       map[string]any `json:"config"`
	Labels       map[string]any `json:"labels"`
}

// credentials is the answer to a registration or verification.
type credentials struct {
	ID      int        `json:"id"`
	Token   string     `json:"token"`
	Expires *time.Time `json:"token_expires_at"`
}

// register makes a runner from a registration token. An authentication token is not one: the settings of a runner
// made in the UI are the server's, and are refused here as GitLab refuses them.
func (s *Server) register(c *call) answer {
	if a, limited := s.throttle("throttle_runner_registration", "", s.opts.RegistrationsPerMinute); limited {
		return a
	}
	var in struct {
		Token           string `json:"token"`
		Description     string `json:"description"`
		Tags            string `json:"tag_list"`
		RunUntagged     *bool  `json:"run_untagged"`
		Locked          *bool  `json:"locked"`
		Info            info   `json:"info"`
		MaintenanceNote string `json:"maintenance_note"`
		AccessLevel     string `json:"access_level"`
		MaximumTimeout  int    `json:"maximum_timeout"`
		Paused          bool   `json:"paused"`
	}
	if a, ok := c.decode(&in); !ok {
		return a
	}
	switch {
	case in.Token == "":
		return answer{status: http.StatusBadRequest, json: map[string]string{"error": "token is missing"}}
	case strings.HasPrefix(in.Token, "glrt"):
		return failure(http.StatusForbidden, "403 Forbidden - invalid token supplied")
	case s.opts.RegistrationDisabled:
		return failure(http.StatusGone, "410 Gone - runner registration disallowed")
	case !slices.Contains(s.opts.RegistrationTokens, in.Token):
		return failure(http.StatusForbidden, "403 Forbidden - invalid token supplied")
	}
	r := Runner{Description: in.Description, Tags: splitTags(in.Tags), RunUntagged: in.RunUntagged == nil || *in.RunUntagged, Locked: in.Locked == nil || *in.Locked, Made: "registration"}
	if !r.RunUntagged && len(r.Tags) == 0 {
		return failure(http.StatusBadRequest, map[string][]string{"tags_list": {"can not be empty when runner is not allowed to pick untagged jobs"}})
	}
	if len(r.Tags) > 50 {
		return failure(http.StatusBadRequest, map[string][]string{"tags_list": {"Too many tags specified. Please limit the number of tags to 50"}})
	}
	made := s.add(r, "glrtr-")
	c.Runner = made.ID
	return answer{status: http.StatusCreated, json: credentials{ID: made.ID, Token: made.Token}}
}

func (s *Server) verify(c *call) answer {
	r, systemID, a := s.machine(c)
	if r == nil {
		return a
	}
	if systemID != "" {
		s.contact(r, systemID, "", 0)
	}
	return answer{status: http.StatusOK, json: credentials{ID: r.ID, Token: r.Token}}
}

func (s *Server) unregister(c *call) answer {
	r, _, a := s.machine(c)
	if r == nil {
		return a
	}
	s.remove(r.Token)
	return answer{status: http.StatusNoContent}
}

func (s *Server) unregisterManager(c *call) answer {
	r, systemID, a := s.machine(c)
	switch {
	case r == nil:
		return a
	case systemID == "":
		return answer{status: http.StatusBadRequest, json: map[string]string{"error": "system_id is missing"}}
	}
	if _, ok := r.Managers[systemID]; !ok {
		return failure(http.StatusNotFound, "404 Runner manager Not Found")
	}
	delete(r.Managers, systemID)
	return answer{status: http.StatusNoContent}
}

// machine reads the token and system id that verification and both removals take, and finds their runner.
func (s *Server) machine(c *call) (*Runner, string, answer) {
	var in struct {
		Token    string `json:"token"`
		SystemID string `json:"system_id"`
		Info     *info  `json:"info"` // sent along with a verification by gitlab-runner 19.4
	}
	if a, ok := c.decode(&in); !ok {
		return nil, "", a
	}
	if in.Info != nil && c.Path != "/api/v4/runners/verify" {
		c.Problem = "info is sent with a verification only"
		return nil, "", failure(http.StatusBadRequest, "400 Bad request")
	}
	c.SystemID = in.SystemID
	if in.Token == "" {
		return nil, "", answer{status: http.StatusBadRequest, json: map[string]string{"error": "token is missing"}}
	}
	if in.SystemID != "" && !systemIDForm.MatchString(in.SystemID) {
		c.Problem = fmt.Sprintf("system_id %q has not the form of one", in.SystemID)
		return nil, "", failure(http.StatusUnprocessableEntity, "422 Unprocessable Entity")
	}
	r := s.byToken(in.Token)
	if r == nil {
		return nil, "", failure(http.StatusForbidden, "403 Forbidden - invalid token supplied")
	}
	c.Runner = r.ID
	return r, in.SystemID, answer{}
}

// requestJob hands out the oldest job that the runner may take, or 204.
func (s *Server) requestJob(c *call) answer {
	var in struct {
		Token      string         `json:"token"`
		SystemID   string         `json:"system_id"`
		Info       info           `json:"info"`
		LastUpdate string         `json:"last_update"`
		Session    map[string]any `json:"session"`
	}
	if a, ok := c.decode(&in); !ok {
		return a
	}
	c.SystemID = in.SystemID
	if !systemIDForm.MatchString(in.SystemID) {
		c.Problem = fmt.Sprintf("system_id %q has not the form of one", in.SystemID)
		return failure(http.StatusBadRequest, "400 Bad request")
	}
	r := s.byToken(in.Token)
	if r == nil {
		return failure(http.StatusForbidden, "403 Forbidden")
	}
	c.Runner = r.ID
	if a, limited := s.throttle("throttle_runner_jobs_request", in.Token, s.opts.JobRequestsPerMinute); limited {
		return a
	}
	s.contact(r, in.SystemID, in.Info.Version, 1)
	for _, j := range s.jobs {
		if j.State == "pending" && r.takes(j) {
			j.State, j.Runner, j.SystemID, j.Started = "running", r.ID, in.SystemID, s.opts.Now()
			return answer{status: http.StatusCreated, json: j.payload(r)}
		}
	}
	return answer{status: http.StatusNoContent, header: map[string]string{"X-GitLab-Last-Update": "0123456789abcdef0123456789abcdef"}}
}

// payload is the job as runners receive it.
func (j *Job) payload(r *Runner) map[string]any {
	variable := func(k, v string) map[string]any {
		return map[string]any{"key": k, "value": v, "public": true, "masked": false}
	}
	return map[string]any{
		"id": j.ID, "token": j.token, "allow_git_fetch": true,
		"job_info":    map[string]any{"id": j.ID, "name": "trivial", "stage": "test", "project_id": 1, "project_name": "trivial"},
		"git_info":    map[string]any{"repo_url": "http://localhost/trivial.git", "ref": "main", "sha": strings.Repeat("0", 40), "before_sha": strings.Repeat("0", 40), "ref_type": "branch", "refspecs": []string{}, "depth": 1},
		"runner_info": map[string]any{"timeout": 3600},
		"variables":   []any{variable("CI_JOB_ID", strconv.Itoa(j.ID)), variable("GIT_STRATEGY", "none"), variable("CI_RUNNER_ID", strconv.Itoa(r.ID))},
		"steps":       []any{map[string]any{"name": "script", "script": j.Script, "timeout": 3600, "when": "on_success", "allow_failure": false}},
		"image":       nil, "services": []any{}, "artifacts": nil, "cache": []any{}, "credentials": []any{}, "dependencies": []any{},
		"features": map[string]any{"trace_sections": true},
	}
}

// patchTrace appends to a running job's log; an offset that does not continue it is answered 416.
func (s *Server) patchTrace(c *call) answer {
	j, a := s.jobOf(c, c.r.Header.Get("JOB-TOKEN"))
	if j == nil {
		return a
	}
	first, _, _ := strings.Cut(c.r.Header.Get("Content-Range"), "-")
	have := map[string]string{"Job-Status": j.State, "Range": fmt.Sprintf("0-%d", len(j.Trace))}
	if offset, err := strconv.Atoi(first); err != nil || offset != len(j.Trace) {
		return answer{status: http.StatusRequestedRangeNotSatisfiable, header: have, json: map[string]string{"message": "416 Range Not Satisfiable"}}
	}
	j.Trace += string(c.body)
	have["Range"] = fmt.Sprintf("0-%d", len(j.Trace))
	have["X-GitLab-Trace-Update-Interval"] = "60"
	return answer{status: http.StatusAccepted, header: have}
}

func (s *Server) updateJob(c *call) answer {
	var in struct {
		Token    string         `json:"token"`
		State    string         `json:"state"`
		Reason   string         `json:"failure_reason"`
		Checksum string         `json:"checksum"`
		Output   map[string]any `json:"output"`
		ExitCode int            `json:"exit_code"`
		Info     info           `json:"info"`
	}
	if a, ok := c.decode(&in); !ok {
		return a
	}
	j, a := s.jobOf(c, in.Token)
	if j == nil {
		return a
	}
	switch in.State {
	case "running":
	case "success", "failed":
		j.State, j.Reason, j.Ended = in.State, in.Reason, s.opts.Now()
	default:
		c.Problem = fmt.Sprintf("job state %q", in.State)
		return failure(http.StatusBadRequest, "400 Bad request")
	}
	return answer{status: http.StatusOK, header: map[string]string{"Job-Status": j.State}}
}

// jobOf finds the running job that the path names and the token opens.
func (s *Server) jobOf(c *call, token string) (*Job, answer) {
	parts := strings.Split(c.Path, "/") // "", api, v4, jobs, ID, trace
	for _, j := range s.jobs {
		if strconv.Itoa(j.ID) != parts[4] || j.token != token {
			continue
		}
		c.Runner, c.SystemID = j.Runner, j.SystemID
		if j.State != "running" {
			return nil, answer{status: http.StatusForbidden, header: map[string]string{"Job-Status": j.State}, json: map[string]string{"message": "403 Forbidden - Job is not running"}}
		}
		return j, answer{}
	}
	return nil, failure(http.StatusForbidden, "403 Forbidden")
}

// version tells a client with a private token which GitLab this is; without one it is 401 in JSON, which is enough
// to know an API from a captive portal.
func (s *Server) version(c *call) answer {
	if a, ok := s.private(c); !ok {
		return a
	}
	return answer{status: http.StatusOK, json: map[string]string{"version": s.opts.Version, "revision": "0123456789a"}}
}

func (s *Server) private(c *call) (answer, bool) {
	if t := s.opts.PrivateToken; t == "" || c.r.Header.Get("PRIVATE-TOKEN") != t {
		return failure(http.StatusUnauthorized, "401 Unauthorized"), false
	}
	return answer{}, true
}
