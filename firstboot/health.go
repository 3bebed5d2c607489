package firstboot

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// serveHealth answers health probes on the machine's own addresses until ctx ends, where the spec has a port for them.
// It tells fit or unfit and nothing else.
func serveHealth(ctx context.Context, h *Host, p Platform) {
	id, err := p.Identity(ctx)
	if err != nil {
		h.logf("health: going on without metadata: %v", err)
	}
	spec, _, err := ReadSpec(h, id.Overlay)
	if err != nil || spec.HealthPort == 0 { // a spec that cannot be read is the first boot's failure
		return
	}
	s := &http.Server{Handler: Health(h), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 14}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	for _, ip := range []string{"127.0.0.1", "::1"} {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(ip, strconv.Itoa(spec.HealthPort)))
		if err != nil {
			h.logf("health: %v", err) // a machine without IPv6 has one of the two
			continue
		}
		go func() { _ = s.Serve(l) }() // it ends with ctx
	}
	<-ctx.Done()
}

// Health answers health probes from the machine's last report.
func Health(h *Host) http.Handler {
	fit := func() bool {
		r, err := ReadStatus(h)
		return err == nil && r.Healthy()
	}
	answer := func(w http.ResponseWriter, status int, fit bool) {
		state := "Unhealthy"
		if fit {
			state = "Healthy"
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"ApplicationHealthState":"`+state+`"}`) // a probe that hung up asks again
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+runner.HealthPath, func(w http.ResponseWriter, _ *http.Request) {
		ok, status := fit(), http.StatusOK
		if !ok {
			status = http.StatusServiceUnavailable
		}
		answer(w, status, ok)
	})
	mux.HandleFunc("GET "+runner.RichHealthPath, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, fit()) })
	return mux
}
