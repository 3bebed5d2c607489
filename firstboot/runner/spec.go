// Package runner says who a machine is. It is the one contract that the generator of user-data and the
// first-boot program share: both ends read and write it only through Encode and Decode, so a spec that leaves
// one of them is understood by the other or refused by name.
package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Spec is one runner: what it is called, where it registers, what its jobs run in. Zero values mean "not said";
// Default fills them. Durations are written as Go durations ("90s", "1h").
type Spec struct {
	// Name is the agent name: the container's name, the directory /srv/dataops-runner-NAME and the default tag.
	Name string `yaml:"name,omitempty"`
	// Description is what GitLab shows, a template over Facts: "{{.Name}}-{{.InstanceID}}" tells clones apart.
	Description string `yaml:"description,omitempty"`
	// URL is the GitLab address, with or without a path and a trailing slash.
	URL string `yaml:"url,omitempty"`
	// Token is a registration token (GR1348941...), an authentication token (glrt-...) or one made from the former (glrtr-...).
	Token Secret `yaml:"token,omitempty"`
	// Tags are what jobs find the runner by; [Name] when empty. A tag holds no comma.
	Tags []string `yaml:"tags,omitempty"`
	// Image is the runner's own container image; JobImage what jobs run in by default.
	Image    string `yaml:"image,omitempty"`
	JobImage string `yaml:"job_image,omitempty"`
	// Concurrent is how many jobs run at once; CheckInterval how many seconds pass between two polls.
	Concurrent    int    `yaml:"concurrent,omitempty"`
	CheckInterval int    `yaml:"check_interval,omitempty"`
	RunUntagged   *bool  `yaml:"run_untagged,omitempty"`
	Locked        *bool  `yaml:"locked,omitempty"`
	Executor      string `yaml:"executor,omitempty"`
	// Volumes are the bind mounts of every job container, in Docker's HOST:CONTAINER[:MODE] form.
	Volumes []string `yaml:"volumes,omitempty"`
	// PullPolicy is gitlab-runner's; the default ["always", "if-not-present"] falls back to what was baked.
	PullPolicy []string `yaml:"pull_policy,omitempty"`
	Debug      *bool    `yaml:"debug,omitempty"`
	// Register says how: "container" (the documented command) or "api" (GitLab's API directly).
	Register string `yaml:"register,omitempty"`
	// RegisterTimeout bounds one run of the register command; BootTimeout the whole first boot.
	RegisterTimeout Duration `yaml:"register_timeout,omitempty"`
	BootTimeout     Duration `yaml:"boot_timeout,omitempty"`
	// DrainTimeout is how long running jobs may take once the machine is to go.
	DrainTimeout Duration `yaml:"drain_timeout,omitempty"`
	// DrainOnShutdown drains when the system shuts down; off, a reboot interrupts jobs and the runner comes back.
	DrainOnShutdown *bool `yaml:"drain_on_shutdown,omitempty"`
	// OnFailure is what a machine does whose first boot failed for good: "stay", "poweroff" or "unhealthy".
	OnFailure string `yaml:"on_failure,omitempty"`
	Vault     Vault  `yaml:"vault,omitempty"`
	// PublishLoad has the machine publish once a minute how many of its job slots are busy, for its group to scale on;
	// ProtectBusy has it hold scale-in protection while a job runs (EC2 Auto Scaling).
	PublishLoad *bool `yaml:"publish_load,omitempty"`
	ProtectBusy *bool `yaml:"protect_busy,omitempty"`
	// HealthPort is where health probes on the machine itself (127.0.0.1, ::1) are answered; 0 does not listen.
	HealthPort int `yaml:"health_port,omitempty"`
}

// Vault is the pair of files that DataOps jobs read their secrets from. Existing files are data and never overwritten.
type Vault struct {
	// Path is the directory of vault.yml and vault.salt.
	Path string `yaml:"path,omitempty"`
	// Content and Salt come from a secret where a group of machines shares one vault; otherwise "{}" and 20 random hex characters.
	Content Secret `yaml:"content,omitempty"`
	Salt    Secret `yaml:"salt,omitempty"`
}

// Facts are what a machine knows about itself; Description and Name templates are rendered over them.
type Facts struct {
	Name       string // Spec.Name
	InstanceID string // EC2 instance id, Azure VM id, NoCloud instance-id
	Hostname   string
	Region     string
	Zone       string
}

// SystemID is the name under which GitLab knows a machine among those that share a runner. The same instance always has
// the same one, so a machine that registers again is the same manager.
func SystemID(instanceID string) string {
	sum := sha256.Sum256([]byte("dorunner system id of " + instanceID))
	return "s_" + hex.EncodeToString(sum[:6])
}

// Duration is a time.Duration that reads and writes as "90s".
type Duration time.Duration

// Defaults as the documented procedure has them; the times are ours.
const (
	DefaultImage    = "dataopslive/dataops-runner"
	DefaultJobImage = "dataopslive/dataops-utils-runner"
	DefaultVault    = "/secrets"
)

// Default returns the spec that the documented procedure describes, without name, url and token.
func Default() Spec {
	no := func() *bool { b := false; return &b }
	return Spec{
		Description: "{{.Name}}", Image: DefaultImage, JobImage: DefaultJobImage, Concurrent: 8, CheckInterval: 1,
		RunUntagged: no(), Locked: no(), Debug: no(), DrainOnShutdown: no(), Executor: "docker",
		Volumes:    []string{"/app:/local_config:rw", "/agent_cache:/agent_cache:rw", "/secrets:/secrets:ro"},
		PullPolicy: []string{"always", "if-not-present"}, Register: "container",
		RegisterTimeout: Duration(time.Minute), BootTimeout: Duration(15 * time.Minute), DrainTimeout: Duration(time.Hour),
		OnFailure: "stay", Vault: Vault{Path: DefaultVault},
	}
}
