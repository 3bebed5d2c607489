package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

const (
	// monitorScope asks for the audience https://monitoring.azure.com/, whose last slash is part of it.
	monitorScope = "https://monitoring.azure.com//.default"
	// loadLimit bounds one publication, its retries included: the next one comes a minute later.
	loadLimit = 45 * time.Second
)

// sample is a custom metric of Azure Monitor (learn.microsoft.com/azure/azure-monitor/metrics/metrics-store-custom-rest-api).
// The SDK has the pipeline and the credentials for it, and no client.
type sample struct {
	Time string `json:"time"`
	Data struct {
		Base struct {
			Metric     string   `json:"metric"`
			Namespace  string   `json:"namespace"`
			Dimensions []string `json:"dimNames"`
			Series     []series `json:"series"`
		} `json:"baseData"`
	} `json:"data"`
}

type series struct {
	Values []string `json:"dimValues"`
	Min    float64  `json:"min"`
	Max    float64  `json:"max"`
	Sum    float64  `json:"sum"`
	Count  int      `json:"count"`
}

// PublishLoad adds this machine's slots to its scale set's metric: a sample for each slot, 100 for one that is busy.
func (p *Platform) PublishLoad(ctx context.Context, l firstboot.Load) error {
	m, err := p.machine(ctx)
	if err != nil || l.Slots <= 0 {
		return err
	}
	if m.scaleSet == "" {
		return &firstboot.Failure{Err: errors.New("this machine belongs to no scale set"), Final: true, Hint: "set publish_load for scale sets only"}
	}
	credential, err := p.credential(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	o := &policy.ClientOptions{Retry: policy.RetryOptions{MaxRetries: 3, RetryDelay: time.Second, TryTimeout: 10 * time.Second}}
	if p.api != nil {
		o.Transport = &http.Client{Transport: p.api}
	}
	pipeline := runtime.NewPipeline("dorunner-firstboot", "1", runtime.PipelineOptions{
		PerRetry: []policy.Policy{runtime.NewBearerTokenPolicy(credential, []string{monitorScope}, nil)}}, o)
	req, err := runtime.NewRequest(ctx, http.MethodPost, "https://"+m.Region+".monitoring.azure.com"+m.scaleSet+"/metrics")
	if err != nil {
		return err
	}
	busy, percent := l.Samples()
	s := sample{Time: time.Now().UTC().Format("2006-01-02T15:04:05Z")}
	s.Data.Base.Metric, s.Data.Base.Namespace, s.Data.Base.Dimensions = runner.LoadMetric, runner.LoadNamespace, []string{"VMName"}
	s.Data.Base.Series = []series{{Values: []string{m.name}, Min: percent, Max: percent, Sum: busy, Count: l.Slots}}
	if err := runtime.MarshalAsJSON(req, s); err != nil {
		return err
	}
	resp, err := pipeline.Do(req)
	if err != nil {
		return fmt.Errorf("publish to Azure Monitor: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case runtime.HasStatusCode(resp, http.StatusOK, http.StatusAccepted, http.StatusNoContent):
		return nil
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return &firstboot.Failure{Err: fmt.Errorf("Azure Monitor refuses this machine (%d)", resp.StatusCode), Final: true,
			Hint: "give the machine's managed identity the role Monitoring Metrics Publisher on its scale set " + m.scaleSet[strings.LastIndexByte(m.scaleSet, '/')+1:]}
	}
	return fmt.Errorf("Azure Monitor answers %s", resp.Status)
}
