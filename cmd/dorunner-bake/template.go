package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/images"
	"github.com/dorunner/dorunner-bake/templates"
)

// templateKind is a way to have images baked by others than a person at a terminal.
type templateKind struct {
	name, short string
	files       []templateFile
}

// templateFile is rendered from a text of ours to a file of the author's.
type templateFile struct {
	from, to string
	format   func([]byte) []byte // nil leaves it
}

// templateKinds are the rows.
var templateKinds = []templateKind{
	{"packer", "a Packer template and its values", []templateFile{
		{"packer/build.pkr.hcl", "build.pkr.hcl", hclwrite.Format}, {"packer/values.pkrvars.hcl", valuesFile, hclwrite.Format}}},
	{"gitlab-ci", "a GitLab CI pipeline", []templateFile{{"gitlab-ci/pipeline.yml", ".gitlab-ci.yml", nil}}},
	{"github-actions", "a GitHub Actions workflow", []templateFile{{"github-actions/pipeline.yml", ".github/workflows/dorunner.yml", nil}}},
}

// valuesFile is a name by which Packer finds it by itself.
const valuesFile = "dorunner.auto.pkrvars.hcl"

// pipeline is what a target's pipeline has beside every other's.
type pipeline struct {
	Flags     string        // of the bake
	TestBoot  bool          // Packer's builder boots the image before it is given out
	Prune     string        // the command that removes old images; "" where there is nothing to
	Before    []string      // commands ahead of the bake
	Needs     []string      // sentences on what must be set up
	Variables []string      // YAML lines of the CI's environment
	IDToken   string        // who an identity token of the CI is for; "" needs none
	Login     []string      // GitLab: commands that sign in with it
	Actions   []action      // GitHub: those that sign in
	Packages  string        // of Debian and Ubuntu that a bake needs
	Sudo      string        // before what needs root, ending in a space
	Boot      string        // the command that boots an image; "" where the bake does so
	Values    []packerValue // Packer's variables
}

// ciKeep is how many images a pipeline keeps unless the spec says.
const ciKeep = 3

// action is a step of somebody else's in a GitHub workflow.
type action struct {
	Uses string
	With []string
}

// packerValue is a variable of the Packer template, with its value of this plan.
type packerValue struct {
	Name, Description string
	value             any // string, int, []string; a zero one is left out
}

// Type is HCL's.
func (v packerValue) Type() string {
	switch v.value.(type) {
	case int:
		return "number"
	case []string:
		return "list(string)"
	}
	return "string"
}

// Value is HCL's.
func (v packerValue) Value() string {
	switch x := v.value.(type) {
	case int:
		return strconv.Itoa(x)
	case []string:
		words := make([]string, len(x))
		for i, s := range x {
			words[i] = hclText(s)
		}
		return "[" + strings.Join(words, ", ") + "]"
	}
	return hclText(v.value.(string))
}

// hclText is a text as HCL writes it.
func hclText(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(strconv.Quote(s))
}

// templateData is what the texts are rendered over.
type templateData struct {
	pipeline
	Target, Arch, Release, Spec string
	Roll                        bool
	Keep                        int
}

// templateCmd writes the pipeline around a spec.
func templateCmd(a *app, targets []target) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "template",
		Short: "Write a Packer template or a CI pipeline that bakes the spec's image",
		Long: `Write a Packer template or a CI pipeline that bakes the spec's image.

A pipeline bakes when what reaches the image has changed and anew every week, tests the image by booting it, publishes it,
replaces the machines of the group (when the spec has one) and removes images that nothing uses any more. It signs in to
the cloud with the CI's own identity: there is no key to keep.`,
		Example: `  dorunner-bake template packer
  dorunner-bake template gitlab-ci aws -f dorunner.yaml
  dorunner-bake template github-actions -o ../runners`,
		Args: unknownVerb,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, k := range templateKinds {
		cmd.AddCommand(templateKindCmd(a, k, targets))
	}
	return cmd
}

