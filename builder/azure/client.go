package azure

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"

	"github.com/dorunner/dorunner-bake/images"
)

// api are the clients of one subscription.
type api struct {
	subscription string
	raw          *arm.Client // for the one call that the SDK has no client of

	groups    *armresources.ResourceGroupsClient
	resources *armresources.Client
	providers *armresources.ProvidersClient
	tags      *armresources.TagsClient

	nsgs    *armnetwork.SecurityGroupsClient
	vnets   *armnetwork.VirtualNetworksClient
	subnets *armnetwork.SubnetsClient
	ips     *armnetwork.PublicIPAddressesClient
	nics    *armnetwork.InterfacesClient

	skus        *armcompute.ResourceSKUsClient
	usages      *armcompute.UsageClient
	platform    *armcompute.VirtualMachineImagesClient
	vms         *armcompute.VirtualMachinesClient
	sets        *armcompute.VirtualMachineScaleSetsClient
	setVMs      *armcompute.VirtualMachineScaleSetVMsClient
	rolls       *armcompute.VirtualMachineScaleSetRollingUpgradesClient
	images      *armcompute.ImagesClient
	galleries   *armcompute.GalleriesClient
	definitions *armcompute.GalleryImagesClient
	versions    *armcompute.GalleryImageVersionsClient
	disks       *armcompute.DisksClient
}

// clouds are the national clouds by the names that the spec gives them.
var clouds = map[string]cloud.Configuration{
	"": cloud.AzurePublic, "public": cloud.AzurePublic, "government": cloud.AzureGovernment, "china": cloud.AzureChina,
}

// configuration is the cloud that the spec names, or one behind an endpoint of the author's own.
func configuration(spec images.Azure) (cloud.Configuration, bool, error) {
	conf, ok := clouds[spec.Cloud]
	if !ok {
		return conf, false, fmt.Errorf("azure.cloud: %q is not known: write public, government or china", spec.Cloud)
	}
	endpoint := cmp.Or(spec.Endpoint, os.Getenv("AZURE_RESOURCE_MANAGER_ENDPOINT"))
	if endpoint == "" {
		return conf, false, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return conf, false, fmt.Errorf("azure.endpoint: %q is not a URL", endpoint)
	}
	host := u.Hostname()
	loopback := host == "localhost" || net.ParseIP(host).IsLoopback()
	if u.Scheme != "https" && !loopback {
		return conf, false, fmt.Errorf("azure.endpoint: %s would send the credentials unencrypted: use https", endpoint)
	}
	return cloud.Configuration{
		ActiveDirectoryAuthorityHost: conf.ActiveDirectoryAuthorityHost,
		Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: strings.TrimSuffix(endpoint, "/"), Audience: conf.Services[cloud.ResourceManager].Audience},
		},
	}, u.Scheme != "https", nil
}

func newAPI(spec images.Azure, o Options) (*api, error) {
	conf, plain, err := configuration(spec)
	if err != nil {
		return nil, err
	}
	options := policy.ClientOptions{Cloud: conf, Transport: o.Transport, Retry: o.Retry, InsecureAllowCredentialWithHTTP: plain}
	cred := o.Credential
	if cred == nil {
		if cred, err = credential(spec.Auth, conf); err != nil {
			return nil, err
		}
	}
	cred = helpful{cred, cmp.Or(spec.Auth, "default")}
	sub, err := subscription(spec)
	if err != nil {
		return nil, err
	}
	a := &api{subscription: sub}
	// No client asks for providers to be registered: that would be a change of the subscription nobody ordered.
	opts := &arm.ClientOptions{ClientOptions: options, DisableRPRegistration: true}
	compute, err1 := armcompute.NewClientFactory(sub, cred, opts)
	network, err2 := armnetwork.NewClientFactory(sub, cred, opts)
	resources, err3 := armresources.NewClientFactory(sub, cred, opts)
	raw, err4 := arm.NewClient("dorunner-bake", "v1.0.0", cred, opts)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("azure: %w", err)
	}
	a.raw = raw
	a.groups, a.resources, a.providers = resources.NewResourceGroupsClient(), resources.NewClient(), resources.NewProvidersClient()
	a.tags = resources.NewTagsClient()
	a.nsgs, a.vnets, a.subnets = network.NewSecurityGroupsClient(), network.NewVirtualNetworksClient(), network.NewSubnetsClient()
	a.ips, a.nics = network.NewPublicIPAddressesClient(), network.NewInterfacesClient()
	a.skus, a.usages, a.platform = compute.NewResourceSKUsClient(), compute.NewUsageClient(), compute.NewVirtualMachineImagesClient()
	a.vms, a.sets, a.setVMs = compute.NewVirtualMachinesClient(), compute.NewVirtualMachineScaleSetsClient(), compute.NewVirtualMachineScaleSetVMsClient()
	a.images, a.disks, a.rolls = compute.NewImagesClient(), compute.NewDisksClient(), compute.NewVirtualMachineScaleSetRollingUpgradesClient()
	a.galleries, a.definitions, a.versions = compute.NewGalleriesClient(), compute.NewGalleryImagesClient(), compute.NewGalleryImageVersionsClient()
	return a, nil
}

