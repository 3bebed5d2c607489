package gitlabtest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
)

const (
	regToken = "GR1348941abcdefghijklmnopqr"
	systemID = "s_0123456789ab"
)

// send asks the server and returns the status and body; the transport's error has status 0.
func send(t *testing.T, c *http.Client, method, url, body string, header ...string) (int, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestAnswers(t *testing.T) {
	s := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}, PrivateToken: "pat", Prefix: "/gitlab"})
	token := s.AddRunner(gitlabtest.Runner{Description: "ui", Tags: []string{"a"}})
	closed := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}, RegistrationDisabled: true, Prefix: "/gitlab"})
	for _, tt := range []struct {
		name         string
		s            *gitlabtest.Server
		method, path string
		body         string
		status       int
		want         string
	}{
		{"register", s, "POST", "/runners", `{"token":"` + regToken + `","description":"d","tag_list":"a,b","run_untagged":false,"locked":false,"info":{"name":"gitlab-runner","version":"19.4.0"}}`, 201, `"token":"glrtr-`},
		{"register without tags", s, "POST", "/runners", `{"token":"` + regToken + `","run_untagged":false}`, 400, "can not be empty"},
		{"register with a bad token", s, "POST", "/runners", `{"token":"no"}`, 403, "403 Forbidden"},
		{"register without a token", s, "POST", "/runners", `{}`, 400, "token is missing"},
		{"register with glrt", s, "POST", "/runners", `{"token":"` + token + `","tag_list":"x"}`, 403, "invalid token"},
		{"registration disabled", closed, "POST", "/runners", `{"token":"` + regToken + `","tag_list":"x"}`, 410, "410 Gone"},
		{"verify", s, "POST", "/runners/verify", `{"token":"` + token + `","system_id":"` + systemID + `"}`, 200, token},
		{"verify a bad token", s, "POST", "/runners/verify", `{"token":"no","system_id":"` + systemID + `"}`, 403, ""},
		{"poll", s, "POST", "/jobs/request", `{"token":"` + token + `","system_id":"` + systemID + `","info":{"version":"19.4.0"}}`, 204, ""},
		{"poll with a bad token", s, "POST", "/jobs/request", `{"token":"no","system_id":"` + systemID + `"}`, 403, ""},
		{"manager unknown", s, "DELETE", "/runners/managers", `{"token":"` + token + `","system_id":"s_000000000000"}`, 404, ""},
		{"manager without id", s, "DELETE", "/runners/managers", `{"token":"` + token + `"}`, 400, "system_id"},
		{"manager", s, "DELETE", "/runners/managers", `{"token":"` + token + `","system_id":"` + systemID + `"}`, 204, ""},
		{"version", s, "GET", "/version", "", 401, "401 Unauthorized"},
		{"view", s, "GET", "/runners/1", "", 401, ""},
		{"delete", s, "DELETE", "/runners", `{"token":"` + token + `"}`, 204, ""},
		{"delete again", s, "DELETE", "/runners", `{"token":"` + token + `"}`, 403, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body, err := send(t, &http.Client{Transport: tt.s.Transport()}, tt.method, "http://gitlab/gitlab/api/v4"+tt.path, tt.body)
			if err != nil || status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%d %s %v, want %d with %q", status, body, err, tt.status, tt.want)
			}
		})
	}
	if p := s.Problems(); len(p) > 0 {
		t.Errorf("problems: %q", p)
	}
	runners := s.Runners()
	if len(runners) != 1 || runners[0].Description != "d" || strings.Join(runners[0].Tags, " ") != "a b" || runners[0].RunUntagged || runners[0].Locked {
		t.Errorf("runners: %+v", runners)
	}
	if len(s.Orphans()) != 1 {
		t.Errorf("a registered runner that never called is an orphan: %+v", s.Orphans())
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, tt := range []struct{ name, method, path, body string }{
		{"path", "GET", "/gitlab/api/v4/projects", ""},
		{"method", "PUT", "/gitlab/api/v4/runners", "{}"},
		{"double slash", "POST", "/gitlab//api/v4/runners", "{}"},
		{"outside the prefix", "POST", "/api/v4/runners", "{}"},
		{"field", "POST", "/gitlab/api/v4/runners", `{"token":"t","tags":"x"}`},
		{"system id", "POST", "/gitlab/api/v4/jobs/request", `{"token":"t","system_id":"mine"}`},
		{"not JSON", "POST", "/gitlab/api/v4/runners", "token=x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := gitlabtest.New(gitlabtest.Options{Prefix: "/gitlab/"})
			status, _, err := send(t, &http.Client{Transport: s.Transport()}, tt.method, "http://gitlab"+tt.path, tt.body)
			if err != nil || status < 400 || status > 499 || len(s.Problems()) != 1 || s.Requests()[0].Problem == "" {
				t.Errorf("%d %v, problems %q", status, err, s.Problems())
			}
		})
	}
}

