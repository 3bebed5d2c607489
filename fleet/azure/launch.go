// Package azure runs machines on Azure from images that were baked.
package azure

import (
	"context"
	"errors"
	"time"

	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/fleet"
	"github.com/dorunner/dorunner-bake/images"
)

// Launch starts the machines, all or none, each in the first size and zone that has room.
func Launch(ctx context.Context, cloud *azure.Cloud, plan *images.Plan, o azure.RunnerOptions) ([]*fleet.Machine, error) {
	began := time.Now()
	started, err := cloud.StartRunners(ctx, plan, o)
	var all []*fleet.Machine
	for _, r := range started {
		all = append(all, &fleet.Machine{ID: r.ID, Zone: r.Size, Address: r.Address, Started: began})
	}
	return all, err
}

// WaitOnline follows the machines' consoles until every first boot has ended. told is called at each new step.
func WaitOnline(ctx context.Context, cloud *azure.Cloud, all []*fleet.Machine, limit time.Duration, told func(*fleet.Machine)) error {
	ids := make([]string, len(all))
	for i, m := range all {
		ids[i] = m.ID
	}
	err := cloud.FollowRunners(ctx, ids, limit, func(i int, console string) bool {
		if all[i].Read(console) {
			told(all[i])
		}
		return all[i].Settled()
	})
	return errors.Join(err, fleet.Check(all))
}
