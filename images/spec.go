// Package images turns what an author wrote (Spec, the file dorunner.yaml) into everything decided (Plan). It is
// the only home of defaults, rules and catalogues: base operating systems per cloud, machine sizes, container images.
package images

import (
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Spec is dorunner.yaml. Every key is optional in the file; Resolve fills in the documented defaults or says why it cannot.
type Spec struct {
	Runner runner.Spec `yaml:"runner"`
	Image  Image       `yaml:"image"`
	AWS    AWS         `yaml:"aws"`
	Azure  Azure       `yaml:"azure"`
	Metal  Metal       `yaml:"metal"`
	Fleet  Fleet       `yaml:"fleet"`

	source *source // where each key stands; nil for a spec that no file was read for
}

// Image is what goes into an image, whatever the target.
type Image struct {
	Name   string   `yaml:"name"` // template over OS, Arch, Hash, Date; default "dorunner-{{.OS}}-{{.Hash}}"
	OS     string   `yaml:"os"`   // a row of the catalogue: ubuntu-20.04 (default), ubuntu-22.04, ubuntu-24.04, debian-12
	Arch   string   `yaml:"arch"` // amd64 (default) or arm64
	Docker Docker   `yaml:"docker"`
	Pull   []Pull   `yaml:"pull"`     // prepulled besides the runner's image and job image; archives may stand in for those
	Login  Registry `yaml:"registry"` // login for pulling; never kept in the image
	// Scripts are the author's own, local files run as root in order after provisioning and before the proof.
	Scripts   []string `yaml:"scripts"`
	DiskGB    int      `yaml:"disk_gb"`    // size of the root disk in GiB; default 50 in clouds, 8 for metal files (they grow at first boot)
	AdminUser string   `yaml:"admin_user"` // member of group docker; default the base's own (ubuntu, debian)
}

// Docker says which Docker Engine is installed.
type Docker struct {
	Source  string `yaml:"source"`  // docker (Docker's apt repository, default), distro (docker.io), or the URL of a mirror of Docker's
	Version string `yaml:"version"` // an apt version or its beginning ("26.1"); the newest when empty
}

// Pull is one container image to have in the machine image.
type Pull struct {
	Ref     string `yaml:"ref" json:"ref"`                   // repository[:tag][@sha256:...]
	Archive string `yaml:"archive" json:"archive,omitempty"` // a local docker-archive file that holds Ref, loaded instead of pulled
}

// Registry is a login that lasts for the bake.
type Registry struct {
	Server   string        `yaml:"server"` // default docker.io
	Username string        `yaml:"username"`
	Password runner.Secret `yaml:"password"`
}
