package main

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
)

// bakeCmd is the verb of any target: read the spec, decide, bake, print what was made.
func bakeCmd(a *app, t target) *cobra.Command {
	var o builder.Options
	cmd := &cobra.Command{
		Use:               t.name,
		Short:             t.short,
		Long:              t.long,
		Example:           t.example,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := slices.Concat(t.flags, commonFlags())
	addFlags(cmd, flags)
	a.specFlags(cmd.Flags())
	a.outputFlags(cmd.Flags())
	cmd.Flags().StringVar(&o.FirstBoot, "firstboot", "", "the dorunner-firstboot program to put into the image (default: the one beside this program)")
	cmd.Flags().BoolVar(&o.Force, "force", false, "bake even when an image of this plan exists")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "check everything, create nothing, say what would be done")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		over, err := overrides(cmd.Flags(), flags)
		if err != nil {
			return err
		}
		plan, err := a.plan(t.name, over, false)
		if err != nil {
			return err
		}
		cloud, err := t.cloud(cmd.Context(), plan)
		if err != nil {
			return err
		}
		if o.FirstBoot == "" && !bakedElsewhere(cloud) {
			if o.FirstBoot, err = builder.FindFirstBoot(plan.Spec.Image.Arch); err != nil {
				return err
			}
		}
		o.OutDir, o.BakeID = plan.Spec.Metal.Output, builder.NewBakeID()
		a.bakeID.Store(&o.BakeID)
		progress, done := a.progress()
		o.Progress = progress
		m, err := builder.Bake(cmd.Context(), plan, cloud, o)
		done()
		if m != nil {
			a.result(m, o)
		}
		return err
	}
	return cmd
}

// bakedElsewhere says that the image is made from a disk that was baked before, first boot in it.
func bakedElsewhere(cloud builder.Cloud) bool {
	b, ok := cloud.(builder.Baked)
	if !ok {
		return false
	}
	_, elsewhere := b.BakedElsewhere()
	return elsewhere
}

// result is the last event of --json.
type result struct {
	Event    string            `json:"event"` // result
	PlanHash string            `json:"plan_hash"`
	Images   []builder.ImageID `json:"images"`
	Reused   bool              `json:"reused,omitempty"`
	Manifest string            `json:"manifest,omitempty"` // file; none when nothing was baked
}

// result prints the image ids, or file paths, one per line.
func (a *app) result(m *builder.Manifest, o builder.Options) {
	if a.json {
		r := result{Event: "result", PlanHash: m.PlanHash, Images: m.Artifact.Images, Reused: m.Artifact.Reused}
		if !o.DryRun && !r.Reused {
			r.Manifest = filepath.Join(o.OutDir, "manifest.json")
		}
		a.event(r)
		return
	}
	for _, i := range m.Artifact.Images {
		_, _ = fmt.Fprintln(a.out, i.ID)
	}
}
