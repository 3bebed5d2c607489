package azure

import (
	"fmt"
	"strings"

	"github.com/dorunner/dorunner-bake/builder"
)

// Rehearse lists the calls that change something, with what they would be told. Questions (Get, List) are not listed.
func (c *Cloud) Rehearse(env *builder.Env) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if c.groupNew {
		add("resourceGroups create %s in %s", c.spec.ResourceGroup, c.location)
	}
	if c.fromDisk() {
		add("disks create %s, upload %s", name(env, "disk"), c.spec.FromVHD)
	} else {
		c.rehearseMachine(env, add)
	}
	image, err := c.managedImage(env)
	switch {
	case err == nil && image != "":
		add("images create %s", image)
	case !c.spec.TrustedLaunch:
		add("images create %s, temporary", name(env, "image"))
	}
	if c.gallery() {
		if c.galleryNew {
			add("galleries create %s", c.spec.Gallery)
		}
		if c.defNew {
			add("galleries/images create %s/%s", c.spec.Gallery, c.spec.Definition)
		}
		add("galleries/images/versions create %s/%s/%s in %s, hidden from latest", c.spec.Gallery, c.spec.Definition, c.version, c.location)
	}
	if c.spec.TestBoot {
		add("virtualMachines create %s from the image, wait for its selftest, delete it", name(env, "test"))
	}
	if c.gallery() {
		add("galleries/images/versions update %s: latest, in %s", c.version, strings.Join(append([]string{c.location}, c.otherRegions()...), ", "))
	}
	add("delete everything temporary")
	if c.spec.Keep > 0 {
		add("delete images beyond the newest %d that nothing uses", c.spec.Keep)
	}
	return out
}

func (c *Cloud) rehearseMachine(env *builder.Env, add func(string, ...any)) {
	if !c.spec.PrivateIP {
		add("networkSecurityGroups create %s, tcp 22 from %s", name(env, "nsg"), c.sourceCIDR)
		add("publicIPAddresses create %s", name(env, "ip"))
	}
	if c.subnetID == "" {
		add("virtualNetworks create %s", name(env, "vnet"))
	}
	add("networkInterfaces create %s", name(env, "nic"))
	var places []string
	for _, p := range c.places() {
		places = append(places, p.String())
	}
	b := c.base
	add("virtualMachines create %s from %s:%s:%s:%s, %d GB: %s", name(env, "vm"), b.publisher, b.offer, b.sku, b.version,
		env.Plan.Spec.Image.DiskGB, strings.Join(places, ", else "))
	add("virtualMachines deallocate, generalize %s", name(env, "vm"))
}
