package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dorunner/dorunner-bake/builder"
	builderaws "github.com/dorunner/dorunner-bake/builder/aws"
	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/fleet"
	fleetaws "github.com/dorunner/dorunner-bake/fleet/aws"
	"github.com/dorunner/dorunner-bake/images"
)

// launchAWS are the flags of launch aws that stand for no key of the spec.
type launchAWS struct {
	o       fleetaws.LaunchOptions
	timeout time.Duration
	noWait  bool
}

// launchAWSCmd starts instances from an AMI.
func launchAWSCmd(a *app) *cobra.Command {
	var l launchAWS
	cmd := &cobra.Command{
		Use:   "aws",
		Short: "Start EC2 instances from an AMI",
		Long: `Start EC2 instances from an AMI, with generated user-data that tells them who they are, and follow their consoles until
their runners are online. The instances stay; how to end them is said at the end.

The token is named by reference, never written into user-data: --instance-profile must let the machine read it
(docs/aws.md has the policy).`,
		Example: `  dorunner-bake launch aws --runner-name dataops-runner-dublin --url https://app.dataops.live --token ssm:/dorunner/token --instance-profile dorunner
  dorunner-bake launch aws --image ami-0123456789abcdef0 --count 3 --size t3a.xlarge,m6a.xlarge`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := append(runnerFlags("runner-name", "runner-tag", "ssm:/dorunner/token"), []keyFlag{
		archFlag,
		{name: "os", path: "image.os", usage: "operating system that latest chooses by", value: "", words: images.BaseNames},
		{name: "disk", path: "image.disk_gb", usage: "size of the root disk in GB", value: 0},
		{name: "region", path: "aws.region", usage: "region (default: the AWS configuration's)", value: ""},
		{name: "size", path: "aws.sizes", usage: "instance type; several are tried in order", value: []string{}, words: func() []string { return images.SizeNames("aws") }},
		{name: "subnet", path: "aws.subnet", usage: "subnet (default: one of the default VPC)", value: ""},
		{name: "security-group", path: "aws.security_group", usage: "security group (default: the network's own; nothing needs to reach a runner)", value: ""},
		{name: "kms-key", path: "aws.kms_key", usage: "key that encrypts the disk (default: the account's EBS key)", value: ""},
		{name: "tag", path: "aws.tags", usage: "tags of the instances, KEY=VALUE", value: map[string]string{}},
	}...)
	addFlags(cmd, flags)
	a.specFlags(cmd.Flags())
	a.outputFlags(cmd.Flags())
	f := cmd.Flags()
	f.StringVar(&l.o.Image, "image", "latest", "the AMI, or latest: the newest that was baked of this spec's image.name")
	f.IntVar(&l.o.Count, "count", 1, "how many machines: all or none")
	f.StringVar(&l.o.InstanceProfile, "instance-profile", "", "instance profile that lets the machines read their token, `NAME|ARN` (default: the fleet's)")
	f.IntVar(&l.o.VolumeRate, "volume-rate", 0, "MiB/s at which EBS fetches the disk from the start, 100 to 300 (default: the fleet's, or lazily)")
	f.DurationVar(&l.timeout, "timeout", 20*time.Minute, "how long the machines may take to be online")
	f.BoolVar(&l.noWait, "no-wait", false, "end once the machines are started")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		over, err := overrides(cmd.Flags(), flags)
		if err != nil {
			return err
		}
		plan, err := a.plan("aws", over, true)
		if err != nil {
			return err
		}
		return l.run(cmd.Context(), a, plan)
	}
	return cmd
}

func (l *launchAWS) run(ctx context.Context, a *app, plan *images.Plan) error {
	o := &l.o
	if o.Count < 1 || o.Count > 100 {
		return usageError{fmt.Errorf("--count %d: launch 1 to 100 machines", o.Count)}
	}
	o.VolumeRate = cmp.Or(o.VolumeRate, plan.Spec.Fleet.VolumeRate)
	if o.VolumeRate != 0 && (o.VolumeRate < 100 || o.VolumeRate > 300) {
		return usageError{fmt.Errorf("--volume-rate %d: EBS takes 100 to 300 MiB/s", o.VolumeRate)}
	}
	var err error
	if o.UserData, err = cloudinit.UserData(plan.Runner(), cloudinit.UserDataOptions{}); errors.Is(err, runner.ErrPlainSecret) {
		return usageError{err}
	} else if err != nil {
		return err
	}
	if o.Config, err = builderaws.LoadConfig(ctx, plan.Spec.AWS.Region); err != nil {
		return err
	}
	if o.Family, err = builderaws.Family(plan); err != nil {
		return err
	}
	s := plan.Spec.AWS
	o.Arch, o.Sizes, o.Subnet, o.SecurityGroup, o.KMSKey, o.Tags = plan.Spec.Image.Arch, s.Sizes, s.Subnet, s.SecurityGroup, s.KMSKey, s.Tags
	o.DiskGB, o.Name, o.Token = plan.Spec.Image.DiskGB, plan.Spec.Runner.Name, builder.NewBakeID()
	o.InstanceProfile = cmp.Or(o.InstanceProfile, plan.Spec.Fleet.InstanceProfile)
	progress, done := a.progress()
	defer done()
	o.Info = progress.Info
	machines, err := fleetaws.Launch(ctx, *o)
	if err != nil {
		return fmt.Errorf("launching: %w", err)
	}
	if !l.noWait {
		err = fleetaws.WaitOnline(ctx, o.Config, machines, l.timeout, func(m *fleet.Machine) {
			progress.Info("%s: %s %s", m.ID, m.Report.State, m.Report.Step)
		})
	}
	a.launched(machines)
	var ids []string
	for _, m := range machines {
		ids = append(ids, m.ID)
	}
	progress.Info("they keep running; `aws ec2 terminate-instances --region %s --instance-ids %s` ends them", o.Config.Region, strings.Join(ids, " "))
	return err
}

// launchedEvent is a machine's line of --json.
type launchedEvent struct {
	Event   string        `json:"event"` // machine
	Machine string        `json:"machine"`
	Zone    string        `json:"zone"`
	Address string        `json:"address"`
	Seconds float64       `json:"seconds"` // from the launch to the report
	Report  runner.Report `json:"report"`
}

// launched prints a row for each machine of a cloud.
func (a *app) launched(all []*fleet.Machine) {
	if a.json {
		for _, m := range all {
			a.event(launchedEvent{"machine", m.ID, m.Zone, m.Address, m.Took.Seconds(), m.Report})
		}
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { _, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") }
	row("MACHINE", "ZONE", "ADDRESS", "RUNNER", "STATE", "ONLINE AFTER")
	for _, m := range all {
		took := "-"
		if m.Report.State == runner.Online {
			took = fmt.Sprintf("%.0f s", m.Took.Seconds())
		}
		row(m.ID, m.Zone, m.Address, m.Report.Runner, cmp.Or(m.Report.State, "started"), took)
	}
	_ = w.Flush() // as any other line on standard output
}
