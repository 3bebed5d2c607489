// Package azure bakes managed images and gallery versions, in a temporary virtual machine or from a disk that was
// baked elsewhere. It is the Cloud that knows the Azure SDK. Everything it creates lies in one resource group, has
// a name that begins with dorunner- and the bake's id, and carries tags by which Garbage finds it again.
package azure

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/images"
)

// The tags of everything that is created. A temporary thing has all three; a finished image has no expiry.
const (
	TagBake    = "dorunner-bake-id"
	TagPlan    = "dorunner-plan"
	TagExpires = "dorunner-expires" // RFC 3339; from then on Garbage may remove it
)

// lifetime is after how long a temporary thing counts as forgotten. A bake with a wait for every region fits twice.
const lifetime = 6 * time.Hour

// Options are what a Cloud may be told; the zero value is for Azure itself.
type Options struct {
	Credential azcore.TokenCredential // default: the chain that azure.auth names
	Transport  policy.Transporter     // default: the SDK's
	// Dial reaches the machine that is baked; default ssh.Dial.
	Dial  func(ctx context.Context, c ssh.Config) (builder.Guest, error)
	Retry policy.RetryOptions // of single calls; default the SDK's, bounded
	// CallerIP finds the address that the machine sees this one under; default asks a public service.
	CallerIP func(ctx context.Context) (string, error)
}

func (o *Options) defaults() {
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, c ssh.Config) (builder.Guest, error) { return ssh.Dial(ctx, c) }
	}
	if o.CallerIP == nil {
		o.CallerIP = callerIP
	}
	if o.Retry.MaxRetries == 0 {
		o.Retry = policy.RetryOptions{MaxRetries: 5, MaxRetryDelay: 30 * time.Second, TryTimeout: 2 * time.Minute}
	}
}

// Cloud bakes on Azure: one bake, one value.
type Cloud struct {
	Options
	spec images.Azure
	api  *api

	// What Preflight found out.
	location   string
	groupNew   bool // the resource group does not exist yet
	base       baseImage
	sizes      []sizeChoice // in the order in which they are tried
	galleryNew bool
	defNew     bool
	definition *armcompute.GalleryImageProperties // of one that exists
	version    string                             // of the gallery, to publish
	subnetID   string
	sourceCIDR string

	// What is being baked.
	vm       machine
	guest    builder.Guest
	disk     string // id of the uploaded disk
	test     machine
	sent     int64           // bytes of it that a killed bake had uploaded
	resumed  []builder.Entry // what a killed bake left that this one goes on with
	planHash string          // of the plan alone: the engine adds its own inputs later
}

// machine is a virtual machine with what it needs.
type machine struct {
	name, id, address string
	size              string
}

// New makes the Cloud of one bake. Nothing is asked of Azure yet.
func New(plan *images.Plan, o Options) (*Cloud, error) {
	c, err := Open(plan.Spec.Azure, o)
	if err == nil {
		c.planHash = plan.Hash
	}
	return c, err
}

// Open makes a Cloud that bakes nothing: it looks at what is there, and gives back.
func Open(spec images.Azure, o Options) (*Cloud, error) {
	o.defaults()
	a, err := newAPI(spec, o)
	if err != nil {
		return nil, err
	}
	return &Cloud{Options: o, spec: spec, api: a}, nil
}

// Base is the platform image that the bake began with, by its URN.
func (c *Cloud) Base() builder.ManifestBase {
	b := c.base
	return builder.ManifestBase{OS: b.offer + " " + b.sku, Source: strings.Join([]string{b.publisher, b.offer, b.sku, b.version}, ":"), Digest: b.version}
}

// gallery tells whether a gallery version is wanted; otherwise a managed image is the result.
func (c *Cloud) gallery() bool { return c.spec.Gallery != "" }

// managedImage is the name of the managed image that is to stay; "" when only a gallery version is wanted.
func (c *Cloud) managedImage(env *builder.Env) (string, error) {
	if c.spec.ManagedImage != "" || c.gallery() {
		return c.spec.ManagedImage, nil
	}
	return env.Plan.ImageName(env.Plan.Hash, time.Now())
}

// name names a temporary thing of this bake.
func name(env *builder.Env, what string) string { return "dorunner-" + env.BakeID + "-" + what }

// tags are those of a temporary thing, the author's own first.
func (c *Cloud) tags(env *builder.Env) map[string]*string {
	t := c.lastingTags(env)
	t[TagExpires] = new(time.Now().UTC().Add(lifetime).Format(time.RFC3339))
	return t
}

// lastingTags are those of a finished image.
func (c *Cloud) lastingTags(env *builder.Env) map[string]*string {
	t := map[string]*string{}
	for k, v := range c.spec.Tags {
		t[k] = new(v)
	}
	t[TagBake], t[TagPlan] = new(env.BakeID), new(env.Plan.Hash)
	return t
}

// id is the resource id of something in the resource group.
func (c *Cloud) id(provider string, rest ...string) string {
	return "/subscriptions/" + c.api.subscription + "/resourceGroups/" + c.spec.ResourceGroup + "/providers/" + provider + "/" + strings.Join(rest, "/")
}

func (c *Cloud) versionID(version string) string {
	return c.id("Microsoft.Compute", "galleries", c.spec.Gallery, "images", c.spec.Definition, "versions", version)
}

// callerIP asks a public service under which address this machine is seen.
func callerIP(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://checkip.amazonaws.com", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("finding out this machine's public address: %w; name the network yourself: --allow-cidr, or use --private-ip", err)
	}
	defer resp.Body.Close()
	return readAddress(resp)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// architecture is the plan's in Azure's words.
func architecture(arch string) armcompute.Architecture {
	if arch == "arm64" {
		return armcompute.ArchitectureArm64
	}
	return armcompute.ArchitectureX64
}
