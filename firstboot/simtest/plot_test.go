package simtest

import (
	"bytes"
	"flag"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/images"
)

var plots = flag.String("plots", "", "write the timelines of fleets as SVG into `directory`")

// plot writes the samples as lines: machines by phase, jobs and what GitLab knows.
func (w *world) plot() string {
	var b strings.Builder
	most := 1
	for _, s := range w.samples {
		most = max(most, s.coming+s.serving+s.ending)
	}
	const wide = 60
	fmt.Fprintf(&b, "\n  min desired coming serving ending  jobs managers  polls/min   # serving, + coming, - ending; full width is %d machines\n", most)
	last := -1
	for _, s := range w.samples {
		minute := int(s.at / time.Minute)
		if minute == last {
			continue
		}
		last = minute
		bar := func(n int, c string) string { return strings.Repeat(c, (n*wide+most/2)/most) }
		fmt.Fprintf(&b, "%5d %7d %6d %7d %6d %5d %8d %10d   %s%s%s\n", minute, s.desired, s.coming, s.serving, s.ending, s.jobs, s.managers, w.polls[minute],
			bar(s.serving, "#"), bar(s.coming, "+"), bar(s.ending, "-"))
	}
	return b.String()
}

// chart is the same as a picture: three panels over one axis of time.
var chart = template.Must(template.New("chart").Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Wide}} {{.High}}" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="{{.Title}}">
<style>
:root { --ground: #ffffff; --ink: #1b1f27; --soft: #5d6575; --line: #d9dce3; --serving: #3b6fd4; --coming: #9ec3a6; --ending: #e0b450; --limit: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171d; --ink: #e7eaf0; --soft: #9aa4b6; --line: #343b48; --serving: #6f9cf2; --coming: #3f7a55; --ending: #a87f2a; --limit: #ff8a80; } }
text { fill: var(--soft) } .title { fill: var(--ink); font-weight: 600; font-size: 14px } .grid { stroke: var(--line) }
.serving { fill: var(--serving) } .coming { fill: var(--coming) } .ending { fill: var(--ending) }
.wanted { fill: none; stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 3 } .limit { fill: none; stroke: var(--limit); stroke-dasharray: 5 3 } .count { fill: none; stroke: var(--serving); stroke-width: 1.5 }
</style>
<rect width="100%" height="100%" fill="var(--ground)"/>
<text class="title" x="{{.Left}}" y="22">{{.Title}}</text>
{{range .Panels}}<text x="{{$.Left}}" y="{{.Head}}">{{.Name}}{{range .Legend}}  {{if .Class}}<tspan class="{{.Class}}" dx="8">&#9632;</tspan>{{else}}<tspan dx="8">{{end}} {{.Text}}{{if not .Class}}</tspan>{{end}}{{end}}</text>
{{range .Ticks}}<line class="grid" x1="{{$.Left}}" x2="{{$.Right}}" y1="{{.At}}" y2="{{.At}}"/><text x="{{$.Left}}" dx="-6" y="{{.At}}" dy="4" text-anchor="end">{{.Text}}</text>
{{end}}{{range .Shapes}}<polyline class="{{.Class}}" points="{{.Text}}"/>
{{end}}{{end}}{{range .Ticks}}<text x="{{.At}}" y="{{$.Foot}}" text-anchor="middle">{{.Text}}</text>
{{end}}</svg>
`))

type mark struct {
	At   float64
	Text string
}

type shape struct{ Class, Text string }

type panel struct {
	Name   string
	Head   float64
	Legend []shape
	Ticks  []mark
	Shapes []shape
}

// draw writes the picture of the samples into a directory, when there is one.
func (w *world) draw(dir, name, title string) {
	if dir == "" {
		return
	}
	const wide, left, right, high, gap = 900.0, 52.0, 868.0, 130.0, 42.0
	end := w.samples[len(w.samples)-1].at
	x := func(at time.Duration) float64 { return left + (right-left)*float64(at)/float64(end) }
	var panels []panel
	add := func(name string, most int, legend ...shape) (*panel, func(int) float64) {
		top := 34 + gap + float64(len(panels))*(high+gap)
		y := func(n int) float64 { return top + high*(1-float64(n)/float64(most)) }
		p := panel{Name: name, Head: top - 12, Legend: legend}
		for i := range 3 {
			n := most * i / 2
			p.Ticks = append(p.Ticks, mark{y(n), fmt.Sprint(n)})
		}
		panels = append(panels, p)
		return &panels[len(panels)-1], y
	}
	// steps draws a value that holds until the next one; below is what it stands on, and makes it an area.
	steps := func(class string, y func(int) float64, value, below func(sample) int) shape {
		var over, under []string
		for i := 0; i < len(w.samples); {
			s, until := w.samples[i], end
			for i++; i < len(w.samples); i++ {
				if next := w.samples[i]; value(next) != value(s) || below != nil && below(next) != below(s) {
					until = next.at
					break
				}
			}
			point := func(of func(sample) int) []string {
				return []string{fmt.Sprintf("%.1f,%.1f", x(s.at), y(of(s))), fmt.Sprintf("%.1f,%.1f", x(until), y(of(s)))}
			}
			over = append(over, point(value)...)
			if below != nil {
				p := point(below)
				under = append([]string{p[1], p[0]}, under...)
			}
		}
		return shape{class, strings.Join(append(over, under...), " ")}
	}
	machines, jobs, polls := 1, 1, images.JobRequestsPerMinute
	for _, s := range w.samples {
		machines, jobs = max(machines, s.coming+s.serving+s.ending, s.desired), max(jobs, s.jobs)
	}
	p, y := add("machines", machines, shape{"serving", "in service"}, shape{"coming", "coming"}, shape{"ending", "draining or ending"}, shape{"", "(dashed: wanted)"})
	none := func(sample) int { return 0 }
	serving := func(s sample) int { return s.serving }
	coming := func(s sample) int { return s.serving + s.coming }
	all := func(s sample) int { return s.serving + s.coming + s.ending }
	p.Shapes = append(p.Shapes, steps("serving", y, serving, none), steps("coming", y, coming, serving), steps("ending", y, all, coming),
		steps("wanted", y, func(s sample) int { return s.desired }, nil))
	p, y = add("running jobs", jobs)
	p.Shapes = append(p.Shapes, steps("count", y, func(s sample) int { return s.jobs }, nil))
	p, y = add("requests for jobs per minute (dashed: what GitLab answers per token)", polls)
	var line []string
	for m := range int(end / time.Minute) {
		line = append(line, fmt.Sprintf("%.1f,%.1f", x(time.Duration(m)*time.Minute), y(w.polls[m])))
	}
	p.Shapes = append(p.Shapes, shape{"count", strings.Join(line, " ")}, shape{"limit", fmt.Sprintf("%.1f,%.1f %.1f,%.1f", left, y(polls), right, y(polls))})
	var ticks []mark
	every := 5 * time.Minute
	for end/every > 12 {
		every *= 2
	}
	for at := time.Duration(0); at <= end; at += every {
		ticks = append(ticks, mark{x(at), fmt.Sprintf("%d min", int(at/time.Minute))})
	}
	foot := 34 + float64(len(panels))*(high+gap) + 20
	var b bytes.Buffer
	err := chart.Execute(&b, map[string]any{"Title": title, "Wide": wide, "High": foot + 12, "Left": left, "Right": right, "Foot": foot, "Panels": panels, "Ticks": ticks})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".svg"), b.Bytes(), 0o644)
	}
	if err != nil {
		w.t.Error(err)
	}
}

// The picture is of what was seen.
func TestDraw(t *testing.T) {
	dir := t.TempDir()
	w := &world{t: t, polls: map[int]int{1: 600}, samples: []sample{{at: 0, desired: 10, coming: 10}, {at: time.Minute, desired: 10, serving: 8, coming: 2, jobs: 4}, {at: 3 * time.Minute}}}
	w.draw(dir, "fleet", "A & B")
	text, err := os.ReadFile(filepath.Join(dir, "fleet.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"A &amp; B", `class="serving"`, "0 min", ">10<", ">4<", ">2000<"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
