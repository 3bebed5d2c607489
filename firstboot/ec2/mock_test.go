package ec2_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/ec2"
	"github.com/dorunner/dorunner-bake/firstboot/ec2/ec2test"
)

// An outside judge of what metadata looks like: AWS's own mock, over the wire, with IMDSv2 only.
func TestAgainstMetadataMock(t *testing.T) {
	if testing.Short() {
		t.Skip("builds ec2-metadata-mock")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := ec2.New(ec2.Options{Metadata: ec2test.Mock(t, "", nil)})
	id, err := p.Identity(ctx) // retries until the mock listens
	if err != nil || !strings.HasPrefix(id.InstanceID, "i-") || id.Region == "" || !strings.HasPrefix(id.Zone, id.Region) || id.Hostname == "" {
		t.Fatalf("%+v %v", id, err)
	}
	var kinds []string
	notices := p.Notices(ctx)
	for range 2 {
		select {
		case n := <-notices:
			kinds = append(kinds, n.Kind)
			if n.Kind == "spot" && (n.Deadline.Before(time.Now()) || n.Deadline.After(time.Now().Add(3*time.Minute))) {
				t.Errorf("the interruption is told for %s", n.Deadline)
			}
		case <-ctx.Done():
			t.Fatalf("told of %q only", kinds)
		}
	}
	slices.Sort(kinds)
	if strings.Join(kinds, " ") != "lifecycle spot" {
		t.Errorf("%q", kinds)
	}
}
