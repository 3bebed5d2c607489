package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// House keeps an account's images in order, between bakes.
type House struct{ a *account }

// NewHouse opens the account of a configuration.
func NewHouse(cfg sdk.Config) *House { return &House{newAccount(cfg)} }

// Regions are the regions that the account has enabled.
func (h *House) Regions(ctx context.Context) ([]string, error) {
	home := h.a.cfg.Region
	out, err := h.a.in(home).DescribeRegions(ctx, &ec2.DescribeRegionsInput{})
	if Unsupported(err) {
		return nil, fmt.Errorf("%w; name a region with --region", explain(home, err))
	}
	if err != nil {
		return nil, explain(home, err)
	}
	var names []string
	for _, r := range out.Regions {
		names = append(names, sdk.ToString(r.RegionName))
	}
	slices.Sort(names)
	return names, nil
}

// each asks every region at the same time; what one cannot answer does not keep the others' answers back.
func each[T any](regions []string, ask func(region string) ([]T, error)) ([]T, error) {
	parts, errs := make([][]T, len(regions)), make([]error, len(regions))
	var wg sync.WaitGroup
	for i, r := range regions {
		wg.Go(func() {
			if parts[i], errs[i] = ask(r); errs[i] != nil {
				errs[i] = fmt.Errorf("region %s: %w", r, errs[i])
			}
		})
	}
	wg.Wait()
	return slices.Concat(parts...), errors.Join(errs...)
}

// Left finds what unfinished bakes have, in all regions.
func (h *House) Left(ctx context.Context, regions []string) ([]Left, error) {
	return each(regions, func(r string) ([]Left, error) { return h.a.left(ctx, r, "") })
}

// Remove gives things back, machines first. Its error names what is still there.
func (h *House) Remove(ctx context.Context, list []Left, told func(Left)) error {
	var mu sync.Mutex
	byRegion := map[string][]Left{}
	for _, l := range list {
		byRegion[l.Region] = append(byRegion[l.Region], l)
	}
	var regions []string
	for r := range byRegion {
		regions = append(regions, r)
	}
	_, err := each(regions, func(r string) ([]Left, error) {
		var errs []error
		for _, l := range byRegion[r] {
			if err := h.a.remove(ctx, l); err != nil {
				errs = append(errs, fmt.Errorf("left behind: %s: %w", l, err))
				continue
			}
			mu.Lock()
			told(l)
			mu.Unlock()
		}
		return nil, errors.Join(errs...)
	})
	return err
}

// Image is one of our finished images.
type Image struct {
	Region     string    `json:"region"`
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	Plan       string    `json:"plan"`
	Family     string    `json:"family"`
	Deprecated string    `json:"deprecated,omitempty"`
	UsedBy     string    `json:"used_by,omitempty"` // ARNs, why it is not removed

	raw types.Image
}

// Images lists our finished images by family, newest first.
func (h *House) Images(ctx context.Context, regions []string) ([]Image, error) {
	return each(regions, func(r string) ([]Image, error) {
		list, err := h.a.ours(ctx, r, Filter("tag-key", tagFamily))
		return list, explain(r, err)
	})
}

// ours lists finished images that our bakes made, by family, newest first.
func (a *account) ours(ctx context.Context, region string, with ...types.Filter) ([]Image, error) {
	list, err := a.images(ctx, region, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: with, IncludeDeprecated: sdk.Bool(true)})
	if err != nil {
		return nil, err
	}
	var out []Image
	for _, i := range list {
		if !finished(i) || TagOf(i.Tags, tagBake) == "" {
			continue
		}
		created, _ := time.Parse(time.RFC3339, sdk.ToString(i.CreationDate)) // EC2 writes no other form
		out = append(out, Image{region, *i.ImageId, sdk.ToString(i.Name), created, TagOf(i.Tags, tagPlan), TagOf(i.Tags, tagFamily), sdk.ToString(i.DeprecationTime), "", i})
	}
	slices.SortFunc(out, func(a, b Image) int {
		return cmpOr(strings.Compare(a.Family, b.Family), b.Created.Compare(a.Created), strings.Compare(b.ID, a.ID))
	})
	return out, nil
}

func cmpOr(of ...int) int {
	for _, c := range of {
		if c != 0 {
			return c
		}
	}
	return 0
}