func TestJob(t *testing.T) {
	s := gitlabtest.New(gitlabtest.Options{})
	token := s.AddRunner(gitlabtest.Runner{Tags: []string{"a"}})
	s.QueueJob(gitlabtest.Job{Tags: []string{"other"}})
	s.QueueJob(gitlabtest.Job{}) // untagged: not for this runner
	id := s.QueueJob(gitlabtest.Job{Tags: []string{"a"}, Script: []string{"echo hi"}})
	c := &http.Client{Transport: s.Transport()}
	status, body, _ := send(t, c, "POST", "http://gitlab/api/v4/jobs/request", `{"token":"`+token+`","system_id":"`+systemID+`"}`)
	var job struct {
		ID    int
		Token string
		Steps []struct{ Script []string }
	}
	if err := json.Unmarshal([]byte(body), &job); status != 201 || err != nil || job.ID != id || job.Steps[0].Script[0] != "echo hi" {
		t.Fatalf("%d %s", status, body)
	}
	url := fmt.Sprintf("http://gitlab/api/v4/jobs/%d", id)
	if status, _, _ := send(t, c, "PATCH", url+"/trace", "hi\n", "JOB-TOKEN", job.Token, "Content-Range", "0-2", "Content-Type", "text/plain"); status != 202 {
		t.Errorf("trace: %d", status)
	}
	if status, _, _ := send(t, c, "PATCH", url+"/trace", "hi\n", "JOB-TOKEN", job.Token, "Content-Range", "0-2", "Content-Type", "text/plain"); status != 416 {
		t.Errorf("the same piece of the trace again: %d", status)
	}
	if status, _, _ := send(t, c, "PUT", url, `{"token":"`+job.Token+`","state":"success"}`); status != 200 {
		t.Errorf("end: %d", status)
	}
	if status, _, _ := send(t, c, "PUT", url, `{"token":"`+job.Token+`","state":"success"}`); status != 403 {
		t.Errorf("an ended job is not running: %d", status)
	}
	if j, ok := s.Job(id); !ok || j.State != "success" || j.Trace != "hi\n" || j.SystemID != systemID {
		t.Errorf("%+v", j)
	}
}

