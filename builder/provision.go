package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dorunner/dorunner-bake/images"
	"github.com/dorunner/dorunner-bake/templates"
)

// dockerRepository is where Docker's own packages are; a mirror has the same tree.
const dockerRepository = "https://download.docker.com"

// provision makes the machine a runner's: the same for every target, through Guest alone.
func (b *bake) provision(ctx context.Context) error {
	_, unbooted := b.guest.(Unbooted)
	return b.parts(ctx, "provision", []step{
		// A booted machine has to come to rest first: cloud-init, apt's daily run.
		{"machine ready", !unbooted, b.waitReady},
		{"docker engine", true, b.installDocker},
		// The first-boot program, its units and configuration; the admin user in group docker.
		{"first boot", true, b.installFirstBoot},
		// On a disk without a running system, its own daemon runs until the seal.
		{"docker daemon", unbooted, b.startDocker},
		{"container images", len(b.plan.Containers) > 0, b.fillImages},
	})
}

func (b *bake) waitReady(ctx context.Context) error {
	var out bytes.Buffer
	err := b.script(ctx, installs, "wait.sh", Command{Env: []string{"WAIT_SECONDS=600"}, Stdout: &out})
	for l := range strings.Lines(out.String()) {
		if text, found := strings.CutPrefix(l, "warning: "); found {
			b.warn("%s", strings.TrimSpace(text))
		}
	}
	return err
}

func (b *bake) installDocker(ctx context.Context) error {
	daemon, err := templates.Read("guest/docker-daemon.json")
	if err != nil {
		return err
	}
	from := dockerURL(b.plan.Spec.Image.Docker)
	env := []string{
		"DOCKER_URL=" + from, "DOCKER_VERSION=" + b.plan.Spec.Image.Docker.Version, "DAEMON_JSON=" + strings.TrimSpace(string(daemon)),
		"OFFLINE=" + b.offline(),
	}
	var key bytes.Buffer
	if from != "" {
		if err := b.script(ctx, installs, "docker.sh", Command{Args: []string{"key"}, Env: env, Stdout: &key}); err != nil {
			return err
		}
		if key.Len() > 0 { // else Docker is there already
			if err := checkKey(key.Bytes(), dockerFingerprint); err != nil {
				return fmt.Errorf("the signing key at %s: %w", from, err)
			}
		}
	}
	return b.script(ctx, installs, "docker.sh", Command{Args: []string{"install"}, Env: env, Stdin: &key})
}

// dockerURL is where Docker's packages come from; empty for the distribution's own.
func dockerURL(d images.Docker) string {
	switch d.Source {
	case "distro":
		return ""
	case "docker", "":
		return dockerRepository
	}
	return strings.TrimRight(d.Source, "/")
}

func (b *bake) installFirstBoot(ctx context.Context) error {
	var out bytes.Buffer
	admin := b.plan.Spec.Image.AdminUser
	err := b.script(ctx, briefly, "install.sh", Command{
		Args: b.inputs.units, Env: []string{"ADMIN_USER=" + admin, "OFFLINE=" + b.offline()},
		Stdin: bytes.NewReader(b.inputs.files), Stdout: &out,
	})
	if err != nil || !strings.Contains(out.String(), "admin absent") {
		return err
	}
	return b.adminLater(ctx, admin)
}

// adminLater sees to an admin user that does not exist yet: cloud-init makes its default user at first boot, and is
// told to put it in group docker too; any other is made here, without a password.
func (b *bake) adminLater(ctx context.Context, admin string) error {
	var cfg bytes.Buffer
	limited, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	if err := b.guest.Download(limited, "/etc/cloud/cloud.cfg", &cfg); err != nil && ctx.Err() != nil {
		return err
	}
	more, ok := dockerGroup(cfg.Bytes(), admin)
	if !ok {
		return b.exec(ctx, briefly, Command{Args: []string{"useradd", "--create-home", "--shell", "/bin/bash", "--groups", "docker", admin}})
	}
	return b.guest.Upload(limited, "/etc/cloud/cloud.cfg.d/95-dorunner.cfg", bytes.NewReader(more), 0o644)
}