// Newest is the newest finished image for an architecture (amd64 or arm64) in a region; family "" means any name.
func (h *House) Newest(ctx context.Context, region, arch, family string) (Image, error) {
	with := Filter("tag-key", tagFamily)
	if family != "" {
		with = Filter("tag:"+tagFamily, family)
	}
	list, err := h.a.ours(ctx, region, with)
	if err != nil {
		return Image{}, explain(region, err)
	}
	list = slices.DeleteFunc(list, func(i Image) bool { return i.raw.Architecture != architectures[arch] })
	if len(list) == 0 {
		return Image{}, fmt.Errorf("there is no image of this spec for %s in %s: bake one with `dorunner-bake aws`, or name one with --image (`dorunner-bake images aws list`)", arch, region)
	}
	return slices.MaxFunc(list, func(a, b Image) int { return a.Created.Compare(b.Created) }), nil
}

// Root is the name of an image's root device.
func (i Image) Root() string { return sdk.ToString(i.raw.RootDeviceName) }

// Image finds an image of ours by its id.
func (h *House) Image(ctx context.Context, region, id string) (Image, error) {
	i, err := h.one(ctx, region, id)
	return Image{Region: region, ID: id, Name: sdk.ToString(i.Name), raw: i}, err
}

// Console is what a machine printed so far.
func (h *House) Console(ctx context.Context, region, id string) (string, error) {
	return h.a.console(ctx, region, id)
}

// EC2 is the client for a region, with this program's deadlines and retries.
func (h *House) EC2(region string) *ec2.Client { return h.a.in(region) }

// Config is the account's configuration, with this program's retries, for services that have no client here.
func (h *House) Config() sdk.Config { return h.a.cfg }

// Prune removes, per region and family, all but the newest keep images that nothing uses. With yes false it only tells.
func (h *House) Prune(ctx context.Context, regions []string, keep int, yes bool) (gone, kept []Image, err error) {
	var mu sync.Mutex
	_, err = each(regions, func(r string) ([]Image, error) {
		list, err := h.a.ours(ctx, r, Filter("tag-key", tagFamily))
		if err != nil {
			return nil, explain(r, err)
		}
		var families []string
		for _, i := range list {
			families = append(families, i.Family)
		}
		var errs []error
		for _, f := range slices.Compact(families) {
			g, k, err := h.a.pruneFamily(ctx, r, f, keep, "", yes)
			mu.Lock()
			gone, kept = append(gone, g...), append(kept, k...)
			mu.Unlock()
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	})
	return gone, kept, err
}

// pruneFamily removes old images of a family in a region, asking first who still uses them. The newest, and the one
// just made, are never among them.
func (a *account) pruneFamily(ctx context.Context, region, family string, keep int, made string, yes bool) (gone, kept []Image, err error) {
	list, err := a.ours(ctx, region, Filter("tag:"+tagFamily, family))
	if err != nil {
		return nil, nil, explain(region, err)
	}
	var errs []error
	for _, i := range list[min(max(keep, 1), len(list)):] {
		if i.ID == made {
			continue
		}
		if i.UsedBy, err = a.usedBy(ctx, region, i.raw); err != nil {
			// Not knowing is no reason to remove.
			errs = append(errs, fmt.Errorf("who uses %s: %w", i.ID, explain(region, err)))
			continue
		}
		if i.UsedBy != "" {
			kept = append(kept, i)
			continue
		}
		if yes {
			if err := a.deregister(ctx, region, i.ID); err != nil && !notFound(err) {
				errs = append(errs, fmt.Errorf("removing %s: %w", i.ID, explain(region, err)))
				continue
			}
		}
		gone = append(gone, i)
	}
	return gone, kept, errors.Join(errs...)
}

// usedBy names what refers to an image: instances, launch templates, parameters; or that it is protected.
func (a *account) usedBy(ctx context.Context, region string, i types.Image) (string, error) {
	if p := sdk.ToString(i.DeregistrationProtection); p != "" && p != "disabled" {
		return "it is protected from deregistration", nil
	}
	var users []string
	p := ec2.NewDescribeImageReferencesPaginator(a.in(region), &ec2.DescribeImageReferencesInput{ImageIds: []string{*i.ImageId}, IncludeAllResourceTypes: sdk.Bool(true)})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, r := range page.ImageReferences {
			users = append(users, sdk.ToString(r.Arn))
		}
	}
	if len(users) == 0 {
		return "", nil
	}
	return "used by " + strings.Join(users, ", "), nil
}

