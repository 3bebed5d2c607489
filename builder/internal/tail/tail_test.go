package tail

import (
	"fmt"
	"strings"
	"testing"
)

func TestBufferKeepsTheLastLines(t *testing.T) {
	var b Buffer
	if got := b.String(); got != "" {
		t.Errorf("an empty buffer says %q", got)
	}
	for i := range 5000 {
		fmt.Fprintf(&b, "line %d\r\n", i)
	}
	got := strings.Split(b.String(), "\n")
	if len(got) != Lines || got[0] != "line 4980" || got[Lines-1] != "line 4999" {
		t.Errorf("got %d lines, %q to %q", len(got), got[0], got[len(got)-1])
	}
	if len(b.buf) > 2*maxBytes {
		t.Errorf("%d bytes are kept", len(b.buf))
	}
}
