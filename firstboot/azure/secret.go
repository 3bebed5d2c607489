package azure

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// secretLimit bounds one secret, the wait for a fresh managed identity included.
const secretLimit = 2 * time.Minute

// Secret reads keyvault:https://VAULT/secrets/NAME[/VERSION] with the machine's managed identity.
func (p *Platform) Secret(ctx context.Context, ref runner.Secret) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, secretLimit)
	defer cancel()
	if ref.Scheme() != "keyvault" {
		return "", &firstboot.Failure{Err: fmt.Errorf("%s: Azure has no %s", ref, ref.Scheme()), Final: true, Hint: "use keyvault:https://VAULT/secrets/NAME"}
	}
	vault, name, version, err := parse(ref.Ref())
	if err != nil {
		return "", &firstboot.Failure{Err: fmt.Errorf("%s: %w", ref, err), Final: true, Hint: "write it as keyvault:https://VAULT/secrets/NAME"}
	}
	m, err := p.machine(ctx)
	if err != nil {
		return "", err
	}
	credential, err := p.credential(m)
	if err != nil {
		return "", fmt.Errorf("%s: %w", ref, err)
	}
	o := &azsecrets.ClientOptions{}
	o.Retry = policy.RetryOptions{MaxRetries: 4, RetryDelay: time.Second, MaxRetryDelay: 15 * time.Second, TryTimeout: 20 * time.Second}
	if p.api != nil {
		o.Transport = &http.Client{Transport: p.api}
	}
	client, err := azsecrets.NewClient(vault, credential, o)
	if err != nil {
		return "", fmt.Errorf("%s: %w", ref, err)
	}
	out, err := client.GetSecret(ctx, name, version, nil)
	if err != nil {
		return "", secretFailure(ref, err)
	}
	if out.Value == nil {
		return "", nil
	}
	return *out.Value, nil
}

// credential is the managed identity. A machine whose identity is seconds old is told 400 "Identity not found" for
// a while: 400 is therefore asked again, like the statuses that the documentation of the service names.
func (p *Platform) credential(m machine) (azcore.TokenCredential, error) {
	o := &azidentity.ManagedIdentityCredentialOptions{}
	o.Transport = &http.Client{Transport: p.metadata}
	o.Retry = policy.RetryOptions{MaxRetries: 8, RetryDelay: time.Second, MaxRetryDelay: 15 * time.Second, TryTimeout: 20 * time.Second,
		StatusCodes: []int{400, 404, 410, 429, 500, 502, 503, 504}}
	if m.identity != "" {
		o.ID = azidentity.ClientID(m.identity)
	}
	return azidentity.NewManagedIdentityCredential(o)
}

func parse(ref string) (vault, name, version string, err error) {
	u, err := url.Parse(ref)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", "", "", errors.New("this is not the address of a secret")
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "secrets" || parts[1] == "" {
		return "", "", "", errors.New("this is not the address of a secret")
	}
	if len(parts) == 3 {
		version = parts[2]
	}
	return "https://" + u.Host, parts[1], version, nil
}

// secretFailure says what to do; the SDK has retried what can be retried. Its messages are long: the code is enough.
func secretFailure(ref runner.Secret, err error) error {
	f := &firstboot.Failure{Err: fmt.Errorf("%s: %w", ref, err)}
	var denied *azidentity.AuthenticationFailedError
	var resp *azcore.ResponseError
	var certificate x509.CertificateInvalidError
	switch {
	case errors.As(err, &certificate) && certificate.Reason == x509.Expired:
		f.Hint = "is this machine's clock right? check its time synchronization (timedatectl)"
	case errors.As(err, &resp) && resp.StatusCode == http.StatusNotFound:
		f.Err, f.Final, f.Hint = fmt.Errorf("%s: there is no such secret (%s)", ref, resp.ErrorCode), true, "create it, or mend the reference"
	case errors.As(err, &resp) && (resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized):
		f.Err, f.Final = fmt.Errorf("%s: the vault refuses this machine (%s)", ref, resp.ErrorCode), true
		f.Hint = "give the machine's managed identity the role Key Vault Secrets User on the vault, and let the vault's firewall admit its network"
	case errors.As(err, &resp) && resp.StatusCode == http.StatusBadRequest:
		f.Err, f.Final, f.Hint = fmt.Errorf("%s: the vault does not understand the reference (%s)", ref, resp.ErrorCode), true, "mend the reference"
	case errors.As(err, &denied), strings.Contains(err.Error(), "Identity not found"), strings.Contains(err.Error(), "managed identity"):
		f.Final, f.Hint = true, "give the machine a managed identity; with several, name the one to use in the tag "+tagIdentity
	}
	return f
}