// dockerGroup gives the cloud-init configuration that adds group docker to the default user's groups; false when admin
// is not cloud-init's default user. The whole list is written because cloud-init does not join lists.
func dockerGroup(cloudCfg []byte, admin string) ([]byte, bool) {
	var cfg struct {
		SystemInfo struct {
			DefaultUser struct {
				Name   string    `yaml:"name"`
				Groups yaml.Node `yaml:"groups"`
			} `yaml:"default_user"`
		} `yaml:"system_info"`
	}
	if err := yaml.Unmarshal(cloudCfg, &cfg); err != nil || cfg.SystemInfo.DefaultUser.Name != admin {
		return nil, false
	}
	var groups []string
	if n := cfg.SystemInfo.DefaultUser.Groups; n.Kind == yaml.ScalarNode {
		groups = strings.FieldsFunc(n.Value, func(r rune) bool { return r == ',' || r == ' ' })
	} else if n.Kind != 0 {
		if err := n.Decode(&groups); err != nil {
			return nil, false
		}
	}
	out, err := yaml.Marshal(map[string]any{"system_info": map[string]any{"default_user": map[string]any{"groups": append(groups, "docker")}}})
	return append([]byte("# The admin user may use Docker.\n"), out...), err == nil
}

func (b *bake) startDocker(ctx context.Context) error {
	stop, err := b.guest.(Unbooted).StartDocker(ctx)
	if err != nil {
		return err
	}
	b.dockerUp = stop
	return nil
}

// stopDocker stops the daemon that startDocker started.
func (b *bake) stopDocker(ctx context.Context) error {
	stop := b.dockerUp
	if stop == nil {
		return nil
	}
	b.dockerUp = nil
	ctx, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	return stop(ctx)
}

// fillImages pulls and loads the container images. An archive may hold several.
func (b *bake) fillImages(ctx context.Context) error {
	var refs []string
	loaded := map[string]string{} // what docker said, by archive
	for _, p := range b.plan.Containers {
		if p.Archive == "" {
			refs = append(refs, p.Ref)
			continue
		}
		said, done := loaded[p.Archive]
		if !done {
			var err error
			if said, err = b.load(ctx, p.Archive); err != nil {
				return fmt.Errorf("load %s: %w", filepath.Base(p.Archive), err)
			}
			loaded[p.Archive] = said
		}
		err := b.exec(ctx, briefly, Command{Args: []string{"docker", "image", "inspect", "--format", "{{.Id}}", p.Ref}})
		var exit *ExitError
		if errors.As(err, &exit) {
			return fmt.Errorf("%s does not hold %s; docker says: %s", filepath.Base(p.Archive), p.Ref, said)
		}
		if err != nil {
			return err
		}
	}
	if len(refs) == 0 {
		return nil
	}
	login := b.plan.Spec.Image.Login
	server := login.Server
	if server == "docker.io" { // Docker Hub has another name there
		server = ""
	}
	layers := &layerCount{progress: b.env.Progress}
	out := &lines{each: layers.line}
	return b.script(ctx, transfers, "pull.sh", Command{
		Args: refs, Env: []string{"REGISTRY=" + server, "REGISTRY_USER=" + login.Username},
		Stdin: strings.NewReader(b.inputs.password + "\n"), Stdout: out,
	})
}

// load sends an archive to the daemon, without a copy of it on the machine's disk, and gives what docker said.
func (b *bake) load(ctx context.Context, archive string) (said string, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	name := filepath.Base(archive)
	src := &counting{Reader: f, told: func(done int64) { b.env.Progress.Count(name, done, info.Size(), "bytes") }}
	var out bytes.Buffer
	err = b.exec(ctx, transfers, Command{Args: []string{"docker", "load"}, Stdin: src, Stdout: &out})
	return strings.TrimSpace(out.String()), err
}

// layerCount counts layers by the lines of docker pull.
type layerCount struct {
	progress    Progress
	done, total int64
	ref         string
}

func (c *layerCount) line(s string) {
	_, what, _ := strings.Cut(s, ": ")
	switch {
	case strings.Contains(s, "Pulling from "):
		_, c.ref, _ = strings.Cut(s, "Pulling from ")
		c.done, c.total = 0, 0
	case what == "Pulling fs layer":
		c.total++
	case what == "Already exists":
		c.total++
		c.done++
	case what == "Pull complete": // by now all layers have been named
		c.done++
		c.progress.Count(c.ref, c.done, c.total, "layers")
	}
}

// customize runs the author's scripts, then Packer's provisioners.
func (b *bake) customize(ctx context.Context) error {
	var parts []step
	for i, s := range b.plan.Scripts {
		parts = append(parts, step{s.Path, true, func(ctx context.Context) error { return b.authorScript(ctx, i, s) }})
	}
	if err := b.parts(ctx, "customize", parts); err != nil || b.o.Customize == nil {
		return err
	}
	touched, err := b.o.Customize(ctx, b.guest)
	if touched { // by what the plan does not know: nobody may take this image for one of the plan alone
		b.rehash(b.o.BakeID)
	}
	return err
}

