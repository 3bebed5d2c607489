package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/images"
)

// validateCmd checks a spec and shows what it means.
func validateCmd(a *app) *cobra.Command {
	launch := false
	cmd := &cobra.Command{
		Use:   "validate [TARGET...]",
		Short: "Check a spec and print the effective plan",
		Long: `Check a spec: every mistake at once, each under the offending word. Then print the plan that results, with every
default filled in, as YAML that is itself a spec. Secrets are not shown.

TARGET is ` + strings.Join(images.Targets(), ", ") + `; by default those whose section the spec has, or else metal.`,
		Example: `  dorunner-bake validate
  dorunner-bake validate aws --launch
  dorunner-bake validate -f singapore.yaml --json`,
		Args:      cobra.OnlyValidArgs,
		ValidArgs: images.Targets(),
	}
	a.specFlags(cmd.Flags())
	cmd.Flags().BoolVar(&a.json, "json", false, "one JSON object per target, on standard output")
	cmd.Flags().BoolVar(&launch, "launch", false, "also check what launching needs: name, url and token")
	cmd.RunE = func(_ *cobra.Command, names []string) error {
		s, dir, err := a.spec()
		if err != nil {
			return err
		}
		if len(names) == 0 {
			names = s.Targets()
		}
		var b bytes.Buffer
		for i, name := range names {
			plan, err := images.Resolve(s, name, images.Options{AllowSmall: a.allowSmall, Launch: launch, Dir: dir})
			if err != nil {
				return err
			}
			if a.json {
				a.event(plan.Summary())
				continue
			}
			a.warn(plan.Warnings)
			if i > 0 {
				b.WriteString("---\n")
			}
			if err := printPlan(&b, plan); err != nil {
				return err
			}
		}
		_, err = a.out.Write(b.Bytes())
		return err
	}
	return cmd
}

// printPlan writes a plan for people: what was decided as comments, then the effective spec.
func printPlan(w io.Writer, p *images.Plan) error {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, "# "+format+"\n", args...) }
	s := p.Summary()
	say("%s: %s (%s) for %s, plan %.12s", p.Target, p.Base.OS, p.Spec.Image.Arch, p.Platform, p.Hash)
	if p.Size.CPUs > 0 {
		say("bakes on %s", strings.TrimSpace(fmt.Sprintf("%s %d cores, %d GB", p.Size.Name, p.Size.CPUs, p.Size.MemoryGB)))
	}
	for _, c := range p.Containers {
		if c.Archive != "" {
			say("loads %s from %s", c.Ref, c.Archive)
			continue
		}
		say("pulls %s", c.Ref)
	}
	for _, s := range p.Scripts {
		say("runs %s", s.Path)
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&s.Spec.Node); err != nil {
		return err
	}
	return e.Close()
}
