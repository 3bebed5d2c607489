// Package ec2 is a machine on EC2: its identity and tags from instance metadata (IMDSv2 only), secrets from SSM
// Parameter Store and Secrets Manager with the instance's role, and the Auto Scaling group and spot market that end it.
package ec2

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// The tags of an instance that mean something here: "dorunner:KEY" overlays the runner's spec, but for the two that
// name the group's lifecycle hooks.
const (
	tagPrefix        = "dorunner:"
	tagGroup         = "aws:autoscaling:groupName"
	tagLaunchHook    = tagPrefix + "launch_hook"
	tagTerminateHook = tagPrefix + "terminate_hook"
)

// Options replace what the machine talks to; the zero value is EC2 itself.
type Options struct {
	Metadata http.RoundTripper // reaches 169.254.169.254 and [fd00:ec2::254]
	API      http.RoundTripper // reaches the region's services
}

// Platform is EC2. It is safe for concurrent use.
type Platform struct {
	metadata    *metadata
	api         aws.HTTPClient
	credentials aws.CredentialsProvider

	mu   sync.Mutex
	self *machine
}

// machine is this instance.
type machine struct {
	firstboot.Identity
	group, launchHook, terminateHook string
}

// New makes the platform; it asks nothing yet.
func New(o Options) *Platform {
	p := &Platform{metadata: newMetadata(o.Metadata)}
	if o.API != nil {
		p.api = &http.Client{Transport: o.API}
	}
	p.credentials = aws.NewCredentialsCache(ec2rolecreds.New(func(r *ec2rolecreds.Options) { r.Client = p.metadata }))
	return p
}

// Name is the word in /etc/dorunner/platform.
func (*Platform) Name() string { return "aws" }

// Identity asks instance metadata, for at most a minute.
func (p *Platform) Identity(ctx context.Context) (firstboot.Identity, error) {
	m, err := p.machine(ctx)
	return m.Identity, err
}

// machine asks once and remembers.
func (p *Platform) machine(ctx context.Context) (machine, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.self != nil {
		return *p.self, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, metadataLimit, errNoMetadata)
	defer cancel()
	text, found, err := p.metadata.retry(ctx, "dynamic/instance-identity/document")
	if err != nil || !found {
		return machine{}, metadataFailure("the instance identity document", err)
	}
	var doc struct {
		InstanceID string `json:"instanceId"`
		Region     string `json:"region"`
		Zone       string `json:"availabilityZone"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil || doc.InstanceID == "" {
		return machine{}, fmt.Errorf("the instance identity document names no instance: %q", firstLine(text))
	}
	m := machine{
		Identity:   firstboot.Identity{InstanceID: doc.InstanceID, Region: doc.Region, Zone: doc.Zone, Overlay: map[string]string{}},
		launchHook: runner.LaunchHook, terminateHook: runner.TerminateHook,
	}
	if m.Hostname, _, err = p.metadata.retry(ctx, "meta-data/local-hostname"); err != nil {
		return machine{}, metadataFailure("the host name", err)
	}
	// Without InstanceMetadataTags there is no such path, and no overlay.
	keys, _, err := p.metadata.retry(ctx, "meta-data/tags/instance")
	if err != nil {
		return machine{}, metadataFailure("the instance's tags", err)
	}
	for key := range strings.Lines(keys) {
		key = strings.TrimSpace(key)
		if !strings.HasPrefix(key, tagPrefix) && key != tagGroup {
			continue
		}
		value, _, err := p.metadata.retry(ctx, "meta-data/tags/instance/"+key)
		if err != nil {
			return machine{}, metadataFailure("the tag "+key, err)
		}
		switch key {
		case tagGroup:
			m.group = value
		case tagLaunchHook:
			m.launchHook = value
		case tagTerminateHook:
			m.terminateHook = value
		default:
			m.Overlay[strings.TrimPrefix(key, tagPrefix)] = value
		}
	}
	p.self = &m
	return m, nil
}

// apiLimit bounds one call to a service, its retries and the fetch of credentials included.
const apiLimit = 45 * time.Second

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line[:min(len(line), 80)]
}
