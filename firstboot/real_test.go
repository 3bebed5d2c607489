package firstboot_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dorunner/dorunner-bake/firstboot"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest"
	"github.com/dorunner/dorunner-bake/firstboot/gitlabtest/standinimage"
)

// realImage packs the gitlab-runner program named by DORUNNER_REAL_RUNNER, a static linux binary of any version, as
// the stand-in is packed.
var realImage = sync.OnceValues(func() (string, error) {
	const ref = "dorunner.test/real-runner:latest"
	program, err := os.ReadFile(os.Getenv("DORUNNER_REAL_RUNNER"))
	if err != nil {
		return "", err
	}
	images, err := standinimage.From(program, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "real-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	archive := filepath.Join(dir, "real.tar")
	if err := standinimage.Save(archive, map[string]v1.Image{ref: images[standinimage.Runner]}); err != nil {
		return "", err
	}
	_, err = docker("load", "-i", archive)
	return ref, err
})

// The real gitlab-runner instead of the stand-in: registered in both ways with both kinds of token, patched, online,
// the same after a second boot, told of its deletion, drained. The stand-in's claims are held against it.
func TestRealRunner(t *testing.T) {
	if os.Getenv("DORUNNER_REAL_RUNNER") == "" {
		t.Skip("DORUNNER_REAL_RUNNER names no gitlab-runner program")
	}
	needDocker(t)
	image, err := realImage()
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"container", "api"} {
		for _, token := range []string{canary, "glrt-t1_canarycanary"} {
			t.Run(mode+"-"+token[:4], func(t *testing.T) {
				t.Parallel()
				gl := gitlabtest.New(gitlabtest.Options{RegistrationTokens: []string{canary}})
				gl.AddRunner(gitlabtest.Runner{Token: "glrt-t1_canarycanary", Tags: []string{"x"}})
				m := newMachine(t, "image: "+image+"\ndescription: '{{.Name}}-{{.InstanceID}}'\nurl: "+listenForContainers(t, gl)+"\ntoken: "+token+"\nregister: "+mode+"\n")
				w := &world{machine: m, t: t, gl: gl, at: where{id: firstboot.Identity{InstanceID: "i-1"}}}
				if err := firstboot.Boot(t.Context(), m.Host, w.at); err != nil {
					t.Fatal(err)
				}
				status, err := firstboot.ReadStatus(m.Host)
				if err != nil {
					t.Fatal(err)
				}
				runners := gl.Runners()
				r := runners[len(runners)-1]
				if r.Managers[status.SystemID].Polls == 0 {
					t.Errorf("%s has not polled: %+v", status.SystemID, r)
				}
				if token == canary && (r.Description != m.name+"-i-1" || strings.Join(r.Tags, ",") != m.name || r.RunUntagged || r.Locked) {
					t.Errorf("registered as %+v", r)
				}
				conf := get(t, m.Root, "/srv/dataops-runner-"+m.name+"/config/config.toml")
				t.Log(conf)
				for _, line := range []string{"concurrent = 8\n", "check_interval = 1\n", `volumes = ["/app:/local_config:rw", "/agent_cache:/agent_cache:rw", "/secrets:/secrets:ro"]`, `pull_policy = ["always", "if-not-present"]`} {
					if strings.Count(conf, line) != 1 {
						t.Errorf("not once: %s in\n%s", line, conf)
					}
				}
				w.noSecret()
				changesNothing(t, w)
				began := time.Now()
				if err := firstboot.Drain(t.Context(), m.Host, w.at, time.Minute); err != nil {
					t.Fatal(err)
				}
				t.Logf("drained in %s", time.Since(began).Round(time.Millisecond))
				m.gone(t)
				if left := gl.Runners(); len(left) != 1 || len(left[0].Managers) != 0 {
					t.Errorf("left at GitLab: %+v", left)
				}
				if p := gl.Problems(); len(p) > 0 {
					t.Error(p)
				}
			})
		}
	}
}
