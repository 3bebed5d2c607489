package fleet

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

func post(t *testing.T, s *gitlabtest.Server, path string, body map[string]any) map[string]any {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: s.Transport()}).Post("http://gitlab/api/v4"+path, "application/json", strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode > 299 || len(data) > 0 && json.Unmarshal(data, &out) != nil {
		t.Fatalf("%s: %s %s %v", path, resp.Status, data, err)
	}
	return out
}

// Both kinds of token: machines with runners of their own, and machines that share one.
func TestLook(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared %v", shared), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{"GR1348941x"}, PrivateToken: "pat"})
				gl.AddRunner(gitlabtest.Runner{Description: "someone else's", Tags: []string{"paris"}})
				common := gl.AddRunner(gitlabtest.Runner{Description: "dublin", Tags: []string{"dublin"}})
				token := map[string]string{}
				poll := func(id string) map[string]any {
					return post(t, gl, "/jobs/request", map[string]any{"token": token[id], "system_id": runner.SystemID(id)})
				}
				born := func(id string) {
					token[id] = common
					if !shared {
						made := post(t, gl, "/runners", map[string]any{"token": "GR1348941x", "description": "dublin-" + id, "tag_list": "dublin", "run_untagged": false, "locked": false})
						token[id] = made["token"].(string)
					}
					poll(id)
				}
				for i := range 130 { // more than a page
					born(fmt.Sprintf("i-%03d", i))
				}
				born("i-gone") // and not heard of again
				time.Sleep(3 * time.Hour)
				gl.QueueJob(gitlabtest.Job{Tags: []string{"dublin"}})
				census := &Census{Exists: true, Desired: 131}
				for i := range 130 {
					id := fmt.Sprintf("i-%03d", i)
					poll(id) // the first one gets the job
					census.Members = append(census.Members, &Member{ID: id, Phase: Serving, Launched: time.Now().Add(-3 * time.Hour)})
				}
				census.Members = append(census.Members, &Member{ID: "i-mute", Phase: Serving, Launched: time.Now().Add(-3 * time.Hour)},
					&Member{ID: "i-young", Phase: Serving, Launched: time.Now().Add(-time.Minute)})

				if !shared { // made a moment ago: its machine is not in the census yet
					post(t, gl, "/runners", map[string]any{"token": "GR1348941x", "description": "dublin-i-new", "tag_list": "dublin", "run_untagged": false, "locked": false})
				}
				g := group(t, nil)
				l, err := NewGitLab("http://gitlab/", runner.Plain("pat"), gl.Transport())
				if err != nil {
					t.Fatal(err)
				}
				c := &fakeCloud{census: func() *Census { return census }}
				s, err := Look(t.Context(), g, c, l)
				if err != nil {
					t.Fatal(err)
				}
				busy, heard := 0, 0
				for _, m := range s.Members {
					if m.Runner != nil && m.Runner.Status == "online" {
						heard++
						busy += m.Runner.Jobs
					}
				}
				if heard != 130 || busy != 1 || len(s.Runnerless) != 1 || s.Runnerless[0].ID != "i-mute" || len(s.Machineless) != 1 {
					t.Errorf("%d online, %d jobs, without runner %v, without machine %d", heard, busy, s.Runnerless, len(s.Machineless))
				}
				if p := gl.Problems(); len(p) > 0 {
					t.Errorf("%q", p)
				}
				var told []string
				err = s.Clean(t.Context(), c, l, func(text string) { told = append(told, text) })
				if !shared && (len(told) != 1 || !strings.Contains(told[0], "dublin-i-gone")) {
					t.Errorf("%v, told %q", err, told)
				}
				if err == nil || !strings.Contains(err.Error(), "machine i-mute") { // this cloud cannot replace one
					t.Error(err)
				}
			})
		})
	}
}

func TestGitLabRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gl := gitlabtest.New(gitlabtest.Options{PrivateToken: "pat"})
		l, err := NewGitLab("http://gitlab", runner.Plain("wrong-canary"), gl.Transport())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Runners(t.Context(), group(t, nil)); err == nil || !strings.Contains(err.Error(), "does not accept the access token") || strings.Contains(err.Error(), "canary") {
			t.Error(err)
		}
	})
}
