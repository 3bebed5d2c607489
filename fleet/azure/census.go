package azure

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/fleet"
)

// Census lists the group's machines.
func (c *Group) Census(ctx context.Context) (*fleet.Census, error) {
	have, err := c.find(ctx)
	if err != nil || have == nil {
		return &fleet.Census{}, err
	}
	return c.census(ctx, have)
}

func (c *Group) census(ctx context.Context, have *armcompute.VirtualMachineScaleSet) (*fleet.Census, error) {
	out := &fleet.Census{Exists: true, Desired: int(value(have.SKU.Capacity))}
	out.Min, out.Max = limits(have)
	since, _ := time.Parse(time.RFC3339, value(have.Tags[tagModel])) // without one, nothing is outdated
	for pager := c.a.VMs.NewListPager(c.group, &armcompute.VirtualMachinesClientListOptions{
		Filter: new("'virtualMachineScaleSet/id' eq '" + c.setID() + "'"), Expand: new(armcompute.ExpandTypeForListVMsInstanceView)}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, azure.Explain(ctx, err)
		}
		for _, vm := range page.Value {
			out.Members = append(out.Members, member(vm, since))
		}
	}
	var err error
	if out.Roll, err = c.latestRoll(ctx); err != nil {
		return nil, err
	}
	// Rolls of before the newest change do not matter any more.
	if out.Roll != nil && out.Roll.Started.Before(since.Add(-time.Minute)) && out.Roll.Done {
		out.Roll = nil
	}
	return out, nil
}

// member is a machine as Azure shows it. Its health extension speaks for its runner.
func member(vm *armcompute.VirtualMachine, since time.Time) *fleet.Member {
	m := &fleet.Member{ID: value(vm.Name), Phase: fleet.Coming}
	if len(vm.Zones) > 0 {
		m.Zone = value(vm.Zones[0])
	}
	p := vm.Properties
	if p == nil {
		return m
	}
	m.Self, m.Lifecycle, m.Launched = value(p.VMID), value(p.ProvisioningState), value(p.TimeCreated)
	m.Outdated = m.Launched.Before(since)
	m.Spot = value(p.Priority) == armcompute.VirtualMachinePriorityTypesSpot
	if p.HardwareProfile != nil {
		m.Size = string(value(p.HardwareProfile.VMSize))
	}
	if p.StorageProfile != nil && p.StorageProfile.ImageReference != nil {
		m.Image = value(p.StorageProfile.ImageReference.ID)
	}
	if v := p.InstanceView; v != nil {
		for _, s := range v.Statuses {
			if state, ok := strings.CutPrefix(value(s.Code), "PowerState/"); ok {
				m.State = state
			}
		}
		if v.VMHealth != nil && v.VMHealth.Status != nil {
			switch strings.ToLower(strings.TrimPrefix(value(v.VMHealth.Status.Code), "HealthState/")) {
			case "healthy":
				m.Phase = fleet.Serving
			case "unhealthy":
				m.Unhealthy = true
			}
		}
	}
	if m.Lifecycle == "Deleting" {
		m.Phase = fleet.Leaving
	}
	return m
}

// latestRoll is the newest rolling upgrade; nil when there was none.
func (c *Group) latestRoll(ctx context.Context) (*fleet.Rolling, error) {
	r, err := c.a.Rolls.GetLatest(ctx, c.group, c.name, nil)
	if azure.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, azure.Explain(ctx, err)
	}
	p := r.Properties
	if p == nil || p.RunningStatus == nil {
		return nil, nil
	}
	out := &fleet.Rolling{ID: value(r.Name), Status: string(value(p.RunningStatus.Code)), Started: value(p.RunningStatus.StartTime)}
	if q := p.Progress; q != nil {
		done := int(value(q.SuccessfulInstanceCount))
		out.Left = int(value(q.PendingInstanceCount))
		if total := done + out.Left; total > 0 {
			out.Percent = 100 * done / total
		}
	}
	if p.Error != nil {
		out.Reason = fmt.Sprintf("%s (%s)", value(p.Error.Message), value(p.Error.Code))
	}
	switch value(p.RunningStatus.Code) {
	case armcompute.RollingUpgradeStatusCodeCompleted:
		out.Done, out.Percent = true, 100
	case armcompute.RollingUpgradeStatusCodeFaulted, armcompute.RollingUpgradeStatusCodeCancelled:
		out.Done, out.Failed = true, true
	}
	return out, nil
}

// StopRoll ends the roll under way; with rollback, new machines are again made from the image before, and those that
// were made from the newer one are replaced in their turn.
func (c *Group) StopRoll(ctx context.Context, rollback bool) error {
	p, err := c.a.Rolls.BeginCancel(ctx, c.group, c.name, nil)
	if _, err = azure.Wait(ctx, p, err, 0); err != nil && azure.Code(err) != "OperationNotAllowed" { // none is under way
		return err
	}
	if !rollback {
		return nil
	}
	return c.goBack(ctx)
}

// Mend goes back to the image before a roll that has failed: Azure would make new machines from the broken one.
func (c *Group) Mend(ctx context.Context) error {
	roll, err := c.latestRoll(ctx)
	if err != nil || roll == nil || roll.Status != string(armcompute.RollingUpgradeStatusCodeFaulted) {
		return err
	}
	have, err := c.find(ctx)
	if err != nil || have == nil || value(have.Tags[tagBefore]) == "" {
		return err // it was mended already
	}
	return c.goBack(ctx)
}

// goBack has new machines be made from the image before the last roll, and replaces what was made from the newer one.
// Azure gives custom data out to nobody: what was before cannot be had again.
func (c *Group) goBack(ctx context.Context) error {
	have, err := c.find(ctx)
	if err != nil || have == nil {
		return err
	}
	before, with := value(have.Tags[tagBefore]), value(have.Tags[tagWith])
	if before == "" {
		return errors.New("the image before is not known: name it in fleet.image and apply")
	}
	census, err := c.census(ctx, have)
	if err != nil {
		return err
	}
	// When the machines that serve are all old ones, they are as they should be again.
	policy, model := still(), oldest(census)
	for _, m := range census.Members {
		if !m.Outdated && m.Phase == fleet.Serving {
			policy, model = c.rolling(), c.now()
		}
	}
	up := armcompute.VirtualMachineScaleSetUpdate{Tags: c.keep(have.Tags, map[string]string{tagBefore: "", tagWith: "", tagModel: model.UTC().Format(time.RFC3339)}),
		Properties: &armcompute.VirtualMachineScaleSetUpdateProperties{UpgradePolicy: policy, VirtualMachineProfile: &armcompute.VirtualMachineScaleSetUpdateVMProfile{
			StorageProfile: &armcompute.VirtualMachineScaleSetUpdateStorageProfile{ImageReference: &armcompute.ImageReference{ID: &before}}}}}
	if with == value(have.Tags[tagUserData]) {
		return c.update(ctx, up)
	}
	up.Tags[tagUserData] = new("of a roll that failed") // it differs from whatever the spec says next
	return errors.Join(c.update(ctx, up), errors.New("new machines are made from the image before, and with the user-data of the roll, since Azure gives the old one out to nobody: apply the spec that worked"))
}

// oldest is when the first machine was made.
func oldest(census *fleet.Census) time.Time {
	out := time.Now()
	for _, m := range census.Members {
		if !m.Launched.IsZero() && m.Launched.Before(out) {
			out = m.Launched
		}
	}
	return out
}
