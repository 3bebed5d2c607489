// Package shell is a Guest over whatever runs one line in a machine's POSIX shell: an SSH session, Packer's communicator.
package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/internal/tail"
)

// Exec runs a line in the machine's shell and gives its exit status; an error means that it did not run to its end.
// It returns promptly when its context ends.
type Exec func(ctx context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error)

// Guest runs commands as root through Exec. Commands may run at the same time if Exec allows it.
type Guest struct {
	Exec Exec
	Sudo bool // the shell is not root's: everything goes through sudo -n
}

// Run runs argv as root. The environment travels on standard input, ahead of the command's own: no other user of
// the machine sees it, and sshd need not accept it.
func (g Guest) Run(ctx context.Context, c builder.Command) error {
	argv, stdin := c.Args, c.Stdin
	if len(c.Env) > 0 {
		var exports strings.Builder
		for _, kv := range c.Env {
			key, value, found := strings.Cut(kv, "=")
			if !found || !isName(key) {
				return fmt.Errorf("environment of %s: %q is not KEY=VALUE", c.Args[0], key)
			}
			exports.WriteString("export " + key + "='" + strings.ReplaceAll(value, "'", `'\''`) + "'\n")
		}
		script := fmt.Sprintf(`eval "$(head -c %d)"; exec "$@"`, exports.Len())
		argv = append([]string{"/bin/sh", "-c", script, "sh"}, argv...)
		if stdin == nil {
			stdin = strings.NewReader("")
		}
		stdin = io.MultiReader(strings.NewReader(exports.String()), stdin)
	}
	return g.session(ctx, c.Args, argv, stdin, c.Stdout, c.Stderr)
}

// session runs argv; shown is what an error names.
func (g Guest) session(ctx context.Context, shown, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = Quote(a)
	}
	line := strings.Join(words, " ")
	if g.Sudo {
		line = "sudo -n -H -- " + line
	}
	// One writer for both streams keeps the lines in order; stdout alone must stay clean for whoever parses it.
	var last tail.Buffer
	status, err := g.Exec(ctx, line, stdin, both(&last, stdout), both(&last, stderr))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", shown[0], context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: %w", shown[0], err)
	case status != 0:
		return &builder.ExitError{Args: shown, Code: status, Tail: last.String()}
	}
	return nil
}

func both(last *tail.Buffer, w io.Writer) io.Writer {
	if w == nil {
		return last
	}
	return io.MultiWriter(last, w)
}

// Upload writes a file through standard input. The rename is a second command: had the first one also to rename, a
// reader that fails half-way would look like the end of the file.
func (g Guest) Upload(ctx context.Context, file string, r io.Reader, mode fs.FileMode) error {
	temp := path.Join(path.Dir(file), "."+path.Base(file)+".part")
	read := &errReader{r: r}
	const write = `mkdir -p "$2" && umask 077 && cat > "$1" && chmod "$3" "$1"`
	args := []string{"/bin/sh", "-c", write, "sh", temp, path.Dir(file), fmt.Sprintf("%o", mode.Perm())}
	err := g.session(ctx, []string{"upload of " + file}, args, read, nil, nil)
	if err = errors.Join(err, read.err); err == nil {
		err = g.session(ctx, []string{"upload of " + file}, []string{"mv", "-fT", temp, file}, nil, nil, nil)
	}
	if err != nil {
		_ = g.session(ctx, []string{"rm"}, []string{"rm", "-f", temp}, nil, nil, nil)
		return fmt.Errorf("uploading %s: %w", file, err)
	}
	return nil
}

// errReader remembers why its reader failed; a session only sees the end of its input.
type errReader struct {
	r   io.Reader
	err error
}

func (e *errReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF {
		e.err, err = err, io.EOF
	}
	return n, err
}

// Download reads a file.
func (g Guest) Download(ctx context.Context, file string, w io.Writer) error {
	var stderr bytes.Buffer
	err := g.session(ctx, []string{"download of " + file}, []string{"cat", "--", file}, nil, w, &stderr)
	if exit := (*builder.ExitError)(nil); errors.As(err, &exit) {
		exit.Tail = strings.TrimSpace(stderr.String()) // not the file itself
	}
	return err
}

func isName(key string) bool {
	for i, r := range key {
		if !(r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && r >= '0' && r <= '9') {
			return false
		}
	}
	return key != ""
}

// Quote makes a shell word of an argument.
func Quote(arg string) string {
	if arg != "" && strings.IndexFunc(arg, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r))
	}) < 0 {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
