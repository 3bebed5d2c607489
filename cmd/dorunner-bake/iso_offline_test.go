package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dorunner/dorunner-bake/builder/metal/metaltest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// dockerDebian are the packages that a plain debian-12 lacks to run Docker Engine.
var dockerDebian = []string{"docker.io", "containerd", "runc", "tini", "lsb-base", "libdevmapper1.02.1", "dmsetup"}

// init makes the test program, with DORUNNER_TEST_FORWARD set, one connection of a guest: QEMU starts it for each.
func init() {
	to := os.Getenv("DORUNNER_TEST_FORWARD")
	if to == "" {
		return
	}
	c, err := net.Dial("tcp", to)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(c, os.Stdin)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(os.Stdout, c)
	os.Exit(0)
}

// TestOfflineISO boots a plain debian-12 disk with an --offline seed and no network but the GitLab server. It must end with
// a runner online. DORUNNER_SOAK=1 runs it: it takes minutes.
func TestOfflineISO(t *testing.T) {
	if os.Getenv("DORUNNER_SOAK") == "" {
		t.Skip("set DORUNNER_SOAK=1 to boot a machine from an offline seed")
	}
	dir := t.TempDir()
	run := func(in string, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = in, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	debs := filepath.Join(dir, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		t.Fatal(err)
	}
	run(debs, "apt-get", append([]string{"download", "-q"}, dockerDebian...)...)
	firstBoot, archive := metaltest.FirstBoot(t, dir), filepath.Join(dir, "runner.tar")
	if err := standinimage.Archive(t.Context(), archive, "amd64"); err != nil {
		t.Fatal(err)
	}

	gitlab := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{"GR1348941offline-test"}})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: gitlab, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	spec := filepath.Join(dir, "dorunner.yaml")
	text := fmt.Sprintf(`runner:
  name: offline-1
  description: "{{.Name}}-{{.InstanceID}}"
  url: http://10.0.2.100
  token: GR1348941offline-test
image:
  os: debian-12
  arch: amd64
  pull:
    - {ref: %q, archive: %q}
    - {ref: %q, archive: %q}
`, strings.TrimSuffix(standinimage.Runner, ":latest"), archive, strings.TrimSuffix(standinimage.Job, ":latest"), archive)
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	seed := filepath.Join(dir, "seed.iso")
	var stdout, stderr bytes.Buffer
	if code := Main(t.Context(), []string{"iso", "-f", spec, "--offline", "--packages", debs, "--firstboot", firstBoot, "--allow-plain-secrets", "-o", seed},
		streams{strings.NewReader(""), &stdout, &stderr}); code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}

	disk, console := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "console")
	run("", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", metaltest.BaseDisk(t), disk, "6G")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	machine := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max",
		"-smp", "2", "-m", "2G", "-display", "none", "-serial", "file:"+console,
		"-drive", "if=virtio,format=qcow2,cache=unsafe,file="+disk, "-drive", "if=virtio,format=raw,readonly=on,file="+seed,
		// restrict=on: the guest reaches nothing; the one address it does is the GitLab server.
		"-netdev", "user,id=n,restrict=on,guestfwd=tcp:10.0.2.100:80-cmd:"+self,
		"-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-rng-pci")
	machine.Env = append(os.Environ(), "DORUNNER_TEST_FORWARD="+listener.Addr().String())
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- machine.Wait() }()
	defer func() { cancel(); <-ended }()

	var last runner.Report
	for last.State != runner.Online {
		select {
		case err := <-ended:
			ended <- nil
			t.Fatalf("the machine ended: %v", err)
		case <-ctx.Done():
			b, _ := os.ReadFile(console)
			t.Fatalf("no runner came online; last report %+v\n%s", last, b[max(0, len(b)-8000):])
		case <-time.After(time.Second):
		}
		b, _ := os.ReadFile(console)
		for line := range strings.Lines(string(b)) {
			if r, ok := runner.ParseConsoleLine(line); ok {
				last = r
			}
		}
		if last.State == runner.Failed {
			t.Fatalf("first boot failed: %s\n%s", last.Error, b[max(0, len(b)-8000):])
		}
	}
	if gitlab.Count("POST", "/runners") != 1 || gitlab.Count("POST", "/jobs/request") == 0 || len(gitlab.Problems()) > 0 {
		t.Errorf("GitLab saw %d registrations and %d polls; problems %q", gitlab.Count("POST", "/runners"), gitlab.Count("POST", "/jobs/request"), gitlab.Problems())
	}
	t.Logf("online %.0f s after power-on, first poll %.1f s after first boot began", last.Uptime, last.FirstPoll)
}