// credential is the SDK's default chain, or the one kind that the author wants.
func credential(kind string, conf cloud.Configuration) (azcore.TokenCredential, error) {
	opts := azcore.ClientOptions{Cloud: conf}
	var cred azcore.TokenCredential
	var err error
	kind = cmp.Or(kind, "default")
	switch kind {
	case "default":
		cred, err = azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: opts})
	case "cli":
		cred, err = azidentity.NewAzureCLICredential(nil)
	case "environment":
		cred, err = azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: opts})
	case "managed-identity":
		o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: opts}
		if id := os.Getenv("AZURE_CLIENT_ID"); id != "" {
			o.ID = azidentity.ClientID(id)
		}
		cred, err = azidentity.NewManagedIdentityCredential(o)
	case "workload-identity":
		cred, err = azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: opts})
	default:
		return nil, fmt.Errorf("azure.auth: %q is not known: write default, cli, environment, managed-identity or workload-identity", kind)
	}
	if err != nil {
		return nil, noCredentials(kind, err)
	}
	return cred, nil
}

// remedies say what to do where a kind of credentials does not work.
var remedies = map[string]string{
	"default":           "run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
	"cli":               "install the Azure CLI and run `az login`, or leave --auth to default",
	"environment":       "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH",
	"managed-identity":  "give this machine an identity, and name it in AZURE_CLIENT_ID if it has several, or leave --auth to default",
	"workload-identity": "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE, as AKS does for a labelled pod",
}

func noCredentials(kind string, err error) error {
	why := strings.TrimRight(firstLine(err.Error()), " .")
	return &sentence{fmt.Sprintf("no Azure credentials work (%s: %s): %s", kind, why, remedies[kind]), err}
}

// helpful is a credential that says what to do when it fails.
type helpful struct {
	azcore.TokenCredential
	kind string
}

func (h helpful) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	t, err := h.TokenCredential.GetToken(ctx, o)
	if err != nil && ctx.Err() == nil {
		err = noCredentials(h.kind, err)
	}
	return t, err
}

// subscription is the spec's, the environment's, or the one that the Azure CLI is set to.
func subscription(spec images.Azure) (string, error) {
	if id := cmp.Or(spec.Subscription, os.Getenv("AZURE_SUBSCRIPTION_ID")); id != "" {
		return id, nil
	}
	dir := os.Getenv("AZURE_CONFIG_DIR")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err == nil {
			dir = filepath.Join(home, ".azure")
		}
	}
	var profile struct {
		Subscriptions []struct {
			ID        string `json:"id"`
			IsDefault bool   `json:"isDefault"`
		} `json:"subscriptions"`
	}
	if data, err := os.ReadFile(filepath.Join(dir, "azureProfile.json")); err == nil {
		// The Azure CLI writes a byte order mark.
		if json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &profile) == nil {
			for _, s := range profile.Subscriptions {
				if s.IsDefault {
					return s.ID, nil
				}
			}
		}
	}
	return "", errors.New("no Azure subscription: name one with --subscription or azure.subscription, set AZURE_SUBSCRIPTION_ID, or run `az login`")
}

// readAddress reads an answer that is one IPv4 address.
func readAddress(resp *http.Response) (string, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64))
	if err != nil {
		return "", fmt.Errorf("finding out this machine's public address: %w", err)
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(string(body)))
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("finding out this machine's public address: unexpected answer with status %s; name the network yourself: --allow-cidr, or use --private-ip", resp.Status)
	}
	return addr.String(), nil
}
