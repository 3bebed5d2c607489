package packer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dorunner/dorunner-bake/images"
)

// TestOnePlan: attributes and the spec that says the same make one plan, for every builder.
func TestOnePlan(t *testing.T) {
	program := filepath.Join(t.TempDir(), "firstboot")
	if err := os.WriteFile(program, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	common := map[string]any{"firstboot": program, "os": "debian-12", "docker_source": "distro", "container_images": []string{"alpine:3"},
		"runner": map[string]any{"concurrent": 4, "vault": map[string]any{"path": "/vault"}}}
	image := []images.Override{{Path: "image.os", Value: "debian-12"}, {Path: "image.docker.source", Value: "distro"}, {Path: "image.pull[]", Value: images.Pull{Ref: "alpine:3"}},
		{Path: "runner.concurrent", Value: 4}, {Path: "runner.vault.path", Value: "/vault"}}
	metal, aws, azure := new(Metal), new(AWS), new(Azure)
	for _, tt := range []struct {
		target  string
		more    map[string]any
		over    []images.Override
		prepare func(...any) ([]string, []string, error)
		bakery  *bakery
	}{
		{"metal", map[string]any{"disk_gb": 4, "formats": []string{"raw"}}, []images.Override{{Path: "image.disk_gb", Value: 4}, {Path: "metal.formats", Value: "raw"}}, metal.Prepare, &metal.bakery},
		{"aws", map[string]any{"instance_type": "m6a.xlarge"}, []images.Override{{Path: "aws.sizes", Value: "m6a.xlarge"}}, aws.Prepare, &aws.bakery},
		{"azure", map[string]any{"resource_group_name": "rg"}, []images.Override{{Path: "azure.resource_group", Value: "rg"}}, azure.Prepare, &azure.bakery},
	} {
		raw := map[string]any{}
		for _, m := range []map[string]any{common, tt.more} {
			for k, v := range m {
				raw[k] = v
			}
		}
		if _, _, err := tt.prepare(raw); err != nil {
			t.Fatal(err)
		}
		want, err := images.Resolve(&images.Spec{}, tt.target, images.Options{Overrides: append(tt.over, image...)})
		if err != nil {
			t.Fatal(err)
		}
		if tt.bakery.plan.Hash != want.Hash {
			t.Errorf("%s: two plans:\n%+v\n%+v", tt.target, tt.bakery.plan.Spec, want.Spec)
		}
	}
}
