package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// baseImage is the platform image that the bake begins with.
type baseImage struct {
	publisher, offer, sku, version string
	generation                     armcompute.HyperVGenerationTypes
	security, controllers          string // features of the image: TrustedLaunchSupported; "SCSI, NVMe"
	plan                           *armcompute.PurchasePlan
}

// sizeChoice is one size that may be used, and the zones in which it may be asked for.
type sizeChoice struct {
	name    string
	family  string
	cpus    int
	zones   []string
	premium bool
}

// findings collects everything that would stop the bake.
type findings struct {
	mu   sync.Mutex
	errs []error
}

func (f *findings) add(err error) {
	if err != nil {
		f.mu.Lock()
		f.errs = append(f.errs, err)
		f.mu.Unlock()
	}
}

func (f *findings) addf(format string, args ...any) { f.add(fmt.Errorf(format, args...)) }

// Preflight asks Azure everything that would stop the bake, most of it at once, and creates nothing.
func (c *Cloud) Preflight(ctx context.Context, env *builder.Env) error {
	ctx, cancel := context.WithTimeout(ctx, quickTime)
	defer cancel()
	f := &findings{}
	if err := c.adopt(env); err != nil {
		return err
	}
	// The first answer tells whether the credentials work and where the bake happens: nothing can be asked before.
	if err := c.checkGroup(ctx); err != nil {
		return err
	}
	checks := []func(context.Context, *builder.Env, *findings){
		c.checkProviders, // registered; every region exists
		c.checkNetwork,   // the subnet; who may reach the machine
		c.checkGallery,   // gallery, definition, version
		c.checkImageName, // the managed image's name is free
	}
	if c.fromDisk() {
		checks = append(checks, c.checkDisk)
	} else {
		checks = append(checks, c.checkBase)
	}
	var group sync.WaitGroup
	for _, check := range checks {
		group.Go(func() { check(ctx, env, f) })
	}
	group.Wait()
	if c.definition != nil {
		f.add(c.matchDefinition(c.definition, env.Plan))
	}
	// What the identity may do, against what the bake is now known to do.
	c.checkPermissions(ctx, f)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Refused permissions make other checks fail for the same reason: say each thing once.
	seen := map[string]bool{}
	f.errs = slices.DeleteFunc(f.errs, func(e error) bool {
		again := seen[e.Error()]
		seen[e.Error()] = true
		return again
	})
	slices.SortFunc(f.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(f.errs...)
}

// checkGroup finds the resource group, or that it has to be made, and so the location.
func (c *Cloud) checkGroup(ctx context.Context) error {
	if c.spec.ResourceGroup == "" {
		return errors.New("an image on Azure lives in a resource group: name one, --resource-group NAME")
	}
	g, err := c.api.groups.Get(ctx, c.spec.ResourceGroup, nil)
	switch {
	case gone(err):
		c.groupNew = true
		if c.spec.Location == "" {
			return fmt.Errorf("the resource group %s does not exist: name one that does, or say where to make it, --location westeurope", c.spec.ResourceGroup)
		}
	case err != nil:
		return explain(cause(ctx, err))
	default:
		c.location = region(*g.Location)
	}
	if c.spec.Location != "" {
		c.location = region(c.spec.Location)
	}
	return nil
}

func (c *Cloud) checkProviders(ctx context.Context, _ *builder.Env, f *findings) {
	var known []string
	for _, ns := range []string{"Microsoft.Compute", "Microsoft.Network"} {
		p, err := c.api.providers.Get(ctx, ns, nil)
		if err != nil {
			f.add(explain(cause(ctx, err)))
			return
		}
		if s := value(p.RegistrationState); s != "Registered" && s != "Registering" {
			f.addf("the provider %s is not registered in the subscription: run `az provider register --namespace %s` once", ns, ns)
		}
		for _, t := range p.ResourceTypes {
			if ns == "Microsoft.Compute" && value(t.ResourceType) == "galleries/images/versions" {
				for _, l := range t.Locations {
					known = append(known, region(*l))
				}
			}
		}
	}
	for _, l := range append([]string{c.location}, c.spec.ReplicateTo...) {
		if len(known) > 0 && !slices.Contains(known, region(l)) {
			hint := "`az account list-locations -o table` lists them"
			if near := nearest(region(l), known); near != "" {
				hint = fmt.Sprintf("did you mean %s?", near)
			}
			f.addf("there is no location %s: %s", l, hint)
		}
	}
}

// nearest is the known word that shares the longest beginning with s, if that is most of it.
func nearest(s string, known []string) string {
	best, length := "", 3
	for _, k := range known {
		n := 0
		for n < len(s) && n < len(k) && s[n] == k[n] {
			n++
		}
		if n > length {
			best, length = k, n
		}
	}
	return best
}

func (c *Cloud) checkNetwork(ctx context.Context, _ *builder.Env, f *findings) {
	if c.spec.PrivateIP && c.spec.Subnet == "" && !c.fromDisk() {
		f.addf("private_ip needs a subnet that this machine reaches: name it, --subnet ID")
	}
	if c.spec.Subnet != "" {
		r, err := parseID(c.spec.Subnet)
		if err != nil || !strings.EqualFold(r.kind, "Microsoft.Network/virtualNetworks/subnets") {
			f.addf("azure.subnet: %q is not the id of a subnet: `az network vnet subnet show --query id` prints it", c.spec.Subnet)
			return
		}
		if _, err := c.api.subnets.Get(ctx, r.group, r.names[0], r.names[1], nil); gone(err) {
			f.addf("there is no subnet %s in virtual network %s of resource group %s: `az network vnet subnet list` lists them", r.names[1], r.names[0], r.group)
		} else if err != nil {
			f.add(explain(cause(ctx, err)))
		}
		c.subnetID = c.spec.Subnet
	}
	if c.fromDisk() || c.spec.PrivateIP {
		return
	}
	c.sourceCIDR = c.spec.AllowCIDR
	if c.sourceCIDR == "" {
		ip, err := c.CallerIP(ctx)
		if err != nil {
			f.add(err)
			return
		}
		c.sourceCIDR = ip + "/32"
	} else if p, err := netip.ParsePrefix(c.sourceCIDR); err == nil {
		c.sourceCIDR = p.Masked().String()
	}
}

// checkBase finds the base image, then the sizes that can run it, then whether there is quota for one of them.
func (c *Cloud) checkBase(ctx context.Context, env *builder.Env, f *findings) {
	b := env.Plan.Base
	c.base = baseImage{publisher: b.AzurePublisher, offer: b.AzureOffer, sku: b.AzureSKU}
	// Versions sort by name and the newest is wanted, which is the only one that is asked for.
	list, err := c.api.platform.List(ctx, c.location, b.AzurePublisher, b.AzureOffer, b.AzureSKU,
		&armcompute.VirtualMachineImagesClientListOptions{Top: new(int32(1)), Orderby: new("name desc")})
	if gone(err) || err == nil && len(list.VirtualMachineImageResourceArray) == 0 {
		f.addf("%s offers no image %s:%s in %s: choose another --os or --location", b.AzurePublisher, b.AzureOffer, b.AzureSKU, c.location)
		return
	}
	if err != nil {
		f.add(explain(cause(ctx, err)))
		return
	}
	c.base.version = *list.VirtualMachineImageResourceArray[0].Name
	img, err := c.api.platform.Get(ctx, c.location, b.AzurePublisher, b.AzureOffer, b.AzureSKU, c.base.version, nil)
	if err != nil {
		f.add(explain(cause(ctx, err)))
		return
	}
	if p := img.Properties; p != nil {
		c.base.generation, c.base.plan = value(p.HyperVGeneration), p.Plan
		for _, feature := range p.Features {
			switch value(feature.Name) {
			case "SecurityType":
				c.base.security = value(feature.Value)
			case "DiskControllerTypes":
				c.base.controllers = value(feature.Value)
			}
		}
	}
	c.base.generation = cmp.Or(c.base.generation, armcompute.HyperVGenerationTypesV2)
	c.base.controllers = cmp.Or(c.base.controllers, scsi)
	if c.spec.TrustedLaunch {
		switch {
		case !c.gallery() || c.spec.ManagedImage != "":
			f.addf("a Trusted Launch machine cannot become a managed image, only a gallery version: name --gallery and --definition and no managed image, or leave --trusted-launch away; machines made from the image may use Trusted Launch all the same")
		case c.base.generation != armcompute.HyperVGenerationTypesV2 || !strings.Contains(c.base.security, "TrustedLaunch"):
			f.addf("the base image %s:%s does not support Trusted Launch: choose another --os or leave --trusted-launch away", b.AzureOffer, b.AzureSKU)
		}
	}
	c.checkSizes(ctx, env.Plan, f)
}

// checkSizes keeps the sizes that are offered here, run this image and are within quota.
func (c *Cloud) checkSizes(ctx context.Context, plan *images.Plan, f *findings) {
	offered := map[string]*armcompute.ResourceSKU{}
	var names []string
	for pager := c.api.skus.NewListPager(&armcompute.ResourceSKUsClientListOptions{Filter: new("location eq '" + c.location + "'")}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			f.add(explain(cause(ctx, err)))
			return
		}
		for _, s := range page.Value {
			if value(s.ResourceType) == "virtualMachines" {
				offered[strings.ToLower(value(s.Name))] = s
				names = append(names, value(s.Name))
			}
		}
	}
	quota, err := c.quotas(ctx)
	if err != nil {
		f.add(err)
		return
	}
	var why []string
	for _, size := range c.spec.Sizes {
		s := offered[strings.ToLower(size)]
		if s == nil {
			text := fmt.Sprintf("size %s is not offered in %s", size, c.location)
			if near := nearest(size, names); near != "" {
				text += " (" + near + " is)"
			}
			why = append(why, text)
			continue
		}
		choice, err := c.suits(s, plan, quota)
		if err != nil {
			why = append(why, err.Error())
			continue
		}
		c.sizes = append(c.sizes, choice)
	}
	// One usable size is enough: the others were wishes.
	if len(c.sizes) == 0 {
		f.addf("no wanted size can be used: %s; choose another --size or --location", strings.Join(why, "; "))
	}
}

