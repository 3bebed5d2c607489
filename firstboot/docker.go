package firstboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

// docker speaks the dozen calls of the Docker Engine API that a first boot needs (docs.docker.com/reference/api/engine).
// The vendor's client would be a tenth of this program.
type docker struct {
	rt      http.RoundTripper
	socket  string // for messages
	version string // "/v1.41", as the daemon announces it; empty until ping
}

// container is what we ask of a container, and what the daemon tells of one: the same JSON both ways where it can be.
type container struct {
	ID    string `json:"Id"`
	Image string // the image's id
	State struct {
		Status   string // created, running, restarting, exited, dead, paused
		Running  bool
		ExitCode int
		Error    string
	}
	RestartCount int
	Config       containerConfig
	HostConfig   hostConfig
	Mounts       []struct{ Source, Destination string }
	Network      struct {
		IPAddress string
		Networks  map[string]struct{ IPAddress string }
	} `json:"NetworkSettings"`
}

type containerConfig struct {
	Image       string
	Cmd         []string          `json:",omitempty"`
	Env         []string          `json:",omitempty"`
	Labels      map[string]string `json:",omitempty"`
	StopSignal  string            `json:",omitempty"`
	StopTimeout int               `json:",omitempty"` // seconds
}

type hostConfig struct {
	Binds         []string
	RestartPolicy restartPolicy
	NetworkMode   string `json:",omitempty"`
}

type restartPolicy struct{ Name string }

// dockerError is a refusal by the daemon, in its own words.
type dockerError struct {
	Status  int
	Message string `json:"message"`
}

func (e *dockerError) Error() string { return "docker: " + e.Message }

func isNotFound(err error) bool { return hasStatus(err, http.StatusNotFound) }

func hasStatus(err error, status int) bool {
	var e *dockerError
	return errors.As(err, &e) && e.Status == status
}

// errDockerAway marks a daemon that is not there at the moment: it may be restarting.
var errDockerAway = errors.New("docker does not answer")

// dockerCall bounds every call but wait and pull.
const dockerCall = time.Minute

// ping asks whether a daemon answers, and which version of the API it speaks.
func (d *docker) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := d.do(ctx, http.MethodGet, "/_ping", nil)
	if err != nil {
		return err
	}
	if v := resp.Header.Get("Api-Version"); v != "" {
		d.version = "/v" + v
	}
	return resp.Body.Close()
}

func (d *docker) inspect(ctx context.Context, name string) (container, error) {
	var c container
	err := d.call(ctx, http.MethodGet, "/containers/"+url.PathEscape(name)+"/json", nil, &c)
	return c, err
}

// create makes a container; binds to directories of the host that do not exist would be made by the daemon.
func (d *docker) create(ctx context.Context, name string, c containerConfig, h hostConfig) error {
	body := struct {
		containerConfig
		HostConfig hostConfig
	}{c, h}
	return d.call(ctx, http.MethodPost, "/containers/create?name="+url.QueryEscape(name), body, nil)
}

func (d *docker) start(ctx context.Context, name string) error {
	return d.call(ctx, http.MethodPost, "/containers/"+url.PathEscape(name)+"/start", nil, nil)
}

