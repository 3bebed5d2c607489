package packer

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// ProvisionerConfig are the attributes of the provisioner `dorunner`, which makes any builder's machine a runner's:
// Docker Engine, container images, first boot; proved, sealed and audited. Let it be the last provisioner: the seal
// removes what logs in.
type ProvisionerConfig struct {
	common.PackerConfig `mapstructure:",squash"`
	ImageConfig         `mapstructure:",squash"`
	// Which first boot is baked in: `aws`, `azure` or `nocloud` (default).
	Platform string `mapstructure:"platform" override:"metal.platform"`
	// Commands run through `sudo -n`; true by default, false where the communicator's user is root.
	UseSudo *bool `mapstructure:"use_sudo"`
	// Where manifest.json and report.html go; nowhere by default.
	OutputDirectory string `mapstructure:"output_directory"`

	ctx interpolate.Context
}

// Provisioner is the provisioner `dorunner`.
type Provisioner struct {
	config ProvisionerConfig
	plan   *images.Plan
}

// ConfigSpec is what HCL may hold.
func (p *Provisioner) ConfigSpec() hcldec.ObjectSpec { return p.config.FlatMapstructure().HCL2Spec() }

// Prepare reads the configuration and decides everything.
func (p *Provisioner) Prepare(raws ...any) error {
	if err := decode(&p.config, raws, &p.config.ctx); err != nil {
		return err
	}
	plan, _, err := resolve("metal", &p.config.ImageConfig, overridesOf(p.config), false)
	if err != nil {
		return err
	}
	p.plan = plan
	if p.config.FirstBoot == "" {
		p.config.FirstBoot, err = builder.FindFirstBoot(plan.Spec.Image.Arch)
	}
	return err
}

// Provision runs the engine on the machine that Packer is building.
func (p *Provisioner) Provision(ctx context.Context, ui packersdk.Ui, comm packersdk.Communicator, _ map[string]any) error {
	out := p.config.OutputDirectory
	if out == "" {
		dir, err := os.MkdirTemp("", "dorunner-")
		if err != nil {
			return fmt.Errorf("results directory: %w", err)
		}
		defer os.RemoveAll(dir)
		out = dir
	}
	sudo := p.config.UseSudo == nil || *p.config.UseSudo
	_, err := builder.Bake(ctx, p.plan, machine{newGuest(comm, sudo)}, builder.Options{
		FirstBoot: p.config.FirstBoot, OutDir: out, Progress: &progress{ui: ui}})
	return err
}

// machine is the Cloud of a machine that somebody else makes, stops and captures.
type machine struct{ guest builder.Guest }

func (machine) Preflight(context.Context, *builder.Env) error { return nil }
func (m machine) Launch(context.Context, *builder.Env) (builder.Guest, error) {
	return m.guest, nil
}
func (machine) Stop(context.Context, *builder.Env) error { return nil }
func (machine) Capture(context.Context, *builder.Env) (builder.Artifact, error) {
	return builder.Artifact{}, nil
}
func (machine) Distribute(_ context.Context, _ *builder.Env, a builder.Artifact) (builder.Artifact, error) {
	return a, nil
}
