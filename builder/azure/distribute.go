package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/builder"
)

// Distribute promotes a version in its own region, replicates it, and makes the image lasting. Until the last region
// has it, a failure takes everything back.
func (c *Cloud) Distribute(ctx context.Context, env *builder.Env, a builder.Artifact) (builder.Artifact, error) {
	if c.gallery() {
		version := a.Images[len(a.Images)-1].ID
		if err := c.promote(ctx, env, version, c.location); err != nil {
			return a, err
		}
		if regions := c.otherRegions(); len(regions) > 0 {
			env.Progress.Info("replicating to %s", strings.Join(regions, ", "))
			if err := c.promote(ctx, env, version, append([]string{c.location}, regions...)...); err != nil {
				return a, c.regional(ctx, version, err)
			}
			for _, region := range regions {
				a.Images = append(a.Images, builder.ImageID{Region: region, ID: version, Format: "gallery-version"})
			}
		}
	}
	if err := c.keep(ctx, env, a); err != nil {
		return a, err
	}
	// The image stays whatever becomes of the old ones.
	c.prune(ctx, env)
	return a, nil
}

// otherRegions are the wanted regions but the bake's own.
func (c *Cloud) otherRegions() []string {
	var out []string
	for _, r := range c.spec.ReplicateTo {
		if r = region(r); r != c.location && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// promote lets a version be found as the latest, in these regions, and takes its expiry away.
func (c *Cloud) promote(ctx context.Context, env *builder.Env, id string, regions ...string) error {
	r, err := parseID(id)
	if err != nil {
		return err
	}
	body := armcompute.GalleryImageVersionUpdate{Tags: c.lastingTags(env), Properties: &armcompute.GalleryImageVersionProperties{
		PublishingProfile: &armcompute.GalleryImageVersionPublishingProfile{ExcludeFromLatest: new(false), ReplicaCount: new(int32(1)), TargetRegions: c.targets(regions...)}}}
	p, err := c.api.versions.BeginUpdate(ctx, r.group, r.names[0], r.names[1], r.names[2], body, nil)
	if err == nil {
		_, err = poll(ctx, p, versionTime)
	}
	if err != nil {
		return fmt.Errorf("version %s: %w", r.name(), explain(cause(ctx, err)))
	}
	return nil
}

// regional adds to a failed replication which regions have it and which do not.
func (c *Cloud) regional(ctx context.Context, id string, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	r, err := parseID(id)
	if err != nil {
		return failed
	}
	v, err := c.api.versions.Get(ctx, r.group, r.names[0], r.names[1], r.names[2],
		&armcompute.GalleryImageVersionsClientGetOptions{Expand: new(armcompute.ReplicationStatusTypesReplicationStatus)})
	if err != nil || v.Properties == nil || v.Properties.ReplicationStatus == nil {
		return failed
	}
	var parts []string
	for _, s := range v.Properties.ReplicationStatus.Summary {
		parts = append(parts, fmt.Sprintf("%s %s", value(s.Region), value(s.State)))
	}
	return fmt.Errorf("%w; by region: %s", failed, strings.Join(parts, ", "))
}

// keep makes the result lasting, and what it lies in if that was made for it: their expiry goes, and they leave the
// ledger.
func (c *Cloud) keep(ctx context.Context, env *builder.Env, a builder.Artifact) error {
	var lasting []builder.Entry
	for _, e := range env.Ledger.Entries() {
		inside := slices.ContainsFunc(a.Images, func(i builder.ImageID) bool { return i.ID == e.ID || strings.HasPrefix(i.ID, e.ID+"/") })
		if !inside {
			continue
		}
		lasting = append(lasting, e)
		if e.Kind == kindVersion { // promoting it has done so
			continue
		}
		p, err := c.api.tags.BeginUpdateAtScope(ctx, e.ID, armresources.TagsPatchResource{
			Operation: new(armresources.TagsPatchOperationReplace), Properties: &armresources.Tags{Tags: c.lastingTags(env)}}, nil)
		if err == nil {
			_, err = poll(ctx, p, quickTime)
		}
		if err != nil {
			return fmt.Errorf("tags of %s: %w", e, explain(cause(ctx, err)))
		}
	}
	var errs []error
	for _, e := range lasting {
		errs = append(errs, env.Ledger.Keep(e.Kind, e.ID))
	}
	return errors.Join(errs...)
}

// prune deletes the oldest images beyond the number to keep. That it fails is told, and no more.
func (c *Cloud) prune(ctx context.Context, env *builder.Env) {
	if c.spec.Keep <= 0 {
		return
	}
	gone, kept, err := c.Prune(ctx, c.spec.Keep, true)
	for _, i := range kept {
		env.Progress.Info("kept %s: %s uses it", i.ID, i.InUse)
	}
	for _, i := range gone {
		env.Progress.Info("removed the old image %s", i.ID)
	}
	if err != nil {
		env.Progress.Warn("removing old images: %v", err)
	}
}

// galleryVersion is what is asked about a version.
type galleryVersion struct {
	id, name  string
	state     armcompute.GalleryProvisioningState
	excluded  bool
	published time.Time
	regions   []string
	tags      map[string]string
}

// versions lists the definition's versions, newest name first.
func (c *Cloud) versions(ctx context.Context) ([]galleryVersion, error) {
	var out []galleryVersion
	for pager := c.api.versions.NewListByGalleryImagePager(c.spec.ResourceGroup, c.spec.Gallery, c.spec.Definition, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			if gone(err) {
				return nil, nil
			}
			return nil, explain(cause(ctx, err))
		}
		for _, v := range page.Value {
			g := galleryVersion{id: value(v.ID), name: value(v.Name), tags: plainTags(v.Tags)}
			if p := v.Properties; p != nil {
				g.state = value(p.ProvisioningState)
				if pub := p.PublishingProfile; pub != nil {
					g.excluded, g.published = value(pub.ExcludeFromLatest), value(pub.PublishedDate)
					for _, t := range pub.TargetRegions {
						g.regions = append(g.regions, region(value(t.Name)))
					}
				}
			}
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b galleryVersion) int { return -slices.Compare(parseVersion(a.name), parseVersion(b.name)) })
	return out, nil
}

func plainTags(tags map[string]*string) map[string]string {
	out := map[string]string{}
	for k, v := range tags {
		out[k] = value(v)
	}
	return out
}

// Find looks for a finished image of this plan wherever one is wanted. What a killed bake had begun to publish is
// brought to its end here.
func (c *Cloud) Find(ctx context.Context, env *builder.Env) (builder.Artifact, bool, error) {
	var a builder.Artifact
	wanted, err := c.managedImage(env)
	if err != nil {
		return a, false, err
	}
	if wanted != "" {
		img, err := c.api.images.Get(ctx, c.spec.ResourceGroup, wanted, nil)
		if gone(err) {
			return a, false, nil
		}
		if err != nil {
			return a, false, explain(cause(ctx, err))
		}
		tags := plainTags(img.Tags)
		if tags[TagPlan] != env.Plan.Hash || tags[TagExpires] != "" || img.Properties == nil || value(img.Properties.ProvisioningState) != "Succeeded" {
			return a, false, nil
		}
		a.Images = append(a.Images, builder.ImageID{Region: c.location, ID: value(img.ID), Format: "managed-image"})
	}
	if !c.gallery() {
		return a, true, nil
	}
	have, err := c.versions(ctx)
	if err != nil {
		return a, false, err
	}
	for _, v := range have {
		if v.tags[TagPlan] != env.Plan.Hash {
			continue
		}
		if e, ok := c.resumes(v.id); ok {
			a, found, err := c.complete(ctx, env, e, a)
			if found || err != nil {
				return a, found, err
			}
			continue
		}
		if v.state != armcompute.GalleryProvisioningStateSucceeded || v.excluded || v.tags[TagExpires] != "" ||
			!containsAll(v.regions, append(c.otherRegions(), c.location)) {
			continue
		}
		for _, region := range v.regions {
			a.Images = append(a.Images, builder.ImageID{Region: region, ID: v.id, Format: "gallery-version"})
		}
		return a, true, nil
	}
	return a, false, nil
}

// complete brings a version that was being published for a killed bake through the rest of the pipeline; false when its
// publishing has failed.
func (c *Cloud) complete(ctx context.Context, env *builder.Env, e builder.Entry, a builder.Artifact) (builder.Artifact, bool, error) {
	env.Progress.Info("%s was being published when a bake of this plan was killed: going on with it", e.ID)
	if err := c.finish(ctx, e); err != nil {
		if ctx.Err() != nil {
			return a, false, err
		}
		env.Progress.Info("its publishing has failed (%v): starting over", err)
		return a, false, c.drop(ctx, env, e)
	}
	a.Images = append(slices.Clip(a.Images), builder.ImageID{Region: c.location, ID: e.ID, Format: "gallery-version"})
	if err := c.TestBoot(ctx, env, a); err != nil {
		return a, false, err
	}
	a, err := c.Distribute(ctx, env, a)
	return a, err == nil, err
}

func containsAll(have, want []string) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// Image is one finished image of ours.
type Image struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Format  string    `json:"format"` // managed-image or gallery-version
	Regions []string  `json:"regions"`
	Plan    string    `json:"plan"`
	Made    time.Time `json:"made,omitzero"`
	State   string    `json:"state"`
	InUse   string    `json:"in_use,omitempty"` // who uses it
}

