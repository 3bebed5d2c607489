package main

import (
	"context"

	builderazure "github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/fleet"
	fleetazure "github.com/dorunner/dorunner-bake/fleet/azure"
)

// fleetAzure are groups on Virtual Machine Scale Sets.
func fleetAzure() fleetTarget {
	flags := []keyFlag{
		{name: "subnet", path: "fleet.subnets", usage: "id of the machines' subnet (default: azure.subnet)", value: []string{}},
		{name: "identity", path: "fleet.instance_profile", usage: "`ID` of a user-assigned identity that may read the token; create makes one that may do that and no more", value: ""},
		{name: "tag", path: "azure.tags", usage: "tags of everything that belongs to the fleet, KEY=VALUE", value: map[string]string{}},
	}
	for _, k := range azureTarget().flags {
		switch k.name {
		case "subscription", "resource-group", "location", "gallery", "definition", "trusted-launch", "cloud", "auth", "endpoint":
			flags = append(flags, k)
		}
	}
	return fleetTarget{
		name:   "azure",
		engine: "Virtual Machine Scale Sets",
		flags:  flags,
		open: func(_ context.Context, g *fleet.Group, how fleet.How) (fleet.Cloud, string, error) {
			cloud, err := builderazure.New(g.Plan, builderazure.Options{})
			if err != nil {
				return nil, "", err
			}
			c, err := fleetazure.Open(cloud, g, how)
			return c, g.Plan.Spec.Azure.ResourceGroup, err
		},
	}
}
