package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/builder/metal"
)

// gcCmd removes what interrupted bakes left.
func gcCmd(a *app) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what interrupted bakes left behind",
		Long: `Remove what interrupted bakes left behind.

A bake gives back what it created, also when it fails or is interrupted. One that was killed cannot: its ledger on this
machine names what is left. gc lists that, and with --yes removes it. With the name of a cloud it looks there as well, by
tag, so that bakes of other machines are found too.`,
		Example: `  dorunner-bake gc               what killed bakes on this machine left
  dorunner-bake gc aws           ... and what is tagged in the account, in all regions
  dorunner-bake gc aws --yes     remove it`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.gcLedgers(cmd.Context(), yes) },
	}
	cmd.PersistentFlags().BoolVar(&yes, "yes", false, "remove, not only list")
	cmd.AddCommand(gcAWSCmd(a, &yes), gcAzureCmd(a, &yes))
	return cmd
}

// gcLedgers gives back what the ledgers of killed bakes on this machine name.
func (a *app) gcLedgers(ctx context.Context, yes bool) error {
	stale, err := builder.StaleLedgers()
	if err != nil {
		return err
	}
	if len(stale) == 0 {
		_, _ = fmt.Fprintln(a.err, "no killed bake of this machine left anything")
		return nil
	}
	region, inAWS := "", false
	for _, s := range stale {
		_, _ = fmt.Fprintf(a.err, "bake %s was killed and left:\n", s.BakeID)
		for _, e := range s.Entries {
			if strings.HasPrefix(e.Kind, "aws ") {
				region, inAWS = e.Region, true
			}
			if !yes {
				_, _ = fmt.Fprintln(a.out, e)
				continue
			}
			_, _ = fmt.Fprintf(a.err, "  %s\n", e)
		}
	}
	if !yes {
		_, _ = fmt.Fprintln(a.err, "--yes removes it")
		return nil
	}
	undo := metal.New("").Undoes()
	if inAWS {
		cfg, err := aws.LoadConfig(ctx, region) // each entry names its own
		if err != nil {
			return err
		}
		for kind, u := range aws.New(aws.Options{Config: cfg}).Undoes() {
			undo[kind] = u
		}
	}
	inAzure, err := azureUndoes(stale)
	if err != nil {
		return err
	}
	maps.Copy(undo, inAzure)
	left, err := builder.CleanStale(ctx, undo, func(e builder.Entry, err error) {
		if err == nil {
			_, _ = fmt.Fprintln(a.out, "removed", e)
		}
	})
	for _, s := range left {
		_, _ = fmt.Fprintf(a.err, "nothing here knows how to give back all of bake %s: see %s\n", s.BakeID, s.File)
	}
	return err
}

// gcAWSCmd also finds leftovers by their tags, in every region.
func gcAWSCmd(a *app, yes *bool) *cobra.Command {
	var all bool
	var region string
	cmd := &cobra.Command{
		Use:   "aws",
		Short: "Remove what interrupted bakes left in the AWS account",
		Long: `Remove what interrupted bakes left in the AWS account, in all regions that it has enabled.

Only what carries our tags dorunner:bake-id and dorunner:expires is looked at. A finished image has lost the latter. What
has not expired may belong to a bake that is at work on another machine: it is listed, and removed with --all only.`,
		Example: `  dorunner-bake gc aws
  dorunner-bake gc aws --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.gcLedgers(cmd.Context(), *yes); err != nil {
				return err
			}
			cfg, err := aws.LoadConfig(cmd.Context(), region)
			if err != nil {
				return err
			}
			return a.gcAWS(cmd.Context(), aws.NewHouse(cfg), *yes, all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also what has not expired: no bake may be at work")
	cmd.Flags().StringVar(&region, "region", "", "region to begin with (default: the AWS configuration's)")
	return cmd
}

func (a *app) gcAWS(ctx context.Context, house *aws.House, yes, all bool) error {
	regions, err := house.Regions(ctx)
	if err != nil {
		return err
	}
	list, err := house.Left(ctx, regions)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		_, _ = fmt.Fprintf(a.err, "nothing of ours is left in %d regions\n", len(regions))
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	var dead []aws.Left
	for _, l := range list {
		what := "abandoned"
		if time.Now().Before(l.Expires) && !all {
			what = "in use until " + l.Expires.Local().Format("15:04")
		} else {
			dead = append(dead, l)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.Region, l.Kind, l.ID, l.BakeID, what)
	}
	_ = w.Flush() // as any other line on standard output
	if !yes {
		if len(dead) > 0 {
			_, _ = fmt.Fprintln(a.err, "--yes removes what is abandoned")
		}
		return nil
	}
	return house.Remove(ctx, dead, func(l aws.Left) { _, _ = fmt.Fprintf(a.err, "removed %s\n", l) })
}
