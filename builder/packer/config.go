package packer

//go:generate go tool packer-sdc mapstructure-to-hcl2 -type AWSConfig,AzureConfig,MetalConfig,ProvisionerConfig,UserDataConfig,UserDataOutput,RunnerConfig,VaultConfig
//go:generate go run ./reference

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

// ImageConfig are the attributes of what goes into an image. What is not written comes from `spec_file`, or is decided
// as `dorunner-bake` decides it.
type ImageConfig struct {
	// A dorunner.yaml. What the template says wins over it, attribute by attribute.
	SpecFile string `mapstructure:"spec_file"`
	// The operating system: `ubuntu-20.04` unless said otherwise, `ubuntu-22.04`, `ubuntu-24.04` or `debian-12`.
	OS string `mapstructure:"os" override:"image.os"`
	// `amd64` or `arm64`; by default the machine's that bakes.
	Arch string `mapstructure:"architecture" override:"image.arch"`
	// Where Docker Engine comes from: `docker` (its own apt repository, unless said otherwise), `distro`, or the URL of a
	// mirror.
	DockerSource string `mapstructure:"docker_source" override:"image.docker.source"`
	// An apt version of Docker Engine or its beginning, such as `26.1`; otherwise the newest.
	DockerVersion string `mapstructure:"docker_version" override:"image.docker.version"`
	// Container images to have in the image besides the runner's own, by tag or digest.
	ContainerImages []string `mapstructure:"container_images" override:"image.pull[]/ref"`
	// Container images that are loaded from local docker archives instead of pulled: reference to file.
	ContainerArchives map[string]string `mapstructure:"container_archives" override:"image.pull[]/archive"`
	// The registry of the login below; otherwise Docker Hub.
	RegistryServer string `mapstructure:"registry_server" override:"image.registry.server"`
	// The user name of a login that may pull the runner's image. The login never reaches the image.
	RegistryUsername string `mapstructure:"registry_username" override:"image.registry.username"`
	// The login's password, or where it is: `env:NAME`, `file:/path`. Let a variable that holds it be `sensitive`.
	RegistryPassword string `mapstructure:"registry_password" override:"image.registry.password"`
	// Scripts that run as root before Packer's own provisioners. Unlike those, they are part of the plan.
	Scripts []string `mapstructure:"scripts" override:"image.scripts"`
	// The root disk in GiB.
	DiskGB int `mapstructure:"disk_gb" override:"image.disk_gb"`
	// Which user may use Docker without sudo; otherwise the operating system's own.
	AdminUser string `mapstructure:"admin_user" override:"image.admin_user"`
	// What the image knows of its runners already; user-data says the rest and wins.
	Runner RunnerConfig `mapstructure:"runner"`
	// The dorunner-firstboot program to bake in; otherwise the one beside or within this plugin.
	FirstBoot string `mapstructure:"firstboot"`
	// Accept machines below the documented 2 cores, 8 GB and 50 GB.
	AllowSmall bool `mapstructure:"allow_small"`
}

// OutputConfig are the attributes of what a builder leaves behind.
type OutputConfig struct {
	// The name of the image, a template over `.OS`, `.Arch`, `.Hash` and `.Date`. A name with the hash in it cannot be
	// taken.
	ImageName string `mapstructure:"image_name" override:"image.name"`
	// The directory of manifest.json, report.html and disk images; `output-` and the build's name unless `spec_file` names
	// one.
	OutputDirectory string `mapstructure:"output_directory" override:"metal.output"`
}

