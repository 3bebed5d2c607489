package gitlabtest

import (
	"net/http"
	"strconv"
	"time"
)

// window counts the calls of one minute of the clock, as GitLab's throttles do.
type window struct {
	start time.Time
	count int
}

// throttle counts a call; past limit it is the 429 that GitLab sends, with Retry-After until the minute is over.
func (s *Server) throttle(name, key string, limit int) (answer, bool) {
	if limit <= 0 {
		return answer{}, false
	}
	now := s.opts.Now()
	w := s.limits[name+key]
	if start := now.Truncate(time.Minute); w == nil || !w.start.Equal(start) {
		w = &window{start: start}
		s.limits[name+key] = w
	}
	w.count++
	if w.count <= limit {
		return answer{}, false
	}
	reset := w.start.Add(time.Minute)
	wait := int((reset.Sub(now) + time.Second - 1) / time.Second)
	return answer{status: http.StatusTooManyRequests, page: "Retry later\n", header: map[string]string{
		"Content-Type":        "text/plain",
		"Retry-After":         strconv.Itoa(wait),
		"RateLimit-Limit":     strconv.Itoa(limit),
		"RateLimit-Name":      name,
		"RateLimit-Observed":  strconv.Itoa(w.count),
		"RateLimit-Remaining": "0",
		"RateLimit-Reset":     strconv.FormatInt(reset.Unix(), 10),
	}}, true
}
