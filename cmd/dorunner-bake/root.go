package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// rootCmd is the whole command line: a verb for each target, then what goes before and after a bake.
func rootCmd(a *app, targets []target) *cobra.Command {
	root := &cobra.Command{
		Use:   "dorunner-bake",
		Short: "Bake machine images that are DataOps runners a few seconds after power-on",
		Long: `dorunner-bake turns one small spec into machines that are DataOps runners.

It bakes an image (Docker Engine, the runner images already pulled, a small first-boot program), generates the
user-data that tells a booted image who it is, and launches machines from it. On the machine, first boot registers the
runner, creates its vault and starts it.

Without a spec the documented procedure is followed: Ubuntu 20.04, Docker from Docker's own repository, the DataOps
runner images. A flag wins over the spec, dorunner.yaml. Baking needs no token; launching does.

Exit codes: 0 done, 1 failed (nothing is left behind, or it is named), 2 the spec or the command line is wrong.`,
		Example: `  dorunner-bake init                      write a commented dorunner.yaml
  dorunner-bake validate                  check it, and see what it means
  dorunner-bake metal                     bake a disk image on this machine
  dorunner-bake aws --size t3a.xlarge     bake an AMI`,
		SuggestionsMinimumDistance: 2,
		Version:                    version,
		SilenceErrors:              true,
		SilenceUsage:               true,
		Args:                       unknownVerb,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("dorunner-bake {{.Version}}\n")
	for _, t := range targets {
		add(root, "Bake an image:", bakeCmd(a, t))
	}
	add(root, "Write a spec:", initCmd(a), validateCmd(a), templateCmd(a, targets))
	add(root, "Tell machines who they are:", userDataCmd(a), isoCmd(a), lintCmd(a))
	add(root, "Run machines:", launchCmd(a), fleetCmd(a))
	add(root, "Keep house:", imagesCmd(a), gcCmd(a))
	root.AddCommand(versionCmd(a))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	usageArgs(root)
	return root
}

// add puts verbs under a heading of the help.
func add(root *cobra.Command, heading string, verbs ...*cobra.Command) {
	if !root.ContainsGroup(heading) {
		root.AddGroup(&cobra.Group{ID: heading, Title: heading})
	}
	for _, v := range verbs {
		v.GroupID = heading
		root.AddCommand(v)
	}
}

// unknownVerb refuses every argument of the root, which are verbs that there are not.
func unknownVerb(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q", args[0])
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return err
}

// usageArgs makes every wrong argument a usageError.
func usageArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		usageArgs(sub)
	}
}
