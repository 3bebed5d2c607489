package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
	"github.com/dorunner/dorunner-bake/images"
)

// exitWarnings is lint's code for a file that works but should not stay so.
const exitWarnings = 1

// lintCmd judges any user-data.
func lintCmd(a *app) *cobra.Command {
	var o lint.Options
	osName := images.DefaultOS
	cmd := &cobra.Command{
		Use:   "lint FILE|DIR|-",
		Short: "Say what is wrong with user-data, ours or not, before a machine does",
		Long: `Say what is wrong with user-data, network-config or meta-data. The file is taken apart as cloud-init would: base64, gzip,
MIME, archives, templates, #cloud-config, scripts. Each finding stands where it is in the file. Of a seed, an ISO image or
the directory that one is made from, the label and the names are judged as well, and every file in it.

Exit codes: 0 nothing to say, 1 warnings, 2 errors.`,
		Example: `  dorunner-bake lint user-data.yaml
  dorunner-bake lint --os ubuntu-24.04 --target aws user-data
  dorunner-bake lint seed.iso
  aws ec2 describe-instance-attribute --instance-id i-1 --attribute userData --query UserData.Value --output text | dorunner-bake lint -`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	f.StringVar(&osName, "os", osName, "operating system of the machine, whose cloud-init reads the file")
	f.StringVar(&o.Cloud, "target", "", "aws, azure or metal: whose limit of size holds (default: warn about each)")
	f.StringVar(&o.Kind, "kind", "", "user-data, network-config or meta-data (default: found out)")
	f.BoolVar(&a.json, "json", false, "the findings as one JSON object, on standard output")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		base, err := images.Resolve(&images.Spec{}, "metal", images.Options{Overrides: []images.Override{{Path: "image.os", Value: osName, From: "--os"}}})
		if err != nil {
			return err
		}
		o.CloudInit = base.Base.CloudInit
		switch o.Kind {
		case "", "user-data", "network-config", "meta-data":
		default:
			return usageError{fmt.Errorf("--kind %s is none of user-data, network-config and meta-data", o.Kind)}
		}
		r, err := a.lint(args[0], o)
		if err != nil {
			return usageError{err}
		}
		if err := a.findings(args[0], r); err != nil {
			return err
		}
		switch {
		case r.Errors() > 0:
			return exitError(exitUsage)
		case len(r.Findings) > 0:
			return exitError(exitWarnings)
		}
		return nil
	}
	return cmd
}

// lint judges a file, standard input, or a seed.
func (a *app) lint(name string, o lint.Options) (*lint.Report, error) {
	var data []byte
	if info, err := os.Stat(name); err == nil && name != "-" {
		switch {
		case info.IsDir():
			return lintDir(name, o)
		case info.Size() > 17*2048:
			f, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			defer func() { _ = f.Close() }()
			head := make([]byte, 17*2048+1)
			n, _ := f.ReadAt(head, 0)
			switch {
			case iso9660.IsImage(head[:n]):
				return lintISO(f, o)
			case string(head[54:57]) == "FAT" || string(head[82:85]) == "FAT":
				return nil, fmt.Errorf("%s is a FAT volume: mount it and name the directory", name)
			}
		}
	}
	data, err := a.read(name)
	if err != nil {
		return nil, err
	}
	return lint.Lint(data, o), nil
}

// lintDir judges the directory that a seed is made from.
func lintDir(dir string, o lint.Options) (*lint.Report, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return lintSeed("", names, o, func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) })
}

// lintISO judges a seed's image.
func lintISO(f io.ReaderAt, o lint.Options) (*lint.Report, error) {
	image, err := iso9660.Read(f)
	if err != nil {
		return nil, err
	}
	var names []string
	files := map[string]iso9660.Entry{}
	for _, e := range image.Root {
		names = append(names, e.Name)
		files[e.Name] = e
	}
	label := image.Label
	if label == "" {
		label = "nothing"
	}
	return lintSeed(label, names, o, func(name string) ([]byte, error) { return image.ReadFile(files[name], 16<<20) })
}

// lintSeed judges the files of a seed by what cloud-init takes each for.
func lintSeed(label string, names []string, o lint.Options, read func(string) ([]byte, error)) (*lint.Report, error) {
	all := &lint.Report{Findings: lint.Seed(label, names), Parts: []lint.Part{}}
	for _, name := range lint.SeedFiles() {
		if !slices.Contains(names, name) {
			continue
		}
		data, err := read(name)
		if err != nil {
			return nil, err
		}
		if o.Kind = name; name == "vendor-data" {
			o.Kind = "user-data"
		}
		r := lint.Lint(data, o)
		for _, f := range r.Findings {
			f.File = name
			all.Findings = append(all.Findings, f)
		}
		if name == "user-data" {
			all.Parts, all.Sent = r.Parts, r.Sent
		}
	}
	return all, nil
}

// findings prints a report.
func (a *app) findings(file string, r *lint.Report) error {
	if a.json {
		e := json.NewEncoder(a.out)
		e.SetEscapeHTML(false)
		return e.Encode(r)
	}
	for _, f := range r.Findings {
		if _, err := fmt.Fprint(a.out, f.Text(filepath.Join(file, f.File))); err != nil {
			return err
		}
	}
	return nil
}

// judged reads a file of the author's that goes to a machine as it is; errors in it are shown where they are.
func (a *app) judged(file, kind string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{err}
	}
	r := lint.Lint(b, lint.Options{Kind: kind})
	for _, f := range r.Findings {
		_, _ = fmt.Fprint(a.err, f.Text(file))
	}
	if r.Errors() > 0 {
		return nil, exitError(exitUsage)
	}
	return b, nil
}

// shown prints findings in a file of the author's; they are the whole error.
func (a *app) shown(err error) error {
	var wrong *cloudinit.FileError
	if !errors.As(err, &wrong) {
		return usageError{err}
	}
	for _, f := range wrong.Findings {
		_, _ = fmt.Fprint(a.err, f.Text(wrong.File))
	}
	return exitError(exitUsage)
}

// read reads a file, or standard input for -.
func (a *app) read(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(a.in)
	}
	return os.ReadFile(file)
}
