package aws

import (
	"maps"
	"slices"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder"
)

// The tags that everything of ours carries. Machines read their own tags as file names: no slash, no space.
const (
	tagBake    = "dorunner:bake-id" // which bake made it
	tagPlan    = "dorunner:plan"    // hash of the plan that it was baked from
	tagExpires = "dorunner:expires" // until when it may be unfinished; a finished image has lost it
	tagFamily  = "dorunner:family"  // images of one name template, for --keep
	tagBase    = "dorunner:base"    // the image that the bake began with
)

// tags are what a resource of this bake carries: the author's, then ours.
func (c *Cloud) tags(env *builder.Env) map[string]string {
	t := maps.Clone(env.Plan.Spec.AWS.Tags)
	if t == nil {
		t = map[string]string{}
	}
	t["Name"] = c.name
	t[tagBake] = env.BakeID
	t[tagPlan] = c.hash
	t[tagExpires] = c.expires.UTC().Format(time.RFC3339)
	return t
}

// imageTags are those of the result.
func (c *Cloud) imageTags(env *builder.Env) map[string]string {
	t := c.tags(env)
	t[tagFamily] = c.family
	t[tagBase] = sdk.ToString(c.base.ImageId)
	return t
}

// TagList writes tags as EC2 takes them, in the order of their keys.
func TagList(tags map[string]string) []types.Tag {
	var out []types.Tag
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, types.Tag{Key: sdk.String(k), Value: sdk.String(tags[k])})
	}
	return out
}

func tagSpecs(tags map[string]string, kinds ...types.ResourceType) []types.TagSpecification {
	var out []types.TagSpecification
	for _, k := range kinds {
		out = append(out, types.TagSpecification{ResourceType: k, Tags: TagList(tags)})
	}
	return out
}

// TagOf is the value of a tag, "" without it.
func TagOf(tags []types.Tag, key string) string {
	for _, t := range tags {
		if sdk.ToString(t.Key) == key {
			return sdk.ToString(t.Value)
		}
	}
	return ""
}

// Filter has a list name only what has one of the values.
func Filter(name string, values ...string) types.Filter {
	return types.Filter{Name: sdk.String(name), Values: values}
}