// Images lists the images of ours in the gallery's definition, or else the managed images in the resource group,
// newest first.
func (c *Cloud) Images(ctx context.Context) ([]Image, error) {
	var out []Image
	if c.gallery() {
		have, err := c.versions(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range have {
			if v.tags[TagPlan] == "" {
				continue
			}
			state := string(v.state)
			if v.excluded {
				state += ", not promoted"
			}
			out = append(out, Image{ID: v.id, Name: v.name, Format: "gallery-version", Regions: v.regions, Plan: v.tags[TagPlan], Made: v.published, State: state})
		}
		return out, nil
	}
	for pager := c.api.images.NewListByResourceGroupPager(c.spec.ResourceGroup, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, explain(cause(ctx, err))
		}
		for _, i := range page.Value {
			tags := plainTags(i.Tags)
			if tags[TagPlan] == "" {
				continue
			}
			m := Image{ID: value(i.ID), Name: value(i.Name), Format: "managed-image", Regions: []string{region(value(i.Location))}, Plan: tags[TagPlan], Made: bakedAt(tags[TagBake])}
			if i.Properties != nil {
				m.State = value(i.Properties.ProvisioningState)
			}
			if tags[TagExpires] != "" {
				m.State += ", not finished"
			}
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Image) int { return cmp.Or(b.Made.Compare(a.Made), cmp.Compare(b.Name, a.Name)) })
	return out, nil
}

