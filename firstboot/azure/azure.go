// Package azure is a machine on Azure: its identity and tags from the instance metadata service, secrets from Key
// Vault with its managed identity, and the scheduled events that end it.
package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/dorunner/dorunner-bake/firstboot"
)

// The tags of a machine that mean something here: "dorunner-KEY" overlays the runner's spec, but for the one that
// names the client id of the user-assigned identity to use. Azure's tag names know no case.
const (
	tagPrefix   = "dorunner-"
	tagIdentity = tagPrefix + "identity"
)

// Options replace what the machine talks to; the zero value is Azure itself.
type Options struct {
	Metadata http.RoundTripper // reaches 169.254.169.254
	API      http.RoundTripper // reaches Key Vault and Azure Monitor
}

// Platform is Azure. It is safe for concurrent use.
type Platform struct {
	metadata http.RoundTripper
	api      http.RoundTripper

	mu   sync.Mutex
	self *machine
}

// machine is this virtual machine.
type machine struct {
	firstboot.Identity
	name     string // what scheduled events call it
	identity string // client id of a user-assigned identity, or empty
	scaleSet string // its resource id, or empty
}

// New makes the platform; it asks nothing yet.
func New(o Options) *Platform {
	p := &Platform{metadata: o.Metadata, api: o.API}
	if p.metadata == nil {
		p.metadata = metadataTransport()
	}
	return p
}

// Name is the word in /etc/dorunner/platform.
func (*Platform) Name() string { return "azure" }

// Identity asks instance metadata, for at most a minute and a half.
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
	body, err := p.instance(ctx)
	if err != nil {
		return machine{}, err
	}
	var doc struct {
		Compute struct {
			ID             string `json:"vmId"`
			Name           string `json:"name"`
			Location       string `json:"location"`
			Zone           string `json:"zone"`
			SubscriptionID string `json:"subscriptionId"`
			ResourceGroup  string `json:"resourceGroupName"`
			Uniform        string `json:"vmScaleSetName"`
			Flexible       struct {
				ID string `json:"id"`
			} `json:"virtualMachineScaleSet"`
			OSProfile struct {
				ComputerName string `json:"computerName"`
			} `json:"osProfile"`
			Tags []struct {
				Name  string `json:"name"`
				Value string `json:"value"`
			} `json:"tagsList"`
		} `json:"compute"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return machine{}, fmt.Errorf("instance metadata is not JSON: %w", err)
	}
	c := doc.Compute
	if c.ID == "" {
		return machine{}, errors.New("instance metadata names no virtual machine")
	}
	m := machine{name: c.Name, scaleSet: c.Flexible.ID, Identity: firstboot.Identity{InstanceID: c.ID, Region: c.Location, Zone: c.Zone, Hostname: c.OSProfile.ComputerName, Overlay: map[string]string{}}}
	if m.scaleSet == "" && c.Uniform != "" {
		m.scaleSet = "/subscriptions/" + c.SubscriptionID + "/resourceGroups/" + c.ResourceGroup + "/providers/Microsoft.Compute/virtualMachineScaleSets/" + c.Uniform
	}
	for _, t := range c.Tags {
		name := strings.ToLower(t.Name)
		if name == tagIdentity {
			m.identity = t.Value
		} else if key, ok := strings.CutPrefix(name, tagPrefix); ok {
			m.Overlay[key] = t.Value
		}
	}
	p.self = &m
	return m, nil
}
