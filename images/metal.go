package images

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Metal is the target that bakes disk images on this machine.
type Metal struct {
	Method     string   `yaml:"method"`      // offline (default on Linux as root) or vm
	Base       string   `yaml:"base"`        // FILE or URL of a base disk, instead of the catalogue's
	BaseSHA256 string   `yaml:"base_sha256"` // required for a URL
	Formats    []string `yaml:"formats"`     // of qcow2 (default), raw, vhd
	Platform   string   `yaml:"platform"`    // nocloud (default), aws, azure: which first boot is baked in
	Output     string   `yaml:"output"`      // directory of every target's results; default out
	Accel      string   `yaml:"accel"`       // auto (default), kvm, tcg
	CPUs       int      `yaml:"cpus"`        // of the machine that bakes (vm) and of launched ones; default 2
	MemoryGB   int      `yaml:"memory_gb"`   // likewise, GiB; default 2 for baking, 8 for launching
	SSHPort    int      `yaml:"ssh_port"`    // loopback port of the vm method; 0 chooses a free one
	// SSHTimeout bounds the wait for the machine to answer (vm).
	SSHTimeout runner.Duration `yaml:"ssh_timeout"`
}

// metalTarget is the row of the metal target. The baked disk is small and grows to its machine's at first boot, so the
// documented 50 GB bind the launched machine, not the file; likewise cpus and memory_gb bind only where a runner is launched.
var metalTarget = target{
	platform: func(s *Spec) string { return s.Metal.Platform },
	arch:     func(*Spec) string { return Arches[0] },
	defaults: func(s *Spec, o Options) {
		m := Metal{
			Method: "vm", Formats: []string{"qcow2"}, Platform: "nocloud", Accel: "auto",
			CPUs: 2, MemoryGB: 2, SSHTimeout: runner.Duration(10 * time.Minute),
		}
		if runtime.GOOS == "linux" && runtime.GOARCH == s.Image.Arch && os.Geteuid() == 0 {
			m.Method = "offline"
		}
		if o.Launch {
			m.CPUs, m.MemoryGB = pilot.CPUs, pilot.MemoryGB
		}
		fill(reflect.ValueOf(&s.Metal).Elem(), reflect.ValueOf(m))
		fill(reflect.ValueOf(&s.Image).Elem(), reflect.ValueOf(Image{DiskGB: 8}))
	},
	files: func(s *Spec) []*string { return []*string{&s.Metal.Base} },
	base: func(s *Spec) string {
		switch m := s.Metal; {
		case m.Base == "" || m.BaseSHA256 != "":
			return m.BaseSHA256
		default: // a file: by name, size and time of change
			info, err := os.Stat(m.Base)
			if err != nil { // reported by the rules
				return m.Base
			}
			return fmt.Sprintf("%s %d %d", filepath.Base(m.Base), info.Size(), info.ModTime().UnixNano())
		}
	},
	check: func(r *rules) Size {
		m := r.spec.Metal
		r.oneOf("metal.method", m.Method, "offline", "vm")
		r.oneOf("metal.platform", m.Platform, "nocloud", "aws", "azure")
		r.oneOf("metal.accel", m.Accel, "auto", "kvm", "tcg")
		each("metal.formats", m.Formats, func(path, v string) { r.oneOf(path, v, "qcow2", "raw", "vhd") })
		r.between("metal.cpus", m.CPUs, 1, 256, " cores")
		r.between("metal.memory_gb", m.MemoryGB, 1, 4096, " GB")
		r.between("metal.ssh_port", m.SSHPort, 0, 65535, "")
		if m.SSHTimeout < 0 {
			r.bad("metal.ssh_timeout", "the duration is negative", "")
		}
		r.metalBase()
		size := Size{CPUs: m.CPUs, MemoryGB: m.MemoryGB, Arch: r.spec.Image.Arch}
		if r.Launch {
			path := "metal.cpus"
			if m.CPUs >= pilot.CPUs && m.MemoryGB < pilot.MemoryGB {
				path = "metal.memory_gb"
			}
			r.bigEnough(path, size)
		}
		return size
	},
}

const sha256Form = form(`^[0-9a-fA-F]{64}$`)

// metalBase checks a base disk of the author's own.
func (r *rules) metalBase() {
	m := r.spec.Metal
	r.matches("metal.base_sha256", m.BaseSHA256, sha256Form, "a SHA-256", "write its 64 hexadecimal digits")
	switch {
	case m.Base == "":
		if m.BaseSHA256 != "" {
			r.bad("metal.base_sha256", "there is no metal.base that this could be the SHA-256 of", "the catalogue's disks are checked against their published ones")
		}
	case isURL(m.Base):
		if !strings.HasPrefix(m.Base, "https://") && !strings.HasPrefix(m.Base, "http://") {
			r.bad("metal.base", fmt.Sprintf("%q is neither a file nor an http or https address", m.Base), "")
		}
		if m.BaseSHA256 == "" {
			r.bad("metal.base", "a disk from an address needs its SHA-256", "add metal.base_sha256, or --base-sha256")
		}
	default:
		info, err := os.Stat(m.Base)
		if err != nil {
			r.bad("metal.base", fmt.Sprintf("the base disk cannot be read: %v", plainFileError(err)), "name a disk image, or leave metal.base out for the catalogue's")
		} else if !info.Mode().IsRegular() {
			r.bad("metal.base", fmt.Sprintf("%s is no file", m.Base), "name a disk image")
		}
	}
}
