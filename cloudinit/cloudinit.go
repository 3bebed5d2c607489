// Package cloudinit generates and judges what cloud-init reads: user-data, network configuration and seed media.
package cloudinit

import (
	"errors"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Meta is the NoCloud meta-data of one machine.
type Meta struct {
	InstanceID    string // required: without it every clone is the same machine to cloud-init
	LocalHostname string
}

// UserDataOptions are what UserData may be told beside the runner.
type UserDataOptions struct {
	AllowPlain bool // write literal secrets
}

// UserData is the #cloud-config that tells a baked image who it is: it writes the runner spec to
// /etc/dorunner/runner.yaml (0600) and nothing else.
func UserData(s runner.Spec, o UserDataOptions) ([]byte, error) {
	return nil, errors.New("cloudinit: not built yet")
}

// WriteSeed writes a NoCloud seed ISO (label CIDATA) to file, whole or not at all. networkConfig may be nil.
func WriteSeed(file string, m Meta, userData, networkConfig []byte) error {
	return errors.New("cloudinit: not built yet")
}
