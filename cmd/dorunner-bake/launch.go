package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/images"
)

// launchCmd starts machines from an image; a verb for each place to start them.
func launchCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "launch",
		Short: "Start a machine from an image, and wait until its runner is online",
		Args:  unknownVerb,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(launchMetalCmd(a), launchAWSCmd(a), launchAzureCmd(a))
	return cmd
}

// launchMetal are the flags of launch metal that stand for no key of the spec.
type launchMetal struct {
	o          metal.LaunchOptions
	forward    []string
	timeout    time.Duration
	wait       bool
	allowPlain bool
}

// launchMetalCmd boots an image in QEMU.
func launchMetalCmd(a *app) *cobra.Command {
	var l launchMetal
	cmd := &cobra.Command{
		Use:   "metal",
		Short: "Boot an image in QEMU on this machine",
		Long: `Boot an image in QEMU on this machine, with generated user-data that tells it who it is, and follow its console until
the runner is online. Nothing is written to the image. The machines then run until Ctrl-C; with --wait they are switched
off as soon as all are online, with --detach they stay when this program ends.

The user-data lies in the results directory (seed.iso), beside the machines' console logs. The guest reaches services of
this machine's loopback at 10.0.2.2. A token is named by reference, which the guest must be able to follow; a literal one
is refused unless --allow-plain-secrets is given.`,
		Example: `  dorunner-bake launch metal --image out/dorunner.qcow2 --runner-name dataops-runner-lab --url https://app.dataops.live --token file:/etc/token
  dorunner-bake launch metal --wait                   the image in out/, who it is from dorunner.yaml; exit 0 once online
  dorunner-bake launch metal --count 2 --port-forward 2222:22`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := append(runnerFlags("runner-name", "tag", "file:/etc/token"), []keyFlag{
		archFlag,
		{name: "accel", path: "metal.accel", usage: "of QEMU: auto, kvm or tcg", value: "", words: func() []string { return []string{"auto", "kvm", "tcg"} }},
		{name: "cpus", path: "metal.cpus", usage: "cores of each machine", value: 0},
		{name: "memory", path: "metal.memory_gb", usage: "memory of each machine, in GB", value: 0},
		{name: "out", path: "metal.output", usage: "directory for seeds and console logs, and of the bake's results", value: "", file: true},
	}...)
	addFlags(cmd, flags)
	a.specFlags(cmd.Flags())
	a.outputFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&l.o.Image, "image", "", "the disk image, `FILE` (default: the one of the last bake)")
	f.IntVar(&l.o.Count, "count", 1, "how many machines")
	f.IntVar(&l.o.DiskGB, "disk", 50, "size of each machine's disk in GB; its file grows only as it is written to")
	f.StringArrayVar(&l.forward, "port-forward", nil, "loopback port of this machine that leads to one of the guest's, as `HOST:GUEST`; the next machine gets the next (repeatable)")
	f.DurationVar(&l.timeout, "timeout", 10*time.Minute, "how long the machines may take to be online")
	f.BoolVar(&l.wait, "wait", false, "switch the machines off and end once all are online")
	f.BoolVar(&l.o.Detached, "detach", false, "end once all are online, and leave the machines running")
	f.BoolVar(&l.allowPlain, "allow-plain-secrets", false, "write a literal token into the user-data")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if l.wait && l.o.Detached {
			return usageError{errors.New("--wait switches the machines off, --detach leaves them running: give one of them")}
		}
		over, err := overrides(cmd.Flags(), flags)
		if err != nil {
			return err
		}
		plan, err := a.plan("metal", over, true)
		if err != nil {
			return err
		}
		return l.run(cmd.Context(), a, plan)
	}
	return cmd
}