// authorScript uploads, runs and removes one script. Without a #! line it is a shell script.
func (b *bake) authorScript(ctx context.Context, i int, s images.Script) error {
	limited, cancel := context.WithTimeout(ctx, briefly)
	defer cancel()
	file := path.Join("/var/tmp", fmt.Sprintf("dorunner-%d-%s", i, filepath.Base(s.Path)))
	if err := b.guest.Upload(limited, file, bytes.NewReader(s.Content), 0o700); err != nil {
		return err
	}
	err := b.exec(ctx, authors, Command{
		Args: []string{"/bin/sh", "-c", `"$1"; code=$?; rm -f "$1"; exit "$code"`, "sh", file},
		Env:  []string{"DEBIAN_FRONTEND=noninteractive", "DORUNNER_OFFLINE=" + b.offline()},
	})
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Args = []string{"script"}
	}
	return err
}

// drivers are what a platform's machines keep their disk and network behind.
var drivers = map[string][]string{"aws": {"nvme", "ena"}}

// checkDrivers sees to an image that is baked elsewhere than where it is going to run.
func (b *bake) checkDrivers(ctx context.Context) error {
	need := drivers[b.plan.Platform]
	if len(need) == 0 || b.plan.Platform == b.plan.Target {
		return nil
	}
	return b.script(ctx, installs, "drivers.sh", Command{Args: need})
}

// prove shows that the image will work, and takes down what is in it.
func (b *bake) prove(ctx context.Context) error {
	if err := b.checkDrivers(ctx); err != nil {
		return err
	}
	network := "bridge"
	if b.offline() == "1" { // its daemon has none
		network = "none"
	}
	var refs []string
	for _, p := range b.plan.Containers {
		refs = append(refs, p.Ref)
	}
	var out bytes.Buffer
	if err := b.script(ctx, briefly, "prove.sh", Command{Args: refs, Env: []string{"PROOF_NETWORK=" + network}, Stdout: &out}); err != nil {
		return err
	}
	containers, err := parseContainers(out.String())
	if err != nil {
		return err
	}
	b.manifest.Containers = containers
	// Offline leaves out the platform's metadata: the machine that bakes need not be of the image's platform.
	if err := b.exec(ctx, briefly, Command{Args: []string{"/usr/local/bin/dorunner-firstboot", "selftest", "--offline"}}); err != nil {
		return err
	}
	out.Reset()
	if err := b.script(ctx, briefly, "facts.sh", Command{Stdout: &out}); err != nil {
		return err
	}
	b.manifest.Docker, b.manifest.Packages = parseFacts(out.String())
	return nil
}

// parseContainers reads the image lines of prove.sh and checks wanted digests against those that the daemon knows.
func parseContainers(out string) ([]ManifestImage, error) {
	got := []ManifestImage{}
	for l := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(l, "\n"), "\t")
		if len(f) != 5 || f[0] != "image" {
			continue
		}
		ref, id, repos := f[1], f[2], strings.Fields(f[4])
		size, _ := strconv.ParseInt(f[3], 10, 64)
		m := ManifestImage{Ref: ref, Digest: id, Size: size}
		if len(repos) > 0 {
			_, m.Digest, _ = strings.Cut(repos[0], "@")
		}
		if _, want, pinned := strings.Cut(ref, "@"); pinned {
			found := want == id
			for _, r := range repos {
				found = found || strings.HasSuffix(r, "@"+want)
			}
			if !found {
				return nil, fmt.Errorf("container image %s is there with digest %s only", ref, strings.Join(repos, ", "))
			}
			m.Digest = want
		}
		got = append(got, m)
	}
	return got, nil
}

// parseFacts reads the lines of facts.sh.
func parseFacts(out string) (docker string, packages []ManifestPackage) {
	packages = []ManifestPackage{}
	for l := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(l, "\n"), "\t")
		switch {
		case len(f) == 2 && f[0] == "docker":
			docker = f[1]
		case len(f) == 3 && f[0] == "package":
			packages = append(packages, ManifestPackage{Name: f[1], Version: f[2]})
		}
	}
	return docker, packages
}

// offline is "1" when no system runs on the guest.
func (b *bake) offline() string {
	if _, ok := b.guest.(Unbooted); ok {
		return "1"
	}
	return "0"
}
