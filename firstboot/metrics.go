package firstboot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// polls is what the runner's own metrics tell since its container started (docs.gitlab.com/runner/monitoring): how
// its requests for jobs were answered, and how many jobs run.
type polls struct {
	answered  int    // 201 and 204
	forbidden int    // 403: GitLab does not know the runner
	failed    string // the status of the others, if any
	jobs      int
}

// polls reads them from the container's address, where config.toml has the runner listen.
func (b *boot) polls(ctx context.Context, c container) (polls, error) {
	address, err := b.metricsOf(c)
	if err != nil {
		return polls{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, metricsCall)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return polls{}, err
	}
	resp, err := b.h.Local.RoundTrip(req)
	if err != nil {
		return polls{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return polls{}, fmt.Errorf("GET http://%s/metrics: %s", address, resp.Status)
	}
	return readPolls(resp.Body)
}

// metricsCall bounds one look at the metrics: they are on this machine.
const metricsCall = 5 * time.Second

func (b *boot) metricsOf(c container) (string, error) {
	ip := c.Network.IPAddress
	for _, n := range c.Network.Networks {
		if ip == "" {
			ip = n.IPAddress
		}
	}
	if ip == "" {
		return "", fmt.Errorf("container %s has no address yet", b.spec.Name)
	}
	doc, err := b.h.readFile(b.configFile())
	if err != nil {
		return "", err
	}
	var conf struct {
		Listen string `toml:"listen_address"`
	}
	if err := toml.Unmarshal(bytes.TrimPrefix(doc, bom), &conf); err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(conf.Listen)
	if err != nil {
		return "", fmt.Errorf("%s: listen_address: %w", b.configFile(), err)
	}
	if at := net.ParseIP(host); at != nil && at.IsLoopback() {
		return "", fmt.Errorf("%s: listen_address %q is the container's own loopback: write %q", b.configFile(), conf.Listen, ":"+port)
	}
	return net.JoinHostPort(ip, port), nil
}

var (
	pollLine = regexp.MustCompile(`^gitlab_runner_api_request_statuses_total\{[^}]*endpoint="request_job"[^}]*status="([^"]*)"[^}]*\} (\S+)`)
	jobsLine = regexp.MustCompile(`^gitlab_runner_jobs\{[^}]*\} (\S+)`)
)

func readPolls(r io.Reader) (polls, error) {
	var p polls
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "gitlab_runner_") { // most lines are the Go runtime's
			continue
		}
		if m := pollLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseFloat(m[2], 64) // a counter that is no number counts nothing
			switch m[1] {
			case "200", "201", "204":
				p.answered += int(n)
			case "403":
				p.forbidden += int(n)
			default:
				p.failed = m[1]
			}
		} else if m := jobsLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseFloat(m[1], 64)
			p.jobs += int(n)
		}
	}
	return p, lines.Err()
}
