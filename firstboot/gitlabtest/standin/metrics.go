package main

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// count notes the answer to one request to the API.
func (d *daemon) count(r runnerConfig, endpoint string, status int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.statuses[fmt.Sprintf(`endpoint=%q,runner=%q,status="%d"%s`, endpoint, d.app.short(r.Token), status, d.systemLabel())]++
}

// systemLabel is the label that newer versions add to what belongs to a machine.
func (d *daemon) systemLabel() string {
	if d.app.before(16) {
		return ""
	}
	return fmt.Sprintf(`,system_id=%q`, d.systemID)
}

// serveMetrics opens listen_address: /metrics in Prometheus' text form.
func (d *daemon) serveMetrics(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("failed to create listener for metrics server: %w", err)
	}
	d.app.info("Metrics server listening", "address", address)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write([]byte(d.metrics())) // a scraper that went away is not our trouble
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // until the process ends
	return nil
}

func (d *daemon) metrics() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	family := func(name, kind, help string, samples map[string]int) {
		if len(samples) == 0 { // a family without samples is not shown
			return
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for _, labels := range slices.Sorted(maps.Keys(samples)) {
			if labels == "" {
				fmt.Fprintf(&b, "%s %d\n", name, samples[labels])
			} else {
				fmt.Fprintf(&b, "%s{%s} %d\n", name, labels, samples[labels])
			}
		}
	}
	family("gitlab_runner_api_request_statuses_total", "counter", "The total number of api requests, partitioned by runner, endpoint and status.", d.statuses)
	family("gitlab_runner_concurrent", "gauge", "The current value of concurrent setting", map[string]int{"": d.config.Concurrent})
	jobs := map[string]int{}
	for _, r := range d.running {
		jobs[fmt.Sprintf(`executor_stage="docker_run",runner=%q,runner_name=%q,stage="step_script",state="running"%s`, d.app.short(r.Token), r.Name, d.systemLabel())]++
	}
	family("gitlab_runner_jobs", "gauge", "The current number of running builds", jobs)
	family("gitlab_runner_version_info", "gauge", "A metric with a constant '1' value labeled by different build stats fields.",
		map[string]int{fmt.Sprintf(`name="gitlab-runner",revision="standin",version=%q`, d.app.version): 1})
	return b.String()
}
