package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// callDeadline bounds one attempt at one call; a call has up to attempts of them.
const (
	callDeadline = 30 * time.Second
	attempts     = 6
)

// LoadConfig reads credentials, region and endpoint as every AWS tool does: environment, profiles, SSO, roles,
// instance metadata. region may be "".
func LoadConfig(ctx context.Context, region string) (sdk.Config, error) {
	opts := []func(*config.LoadOptions) error{config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callDeadline).
		WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = uploads }))}
	if region != "" {
		opts = append(opts, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return cfg, fmt.Errorf("AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return cfg, errors.New("no AWS region is set: write aws.region in the spec, give --region, or set AWS_REGION")
	}
	return cfg, nil
}

// account is where calls go: one client per region and service.
type account struct {
	cfg sdk.Config
	mu  sync.Mutex
	ec2 map[string]*ec2.Client
	// unsure are the regions in which a call may have created something that we were never told of.
	unsure map[string]bool
	spared map[string]bool // resources that sweeps leave alone
}

func newAccount(cfg sdk.Config) *account {
	cfg.Retryer = func() sdk.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = attempts, 10*time.Second
			// Answered with status 500, but another machine or place helps, not another try.
			o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(func(err error) sdk.Ternary {
				if IsCode(err, "InsufficientInstanceCapacity") || Unsupported(err) {
					return sdk.FalseTernary
				}
				return sdk.UnknownTernary
			})}, o.Retryables...)
		})
	}
	return &account{cfg: cfg, ec2: map[string]*ec2.Client{}, unsure: map[string]bool{}, spared: map[string]bool{}}
}

func (a *account) in(region string) *ec2.Client {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ec2[region] == nil {
		a.ec2[region] = ec2.NewFromConfig(a.cfg, func(o *ec2.Options) { o.Region = region })
	}
	return a.ec2[region]
}

func (a *account) sts() *sts.Client { return sts.NewFromConfig(a.cfg) }

func (a *account) ssm(region string) *ssm.Client {
	return ssm.NewFromConfig(a.cfg, func(o *ssm.Options) { o.Region = region })
}

// spare keeps a resource from being swept: it is still of use.
func (a *account) spare(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spared[id] = true
}

// creating is the context of a call that creates something: it outlives the bake's own, so that the answer with the id
// is not lost to a Ctrl-C.
func creating(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*callDeadline)
}

// created notes how a creating call ended: without an answer of the service's, it may have happened all the same.
func (a *account) created(region string, err error) {
	if _, answered := codeOf(err); err != nil && !answered {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.unsure[region] = true
	}
}

// codeOf is the service's error code; answered is false when the error is no answer.
func codeOf(err error) (code string, answered bool) {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode(), true
	}
	return "", false
}

// isTransport tells that a request got no answer at all.
func isTransport(err error) bool {
	var sent *smithyhttp.RequestSendError
	return errors.As(err, &sent) || errors.Is(err, context.DeadlineExceeded)
}

// IsCode says whether an error is the service's answer with one of these codes.
func IsCode(err error, codes ...string) bool {
	code, _ := codeOf(err)
	for _, c := range codes {
		if c == code {
			return true
		}
	}
	return false
}

// Unsupported tells that the server does not know this action, or something in the request: EC2-compatible ones know a
// part of EC2. Some say so in EC2's way, some with status 501, some with a page for people.
func Unsupported(err error) bool {
	if IsCode(err, "InvalidAction", "UnknownOperation", "UnknownOperationException", "NotImplemented", "NotImplementedError", "NotImplementedException") {
		return true
	}
	var resp *smithyhttp.ResponseError
	if !errors.As(err, &resp) || resp.Response == nil || resp.Response.Response == nil {
		return false
	}
	page := strings.HasPrefix(resp.Response.Header.Get("Content-Type"), "text/html")
	return resp.HTTPStatusCode() == http.StatusNotImplemented || page && slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusInternalServerError}, resp.HTTPStatusCode())
}

// notFound tells that the resource does not exist, or does not yet.
func notFound(err error) bool {
	code, _ := codeOf(err)
	return strings.HasSuffix(code, ".NotFound") || strings.HasSuffix(code, ".Unavailable") || code == "InvalidID"
}

func throttled(err error) bool {
	return IsCode(err, "RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "EC2ThrottledException")
}

// Explain says what an error of AWS's means and what to do about it, for other rooms that call AWS.
func Explain(region string, err error) error { return explain(region, err) }

// explain is Explain.
func explain(region string, err error) error {
	if err == nil {
		return nil
	}
	var say string
	code, _ := codeOf(err)
	var dns *net.DNSError
	var api smithy.APIError
	errors.As(err, &api)
	switch {
	case Unsupported(err):
		var op *smithy.OperationError
		errors.As(err, &op)
		if op == nil {
			return err
		}
		say = fmt.Sprintf("the server does not know %s, or something in the request: is it EC2?", op.OperationName)
	case code == "UnauthorizedOperation" || code == "AccessDenied" || code == "AccessDeniedException":
		action, on := deniedAction(api.ErrorMessage())
		say = fmt.Sprintf("the credentials may not %s%s: add it to their policy (docs/aws.md has the whole of it)", action, on)
	case code == "RequestExpired" || code == "ExpiredToken" || code == "ExpiredTokenException":
		say = "the AWS credentials have expired: sign in again (for example `aws sso login`)"
	case code == "AuthFailure" || code == "InvalidClientTokenId" || code == "UnrecognizedClientException":
		say = fmt.Sprintf("region %s does not accept these credentials: enable the region in the account, or check the credentials", region)
	case code == "InsufficientInstanceCapacity":
		say = api.ErrorMessage() + " Name more sizes, in order: --size t3a.xlarge,m6a.xlarge"
	case code == "VcpuLimitExceeded" || code == "MaxSpotInstanceCountExceeded" || code == "InstanceLimitExceeded":
		say = api.ErrorMessage() + " Ask for more under Service Quotas > Amazon EC2 > Running On-Demand Standard instances, or end some"
	case strings.Contains(code, "QuotaExceeded") || strings.HasSuffix(code, "LimitExceeded") && code != "RequestLimitExceeded":
		say = api.ErrorMessage() + " Remove old ones (`dorunner-bake images aws prune`), or ask for more under Service Quotas"
	case errors.As(err, &dns):
		say = fmt.Sprintf("there is no address %s: is %q a region of AWS, and is the network up?", dns.Name, region)
	case strings.Contains(err.Error(), "failed to refresh cached credentials") || strings.Contains(err.Error(), "static credentials are empty"):
		say = "there are no AWS credentials, or they cannot be renewed: set AWS_PROFILE, or sign in (`aws configure`, `aws sso login`)"
	case api != nil:
		say = fmt.Sprintf("%s (%s)", api.ErrorMessage(), code)
	default:
		return err
	}
	return &told{say, err}
}

// told is an error in our words, with AWS's own underneath.
type told struct {
	say   string
	cause error
}

func (t *told) Error() string { return t.say }
func (t *told) Unwrap() error { return t.cause }

// deniedAction finds which action on what was denied in AWS's message.
func deniedAction(msg string) (action, on string) {
	action = "do this"
	if _, rest, ok := strings.Cut(msg, "is not authorized to perform: "); ok {
		fields := strings.Fields(rest)
		action = fields[0]
		if len(fields) > 3 && fields[1] == "on" && fields[2] == "resource:" {
			on = " on " + fields[3]
		}
	}
	return action, on
}