// bakedAt reads when a bake began from its id; managed images do not say when they were made.
func bakedAt(bakeID string) time.Time {
	stamp := bakeID[:min(len(bakeID), len("20060102-150405"))]
	at, err := time.Parse("20060102-150405", stamp)
	if err != nil {
		return time.Time{}
	}
	return at
}

// Prune removes the images beyond the newest keep, when yes says so, and tells which. Only finished ones count; one in
// use is kept.
func (c *Cloud) Prune(ctx context.Context, keep int, yes bool) (gone, kept []Image, err error) {
	all, err := c.Images(ctx)
	if err != nil {
		return nil, nil, err
	}
	all = slices.DeleteFunc(all, func(i Image) bool { return i.State != "Succeeded" })
	keep = max(keep, 1) // the newest is never pruned
	if len(all) <= keep {
		return nil, nil, nil
	}
	users, err := c.users(ctx)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, i := range all[keep:] {
		if i.InUse = users[strings.ToLower(i.ID)]; i.InUse != "" {
			kept = append(kept, i)
			continue
		}
		if yes {
			if err := c.delete(ctx, i.ID); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", i.ID, err))
				continue
			}
		}
		gone = append(gone, i)
	}
	return gone, kept, errors.Join(errs...)
}

// users tells who uses which image, by lower-case image id: machines, scale sets and their machines.
func (c *Cloud) users(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	note := func(ref *armcompute.ImageReference, who string) {
		if ref == nil || ref.ID == nil {
			return
		}
		id := strings.ToLower(*ref.ID)
		out[id] = who
		// A reference to a definition means its latest version; the exact one stands beside it.
		if v := value(ref.ExactVersion); v != "" && !strings.Contains(id, "/versions/") {
			out[id+"/versions/"+v] = who
		}
	}
	for pager := c.api.vms.NewListAllPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("who uses the images: %w", explain(cause(ctx, err)))
		}
		for _, vm := range page.Value {
			if vm.Properties != nil && vm.Properties.StorageProfile != nil {
				note(vm.Properties.StorageProfile.ImageReference, "virtual machine "+value(vm.Name))
			}
		}
	}
	for pager := c.api.sets.NewListAllPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("who uses the images: %w", explain(cause(ctx, err)))
		}
		for _, set := range page.Value {
			if set.Properties == nil || set.Properties.VirtualMachineProfile == nil || set.Properties.VirtualMachineProfile.StorageProfile == nil {
				continue
			}
			note(set.Properties.VirtualMachineProfile.StorageProfile.ImageReference, "scale set "+value(set.Name))
			r, err := parseID(value(set.ID))
			if err != nil {
				return nil, err
			}
			for vms := c.api.setVMs.NewListPager(r.group, value(set.Name), nil); vms.More(); {
				page, err := vms.NextPage(ctx)
				if err != nil {
					return nil, fmt.Errorf("who uses the images: %w", explain(cause(ctx, err)))
				}
				for _, vm := range page.Value {
					if vm.Properties != nil && vm.Properties.StorageProfile != nil {
						note(vm.Properties.StorageProfile.ImageReference, "scale set "+value(set.Name))
					}
				}
			}
		}
	}
	return out, nil
}

// Destroy removes the images of an artifact; some may be gone already.
func (c *Cloud) Destroy(ctx context.Context, a builder.Artifact) error {
	var errs []error
	done := map[string]bool{} // a version is listed once per location
	for _, i := range a.Images {
		kind := kindImage
		if i.Format == "gallery-version" {
			kind = kindVersion
		}
		if done[i.ID] {
			continue
		}
		done[i.ID] = true
		if err := c.undo(ctx, c.entry(kind, i.ID)); err != nil {
			errs = append(errs, fmt.Errorf("removing %s: %w", i.ID, err))
		}
	}
	return errors.Join(errs...)
}

// MachineID is the id of the machine that is baked; "" while there is none.
func (c *Cloud) MachineID() string { return c.vm.id }
