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
	Ticks    []tick
	Heaviest int64 // bytes of the largest container image
	Regions  bool  // the images are in regions of a cloud
	Disk     int64 // bytes of the root disk, 0 where nobody said
	Used     float64
}

// tick is a mark on the timeline's axis, in percent of the whole.
type tick struct {
	At   float64
	Text string
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
	t, err := template.New("report.html").Funcs(template.FuncMap{"size": inBytes, "percent": percent}).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	r := report{
		Manifest: m, Date: m.Started.UTC().Format("2 January 2006, 15:04 UTC"),
		Took: seconds(m.Finished.Sub(m.Started)), Steps: timeline(m.Steps), Ticks: ticks(m.Steps), Disk: m.Sizes["disk"],
	}
	if r.Disk > 0 {
		r.Used = float64(m.Sizes["root_used"]) / float64(r.Disk) * 100
	}
	for _, c := range m.Containers {
		r.Heaviest = max(r.Heaviest, c.Size)
	}
	for _, i := range m.Artifact.Images {
		r.Regions = r.Regions || i.Region != ""
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

// ticks divide the timeline's axis at round times.
func ticks(steps []ManifestStep) []tick {
	var total float64
	for _, s := range steps {
		if !strings.Contains(s.Name, "/") {
			total += s.Seconds
		}
	}
	for _, every := range []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600} {
		if n := total / every; n >= 1 && n <= 6 {
			var out []tick
			for at := 0.0; at <= total; at += every {
				out = append(out, tick{at / total * 100, time.Duration(at * float64(time.Second)).String()})
			}
			return out
		}
	}
	return nil
}

// percent is a part of a whole, for the width of a bar.
func percent(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) / float64(whole) * 100
}

func inBytes(n int64) string {
	if n <= 0 {
		return ""
	}
	_, s, _ := strings.Cut(counted(n, n, "bytes"), " of ")
	return s
}
