package packer

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/common"
	"github.com/hashicorp/packer-plugin-sdk/hcl2helper"
	"github.com/hashicorp/packer-plugin-sdk/template/interpolate"
	"github.com/zclconf/go-cty/cty"

	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/images"
)

// UserDataConfig are the attributes of the data source `dorunner-user-data`, which writes what tells a baked image who
// it is, judged as the machine would read it. A token is named by reference: user-data stays readable.
type UserDataConfig struct {
	common.PackerConfig `mapstructure:",squash"`
	RunnerConfig        `mapstructure:",squash"`
	// A dorunner.yaml. What the template says wins over it, attribute by attribute.
	SpecFile string `mapstructure:"spec_file"`
	// What the machine is for, whose limit of size holds: `aws` unless said otherwise, `azure` or `metal`.
	Target string `mapstructure:"target"`
	// The operating system of the image, whose cloud-init reads the result.
	OS string `mapstructure:"os" override:"image.os"`
	// `cloud-config`, `mime` or `script`; otherwise cloud-config, or mime where `merge` needs it.
	Format string `mapstructure:"format"`
	// User-data of your own to carry as well: files.
	Merge []string `mapstructure:"merge"`
	// Encode the whole in base64, as builders want it that do not do so themselves.
	Base64 bool `mapstructure:"base64"`
	// Write secrets that are not references; they will be readable in the machine's user-data.
	AllowPlainSecrets bool `mapstructure:"allow_plain_secrets"`

	ctx interpolate.Context
}

// UserDataOutput is what the data source gives.
type UserDataOutput struct {
	// The user-data.
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

// Configure reads the configuration and decides everything. What a target needs for baking is not asked for.
func (d *UserData) Configure(raws ...any) error {
	c := &d.config
	if err := decode(c, raws, &c.ctx); err != nil {
		return err
	}
	if c.Target == "" {
		c.Target = "aws"
	}
	if !slices.Contains(images.Targets(), c.Target) {
		return fmt.Errorf("target: %q is none of %s", c.Target, strings.Join(images.Targets(), ", "))
	}
	spec, err := load(c.SpecFile)
	if err != nil {
		return err
	}
	d.plan, _, err = resolve("metal", spec, &ImageConfig{SpecFile: c.SpecFile, AllowSmall: true}, overridesOf(c), true)
	return err
}

// Execute generates the user-data.
func (d *UserData) Execute() (cty.Value, error) {
	c := d.config
	o := cloudinit.Options{Cloud: c.Target, CloudInit: d.plan.Base.CloudInit, Format: c.Format, Base64: c.Base64, AllowPlain: c.AllowPlainSecrets}
	for _, file := range c.Merge {
		text, err := os.ReadFile(file)
		if err != nil {
			return cty.NullVal(cty.EmptyObject), fmt.Errorf("merge: %w", err)
		}
		o.Sources = append(o.Sources, cloudinit.Source{Name: filepath.Base(file), Content: text})
	}
	made, err := cloudinit.Generate(d.plan.Runner(), o)
	if err != nil {
		return cty.NullVal(cty.EmptyObject), err
	}
	for _, f := range made.Findings {
		log.Print(f.Text("user-data"))
	}
	if made.Gzip && !c.Base64 { // HCL's strings are text
		return cty.NullVal(cty.EmptyObject), fmt.Errorf("the user-data takes more than %s allows and had to be compressed: set base64 = true, and see that the builder does not encode it again", c.Target)
	}
	return hcl2helper.HCL2ValueFromConfig(UserDataOutput{Content: string(made.Data)}, d.OutputSpec()), nil
}
