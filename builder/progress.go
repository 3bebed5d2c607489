package builder

import "time"

// Progress is how a bake tells what it does. Implementations: a live terminal, plain lines, JSON events, Packer's UI.
type Progress interface {
	// Step begins a named step; the one before it has ended.
	Step(name string)
	// StepDone ends it.
	StepDone(name string, took time.Duration, err error)
	// Info is one line worth reading now; Warn one that the reader should act on.
	Info(format string, args ...any)
	Warn(format string, args ...any)
	// Log takes a line of a command's output; shown with --verbose only.
	Log(line string)
	// Count says how far a counted thing has come (bytes, layers); total 0 when unknown.
	Count(what string, done, total int64, unit string)
}
