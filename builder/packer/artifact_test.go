package packer

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	registryimage "github.com/hashicorp/packer-plugin-sdk/packer/registry/image"
	"github.com/hashicorp/packer-plugin-sdk/rpc"

	"github.com/dorunner/dorunner-bake/builder"
)

// TestArtifact is what HCP Packer and post-processors ask of an artifact.
func TestArtifact(t *testing.T) {
	a := &artifact{manifest: &builder.Manifest{Target: "aws", PlanHash: "p", Docker: "28", Base: builder.ManifestBase{OS: "ubuntu", Source: "ami-0"},
		Artifact: builder.Artifact{Images: []builder.ImageID{{Region: "us-east-1", ID: "ami-1"}, {Region: "eu-west-1", ID: "ami-2"}}}}}
	if a.Id() != "us-east-1:ami-1,eu-west-1:ami-2" || len(a.Files()) != 0 {
		t.Errorf("id %s, files %v", a.Id(), a.Files())
	}
	// Packer sees it through the plugin's connection.
	here, there := net.Pipe()
	server, err := rpc.NewServer(there)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.RegisterArtifact(a); err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	client, err := rpc.NewClient(here)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	over := fmt.Sprintf("%s", client.Artifact().State(registryimage.ArtifactStateURI))
	for _, want := range []string{"ImageID:ami-1", "ImageID:ami-2", "ProviderRegion:eu-west-1", "docker:28"} {
		if !strings.Contains(over, want) {
			t.Errorf("over the connection there is no %s: %s", want, over)
		}
	}
	images, ok := a.State(registryimage.ArtifactStateURI).([]*registryimage.Image)
	if !ok || len(images) != 2 {
		t.Fatalf("state %v", a.State(registryimage.ArtifactStateURI))
	}
	var errs []error
	for _, i := range images {
		errs = append(errs, i.Validate())
	}
	if i := images[1]; errors.Join(errs...) != nil || i.ProviderRegion != "eu-west-1" || i.SourceImageID != "ami-0" || i.Labels["plan_hash"] != "p" {
		t.Errorf("%v: %+v", errs, *images[1])
	}
}
