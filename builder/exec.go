package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/dorunner/dorunner-bake/templates"
)

// How long one command on the guest may take: no wait is without an end.
const (
	briefly   = 5 * time.Minute
	installs  = 30 * time.Minute
	transfers = 2 * time.Hour
	authors   = 4 * time.Hour // the author's own scripts
)

// script runs templates/files/guest/NAME on the guest as `sh -c TEXT NAME args`: one round trip, no file left behind.
func (b *bake) script(ctx context.Context, limit time.Duration, name string, c Command) error {
	text, err := templates.Read("guest/" + name)
	if err != nil {
		return err
	}
	c.Args = append([]string{"/bin/sh", "-c", string(text), name}, c.Args...)
	err = b.exec(ctx, limit, c)
	var exit *ExitError
	if errors.As(err, &exit) { // the name says more than the text
		exit.Args = []string{name}
	}
	return err
}

// exec runs a command within limit, its output going to the log as well.
func (b *bake) exec(ctx context.Context, limit time.Duration, c Command) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	log := &lines{each: b.env.Progress.Log}
	defer log.flush()
	c.Stdout, c.Stderr = tee(c.Stdout, log), tee(c.Stderr, log)
	err := b.guest.Run(ctx, c)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

func tee(w io.Writer, log *lines) io.Writer {
	if w == nil {
		return log
	}
	return io.MultiWriter(w, log)
}

// lines hands on each whole line that is written to it. It may be shared.
type lines struct {
	each func(string)

	mu  sync.Mutex
	buf []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	for {
		text, rest, found := bytes.Cut(l.buf, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.each(strings.TrimRight(string(text), "\r"))
		l.buf = rest
	}
}

// flush hands on a last line that was never ended.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > 0 {
		l.each(string(l.buf))
		l.buf = nil
	}
}

// counting tells how much of a known amount has been read.
type counting struct {
	io.Reader
	done int64
	told func(done int64)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.done += int64(n)
	c.told(c.done)
	return n, err
}
