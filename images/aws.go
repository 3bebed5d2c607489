package images

// AWS is the target that bakes AMIs, in a temporary instance or from a disk of the metal target.
type AWS struct {
	Region          string            `yaml:"region"`     // default: the SDK's own chain
	Sizes           []string          `yaml:"sizes"`      // in order of preference; default [t3a.xlarge]
	BaseImage       string            `yaml:"base_image"` // an AMI id, instead of the newest of Canonical's
	CopyTo          []string          `yaml:"copy_to"`
	Share           []string          `yaml:"share"` // account ids or organization ARNs
	KMSKey          string            `yaml:"kms_key"`
	Subnet          string            `yaml:"subnet"`
	SecurityGroup   string            `yaml:"security_group"`
	InstanceProfile string            `yaml:"instance_profile"`
	Spot            bool              `yaml:"spot"`
	AllowCIDR       string            `yaml:"allow_cidr"` // who may reach the builder's SSH; default the caller's /32
	PrivateIP       bool              `yaml:"private_ip"`
	SSHHost         string            `yaml:"ssh_host"`
	SSHPort         int               `yaml:"ssh_port"`
	Keep            int               `yaml:"keep"`    // images to keep of this name; 0 keeps all
	Publish         string            `yaml:"publish"` // an SSM parameter that gets the image id, last
	TestBoot        bool              `yaml:"test_boot"`
	Tags            map[string]string `yaml:"tags"`
	FromDisk        string            `yaml:"from_disk"` // a disk of the metal target, published by the EBS direct APIs
}
