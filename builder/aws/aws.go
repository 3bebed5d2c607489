// Package aws bakes AMIs: in a temporary EC2 instance, or from a disk that the metal target made. It is the only room
// of the builder that knows the AWS SDK. The engine (builder.Bake) calls Cloud's methods in order; what they create
// carries the bake's id in its tags, so that it can be found and removed even after everything else is lost.
package aws

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/dorunner/dorunner-bake/builder"
	"github.com/dorunner/dorunner-bake/builder/ssh"
)

// Options are what a Cloud needs beside the plan.
type Options struct {
	Config sdk.Config // credentials, region, HTTP client, endpoint
	// Dial reaches the machine; default SSH.
	Dial func(ctx context.Context, c ssh.Config) (builder.Guest, error)
	// CallerIP tells the address that we have on the internet; default asks checkip.amazonaws.com.
	CallerIP func(ctx context.Context) (netip.Addr, error)
	Disk     string // a disk of the metal target to publish, instead of baking in a machine
}

// The times that a bake gives things.
const (
	selfDestruct = 90 * time.Minute // the machine ends itself
	lifetime     = 6 * time.Hour    // after which gc takes what a bake left for abandoned; copies may take long
	runLimit     = 10 * time.Minute
	stopLimit    = 15 * time.Minute
	imageLimit   = 2 * time.Hour
)

// Cloud is one bake in an AWS account.
type Cloud struct {
	o    Options
	acct *account

	region  string
	hash    string // of what is in the image
	name    string // of the image
	family  string // names of the same template have it in common
	base    types.Image
	image   types.Image // the result, as it was seen last
	root    string      // its root device
	places  []place
	vpc     string
	found   []types.Image // finished images of this plan, in the home region
	opening netip.Prefix  // who may reach SSH
	expires time.Time

	group    string // security group of our own, "" when there is none (any more)
	instance types.Instance
	spot     bool
	noDryRun bool // the server knows none
	guest    builder.Guest
	disk     *disk // published instead of a machine's

	mu     sync.Mutex
	marked map[string]bool // regions whose bake is in the ledger
}

// New prepares a bake.
func New(o Options) *Cloud {
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, c ssh.Config) (builder.Guest, error) { return ssh.Dial(ctx, c) }
	}
	if o.CallerIP == nil {
		o.CallerIP = callerIP
	}
	c := &Cloud{o: o, acct: newAccount(o.Config), region: o.Config.Region, marked: map[string]bool{}}
	if o.Disk != "" {
		c.disk = openDisk(o.Disk)
	}
	return c
}

var (
	_ builder.Cloud      = (*Cloud)(nil)
	_ builder.Finder     = (*Cloud)(nil)
	_ builder.TestBooter = (*Cloud)(nil)
	_ builder.Console    = (*Cloud)(nil)
	_ builder.Undoer     = (*Cloud)(nil)
	_ builder.Rehearser  = (*Cloud)(nil)
	_ builder.Baked      = (*Cloud)(nil)
	_ builder.Based      = (*Cloud)(nil)
)

// Base is the AMI that the bake began with.
func (c *Cloud) Base() builder.ManifestBase {
	return builder.ManifestBase{OS: sdk.ToString(c.base.Name), Source: sdk.ToString(c.base.ImageId), Digest: sdk.ToString(c.base.CreationDate)}
}

// callerIP asks a service of Amazon's which address our packets come from.
func callerIP(ctx context.Context) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://checkip.amazonaws.com/", nil)
	if err != nil {
		return netip.Addr{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 100))
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(strings.TrimSpace(string(b)))
}

// The kinds of things in the ledger. A whole bake is one of them: its undo finds by tag whatever has no entry of its own.
const (
	kindBake     = "aws remainder of bake"
	kindInstance = "aws instance"
	kindGroup    = "aws security group"
	kindImage    = "aws image"
)

// Undoes says how to give back what a bake recorded, from its ledger alone.
func (c *Cloud) Undoes() map[string]builder.Undo {
	a := c.acct
	return map[string]builder.Undo{
		kindBake: func(ctx context.Context, e builder.Entry) error {
			_, err := a.sweep(ctx, e.Region, e.Attrs["bake"])
			return err
		},
		kindInstance: func(ctx context.Context, e builder.Entry) error {
			return a.fresh(ctx, e, func(ctx context.Context) error { return a.terminate(ctx, e.Region, e.ID) })
		},
		kindGroup: func(ctx context.Context, e builder.Entry) error {
			// A machine that we were never told of may be in it: machines first.
			removed, err := a.sweep(ctx, e.Region, e.Attrs["bake"])
			if err != nil || slices.Contains(removed, e.ID) {
				return err
			}
			return a.fresh(ctx, e, func(ctx context.Context) error { return a.deleteGroup(ctx, e.Region, e.ID) })
		},
		kindImage: func(ctx context.Context, e builder.Entry) error {
			return a.fresh(ctx, e, func(ctx context.Context) error { return a.removeImage(ctx, e.Region, e.ID) })
		},
		kindUpload: c.adoptUpload,
	}
}

// record writes a created resource to the ledger.
func (c *Cloud) record(env *builder.Env, kind, region, id string) error {
	return env.Ledger.Record(builder.Entry{Kind: kind, ID: id, Region: region, Attrs: map[string]string{"bake": env.BakeID}}, c.Undoes()[kind])
}

// begin records the bake in a region before anything is created there.
func (c *Cloud) begin(env *builder.Env, region string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.marked[region] {
		return nil
	}
	c.marked[region] = true
	return c.record(env, kindBake, region, env.BakeID+"/"+region)
}

// ConsoleTail is the end of what the machine printed, "" when it cannot be had.
func (c *Cloud) ConsoleTail(ctx context.Context, env *builder.Env) string {
	if c.instance.InstanceId == nil {
		return ""
	}
	text, err := c.acct.console(ctx, c.region, *c.instance.InstanceId)
	if err != nil {
		return fmt.Sprintf("(no console output: %v)", err)
	}
	return lastLines(text, 20)
}
