package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// job is what matters of a job's payload.
type job struct {
	ID    int    `json:"id"`
	Token string `json:"token"`
	Steps []struct {
		Script []string `json:"script"`
	} `json:"steps"`
}

// start runs a job beside the polling.
func (d *daemon) start(api *client, r runnerConfig, j job) {
	d.mu.Lock()
	d.running[j.ID] = r
	d.mu.Unlock()
	d.wg.Go(func() {
		defer func() {
			d.mu.Lock()
			delete(d.running, j.ID)
			d.mu.Unlock()
		}()
		// A job that is aborted still tells the server so.
		tell, cancel := context.WithTimeout(context.WithoutCancel(d.jobCtx), 12*time.Hour)
		defer cancel()
		t := &trace{ctx: tell, d: d, api: api, r: r, j: j}
		t.write(fmt.Sprintf("Running with gitlab-runner %s (standin)\n  on %s %s, system ID: %s\n", d.app.version, r.Name, d.app.short(r.Token), d.systemID))
		reason, code := j.execute(d.jobCtx, t)
		end := map[string]any{"token": j.Token, "state": "success", "info": d.app.about(r.Executor)}
		if reason == "" {
			t.write("Job succeeded\n")
		} else {
			t.write("ERROR: Job failed: " + reason + "\n")
			end["state"], end["failure_reason"], end["exit_code"] = "failed", reason, code
		}
		for try := 0; try < 5; try++ {
			got := api.json(tell, http.MethodPut, fmt.Sprintf("jobs/%d", j.ID), end)
			d.count(r, "update_job", got.status)
			if got.status == http.StatusOK || got.status == http.StatusForbidden {
				break
			}
			select {
			case <-tell.Done():
			case <-time.After(time.Second):
			}
		}
		d.app.info("Job "+fmt.Sprint(end["state"]), "job", j.ID, "runner", d.app.short(r.Token))
	})
}

// execute interprets the script and returns gitlab-runner's failure reason, empty for success.
func (j job) execute(ctx context.Context, t *trace) (reason string, exitCode int) {
	for _, step := range j.Steps {
		for _, line := range step.Script {
			t.write("$ " + line + "\n")
			command, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch command {
			case "", "true":
			case "echo":
				t.write(strings.Trim(arg, `"'`) + "\n")
			case "sleep":
				seconds, err := strconv.ParseFloat(arg, 64)
				if err != nil {
					return "script_failure", 1
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(seconds * float64(time.Second))):
				}
			case "exit":
				if code, err := strconv.Atoi(arg); err != nil || code != 0 {
					return "script_failure", code
				}
				return "", 0
			default:
				t.write("bash: " + command + ": command not found\n")
				return "script_failure", 127
			}
			if ctx.Err() != nil {
				return "runner_system_failure", 0
			}
		}
	}
	return "", 0
}

// trace sends a job's log piece by piece.
type trace struct {
	ctx    context.Context
	d      *daemon
	api    *client
	r      runnerConfig
	j      job
	offset int
}

func (t *trace) write(text string) {
	got := t.api.do(t.ctx, http.MethodPatch, fmt.Sprintf("jobs/%d/trace", t.j.ID), []byte(text), http.Header{
		"Content-Type": {"text/plain"}, "Job-Token": {t.j.Token}, "Content-Range": {fmt.Sprintf("%d-%d", t.offset, t.offset+len(text)-1)}})
	t.d.count(t.r, "patch_trace", got.status)
	if got.status == http.StatusAccepted {
		t.offset += len(text)
	}
}
