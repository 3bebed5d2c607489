package nocloud_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/nocloud"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

func TestIdentity(t *testing.T) {
	const machine = "0123456789abcdef0123456789abcdef\n"
	for _, tt := range []struct {
		name           string
		files          map[string]string
		id, host, fail string
	}{
		{"cloud-init is up", map[string]string{"run/cloud-init/instance-data.json": `{"v1":{"instance_id":"iid-1","local_hostname":"box"},"ds":{}}`, "var/lib/cloud/data/instance-id": "iid-old\n"}, "iid-1", "box", ""},
		{"cloud-init is switched off", map[string]string{"var/lib/cloud/data/instance-id": "iid-2\n", "etc/hostname": "box\n"}, "iid-2", "box", ""},
		{"a seed without an id", map[string]string{"run/cloud-init/instance-data.json": `{"v1":{"instance_id":"nocloud"}}`, "etc/machine-id": machine}, "nocloud-", "", ""},
		{"no datasource", map[string]string{"var/lib/cloud/data/instance-id": "iid-datasource-none", "etc/machine-id": machine}, "nocloud-", "", ""},
		{"nothing", map[string]string{"etc/machine-id": "uninitialized\n"}, "", "", "instance-id"},
		{"broken", map[string]string{"run/cloud-init/instance-data.json": `{"v1":`}, "", "", "instance-data.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range tt.files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := nocloud.New(root).Identity(t.Context())
			if tt.fail != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fail) {
					t.Fatalf("%+v %v, want an error about %q", got, err, tt.fail)
				}
				return
			}
			if err != nil || !strings.HasPrefix(got.InstanceID, tt.id) || got.Hostname != tt.host || strings.Contains(got.InstanceID, "0123456789ab") {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
}

func TestSecretIsAFinalFailure(t *testing.T) {
	ref, err := runner.ParseSecret("ssm:/token")
	if err != nil {
		t.Fatal(err)
	}
	_, err = nocloud.New("/").Secret(t.Context(), ref)
	var f *firstboot.Failure
	if !errors.As(err, &f) || !f.Final || f.Hint == "" {
		t.Errorf("%v", err)
	}
}
