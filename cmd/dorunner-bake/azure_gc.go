package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/images"
)

// gcAzureCmd also finds leftovers by their tags, in the whole subscription.
func gcAzureCmd(a *app, yes *bool) *cobra.Command {
	var account azureAccount
	var bake string
	cmd := &cobra.Command{
		Use:   "azure",
		Short: "Remove what interrupted bakes left in the Azure subscription",
		Long: `Remove what interrupted bakes left in the Azure subscription, in all resource groups and locations.

Only what carries our tag dorunner-expires is looked at, and the disks of our machines by their names. A finished image has
lost that tag. What has not expired may belong to a bake that is at work on another machine, and is left alone unless that
bake is named with --bake.`,
		Example: `  dorunner-bake gc azure
  dorunner-bake gc azure --yes
  dorunner-bake gc azure --bake 20260102-150405-a1b2c3 --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.gcLedgers(cmd.Context(), *yes); err != nil {
				return err
			}
			cloud, err := account.open()
			if err != nil {
				return err
			}
			return a.gcAzure(cmd.Context(), cloud, bake, *yes)
		},
	}
	account.flags(cmd.Flags())
	cmd.Flags().StringVar(&bake, "bake", "", "everything temporary of the bake with this `ID`, expired or not")
	return cmd
}

func (a *app) gcAzure(ctx context.Context, cloud *azure.Cloud, bake string, yes bool) error {
	left, err := cloud.Garbage(ctx, bake)
	if err != nil {
		return err
	}
	if len(left) == 0 {
		_, _ = fmt.Fprintln(a.err, "nothing of ours is left")
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, l := range left {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Region, l.Kind, l.ID, l.BakeID)
	}
	_ = w.Flush() // as any other line on standard output
	if !yes {
		_, _ = fmt.Fprintln(a.err, "--yes removes them")
		return nil
	}
	return cloud.Remove(ctx, left, func(l azure.Left, err error) {
		if err == nil {
			_, _ = fmt.Fprintf(a.err, "removed %s %s\n", l.Kind, l.ID)
		}
	})
}

// azureUndoes gives back what ledgers name in a subscription; none when they name nothing there.
func azureUndoes(stale []builder.Stale) (map[string]builder.Undo, error) {
	for _, s := range stale {
		for _, e := range s.Entries {
			parts := strings.Split(e.ID, "/")
			if strings.HasPrefix(e.Kind, "azure ") && len(parts) > 2 {
				cloud, err := azure.Open(images.Azure{Subscription: parts[2]}, azure.Options{})
				if err != nil {
					return nil, err
				}
				return cloud.Undoes(), nil
			}
		}
	}
	return nil, nil
}

// imagesAzureCmd lists and prunes what was baked.
func imagesAzureCmd(a *app) *cobra.Command {
	var account azureAccount
	cmd := &cobra.Command{
		Use:   "azure",
		Short: "List and prune managed images and gallery versions",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	account.flags(f)
	f.StringVar(&account.spec.ResourceGroup, "resource-group", "", "resource group of the images")
	f.StringVar(&account.spec.Gallery, "gallery", "", "gallery of the versions (default: managed images)")
	f.StringVar(&account.spec.Definition, "definition", "", "image definition in the gallery")
	// What an image lies in is never guessed.
	open := func() (*azure.Cloud, error) {
		if account.spec.ResourceGroup == "" {
			return nil, usageError{fmt.Errorf("--resource-group: name the one that the images are in")}
		}
		if (account.spec.Gallery == "") != (account.spec.Definition == "") {
			return nil, usageError{fmt.Errorf("--gallery and --definition go together")}
		}
		return account.open()
	}
	cmd.AddCommand(imagesAzureList(a, open), imagesAzurePrune(a, open))
	return cmd
}

func imagesAzureList(a *app, open func() (*azure.Cloud, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the images that were baked, newest first",
		Example: `  dorunner-bake images azure list --resource-group runners
  dorunner-bake images azure list --resource-group runners --gallery images --definition dorunner`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cloud, err := open()
			if err != nil {
				return err
			}
			list, err := cloud.Images(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				e := json.NewEncoder(a.out)
				for _, i := range list {
					if err := e.Encode(i); err != nil {
						return err
					}
				}
				return nil
			}
			return a.azureImages(list)
		},
	}
	cmd.Flags().BoolVar(&a.json, "json", false, "one JSON object per line")
	return cmd
}

func (a *app) azureImages(list []azure.Image) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, i := range list {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.12s\n", i.Name, i.State, i.Made.UTC().Format(time.DateTime), i.Regions, i.Plan)
	}
	return w.Flush()
}

func imagesAzurePrune(a *app, open func() (*azure.Cloud, error)) *cobra.Command {
	var keep int
	var yes bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove old images that nothing uses any more",
		Long: `Remove old images that nothing uses any more: all but the newest.

Only finished images that carry our tags are counted. One that a virtual machine or a scale set of the subscription uses
stays, and so does the newest in any case.`,
		Example: "  dorunner-bake images azure prune --resource-group runners --gallery images --definition dorunner --keep 3 --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keep < 1 {
				return usageError{fmt.Errorf("--keep: at least 1, the newest image is never removed")}
			}
			cloud, err := open()
			if err != nil {
				return err
			}
			gone, kept, err := cloud.Prune(cmd.Context(), keep, yes)
			for _, i := range kept {
				_, _ = fmt.Fprintf(a.err, "stays: %s, %s uses it\n", i.Name, i.InUse)
			}
			if err := a.azureImages(gone); err != nil {
				return err
			}
			if !yes && len(gone) > 0 {
				_, _ = fmt.Fprintln(a.err, "--yes removes them")
			}
			return err
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 3, "how many images to keep")
	cmd.Flags().BoolVar(&yes, "yes", false, "remove, not only list")
	return cmd
}