// suits holds one offered size against what the bake needs.
func (c *Cloud) suits(s *armcompute.ResourceSKU, plan *images.Plan, quota map[string][2]int64) (sizeChoice, error) {
	caps := map[string]string{}
	for _, v := range s.Capabilities {
		caps[value(v.Name)] = value(v.Value)
	}
	cpus, _ := strconv.Atoi(caps["vCPUs"])
	choice := sizeChoice{name: value(s.Name), family: value(s.Family), cpus: cpus, premium: caps["PremiumIO"] == "True"}
	for _, l := range s.LocationInfo {
		if region(value(l.Location)) == c.location {
			for _, z := range l.Zones {
				choice.zones = append(choice.zones, *z)
			}
		}
	}
	slices.Sort(choice.zones)
	for _, r := range s.Restrictions {
		if value(r.Type) == armcompute.ResourceSKURestrictionsTypeLocation {
			return choice, fmt.Errorf("size %s is closed to this subscription in %s (%s)", choice.name, c.location, value(r.ReasonCode))
		}
		if r.RestrictionInfo != nil {
			for _, z := range r.RestrictionInfo.Zones {
				choice.zones = slices.DeleteFunc(choice.zones, func(have string) bool { return have == *z })
			}
		}
	}
	arch, controllers := caps["CpuArchitectureType"], cmp.Or(caps["DiskControllerTypes"], scsi)
	switch {
	case arch != "" && !strings.EqualFold(arch, string(architecture(plan.Spec.Image.Arch))):
		return choice, fmt.Errorf("size %s is %s and the image is for %s", choice.name, arch, plan.Spec.Image.Arch)
	case !strings.Contains(caps["HyperVGenerations"], string(c.base.generation)):
		return choice, fmt.Errorf("size %s runs Hyper-V generations %s and the base image is %s", choice.name, caps["HyperVGenerations"], c.base.generation)
	case c.spec.TrustedLaunch && caps["TrustedLaunchDisabled"] == "True":
		return choice, fmt.Errorf("size %s has no Trusted Launch", choice.name)
	case c.base.controllers != "" && !slices.ContainsFunc(words(controllers), c.controls):
		return choice, fmt.Errorf("size %s has disk controllers of type %s and the base image is for %s", choice.name, controllers, c.base.controllers)
	}
	for _, name := range []string{"cores", choice.family} {
		if q, known := quota[strings.ToLower(name)]; known && q[0]+int64(cpus) > q[1] {
			return choice, fmt.Errorf("size %s needs %d cores and the quota of %s in %s has %d of %d left: ask for more in the portal under Quotas",
				choice.name, cpus, name, c.location, max(0, q[1]-q[0]), q[1])
		}
	}
	return choice, nil
}

