package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

// fleetTarget is a cloud that groups of runners live in.
type fleetTarget struct {
	name   string // of the target
	engine string // of the cloud, as its users know it
	flags  []keyFlag
	// open reaches the group in the cloud; place tells groups of one name apart (a region).
	open func(ctx context.Context, g *fleet.Group, how fleet.How) (c fleet.Cloud, place string, err error)
}

// fleetTargets are the rows; each stands in the file of its name.
func fleetTargets() []fleetTarget { return []fleetTarget{fleetAWS(), fleetAzure()} }

// fleetVerb is what is done to a group.
type fleetVerb struct {
	use     string // "plan", or "scale TARGET N" without its target
	short   string
	long    string
	example string
	args    int // arguments beside the target
	changes bool
	keys    []keyFlag // flags that stand for keys of the spec
	flags   func(cmd *cobra.Command, f *fleetRun)
	run     func(f *fleetRun, ctx context.Context, args []string) error
}

// fleetRun is one command about one group.
type fleetRun struct {
	*app
	t     fleetTarget
	g     *fleet.Group
	c     fleet.Cloud
	place string
	told  builder.Progress // of the engine's run, while it lasts
	done  func()           // ends that

	yes, dryRun, detailed    bool
	noRoll, noWait           bool
	timeout                  time.Duration
	how                      fleet.How
	follow, cancel, rollback bool
	onInterrupt              string
	gitlabToken              string
	cleanOrphans, apply      bool
}

