package packer

import (
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
	"github.com/hashicorp/packer-plugin-sdk/hcl2helper"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"
	"github.com/zclconf/go-cty/cty"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/images"
)

// UserDataConfig are the attributes of the data source `dorunner-user-data`: who the machine is.
type UserDataConfig struct {
	common.PackerConfig `mapstructure:",squash"`
	// A dorunner.yaml; attributes of the template win over it.
	SpecFile string `mapstructure:"spec_file"`
	// What the machine is for: `aws` (default), `azure` or `metal`.
	Target string `mapstructure:"target"`
	// The runner's name; also its tag unless tags are given.
	Name string `mapstructure:"name" override:"runner.name"`
	// The address of the DataOps application.
	URL string `mapstructure:"url" override:"runner.url"`
	// A reference to the token, such as `ssm:/dorunner/token`.
	Token string `mapstructure:"token" override:"runner.token"`
	// What jobs find the runner by.
	Tags []string `mapstructure:"tags" override:"runner.tags"`
	// Accept a token that is written out; it will be readable in the machine's user-data.
	AllowPlainSecrets bool `mapstructure:"allow_plain_secrets"`

	ctx interpolate.Context
}

// UserDataOutput is what the data source gives.
type UserDataOutput struct {
	// The user-data, as a `#cloud-config` document.
	Content string `mapstructure:"content"`
}

// UserData is the data source `dorunner-user-data`.
type UserData struct {
	config UserDataConfig
	plan   *images.Plan
}

// ConfigSpec is what HCL may hold.
func (d *UserData) ConfigSpec() hcldec.ObjectSpec { return d.config.FlatMapstructure().HCL2Spec() }

// OutputSpec is what HCL gets.
func (d *UserData) OutputSpec() hcldec.ObjectSpec {
	return (&UserDataOutput{}).FlatMapstructure().HCL2Spec()
}

// Configure reads the configuration and decides everything.
func (d *UserData) Configure(raws ...any) error {
	if err := decode(&d.config, raws, &d.config.ctx); err != nil {
		return err
	}
	if d.config.Target == "" {
		d.config.Target = "aws"
	}
	var err error
	d.plan, _, err = resolve(d.config.Target, &ImageConfig{SpecFile: d.config.SpecFile}, overridesOf(d.config), true)
	return err
}

// Execute generates the user-data.
func (d *UserData) Execute() (cty.Value, error) {
	text, err := cloudinit.UserData(d.plan.Runner(), cloudinit.UserDataOptions{AllowPlain: d.config.AllowPlainSecrets})
	if err != nil {
		return cty.NullVal(cty.EmptyObject), err
	}
	return hcl2helper.HCL2ValueFromConfig(UserDataOutput{Content: string(text)}, d.OutputSpec()), nil
}