// scsi is the disk controller of whatever does not name any.
const scsi = "SCSI"

// words are the parts of a list such as "SCSI, NVMe".
func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// controls says that the base image knows a type of disk controllers.
func (c *Cloud) controls(controller string) bool {
	return slices.ContainsFunc(words(c.base.controllers), func(s string) bool { return strings.EqualFold(s, controller) })
}

// quotas are what is used and what there may be, by lower-case name.
func (c *Cloud) quotas(ctx context.Context) (map[string][2]int64, error) {
	out := map[string][2]int64{}
	for pager := c.api.usages.NewListPager(c.location, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, explain(cause(ctx, err))
		}
		for _, u := range page.Value {
			if u.Name != nil {
				out[strings.ToLower(value(u.Name.Value))] = [2]int64{int64(value(u.CurrentValue)), value(u.Limit)}
			}
		}
	}
	return out, nil
}

// checkGallery finds gallery and definition, holds the definition against the plan, and settles the version.
func (c *Cloud) checkGallery(ctx context.Context, env *builder.Env, f *findings) {
	if !c.gallery() {
		return
	}
	group, g, d := c.spec.ResourceGroup, c.spec.Gallery, c.spec.Definition
	if c.groupNew {
		c.galleryNew, c.defNew = true, true
	} else if _, err := c.api.galleries.Get(ctx, group, g, nil); gone(err) {
		c.galleryNew, c.defNew = true, true
	} else if err != nil {
		f.add(explain(cause(ctx, err)))
		return
	}
	var have []galleryVersion
	if !c.defNew {
		def, err := c.api.definitions.Get(ctx, group, g, d, nil)
		switch {
		case gone(err):
			c.defNew = true
		case err != nil:
			f.add(explain(cause(ctx, err)))
			return
		default:
			c.definition = def.Properties
			if have, err = c.versions(ctx); err != nil {
				f.add(err)
				return
			}
		}
	}
	if c.spec.Version == "" || c.spec.Version == "auto" {
		c.version = nextVersion(have, time.Now())
		return
	}
	c.version = c.spec.Version
	if parseVersion(c.version) == nil {
		f.addf("azure.version: %q is not MAJOR.MINOR.PATCH with numbers below 2^31", c.version)
	}
	for _, v := range have {
		// A failed one is in the way of its own name and is deleted before publishing.
		if v.name == c.version && v.state != armcompute.GalleryProvisioningStateFailed && v.tags[TagPlan] != env.Plan.Hash {
			f.addf("version %s of %s/%s exists already: leave the version to `auto`, or name another", c.version, g, d)
		}
	}
}

