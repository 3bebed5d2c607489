package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// GitLab is the API of the DataOps application, as its users reach it: with an access token that may read runners
// (scope read_api; api to remove some).
type GitLab struct {
	base, token string
	client      *http.Client
}

// errNoGitLabToken is for what cannot be told without asking GitLab.
var errNoGitLabToken = errors.New("no access token of GitLab's: name one with --gitlab-token env:NAME, or fleet.gitlab_token in the spec (scope read_api)")

// NewGitLab opens GitLab at the runner's URL. The token is read here, on the operator's machine. Transport nil is the
// network.
func NewGitLab(address string, token runner.Secret, transport http.RoundTripper) (*GitLab, error) {
	var text string
	switch token.Scheme() {
	case "":
		return nil, errNoGitLabToken
	case "plain":
		text = token.Reveal()
	case "env":
		text = os.Getenv(token.Ref())
	case "file":
		data, err := os.ReadFile(token.Ref())
		if err != nil {
			return nil, fmt.Errorf("fleet.gitlab_token: %w", err)
		}
		text = strings.TrimSpace(string(data))
	}
	if text == "" {
		return nil, fmt.Errorf("fleet.gitlab_token: %s is empty", token)
	}
	return &GitLab{base: strings.TrimSuffix(address, "/") + "/api/v4", token: text, client: &http.Client{Transport: transport, Timeout: 30 * time.Second}}, nil
}

// Runner is what GitLab knows of one machine: a runner of its own, or one manager of a runner that several share.
type Runner struct {
	ID          int       `json:"id"`
	SystemID    string    `json:"system_id,omitempty"` // "" for a runner that is one machine's
	Description string    `json:"description"`
	Status      string    `json:"status"` // online, offline, stale or never_contacted: online is within two hours
	Paused      bool      `json:"paused,omitempty"`
	Jobs        int       `json:"jobs"`
	Contacted   time.Time `json:"contacted,omitzero"` // GitLab writes this down about once in 40 minutes
	Created     time.Time `json:"created,omitzero"`
}

// view is a runner or manager as the API shows it (docs.gitlab.com/api/runners).
type view struct {
	ID          int       `json:"id"`
	SystemID    string    `json:"system_id"`
	Description string    `json:"description"`
	Status      string    `json:"status"`
	Paused      bool      `json:"paused"`
	Contacted   time.Time `json:"contacted_at"`
	Created     time.Time `json:"created_at"`
	Executing   string    `json:"job_execution_status"` // active or idle; missing before 17.x
}

// Runners lists what GitLab knows of a group: runners whose description one of its machines has or had, and managers of
// runners that its machines share.
func (l *GitLab) Runners(ctx context.Context, g *Group) ([]*Runner, error) {
	tags := g.Runner.Tags
	if len(tags) == 0 {
		tags = []string{g.Runner.Name}
	}
	var listed []view
	// What the token's owner owns; the whole of an instance only administrators may list.
	for _, path := range []string{"/runners", "/runners/all"} {
		err := l.list(ctx, path, url.Values{"tag_list": {strings.Join(tags, ",")}}, &listed)
		var refused *refusal
		if errors.As(err, &refused) && refused.status == http.StatusForbidden && path == "/runners/all" {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(listed) > 0 {
			break
		}
	}
	form := g.pattern()
	var mu sync.Mutex
	var out []*Runner
	err := each(listed, func(v view) error {
		if form.MatchString(v.Description) { // a machine of the group may have made itself known so
			if err := l.get(ctx, fmt.Sprintf("/runners/%d", v.ID), nil, &v); err != nil {
				return err
			}
			v.SystemID = ""
			r, err := l.runner(ctx, v.ID, v.Description, v)
			mu.Lock()
			out = append(out, r)
			mu.Unlock()
			return err
		}
		var managers []view
		if err := l.list(ctx, fmt.Sprintf("/runners/%d/managers", v.ID), nil, &managers); err != nil {
			return err
		}
		return each(managers, func(m view) error {
			m.Paused = v.Paused
			r, err := l.runner(ctx, v.ID, v.Description, m)
			mu.Lock()
			out = append(out, r)
			mu.Unlock()
			return err
		})
	})
	slices.SortFunc(out, func(a, b *Runner) int {
		if a.ID != b.ID {
			return a.ID - b.ID
		}
		return strings.Compare(a.SystemID, b.SystemID)
	})
	return out, err
}

// runner makes a Runner of what the API shows, and counts the jobs of a busy one.
func (l *GitLab) runner(ctx context.Context, id int, description string, v view) (*Runner, error) {
	r := &Runner{ID: id, SystemID: v.SystemID, Description: description, Status: v.Status, Paused: v.Paused, Contacted: v.Contacted, Created: v.Created}
	if v.Executing != "active" {
		return r, nil
	}
	q := url.Values{"status": {"running"}}
	if v.SystemID != "" {
		q.Set("system_id", v.SystemID)
	}
	var jobs []struct {
		ID int `json:"id"`
	}
	err := l.list(ctx, fmt.Sprintf("/runners/%d/jobs", id), q, &jobs)
	r.Jobs = len(jobs)
	return r, err
}

// Remove deletes a runner that was one machine's own.
func (l *GitLab) Remove(ctx context.Context, r *Runner) error {
	if r.SystemID != "" {
		return fmt.Errorf("manager %s of runner %d shares its runner with others: only the machine itself can be unregistered; GitLab forgets it 7 days after its last contact", r.SystemID, r.ID)
	}
	err := l.call(ctx, http.MethodDelete, fmt.Sprintf("/runners/%d", r.ID), nil, nil, nil)
	var refused *refusal
	if errors.As(err, &refused) && refused.status == http.StatusNotFound {
		return nil
	}
	return err
}

// refusal is an answer that is none.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func (l *GitLab) get(ctx context.Context, path string, q url.Values, into any) error {
	return l.call(ctx, http.MethodGet, path, q, into, nil)
}

