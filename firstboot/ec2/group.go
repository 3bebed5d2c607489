package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/smithy-go"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// noticeInterval is how often metadata is asked for the end: the documentation of both notices recommends five seconds.
const noticeInterval = 5 * time.Second

// Notices tells of a spot interruption and of the group's wish to terminate this instance, each once.
func (p *Platform) Notices(ctx context.Context) <-chan firstboot.Notice {
	out := make(chan firstboot.Notice, 2) // never blocks: at most one of each
	go func() {
		tick := time.NewTicker(noticeInterval)
		defer tick.Stop()
		var spot, lifecycle bool
		for {
			if n, ok := p.spotNotice(ctx); ok && !spot {
				spot = true
				out <- n
			}
			if n, ok := p.lifecycleNotice(ctx); ok && !lifecycle {
				lifecycle = true
				out <- n
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// spotNotice reads spot/instance-action, which exists from two minutes before the end.
func (p *Platform) spotNotice(ctx context.Context) (firstboot.Notice, bool) {
	text, found, err := p.metadata.once(ctx, "meta-data/spot/instance-action")
	if err != nil || !found {
		return firstboot.Notice{}, false // asked again in five seconds
	}
	var action struct {
		Action string    `json:"action"`
		Time   time.Time `json:"time"`
	}
	if json.Unmarshal([]byte(text), &action) != nil || action.Action == "" {
		return firstboot.Notice{}, false
	}
	return firstboot.Notice{Kind: "spot", Deadline: action.Time, Complete: func(ctx context.Context) error {
		if err := p.letGo(ctx); !errors.Is(err, errNoGroup) { // a spot instance need not be in a group
			return err
		}
		return nil
	}}, true
}

// lifecycleNotice reads the state that the Auto Scaling group is bringing this instance to.
func (p *Platform) lifecycleNotice(ctx context.Context) (firstboot.Notice, bool) {
	state, found, err := p.metadata.once(ctx, "meta-data/autoscaling/target-lifecycle-state")
	if err != nil || !found || (state != "Terminated" && state != "Warmed:Terminated") {
		return firstboot.Notice{}, false
	}
	return firstboot.Notice{Kind: "lifecycle", Heartbeat: p.heartbeat, Complete: p.letGo}, true
}

// letGo completes the group's terminate hook, where one waits, so that a replacement is not held up.
func (p *Platform) letGo(ctx context.Context) error {
	m, err := p.machine(ctx)
	if err != nil {
		return err
	}
	_, err = p.completeHook(ctx, m, m.terminateHook, "CONTINUE")
	return err
}

// heartbeat asks the terminate hook for another of its timeouts.
func (p *Platform) heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiLimit)
	defer cancel()
	m, err := p.machine(ctx)
	if err != nil {
		return err
	}
	if m.group == "" {
		return errNoGroup
	}
	_, err = p.autoscaling(m).RecordLifecycleActionHeartbeat(ctx, &autoscaling.RecordLifecycleActionHeartbeatInput{
		AutoScalingGroupName: &m.group, LifecycleHookName: &m.terminateHook, InstanceId: &m.InstanceID})
	if isNoAction(err) {
		return fmt.Errorf("the group %s has no lifecycle hook %q under way: running jobs get no more time", m.group, m.terminateHook)
	}
	return groupFailure("autoscaling:RecordLifecycleActionHeartbeat", err)
}

// Online lets the group count this instance as in service, where its launch hook waits for that. A machine outside
// a group, and one whose group has no such hook or has seen it done at an earlier boot, has nobody to tell.
func (p *Platform) Online(ctx context.Context) error {
	m, err := p.machine(ctx)
	if err != nil || m.group == "" {
		return err
	}
	_, err = p.completeHook(ctx, m, m.launchHook, "CONTINUE")
	return err
}

// Failed has a group whose launch hook waits for this instance give it up: it is terminated, and a refresh stops.
func (p *Platform) Failed(ctx context.Context) (done bool, err error) {
	m, err := p.machine(ctx)
	if err != nil || m.group == "" {
		return false, err
	}
	return p.completeHook(ctx, m, m.launchHook, "ABANDON")
}

// Unhealthy has the group replace this instance by a failed health check.
func (p *Platform) Unhealthy(ctx context.Context, _ string) error {
	m, err := p.machine(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiLimit)
	defer cancel()
	unhealthy, grace := "Unhealthy", false
	_, err = p.autoscaling(m).SetInstanceHealth(ctx, &autoscaling.SetInstanceHealthInput{InstanceId: &m.InstanceID, HealthStatus: &unhealthy, ShouldRespectGracePeriod: &grace})
	return groupFailure("autoscaling:SetInstanceHealth", err)
}

// Protect holds this instance in its group when that shrinks, or lets go of it.
func (p *Platform) Protect(ctx context.Context, on bool) error {
	m, err := p.machine(ctx)
	if err != nil {
		return err
	}
	if m.group == "" {
		return errNoGroup
	}
	ctx, cancel := context.WithTimeout(ctx, apiLimit)
	defer cancel()
	_, err = p.autoscaling(m).SetInstanceProtection(ctx, &autoscaling.SetInstanceProtectionInput{
		AutoScalingGroupName: &m.group, InstanceIds: []string{m.InstanceID}, ProtectedFromScaleIn: &on})
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "ValidationError" && strings.Contains(api.ErrorMessage(), "not in InService") {
		return firstboot.ErrNotInService // its launch hook was completed a moment ago, or it is on its way out
	}
	return groupFailure("autoscaling:SetInstanceProtection", err)
}

// PublishLoad adds this instance's slots to its group's metric: a sample for each slot, 100 for one that is busy.
func (p *Platform) PublishLoad(ctx context.Context, l firstboot.Load) error {
	m, err := p.machine(ctx)
	if err != nil {
		return err
	}
	if m.group == "" {
		return errNoGroup
	}
	if l.Slots <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiLimit)
	defer cancel()
	busy, percent := l.Samples()
	_, err = p.cloudwatch(m).PutMetricData(ctx, &cloudwatch.PutMetricDataInput{Namespace: aws.String(runner.LoadNamespace), MetricData: []cwtypes.MetricDatum{{
		MetricName: aws.String(runner.LoadMetric), Unit: cwtypes.StandardUnitPercent,
		Dimensions:      []cwtypes.Dimension{{Name: aws.String("AutoScalingGroupName"), Value: &m.group}},
		StatisticValues: &cwtypes.StatisticSet{Sum: &busy, SampleCount: aws.Float64(float64(l.Slots)), Minimum: &percent, Maximum: &percent},
	}}})
	return groupFailure("cloudwatch:PutMetricData", err)
}

// completeHook ends a lifecycle action; done is false, without an error, when none waits.
func (p *Platform) completeHook(ctx context.Context, m machine, hook, result string) (done bool, err error) {
	if m.group == "" {
		return false, errNoGroup
	}
	ctx, cancel := context.WithTimeout(ctx, apiLimit)
	defer cancel()
	_, err = p.autoscaling(m).CompleteLifecycleAction(ctx, &autoscaling.CompleteLifecycleActionInput{
		AutoScalingGroupName: &m.group, LifecycleHookName: &hook, InstanceId: &m.InstanceID, LifecycleActionResult: &result})
	if isNoAction(err) {
		return false, nil
	}
	return err == nil, groupFailure("autoscaling:CompleteLifecycleAction", err)
}

func (p *Platform) autoscaling(m machine) *autoscaling.Client {
	return autoscaling.New(autoscaling.Options{Region: m.Region, Credentials: p.credentials, HTTPClient: p.api, RetryMaxAttempts: 5,
		EndpointOptions: autoscaling.EndpointResolverOptions{UseDualStackEndpoint: p.metadata.dualStack()}})
}

func (p *Platform) cloudwatch(m machine) *cloudwatch.Client {
	return cloudwatch.New(cloudwatch.Options{Region: m.Region, Credentials: p.credentials, HTTPClient: p.api, RetryMaxAttempts: 5, DisableRequestCompression: true,
		EndpointOptions: cloudwatch.EndpointResolverOptions{UseDualStackEndpoint: p.metadata.dualStack()}})
}

var errNoGroup error = &firstboot.Failure{Err: errors.New("the Auto Scaling group is unknown"), Final: true,
	Hint: "set InstanceMetadataTags to enabled, so that the tag " + tagGroup + " can be read"}

// isNoAction recognizes the answer for a hook that the group does not have, or that waits for nobody.
func isNoAction(err error) bool {
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != "ValidationError" {
		return false
	}
	message := strings.ToLower(api.ErrorMessage())
	return strings.Contains(message, "no active lifecycle action") || strings.Contains(message, "lifecycle hook")
}

func groupFailure(action string, err error) error {
	var api smithy.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api) && strings.HasPrefix(api.ErrorCode(), "AccessDenied"):
		return &firstboot.Failure{Err: errors.New(api.ErrorMessage()), Final: true, Hint: "allow the instance's role " + action}
	case errors.As(err, &api):
		return fmt.Errorf("%s: %s", action, api.ErrorMessage())
	}
	return fmt.Errorf("%s: %w", action, err)
}