// wait returns a container's exit code once it has ended; ctx bounds the wait.
func (d *docker) wait(ctx context.Context, name string) (int, error) {
	resp, err := d.do(ctx, http.MethodPost, d.version+"/containers/"+url.PathEscape(name)+"/wait", nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	var end struct{ StatusCode int }
	if err := json.NewDecoder(resp.Body).Decode(&end); err != nil {
		return 0, fmt.Errorf("docker: wait for %s: %w", name, err)
	}
	return end.StatusCode, nil
}

func (d *docker) kill(ctx context.Context, name, signal string) error {
	return d.call(ctx, http.MethodPost, "/containers/"+url.PathEscape(name)+"/kill?signal="+signal, nil, nil)
}

// stop sends the container its stop signal and kills it after its stop timeout, which ctx has to outlast.
func (d *docker) stop(ctx context.Context, name string) error {
	resp, err := d.do(ctx, http.MethodPost, d.version+"/containers/"+url.PathEscape(name)+"/stop", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// remove takes a container away, running or not, with its anonymous volumes.
func (d *docker) remove(ctx context.Context, name string) error {
	err := d.call(ctx, http.MethodDelete, "/containers/"+url.PathEscape(name)+"?force=1&v=1", nil, nil)
	for n := 0; hasStatus(err, http.StatusConflict) && n < 100; n++ { // its removal is under way: a killed run began it
		if serr := sleep(ctx, 100*time.Millisecond); serr != nil {
			return errors.Join(err, serr)
		}
		if _, gone := d.inspect(ctx, name); isNotFound(gone) {
			return nil
		}
	}
	if isNotFound(err) {
		return nil
	}
	return err
}

func (d *docker) setRestart(ctx context.Context, name, policy string) error {
	return d.call(ctx, http.MethodPost, "/containers/"+url.PathEscape(name)+"/update", map[string]any{"RestartPolicy": restartPolicy{policy}}, nil)
}

func (d *docker) hasImage(ctx context.Context, ref string) (bool, error) {
	err := d.call(ctx, http.MethodGet, "/images/"+ref+"/json", nil, nil)
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// pull fetches an image without a login: a private one has to be baked in.
func (d *docker) pull(ctx context.Context, ref string) error {
	if !strings.Contains(ref, "@") && strings.LastIndexByte(ref, ':') <= strings.LastIndexByte(ref, '/') {
		ref += ":latest" // without a tag the daemon would pull every one
	}
	resp, err := d.do(ctx, http.MethodPost, d.version+"/images/create?fromImage="+url.QueryEscape(ref), nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	for dec := json.NewDecoder(resp.Body); ; { // the status is 200 even when the pull fails: the stream tells
		var event struct{ Error string }
		if err := dec.Decode(&event); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("docker: pull %s: %w", ref, err)
		}
		if event.Error != "" {
			return &dockerError{Status: http.StatusInternalServerError, Message: event.Error}
		}
	}
}

var ansi = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]|\r")

// logs gives the last lines of a container's output, without colours.
func (d *docker) logs(ctx context.Context, name string, lines int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerCall)
	defer cancel()
	resp, err := d.do(ctx, http.MethodGet, fmt.Sprintf("%s/containers/%s/logs?stdout=1&stderr=1&tail=%d", d.version, url.PathEscape(name), lines), nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var out bytes.Buffer
	for { // frames: one byte of stream number, three of nothing, four of length
		var head [8]byte
		if _, err := io.ReadFull(resp.Body, head[:]); errors.Is(err, io.EOF) {
			return ansi.ReplaceAllString(out.String(), ""), nil
		} else if err != nil {
			return "", fmt.Errorf("docker: logs of %s: %w", name, err)
		}
		if _, err := io.CopyN(&out, resp.Body, int64(binary.BigEndian.Uint32(head[4:]))); err != nil {
			return "", fmt.Errorf("docker: logs of %s: %w", name, err)
		}
	}
}

// call sends in as JSON and reads the answer into out; either may be nil.
func (d *docker) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, dockerCall)
	defer cancel()
	resp, err := d.do(ctx, method, d.version+path, in)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body) // so that the connection serves again
	} else {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("%w to %s %s to its end: %w", errDockerAway, method, path, err)
	}
	return nil
}

// do sends one request; an answer of 400 or above comes back as a dockerError.
func (d *docker) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.rt.RoundTrip(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, final(fmt.Errorf("docker: no access to %s", d.socket), "run as root, or as a member of group docker")
	case err != nil:
		return nil, fmt.Errorf("%w on %s (see systemctl status docker): %w", errDockerAway, d.socket, err)
	case resp.StatusCode < http.StatusBadRequest:
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	refusal := &dockerError{Status: resp.StatusCode}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(refusal); err != nil || refusal.Message == "" {
		refusal.Message = resp.Status
	}
	if strings.Contains(refusal.Message, "no space left on device") {
		return nil, final(refusal, "the disk is full: free space or give the machine a larger disk")
	}
	return nil, refusal
}
