package packer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/packer-plugin-sdk/common"
	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/images"
)

// bakery is what every builder does once its configuration is read.
type bakery struct {
	id    string // what Packer knows its artifacts by
	core  common.PackerConfig
	image ImageConfig
	plan  *images.Plan
	cloud func(ctx context.Context, plan *images.Plan) (builder.Cloud, error)
}

// generated are the keys of build.* beside those that every communicator gives.
var generated = []string{"SourceImage", "SourceImageName", "PlanHash", "BakeID"}

// prepare decides everything; c holds the builder's attributes.
func (b *bakery) prepare(target string, c any, core common.PackerConfig, image ImageConfig) ([]string, []string, error) {
	b.core, b.image = core, image
	plan, warnings, err := resolve(target, &b.image, overridesOf(c), false)
	if err != nil {
		return nil, warnings, err
	}
	b.plan = plan
	if b.image.FirstBoot == "" {
		b.image.FirstBoot, err = builder.FindFirstBoot(plan.Spec.Image.Arch)
	}
	return generated, warnings, err
}

// run bakes; Packer's provisioners are the engine's customize step.
func (b *bakery) run(ctx context.Context, ui packersdk.Ui, hook packersdk.Hook) (packersdk.Artifact, error) {
	cloud, err := b.cloud(ctx, b.plan)
	if err != nil {
		return nil, err
	}
	told := &progress{ui: ui}
	if b.core.PackerDebug {
		told.pause = func(step string) {
			_, _ = ui.Ask(fmt.Sprintf("Pausing before %s. Press enter to continue.", step))
		}
	}
	bakeID := builder.NewBakeID()
	data := b.buildData(bakeID)
	m, err := builder.Bake(ctx, b.plan, cloud, builder.Options{
		FirstBoot: b.image.FirstBoot, OutDir: b.plan.Spec.Metal.Output, Progress: told, Force: b.core.PackerForce, BakeID: bakeID,
		Customize: func(ctx context.Context, g builder.Guest) error {
			describe(data, cloud, g)
			return hook.Run(ctx, packersdk.HookProvision, ui, &communicator{ctx, g}, data)
		},
		OnError: func(ctx context.Context, step string, err error, g builder.Guest) builder.Decision {
			return b.onError(ctx, ui, hook, data, step, err, g)
		},
	})
	if m == nil {
		if err == nil {
			err = errors.New("the bake ended without an image and without a reason")
		}
		return nil, err
	}
	if err != nil { // the image is whole; something temporary was left behind
		ui.Error(err.Error())
	}
	return &artifact{builderID: b.id, manifest: m, outDir: b.plan.Spec.Metal.Output,
		state: map[string]any{"generated_data": data}}, nil
}

// onError does what -on-error says.
func (b *bakery) onError(ctx context.Context, ui packersdk.Ui, hook packersdk.Hook, data map[string]any, step string, err error, g builder.Guest) builder.Decision {
	switch b.core.PackerOnError {
	case "abort":
		return builder.Leave
	case "ask":
		ui.Error(err.Error())
		for {
			answer, aerr := ui.Ask(fmt.Sprintf("%s failed: [c] clean up and exit, [a] abort without cleanup, or [r] retry the step?", step))
			switch {
			case aerr != nil || ctx.Err() != nil || answer == "c":
				return builder.Unwind
			case answer == "a":
				return builder.Leave
			case answer == "r":
				return builder.Retry
			}
		}
	}
	// Packer's own builders run the error-cleanup-provisioner before they give anything back, with either setting.
	if g != nil && ctx.Err() == nil {
		if cerr := hook.Run(ctx, packersdk.HookCleanupProvision, ui, &communicator{ctx, g}, data); cerr != nil {
			ui.Error(fmt.Sprintf("error-cleanup-provisioner: %v", cerr))
		}
	}
	return builder.Unwind
}

// buildData is what provisioners see as build.*: all of the keys that Packer knows must be there, known or not.
func (b *bakery) buildData(bakeID string) map[string]any {
	data := map[string]any{"PlanHash": b.plan.Hash, "BakeID": bakeID, "SourceImage": "", "SourceImageName": b.plan.Spec.Image.OS}
	for _, k := range []string{"ID", "Host", "Port", "User", "Password", "ConnType", "PackerHTTPAddr", "PackerHTTPIP",
		"PackerHTTPPort", "SSHPublicKey", "SSHPrivateKey", "SSHPrivateKeyFile", "SSHAgentAuth", "WinRMPassword"} {
		data[k] = ""
	}
	data["PackerRunUUID"] = os.Getenv("PACKER_RUN_UUID")
	return data
}

// describe fills in what is known once the machine runs.
func describe(data map[string]any, cloud builder.Cloud, g builder.Guest) {
	if s, ok := cloud.(interface {
		Base() (source, digest string)
	}); ok {
		data["SourceImage"], _ = s.Base()
	}
	data["ConnType"] = "dorunner"
	if a, ok := g.(interface {
		Address() (host string, port int, user string)
	}); ok {
		data["ConnType"] = "ssh"
		data["Host"], data["Port"], data["User"] = a.Address()
	}
}
