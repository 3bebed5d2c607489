//go:build linux

package main

import (
	"bytes"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/builder/aws/awstest"
	"github.com/dorunner/dorunner-bake/builder/metal/metaltest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

// TestAMIInQEMU bakes an AMI in an instance that really runs, then launches one from it: the real cloud-init finds EC2 and
// its user-data, and the runner comes online.
func TestAMIInQEMU(t *testing.T) {
	if testing.Short() || os.Getenv("DORUNNER_SOAK") == "" {
		t.Skip("boots two machines, one after the other: under DORUNNER_SOAK=1 only")
	}
	if os.Geteuid() != 0 || runtime.GOARCH != "amd64" {
		t.Skip("needs root, for port 22, on amd64")
	}
	dir := t.TempDir()
	base, firstboot, archive, script := metaltest.BaseDisk(t), metaltest.FirstBoot(t, dir), filepath.Join(dir, "images.tar"), filepath.Join(dir, "token.sh")
	if err := standinimage.Archive(t.Context(), archive, runtime.GOARCH); err != nil {
		t.Fatal(err)
	}
	gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{"GR1348941ec2"}})
	gitlab := httptest.NewServer(gl)
	defer gitlab.Close()
	machines := &awstest.QEMU{Dir: dir, Base: base}
	defer machines.Close()
	account := awstest.New(awstest.Options{Dir: dir, Machines: machines, Consistency: time.Second, Regions: []string{"us-east-1"}})
	account.AddBaseImage("us-east-1", "136693071363", "debian-12-amd64-20250316-2053", "x86_64", time.Now().AddDate(0, -1, 0))
	web := httptest.NewServer(account)
	defer web.Close()
	services := serveRegion(t, account)
	// The launched machine has no role, and reads its token from a file.
	if err := os.WriteFile(script, []byte(services.script+"echo GR1348941ec2 >/etc/token\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	run := func(args ...string) (stdout string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "dorunner-bake", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "DORUNNER_STATE_DIR="+filepath.Join(dir, "state"), "NO_COLOR=1", "HOME="+dir, "AWS_ENDPOINT_URL="+web.URL, "AWS_REGION=us-east-1",
			"AWS_ACCESS_KEY_ID=AKIDTEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true")
		var out, progress bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &progress
		began := time.Now()
		err := cmd.Run()
		t.Logf("%s: %v\n%s%s", args[:2], time.Since(began).Round(time.Second), progress.String(), out.String())
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	ami := strings.TrimSpace(run("aws", "--os", "debian-12", "--docker-source", "distro", "--disk", "8", "--allow-small", "--firstboot", firstboot, "--allow-cidr", "198.51.100.7/32",
		"--archive", standinimage.Runner+"="+archive, "--archive", standinimage.Job+"="+archive, "--script", script, "--ssh-timeout", "8m"))
	if !regexp.MustCompile(`^ami-[0-9a-f]{17}$`).MatchString(ami) {
		t.Fatalf("the result is %q", ami)
	}
	if left := account.Left(); len(left) != 2 || !slices.Contains(left, "us-east-1 "+ami+" (image)") {
		t.Errorf("left in the account: %s", left)
	}
	table := run("launch", "aws", "--os", "debian-12", "--disk", "8", "--allow-small", "--runner-name", "dataops-runner-dublin", "--token", "file:/etc/token",
		"--url", strings.Replace(gitlab.URL, "127.0.0.1", awstest.HostInGuest, 1))
	if !regexp.MustCompile(`i-[0-9a-f]{17} +us-east-1a .* dataops-runner-dublin +online +\d+ s`).MatchString(table) {
		t.Errorf("table:\n%s", table)
	}
	fleetInQEMU(t, account, web.URL, gl, strings.Replace(gitlab.URL, "127.0.0.1", awstest.HostInGuest, 1), dir, ami, run)
	for _, c := range account.Complaints() {
		t.Errorf("the service complains: %s", c)
	}
	if t.Failed() {
		for _, f := range []string{"*.log"} {
			logs, _ := filepath.Glob(filepath.Join(dir, f))
			for _, l := range logs {
				text, _ := os.ReadFile(l)
				t.Logf("%s:\n%s", l, text)
			}
		}
	}
}
