// Package nocloud is a machine without a cloud: bare metal, a virtual machine with a seed ISO. It is told its
// instance id by cloud-init, and has neither a secret store nor a word about its end.
package nocloud

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// Where cloud-init writes down what it found. The first is made at each boot, the second outlives cloud-init.
const (
	instanceData = "/run/cloud-init/instance-data.json"
	instanceID   = "/var/lib/cloud/data/instance-id"
	machineID    = "/etc/machine-id"
)

// Platform reads the files below a root directory, "/" on a machine.
type Platform struct{ root string }

// New makes the platform.
func New(root string) *Platform { return &Platform{root} }

// Name is the word in /etc/dorunner/platform.
func (*Platform) Name() string { return "nocloud" }

// Identity is cloud-init's instance-id. Where a seed names none, every clone has the same one, so this machine's
// machine-id is put behind it: hashed, because machine-id(5) asks that it is not shown.
func (p *Platform) Identity(context.Context) (firstboot.Identity, error) {
	var data struct {
		V1 struct {
			InstanceID string `json:"instance_id"`
			Hostname   string `json:"local_hostname"`
		} `json:"v1"`
	}
	b, err := p.read(instanceData)
	if err != nil {
		return firstboot.Identity{}, err
	}
	if b != "" {
		if err := json.Unmarshal([]byte(b), &data); err != nil {
			return firstboot.Identity{}, fmt.Errorf("%s: %w", instanceData, err)
		}
	}
	id := firstboot.Identity{InstanceID: data.V1.InstanceID, Hostname: data.V1.Hostname}
	if id.InstanceID == "" {
		if id.InstanceID, err = p.read(instanceID); err != nil {
			return id, err
		}
	}
	if id.Hostname == "" {
		if id.Hostname, err = p.read("/etc/hostname"); err != nil {
			return id, err
		}
	}
	switch id.InstanceID {
	case "", "nocloud", "iid-datasource-none":
		machine, err := p.read(machineID)
		if err != nil {
			return id, err
		}
		if machine == "" || machine == "uninitialized" {
			return id, &firstboot.Failure{Err: errors.New("this machine has neither an instance-id nor a machine-id"), Final: true,
				Hint: "give the seed's meta-data an instance-id of its own for every machine"}
		}
		mac := hmac.New(sha256.New, []byte(machine))
		mac.Write([]byte("dorunner"))
		id.InstanceID = "nocloud-" + hex.EncodeToString(mac.Sum(nil))[:12]
	}
	return id, nil
}

// Secret says that there is no store here.
func (*Platform) Secret(_ context.Context, ref runner.Secret) (string, error) {
	return "", &firstboot.Failure{Err: fmt.Errorf("%s: a machine without a cloud has no %s", ref, ref.Scheme()), Final: true, Hint: "use file:, env: or credential:"}
}

// Notices is nil: nobody announces the end of such a machine.
func (*Platform) Notices(context.Context) <-chan firstboot.Notice { return nil }

// read gives a file's text without the white space around it; nothing when there is none.
func (p *Platform) read(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.root, path))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}
