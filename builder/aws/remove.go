package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder"
)

// settling is how long a new resource may stay unknown to parts of EC2: "not found" within it proves nothing.
const settling = 30 * time.Second

// outage is how long giving back goes on trying when nothing answers.
const outage = 3 * time.Minute

// fresh runs an undo of something that may be so new that it cannot be found yet.
func (a *account) fresh(ctx context.Context, e builder.Entry, undo func(context.Context) error) error {
	return insist(ctx, func(ctx context.Context) (bool, error) {
		err := undo(ctx)
		if notFound(err) {
			return time.Since(e.Time) > settling, nil
		}
		return err == nil, explain(e.Region, err)
	})
}

// insist is until for giving back: errors that are no answers do not end it before outage.
func insist(ctx context.Context, try func(context.Context) (bool, error)) error {
	began := time.Now()
	return until(ctx, "giving back", 15*time.Minute, func(ctx context.Context) (bool, error) {
		done, err := try(ctx)
		if isTransport(err) && time.Since(began) < outage {
			return false, nil
		}
		return done, err
	})
}

func (a *account) terminate(ctx context.Context, region, id string) error {
	_, err := a.in(region).TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
	return err
}

// deleteGroup removes a security group as soon as nothing uses it any more.
func (a *account) deleteGroup(ctx context.Context, region, id string) error {
	return until(ctx, "removing security group "+id+", which a machine still uses,", 8*time.Minute, func(ctx context.Context) (bool, error) {
		_, err := a.in(region).DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: &id})
		if IsCode(err, "DependencyViolation") {
			return false, nil
		}
		return err == nil, err
	})
}

// removeImage deregisters an image and deletes its snapshots. An unfinished image does not tell them: then they are
// found by their tag when the bake is swept.
func (a *account) removeImage(ctx context.Context, region, id string) error {
	err := a.deregister(ctx, region, id)
	if !IsCode(err, "OperationNotPermitted") { // it is not protected
		return err
	}
	if _, err := a.in(region).DisableImageDeregistrationProtection(ctx, &ec2.DisableImageDeregistrationProtectionInput{ImageId: &id}); err != nil {
		return err
	}
	return a.deregister(ctx, region, id)
}

// deregister is removeImage of an image that may be protected, and then stays.
func (a *account) deregister(ctx context.Context, region, id string) error {
	list, err := a.images(ctx, region, &ec2.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil {
		return err
	}
	out, err := a.in(region).DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: &id, DeleteAssociatedSnapshots: sdk.Bool(true)})
	if err != nil {
		return err
	}
	var errs []error
	told := map[string]bool{}
	for _, r := range out.DeleteSnapshotResults {
		told[*r.SnapshotId] = true
		if r.ReturnCode != types.SnapshotReturnCodesSuccess && r.ReturnCode != types.SnapshotReturnCodesWarnSkipped {
			if err := a.deleteSnapshot(ctx, region, *r.SnapshotId); err != nil && !notFound(err) {
				errs = append(errs, fmt.Errorf("snapshot %s (%s) is left: %w", *r.SnapshotId, region, explain(region, err)))
			}
		}
	}
	for _, i := range list { // a server may not know that they are to go too
		for _, s := range snapshotsOf(i) {
			if told[s] {
				continue
			}
			if err := a.deleteSnapshot(ctx, region, s); err != nil && !notFound(err) && !IsCode(err, "InvalidSnapshot.InUse") {
				errs = append(errs, fmt.Errorf("snapshot %s (%s) is left: %w", s, region, explain(region, err)))
			}
		}
	}
	return errors.Join(errs...)
}

func (a *account) deleteSnapshot(ctx context.Context, region, id string) error {
	_, err := a.in(region).DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id})
	return err
}

// images lists images, whole.
func (a *account) images(ctx context.Context, region string, in *ec2.DescribeImagesInput) ([]types.Image, error) {
	var out []types.Image
	p := ec2.NewDescribeImagesPaginator(a.in(region), in)
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Images...)
	}
	return out, nil
}

// groupMade finds the security group that a repeated call of this bake made, as soon as it is known.
func (a *account) groupMade(ctx context.Context, region, name string) (id string, err error) {
	err = until(ctx, "finding the security group", settling, func(ctx context.Context) (bool, error) {
		id, err = a.groupNamed(ctx, region, name)
		return id != "", err
	})
	return id, err
}

// groupNamed finds a security group by its name, "" when there is none.
func (a *account) groupNamed(ctx context.Context, region, name string, vpc ...string) (string, error) {
	in := &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{Filter("group-name", name)}}
	if len(vpc) > 0 {
		in.Filters = append(in.Filters, Filter("vpc-id", vpc...))
	}
	p := ec2.NewDescribeSecurityGroupsPaginator(a.in(region), in)
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return "", err
		}
		if len(page.SecurityGroups) > 0 {
			return *page.SecurityGroups[0].GroupId, nil
		}
	}
	return "", nil
}

// imageOf finds the image that a repeated call of this bake made; unfound is the error otherwise.
func (a *account) imageOf(ctx context.Context, region, name, bakeID string, unfound error) (id string, err error) {
	err = until(ctx, "finding the image", settling, func(ctx context.Context) (bool, error) {
		list, err := a.images(ctx, region, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: []types.Filter{Filter("name", name)}})
		if err != nil || len(list) == 0 {
			return false, err
		}
		if TagOf(list[0].Tags, tagBake) != bakeID {
			return false, unfound
		}
		id = *list[0].ImageId
		return true, nil
	})
	return id, err
}

