package packer

import (
	"context"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
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
	OutputConfig        `mapstructure:",squash"`
	// `offline` works in the mounted disk (on Linux as root, and then unless said otherwise); `vm` boots it in QEMU.
	Method string `mapstructure:"method" override:"metal.method"`
	// A base disk, file or URL; otherwise the operating system's cloud image.
	Base string `mapstructure:"base" override:"metal.base"`
	// The SHA-256 of the base disk; a URL needs it.
	BaseSHA256 string `mapstructure:"base_sha256" override:"metal.base_sha256"`
	// Any of `qcow2` (which it is unless said otherwise), `raw` and `vhd`.
	Formats []string `mapstructure:"formats" override:"metal.formats"`
	// Which first boot is baked in: `nocloud` unless said otherwise, `aws` or `azure`.
	Platform string `mapstructure:"platform" override:"metal.platform"`
	// QEMU's accelerator (vm): `auto` unless said otherwise, `kvm` or `tcg`.
	Accelerator string `mapstructure:"accelerator" override:"metal.accel"`
	// Cores of the machine that bakes (vm).
	CPUs int `mapstructure:"cpus" override:"metal.cpus"`
	// GiB of memory of the machine that bakes (vm).
	MemoryGB int `mapstructure:"memory_gb" override:"metal.memory_gb"`
	// The loopback port of the machine that bakes (vm); otherwise a free one.
	SSHPort int `mapstructure:"ssh_host_port" override:"metal.ssh_port"`
	// How long the machine that bakes may take to answer (vm), such as `10m`.
	SSHTimeout string `mapstructure:"ssh_timeout" override:"metal.ssh_timeout"`

	ctx interpolate.Context
}

// Metal is the builder `dorunner-metal`.
type Metal struct {
	config MetalConfig
	bakery
}

// ConfigSpec is what HCL may hold.
func (b *Metal) ConfigSpec() hcldec.ObjectSpec { return b.config.FlatMapstructure().HCL2Spec() }

// Prepare reads the configuration and decides everything.
func (b *Metal) Prepare(raws ...any) (generated, warnings []string, err error) {
	c := &b.config
	if err := decode(c, raws, &c.ctx); err != nil {
		return nil, nil, err
	}
	b.bakery = bakery{id: "dorunner.metal", core: c.PackerConfig, image: &c.ImageConfig,
		cloud: func(_ context.Context, plan *images.Plan) (builder.Cloud, error) {
			return metal.New(plan.Spec.Metal.Method), nil
		}}
	return b.bakery.prepare("metal", overridesOf(c), nil)
}
