package main

import (
	"context"
	"errors"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// azureTarget bakes managed images and gallery versions.
func azureTarget() target {
	return target{
		name:  "azure",
		short: "Bake a managed image or a gallery version on Azure",
		long: `Bake an image in a temporary virtual machine on Azure, which is gone afterwards whatever happens.

Prints the id of the managed image, or of the gallery version when a gallery is named.`,
		example: `  dorunner-bake azure --resource-group runners --location westeurope
  dorunner-bake azure --resource-group runners --gallery images --definition dorunner
  dorunner-bake azure --resource-group runners --dry-run`,
		flags: []keyFlag{
			{name: "size", path: "azure.sizes", usage: "virtual machine size to bake on; several are tried in order", value: []string{}, words: func() []string { return images.SizeNames("azure") }},
			{name: "subscription", path: "azure.subscription", usage: "subscription to bake in", value: ""},
			{name: "resource-group", path: "azure.resource_group", usage: "resource group of the image (required here or in the spec)", value: ""},
			{name: "location", path: "azure.location", usage: "location to bake in", value: ""},
			{name: "gallery", path: "azure.gallery", usage: "gallery to publish a version in", value: ""},
			{name: "definition", path: "azure.definition", usage: "image definition in the gallery", value: ""},
			{name: "image-version", path: "azure.version", usage: "version to publish: auto, or MAJOR.MINOR.PATCH", value: ""},
			{name: "replicate-to", path: "azure.replicate_to", usage: "other locations of the gallery version", value: []string{}},
			{name: "managed-image", path: "azure.managed_image", usage: "name of the managed image (default: the image's name)", value: ""},
			{name: "subnet", path: "azure.subnet", usage: "id of the subnet to bake in (default: a temporary one)", value: ""},
			{name: "tag", path: "azure.tags", usage: "tags of the image, KEY=VALUE", value: map[string]string{}},
			{name: "keep", path: "azure.keep", usage: "how many images of this name to keep (default: all)", value: 0},
			{name: "test-boot", path: "azure.test_boot", usage: "boot the image and wait for its selftest before it is given out", value: false},
			{name: "from-vhd", path: "azure.from_vhd", usage: "fixed VHD of the metal target (platform azure) to make the image from", value: "", file: true},
		},
		cloud: func(context.Context, *images.Plan) (builder.Cloud, error) {
			return nil, errors.New("this build cannot bake on Azure")
		},
	}
}
