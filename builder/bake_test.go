package builder

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/images"
)

func TestBake(t *testing.T) {
	for _, offline := range []bool{false, true} {
		t.Run(fmt.Sprintf("offline=%v", offline), func(t *testing.T) {
			r := newRig(t, offline)
			var customized Guest
			r.o.Customize = func(_ context.Context, g Guest) (bool, error) { customized = g; return false, nil }
			m, err := r.bake(t.Context())
			if err != nil {
				t.Fatalf("%v\n%s", err, r.log)
			}
			ready, proof := "wait.sh", "dorunner-firstboot selftest"
			want := []string{"preflight", "find", "create key", "create instance", "connect", ready, "docker.sh install", "install.sh",
				"download /etc/cloud/cloud.cfg", "upload /etc/cloud/cloud.cfg.d/95-dorunner.cfg", "docker load", "docker image", "pull.sh",
				"upload /var/tmp/dorunner-0-extra.sh", "sh", "prove.sh", proof, "facts.sh", "seal-and-audit.sh", "stop", "create image",
				"create instance", "selftest", "share"}
			if offline {
				want = slices.Delete(want, 5, 6)
				want = slices.Insert(want, slices.Index(want, "docker load"), "start docker")
				want = slices.Insert(want, slices.Index(want, "seal-and-audit.sh"), "stop docker")
			}
			if got := strings.Join(r.calls, "\n"); got != strings.Join(want, "\n") {
				t.Errorf("called:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
			}
			if customized == nil {
				t.Error("Customize was not called")
			}
			if got, want := r.left(t), []string{"image ami-new", r.out, filepath.Join(r.out, ManifestFile), filepath.Join(r.out, ReportFile)}; !slices.Equal(got, sorted(want)) {
				t.Errorf("left: %v", got)
			}
			if m.Docker != "20.10.24" || len(m.Packages) != 1 || len(m.Containers) != 2 || m.Containers[1].Digest != cannedDigest ||
				m.Sizes["root_used"] != 4096 || m.Sizes["ami"] != 7 || m.Base.Source != "ami-base" || len(m.Audit) != 0 || len(m.FirstBoot) != 64 {
				t.Errorf("manifest: %+v", m)
			}
			if m.PlanHash == r.plan.Hash {
				t.Error("the plan hash leaves out the first-boot program")
			}
			var onDisk Manifest
			data, err := os.ReadFile(filepath.Join(r.out, ManifestFile))
			if err == nil {
				err = json.Unmarshal(data, &onDisk)
			}
			if err != nil || onDisk.PlanHash != m.PlanHash || onDisk.Artifact.Images[0].ID != "ami-new" {
				t.Errorf("manifest.json: %v\n%s", err, data)
			}
			if got := r.guest.stdin["docker load"]; got != "an archive" {
				t.Errorf("docker load got %q", got)
			}
			if got := r.guest.files["/etc/cloud/cloud.cfg.d/95-dorunner.cfg"]; !strings.Contains(got, "- sudo") || !strings.Contains(got, "- docker") {
				t.Errorf("the admin user's groups:\n%s", got)
			}
		})
	}
}

func sorted(s []string) []string { slices.Sort(s); return s }

// The registry's password goes through standard input alone, and the audit looks for it.
func TestPasswordGoesNowhereElse(t *testing.T) {
	r := newRig(t, true)
	if _, err := r.bake(t.Context()); err != nil {
		t.Fatal(err)
	}
	const canary = "canary-password"
	for name, in := range r.guest.stdin {
		if has, may := strings.Contains(in, canary), name == "pull.sh" || name == "seal-and-audit.sh"; has != may {
			t.Errorf("standard input of %s: %v", name, has)
		}
		if seen := fmt.Sprint(r.guest.args[name], r.guest.env[name]); strings.Contains(seen, canary) {
			t.Errorf("%s got it as argument or environment", name)
		}
	}
	for path, data := range r.guest.files {
		if strings.Contains(data, canary) {
			t.Errorf("%s holds it", path)
		}
	}
	manifest, _ := os.ReadFile(filepath.Join(r.out, ManifestFile))
	report, _ := os.ReadFile(filepath.Join(r.out, ReportFile))
	if strings.Contains(r.log.String()+string(manifest)+string(report), canary) {
		t.Error("it was printed")
	}
}

// Whatever fails, and whenever the bake is cancelled, nothing is left.
func TestNothingIsLeftAtAnyFailure(t *testing.T) {
	for _, offline := range []bool{false, true} {
		r := newRig(t, offline)
		if _, err := r.bake(t.Context()); err != nil {
			t.Fatal(err)
		}
		whole := r.calls
		for n := 1; n <= len(whole); n++ {
			for _, cancels := range []bool{false, true} {
				t.Run(fmt.Sprintf("offline=%v/cancel=%v/%d %s", offline, cancels, n, filepath.Base(whole[n-1])), func(t *testing.T) {
					r := newRig(t, offline)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					r.fail = n
					if cancels {
						r.at = cancel
					}
					_, err := r.bake(ctx)
					tolerated := whole[n-1] == "download /etc/cloud/cloud.cfg" && !cancels // then the user is made here
					switch want := map[bool]error{false: errInjected, true: context.Canceled}[cancels]; {
					case tolerated:
						if err != nil {
							t.Errorf("error %v", err)
						}
						return
					case !errors.Is(err, want):
						t.Errorf("error %v", err)
					}
					if got := r.left(t); len(got) > 0 {
						t.Errorf("left: %v\n%s", got, r.log)
					}
					if made := n > slices.Index(whole, "create instance")+1; made != strings.Contains(r.log.String(), "removed instance i-1") {
						t.Errorf("what was removed is not told:\n%s", r.log)
					}
				})
			}
		}
	}
}

func TestFailureTellsWhatWasRemovedAndShowsTheConsole(t *testing.T) {
	r := newRig(t, false)
	r.fail = 5 // connect
	_, err := r.bake(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "launch: connect") {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"launch failed after", "console ended with:\nkernel panic", "removed instance i-1", "removed key k-1"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("not told: %q in\n%s", want, r.log)
		}
	}
}