// list reads all pages of a list.
func (l *GitLab) list(ctx context.Context, path string, q url.Values, into any) error {
	all := []json.RawMessage{}
	for page := "1"; page != ""; {
		with := url.Values{"per_page": {"100"}, "page": {page}}
		for k, v := range q {
			with[k] = v
		}
		var items []json.RawMessage
		var head http.Header
		if err := l.call(ctx, http.MethodGet, path, with, &items, &head); err != nil {
			return err
		}
		all = append(all, items...)
		page = head.Get("X-Next-Page")
	}
	joined, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return json.Unmarshal(joined, into)
}

// gitlabAttempts is how often a throttled or failing call is made.
const gitlabAttempts = 5

func (l *GitLab) call(ctx context.Context, method, path string, q url.Values, into any, head *http.Header) error {
	address := l.base + path
	if len(q) > 0 {
		address += "?" + q.Encode()
	}
	for attempt := 1; ; attempt++ {
		wait, err := l.once(ctx, method, address, path, into, head)
		if err == nil || wait == 0 || attempt == gitlabAttempts {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// once makes one attempt; wait is after how long another may go better, 0 when it will not.
func (l *GitLab) once(ctx context.Context, method, address, path string, into any, head *http.Header) (wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("PRIVATE-TOKEN", l.token)
	resp, err := l.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return time.Second, fmt.Errorf("GitLab: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return time.Second, fmt.Errorf("GitLab: %s %s: %w", method, path, err)
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // none is 0
		return min(max(time.Second, time.Duration(seconds)*time.Second), time.Minute), fmt.Errorf("GitLab answers %s to %s %s", resp.Status, method, path)
	case resp.StatusCode == http.StatusUnauthorized:
		return 0, &refusal{resp.StatusCode, "GitLab does not accept the access token: it has expired or is another GitLab's; make one with scope read_api (api for --clean-orphans)"}
	case resp.StatusCode == http.StatusForbidden:
		return 0, &refusal{resp.StatusCode, fmt.Sprintf("GitLab does not let the access token's owner %s %s: it takes an owner of the runners' group, and scope api to remove one", method, path)}
	case resp.StatusCode >= 300:
		return 0, &refusal{resp.StatusCode, fmt.Sprintf("GitLab answers %s to %s %s", resp.Status, method, path)}
	}
	if head != nil {
		*head = resp.Header
	}
	if into == nil || len(body) == 0 {
		return 0, nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return 0, fmt.Errorf("GitLab: %s %s: %w", method, path, err)
	}
	return 0, nil
}

// each does the same to every item, a few at a time, past errors.
func each[T any](items []T, do func(T) error) error {
	slots := make(chan struct{}, 8)
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for i, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(item)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