func (l *launchMetal) run(ctx context.Context, a *app, plan *images.Plan) (err error) {
	m := plan.Spec.Metal
	o := &l.o
	o.Arch, o.Accel, o.CPUs, o.MemoryGB, o.Dir = plan.Spec.Image.Arch, m.Accel, m.CPUs, m.MemoryGB, m.Output
	if o.Count < 1 {
		return usageError{fmt.Errorf("--count %d: launch at least one machine", o.Count)}
	}
	if o.Forward, err = parseForwards(l.forward); err != nil {
		return err
	}
	if o.Image == "" {
		if o.Image, err = lastImage(m.Output); err != nil {
			return err
		}
	}
	if o.UserData, err = cloudinit.UserData(plan.Runner(), cloudinit.UserDataOptions{AllowPlain: l.allowPlain}); err != nil {
		if errors.Is(err, runner.ErrPlainSecret) {
			return usageError{fmt.Errorf("%w (--allow-plain-secrets)", err)}
		}
		return err
	}
	progress, done := a.progress()
	defer done()
	o.Progress = progress

	machines, err := metal.Launch(ctx, *o)
	if err != nil {
		return fmt.Errorf("launching %s: %w", o.Image, err)
	}
	defer func() { err = errors.Join(err, machines.Close(context.WithoutCancel(ctx))) }()
	for _, m := range machines.Machines {
		progress.Info("%s boots; its console goes to %s", m.Name, m.Console)
	}
	state := map[string]string{}
	err = machines.WaitOnline(ctx, l.timeout, func(m *metal.Machine) {
		if now := m.Report.State + " " + m.Report.Step; m.Report.State == runner.Booting && state[m.Name] != now {
			state[m.Name] = now
			progress.Info("%s: %s", m.Name, now)
		}
	})
	a.machines(machines.Machines)
	switch {
	case err != nil:
		return err
	case l.o.Detached:
		for _, m := range machines.Machines {
			progress.Info("%s keeps running: kill %d ends it", m.Name, m.PID)
		}
		return machines.Release()
	case l.wait:
		progress.Info("switching off")
		return machines.PowerOff(ctx)
	}
	progress.Info("Ctrl-C switches off")
	return machines.WaitOff(ctx)
}

// parseForwards reads HOST:GUEST.
func parseForwards(texts []string) ([]metal.Forward, error) {
	var out []metal.Forward
	for _, t := range texts {
		h, g, _ := strings.Cut(t, ":")
		host, err1 := strconv.ParseUint(h, 10, 16)
		guest, err2 := strconv.ParseUint(g, 10, 16)
		if err1 != nil || err2 != nil || host == 0 || guest == 0 {
			return nil, usageError{fmt.Errorf("--port-forward %s: write it as HOST:GUEST, two ports, for example 2222:22", t)}
		}
		out = append(out, metal.Forward{Host: int(host), Guest: int(guest)})
	}
	return out, nil
}

// lastImage is the image that the last bake left in a results directory, the format first that starts fastest.
func lastImage(dir string) (string, error) {
	none := usageError{fmt.Errorf("there is no image in %s: bake one with `dorunner-bake metal`, or name one with --image", dir)}
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return "", none
	}
	var m builder.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Join(dir, "manifest.json"), err)
	}
	for _, format := range []string{"qcow2", "raw", "vhd"} {
		if i := slices.IndexFunc(m.Artifact.Images, func(id builder.ImageID) bool { return id.Format == format }); i >= 0 {
			return m.Artifact.Images[i].ID, nil
		}
	}
	return "", none
}

// machineEvent is a machine's line of --json.
type machineEvent struct {
	Event      string        `json:"event"` // machine
	Machine    string        `json:"machine"`
	InstanceID string        `json:"instance_id"`
	PID        int           `json:"pid"`
	Console    string        `json:"console"`
	Seconds    float64       `json:"seconds"` // from power-on to the report
	Report     runner.Report `json:"report"`
}

// machines prints a row for each machine, then a line for each runner that is online.
func (a *app) machines(all []*metal.Machine) {
	if a.json {
		for _, m := range all {
			a.event(machineEvent{"machine", m.Name, m.InstanceID, m.PID, m.Console, m.Took.Seconds(), m.Report})
		}
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { _, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") }
	s := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f s", v)
	}
	row("MACHINE", "RUNNER", "STATE", "REGISTERED AFTER", "FIRST POLL AFTER", "SINCE POWER-ON")
	for _, m := range all {
		r := m.Report
		row(m.Name, r.Runner, cmp.Or(r.State, "silent"), s(r.Registered), s(r.FirstPoll), s(m.Took.Seconds()))
	}
	_ = w.Flush()
	for _, m := range all {
		if m.Report.State == runner.Online {
			_, _ = fmt.Fprintf(a.out, "runner %s online after %.1f s\n", m.Report.Runner, m.Took.Seconds())
		}
	}
}
