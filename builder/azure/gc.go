package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/builder"
)

// Left is a temporary thing that a bake left behind.
type Left struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Region  string    `json:"region"`
	BakeID  string    `json:"bake_id"`
	Expires time.Time `json:"expires"`
}

// Garbage lists what bakes have left in the subscription, by their tags, in the order in which it can go: what has
// expired, or everything temporary of the one bake when bakeID is not empty. A finished image has no expiry and is
// never in it.
func (c *Cloud) Garbage(ctx context.Context, bakeID string) ([]Left, error) {
	var out []Left
	var lasting []string // finished images and what they lie in
	note := func(id, kind, location string, tagged map[string]*string) {
		tags := plainTags(tagged)
		expires, err := time.Parse(time.RFC3339, tags[TagExpires])
		if err != nil {
			lasting = append(lasting, strings.ToLower(id)+"/")
		}
		if err != nil || bakeID != "" && tags[TagBake] != bakeID || bakeID == "" && time.Now().Before(expires) {
			return
		}
		out = append(out, Left{ID: id, Kind: kindName(kind), Region: region(location), BakeID: tags[TagBake], Expires: expires})
	}
	err := c.eachResource(ctx, "tagName eq '"+TagPlan+"'", func(r *armresources.GenericResourceExpanded) {
		note(value(r.ID), value(r.Type), value(r.Location), r.Tags)
	})
	if err != nil {
		return nil, err
	}
	// Groups are listed by themselves.
	for pager := c.api.groups.NewListPager(&armresources.ResourceGroupsClientListOptions{Filter: new("tagName eq '" + TagPlan + "'")}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("listing what was left: %w", explain(cause(ctx, err)))
		}
		for _, g := range page.Value {
			note(value(g.ID), "Microsoft.Resources/resourceGroups", value(g.Location), g.Tags)
		}
	}
	// Disks that Azure makes for machines carry no tags; their names do. One goes with its machine, when there is one.
	err = c.eachResource(ctx, "resourceType eq 'Microsoft.Compute/disks'", func(r *armresources.GenericResourceExpanded) {
		id := bakeOf(value(r.Name))
		listed := slices.ContainsFunc(out, func(l Left) bool { return strings.EqualFold(l.ID, value(r.ID)) })
		if id == "" || listed || r.ManagedBy != nil && *r.ManagedBy != "" {
			return
		}
		began := bakedAt(id)
		if began.IsZero() || bakeID != "" && id != bakeID || bakeID == "" && time.Now().Before(began.Add(lifetime)) {
			return
		}
		out = append(out, Left{ID: value(r.ID), Kind: kindDisk, Region: region(value(r.Location)), BakeID: id, Expires: began.Add(lifetime)})
	})
	if err != nil {
		return nil, err
	}
	// What a finished image lies in stays, even when the bake was killed before it could say so.
	out = slices.DeleteFunc(out, func(l Left) bool {
		return slices.ContainsFunc(lasting, func(id string) bool { return strings.HasPrefix(id, strings.ToLower(l.ID)+"/") })
	})
	slices.SortStableFunc(out, func(a, b Left) int { return cmp.Or(cmp.Compare(order(a.Kind), order(b.Kind)), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

func (c *Cloud) eachResource(ctx context.Context, filter string, do func(*armresources.GenericResourceExpanded)) error {
	for pager := c.api.resources.NewListPager(&armresources.ClientListOptions{Filter: &filter}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("listing what was left: %w", explain(cause(ctx, err)))
		}
		for _, r := range page.Value {
			do(r)
		}
	}
	return nil
}

// Remove deletes what Garbage listed, past errors; told hears of each.
func (c *Cloud) Remove(ctx context.Context, left []Left, told func(Left, error)) error {
	var errs []error
	for _, l := range left {
		var err error
		if l.Kind == kindDisk {
			err = c.revoke(ctx, l.ID) // a disk that may be written to cannot be deleted
		}
		if err == nil {
			err = c.undo(ctx, builder.Entry{Kind: l.Kind, ID: l.ID})
		}
		told(l, err)
		if err != nil {
			errs = append(errs, fmt.Errorf("left behind: %s %s: %w", l.Kind, l.ID, err))
		}
	}
	return errors.Join(errs...)
}

// kindName is what people call a resource type.
func kindName(resourceType string) string {
	for _, k := range kinds {
		if strings.EqualFold(k.resourceType, resourceType) {
			return k.kind
		}
	}
	return resourceType
}

func order(kind string) int {
	for i, k := range kinds {
		if k.kind == kind {
			return i
		}
	}
	return len(kinds)
}

// bakeOf is the id of the bake that a temporary thing of this name belongs to; "" for any other name.
func bakeOf(name string) string {
	rest, ok := strings.CutPrefix(name, "dorunner-")
	const form = "20060102-150405-a1b2c3"
	if !ok || len(rest) <= len(form) || rest[len(form)] != '-' {
		return ""
	}
	return rest[:len(form)]
}
