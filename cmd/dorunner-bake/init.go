package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// initCmd writes a spec to begin with.
func initCmd(a *app) *cobra.Command {
	force := false
	// What runner.ValidateIdentity gives as examples.
	s := runner.Spec{Name: "dataops-runner-singapore", URL: "https://app.dataops.live"}
	cmd := &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented dorunner.yaml",
		Long: `Write a commented spec: every key with its default, and why one would change it.

FILE is dorunner.yaml unless named; - writes to standard output. An existing file is not touched without --force.`,
		Example: `  dorunner-bake init
  dorunner-bake init --name dataops-runner-london --url https://app.dataops.live
  dorunner-bake init - | less`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace an existing file")
	cmd.Flags().StringVar(&s.Name, "name", s.Name, "the runner's name, by which jobs find it")
	cmd.Flags().StringVar(&s.URL, "url", s.URL, "address of the DataOps application")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		for _, f := range s.Validate() {
			return usageError{fmt.Errorf("--%s: %s", f.Path, f.Message)}
		}
		text, err := templates.Render("dorunner.yaml.tmpl", s)
		if err != nil {
			return err
		}
		file := defaultFile
		if len(args) > 0 {
			file = args[0]
		}
		if file == "-" {
			_, err := a.out.Write(text)
			return err
		}
		if err := writeNew(file, text, force); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.err, "wrote %s; look through it, then: dorunner-bake validate\n", file)
		return err
	}
	return cmd
}

// writeNew writes a file whole or not at all, and replaces one only when forced.
func writeNew(file string, text []byte, force bool) error {
	if old, err := os.ReadFile(file); err == nil && !force && !bytes.Equal(old, text) {
		return usageError{fmt.Errorf("%s exists: name another file, or replace it with --force", file)}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return renameio.WriteFile(file, text, 0o644)
}
