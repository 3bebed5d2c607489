package images

// Azure is the target that bakes managed images and gallery versions.
type Azure struct {
	Subscription  string            `yaml:"subscription"`
	Location      string            `yaml:"location"`
	ResourceGroup string            `yaml:"resource_group"`
	Sizes         []string          `yaml:"sizes"` // in order of preference; default [Standard_D4as_v5]
	Gallery       string            `yaml:"gallery"`
	Definition    string            `yaml:"definition"`
	Version       string            `yaml:"version"` // auto (default) or MAJOR.MINOR.PATCH
	ReplicateTo   []string          `yaml:"replicate_to"`
	ManagedImage  string            `yaml:"managed_image"`
	Subnet        string            `yaml:"subnet"`
	PrivateIP     bool              `yaml:"private_ip"`
	AllowCIDR     string            `yaml:"allow_cidr"`
	TrustedLaunch bool              `yaml:"trusted_launch"`
	TestBoot      bool              `yaml:"test_boot"`
	Keep          int               `yaml:"keep"`
	Tags          map[string]string `yaml:"tags"`
	FromVHD       string            `yaml:"from_vhd"`
	Cloud         string            `yaml:"cloud"` // public (default), government, china
	Auth          string            `yaml:"auth"`  // default, cli, environment, managed-identity, workload-identity
}