func fleetVerbs() []fleetVerb {
	return []fleetVerb{
		{use: "plan", short: "Show what apply would change", run: (*fleetRun).showPlan,
			long: `Show what apply would change: + is made, ~ changed, - removed. Nothing is changed, and secrets are never shown.`,
			example: `  dorunner-bake fleet plan aws
  dorunner-bake fleet plan aws --detailed-exitcode || echo "exit code 2: there are differences"`,
			flags: func(cmd *cobra.Command, f *fleetRun) {
				cmd.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit with 2 when there are differences")
			}},
		{use: "apply", short: "Make the group what the spec says", changes: true, run: (*fleetRun).doApply,
			long: `Make the group what the spec says, and wait until its runners are online. A second apply changes nothing; one that was
interrupted is finished by calling it again. Machines of an older image or user-data are replaced without taking capacity
away (--no-roll leaves them), and come back by themselves when the new ones do not work.`,
			example: `  dorunner-bake fleet apply aws
  dorunner-bake fleet apply aws --yes --no-wait`,
			flags: func(cmd *cobra.Command, f *fleetRun) {
				cmd.Flags().BoolVar(&f.noRoll, "no-roll", false, "leave running machines as they are")
				f.waitFlags(cmd)
				f.rollFlags(cmd)
			}},
		{use: "status", short: "Show the machines and their runners", run: (*fleetRun).showStatus,
			long: `Show each machine as the cloud and GitLab see it, and orphans on either side: runners whose machine is gone, machines whose
runner GitLab does not hear. For GitLab's side an access token is needed (--gitlab-token, scope read_api; api to clean).

GitLab notes a runner's last contact about once in 40 minutes and counts it as online for two hours: an orphan is only
what has been silent for longer.`,
			example: `  dorunner-bake fleet status aws --gitlab-token env:GITLAB_TOKEN
  dorunner-bake fleet status aws --clean-orphans --yes
  dorunner-bake fleet status aws --json | jq '.members[] | select(.outdated)'`,
			flags: func(cmd *cobra.Command, f *fleetRun) {
				cmd.Flags().BoolVar(&f.cleanOrphans, "clean-orphans", false, "remove orphaned runners, and have machines without runner replaced")
				cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
			}},
		{use: "roll", short: "Replace the machines by new ones, a few at a time", changes: true, run: (*fleetRun).doRoll,
			long: `Replace machines of an older image or user-data, a few at a time: new ones come first, and only when their runners are
online are old ones let go, which finish their jobs. When new ones do not come online, the cloud brings the old ones back.

Interrupted, the cloud goes on with it, unless --on-interrupt says otherwise; --follow tells again how far it is.`,
			example: `  dorunner-bake fleet roll aws
  dorunner-bake fleet roll aws --checkpoints 10,50 --checkpoint-delay 15m
  dorunner-bake fleet roll aws --rollback`,
			flags: func(cmd *cobra.Command, f *fleetRun) {
				f.waitFlags(cmd)
				f.rollFlags(cmd)
				cmd.Flags().BoolVar(&f.how.Force, "force", false, "replace also machines that are as the spec says")
				cmd.Flags().BoolVar(&f.follow, "follow", false, "start nothing; follow the one under way")
				cmd.Flags().BoolVar(&f.cancel, "cancel", false, "end the one under way, where it is")
				cmd.Flags().BoolVar(&f.rollback, "rollback", false, "end the one under way, and bring the old machines back")
			}},
		{use: "scale", short: "Set the number of machines", args: 1, run: (*fleetRun).doScale,
			long: `Set the number of machines, between the group's minimum and maximum. Machines that go finish their jobs first. A spec that
says fleet.desired has the last word at the next apply.`,
			example: `  dorunner-bake fleet scale aws 10
  dorunner-bake fleet scale aws 0 --no-wait`,
			flags: func(cmd *cobra.Command, f *fleetRun) { f.waitFlags(cmd) }},
		{use: "destroy", short: "Remove the group and all that is its own", changes: true, run: (*fleetRun).doDestroy,
			long: `Remove the group and all that was made for it, and nothing else: images and networks stay, and so does whatever does not
carry the fleet's tag. Machines finish their jobs first, within the drain's limit.`,
			example: `  dorunner-bake fleet destroy aws --dry-run
  dorunner-bake fleet destroy aws --yes`,
			flags: func(cmd *cobra.Command, f *fleetRun) {
				cmd.Flags().BoolVar(&f.how.Now, "now", false, "do not wait for running jobs: they are lost")
			}},
		{use: "autoscale", short: "Have the cloud size the group by how busy its runners are", changes: true, run: (*fleetRun).doAutoscale,
			long: `Show the policy by which the cloud sizes the group: so many machines that the given share of their job slots is busy. The
machines publish that share themselves, and those with running jobs are spared when the group shrinks.

--apply makes the group so, as fleet apply does with fleet.autoscale in the spec: machines that do not publish yet are
replaced. Write the key into the spec as well, or the next apply takes it back.`,
			example: `  dorunner-bake fleet autoscale aws --target 70
  dorunner-bake fleet autoscale aws --target 70 --apply`,
			keys: []keyFlag{{name: "target", path: "fleet.autoscale", usage: "percent of the job slots to keep busy, 10 to 95 (default: the spec's, or 70)", value: 0}},
			flags: func(cmd *cobra.Command, f *fleetRun) {
				cmd.Flags().BoolVar(&f.apply, "apply", false, "make the group so")
				f.waitFlags(cmd)
				f.rollFlags(cmd)
			}},
	}
}

// waitFlags are those of the verbs that wait for machines.
func (f *fleetRun) waitFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "end once the cloud knows what to do")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "how long until the runners are online (default: twice runner.boot_timeout)")
}

// rollFlags are those of the verbs that replace machines.
func (f *fleetRun) rollFlags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.how.MaxHealthy, "max-healthy", 110, "percent of the wanted machines that may be there at once while they are replaced, 101 to 200")
	cmd.Flags().IntSliceVar(&f.how.Checkpoints, "checkpoints", nil, "percent replaced at which to pause, for example 10,50")
	cmd.Flags().DurationVar(&f.how.Delay, "checkpoint-delay", 10*time.Minute, "how long to pause at each")
	cmd.Flags().StringVar(&f.onInterrupt, "on-interrupt", "ask", "what Ctrl-C does to a replacement under way: leave, cancel, rollback; ask does on a terminal, and leaves elsewhere")
}

