// Package tail keeps the last lines of a program's output, for errors that show why it failed.
package tail

import (
	"bytes"
	"strings"
	"sync"
)

// Lines is how many lines an error shows.
const Lines = 20

const maxBytes = 16 << 10 // a program that never ends a line

// Buffer is a Writer that remembers the end of what was written. Its zero value is ready; it may be shared.
type Buffer struct {
	mu  sync.Mutex
	buf []byte
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	if len(b.buf) > 2*maxBytes {
		b.buf = append(b.buf[:0], b.buf[len(b.buf)-maxBytes:]...)
	}
	return len(p), nil
}

// String is the last lines, without the carriage returns of a terminal.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Last(b.buf, Lines)
}

// Last is the last n lines of text.
func Last(text []byte, n int) string {
	text = bytes.TrimRight(bytes.ReplaceAll(text, []byte("\r"), nil), "\n")
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
