package packer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// ProvisionerConfig are the attributes of the provisioner `dorunner`, which makes any builder's machine a runner's:
// Docker Engine, container images, first boot; proved, sealed and audited. Let it be the last provisioner: the seal
// removes what logs in. Where the communicator's user is not root, it must be allowed `sudo` without a password.
type ProvisionerConfig struct {
	common.PackerConfig `mapstructure:",squash"`
	ImageConfig         `mapstructure:",squash"`
	// Which first boot is baked in: `aws`, `azure` or `nocloud`. Otherwise the builder decides: `aws` with amazon-*,
	// `azure` with azure-*, `nocloud` with any other.
	Platform string `mapstructure:"platform" override:"metal.platform"`
	// The directory of manifest.json and report.html; otherwise they are not kept.
	OutputDirectory string `mapstructure:"output_directory" override:"metal.output"`

	ctx interpolate.Context
}

// platforms are the builders whose machines find themselves on a cloud, by how their names begin.
var platforms = []struct{ builder, platform string }{{"amazon-", "aws"}, {"azure-", "azure"}}

// Provisioner is the provisioner `dorunner`.
type Provisioner struct {
	config   ProvisionerConfig
	plan     *images.Plan
	warnings []string
}

// ConfigSpec is what HCL may hold.
func (p *Provisioner) ConfigSpec() hcldec.ObjectSpec { return p.config.FlatMapstructure().HCL2Spec() }

// Prepare reads the configuration and decides everything.
func (p *Provisioner) Prepare(raws ...any) error {
	c := &p.config
	if err := decode(c, raws, &c.ctx); err != nil {
		return err
	}
	spec, err := load(c.SpecFile)
	if err != nil {
		return err
	}
	over := overridesOf(c)
	for _, known := range platforms {
		if c.Platform == "" && spec.Metal.Platform == "" && strings.HasPrefix(c.PackerBuilderType, known.builder) {
			over = append(over, images.Override{Path: "metal.platform", Value: known.platform, From: "platform"})
		}
	}
	if p.plan, p.warnings, err = resolve("metal", spec, &c.ImageConfig, over, false); err != nil {
		return err
	}
	if c.FirstBoot == "" {
		c.FirstBoot, err = findFirstBoot(p.plan.Spec.Image.Arch)
	}
	return err
}

// Provision runs the engine on the machine that Packer is building.
func (p *Provisioner) Provision(ctx context.Context, ui packersdk.Ui, comm packersdk.Communicator, _ map[string]any) error {
	for _, w := range p.warnings {
		ui.Say("Warning: " + w)
	}
	out := p.config.OutputDirectory
	if out == "" {
		dir, err := os.MkdirTemp("", "dorunner-")
		if err != nil {
			return fmt.Errorf("results directory: %w", err)
		}
		defer os.RemoveAll(dir)
		out = dir
	}
	sudo, err := needsSudo(ctx, comm)
	if err != nil {
		return err
	}
	_, err = builder.Bake(ctx, p.plan, machine{newGuest(comm, sudo)}, builder.Options{
		FirstBoot: p.config.FirstBoot, OutDir: out, Progress: &progress{ui: ui}})
	return err
}

// needsSudo tells whether the communicator's user is someone other than root, and that sudo lets it.
func needsSudo(ctx context.Context, comm packersdk.Communicator) (bool, error) {
	var id bytes.Buffer
	if err := newGuest(comm, false).Run(ctx, builder.Command{Args: []string{"id", "-u"}, Stdout: &id}); err != nil {
		return false, err
	}
	if strings.TrimSpace(id.String()) == "0" {
		return false, nil
	}
	if err := newGuest(comm, true).Run(ctx, builder.Command{Args: []string{"true"}}); err != nil {
		return true, fmt.Errorf("the communicator's user is not root and may not use sudo without a password: %w", err)
	}
	return true, nil
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