// fleetCmd looks after groups of identical runners.
func fleetCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Look after a group of identical runners that the cloud sizes and heals",
		Long: `Look after a group of identical runners on the cloud's own engine: it starts machines, replaces what fails and sizes the
group by the clock or by how busy the runners are. This program says what the group is to be (the spec's section fleet);
there is no scheduler of ours.`,
		Example: `  dorunner-bake fleet plan aws        what would change
  dorunner-bake fleet apply aws       change it, and wait until the runners are online
  dorunner-bake fleet status aws      the machines, and what GitLab knows of them
  dorunner-bake fleet destroy aws     remove it all`,
		Args: unknownVerb,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, v := range fleetVerbs() {
		name, _, _ := strings.Cut(v.use, " ")
		verb := &cobra.Command{Use: name, Short: v.short, Long: v.long, Example: v.example, Args: unknownVerb,
			RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
		for _, t := range fleetTargets() {
			verb.AddCommand(fleetVerbCmd(a, v, t))
		}
		cmd.AddCommand(verb)
	}
	return cmd
}

// fleetVerbCmd does one thing to a group in one cloud.
func fleetVerbCmd(a *app, v fleetVerb, t fleetTarget) *cobra.Command {
	f := &fleetRun{app: a, t: t}
	cmd := &cobra.Command{
		Use: t.name + strings.Repeat(" N", v.args), Short: v.short + ": " + t.engine, Long: v.long,
		Example: strings.ReplaceAll(v.example, " aws", " "+t.name), Args: cobra.ExactArgs(v.args), ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := append(runnerFlags("runner-name", "runner-tag", "ssm:/dorunner/token"), archFlag,
		keyFlag{name: "name", path: "fleet.name", usage: "name of the fleet (default: the runner's)", value: ""},
		keyFlag{name: "image", path: "fleet.image", usage: "image of the machines, or latest: the newest that was baked of this spec's image.name", value: ""},
		keyFlag{name: "min", path: "fleet.min", usage: "fewest machines", value: 0},
		keyFlag{name: "max", path: "fleet.max", usage: "most machines", value: 0},
		keyFlag{name: "size", path: "fleet.sizes", usage: "machine type; several, in order of preference, are one group", value: []string{}, words: func() []string { return images.SizeNames(t.name) }},
	)
	flags = append(append(flags, t.flags...), v.keys...)
	addFlags(cmd, flags)
	a.specFlags(cmd.Flags())
	a.outputFlags(cmd.Flags())
	cmd.Flags().StringVar(&f.gitlabToken, "gitlab-token", "", "reference to a GitLab access token, env:NAME or file:PATH (default: the spec's fleet.gitlab_token)")
	if v.changes {
		cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
		cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only show what would be done")
	}
	v.flags(cmd, f)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		over, err := overrides(cmd.Flags(), flags)
		if err != nil {
			return err
		}
		plan, err := a.plan(t.name, over, true)
		if err != nil {
			return err
		}
		return f.do(cmd.Context(), plan, v, args)
	}
	return cmd
}

func (f *fleetRun) do(ctx context.Context, plan *images.Plan, v fleetVerb, args []string) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	if f.g, err = fleet.NewGroup(plan); errors.Is(err, fleet.ErrNoFleet) || errors.Is(err, runner.ErrPlainSecret) {
		return usageError{err}
	} else if err != nil {
		return err
	}
	ending := "finishing what is under way; the same command goes on from here"
	f.interrupted.Store(&ending)
	f.how.Info = func(format string, args ...any) {
		if f.told != nil {
			f.told.Info(format, args...)
		}
	}
	if f.c, f.place, err = f.t.open(ctx, f.g, f.how); err != nil {
		return err
	}
	return v.run(f, ctx, args)
}

