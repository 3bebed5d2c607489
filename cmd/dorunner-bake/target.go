package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// target is something to bake for: a verb, the flags that stand for keys of its section, and its cloud.
type target struct {
	name    string // of the verb, and of the section in the spec
	short   string
	long    string
	example string
	flags   []keyFlag
	cloud   func(ctx context.Context, plan *images.Plan) (builder.Cloud, error)
	// pipeline is how a CI bakes for it.
	pipeline func(plan *images.Plan) pipeline
}

// targets are the rows; each stands in the file of its name.
func targets() []target { return []target{metalTarget(), awsTarget(), azureTarget()} }

// keyFlag is a flag that stands for a key of the spec and wins over it.
type keyFlag struct {
	name  string // "size"
	short string // "s", or none
	path  string // "aws.sizes"; "image.pull[]" appends
	usage string
	value any                         // its type: "", 0, false, []string{} or map[string]string{}
	file  bool                        // names a local file, relative to the working directory
	words func() []string             // what completion offers
	parse func(s string) (any, error) // for a text that stands for something else
}

// commonFlags stand for keys of the sections image and runner, which every target has.
func commonFlags() []keyFlag {
	return []keyFlag{
		{name: "os", path: "image.os", usage: "operating system", value: "", words: images.BaseNames},
		{name: "arch", path: "image.arch", usage: "architecture: amd64 or arm64", value: "", words: func() []string { return images.Arches }},
		{name: "name", path: "image.name", usage: "name of the image, a template over .OS, .Arch, .Hash and .Date", value: ""},
		{name: "disk", path: "image.disk_gb", usage: "size of the root disk in GB", value: 0},
		{name: "docker-source", path: "image.docker.source", usage: "where Docker Engine comes from: docker (its own apt repository), distro, or the URL of a mirror", value: "",
			words: func() []string { return []string{"docker", "distro"} }},
		{name: "docker-version", path: "image.docker.version", usage: `version of Docker Engine, or its beginning ("26.1")`, value: ""},
		{name: "pull", path: "image.pull[]", usage: "another container image to have in the machine image (repeatable)", value: []string{}},
		{name: "archive", path: "image.pull[]", usage: "container image to load from a docker-archive instead of pulling it, as `REF=FILE` (repeatable)", value: []string{}, parse: parseArchive},
		{name: "login-user", path: "image.registry.username", usage: "login for pulling, never kept in the image: user name", value: ""},
		{name: "login-password", path: "image.registry.password", usage: "login for pulling: where the password is, env:NAME or file:PATH", value: ""},
		{name: "script", path: "image.scripts[]", usage: "a script of your own to run in the image, as root (repeatable)", value: []string{}, file: true},
		{name: "out", path: "metal.output", usage: "directory for manifest.json, report.html and disk images", value: "", file: true},
	}
}

// parseArchive reads REF=FILE.
func parseArchive(s string) (any, error) {
	ref, file, found := strings.Cut(s, "=")
	if !found || ref == "" || file == "" {
		return nil, fmt.Errorf("%q is not REF=FILE, for example dataopslive/dataops-runner=runner.tar", s)
	}
	file, err := filepath.Abs(file)
	return map[string]string{"ref": ref, "archive": file}, err
}

// addFlags gives a verb the flags.
func addFlags(cmd *cobra.Command, flags []keyFlag) {
	f := cmd.Flags()
	for _, k := range flags {
		usage := k.usage
		switch k.value.(type) {
		case string:
			f.StringP(k.name, k.short, "", usage)
		case int:
			f.IntP(k.name, k.short, 0, usage)
		case bool:
			f.BoolP(k.name, k.short, false, usage)
		case []string:
			f.StringArrayP(k.name, k.short, nil, usage)
		case map[string]string:
			f.StringToStringP(k.name, k.short, nil, usage)
		default:
			panic(fmt.Sprintf("flag --%s has a value of type %T", k.name, k.value))
		}
		if k.words != nil {
			complete := cobra.FixedCompletions(k.words(), cobra.ShellCompDirectiveNoFileComp)
			if err := cmd.RegisterFlagCompletionFunc(k.name, complete); err != nil {
				panic(err)
			}
		}
	}
}

// overrides are the flags that were given, as what they stand for.
func overrides(f *pflag.FlagSet, flags []keyFlag) ([]images.Override, error) {
	var out []images.Override
	for _, k := range flags {
		if !f.Changed(k.name) {
			continue
		}
		add := func(v any) { out = append(out, images.Override{Path: k.path, Value: v, From: "--" + k.name}) }
		text := func(s string) error {
			var v any = s
			var err error
			switch {
			case k.parse != nil:
				v, err = k.parse(s)
			case k.file && !strings.Contains(s, "://"):
				v, err = filepath.Abs(s)
			}
			if err != nil {
				return usageError{fmt.Errorf("--%s: %w", k.name, err)}
			}
			add(v)
			return nil
		}
		var err error
		switch k.value.(type) {
		case string:
			s, _ := f.GetString(k.name)
			err = text(s)
		case int:
			i, _ := f.GetInt(k.name)
			add(i)
		case bool:
			b, _ := f.GetBool(k.name)
			add(b)
		case map[string]string:
			m, _ := f.GetStringToString(k.name)
			add(m)
		case []string:
			list, _ := f.GetStringArray(k.name)
			if !strings.HasSuffix(k.path, "[]") {
				add(splitCommas(list))
				continue
			}
			for _, s := range list {
				if err = text(s); err != nil {
					break
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// splitCommas lets a,b stand for two values of a repeatable flag.
func splitCommas(list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, strings.Split(s, ",")...)
	}
	return out
}
