package images

import (
	"reflect"
)

// Azure is the target that bakes managed images and gallery versions.
type Azure struct {
	Subscription  string            `yaml:"subscription"`
	Location      string            `yaml:"location"`
	ResourceGroup string            `yaml:"resource_group"`
	Sizes         []string          `yaml:"sizes"` // in order of preference; default [Standard_D4as_v5]
	Gallery       string            `yaml:"gallery"`
	Definition    string            `yaml:"definition"`
	Version       string            `yaml:"version"` // auto (default) or MAJOR.MINOR.PATCH
	ReplicateTo   []string          `yaml:"replicate_to"`
	ManagedImage  string            `yaml:"managed_image"`
	Subnet        string            `yaml:"subnet"`
	PrivateIP     bool              `yaml:"private_ip"`
	AllowCIDR     string            `yaml:"allow_cidr"`
	TrustedLaunch bool              `yaml:"trusted_launch"`
	TestBoot      bool              `yaml:"test_boot"`
	Keep          int               `yaml:"keep"`
	Tags          map[string]string `yaml:"tags"`
	FromVHD       string            `yaml:"from_vhd"`
	Cloud         string            `yaml:"cloud"`    // public (default), government, china
	Auth          string            `yaml:"auth"`     // default, cli, environment, managed-identity, workload-identity
	Endpoint      string            `yaml:"endpoint"` // of a Resource Manager other than the cloud's own; default AZURE_RESOURCE_MANAGER_ENDPOINT
}

// azureTarget is the row of the Azure target.
var azureTarget = target{
	platform: func(*Spec) string { return "azure" },
	arch:     func(s *Spec) string { return archOf(s.Azure.Sizes, azureSizes) },
	defaults: func(s *Spec, _ Options) {
		size := "Standard_D4as_v5" // what the documented t3a.xlarge is on AWS
		if s.Image.Arch == "arm64" {
			size = "Standard_D4ps_v5"
		}
		fill(reflect.ValueOf(&s.Azure).Elem(), reflect.ValueOf(Azure{
			Sizes: []string{size}, Version: "auto", Cloud: "public", Auth: "default",
		}))
		fill(reflect.ValueOf(&s.Image).Elem(), reflect.ValueOf(Image{DiskGB: minDiskGB}))
		s.Fleet.defaults(s.Runner, s.Azure.Sizes)
	},
	files: func(s *Spec) []*string { return []*string{&s.Azure.FromVHD} },
	base:  func(*Spec) string { return "" },
	check: func(r *rules) Size {
		a := r.spec.Azure
		size := r.sizes("azure.sizes", a.Sizes, azureSizes)
		r.cloudDisk()
		if a.ResourceGroup == "" {
			r.bad("azure.resource_group", "an image on Azure lives in a resource group", "name one that exists: resource_group: NAME, or --resource-group NAME")
		}
		r.matches("azure.resource_group", a.ResourceGroup, azureGroup, "the name of a resource group", "")
		r.matches("azure.subscription", a.Subscription, azureID, "the id of a subscription", "write it as 00000000-0000-0000-0000-000000000000")
		location := func(path, v string) {
			r.matches(path, v, azureLocation, "a location of Azure", "write it as westeurope")
		}
		location("azure.location", a.Location)
		each("azure.replicate_to", a.ReplicateTo, location)
		r.matches("azure.version", a.Version, azureVersion, "a version of a gallery image", "write auto or MAJOR.MINOR.PATCH")
		if (a.Gallery == "") != (a.Definition == "") {
			r.bad("azure.gallery", "a gallery version needs both gallery and definition", "name both, or neither for a managed image")
		}
		if a.Gallery == "" {
			for key, given := range map[string]bool{"replicate_to": len(a.ReplicateTo) > 0, "trusted_launch": a.TrustedLaunch, "version": a.Version != "auto"} {
				if given {
					r.bad("azure."+key, "a managed image has no "+key+": only a gallery version has", "name azure.gallery and azure.definition")
				}
			}
		}
		r.network("azure.allow_cidr", a.AllowCIDR)
		r.between("azure.keep", a.Keep, 0, 1000, "")
		r.oneOf("azure.cloud", a.Cloud, "public", "government", "china")
		r.oneOf("azure.auth", a.Auth, "default", "cli", "environment", "managed-identity", "workload-identity")
		r.fleet(azureSizes)
		return size
	},
}

const (
	azureGroup    = form(`^[\p{L}\p{N}_().-]{0,89}[\p{L}\p{N}_()-]$`)
	azureID       = form(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	azureLocation = form(`^[a-z0-9]+$`)
	azureVersion  = form(`^(auto|[0-9]+\.[0-9]+\.[0-9]+)$`)
)
