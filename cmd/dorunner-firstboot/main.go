// Command dorunner-firstboot makes the machine that it runs on a DataOps runner, and looks after it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/azure"
	"github.com/dorunner/dorunner-bake/firstboot/ec2"
	"github.com/dorunner/dorunner-bake/firstboot/nocloud"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

var version = "dev" // set by the linker

// platforms are where a machine can be; /etc/dorunner/platform, baked, holds one of the names.
var platforms = map[string]func(root string) firstboot.Platform{
	"aws":     func(string) firstboot.Platform { return ec2.New(ec2.Options{}) },
	"azure":   func(string) firstboot.Platform { return azure.New(azure.Options{}) },
	"nocloud": func(root string) firstboot.Platform { return nocloud.New(root) },
}

const usage = `dorunner-firstboot makes this machine a DataOps runner and looks after it.

  boot                  register, configure and start the runner; changes nothing where that is done
  watch                 look after the runner, and drain it when the platform takes the machine away
  drain [--limit 30m]   no new jobs; let running ones finish, unregister, remove the container
  start, stop           the runner's container; stop lets running jobs finish
  status [--json]       what the machine last reported; exits 1 unless the runner is online
  config                the effective configuration, without secrets
  selftest [--offline]  could a machine from this image become a runner?
  version

It reads /etc/dorunner/platform, defaults.yaml (baked) and runner.yaml (user-data), in this order.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// invocation is one run of the command line.
type invocation struct {
	host *firstboot.Host
	out  io.Writer

	limit   time.Duration
	json    bool
	offline bool
}

// verbs are the commands that need to know their machine.
var verbs = map[string]func(*invocation, context.Context, firstboot.Platform) error{
	"boot": func(i *invocation, ctx context.Context, p firstboot.Platform) error {
		return firstboot.Boot(ctx, i.host, p)
	},
	"watch": func(i *invocation, ctx context.Context, p firstboot.Platform) error {
		return firstboot.Watch(ctx, i.host, p)
	},
	"drain": func(i *invocation, ctx context.Context, p firstboot.Platform) error {
		return firstboot.Drain(ctx, i.host, p, i.limit)
	},
	"start": func(i *invocation, ctx context.Context, p firstboot.Platform) error {
		return firstboot.Start(ctx, i.host, p)
	},
	"stop": func(i *invocation, ctx context.Context, p firstboot.Platform) error {
		return firstboot.Stop(ctx, i.host, p)
	},
	"selftest": func(i *invocation, ctx context.Context, p firstboot.Platform) error {
		return firstboot.SelfTest(ctx, i.host, p, i.offline, i.out)
	},
	"config": func(i *invocation, ctx context.Context, p firstboot.Platform) error {
		text, err := firstboot.Effective(ctx, i.host, p)
		if err == nil {
			_, err = i.out.Write(text)
		}
		return err
	},
}

// Main runs one command and gives the exit code: 0, 1 for a failure, 2 for wrong usage.
func Main(ctx context.Context, args []string, out, errOut io.Writer) int {
	if len(args) == 0 {
		_, _ = fmt.Fprint(errOut, usage)
		return 2
	}
	verb := strings.TrimLeft(args[0], "-")
	i := &invocation{host: firstboot.Machine(), out: out}
	f := flag.NewFlagSet(verb, flag.ContinueOnError)
	f.SetOutput(errOut)
	f.Usage = func() { _, _ = fmt.Fprint(errOut, usage) }
	f.StringVar(&i.host.Root, "root", "/", "the directory that is this machine's root")
	switch verb {
	case "drain":
		f.DurationVar(&i.limit, "limit", 0, "how long running jobs may take")
	case "status":
		f.BoolVar(&i.json, "json", false, "print the report as JSON")
	case "selftest":
		f.BoolVar(&i.offline, "offline", false, "ask no network")
	}
	if err := f.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if f.NArg() > 0 {
		_, _ = fmt.Fprintf(errOut, "%s takes no argument %q\n", verb, f.Arg(0))
		return 2
	}
	err := i.run(ctx, verb)
	if errors.Is(err, errUsage) {
		_, _ = fmt.Fprintf(errOut, "there is no command %q\n\n%s", verb, usage)
		return 2
	}
	if err != nil {
		_, _ = fmt.Fprintln(errOut, "dorunner-firstboot:", err)
		return 1
	}
	return 0
}

var errUsage = errors.New("usage")

func (i *invocation) run(ctx context.Context, verb string) error {
	switch verb {
	case "help", "h":
		_, err := io.WriteString(i.out, usage)
		return err
	case "version":
		_, err := fmt.Fprintln(i.out, "dorunner-firstboot", version)
		return err
	case "status":
		return i.status()
	}
	do, found := verbs[verb]
	if !found {
		return errUsage
	}
	p, err := i.platform()
	if err != nil {
		return err
	}
	debug.SetGCPercent(50) // a small machine's memory belongs to its jobs
	return do(i, ctx, p)
}

// platform is what the image was baked for: it is told, not guessed.
func (i *invocation) platform() (firstboot.Platform, error) {
	data, err := os.ReadFile(i.host.Root + firstboot.PlatformFile)
	if err != nil {
		return nil, fmt.Errorf("which platform this is: %w: an image has it baked in; write aws, azure or nocloud there", err)
	}
	name := strings.TrimSpace(string(data))
	if p, found := platforms[name]; found {
		return p(i.host.Root), nil
	}
	return nil, fmt.Errorf("%s: %q is no platform: write aws, azure or nocloud there", firstboot.PlatformFile, name)
}

func (i *invocation) status() error {
	r, err := firstboot.ReadStatus(i.host)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("this machine has not begun its first boot (systemctl status dorunner-firstboot)")
	}
	if err != nil {
		return err
	}
	if i.json {
		e := json.NewEncoder(i.out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = printStatus(i.out, r)
	}
	if err == nil && r.State != runner.Online {
		err = fmt.Errorf("the runner is %s", r.State)
	}
	return err
}

func printStatus(w io.Writer, r runner.Report) error {
	line := func(name string, value any) string {
		if s := fmt.Sprint(value); s != "" && s != "0" {
			return fmt.Sprintf("%-12s %s\n", name, s)
		}
		return ""
	}
	text := line("state", r.State) + line("runner", r.Runner) + line("description", r.Description) + line("instance", r.InstanceID) +
		line("system id", r.SystemID) + line("step", r.Step) + line("error", r.Error) + line("jobs", r.Jobs)
	if !r.LastPoll.IsZero() {
		text += line("last poll", r.LastPoll.Format(time.RFC3339))
	}
	for _, w := range r.Warnings {
		text += line("warning", w)
	}
	_, err := io.WriteString(w, text+line("as of", r.Time.Format(time.RFC3339)))
	return err
}