// matchDefinition tells what of an existing definition does not fit what is baked.
func (c *Cloud) matchDefinition(p *armcompute.GalleryImageProperties, plan *images.Plan) error {
	var wrong []string
	differ := func(what, has, want string) {
		if has != "" && !strings.EqualFold(has, want) {
			wrong = append(wrong, fmt.Sprintf("%s is %s and the image's is %s", what, has, want))
		}
	}
	differ("its OS", string(value(p.OSType)), "Linux")
	differ("its OS state", string(value(p.OSState)), "Generalized")
	differ("its Hyper-V generation", string(value(p.HyperVGeneration)), string(cmp.Or(c.base.generation, armcompute.HyperVGenerationTypesV2)))
	differ("its architecture", string(cmp.Or(value(p.Architecture), armcompute.ArchitectureX64)), string(architecture(plan.Spec.Image.Arch)))
	security, controllers := "Standard", scsi
	for _, feature := range p.Features {
		switch value(feature.Name) {
		case "SecurityType":
			security = value(feature.Value)
		case "DiskControllerTypes":
			controllers = value(feature.Value)
		}
	}
	switch {
	case c.spec.TrustedLaunch && security != "TrustedLaunch":
		wrong = append(wrong, "its security type is "+security+": a Trusted Launch machine needs a definition of type TrustedLaunch")
	// The types that only allow something (TrustedLaunchSupported and its kin) take what brings no guest state along.
	case !c.spec.TrustedLaunch && security != "Standard" && !strings.HasSuffix(strings.ToLower(security), "supported"):
		wrong = append(wrong, "its security type "+security+" takes no image of a standard machine")
	}
	if c.base.controllers != "" && slices.ContainsFunc(words(controllers), func(w string) bool { return !c.controls(w) }) {
		wrong = append(wrong, fmt.Sprintf("it promises disk controllers of type %s and the image is for %s", controllers, c.base.controllers))
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the image definition %s/%s does not fit: %s; a definition cannot be changed, so name another (it is made when absent)",
		c.spec.Gallery, c.spec.Definition, strings.Join(wrong, ", "))
}

