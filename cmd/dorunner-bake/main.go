// Command dorunner-bake bakes machine images that are DataOps runners a few seconds after power-on. Every verb parses,
// calls one function and prints: the result on standard output, everything else on standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/dorunner/dorunner-bake/images"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitFailure     = 1   // something went wrong while doing it
	exitUsage       = 2   // the spec or the command line is wrong
	exitInterrupted = 130 // a second Ctrl-C: stopped at once
)

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	os.Exit(Main(context.Background(), os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// Main runs one command and returns its exit code. The first SIGINT or SIGTERM cancels it, so that it gives back what it
// created; the second ends the process.
func Main(ctx context.Context, args []string, s streams) int { return run(ctx, args, s, targets()) }

// run is Main with the targets that there are to bake for.
func run(ctx context.Context, args []string, s streams, targets []target) int {
	a := &app{streams: s}
	ctx, stop := a.interruptible(ctx)
	defer stop()
	root := rootCmd(a, targets)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return a.fail(cmd.CommandPath(), err)
}

// usageError is a wrong command line.
type usageError struct{ error }

// exitError ends a command with a code of its own; what there was to say has been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// fail tells the error and gives its exit code.
func (a *app) fail(command string, err error) int {
	var problems images.Problems
	var usage usageError
	var code exitError
	switch {
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &problems):
		a.report(problems)
		return exitUsage
	case errors.As(err, &usage):
		a.tell(failure{Event: "error", Message: usage.Error()}, fmt.Sprintf("error: %v\nhelp: %s --help", err, command))
		return exitUsage
	default:
		a.tell(failure{Event: "error", Message: err.Error()}, fmt.Sprintf("error: %v", err))
		return exitFailure
	}
}

// errInterrupted is why a command was cancelled.
var errInterrupted = errors.New("interrupted")

// interruptible cancels the context at the first signal and ends the process at the second.
func (a *app) interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			what := "giving back what was created"
			if instead := a.interrupted.Load(); instead != nil {
				what = *instead
			}
			a.say(fmt.Sprintf("interrupted: %s; interrupt again to stop at once", what))
			cancel(errInterrupted)
		case <-done:
			return
		}
		select {
		case <-signals:
			a.sayLeft()
			os.Exit(exitInterrupted)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}
