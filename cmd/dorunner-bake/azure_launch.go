package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	fleetazure "github.com/dorunner/dorunner-bake/fleet/azure"
	"github.com/dorunner/dorunner-bake/images"
)

// launchAzure are the flags of launch azure that stand for no key of the spec.
type launchAzure struct {
	o       azure.RunnerOptions
	key     string
	timeout time.Duration
	noWait  bool
}

// launchAzureCmd starts virtual machines from an image.
func launchAzureCmd(a *app) *cobra.Command {
	var l launchAzure
	cmd := &cobra.Command{
		Use:   "azure",
		Short: "Start virtual machines on Azure from an image",
		Long: `Start virtual machines on Azure from an image, with generated custom data that tells them who they are, and follow their
serial consoles until their runners are online. The machines stay; how to end them is said at the end. They live in a subnet
of yours and have no public address.

The token is named by reference, never written into custom data: the machine reads it with the managed identity that
--identity names, or with one of its own (docs/azure.md has the role).`,
		Example: `  dorunner-bake launch azure --resource-group runners --subnet ID --runner-name dataops-runner-amsterdam --url https://app.dataops.live --token keyvault:https://VAULT.vault.azure.net/secrets/token --identity ID
  dorunner-bake launch azure --gallery images --definition dorunner --count 3`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := append(runnerFlags("runner-name", "runner-tag", "keyvault:https://VAULT.vault.azure.net/secrets/token"), []keyFlag{
		archFlag,
		{name: "tag", path: "azure.tags", usage: "tags of the machines, KEY=VALUE", value: map[string]string{}},
	}...)
	for _, k := range azureTarget().flags {
		switch k.name {
		case "size", "subscription", "resource-group", "location", "gallery", "definition", "subnet", "trusted-launch", "cloud", "auth", "endpoint":
			flags = append(flags, k)
		}
	}
	addFlags(cmd, flags)
	a.specFlags(cmd.Flags())
	a.outputFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&l.o.Image, "image", "latest", "`ID` of a managed image or gallery version, or latest: the newest of ours in the gallery, or in the group")
	f.IntVar(&l.o.Count, "count", 1, "how many machines: all or none")
	f.StringVar(&l.o.Identity, "identity", "", "`ID` of a user-assigned identity that may read the token (default: one of the machine's own)")
	f.StringVar(&l.key, "ssh-key", "", "public key `FILE` of who may log in (default: nobody)")
	f.DurationVar(&l.timeout, "timeout", 20*time.Minute, "how long the machines may take to be online")
	f.BoolVar(&l.noWait, "no-wait", false, "end once the machines are started")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		over, err := overrides(cmd.Flags(), flags)
		if err != nil {
			return err
		}
		plan, err := a.plan("azure", over, true)
		if err != nil {
			return err
		}
		return l.run(cmd.Context(), a, plan)
	}
	return cmd
}

func (l *launchAzure) run(ctx context.Context, a *app, plan *images.Plan) error {
	o := &l.o
	if o.Count < 1 || o.Count > 100 {
		return usageError{fmt.Errorf("--count %d: launch 1 to 100 machines", o.Count)}
	}
	if l.key != "" {
		key, err := os.ReadFile(l.key)
		if err != nil {
			return usageError{fmt.Errorf("--ssh-key: %w", err)}
		}
		o.Key = strings.TrimSpace(string(key))
	}
	var err error
	if o.CustomData, err = cloudinit.UserData(plan.Runner(), cloudinit.UserDataOptions{}); errors.Is(err, runner.ErrPlainSecret) {
		return usageError{err}
	} else if err != nil {
		return err
	}
	cloud, err := azure.New(plan, azure.Options{})
	if err != nil {
		return err
	}
	progress, done := a.progress()
	defer done()
	o.Progress, o.ID = progress, builder.NewBakeID()
	machines, err := fleetazure.Launch(ctx, cloud, plan, *o)
	if err != nil {
		return fmt.Errorf("launching: %w", err)
	}
	if !l.noWait {
		err = fleetazure.WaitOnline(ctx, cloud, machines, l.timeout, func(m *fleet.Machine) {
			progress.Info("%s: %s %s", m.ID, m.Report.State, m.Report.Step)
		})
	}
	a.launched(machines)
	var ids []string
	for _, m := range machines {
		ids = append(ids, m.ID)
	}
	progress.Info("they keep running; `az vm delete --yes --ids %s` ends them", strings.Join(ids, " "))
	return err
}