// check holds the flags against what they can be.
func (f *fleetRun) check() error {
	if m := f.how.MaxHealthy; m != 0 && (m < 101 || m > 200) {
		return usageError{fmt.Errorf("--max-healthy %d: new machines come before old ones go, so give 101 to 200", m)}
	}
	last := 0
	for _, c := range f.how.Checkpoints {
		if c <= last || c > 100 {
			return usageError{fmt.Errorf("--checkpoints: %d: give percents in ascending order, up to 100", c)}
		}
		last = c
	}
	switch f.onInterrupt {
	case "", "ask", "leave", "cancel", "rollback":
		return nil
	}
	return usageError{fmt.Errorf("--on-interrupt %s: give ask, leave, cancel or rollback", f.onInterrupt)}
}

// options are what the engine is told; call done before printing the result.
func (f *fleetRun) options() (o fleet.Options, done func(), err error) {
	o = fleet.Options{NoRoll: f.noRoll, NoWait: f.noWait, Timeout: f.timeout, OnInterrupt: f.interrupt}
	if o.Ledger, err = fleet.LedgerFile(f.t.name, f.place, f.g.Name); err != nil {
		return o, nil, err
	}
	o.Progress, done = f.progress()
	f.told, f.done = o.Progress, sync.OnceFunc(done)
	return o, f.done, nil
}

// changeEvent is a change of --json.
type changeEvent struct {
	Event string `json:"event"` // change
	fleet.Change
}

// show prints changes.
func (f *fleetRun) show(changes []fleet.Change) {
	if f.json {
		for _, c := range changes {
			f.event(changeEvent{"change", c})
		}
		return
	}
	fleet.Render(f.out, changes, colour(f.out))
	if len(changes) > 0 {
		_, _ = fmt.Fprintln(f.out, fleet.Count(changes))
	}
}

// confirm shows what will be done and asks, as far as there is somebody to ask, before any progress is drawn. What it
// returns holds the engine to what was shown.
func (f *fleetRun) confirm(ctx context.Context, list func(context.Context) ([]fleet.Change, error)) (func([]fleet.Change) error, error) {
	changes, err := list(ctx)
	if err != nil {
		return nil, err
	}
	if f.noRoll {
		changes = fleet.WithoutRoll(changes)
	}
	f.show(changes)
	if f.yes || len(changes) == 0 {
		return nil, nil
	}
	return func(now []fleet.Change) error {
		if fmt.Sprint(now) != fmt.Sprint(changes) {
			return errors.New("the cloud has changed since this was shown, and nothing was done: look again")
		}
		return nil
	}, f.ask("do this")
}

// ask wants a yes.
func (f *fleetRun) ask(what string) error {
	if !terminal(f.in) {
		return usageError{errors.New("there is no terminal to ask on: look with --dry-run or fleet plan, then give --yes")}
	}
	_, _ = fmt.Fprintf(f.err, "%s? Only yes is accepted: ", what)
	answer, err := bufio.NewReader(f.in).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" {
		return errors.Join(errors.New("nothing was changed"), ignoreEOF(err))
	}
	return nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// interrupt decides about a roll that nobody waits for any more.
func (f *fleetRun) interrupt() fleet.Interrupt {
	choice := f.onInterrupt
	if choice == "ask" && terminal(f.in) {
		f.done()
		_, _ = fmt.Fprint(f.err, "the replacement is under way: leave it to the cloud, cancel it, or rollback? [leave] ")
		choice, _ = bufio.NewReader(f.in).ReadString('\n') // no answer leaves it
	}
	return map[string]fleet.Interrupt{"cancel": fleet.Stop, "rollback": fleet.Rollback}[strings.TrimSpace(choice)]
}

func (f *fleetRun) showPlan(ctx context.Context, _ []string) error {
	changes, err := f.c.Plan(ctx)
	if err != nil {
		return err
	}
	f.show(changes)
	if len(changes) == 0 {
		f.tell(map[string]string{"event": "unchanged", "fleet": f.g.Name}, fmt.Sprintf("fleet %s is as the spec has it", f.g.Name))
	} else if f.detailed {
		return exitError(exitUsage)
	}
	return nil
}