func TestFailingScriptIsNamedWithItsOutput(t *testing.T) {
	r := newRig(t, false)
	r.guest.exit["sh"], r.guest.answer["sh"] = 3, "no such package\n"
	_, err := r.bake(t.Context())
	if err == nil || err.Error() != "customize: scripts/extra.sh: script: exit status 3:\n    no such package" {
		t.Errorf("error: %v", err)
	}
	if strings.Contains(r.log.String(), "kernel panic") {
		t.Error("the console is shown for a script's own failure")
	}
}

func TestAuditFindingFailsTheBakeAndNamesTheFile(t *testing.T) {
	r := newRig(t, false)
	r.guest.answer["seal-and-audit.sh"] = "root_used 1\naudit\n/root/.ssh/id_rsa\tprivate key\n"
	_, err := r.bake(t.Context())
	if err == nil || !strings.Contains(err.Error(), "seal: ") || !strings.Contains(err.Error(), "/root/.ssh/id_rsa: private key") {
		t.Errorf("error: %v", err)
	}
	if got := r.left(t); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

func TestErrorsOfCloudInitAreWarnings(t *testing.T) {
	r := newRig(t, false)
	r.guest.answer["wait.sh"] = "status: error\nwarning: cloud-init ended with errors: locale\n"
	m, err := r.bake(t.Context())
	if err != nil || len(m.Warnings) != 1 || m.Warnings[0] != "cloud-init ended with errors: locale" {
		t.Errorf("%v, warnings %q", err, m.Warnings)
	}
}

func TestUnchangedImageIsTheResult(t *testing.T) {
	r := newRig(t, false)
	r.found = true
	m, err := r.bake(t.Context())
	if err != nil || !m.Artifact.Reused || m.Artifact.Images[0].ID != "ami-old" || len(r.calls) != 2 {
		t.Errorf("%+v, %v, calls %v", m, err, r.calls)
	}
	if got := r.left(t); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	r = newRig(t, false)
	r.found, r.o.Force = true, true
	if m, err := r.bake(t.Context()); err != nil || m.Artifact.Reused {
		t.Errorf("forced: %+v, %v", m, err)
	}
}

func TestDryRunCreatesNothing(t *testing.T) {
	r := newRig(t, false)
	r.o.DryRun = true
	if _, err := r.bake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.left(t); len(got) > 0 || len(r.calls) != 2 {
		t.Errorf("left %v, calls %v", got, r.calls)
	}
}

// elsewhere is a fake cloud whose disk was baked before.
type elsewhere struct{ *fakeCloud }

func (elsewhere) BakedElsewhere() (*Manifest, bool) {
	return &Manifest{PlanHash: "p", Docker: "1", Sizes: map[string]int64{}, Steps: []ManifestStep{{Name: "earlier"}}}, true
}

func TestBakedElsewhereGoesStraightToCapture(t *testing.T) {
	r := newRig(t, false)
	r.o.FirstBoot = "" // not needed
	m, err := Bake(t.Context(), r.plan, elsewhere{r.fakeCloud}, r.o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"preflight", "find", "create image", "create instance", "selftest", "share"}; !slices.Equal(r.calls, want) {
		t.Errorf("calls %v", r.calls)
	}
	if m.Docker != "1" || m.Target != "fake" || m.Steps[0].Name != "earlier" || m.Steps[len(m.Steps)-1].Name != "distribute" {
		t.Errorf("manifest %+v", m)
	}
}

// The next bake gives back what a killed one left.
func TestKilledBakeIsCleanedByTheNext(t *testing.T) {
	r := newRig(t, false)
	file, err := LedgerFile("bake-0")
	if err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, file)
	r.have["instance i-0"] = struct{}{}
	if err := errors.Join(l.Record(Entry{Kind: "instance", ID: "i-0"}, nil), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.bake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, there := r.have["instance i-0"]; there || !strings.Contains(r.log.String(), "cleared up instance i-0, left by a bake that was killed") {
		t.Errorf("have %v\n%s", r.have, r.log)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old ledger is left: %v", err)
	}
}

func TestPreflightSaysAllAtOnce(t *testing.T) {
	r := newRig(t, false)
	r.o.FirstBoot = filepath.Join(t.TempDir(), "absent")
	r.plan.Spec.Image.Login.Password = mustSecret(t, "env:NO_SUCH_VARIABLE_HERE")
	r.plan.Containers = append(r.plan.Containers, images.Pull{Ref: "x:1", Archive: "/no/such/archive.tar"})
	r.fail = 1
	_, err := r.bake(t.Context())
	for _, want := range []string{"first-boot program", "NO_SUCH_VARIABLE_HERE is not set", "archive of x:1", "injected"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if len(r.calls) != 1 {
		t.Errorf("went on: %v", r.calls)
	}
}

func mustSecret(t *testing.T, s string) runner.Secret {
	t.Helper()
	got, err := runner.ParseSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFirstBootForAnotherMachineIsRefused(t *testing.T) {
	r := newRig(t, false)
	r.plan.Spec.Image.Arch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[r.plan.Spec.Image.Arch]
	if _, err := r.bake(t.Context()); err == nil || !strings.Contains(err.Error(), "the image is for "+r.plan.Spec.Image.Arch) {
		t.Errorf("error: %v", err)
	}
}

func TestFilesOfFirstBoot(t *testing.T) {
	r := newRig(t, false)
	r.plan.Spec.Runner.Name, r.plan.Spec.Runner.Token = "somebody", runner.Plain("glrt-secret")
	if _, err := r.bake(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := untar(t, r.guest.stdin["install.sh"])
	if got["etc/dorunner/platform"] != "nocloud\n" || !strings.Contains(got["etc/dorunner/defaults.yaml"], "concurrent: 8") {
		t.Errorf("files: %v", got)
	}
	if strings.Contains(got["etc/dorunner/defaults.yaml"], "somebody") || strings.Contains(got["etc/dorunner/defaults.yaml"], "glrt-") {
		t.Errorf("an identity is baked in:\n%s", got["etc/dorunner/defaults.yaml"])
	}
	if got["usr/local/bin/dorunner-firstboot"] == "" {
		t.Error("the program is missing")
	}
	for _, u := range r.guest.args["install.sh"] {
		if got["etc/systemd/system/"+u] == "" {
			t.Errorf("unit %s is enabled but not there", u)
		}
	}
}

func untar(t *testing.T, data string) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(body)
	}
}

func TestWantedDigestMustBeThere(t *testing.T) {
	other := "sha256:" + strings.Repeat("b", 64)
	line := "image\trepo/x:1@" + other + "\tsha256:id\t5\trepo/x@" + cannedDigest + " \n"
	if _, err := parseContainers(line); err == nil || !strings.Contains(err.Error(), cannedDigest) {
		t.Errorf("error: %v", err)
	}
	got, err := parseContainers(strings.ReplaceAll(line, other, cannedDigest))
	if err != nil || len(got) != 1 || got[0].Digest != cannedDigest || got[0].Size != 5 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDockerGroup(t *testing.T) {
	for name, c := range map[string]struct {
		cfg, admin string
		want       string // "" when the user is not cloud-init's
	}{
		"list":       {"system_info: {default_user: {name: ubuntu, groups: [adm, sudo]}}", "ubuntu", "- adm\n            - sudo\n            - docker"},
		"text":       {"system_info: {default_user: {name: ubuntu, groups: 'adm, sudo'}}", "ubuntu", "- adm\n            - sudo\n            - docker"},
		"none":       {"system_info: {default_user: {name: ubuntu}}", "ubuntu", "- docker"},
		"other user": {"system_info: {default_user: {name: ubuntu}}", "ops", ""},
		"no file":    {"", "ubuntu", ""},
		"damaged":    {"a: [", "ubuntu", ""},
	} {
		got, ok := dockerGroup([]byte(c.cfg), c.admin)
		if ok != (c.want != "") || !strings.Contains(string(got), c.want) {
			t.Errorf("%s: %v\n%s", name, ok, got)
		}
	}
}
