package packer

//go:generate go tool packer-sdc mapstructure-to-hcl2 -type MetalConfig,ProvisionerConfig,UserDataConfig,UserDataOutput

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"github.com/hashicorp/packer-plugin-sdk/template/config"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"

	"github.com/dorunner/dorunner-bake/images"
)

// ImageConfig are the attributes of what goes into an image; every builder and the provisioner have them. What is
// not written here comes from spec_file, or from the documented defaults.
type ImageConfig struct {
	// A dorunner.yaml; attributes of the template win over it.
	SpecFile string `mapstructure:"spec_file"`
	// The operating system: `ubuntu-20.04` (default), `ubuntu-22.04`, `ubuntu-24.04`, `debian-12`.
	OS string `mapstructure:"os" override:"image.os"`
	// `amd64` (default) or `arm64`.
	Arch string `mapstructure:"architecture" override:"image.arch"`
	// Where Docker Engine comes from: `docker` (Docker's apt repository, default), `distro`, or a mirror's URL.
	DockerSource string `mapstructure:"docker_source" override:"image.docker.source"`
	// An apt version of Docker Engine, or its beginning.
	DockerVersion string `mapstructure:"docker_version" override:"image.docker.version"`
	// Container images to have in the image besides the runner's own, by tag or digest.
	ContainerImages []string `mapstructure:"container_images" override:"image.pull[]/ref"`
	// Container images loaded from local docker archives instead of pulled: reference to file.
	ContainerArchives map[string]string `mapstructure:"container_archives" override:"image.pull[]/archive"`
	// The registry of the login below; Docker Hub by default.
	RegistryServer string `mapstructure:"registry_server" override:"image.registry.server"`
	// A login that may pull the runner's image. It never reaches the image.
	RegistryUsername string `mapstructure:"registry_username" override:"image.registry.username"`
	// The login's password, or a reference to it: `env:NAME`, `file:/path`.
	RegistryPassword string `mapstructure:"registry_password" override:"image.registry.password"`
	// Scripts run as root before Packer's own provisioners.
	Scripts []string `mapstructure:"scripts" override:"image.scripts"`
	// The root disk, in GiB.
	DiskSize int `mapstructure:"disk_size" override:"image.disk_gb"`
	// The runner's container image, and the one that jobs run in by default.
	RunnerImage string `mapstructure:"runner_image" override:"runner.image"`
	JobImage    string `mapstructure:"job_image" override:"runner.job_image"`
	// The dorunner-firstboot program to bake in; by default the one beside this plugin.
	FirstBoot string `mapstructure:"firstboot"`
	// Accept machines below the documented minimum of 2 cores, 8 GB and 50 GB.
	AllowSmall bool `mapstructure:"allow_small"`
}

// decode reads HCL into c, which points to a configuration with ImageConfig and common.PackerConfig in it.
func decode(c any, raws []any, ctx *interpolate.Context) error {
	return config.Decode(c, &config.DecodeOpts{Interpolate: true, InterpolateContext: ctx}, raws...)
}

// resolve makes the plan of one component, or every problem at once as Packer shows them.
func resolve(target string, c *ImageConfig, overrides []images.Override, launch bool) (*images.Plan, []string, error) {
	name := c.SpecFile
	var data []byte
	if name != "" {
		var err error
		if data, err = os.ReadFile(name); err != nil {
			return nil, nil, fmt.Errorf("spec_file: %w", err)
		}
	}
	spec, found := images.Load(name, data)
	if len(found.Errors()) > 0 {
		return nil, nil, multi(found)
	}
	plan, err := images.Resolve(spec, target, images.Options{Overrides: overrides, AllowSmall: c.AllowSmall, Launch: launch, Dir: filepath.Dir(c.SpecFile)})
	var problems images.Problems
	switch {
	case errors.As(err, &problems):
		return nil, nil, multi(problems)
	case err != nil:
		return nil, nil, err
	}
	var warnings []string
	for _, w := range plan.Warnings {
		warnings = append(warnings, w.Message)
	}
	return plan, warnings, nil
}

// multi is a list of problems as Packer numbers them.
func multi(found images.Problems) error {
	var all *packersdk.MultiError
	for _, p := range found.Errors() {
		all = packersdk.MultiErrorAppend(all, images.Problems{p})
	}
	return all
}

// overridesOf reads the `override` tags: attributes that are set win over the spec file. Embedded structs are walked.
func overridesOf(c any) []images.Override {
	var list []images.Override
	v := reflect.Indirect(reflect.ValueOf(c))
	for i := range v.NumField() {
		f, tag := v.Type().Field(i), v.Type().Field(i).Tag.Get("override")
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			list = append(list, overridesOf(v.Field(i).Interface())...)
		}
		if tag == "" || v.Field(i).IsZero() {
			continue
		}
		from := f.Tag.Get("mapstructure")
		switch tag {
		case "image.pull[]/ref":
			for _, ref := range v.Field(i).Interface().([]string) {
				list = append(list, images.Override{Path: "image.pull[]", Value: images.Pull{Ref: ref}, From: from})
			}
		case "image.pull[]/archive":
			archives := v.Field(i).Interface().(map[string]string)
			for _, ref := range slices.Sorted(maps.Keys(archives)) {
				list = append(list, images.Override{Path: "image.pull[]", Value: images.Pull{Ref: ref, Archive: archives[ref]}, From: from})
			}
		default:
			list = append(list, images.Override{Path: tag, Value: v.Field(i).Interface(), From: from})
		}
	}
	return list
}
