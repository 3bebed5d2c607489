package packer

import (
	"context"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/metal"
	"github.com/dorunner/dorunner-bake/images"
)

// MetalConfig are the attributes of the builder `dorunner-metal`, which bakes disk images on the machine that Packer
// runs on.
type MetalConfig struct {
	common.PackerConfig `mapstructure:",squash"`
	ImageConfig         `mapstructure:",squash"`
	// The name of the image, a template over `.OS`, `.Arch`, `.Hash` and `.Date`.
	ImageName string `mapstructure:"image_name" override:"image.name"`
	// `offline` (default on Linux as root) or `vm`.
	Method string `mapstructure:"method" override:"metal.method"`
	// A base disk, instead of the operating system's cloud image: a file or URL.
	Base string `mapstructure:"base" override:"metal.base"`
	// The SHA-256 of the base disk; required for a URL.
	BaseSHA256 string `mapstructure:"base_sha256" override:"metal.base_sha256"`
	// Any of `qcow2` (default), `raw`, `vhd`.
	Formats []string `mapstructure:"formats" override:"metal.formats"`
	// Which first boot is baked in: `nocloud` (default), `aws`, `azure`.
	Platform string `mapstructure:"platform" override:"metal.platform"`
	// The directory of the disk images, manifest.json and report.html; `out` by default.
	OutputDirectory string `mapstructure:"output_directory" override:"metal.output"`
	// QEMU's accelerator for the vm method: `auto` (default), `kvm`, `tcg`.
	Accelerator string `mapstructure:"accelerator" override:"metal.accel"`
	// Cores and GiB of memory of the machine that bakes.
	CPUs   int `mapstructure:"cpus" override:"metal.cpus"`
	Memory int `mapstructure:"memory" override:"metal.memory_gb"`
	// The loopback port of the machine that bakes; a free one by default.
	SSHPort int `mapstructure:"ssh_host_port" override:"metal.ssh_port"`
	// How long the machine that bakes may take to answer.
	SSHTimeout string `mapstructure:"ssh_timeout" override:"metal.ssh_timeout"`

	ctx interpolate.Context
}

// Metal is the builder `dorunner-metal`.
type Metal struct {
	config MetalConfig
	bakery bakery
}

// ConfigSpec is what HCL may hold.
func (b *Metal) ConfigSpec() hcldec.ObjectSpec { return b.config.FlatMapstructure().HCL2Spec() }

// Prepare reads the configuration and decides everything.
func (b *Metal) Prepare(raws ...any) (generated, warnings []string, err error) {
	if err := decode(&b.config, raws, &b.config.ctx); err != nil {
		return nil, nil, err
	}
	b.bakery = bakery{id: "dorunner.metal", cloud: func(_ context.Context, plan *images.Plan) (builder.Cloud, error) {
		return metal.New(plan.Spec.Metal.Method), nil
	}}
	return b.bakery.prepare("metal", b.config, b.config.PackerConfig, b.config.ImageConfig)
}

// Run bakes.
func (b *Metal) Run(ctx context.Context, ui packersdk.Ui, hook packersdk.Hook) (packersdk.Artifact, error) {
	return b.bakery.run(ctx, ui, hook)
}
