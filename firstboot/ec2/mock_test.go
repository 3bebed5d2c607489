package ec2_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/ec2"
)

// An outside judge of what metadata looks like: AWS's own mock, over the wire, with IMDSv2 only.
func TestAgainstMetadataMock(t *testing.T) {
	if testing.Short() {
		t.Skip("builds ec2-metadata-mock")
	}
	mock := filepath.Join(t.TempDir(), "ec2-metadata-mock")
	build := exec.Command("go", "build", "-o", mock, "github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock")
	build.Dir = "testdata/mock"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the mock: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, mock, "--imdsv2", "--hostname", "127.0.0.1", "--port", port)
	run.Env = append(os.Environ(), "HOME="+t.TempDir())
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = run.Wait() // killed
	}()

	p := ec2.New(ec2.Options{Metadata: &http.Transport{DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		if to != "169.254.169.254:80" {
			return nil, errors.New("no route to host")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}})
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
