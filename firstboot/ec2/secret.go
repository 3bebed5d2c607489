package ec2

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Secret reads ssm:NAME or secretsmanager:NAME[#KEY] with the instance's role, in the instance's region.
func (p *Platform) Secret(ctx context.Context, ref runner.Secret) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, apiLimit)
	defer cancel()
	m, err := p.machine(ctx)
	if err != nil {
		return "", err
	}
	var value string
	switch ref.Scheme() {
	case "ssm":
		value, err = p.parameter(ctx, m, ref.Ref())
	case "secretsmanager":
		value, err = p.managed(ctx, m, ref.Ref())
	default:
		return "", &firstboot.Failure{Err: fmt.Errorf("%s: EC2 has no %s", ref, ref.Scheme()), Final: true, Hint: "use ssm: or secretsmanager:"}
	}
	if err != nil {
		return "", secretFailure(ref, err)
	}
	return value, nil
}

func (p *Platform) parameter(ctx context.Context, m machine, name string) (string, error) {
	c := ssm.New(ssm.Options{Region: m.Region, Credentials: p.credentials, HTTPClient: p.api, RetryMaxAttempts: 5,
		EndpointOptions: ssm.EndpointResolverOptions{UseDualStackEndpoint: p.metadata.dualStack()}})
	out, err := c.GetParameter(ctx, &ssm.GetParameterInput{Name: &name, WithDecryption: aws.Bool(true)})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.Parameter.Value), nil
}

// managed reads a secret, or one key of a secret that is a JSON object.
func (p *Platform) managed(ctx context.Context, m machine, name string) (string, error) {
	name, key, hasKey := strings.Cut(name, "#")
	c := secretsmanager.New(secretsmanager.Options{Region: m.Region, Credentials: p.credentials, HTTPClient: p.api, RetryMaxAttempts: 5,
		EndpointOptions: secretsmanager.EndpointResolverOptions{UseDualStackEndpoint: p.metadata.dualStack()}})
	out, err := c.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &name})
	if err != nil {
		return "", err
	}
	text := aws.ToString(out.SecretString)
	if !hasKey {
		return text, nil
	}
	var object map[string]any
	if json.Unmarshal([]byte(text), &object) != nil { // the reason would quote the secret
		return "", &firstboot.Failure{Err: errors.New("the secret is not a JSON object"), Final: true, Hint: "leave #" + key + " out of the reference, or store an object"}
	}
	switch v := object[key].(type) {
	case nil:
		return "", &firstboot.Failure{Err: fmt.Errorf("the secret has no key %q", key), Final: true, Hint: "name one that it has"}
	case string:
		return v, nil
	default:
		return "", &firstboot.Failure{Err: fmt.Errorf("the secret's key %q is not a text", key), Final: true, Hint: "store it as a JSON string"}
	}
}

// permissions is what the role needs for each kind of reference.
var permissions = map[string]string{"ssm": "ssm:GetParameter", "secretsmanager": "secretsmanager:GetSecretValue"}

// clockHint belongs to failures that pass once the time is set.
const clockHint = "is this machine's clock right? check its time synchronization (timedatectl)"

// secretFailure says what to do; the SDK has retried what can be retried.
func secretFailure(ref runner.Secret, err error) error {
	f := &firstboot.Failure{Err: fmt.Errorf("%s: %w", ref, err)}
	var known *firstboot.Failure
	var api smithy.APIError
	var certificate x509.CertificateInvalidError
	switch {
	case errors.As(err, &certificate) && certificate.Reason == x509.Expired:
		f.Hint = clockHint
	case errors.As(err, &known):
		f.Final, f.Hint = known.Final, known.Hint
		f.Err = fmt.Errorf("%s: %w", ref, known.Err)
	case !errors.As(err, &api):
	case strings.Contains(api.ErrorCode(), "NotFound"):
		f.Err, f.Final, f.Hint = fmt.Errorf("%s: there is no such secret in this region", ref), true, "create it, or mend the reference"
	case strings.HasPrefix(api.ErrorCode(), "AccessDenied"):
		f.Err, f.Final = fmt.Errorf("%s: %s", ref, api.ErrorMessage()), true
		f.Hint = "allow the instance's role " + permissions[ref.Scheme()] + " on it, and kms:Decrypt on its key"
	case strings.HasPrefix(api.ErrorCode(), "InvalidSignature"), strings.HasPrefix(api.ErrorCode(), "RequestTime"), strings.HasPrefix(api.ErrorCode(), "RequestExpired"):
		f.Err, f.Hint = fmt.Errorf("%s: %s", ref, api.ErrorMessage()), clockHint
	case strings.HasPrefix(api.ErrorCode(), "Validation"), strings.HasPrefix(api.ErrorCode(), "InvalidParameter"), strings.HasPrefix(api.ErrorCode(), "InvalidKeyId"):
		f.Err, f.Final, f.Hint = fmt.Errorf("%s: %s", ref, api.ErrorMessage()), true, "mend the reference"
	}
	return f
}
