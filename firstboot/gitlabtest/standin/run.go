package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	reloadInterval = 3 * time.Second
	failuresAtMost = 3 // refused job requests in a row, before a runner is disabled
	disabledFor    = time.Hour
)

// daemon is the long-lived process.
type daemon struct {
	app      *app
	file     string
	systemID string
	// jobCtx ends when jobs are to be aborted.
	jobCtx context.Context
	wg     sync.WaitGroup

	mu       sync.Mutex
	config   config
	modified time.Time
	running  map[int]runnerConfig // by job id
	statuses map[string]int       // by the labels of the metric
	health   map[string]*health   // by runner token
}

type health struct {
	failures int
	until    time.Time
}

// run polls for jobs until a signal: SIGQUIT lets running jobs finish, SIGTERM and SIGINT abort them, a second one
// ends at once; SIGHUP reads the configuration again.
func (a *app) run(ctx context.Context, args []string) error {
	f := a.flags("run")
	file := f.str("CONFIG_FILE", defaultConfig, "config", "c")
	listen := f.str("LISTEN_ADDRESS", "", "listen-address")
	_ = f.str("RUNNER_USER", "", "user", "u")
	_ = f.String("working-directory", "", "")
	_ = f.String("d", "", "")
	_ = f.String("service", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	a.info("Starting multi-runner from "+*file+"...", "builds", 0, "max_builds", 0)
	a.info("Running in system-mode.")
	jobCtx, abort := context.WithCancel(ctx)
	defer abort()
	d := &daemon{app: a, file: *file, jobCtx: jobCtx, running: map[int]runnerConfig{}, statuses: map[string]int{}, health: map[string]*health{}}
	if err := d.load(); errors.Is(err, fs.ErrNotExist) {
		a.error("Failed to load config " + err.Error()) // and idle until there is one
	} else if err != nil {
		return err
	}
	var err error
	if d.systemID, err = systemID(*file); err != nil {
		return err
	}
	a.info("Configuration loaded", "builds", 0, "max_builds", d.config.Concurrent)
	if *listen == "" {
		*listen = d.config.ListenAddress
	}
	if *listen == "" {
		a.info("listen_address not defined, metrics & debug endpoints disabled", "builds", 0, "max_builds", d.config.Concurrent)
	} else if err := d.serveMetrics(*listen); err != nil {
		return err
	}

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	pollCtx, stop := context.WithCancel(ctx)
	defer stop()
	polling := make(chan struct{})
	go func() {
		defer close(polling)
		d.poll(pollCtx)
	}()
	reload := time.NewTicker(reloadInterval)
	defer reload.Stop()
	for ending := false; !ending; {
		select {
		case <-ctx.Done():
			ending = true
			abort()
		case <-reload.C:
			d.reload(false)
		case s := <-signals:
			switch s {
			case syscall.SIGHUP:
				d.reload(true)
				continue
			case syscall.SIGQUIT:
				a.log("WARNING", "Starting graceful shutdown, waiting for builds to finish")
			default:
				a.log("WARNING", "Starting forceful shutdown", "StopSignal", s)
				abort()
			}
			ending = true
		}
	}
	stop()
	<-polling
	done := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(done)
	}()
	for {
		select {
		case <-done:
			a.info("All builds stopped. Can exit now")
			return nil
		case s := <-signals:
			if s == syscall.SIGHUP {
				continue
			}
			if s == syscall.SIGTERM && jobCtx.Err() == nil {
				abort()
				continue
			}
			return fmt.Errorf("forced exit with stop signal: %v", s)
		}
	}
}

// load reads the configuration in place of the one in use.
func (d *daemon) load() error {
	info, err := os.Stat(d.file)
	if err != nil {
		return err
	}
	c, err := readConfig(d.file)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.modified = info.ModTime() // a broken file is complained of once
	if err != nil {
		return err
	}
	d.config = c
	return nil
}

// reload loads a changed file; a broken one leaves the old configuration in use.
func (d *daemon) reload(force bool) {
	info, err := os.Stat(d.file)
	if err != nil || (!force && info.ModTime().Equal(d.modified)) {
		return
	}
	if err := d.load(); err != nil {
		d.app.error("Failed to load config", "error", err)
		return
	}
	d.app.info("Configuration loaded", "builds", len(d.running), "max_builds", d.config.Concurrent)
}

// current is the configuration in use and the number of running jobs.
func (d *daemon) current() (config, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config, len(d.running)
}

// poll asks for jobs for each runner in turn, one round per check_interval.
func (d *daemon) poll(ctx context.Context) {
	for ctx.Err() == nil {
		c, _ := d.current()
		round := time.Duration(c.CheckInterval) * time.Second
		if round <= 0 {
			round = 3 * time.Second
		}
		wait := round
		if len(c.Runners) > 0 {
			wait = round / time.Duration(len(c.Runners))
		} else {
			wait = min(wait, time.Second)
		}
		for i := 0; i < max(len(c.Runners), 1) && ctx.Err() == nil; i++ {
			if i < len(c.Runners) {
				d.request(ctx, c, c.Runners[i])
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// request asks for one job, unless the runner is disabled or the machine is full.
func (d *daemon) request(ctx context.Context, c config, r runnerConfig) {
	d.mu.Lock()
	h := d.health[r.Token]
	if h == nil {
		h = &health{}
		d.health[r.Token] = h
	}
	mine := 0
	for _, o := range d.running {
		if o.Token == r.Token {
			mine++
		}
	}
	free := len(d.running) < c.Concurrent && (r.Limit == 0 || mine < r.Limit) && time.Now().After(h.until)
	d.mu.Unlock()
	if !free {
		return
	}
	api, err := d.app.client(d.file, r.URL, r.TLSCAFile)
	if err != nil {
		d.app.error("Checking for jobs... error", "runner", d.app.short(r.Token), "status", err)
		return
	}
	defer api.http.CloseIdleConnections()
	got := api.json(ctx, http.MethodPost, "jobs/request", map[string]any{"token": r.Token, "system_id": d.systemID, "info": d.app.about(r.Executor)})
	if ctx.Err() != nil {
		return
	}
	status := got.status
	if status == 0 {
		status = -100 // gitlab-runner's number for no answer
	}
	d.count(r, "request_job", status)
	var j job
	switch {
	case got.status == http.StatusCreated && json.Unmarshal(got.body, &j) == nil:
		h.failures = 0
		d.app.info("Checking for jobs... received", "job", j.ID, "runner", d.app.short(r.Token))
		d.start(api, r, j)
	case got.status == http.StatusNoContent:
		h.failures = 0
		if d.app.getenv("RUNNER_DEBUG") == "true" {
			d.app.info("Checking for jobs... nothing", "runner", d.app.short(r.Token))
		}
	case got.status == http.StatusForbidden:
		d.app.error("Checking for jobs... forbidden", "runner", d.app.short(r.Token), "status", got.text)
		if h.failures++; h.failures >= failuresAtMost {
			d.app.error(fmt.Sprintf("Runner %q is unhealthy and will be disabled for %s seconds!", r.URL+d.app.short(r.Token), disabledFor))
			h.failures, h.until = 0, time.Now().Add(disabledFor)
		}
	case got.status == 0:
		d.app.error("Checking for jobs... error", "runner", d.app.short(r.Token), "status", got.text)
	default:
		d.app.log("WARNING", "Checking for jobs... failed", "runner", d.app.short(r.Token), "status", got.text)
	}
}