// checkImageName finds that the managed image's name is free, or taken by an image of this plan.
func (c *Cloud) checkImageName(ctx context.Context, env *builder.Env, f *findings) {
	n, err := c.managedImage(env)
	if err != nil {
		f.add(err)
		return
	}
	if n == "" || c.groupNew {
		return
	}
	img, err := c.api.images.Get(ctx, c.spec.ResourceGroup, n, nil)
	switch {
	case gone(err):
	case err != nil:
		f.add(explain(cause(ctx, err)))
	case value(img.Tags[TagPlan]) != env.Plan.Hash:
		f.addf("a managed image %s exists already in resource group %s and is of another plan: name this one otherwise (--managed-image), or delete that one", n, c.spec.ResourceGroup)
	}
}

// value is what a pointer points to; the zero value for nil.
func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// nextVersion names a version by its time, or above the highest there is.
func nextVersion(have []galleryVersion, now time.Time) string {
	now = now.UTC()
	next := []int{now.Year(), int(now.Month())*100 + now.Day(), now.Hour()*10000 + now.Minute()*100 + now.Second()}
	for _, v := range have {
		if n := parseVersion(v.name); slices.Compare(n, next) >= 0 {
			next = []int{n[0], n[1], n[2] + 1}
		}
	}
	return fmt.Sprintf("%d.%d.%d", next[0], next[1], next[2])
}

// parseVersion reads MAJOR.MINOR.PATCH; nil for anything else.
func parseVersion(s string) []int {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return nil
	}
	var out []int
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return nil
		}
		out = append(out, int(n))
	}
	return out
}