func (f *fleetRun) doApply(ctx context.Context, args []string) error {
	if f.dryRun {
		return f.showPlan(ctx, args)
	}
	same, err := f.confirm(ctx, f.c.Plan)
	if err != nil {
		return err
	}
	o, done, err := f.options()
	if err != nil {
		return err
	}
	o.Confirm = same
	changed, err := fleet.Apply(ctx, f.g, f.c, o)
	done()
	if err != nil {
		return err
	}
	f.tell(map[string]any{"event": "applied", "fleet": f.g.Name, "changes": len(changed)}, fmt.Sprintf("fleet %s: %d changes made", f.g.Name, len(changed)))
	return nil
}

func (f *fleetRun) doRoll(ctx context.Context, args []string) error {
	if n := count(f.follow, f.cancel, f.rollback); n > 1 {
		return usageError{errors.New("give one of --follow, --cancel and --rollback")}
	}
	roller, can := f.c.(fleet.Roller)
	switch {
	case !can:
		return usageError{fmt.Errorf("%s replaces machines by itself", f.t.engine)}
	case f.cancel || f.rollback:
		if err := roller.StopRoll(ctx, f.rollback); err != nil {
			return err
		}
		f.tell(map[string]any{"event": "stopped", "rollback": f.rollback}, "told the cloud; --follow shows how it ends")
		return nil
	case f.follow:
		o, done, err := f.options()
		if err != nil {
			return err
		}
		defer done()
		return fleet.Follow(ctx, f.c, o)
	}
	return f.doApply(ctx, args)
}

func count(of ...bool) (n int) {
	for _, b := range of {
		if b {
			n++
		}
	}
	return n
}

func (f *fleetRun) doScale(ctx context.Context, args []string) error {
	var n int
	if _, err := fmt.Sscanf(args[0], "%d", &n); err != nil || fmt.Sprint(n) != args[0] || n < 0 {
		return usageError{fmt.Errorf("%q is not a number of machines", args[0])}
	}
	o, done, err := f.options()
	if err != nil {
		return err
	}
	defer done()
	return fleet.Scale(ctx, f.g, f.c, n, o)
}

func (f *fleetRun) doDestroy(ctx context.Context, _ []string) error {
	if f.dryRun {
		left, err := f.c.Remains(ctx)
		if err != nil {
			return err
		}
		f.show(left)
		return nil
	}
	same, err := f.confirm(ctx, f.c.Remains)
	if err != nil {
		return err
	}
	o, done, err := f.options()
	if err != nil {
		return err
	}
	defer done()
	o.Confirm = same
	return fleet.Destroy(ctx, f.g, f.c, o)
}

func (f *fleetRun) doAutoscale(ctx context.Context, args []string) error {
	s, can := f.c.(fleet.Autoscaler)
	if !can {
		return usageError{fmt.Errorf("%s cannot be sized by how busy the runners are", f.t.engine)}
	}
	if f.apply {
		if f.g.Autoscale == 0 {
			return usageError{errors.New("--apply needs a --target, or fleet.autoscale in the spec")}
		}
		return f.doApply(ctx, args)
	}
	text, err := json.MarshalIndent(s.Autoscale(cmp.Or(f.g.Autoscale, 70)), "", "  ")
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(f.out, "%s\n", text)
	_, _ = fmt.Fprintln(f.err, "--apply makes the group so; fleet.autoscale in the spec keeps it so")
	return nil
}

// gitlab opens GitLab, or says why not; nil without a token.
func (f *fleetRun) gitlab() (*fleet.GitLab, error) {
	token := f.g.GitLabToken
	if f.gitlabToken != "" {
		var err error
		if token, err = runner.ParseSecret(f.gitlabToken); err != nil || token.Scheme() != "env" && token.Scheme() != "file" {
			return nil, usageError{errors.New("--gitlab-token is a reference: env:NAME or file:PATH")}
		}
	}
	if token.IsZero() {
		return nil, nil
	}
	return fleet.NewGitLab(f.g.Runner.URL, token, nil)
}

