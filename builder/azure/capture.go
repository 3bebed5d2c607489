package azure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/templates"
)

// powerOffTime is how long a sealed machine may take to switch itself off.
const powerOffTime = 5 * time.Minute

// Stop has the sealed machine drop the user of the bake and switch itself off, detached from the connection that ends
// with that user, waits until it is off, and gives its hardware back. One that stays on is shut down by Azure.
func (c *Cloud) Stop(ctx context.Context, env *builder.Env) error {
	script, err := templates.Read("azure/leave.sh")
	if err != nil {
		return err
	}
	err = c.guest.Run(ctx, builder.Command{Args: []string{"systemd-run", "--no-block", "--collect", "--on-active=1s", "--setenv=BAKE_USER=" + bakeUser,
		"/bin/sh", "-c", string(script)}})
	if err != nil {
		return fmt.Errorf("switching the machine off: %w", err)
	}
	if closer, ok := c.guest.(interface{ Close() error }); ok {
		_ = closer.Close() // the machine is going away
	}
	began := time.Now()
	for {
		state, err := c.power(ctx)
		if err != nil {
			return err
		}
		if state == "stopped" || state == "deallocated" {
			break
		}
		if time.Since(began) > powerOffTime {
			env.Progress.Warn("the machine has not switched itself off within %v: Azure shuts it down", powerOffTime)
			break
		}
		if err := sleep(ctx, pause(time.Since(began))); err != nil {
			return err
		}
	}
	p, err := c.api.vms.BeginDeallocate(ctx, c.spec.ResourceGroup, c.vm.name, nil)
	if err != nil {
		return fmt.Errorf("deallocate %s: %w", c.vm.name, explain(cause(ctx, err)))
	}
	if _, err := poll(ctx, p, machineTime); err != nil {
		return fmt.Errorf("deallocate %s: %w", c.vm.name, err)
	}
	return nil
}

// power is the machine's power state, "running" for example.
func (c *Cloud) power(ctx context.Context) (string, error) {
	v, err := c.api.vms.InstanceView(ctx, c.spec.ResourceGroup, c.vm.name, nil)
	if err != nil {
		return "", fmt.Errorf("state of %s: %w", c.vm.name, explain(cause(ctx, err)))
	}
	for _, s := range v.Statuses {
		if state, ok := strings.CutPrefix(value(s.Code), "PowerState/"); ok {
			return state, nil
		}
	}
	return "", nil
}

// Capture makes the managed image, the gallery version, or both. A version is hidden from those who ask for the
// latest until Distribute promotes it.
func (c *Cloud) Capture(ctx context.Context, env *builder.Env) (builder.Artifact, error) {
	if c.fromDisk() {
		if err := c.ensureGroup(ctx, env); err != nil {
			return builder.Artifact{}, err
		}
		if err := c.upload(ctx, env); err != nil {
			return builder.Artifact{}, err
		}
	} else if _, err := c.api.vms.Generalize(ctx, c.spec.ResourceGroup, c.vm.name, nil); err != nil {
		return builder.Artifact{}, fmt.Errorf("generalize %s: %w", c.vm.name, explain(cause(ctx, err)))
	}
	var a builder.Artifact
	wanted, err := c.managedImage(env)
	if err != nil {
		return a, err
	}
	image := ""
	// A standard machine becomes a version through a managed image, a Trusted Launch one directly.
	if !c.spec.TrustedLaunch {
		n := wanted
		if n == "" {
			n = name(env, "image")
		}
		if image, err = c.captureImage(ctx, env, n); err != nil {
			return a, err
		}
		if wanted != "" {
			a.Images = append(a.Images, builder.ImageID{Region: c.location, ID: image, Format: "managed-image"})
		}
	}
	if !c.gallery() {
		return a, nil
	}
	todo := []func(context.Context) error{func(ctx context.Context) error {
		id, err := c.publish(ctx, env, image)
		a.Images = append(a.Images, builder.ImageID{Region: c.location, ID: id, Format: "gallery-version"})
		return err
	}}
	if image != "" {
		todo = append(todo, func(ctx context.Context) error { c.letGo(ctx, env); return nil })
	}
	return a, together(ctx, todo...)
}

// letGo gives the machine and its network back while something else takes long. What it does not manage, unwinding the
// ledger does.
func (c *Cloud) letGo(ctx context.Context, env *builder.Env) {
	for _, e := range slices.Backward(env.Ledger.Entries()) {
		switch e.Kind {
		case kindVNet:
			if c.spec.TestBoot { // that machine needs one too
				continue
			}
		case kindVM, kindNIC, kindIP, kindNSG:
		default:
			continue
		}
		if c.undo(ctx, e) != nil || env.Ledger.Done(e.Kind, e.ID) != nil {
			return
		}
	}
}

func (c *Cloud) captureImage(ctx context.Context, env *builder.Env, n string) (string, error) {
	body := armcompute.Image{Location: &c.location, Tags: c.tags(env), Properties: &armcompute.ImageProperties{HyperVGeneration: new(armcompute.HyperVGenerationTypesV2)}}
	if c.disk != "" {
		body.Properties.StorageProfile = &armcompute.ImageStorageProfile{OSDisk: &armcompute.ImageOSDisk{OSType: new(armcompute.OperatingSystemTypesLinux),
			OSState: new(armcompute.OperatingSystemStateTypesGeneralized), ManagedDisk: &armcompute.SubResource{ID: &c.disk}}}
	} else {
		body.Properties.HyperVGeneration = &c.base.generation
		body.Properties.SourceVirtualMachine = &armcompute.SubResource{ID: &c.vm.id}
	}
	id := c.id("Microsoft.Compute", "images", n)
	_, err := create(ctx, c, env, c.entry(kindImage, id), imageTime, func() (*runtime.Poller[armcompute.ImagesClientCreateOrUpdateResponse], error) {
		return c.api.images.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, n, body, nil)
	})
	return id, err
}

