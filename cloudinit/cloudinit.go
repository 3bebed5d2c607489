// Package cloudinit generates and judges what cloud-init reads: user-data, network configuration and seed media.
package cloudinit

import (
	"github.com/dorunner/dorunner-bake/cloudinit/lint"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// RunnerFile is where a machine reads who it is.
const RunnerFile = lint.RunnerFile

// UserDataOptions are what UserData may be told beside the runner.
type UserDataOptions struct {
	AllowPlain bool // write literal secrets
}

// UserData is the #cloud-config that tells a baked image who it is: it writes the runner spec to
// /etc/dorunner/runner.yaml (0600) and nothing else.
func UserData(s runner.Spec, o UserDataOptions) ([]byte, error) {
	content, err := runner.Encode(s, runner.EncodeOptions{AllowPlain: o.AllowPlain})
	if err != nil {
		return nil, err
	}
	return Document{WriteFiles: []WriteFile{NewWriteFile(RunnerFile, "0600", content)}}.Encode()
}
