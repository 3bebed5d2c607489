package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
	"github.com/dorunner/dorunner-bake/images"
)

// runnerFlags are who the machine is, for the verbs that tell a machine so. name and tag are what the first and the
// last are called beside a verb's other flags; token is an example of a reference.
func runnerFlags(name, tag, token string) []keyFlag {
	return []keyFlag{
		{name: name, path: "runner.name", usage: "name of the runner", value: ""},
		{name: "url", path: "runner.url", usage: "address of the DataOps application", value: ""},
		{name: "token", path: "runner.token", usage: "reference to the token, for example " + token, value: ""},
		{name: tag, path: "runner.tags", usage: "tags that jobs find the runner by (default: its name)", value: []string{}},
	}
}

// readerFlag is the operating system, for the verbs whose result its cloud-init reads.
var readerFlag = keyFlag{name: "os", path: "image.os", usage: "operating system of the image, whose cloud-init reads the result", value: "", words: images.BaseNames}

// archFlag is the architecture, for the verbs that launch.
var archFlag = keyFlag{name: "arch", path: "image.arch", usage: "architecture of the image: amd64 or arm64", value: "", words: func() []string { return images.Arches }}

// userDataCmd writes the user-data that tells a baked image who it is.
func userDataCmd(a *app) *cobra.Command {
	var o cloudinit.Options
	var merge []string
	var out string
	cmd := &cobra.Command{
		Use:   "user-data TARGET",
		Short: "Write the user-data that tells a baked image who it is",
		Long: `Write the user-data that tells a baked image who it is: TARGET is ` + strings.Join(images.Targets(), ", ") + `.

The final bytes are judged before they leave, as the machine would read them: what does not work is an error here, not on
a machine that nobody can log in to. --merge adds your own user-data (cloud-config, script, boothook, template, or several
in one file): nothing of it replaces anything else. Too big for the target's limit, it is compressed; too big still, a
table shows what takes the space.

A token is named by reference. User-data stays readable on the machine and in the cloud's console, so a literal one is
refused unless --allow-plain-secrets is given.`,
		Example: `  dorunner-bake user-data aws --name dataops-runner-singapore --url https://app.dataops.live --token ssm:/dorunner/token
  dorunner-bake user-data azure --merge ours.yaml --merge setup.sh -o custom-data
  dorunner-bake user-data aws --base64 | aws ec2 run-instances --user-data file:///dev/stdin ...`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: images.Targets(),
	}
	flags := append(runnerFlags("name", "tag", "ssm:/dorunner/token"), readerFlag)
	addFlags(cmd, flags)
	a.specFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "-", "`FILE` to write; - is standard output")
	f.StringVar(&o.Format, "format", "", "cloud-config, mime or script (default: cloud-config, or mime where --merge needs it)")
	f.BoolVar(&o.Gzip, "gzip", false, "compress, even when it fits")
	f.BoolVar(&o.Base64, "base64", false, "encode the whole, as the clouds' programming interfaces take it")
	f.StringArrayVar(&merge, "merge", nil, "user-data of your own to carry as well, `FILE`; several times")
	f.BoolVar(&o.AllowPlain, "allow-plain-secrets", false, "write secrets that the spec holds literally")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		over, err := overrides(cmd.Flags(), flags)
		if err != nil {
			return err
		}
		plan, err := a.runnerPlan(over, true)
		if err != nil {
			return err
		}
		o.Cloud, o.CloudInit = args[0], plan.Base.CloudInit
		if o.Sources, err = a.sources(merge, o); err != nil {
			return err
		}
		g, err := cloudinit.Generate(plan.Runner(), o)
		if err != nil {
			return usageError{err}
		}
		for _, w := range g.Findings {
			_, _ = fmt.Fprint(a.err, w.Text("user-data"))
		}
		if g.Limit > 0 {
			_, _ = fmt.Fprint(a.err, g.Table())
		}
		return a.write(out, g.Data)
	}
	return cmd
}

// runnerPlan decides who the machine is. What a target needs for baking is not asked for: the image is there already.
func (a *app) runnerPlan(over []images.Override, identity bool) (*images.Plan, error) {
	s, dir, err := a.spec()
	if err != nil {
		return nil, err
	}
	plan, err := images.Resolve(s, "metal", images.Options{Overrides: over, AllowSmall: true, Launch: identity, Dir: dir})
	if err != nil {
		return nil, err
	}
	a.warn(slices.DeleteFunc(plan.Warnings, func(p images.Problem) bool { return strings.HasPrefix(p.Path, "metal.") }))
	return plan, nil
}

// sources reads the author's own parts and judges each in its own file.
func (a *app) sources(files []string, o cloudinit.Options) ([]cloudinit.Source, error) {
	var out []cloudinit.Source
	bad := false
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError{err}
		}
		for _, f := range lint.Lint(b, lint.Options{CloudInit: o.CloudInit, Cloud: "metal", Kind: "user-data"}).Findings {
			_, _ = fmt.Fprint(a.err, f.Text(file))
			bad = bad || !f.Warning
		}
		out = append(out, cloudinit.Source{Name: filepath.Base(file), Content: b})
	}
	if bad {
		return nil, exitError(exitUsage)
	}
	return out, nil
}

// write writes a result to a file, whole or not at all, or to standard output.
func (a *app) write(file string, data []byte) error {
	if file == "-" {
		_, err := a.out.Write(data)
		return err
	}
	return renameio.WriteFile(file, data, 0o600)
}