// publish makes a gallery version, and gallery and definition where they are absent.
func (c *Cloud) publish(ctx context.Context, env *builder.Env, image string) (string, error) {
	if err := c.ensureGallery(ctx, env); err != nil {
		return "", err
	}
	if e, ok := c.resumes(c.versionID(c.version)); ok { // this bake was forced
		if err := c.drop(ctx, env, e); err != nil {
			return "", err
		}
	}
	if err := c.deleteFailed(ctx, env); err != nil {
		return "", err
	}
	source := &armcompute.GalleryArtifactVersionFullSource{ID: &image}
	if image == "" {
		source = &armcompute.GalleryArtifactVersionFullSource{VirtualMachineID: &c.vm.id}
	}
	body := armcompute.GalleryImageVersion{Location: &c.location, Tags: c.tags(env), Properties: &armcompute.GalleryImageVersionProperties{
		StorageProfile: &armcompute.GalleryImageVersionStorageProfile{Source: source},
		PublishingProfile: &armcompute.GalleryImageVersionPublishingProfile{
			ExcludeFromLatest: new(true), ReplicaCount: new(int32(1)), TargetRegions: c.targets(c.location)},
		SafetyProfile: &armcompute.GalleryImageVersionSafetyProfile{AllowDeletionOfReplicatedLocations: new(true)}}}
	id := c.versionID(c.version)
	e := c.entry(kindVersion, id)
	e.Attrs = map[string]string{attrPlan: c.planHash}
	env.Progress.Info("publishing version %s of %s/%s", c.version, c.spec.Gallery, c.spec.Definition)
	_, err := create(ctx, c, env, e, versionTime, func() (*runtime.Poller[armcompute.GalleryImageVersionsClientCreateOrUpdateResponse], error) {
		return c.api.versions.BeginCreateOrUpdate(ctx, c.spec.ResourceGroup, c.spec.Gallery, c.spec.Definition, c.version, body, nil)
	})
	return id, err
}

func (c *Cloud) targets(regions ...string) []*armcompute.TargetRegion {
	var out []*armcompute.TargetRegion
	for _, r := range regions {
		out = append(out, &armcompute.TargetRegion{Name: new(region(r)), RegionalReplicaCount: new(int32(1))})
	}
	return out
}

// ensureGallery makes gallery and definition where they are absent. A finished version keeps them.
func (c *Cloud) ensureGallery(ctx context.Context, env *builder.Env) error {
	group, g, d := c.spec.ResourceGroup, c.spec.Gallery, c.spec.Definition
	if c.galleryNew {
		_, err := create(ctx, c, env, c.entry(kindGallery, c.id("Microsoft.Compute", "galleries", g)), quickTime,
			func() (*runtime.Poller[armcompute.GalleriesClientCreateOrUpdateResponse], error) {
				return c.api.galleries.BeginCreateOrUpdate(ctx, group, g, armcompute.Gallery{Location: &c.location, Tags: c.tags(env)}, nil)
			})
		if err != nil {
			return err
		}
	}
	if !c.defNew {
		return nil
	}
	generation, security := armcompute.HyperVGenerationV2, "TrustedLaunchSupported"
	switch {
	case c.spec.TrustedLaunch:
		security = "TrustedLaunch"
	case c.base.generation == armcompute.HyperVGenerationTypesV1:
		generation, security = armcompute.HyperVGenerationV1, "Standard"
	}
	controllers := c.base.controllers
	if controllers == "" { // a disk from elsewhere
		controllers = scsi
	}
	props := &armcompute.GalleryImageProperties{
		OSType: new(armcompute.OperatingSystemTypesLinux), OSState: new(armcompute.OperatingSystemStateTypesGeneralized),
		HyperVGeneration: &generation, Architecture: new(architecture(env.Plan.Spec.Image.Arch)),
		Identifier: &armcompute.GalleryImageIdentifier{Publisher: new("dorunner"), Offer: new("dorunner-bake"), SKU: &d},
		Features: []*armcompute.GalleryImageFeature{{Name: new("SecurityType"), Value: &security}, {Name: new("DiskControllerTypes"), Value: &controllers},
			{Name: new("IsAcceleratedNetworkSupported"), Value: new("True")}}}
	if p := c.base.plan; p != nil {
		props.PurchasePlan = &armcompute.ImagePurchasePlan{Name: p.Name, Product: p.Product, Publisher: p.Publisher}
	}
	_, err := create(ctx, c, env, c.entry(kindDefinition, c.id("Microsoft.Compute", "galleries", g, "images", d)), quickTime,
		func() (*runtime.Poller[armcompute.GalleryImagesClientCreateOrUpdateResponse], error) {
			return c.api.definitions.BeginCreateOrUpdate(ctx, group, g, d, armcompute.GalleryImage{Location: &c.location, Tags: c.tags(env), Properties: props}, nil)
		})
	return err
}

// deleteFailed removes a failed version that holds the name of the one to be published.
func (c *Cloud) deleteFailed(ctx context.Context, env *builder.Env) error {
	if c.defNew {
		return nil
	}
	v, err := c.api.versions.Get(ctx, c.spec.ResourceGroup, c.spec.Gallery, c.spec.Definition, c.version, nil)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("version %s: %w", c.version, explain(cause(ctx, err)))
	}
	if value(v.Properties.ProvisioningState) != armcompute.GalleryProvisioningStateFailed {
		return errors.New("version " + c.version + " has appeared while this one was baked: name another, or leave the version to `auto`")
	}
	env.Progress.Info("deleting the failed version %s", c.version)
	return c.delete(ctx, c.versionID(c.version))
}