// Left is something that a bake made and that is not part of a finished image.
type Left struct {
	Kind    string    `json:"kind"` // instance, image, snapshot, security group
	ID      string    `json:"id"`
	Region  string    `json:"region"`
	BakeID  string    `json:"bake_id"`
	Expires time.Time `json:"expires"` // until then the bake may be at work
	State   string    `json:"state,omitempty"`
}

func (l Left) String() string { return fmt.Sprintf("%s %s (%s)", l.Kind, l.ID, l.Region) }

// left finds by tag what unfinished bakes have in a region, machines first: the order of removal. bakeID "" means all.
func (a *account) left(ctx context.Context, region, bakeID string) ([]Left, error) {
	filters := []types.Filter{Filter("tag-key", tagExpires)}
	if bakeID != "" {
		filters = append(filters, Filter("tag:"+tagBake, bakeID))
	}
	var out []Left
	add := func(kind, id, state string, tags []types.Tag) {
		l := Left{Kind: kind, ID: id, Region: region, State: state, BakeID: TagOf(tags, tagBake)}
		l.Expires, _ = time.Parse(time.RFC3339, TagOf(tags, tagExpires)) // a spoilt tag counts as expired
		out = append(out, l)
	}
	client := a.in(region)
	instances := ec2.NewDescribeInstancesPaginator(client, &ec2.DescribeInstancesInput{
		Filters: append(slices.Clone(filters), Filter("instance-state-name", "pending", "running", "stopping", "stopped"))})
	for instances.HasMorePages() {
		page, err := instances.NextPage(ctx)
		if err != nil {
			return nil, explain(region, err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				add("instance", *i.InstanceId, string(stateOf(i)), i.Tags)
			}
		}
	}
	images, err := a.images(ctx, region, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: filters, IncludeDeprecated: sdk.Bool(true)})
	if err != nil {
		return nil, explain(region, err)
	}
	for _, i := range images {
		add("image", *i.ImageId, string(i.State), i.Tags)
	}
	snapshots := ec2.NewDescribeSnapshotsPaginator(client, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: filters})
	for snapshots.HasMorePages() {
		page, err := snapshots.NextPage(ctx)
		if err != nil {
			return nil, explain(region, err)
		}
		for _, s := range page.Snapshots {
			add("snapshot", *s.SnapshotId, string(s.State), s.Tags)
		}
	}
	groups := ec2.NewDescribeSecurityGroupsPaginator(client, &ec2.DescribeSecurityGroupsInput{Filters: filters})
	for groups.HasMorePages() {
		page, err := groups.NextPage(ctx)
		if err != nil {
			return nil, explain(region, err)
		}
		for _, g := range page.SecurityGroups {
			add("security group", *g.GroupId, "", g.Tags)
		}
	}
	return out, nil
}

// remove gives one thing back; what is gone already is success.
func (a *account) remove(ctx context.Context, l Left) error {
	var err error
	switch l.Kind {
	case "instance":
		err = a.terminate(ctx, l.Region, l.ID)
	case "image":
		err = a.removeImage(ctx, l.Region, l.ID)
	case "snapshot":
		err = a.deleteSnapshot(ctx, l.Region, l.ID)
	default:
		err = a.deleteGroup(ctx, l.Region, l.ID)
	}
	if notFound(err) {
		return nil
	}
	return explain(l.Region, err)
}

// sweep removes whatever a bake has left in a region. When a call's outcome is unknown, it looks again for as long as
// something new may stay hidden.
func (a *account) sweep(ctx context.Context, region, bakeID string) (removed []string, err error) {
	a.mu.Lock()
	unsure, spared := a.unsure[region], maps.Clone(a.spared)
	a.mu.Unlock()
	began := time.Now()
	err = insist(ctx, func(ctx context.Context) (bool, error) {
		list, err := a.left(ctx, region, bakeID)
		if err != nil {
			return false, err
		}
		list = slices.DeleteFunc(list, func(l Left) bool { return spared[l.ID] })
		var errs []error
		for _, l := range list {
			if err := a.remove(ctx, l); err != nil {
				errs = append(errs, fmt.Errorf("left behind: %s: %w", l, err))
			}
			removed = append(removed, l.ID)
		}
		if len(errs) > 0 {
			return false, errors.Join(errs...)
		}
		return len(list) == 0 && (!unsure || time.Since(began) > settling), nil
	})
	return removed, err
}

// Destroy removes the images of an artifact with their snapshots; some may be gone already.
func (c *Cloud) Destroy(ctx context.Context, a builder.Artifact) error {
	var errs []error
	for _, i := range a.Images {
		if err := c.acct.removeImage(ctx, i.Region, i.ID); err != nil {
			errs = append(errs, fmt.Errorf("removing %s in %s: %w", i.ID, i.Region, explain(i.Region, err)))
		}
	}
	return errors.Join(errs...)
}

// MachineID is the id of the machine that is baked; "" while there is none.
func (c *Cloud) MachineID() string { return sdk.ToString(c.instance.InstanceId) }
