package aws

import (
	"fmt"
	"strings"

	"github.com/dorunner/dorunner-bake/builder"
)

// Rehearse lists the calls that change something, with what they would be told. Questions (Describe...) are not listed.
func (c *Cloud) Rehearse(env *builder.Env) []string {
	a := env.Plan.Spec.AWS
	var out []string
	say := func(region, format string, args ...any) { out = append(out, region+" "+fmt.Sprintf(format, args...)) }
	if c.disk != nil {
		say(c.region, "ebs:StartSnapshot, PutSnapshotBlock for each block with data of %s, CompleteSnapshot", a.FromDisk)
		say(c.region, "ec2:RegisterImage %s", c.name)
	} else {
		if c.ownGroup(env) {
			say(c.region, "ec2:CreateSecurityGroup dorunner-bake-%s in %s", env.BakeID, c.vpc)
			say(c.region, "ec2:AuthorizeSecurityGroupIngress tcp 22 from %s", c.opening)
		}
		var places []string
		for _, p := range c.places {
			places = append(places, p.size+" in "+p.zone)
		}
		market := ""
		if a.Spot {
			market = "spot, then on demand: "
		}
		say(c.region, "ec2:RunInstances %s%s; from %s, %d GB gp3, encrypted, IMDSv2", market, strings.Join(places, ", else "), *c.base.ImageId, env.Plan.Spec.Image.DiskGB)
		if !a.Spot {
			say(c.region, "ec2:StopInstances")
		}
		say(c.region, "ec2:CreateImage %s", c.name)
		if c.ownGroup(env) {
			say(c.region, "ec2:ModifyInstanceAttribute, DeleteSecurityGroup")
		}
		say(c.region, "ec2:TerminateInstances")
	}
	if a.TestBoot {
		say(c.region, "ec2:RunInstances from the new image, TerminateInstances")
	}
	regions := append([]string{c.region}, copyRegions(c.region, a.CopyTo)...)
	for _, r := range regions[1:] {
		say(r, "ec2:CopyImage %s from %s", c.name, c.region)
	}
	for _, r := range regions {
		say(r, "ec2:ModifyImageAttribute IMDSv2")
		if len(a.Share) > 0 {
			say(r, "ec2:ModifyImageAttribute, ModifySnapshotAttribute for %s", strings.Join(a.Share, ", "))
		}
		if a.DeprecateAfter > 0 {
			say(r, "ec2:EnableImageDeprecation in %d days", a.DeprecateAfter)
		}
		if a.Protect {
			say(r, "ec2:EnableImageDeregistrationProtection")
		}
	}
	for _, r := range regions {
		say(r, "ec2:DeleteTags %s: the image is finished", tagExpires)
	}
	for _, r := range regions {
		if a.Publish != "" {
			say(r, "ssm:PutParameter %s", a.Publish)
		}
		if a.Keep > 0 {
			say(r, "ec2:DeregisterImage images of the name %s* beyond the newest %d, unless something uses them", c.family, a.Keep)
		}
	}
	return out
}