// Share lets accounts or organizations use an image of ours, and its snapshots.
func (h *House) Share(ctx context.Context, region, id string, with []string) error {
	i, err := h.one(ctx, region, id)
	if err != nil {
		return err
	}
	return h.a.share(ctx, region, i, with)
}

// Deprecate hides an image from those who look for new ones, from a time on; running machines stay.
func (h *House) Deprecate(ctx context.Context, region, id string, at time.Time) error {
	if _, err := h.one(ctx, region, id); err != nil {
		return err
	}
	return h.a.deprecate(ctx, region, id, at)
}

// one finds an image of ours.
func (h *House) one(ctx context.Context, region, id string) (types.Image, error) {
	list, err := h.a.images(ctx, region, &ec2.DescribeImagesInput{ImageIds: []string{id}, IncludeDeprecated: sdk.Bool(true)})
	switch {
	case notFound(err) || err == nil && len(list) == 0:
		return types.Image{}, fmt.Errorf("there is no image %s in %s: `dorunner-bake images aws list` shows them with their regions", id, region)
	case err != nil:
		return types.Image{}, explain(region, err)
	case TagOf(list[0].Tags, tagBake) == "":
		return types.Image{}, fmt.Errorf("image %s was not baked by this program (it has no tag %s): it is left alone", id, tagBake)
	}
	return list[0], nil
}

// share lets accounts or organizations use an image. Accounts also need its snapshots to copy it.
func (a *account) share(ctx context.Context, region string, i types.Image, with []string) error {
	if len(with) == 0 {
		return nil
	}
	var launch []types.LaunchPermission
	var volumes []types.CreateVolumePermission
	for _, w := range with {
		switch {
		case strings.Contains(w, ":ou/"):
			launch = append(launch, types.LaunchPermission{OrganizationalUnitArn: sdk.String(w)})
		case strings.HasPrefix(w, "arn:"):
			launch = append(launch, types.LaunchPermission{OrganizationArn: sdk.String(w)})
		default:
			launch = append(launch, types.LaunchPermission{UserId: sdk.String(w)})
			volumes = append(volumes, types.CreateVolumePermission{UserId: sdk.String(w)})
		}
	}
	client := a.in(region)
	_, err := client.ModifyImageAttribute(ctx, &ec2.ModifyImageAttributeInput{ImageId: i.ImageId, LaunchPermission: &types.LaunchPermissionModifications{Add: launch}})
	if err != nil {
		return explain(region, err)
	}
	for _, s := range snapshotsOf(i) {
		if len(volumes) == 0 {
			break
		}
		_, err := client.ModifySnapshotAttribute(ctx, &ec2.ModifySnapshotAttributeInput{SnapshotId: &s, Attribute: types.SnapshotAttributeNameCreateVolumePermission,
			CreateVolumePermission: &types.CreateVolumePermissionModifications{Add: volumes}})
		if err != nil {
			return explain(region, err)
		}
	}
	return nil
}

func (a *account) deprecate(ctx context.Context, region, id string, at time.Time) error {
	_, err := a.in(region).EnableImageDeprecation(ctx, &ec2.EnableImageDeprecationInput{ImageId: &id, DeprecateAt: sdk.Time(at.UTC().Truncate(time.Minute))})
	if err != nil {
		return fmt.Errorf("deprecating %s: %w", id, explain(region, err))
	}
	return nil
}

func snapshotsOf(i types.Image) []string {
	var out []string
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil && m.Ebs.SnapshotId != nil {
			out = append(out, *m.Ebs.SnapshotId)
		}
	}
	return out
}

// console is what a machine printed so far.
func (a *account) console(ctx context.Context, region, id string) (string, error) {
	out, err := a.in(region).GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: sdk.Bool(true)})
	if IsCode(err, "UnsupportedOperation") { // machine types before Nitro only have what was posted last
		out, err = a.in(region).GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: &id})
	}
	if err != nil {
		return "", explain(region, err)
	}
	return decodeConsole(sdk.ToString(out.Output))
}
