package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/azure"
	"github.com/dorunner/dorunner-bake/images"
)

// azureTarget bakes managed images and gallery versions.
func azureTarget() target {
	return target{
		name:  "azure",
		short: "Bake a managed image or a gallery version on Azure",
		long: `Bake an image in a temporary virtual machine on Azure, which is gone afterwards whatever happens.

Everything that can be known is checked first: credentials and permissions, the base image, where the size is offered, quota,
the network, names and versions. Keys that last for the bake travel in the machine's custom data. A gallery version is hidden
from "latest" until it is whole (and has booted, with --test-boot); gallery, definition and group are made when absent.
Prints the id of the managed image, or of the gallery version when a gallery is named, one line per location. When an image of
this spec exists, that is the result. Credentials come from where the Azure SDK finds them (az login, environment, managed
identity); --auth forces one kind. docs/azure.md has the roles that are needed.`,
		example: `  dorunner-bake azure --resource-group runners --location westeurope
  dorunner-bake azure --resource-group runners --gallery images --definition dorunner
  dorunner-bake azure --resource-group runners --gallery images --definition dorunner --replicate-to northeurope --test-boot --keep 3
  dorunner-bake azure --resource-group runners --dry-run
  dorunner-bake metal --platform azure --format vhd && dorunner-bake azure --resource-group runners --from-vhd out/dorunner.vhd`,
		flags: []keyFlag{
			{name: "size", path: "azure.sizes", usage: "virtual machine size to bake on; several are tried in order", value: []string{}, words: func() []string { return images.SizeNames("azure") }},
			{name: "subscription", path: "azure.subscription", usage: "subscription to bake in", value: ""},
			{name: "resource-group", path: "azure.resource_group", usage: "resource group of the image (required here or in the spec)", value: ""},
			{name: "location", path: "azure.location", usage: "location to bake in", value: ""},
			{name: "gallery", path: "azure.gallery", usage: "gallery to publish a version in", value: ""},
			{name: "definition", path: "azure.definition", usage: "image definition in the gallery", value: ""},
			{name: "version", path: "azure.version", usage: "version to publish: auto, or MAJOR.MINOR.PATCH", value: ""},
			{name: "replicate-to", path: "azure.replicate_to", usage: "other locations of the gallery version", value: []string{}},
			{name: "managed-image", path: "azure.managed_image", usage: "name of the managed image (default: the image's name)", value: ""},
			{name: "subnet", path: "azure.subnet", usage: "id of the subnet to bake in (default: a temporary one)", value: ""},
			{name: "private-ip", path: "azure.private_ip", usage: "reach the machine by its private address, from within the network (needs --subnet)", value: false},
			{name: "allow-cidr", path: "azure.allow_cidr", usage: "who may reach the machine's SSH (default: our own address)", value: ""},
			{name: "trusted-launch", path: "azure.trusted_launch", usage: "bake on a Trusted Launch machine, into a gallery definition for such", value: false},
			{name: "tag", path: "azure.tags", usage: "tags of the image, KEY=VALUE", value: map[string]string{}},
			{name: "keep", path: "azure.keep", usage: "how many images of this name to keep (default: all)", value: 0},
			{name: "test-boot", path: "azure.test_boot", usage: "boot the image and wait for its selftest before it is given out", value: false},
			{name: "from-vhd", path: "azure.from_vhd", usage: "fixed VHD of the metal target (platform azure) to make the image from, without any machine", value: "", file: true},
			{name: "cloud", path: "azure.cloud", usage: "public, government or china", value: "", words: func() []string { return azureClouds }},
			{name: "auth", path: "azure.auth", usage: "kind of credentials: default, cli, environment, managed-identity or workload-identity", value: "", words: func() []string { return azureAuths }},
			{name: "endpoint", path: "azure.endpoint", usage: "Resource Manager to talk to, instead of the cloud's own", value: ""},
		},
		cloud: func(_ context.Context, plan *images.Plan) (builder.Cloud, error) {
			return azure.New(plan, azure.Options{})
		},
		pipeline: func(plan *images.Plan) pipeline {
			a := plan.Spec.Azure
			where := " --resource-group " + a.ResourceGroup
			p := pipeline{ //nolint:gosec // names of variables
				Flags: " --test-boot", TestBoot: true, Before: []string{"dorunner-bake gc azure --yes"}, Prune: "dorunner-bake images azure prune" + where,
				Needs: []string{"AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_SUBSCRIPTION_ID are variables: an application that trusts this project's",
					"identity (federated credential), with the roles of docs/azure.md."},
				IDToken: "api://AzureADTokenExchange",
				Login:   []string{`printf %s "$DORUNNER_ID_TOKEN" >/tmp/id-token`, "export AZURE_FEDERATED_TOKEN_FILE=/tmp/id-token"},
				Actions: []action{{"azure/login@v2", []string{"client-id: ${{ vars.AZURE_CLIENT_ID }}", "tenant-id: ${{ vars.AZURE_TENANT_ID }}",
					"subscription-id: ${{ vars.AZURE_SUBSCRIPTION_ID }}"}}},
				Values: []packerValue{{"resource_group_name", "The resource group of the image.", a.ResourceGroup}, {"location", "The location to bake in.", a.Location},
					{"vm_sizes", "Sizes to bake on, in order.", a.Sizes}, {"gallery_name", "The gallery to publish a version in.", a.Gallery},
					{"gallery_image_name", "The image definition in the gallery.", a.Definition}, {"replication_regions", "Other locations of the version.", a.ReplicateTo},
					{"keep", "How many images to keep.", cmp.Or(a.Keep, ciKeep)}},
			}
			if a.Gallery != "" {
				p.Prune += " --gallery " + a.Gallery + " --definition " + a.Definition
			}
			return p
		},
	}
}

var (
	azureClouds = []string{"public", "government", "china"}
	azureAuths  = []string{"default", "cli", "environment", "managed-identity", "workload-identity"}
)

// azureAccount are the flags of the verbs that look at what is on Azure without baking.
type azureAccount struct{ spec images.Azure }

func (s *azureAccount) flags(f *pflag.FlagSet) {
	f.StringVar(&s.spec.Subscription, "subscription", "", "subscription to look in (default: AZURE_SUBSCRIPTION_ID, or the Azure command line's)")
	f.StringVar(&s.spec.Cloud, "cloud", "public", "public, government or china")
	f.StringVar(&s.spec.Auth, "auth", "default", "kind of credentials: default, cli, environment, managed-identity or workload-identity")
	f.StringVar(&s.spec.Endpoint, "endpoint", "", "Resource Manager to talk to, instead of the cloud's own")
}

// open gives the subscription.
func (s *azureAccount) open() (*azure.Cloud, error) {
	for flag, words := range map[string][]string{s.spec.Cloud: azureClouds, s.spec.Auth: azureAuths} {
		if !slices.Contains(words, flag) {
			return nil, usageError{fmt.Errorf("%q is not known: it is one of %s", flag, strings.Join(words, ", "))}
		}
	}
	return azure.Open(s.spec, azure.Options{})
}
