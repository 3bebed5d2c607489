// Command standin behaves as gitlab-runner does, for machines that cannot pull the real one: register, run, verify
// and unregister with its flags, environment, configuration file, output, exit codes and signals, as they were
// observed with versions 15.11, 17.11 and 19.4 (STANDIN_VERSION chooses; 19.4.0 otherwise). Jobs are run by
// interpreting echo, sleep and exit: it starts no containers.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
)

func main() {
	os.Exit(Main(context.Background(), os.Args[1:], os.Getenv, os.Stderr))
}

// Main runs one command and returns its exit code: 1 for every failure, as gitlab-runner does.
func Main(ctx context.Context, args []string, getenv func(string) string, out io.Writer) int {
	a := &app{getenv: getenv, out: out, version: getenv("STANDIN_VERSION")}
	if a.version == "" {
		a.version = "19.4.0"
	}
	if len(args) == 0 {
		args = []string{"help"}
	}
	commands := map[string]func(context.Context, []string) error{
		"register": a.register, "run": a.run, "verify": a.verify, "unregister": a.unregister,
	}
	switch command, known := commands[args[0]]; {
	case known:
		a.info("Runtime platform", "arch", runtime.GOARCH, "os", runtime.GOOS, "pid", os.Getpid(), "revision", "standin", "version", a.version)
		if err := command(ctx, args[1:]); err != nil {
			level := "FATAL"
			if errors.Is(err, errPanic) {
				level = "PANIC"
			}
			a.log(level, err.Error())
			return 1
		}
		return 0
	case args[0] == "--version" || args[0] == "-v" || args[0] == "help":
		_, _ = fmt.Fprintf(out, "Version:      %s\nGit revision: standin\nGO version:   %s\nOS/Arch:      %s/%s\n", a.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	}
	a.log("FATAL", "Command "+args[0]+" not found.")
	return 1
}

// app is one invocation.
type app struct {
	getenv  func(string) string
	version string

	mu  sync.Mutex
	out io.Writer
}

// errPanic marks the failures that gitlab-runner reports as PANIC.
var errPanic = errors.New("")

func panicf(format string, args ...any) error {
	return fmt.Errorf("%w"+format, append([]any{errPanic}, args...)...)
}

// before says whether the imitated version is older than major.
func (a *app) before(major int) bool {
	var have int
	_, _ = fmt.Sscanf(a.version, "%d", &have)
	return have < major
}

func (a *app) info(message string, fields ...any)  { a.log("", message, fields...) }
func (a *app) error(message string, fields ...any) { a.log("ERROR", message, fields...) }

// log writes a line as gitlab-runner's text formatter does: in colour, terminal or not; the fields sorted by name.
func (a *app) log(level, message string, fields ...any) {
	const reset = "\x1b[0;m"
	colour, prefix := reset, ""
	switch level {
	case "":
	case "WARNING":
		colour, prefix = "\x1b[0;33m", "WARNING: "
	default:
		colour, prefix = "\x1b[31;1m", level+": "
	}
	named := map[string]any{}
	for i := 0; i+1 < len(fields); i += 2 {
		named[fields[i].(string)] = fields[i+1]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s%-*s%s ", colour, prefix, 50-len(prefix), message, reset)
	for _, k := range slices.Sorted(maps.Keys(named)) {
		fmt.Fprintf(&b, " %s%s%s=%v", colour, k, reset, named[k])
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = fmt.Fprintln(a.out, b.String()) // a log that nobody takes is no failure
}

// of names a runner in the log: by its short token and, in newer versions, by its name and the request's id too.
func (a *app) of(token, name string, more ...any) []any {
	fields := []any{"runner", a.short(token)}
	if !a.before(19) {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // never fails
		fields = append(fields, "runner_name", name, "correlation_id", hex.EncodeToString(id))
	}
	return append(fields, more...)
}

// partition is behind the prefix of newer authentication tokens.
var partition = regexp.MustCompile(`^glrt-(t[123]_)?|^glrtr-|^GR1348941`)

// short is how gitlab-runner shows a token: the part behind its prefix, cut to nine characters.
func (a *app) short(token string) string {
	token = partition.ReplaceAllString(token, "")
	return token[:min(len(token), 9)]
}
