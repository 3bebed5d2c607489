package builder

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// live redraws one line at the bottom of a terminal: the step under way, how long it has taken, and a bar for what
// is counted. Everything else scrolls above it.
type live struct {
	out     *mpb.Progress
	bar     *mpb.Bar
	fill    mpb.BarFiller
	verbose bool
	color   bool

	mu    sync.Mutex
	step  string
	began time.Time
	frame int
	what  string
	done  int64
	total int64
	unit  string
}

// Colours and marks of the live display.
const (
	green, red, yellow, dim, plainText = "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
	spinner                            = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
	barWidth                           = 30
)

func newLive(w io.Writer, o ProgressOptions, more ...mpb.ContainerOption) *live {
	l := &live{
		verbose: o.Verbose, color: !o.NoColor,
		fill: mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("━").Padding(" ").Build(),
	}
	l.out = mpb.New(append([]mpb.ContainerOption{mpb.WithOutput(w), mpb.WithRefreshRate(100 * time.Millisecond)}, more...)...)
	l.bar = l.out.MustAdd(0, mpb.BarFillerFunc(l.draw), mpb.BarFillerTrim())
	return l
}

// close takes the line away and puts out what is still to be written.
func (l *live) close() {
	l.bar.Abort(true)
	l.out.Wait()
}

// draw writes the line; its parts are cut where the terminal ends.
func (l *live) draw(w io.Writer, stat decor.Statistics) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.step == "" {
		return nil
	}
	frames := []rune(spinner)
	l.frame++
	room := stat.AvailableWidth - 1
	text := fmt.Sprintf("%c %s  %s", frames[l.frame%len(frames)], l.step, seconds(time.Since(l.began)))
	if l.what != "" {
		text += "  " + l.what + " " + counted(l.done, l.total, l.unit)
	}
	runes := []rune(text)
	if len(runes) > room {
		runes = runes[:max(room, 0)]
	}
	if _, err := io.WriteString(w, string(runes)); err != nil {
		return err
	}
	room -= len(runes) + 2
	if l.what == "" || l.total <= 0 || room < barWidth {
		return nil
	}
	if _, err := io.WriteString(w, "  "+l.paint(green)); err != nil {
		return err
	}
	stat.AvailableWidth, stat.RequestedWidth, stat.Total, stat.Current = barWidth, barWidth, l.total, min(l.done, l.total)
	if err := l.fill.Fill(w, stat); err != nil {
		return err
	}
	_, err := io.WriteString(w, l.paint(plainText))
	return err
}

func (l *live) Step(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step, l.began, l.what = name, time.Now(), ""
}

func (l *live) StepDone(name string, took time.Duration, err error) {
	l.mu.Lock()
	l.step = ""
	l.mu.Unlock()
	mark := l.paint(green) + "✓"
	if err != nil {
		mark = l.paint(red) + "✗"
	}
	l.above(mark + l.paint(plainText) + " " + name + "  " + l.paint(dim) + seconds(took) + l.paint(plainText))
}

func (l *live) Info(format string, args ...any) { l.above("  " + fmt.Sprintf(format, args...)) }

func (l *live) Warn(format string, args ...any) {
	l.above(l.paint(yellow) + "!" + l.paint(plainText) + " " + fmt.Sprintf(format, args...))
}

func (l *live) Log(s string) {
	if l.verbose {
		l.above(l.paint(dim) + "  | " + s + l.paint(plainText))
	}
}

func (l *live) Count(what string, done, total int64, unit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.what, l.done, l.total, l.unit = what, done, total, unit
}

// Write puts whole lines above the live one, for what does not come through Progress.
func (l *live) Write(p []byte) (int, error) { return l.out.Write(p) }

func (l *live) above(s string) { _, _ = io.WriteString(l.out, strings.TrimRight(s, "\n")+"\n") }

func (l *live) paint(code string) string {
	if !l.color {
		return ""
	}
	return code
}
