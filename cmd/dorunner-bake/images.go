package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder/aws"
)

// imagesCmd keeps finished images in order.
func imagesCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "List, prune, share and deprecate images that were baked",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(imagesAWSCmd(a), imagesAzureCmd(a))
	return cmd
}

// awsHouse is what the verbs on AMIs share: the account, and which regions.
type awsHouse struct {
	regions []string
}

func (h *awsHouse) open(ctx context.Context) (*aws.House, []string, error) {
	first := ""
	if len(h.regions) > 0 {
		first = h.regions[0]
	}
	cfg, err := aws.LoadConfig(ctx, first)
	if err != nil {
		return nil, nil, err
	}
	house := aws.NewHouse(cfg)
	if len(h.regions) > 0 {
		return house, h.regions, nil
	}
	regions, err := house.Regions(ctx)
	return house, regions, err
}

// one is open for a verb that works on one image.
func (h *awsHouse) one(ctx context.Context) (*aws.House, string, error) {
	if len(h.regions) > 1 {
		return nil, "", usageError{errors.New("an image is in one region: give one --region")}
	}
	first := ""
	if len(h.regions) == 1 {
		first = h.regions[0]
	}
	cfg, err := aws.LoadConfig(ctx, first)
	if err != nil {
		return nil, "", err
	}
	return aws.NewHouse(cfg), cfg.Region, nil
}

func imagesAWSCmd(a *app) *cobra.Command {
	var h awsHouse
	cmd := &cobra.Command{
		Use:   "aws",
		Short: "List, prune, share and deprecate AMIs",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringSliceVar(&h.regions, "region", nil, "regions to look in (default: all that the account has enabled)")
	cmd.AddCommand(imagesAWSList(a, &h), imagesAWSPrune(a, &h), imagesAWSShare(a, &h), imagesAWSDeprecate(a, &h))
	return cmd
}

func imagesAWSList(a *app, h *awsHouse) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the AMIs that were baked in this account",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			house, regions, err := h.open(cmd.Context())
			if err != nil {
				return err
			}
			list, err := house.Images(cmd.Context(), regions)
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
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, i := range list {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.12s\n", i.Region, i.ID, i.Name, i.Created.UTC().Format("2006-01-02 15:04"), i.Plan)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&a.json, "json", false, "one JSON object per line")
	return cmd
}

func imagesAWSPrune(a *app, h *awsHouse) *cobra.Command {
	var keep int
	var yes bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove old AMIs that nothing uses any more",
		Long: `Remove old AMIs of this account that nothing uses any more: per region and name, all but the newest.

Only images that carry our tags are looked at. EC2 is asked first who still refers to an image (instances, launch
templates, parameters); those stay, and so does the newest in any case.`,
		Example: `  dorunner-bake images aws prune --keep 3
  dorunner-bake images aws prune --keep 3 --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keep < 1 {
				return usageError{errors.New("--keep: at least 1, the newest image is never removed")}
			}
			house, regions, err := h.open(cmd.Context())
			if err != nil {
				return err
			}
			gone, kept, err := house.Prune(cmd.Context(), regions, keep, yes)
			for _, i := range kept {
				_, _ = fmt.Fprintf(a.err, "stays: %s %s %s, %s\n", i.Region, i.ID, i.Name, i.UsedBy)
			}
			for _, i := range gone {
				_, _ = fmt.Fprintln(a.out, i.Region, i.ID, i.Name)
			}
			if !yes && len(gone) > 0 {
				_, _ = fmt.Fprintln(a.err, "--yes removes them")
			}
			return err
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 3, "how many images of a name to keep")
	cmd.Flags().BoolVar(&yes, "yes", false, "remove, not only list")
	return cmd
}

func imagesAWSShare(_ *app, h *awsHouse) *cobra.Command {
	return &cobra.Command{
		Use:     "share AMI WITH...",
		Short:   "Let accounts (12 digits) or organizations (ARN) use an AMI",
		Example: "  dorunner-bake images aws share ami-0123456789abcdef0 210987654321 --region eu-west-1",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			house, region, err := h.one(cmd.Context())
			if err != nil {
				return err
			}
			return house.Share(cmd.Context(), region, args[0], args[1:])
		},
	}
}

func imagesAWSDeprecate(_ *app, h *awsHouse) *cobra.Command {
	var in string
	cmd := &cobra.Command{
		Use:     "deprecate AMI",
		Short:   "Hide an AMI from those who look for new ones; machines from it stay",
		Example: "  dorunner-bake images aws deprecate ami-0123456789abcdef0 --in 30d",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			after, err := days(in)
			if err != nil {
				return usageError{fmt.Errorf("--in: %w", err)}
			}
			house, region, err := h.one(cmd.Context())
			if err != nil {
				return err
			}
			return house.Deprecate(cmd.Context(), region, args[0], time.Now().Add(after))
		},
	}
	// EC2 takes no time that has passed when the call arrives.
	cmd.Flags().StringVar(&in, "in", "10m", "how long from now: 10m, 12h, 30d")
	return cmd
}

// days reads a duration that may be in days.
func days(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		s = n + "h"
		d, err := time.ParseDuration(s)
		return 24 * d, err
	}
	return time.ParseDuration(s)
}