func templateKindCmd(a *app, k templateKind, targets []target) *cobra.Command {
	dir, force := ".", false
	var to []string
	for _, f := range k.files {
		to = append(to, f.to)
	}
	cmd := &cobra.Command{
		Use:   k.name + " [TARGET]",
		Short: "Write " + k.short,
		Long: fmt.Sprintf(`Write %s: %s.

TARGET is %s; by default the one whose section the spec has. A file that exists and differs is not touched without --force.`,
			k.short, strings.Join(to, " and "), strings.Join(images.Targets(), ", ")),
		Example:   fmt.Sprintf("  dorunner-bake template %s\n  dorunner-bake template %s aws -f dorunner.yaml -o DIR", k.name, k.name),
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: images.Targets(),
	}
	a.specFlags(cmd.Flags())
	cmd.Flags().StringVarP(&dir, "output", "o", dir, "`DIR` to write to")
	cmd.Flags().BoolVar(&force, "force", false, "replace files that differ")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		data, err := a.templateData(targets, args, dir)
		if err != nil {
			return err
		}
		for _, f := range k.files {
			text, err := templates.Render(f.from, data)
			if err != nil {
				return err
			}
			if f.format != nil {
				text = f.format(text)
			}
			file := filepath.Join(dir, filepath.FromSlash(f.to))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := writeNew(file, text, force); err != nil {
				return err
			}
			_, _ = fmt.Fprintln(a.out, file)
		}
		return nil
	}
	return cmd
}

// templateData decides what a pipeline for one target has in it.
func (a *app) templateData(targets []target, args []string, dir string) (d templateData, err error) {
	s, specDir, err := a.spec()
	if err != nil {
		return d, err
	}
	if len(args) == 0 {
		args = s.Targets()
	}
	if len(args) > 1 {
		return d, usageError{fmt.Errorf("the spec is for several targets: name one of %s", strings.Join(args, ", "))}
	}
	resolve := func(launch bool) (*images.Plan, error) {
		return images.Resolve(s, args[0], images.Options{AllowSmall: a.allowSmall, Launch: launch, Dir: specDir})
	}
	plan, err := resolve(false)
	if err != nil {
		return d, err
	}
	a.warn(plan.Warnings)
	t := targets[slices.IndexFunc(targets, func(t target) bool { return t.name == plan.Target })]
	_, noIdentity := resolve(true)
	d = templateData{pipeline: t.pipeline(plan), Target: plan.Target, Arch: plan.Spec.Image.Arch, Release: release(), Keep: ciKeep}
	file, err := a.specFrom(dir)
	if err != nil {
		return d, err
	}
	d.Values = append([]packerValue{{"spec_file", "What goes into the image: a dorunner.yaml.", file}, {"os", "The operating system.", plan.Spec.Image.OS}}, d.Values...)
	d.Values = slices.DeleteFunc(d.Values, func(v packerValue) bool {
		return v.value == "" || v.value == 0 || len(v.Value()) < 3 && v.Type() != "number"
	})
	if file != "" {
		d.Spec = " -f " + shellWord(file)
	}
	if noIdentity != nil { // nothing can be launched without it
		d.Boot = ""
	}
	d.Roll = s.Fleet.Name != "" && slices.ContainsFunc(fleetTargets(), func(f fleetTarget) bool { return f.name == plan.Target })
	return d, nil
}

// specFrom is the spec as seen from a directory; "" without one.
func (a *app) specFrom(dir string) (string, error) {
	file := a.file
	if file == "" {
		file = defaultFile
		if _, err := os.Stat(file); err != nil {
			return "", nil //nolint:nilerr // there is none, which is allowed
		}
	}
	from, err1 := filepath.Abs(dir)
	to, err2 := filepath.Abs(file)
	if err1 != nil || err2 != nil {
		return file, nil //nolint:nilerr // as it was named, then
	}
	rel, err := filepath.Rel(from, to)
	return filepath.ToSlash(rel), err
}

// release is the released version that this program is or comes after; pipelines install that.
func release() string {
	v, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "-")
	if v == "" || v[0] < '0' || v[0] > '9' {
		return "0.1.0" // a build from source
	}
	return v
}

// shellWord is a file's name in a script.
func shellWord(s string) string {
	if regexp.MustCompile(`^[A-Za-z0-9._/-]+$`).MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
