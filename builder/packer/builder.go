package packer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/packer-plugin-sdk/common"
	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/images"
)

// bakery is what every builder does once its configuration is read.
type bakery struct {
	id    string // what Packer knows its artifacts by
	core  common.PackerConfig
	image *ImageConfig
	link  *link // nil where no cloud's machine is reached
	cloud func(ctx context.Context, plan *images.Plan) (builder.Cloud, error)
	disk  func(plan *images.Plan) string // what the image is made from without any machine; nil where that cannot be

	plan *images.Plan
}

// generated are the keys of build.* beside those that every communicator gives.
var generated = []string{"SourceImage", "SourceImageName", "PlanHash", "BakeID"}

// prepare decides everything; over are the builder's attributes, already what was found wrong with them.
func (b *bakery) prepare(target string, over []images.Override, already error) ([]string, []string, error) {
	var all *packersdk.MultiError
	if already != nil {
		all = packersdk.MultiErrorAppend(all, already)
	}
	spec, err := load(b.image.SpecFile)
	if err != nil {
		return nil, nil, err
	}
	if spec.Metal.Output == "" { // as Packer's builders have it: one directory for each
		over = append([]images.Override{{Path: "metal.output", Value: outputDir(b.core.PackerBuildName), From: "output_directory"}}, over...)
	}
	plan, warnings, err := resolve(target, spec, b.image, over, false)
	if err != nil {
		all = packersdk.MultiErrorAppend(all, err)
	}
	if b.link != nil {
		user := "root" // of no plan; only to be asked for nothing
		if plan != nil {
			user = plan.Base.AdminUser
		}
		more, errs := b.link.prepare(user)
		warnings = append(warnings, more...)
		all = packersdk.MultiErrorAppend(all, errs...)
	}
	if plan != nil && b.image.FirstBoot == "" && (b.disk == nil || b.disk(plan) == "") {
		if b.image.FirstBoot, err = findFirstBoot(plan.Spec.Image.Arch); err != nil {
			all = packersdk.MultiErrorAppend(all, err)
		}
	}
	b.plan = plan
	if all != nil && len(all.Errors) > 0 {
		return nil, warnings, all
	}
	return generated, warnings, nil
}

// outputDir is where the results of a build go that names no directory.
func outputDir(build string) string {
	if build == "" {
		return "output"
	}
	return "output-" + strings.ReplaceAll(build, string(os.PathSeparator), "-")
}

// Run bakes; Packer's provisioners are the engine's customize step.
func (b *bakery) Run(ctx context.Context, ui packersdk.Ui, hook packersdk.Hook) (packersdk.Artifact, error) {
	cloud, err := b.cloud(ctx, b.plan)
	if err != nil {
		return nil, err
	}
	told := &progress{ui: ui}
	if b.core.PackerDebug {
		told.pause = func(step string) {
			_, _ = ask(ctx, ui, fmt.Sprintf("Pausing before %s. Press enter to continue.", step))
		}
	}
	bakeID := builder.NewBakeID()
	data := b.buildData(bakeID)
	m, err := builder.Bake(ctx, b.plan, cloud, builder.Options{
		FirstBoot: b.image.FirstBoot, OutDir: b.plan.Spec.Metal.Output, Progress: told, Force: b.core.PackerForce, BakeID: bakeID,
		Customize: func(ctx context.Context, g builder.Guest) (bool, error) {
			describe(data, cloud, g)
			comm := &guestComm{ctx: ctx, guest: g}
			err := hook.Run(ctx, packersdk.HookProvision, ui, comm, data)
			return comm.touched.Load(), err
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
	if m.Artifact.Reused {
		ui.Say("No provisioner ran: the image of this plan exists. With -force it is baked anew.")
	}
	a := &artifact{builderID: b.id, manifest: m, outDir: b.plan.Spec.Metal.Output, cloud: cloud, state: map[string]any{"generated_data": data}}
	if ctx.Err() != nil {
		return nil, b.cancelled(ctx, ui, a)
	}
	return a, nil
}

// cancelled takes back an image that was finished just before the build was cancelled: Packer forgets its artifact. One
// that others may have been pointed to already, or that took older ones' place, stays and is named.
func (b *bakery) cancelled(ctx context.Context, ui packersdk.Ui, a *artifact) error {
	err := context.Cause(ctx)
	s := b.plan.Spec
	switch {
	case a.manifest.Artifact.Reused:
	case s.AWS.Publish != "" || s.AWS.Keep > 0 || s.Azure.Keep > 0:
		ui.Error("cancelled when the image was finished and given out; it stays: " + a.Id())
	default:
		if derr := a.Destroy(); derr != nil {
			return errors.Join(err, fmt.Errorf("the finished image %s: %w", a.Id(), derr))
		}
		ui.Say("removed the finished image " + a.Id())
	}
	return err
}

// onError does what -on-error says, as Packer's own builders do it.
func (b *bakery) onError(ctx context.Context, ui packersdk.Ui, hook packersdk.Hook, data map[string]any, step string, err error, g builder.Guest) builder.Decision {
	decision := builder.Unwind
	switch b.core.PackerOnError {
	case "abort":
		return builder.Leave
	case "run-cleanup-provisioner":
		decision = builder.Leave
	case "ask":
		ui.Error(err.Error())
		switch answer := b.ask(ctx, ui, step); answer {
		case "a":
			return builder.Leave
		case "r":
			return builder.Retry
		}
	}
	if g != nil && ctx.Err() == nil {
		if cerr := hook.Run(ctx, packersdk.HookCleanupProvision, ui, &guestComm{ctx: ctx, guest: g}, data); cerr != nil {
			ui.Error(fmt.Sprintf("error-cleanup-provisioner: %v", cerr))
		}
	}
	return decision
}

// ask puts Packer's question until it is answered; nobody to answer it is "c".
func (b *bakery) ask(ctx context.Context, ui packersdk.Ui, step string) string {
	for {
		answer, err := ask(ctx, ui, fmt.Sprintf("Step %q failed: [c] Clean up and exit, [a] abort without cleanup, or [r] retry step (build may fail even if retry succeeds)?", step))
		switch answer = strings.ToLower(answer); {
		case err != nil || answer == "" || answer == "c":
			return "c"
		case answer == "a" || answer == "r":
			return answer
		}
	}
}

// ask asks, as long as the build goes on.
func ask(ctx context.Context, ui packersdk.Ui, question string) (string, error) {
	type reply struct {
		text string
		err  error
	}
	answered := make(chan reply, 1)
	go func() {
		text, err := ui.Ask(question)
		answered <- reply{text, err}
	}()
	select {
	case r := <-answered:
		return r.text, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
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
	if s, ok := cloud.(builder.Based); ok {
		base := s.Base()
		data["SourceImage"], data["SourceImageName"] = base.Source, base.OS
	}
	if m, ok := cloud.(interface{ MachineID() string }); ok {
		data["ID"] = m.MachineID()
	}
	data["ConnType"], data["User"] = "dorunner", "root"
	if s, ok := g.(*ssh.Guest); ok {
		data["ConnType"], data["User"] = "ssh", s.User
		data["Host"], data["Port"], _ = net.SplitHostPort(s.Addr)
	}
}

// destroyTime bounds the removal of an artifact that Packer does not keep.
const destroyTime = 15 * time.Minute