// RunnerConfig is who a machine is: what `dorunner.yaml` has under `runner`.
type RunnerConfig struct {
	// The runner's name; also its tag unless tags are given.
	Name string `mapstructure:"name" override:"runner.name"`
	// What GitLab shows, a template over `.Name`, `.InstanceID`, `.Hostname`, `.Region` and `.Zone`.
	Description string `mapstructure:"description" override:"runner.description"`
	// The address of the DataOps application.
	URL string `mapstructure:"url" override:"runner.url"`
	// A reference to the token, such as `ssm:/dorunner/token`.
	Token string `mapstructure:"token" override:"runner.token"`
	// What jobs find the runner by.
	Tags []string `mapstructure:"tags" override:"runner.tags"`
	// The runner's container image.
	Image string `mapstructure:"image" override:"runner.image"`
	// The container image that jobs run in unless they name one.
	JobImage string `mapstructure:"job_image" override:"runner.job_image"`
	// How many jobs run at once.
	Concurrent int `mapstructure:"concurrent" override:"runner.concurrent"`
	// Seconds between two questions for work.
	CheckInterval int `mapstructure:"check_interval" override:"runner.check_interval"`
	// Take jobs without tags.
	RunUntagged *bool `mapstructure:"run_untagged" override:"runner.run_untagged"`
	// Lock the runner to its project.
	Locked *bool `mapstructure:"locked" override:"runner.locked"`
	// gitlab-runner's executor.
	Executor string `mapstructure:"executor" override:"runner.executor"`
	// Bind mounts of every job container, `HOST:CONTAINER[:MODE]`.
	Volumes []string `mapstructure:"volumes" override:"runner.volumes"`
	// When jobs pull their images: gitlab-runner's policies in order.
	PullPolicy []string `mapstructure:"pull_policy" override:"runner.pull_policy"`
	// Have the runner log more.
	Debug *bool `mapstructure:"debug" override:"runner.debug"`
	// How a machine registers: `container` (the documented command) or `api` (GitLab's API).
	Register string `mapstructure:"register" override:"runner.register"`
	// How long one registration may take, such as `90s`.
	RegisterTimeout string `mapstructure:"register_timeout" override:"runner.register_timeout"`
	// How long the whole first boot may take.
	BootTimeout string `mapstructure:"boot_timeout" override:"runner.boot_timeout"`
	// How long running jobs may take once the machine is to go.
	DrainTimeout string `mapstructure:"drain_timeout" override:"runner.drain_timeout"`
	// Let jobs end when the system shuts down.
	DrainOnShutdown *bool `mapstructure:"drain_on_shutdown" override:"runner.drain_on_shutdown"`
	// What a machine does whose first boot failed for good: `stay`, `poweroff` or `unhealthy`.
	OnFailure string `mapstructure:"on_failure" override:"runner.on_failure"`
	// Have machines of a group publish how busy they are, for the cloud to size it by.
	PublishLoad *bool `mapstructure:"publish_load" override:"runner.publish_load"`
	// Have machines of a group protect themselves from scale-in while jobs run.
	ProtectBusy *bool `mapstructure:"protect_busy" override:"runner.protect_busy"`
	// The port on which a machine answers health probes; otherwise none.
	HealthPort int `mapstructure:"health_port" override:"runner.health_port"`
	// The files that jobs read their secrets from.
	Vault VaultConfig `mapstructure:"vault"`
}

// VaultConfig is what `dorunner.yaml` has under `runner.vault`.
type VaultConfig struct {
	// The directory of vault.yml and vault.salt.
	Path string `mapstructure:"path" override:"runner.vault.path"`
	// A reference to the content of vault.yml, where machines share one.
	Content string `mapstructure:"content" override:"runner.vault.content"`
	// A reference to the salt that goes with it.
	Salt string `mapstructure:"salt" override:"runner.vault.salt"`
}

// decode reads HCL into c, which points to a configuration with ImageConfig and common.PackerConfig in it.
func decode(c any, raws []any, ctx *interpolate.Context) error {
	return config.Decode(c, &config.DecodeOpts{Interpolate: true, InterpolateContext: ctx}, raws...)
}

// load reads a spec file; without one, the spec says nothing.
func load(file string) (*images.Spec, error) {
	if file == "" {
		return &images.Spec{}, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("spec_file: %w", err)
	}
	spec, _ := images.Load(file, data) // what is wrong with it, images.Resolve reports
	return spec, nil
}

// resolve makes the plan of one component, with warnings, or every problem at once as Packer shows them.
func resolve(target string, spec *images.Spec, c *ImageConfig, overrides []images.Override, launch bool) (*images.Plan, []string, error) {
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
		warnings = append(warnings, w.Error())
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

// overridesOf reads the `override` tags: attributes that are set win over the spec file. Structs within are walked;
// attributes that stand for one list make it together.
func overridesOf(c any) []images.Override {
	var list []images.Override
	add := func(path string, value any, from string) {
		i := slices.IndexFunc(list, func(o images.Override) bool { return o.Path == path && path[len(path)-1] != ']' })
		if i < 0 {
			list = append(list, images.Override{Path: path, Value: value, From: from})
			return
		}
		list[i].Value, list[i].From = append(asList(list[i].Value), asList(value)...), list[i].From+", "+from
	}
	v := reflect.Indirect(reflect.ValueOf(c))
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag := f.Tag.Get("override")
		if f.Type.Kind() == reflect.Struct && f.IsExported() {
			for _, o := range overridesOf(v.Field(i).Interface()) {
				add(o.Path, o.Value, o.From)
			}
		}
		if tag == "" || v.Field(i).IsZero() {
			continue
		}
		from, value := f.Tag.Get("mapstructure"), v.Field(i).Interface()
		switch tag {
		case "image.pull[]/ref":
			for _, ref := range value.([]string) {
				add("image.pull[]", images.Pull{Ref: ref}, from)
			}
		case "image.pull[]/archive":
			archives := value.(map[string]string)
			for _, ref := range slices.Sorted(maps.Keys(archives)) {
				add("image.pull[]", images.Pull{Ref: ref, Archive: archives[ref]}, from)
			}
		default:
			add(tag, value, from)
		}
	}
	return list
}

func asList(v any) []string {
	if list, ok := v.([]string); ok {
		return slices.Clone(list)
	}
	return []string{fmt.Sprint(v)}
}
