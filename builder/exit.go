package builder

import (
	"fmt"
	"strings"
)

// Error names the command and shows the end of its output, which says why.
func (e *ExitError) Error() string {
	s := fmt.Sprintf("%s: exit status %d", strings.Join(e.Args, " "), e.Code)
	if e.Tail != "" {
		s += ":\n    " + strings.ReplaceAll(e.Tail, "\n", "\n    ")
	}
	return s
}