func TestFaults(t *testing.T) {
	body := `{"token":"` + regToken + `","tag_list":"x"}`
	for _, tt := range []struct {
		name   string
		fault  gitlabtest.Fault
		status int
		body   string
		err    error
		made   int
		after  time.Duration
	}{
		{"status", gitlabtest.Fault{Kind: gitlabtest.Status, Status: 503, Retry: 90 * time.Second}, 503, "503 Service", nil, 0, 0},
		{"reset", gitlabtest.Fault{Kind: gitlabtest.Reset}, 0, "", syscall.ECONNRESET, 0, 0},
		{"hang", gitlabtest.Fault{Kind: gitlabtest.Hang}, 0, "", context.DeadlineExceeded, 0, 20 * time.Second},
		{"lost", gitlabtest.Fault{Kind: gitlabtest.Lost}, 0, "", syscall.ECONNRESET, 1, 0},
		{"html", gitlabtest.Fault{Kind: gitlabtest.HTML}, 200, "hotel", nil, 0, 0},
		{"slow", gitlabtest.Fault{Kind: gitlabtest.Slow, Delay: 5 * time.Second}, 201, "glrtr-", nil, 1, 5 * time.Second},
		{"content type", gitlabtest.Fault{Kind: gitlabtest.ContentType}, 201, "glrtr-", nil, 1, 0},
		{"other path", gitlabtest.Fault{Kind: gitlabtest.Reset, Path: "/runners/verify"}, 201, "glrtr-", nil, 1, 0},
		{"second call", gitlabtest.Fault{Kind: gitlabtest.Reset, From: 2}, 201, "glrtr-", nil, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}})
				s.Inject(tt.fault)
				start := time.Now()
				c := &http.Client{Transport: s.Transport(), Timeout: 20 * time.Second}
				status, got, err := send(t, c, "POST", "http://gitlab/api/v4/runners", body)
				if status != tt.status || !strings.Contains(got, tt.body) || !errors.Is(err, tt.err) {
					t.Errorf("%d %q %v, want %d %q %v", status, got, err, tt.status, tt.body, tt.err)
				}
				if n := len(s.Runners()); n != tt.made {
					t.Errorf("%d runners made, want %d", n, tt.made)
				}
				if d := time.Since(start); d != tt.after {
					t.Errorf("answered after %s, want %s", d, tt.after)
				}
			})
		})
	}
}

// Faults over a real connection: the client must see a reset, and the server must survive it.
func TestFaultsOnTheWire(t *testing.T) {
	s := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}})
	srv := httptest.NewServer(s)
	defer srv.Close()
	s.Inject(gitlabtest.Fault{Kind: gitlabtest.Reset, Count: 1})
	s.Inject(gitlabtest.Fault{Kind: gitlabtest.Lost, Count: 1})
	body := `{"token":"` + regToken + `","tag_list":"x"}`
	for i, want := range []int{0, 0, 201} {
		status, _, err := send(t, srv.Client(), "POST", srv.URL+"/api/v4/runners", body)
		if status != want || (want == 0 && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF)) {
			t.Errorf("call %d: %d %v", i, status, err)
		}
	}
	if n := len(s.Runners()); n != 2 {
		t.Errorf("%d runners, want the lost one and the told one", n)
	}
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{regToken}, RegistrationsPerMinute: 2})
		time.Sleep(10 * time.Second)
		c := &http.Client{Transport: s.Transport()}
		register := func() *http.Response {
			resp, err := c.Post("http://gitlab/api/v4/runners", "application/json", bytes.NewBufferString(`{"token":"`+regToken+`","tag_list":"x"}`))
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		register()
		register()
		if r := register(); r.StatusCode != http.StatusTooManyRequests || r.Header.Get("Retry-After") != "50" || r.Header.Get("RateLimit-Observed") != "3" {
			t.Errorf("%d %v", r.StatusCode, r.Header)
		}
		time.Sleep(50 * time.Second)
		if r := register(); r.StatusCode != http.StatusCreated {
			t.Errorf("after the minute: %d", r.StatusCode)
		}
	})
}

// A machine whose clock is a year late does not trust the server yet.
func TestCertificateNotYetValid(t *testing.T) {
	cert, pem, err := gitlabtest.Certificate([]string{"127.0.0.1", "localhost"}, time.Now().AddDate(1, 0, 0), time.Now().AddDate(2, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(gitlabtest.New(gitlabtest.Options{}))
	srv.Config.ErrorLog = nil
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, tt := range []struct {
		now  time.Time
		want bool
	}{{time.Now(), false}, {time.Now().AddDate(1, 6, 0), true}} {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Time: func() time.Time { return tt.now }}}}
		_, _, err := send(t, c, "GET", srv.URL+"/api/v4/version", "")
		if (err == nil) != tt.want {
			t.Errorf("at %s: %v", tt.now, err)
		}
	}
}
