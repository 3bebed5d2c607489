package runner

// What a machine and the group that it belongs to agree on: the maker of a group cannot see the machine's code.
const (
	// LaunchHook and TerminateHook are the lifecycle hooks of an Auto Scaling group which the machine completes, unless
	// its tags dorunner:launch_hook and dorunner:terminate_hook name others.
	LaunchHook    = "dorunner-launch"
	TerminateHook = "dorunner-terminate"

	// LoadNamespace and LoadMetric name what a machine with PublishLoad publishes: the percentage of its job slots that
	// are busy, counted once for each slot. Its average over the group is therefore busy slots over capacity, whatever
	// the sizes of the machines; the sample count is the capacity, the sum the busy slots times 100. In CloudWatch it
	// has the dimension AutoScalingGroupName; in Azure Monitor it is the scale set's, with the dimension VMName.
	LoadNamespace = "DORunner"
	LoadMetric    = "BusySlots"

	// HealthPath answers 200 on Spec.HealthPort while the machine is fit, and 503 otherwise (binary health states);
	// RichHealthPath answers 200 with {"ApplicationHealthState": "Healthy" or "Unhealthy"} (rich health states), as
	// Azure's Application Health extension asks for.
	HealthPath     = "/health"
	RichHealthPath = "/health/rich"
)