func (f *fleetRun) showStatus(ctx context.Context, _ []string) error {
	l, err := f.gitlab()
	if err != nil {
		return err
	}
	if f.cleanOrphans && l == nil {
		return usageError{errors.New("--clean-orphans needs GitLab's side: give --gitlab-token env:NAME (scope api)")}
	}
	s, err := fleet.Look(ctx, f.g, f.c, l)
	if s == nil {
		return err
	}
	if f.json {
		f.event(s)
	} else {
		f.table(s, time.Now())
	}
	if err != nil || !f.cleanOrphans || len(s.Machineless)+len(s.Runnerless) == 0 {
		return err
	}
	if !f.yes {
		if err := f.ask("remove the orphaned runners and replace the machines without one"); err != nil {
			return err
		}
	}
	return s.Clean(ctx, f.c, l, func(text string) { f.tell(map[string]string{"event": "cleaned", "message": text}, text) })
}

// table prints a row for each machine, then what is not as it should be.
func (f *fleetRun) table(s *fleet.Status, now time.Time) {
	if !s.Exists {
		_, _ = fmt.Fprintf(f.err, "there is no fleet %s: `dorunner-bake fleet apply %s` makes it\n", f.g.Name, f.t.name)
	}
	w := tabwriter.NewWriter(f.out, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { _, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") }
	row("MACHINE", "ZONE", "SIZE", "STATE", "LIFECYCLE", "RUNNER", "JOBS", "LAST CONTACT", "IMAGE", "IMAGE AGE", "")
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return age(now.Sub(t))
	}
	for _, m := range s.Members {
		state, jobs, contact := "?", "-", "-"
		if s.Asked {
			state = "unknown"
		}
		if r := m.Runner; r != nil {
			state, jobs, contact = r.Status, fmt.Sprint(r.Jobs), ago(r.Contacted)
			if r.Paused {
				state += " (paused)"
			}
		}
		var notes []string
		for text, is := range map[string]bool{"outdated": m.Outdated, "busy: spared at scale-in": m.Protected, "spot": m.Spot, "unhealthy": m.Unhealthy} {
			if is {
				notes = append(notes, text)
			}
		}
		row(m.ID, orDash(m.Zone), orDash(m.Size), orDash(m.State), m.Lifecycle, state, jobs, contact, orDash(m.Image), ago(m.Baked), sorted(notes))
	}
	_ = w.Flush()
	_, _ = fmt.Fprintf(f.err, "fleet %s: %s (min %d, max %d)\n", f.g.Name, s.Census, s.Min, s.Max)
	if !s.Asked {
		_, _ = fmt.Fprintln(f.err, "GitLab was not asked: --gitlab-token env:NAME adds its side")
	}
	for _, m := range s.Runnerless {
		_, _ = fmt.Fprintf(f.err, "machine %s serves, and GitLab does not hear its runner\n", m.ID)
	}
	for _, r := range s.Machineless {
		_, _ = fmt.Fprintf(f.err, "runner %d (%s) is %s, and its machine is gone\n", r.ID, cmp.Or(r.SystemID, r.Description), r.Status)
	}
	for _, t := range s.Trouble[:min(len(s.Trouble), 3)] {
		_, _ = fmt.Fprintf(f.err, "the cloud says: %s\n", t)
	}
	if s.Roll != nil && !s.Roll.Done {
		_, _ = fmt.Fprintf(f.err, "roll %s: %d%%, %s to go %s\n", s.Roll.Status, s.Roll.Percent, fleet.Machines(s.Roll.Left), s.Roll.Reason)
	}
}

func orDash(s string) string { return cmp.Or(s, "-") }

func sorted(list []string) string {
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// age prints how long ago something was, as roughly as matters.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
