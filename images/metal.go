package images

import "github.com/dorunner/dorunner-bake/firstboot/runner"

// Metal is the target that bakes disk images on this machine.
type Metal struct {
	Method     string   `yaml:"method"`      // offline (default on Linux as root) or vm
	Base       string   `yaml:"base"`        // FILE or URL of a base disk, instead of the catalogue's
	BaseSHA256 string   `yaml:"base_sha256"` // required for a URL
	Formats    []string `yaml:"formats"`     // of qcow2 (default), raw, vhd
	Platform   string   `yaml:"platform"`    // nocloud (default), aws, azure: which first boot is baked in
	Output     string   `yaml:"output"`      // directory; default out
	Accel      string   `yaml:"accel"`       // auto (default), kvm, tcg
	CPUs       int      `yaml:"cpus"`        // of the machine that bakes (vm) and of launched ones; default 2
	MemoryGB   int      `yaml:"memory_gb"`   // likewise, GiB; default 2 for baking
	SSHPort    int      `yaml:"ssh_port"`    // loopback port of the vm method; 0 chooses a free one
	// SSHTimeout bounds the wait for the machine to answer (vm).
	SSHTimeout runner.Duration `yaml:"ssh_timeout"`
}
