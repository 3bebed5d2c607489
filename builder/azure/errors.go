package azure

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// code is Azure's code of an error; "" for any other error.
func code(err error) string {
	var e *azcore.ResponseError
	if errors.As(err, &e) {
		return e.ErrorCode
	}
	return ""
}

// gone says that a thing is not there.
func gone(err error) bool {
	var e *azcore.ResponseError
	return errors.As(err, &e) && e.StatusCode == http.StatusNotFound
}

// full says that another size or zone may have room where this one has none.
func full(err error) bool {
	return slices.Contains([]string{"SkuNotAvailable", "AllocationFailed", "ZonalAllocationFailed", "OverconstrainedAllocationRequest",
		"OverconstrainedZonalAllocationRequest", "AvailabilityZoneNotSupported", "QuotaExceeded"}, code(err))
}

// hints say what to do about Azure's commonest codes.
var hints = map[string]string{ //nolint:gosec // the codes name tokens
	"AuthorizationFailed":                  "give the identity the role in docs/azure.md, and mind that a new assignment takes minutes",
	"InvalidAuthenticationToken":           "sign in again: `az login`",
	"InvalidAuthenticationTokenTenant":     "the credentials are of another tenant than the subscription: `az login --tenant ...`",
	"ExpiredAuthenticationToken":           "sign in again: `az login`",
	"SubscriptionNotFound":                 "name another with --subscription; `az account list` lists yours",
	"ResourceGroupNotFound":                "create it, or name another with --resource-group",
	"QuotaExceeded":                        "ask for more in the portal under Quotas, or use another --size or --location",
	"SkuNotAvailable":                      "use another --size (several may be given) or --location",
	"AllocationFailed":                     "use another --size (several may be given) or --location, or try later",
	"ZonalAllocationFailed":                "use another --size (several may be given) or --location, or try later",
	"RequestDisallowedByPolicy":            "a policy of your organization forbids it; its message says which",
	"MissingSubscriptionRegistration":      "register the provider once: `az provider register --namespace Microsoft.Compute` and Microsoft.Network",
	"ScopeLocked":                          "remove the lock on the resource group, or name another",
	"PublicIPCountLimitReached":            "release public addresses, or use --private-ip with --subnet",
	"MarketplacePurchaseEligibilityFailed": "accept the image's terms once: `az vm image terms accept`",
}

var forbidden = regexp.MustCompile(`to perform action '([^']+)' over scope '([^']+)'`)

// explain makes one sentence and what to do out of an SDK error, which prints as a page of headers.
func explain(err error) error {
	var e *azcore.ResponseError
	var done *sentence
	switch {
	case err == nil || errors.As(err, &done):
		return err
	case !errors.As(err, &e):
		return err
	}
	text := message(e)
	if m := forbidden.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("the credentials may not %s on %s", m[1], m[2])
	}
	text = fmt.Sprintf("%s (%s)", strings.TrimSuffix(text, "."), e.ErrorCode)
	if h := hints[e.ErrorCode]; h != "" {
		text += ": " + h
	}
	return &sentence{text, err}
}

// sentence is an error that prints as text and still is what it was.
type sentence struct {
	text string
	err  error
}

func (s *sentence) Error() string { return s.text }
func (s *sentence) Unwrap() error { return s.err }

// message is the innermost message of an answer.
func message(e *azcore.ResponseError) string {
	if e.RawResponse != nil {
		body, err := runtime.Payload(e.RawResponse)
		if err == nil {
			var b struct {
				Error struct {
					Message string
					Details []struct{ Message string }
				}
			}
			if json.Unmarshal(body, &b) == nil && b.Error.Message != "" {
				if len(b.Error.Details) > 0 && b.Error.Details[0].Message != "" {
					return firstLine(b.Error.Details[0].Message)
				}
				return firstLine(b.Error.Message)
			}
		}
		return fmt.Sprintf("Azure answered %d", e.StatusCode)
	}
	return "Azure refused"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
