package builder

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/templates"
)

// report is what report.html shows of a manifest.
type report struct {
	Manifest *Manifest
	Date     string
	Took     string
	Steps    []bar
}

// bar is a step on the timeline, in percent of the whole.
type bar struct {
	Name, Took  string
	Part        bool
	Left, Width float64
}

// renderReport makes one page that needs nothing else: no script, no request.
func renderReport(m *Manifest) ([]byte, error) {
	text, err := templates.Read("report.html")
	if err != nil {
		return nil, err
	}
	t, err := template.New("report.html").Funcs(template.FuncMap{"size": inBytes}).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	r := report{
		Manifest: m, Date: m.Started.UTC().Format("2 January 2006, 15:04 UTC"),
		Took: seconds(m.Finished.Sub(m.Started)), Steps: timeline(m.Steps),
	}
	var b bytes.Buffer
	if err := t.Execute(&b, r); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return b.Bytes(), nil
}

// timeline lays the steps end to end. Parts ("provision/docker engine") come before the step that they belong to in a
// manifest, and below it in the report.
func timeline(steps []ManifestStep) []bar {
	var total float64
	for _, s := range steps {
		if !strings.Contains(s.Name, "/") {
			total += s.Seconds
		}
	}
	if total == 0 {
		total = 1
	}
	place := func(name string, at, secs float64, part bool) bar {
		return bar{name, seconds(time.Duration(secs * float64(time.Second))), part, at / total * 100, secs / total * 100}
	}
	var out, parts []bar
	var at, within float64
	for _, s := range steps {
		if _, part, isPart := strings.Cut(s.Name, "/"); isPart {
			parts = append(parts, place(part, at+within, s.Seconds, true))
			within += s.Seconds
			continue
		}
		out = append(append(out, place(s.Name, at, s.Seconds, false)), parts...)
		parts, within = nil, 0
		at += s.Seconds
	}
	return append(out, parts...)
}

func inBytes(n int64) string {
	if n <= 0 {
		return ""
	}
	_, s, _ := strings.Cut(counted(n, n, "bytes"), " of ")
	return s
}
