package images

// Fleet is a group of identical runners on a cloud's own autoscaling engine.
type Fleet struct {
	Name             string   `yaml:"name"`
	Min              int      `yaml:"min"`
	Max              int      `yaml:"max"`
	Desired          int      `yaml:"desired"`
	Sizes            []string `yaml:"sizes"`
	SpotShare        int      `yaml:"spot_share"` // percent of the machines above min
	Subnets          []string `yaml:"subnets"`
	Image            string   `yaml:"image"`                      // latest (default) or an image id
	VolumeRate       int      `yaml:"volume_initialization_rate"` // MiB/s, 100 to 300; 0 leaves it off
	InstanceProfile  string   `yaml:"instance_profile"`
	ProtectWhileBusy bool     `yaml:"protect_while_busy"`
	Schedule         []string `yaml:"schedule"`
}
