package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

func resolve(t *testing.T, target, text string, o Options) *Plan {
	t.Helper()
	s, _ := Load("dorunner.yaml", []byte(text))
	p, err := Resolve(s, target, o)
	if err != nil {
		t.Fatalf("%s:\n%v", target, err)
	}
	return p
}

func refused(t *testing.T, target, text string, o Options) Problems {
	t.Helper()
	s, _ := Load("dorunner.yaml", []byte(text))
	_, err := Resolve(s, target, o)
	var p Problems
	if !errors.As(err, &p) {
		t.Fatalf("the error is %T: %v", err, err)
	}
	return p
}

// TestDefaultsAreTheDocumentedProcedure holds the empty spec against it.
func TestDefaultsAreTheDocumentedProcedure(t *testing.T) {
	p := resolve(t, "aws", "", Options{})
	r := p.Spec.Runner
	no := false
	want := runner.Spec{
		Description: "{{.Name}}", Image: "dataopslive/dataops-runner", JobImage: "dataopslive/dataops-utils-runner",
		Concurrent: 8, CheckInterval: 1, RunUntagged: &no, Locked: &no, Executor: "docker", Debug: &no, DrainOnShutdown: &no,
		Volumes:    []string{"/app:/local_config:rw", "/agent_cache:/agent_cache:rw", "/secrets:/secrets:ro"},
		PullPolicy: []string{"always", "if-not-present"}, Register: "container", OnFailure: "stay",
		RegisterTimeout: r.RegisterTimeout, BootTimeout: r.BootTimeout, DrainTimeout: r.DrainTimeout,
		Vault: runner.Vault{Path: "/secrets"},
	}
	if diff := cmp.Diff(want, r, cmp.AllowUnexported(runner.Secret{})); diff != "" {
		t.Error(diff)
	}
	if p.Base.OS != "ubuntu-20.04" || p.Spec.Image.Docker.Source != "docker" || p.Spec.Image.DiskGB != 50 {
		t.Errorf("the machine is not the documented one: %+v", p.Spec.Image)
	}
	if want := (Size{"t3a.xlarge", 4, 16, "amd64"}); p.Size != want {
		t.Errorf("size %+v, want %+v", p.Size, want)
	}
	if len(p.Warnings) > 0 {
		t.Errorf("the documented procedure is warned about: %v", p.Warnings)
	}
	if diff := cmp.Diff([]Pull{{Ref: runner.DefaultImage}, {Ref: runner.DefaultJobImage}}, p.Containers); diff != "" {
		t.Error(diff)
	}
}

func TestEveryTargetAndBaseResolves(t *testing.T) {
	for _, target := range Targets() {
		for _, os := range BaseNames() {
			for _, arch := range Arches {
				p := resolve(t, target, fmt.Sprintf("image: {os: %s, arch: %s}\nazure: {resource_group: g}", os, arch), Options{})
				if b := p.Base; b.AdminUser == "" || b.AMIOwner == "" || b.AzureSKU == "" || b.Codename == "" || strings.Contains(fmt.Sprint(b), "{{") ||
					(b.DiskURL == "") != (b.SHA256URL == "") {
					t.Errorf("%s %s %s: the row is not whole: %+v", target, os, arch, b)
				}
				if p.Size.Arch != arch || p.Spec.Image.Arch != arch {
					t.Errorf("%s %s %s: the size is %+v", target, os, arch, p.Size)
				}
			}
		}
	}
}

func TestOverridesWin(t *testing.T) {
	spec := "image: {os: debian-12, pull: [a/one]}\naws: {sizes: [t3a.xlarge, m5.xlarge]}\n"
	p := resolve(t, "aws", spec, Options{Overrides: []Override{
		{"image.os", "ubuntu-24.04", "--os"},
		{"aws.sizes", []string{"c5.2xlarge"}, "--size"},
		{"aws.tags", map[string]string{"team": "data"}, "--tag"},
		{"aws.spot", true, "--spot"},
		{"image.disk_gb", 80, "--disk"},
		{"image.pull[]", "a/two", "--pull"},
		{"runner.boot_timeout", "90s", "--boot-timeout"},
	}})
	got := fmt.Sprint(p.Spec.Image.OS, " ", p.Spec.AWS.Sizes, p.Spec.AWS.Tags, p.Spec.AWS.Spot, p.Spec.Image.DiskGB, p.Spec.Image.Pull, time.Duration(p.Spec.Runner.BootTimeout))
	if want := "ubuntu-24.04 [c5.2xlarge] map[team:data] true 80 [{a/one } {a/two }] 1m30s"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	problems := refused(t, "aws", spec, Options{Overrides: []Override{
		{"aws.sizes", []string{"m5.xlarge", "t3.nano"}, "--size"},
		{"image.disk_gb", "big", "--disk"},
		{"image.oss", "x", "--oss"},
		{"image.pull[]", map[string]string{"reff": "x"}, "--pull"},
	}})
	var at []string
	for _, q := range problems {
		at = append(at, q.Source+" "+q.Path)
	}
	want := []string{"--size aws.sizes[1]", "--disk image.disk_gb", "--oss image.oss", "--pull image.pull[1]", "--pull image.pull[1].reff"}
	slices.Sort(at)
	slices.Sort(want)
	if diff := cmp.Diff(want, at); diff != "" {
		t.Errorf("%s\n%v", diff, problems)
	}
}

func TestResolveLeavesTheSpecAlone(t *testing.T) {
	text := "image: {pull: [{ref: a/b, archive: x.tar}], scripts: [s.sh]}\nazure: {size: d4AS_v5, resource_group: g}\n"
	dir := t.TempDir()
	writeArchive(t, filepath.Join(dir, "x.tar"), "a/b:latest")
	write(t, filepath.Join(dir, "s.sh"), "#!/bin/sh\n")
	s, _ := Load("f", []byte(text))
	before, _ := Load("f", []byte(text))
	p, err := Resolve(s, "azure", Options{Dir: dir, Overrides: []Override{{"image.scripts[]", filepath.Join(dir, "s.sh"), "--script"}}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Spec.Azure.Sizes[0] != "Standard_D4as_v5" {
		t.Errorf("the size is not written as Azure does: %v", p.Spec.Azure.Sizes)
	}
	if diff := cmp.Diff(before, s, cmpopts.IgnoreUnexported(Spec{}), cmp.AllowUnexported(runner.Secret{})); diff != "" {
		t.Error(diff)
	}
	if len(s.source.from) > 0 {
		t.Errorf("the overrides stayed: %v", s.source.from)
	}
}

// samePlan compares all of two plans but where their specs were read.
var samePlan = cmp.Options{cmpopts.IgnoreUnexported(Spec{}), cmp.AllowUnexported(runner.Secret{}, Problem{})}

// TestResolveIsIdempotent: the Spec of a Plan resolves to the same Plan.
func TestResolveIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	writeArchive(t, filepath.Join(dir, "runner.tar"), runner.DefaultImage+":1.2")
	write(t, filepath.Join(dir, "s.sh"), "#!/bin/sh\n")
	choices := []struct {
		path   string
		values []any
	}{
		{"image.os", []any{"ubuntu-22.04", "debian-12"}},
		{"image.arch", []any{"amd64", "arm64"}},
		{"image.name", []any{"x-{{.Date}}"}},
		{"image.disk_gb", []any{20, 50, 300}},
		{"image.pull[]", []any{"nginx", map[string]string{"ref": runner.DefaultImage + ":1.2", "archive": "runner.tar"}}},
		{"image.scripts[]", []any{"s.sh"}},
		{"image.registry", []any{map[string]string{"username": "u", "password": "p"}}},
		{"runner.name", []any{"one"}},
		{"runner.token", []any{"env:T", "literal"}},
		{"runner.image", []any{"x/y@sha256:" + strings.Repeat("a", 64)}},
		{"runner.volumes", []any{[]string{}, []string{"/a:/b"}}},
		{"aws.sizes", []any{"t3a.large", "m7g.xlarge", "c5.large", "unknown"}},
		{"azure.sizes", []any{"d4as_v5", "Standard_D4ps_v5"}},
		{"azure.resource_group", []any{"g"}},
		{"metal.formats", []any{[]string{"raw", "vhd"}}},
		{"metal.output", []any{"elsewhere"}},
		{"metal.method", []any{"vm"}},
		{"fleet.name", []any{"many"}},
		{"fleet.min", []any{0, 3}},
	}
	resolved := 0
	rapid.Check(t, func(t *rapid.T) {
		var over []Override
		for _, c := range choices {
			if i := rapid.IntRange(-1, len(c.values)-1).Draw(t, c.path); i >= 0 {
				over = append(over, Override{c.path, c.values[i], "--" + c.path})
			}
		}
		target := rapid.SampledFrom(Targets()).Draw(t, "target")
		o := Options{Dir: dir, AllowSmall: rapid.Bool().Draw(t, "small"), Launch: rapid.Bool().Draw(t, "launch")}
		with := o
		with.Overrides = over
		once, err := Resolve(&Spec{}, target, with)
		if err != nil {
			return // a combination that is refused
		}
		resolved++
		o.Dir = "/nowhere" // the plan's paths stand by themselves
		twice, err := Resolve(&once.Spec, target, o)
		if err != nil {
			t.Fatalf("the plan's own spec is refused:\n%v", err)
		}
		if diff := cmp.Diff(once, twice, samePlan); diff != "" {
			t.Fatal(diff)
		}
	})
	if resolved == 0 {
		t.Fatal("every combination was refused")
	}
}

// TestHash tells what makes another image and what does not.
func TestHash(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.tar"), filepath.Join(dir, "b.tar")
	writeArchive(t, a, "x/y:latest")
	writeArchive(t, b, "x/y:latest", "another layer")
	write(t, filepath.Join(dir, "a.sh"), "#!/bin/sh\n")
	write(t, filepath.Join(dir, "b.sh"), "#!/bin/sh\necho\n")
	write(t, filepath.Join(dir, "base.img"), "disk")
	hash := func(target, text string) string {
		return resolve(t, target, text, Options{Dir: dir, AllowSmall: true}).Hash
	}
	plain := hash("aws", "")
	same := map[string]string{
		"size":             "aws: {size: m6i.2xlarge}",
		"region":           "aws: {region: eu-west-1, copy_to: [us-east-1], spot: true}",
		"identity":         "runner: {name: n, url: 'https://x.y', token: glrt-1}",
		"literal vault":    "runner: {vault: {salt: abc}}",
		"login":            "image: {registry: {username: u, password: p}}",
		"name":             "image: {name: other}",
		"documented":       "image: {os: ubuntu-20.04, arch: amd64, docker: {source: docker}, disk_gb: 50}\nrunner: {concurrent: 8}",
		"reference":        "runner: {image: 'docker.io/dataopslive/dataops-runner:latest'}",
		"other target":     "metal: {cpus: 8}\nazure: {location: x}",
		"same pull twice":  "image: {pull: [dataopslive/dataops-runner]}",
		"key order":        "image: {arch: amd64}\naws: {keep: 3}",
		"small is allowed": "aws: {size: t3.micro}",
	}
	for name, text := range same {
		// The reference as written reaches config.toml, so it is another image; its meaning does not matter here.
		if got := hash("aws", text); (got == plain) != (name != "reference") {
			t.Errorf("%s: the hash changed: %v", name, got != plain)
		}
	}
	different := []string{
		"image: {os: debian-12}", "image: {arch: arm64}", "image: {docker: {source: distro}}", "image: {docker: {version: '26'}}",
		"image: {disk_gb: 60}", "image: {admin_user: me}", "image: {pull: [nginx]}", "image: {pull: [nginx:1]}",
		"image: {pull: [{ref: x/y, archive: a.tar}]}", "image: {pull: [{ref: x/y, archive: b.tar}]}", "image: {pull: [x/y]}",
		"image: {scripts: [a.sh]}", "image: {scripts: [b.sh]}", "image: {scripts: [a.sh, b.sh]}", "image: {scripts: [b.sh, a.sh]}",
		"runner: {concurrent: 4}", "runner: {vault: {salt: 'ssm:/x'}}", "aws: {base_image: ami-01234567}",
	}
	seen := map[string]string{plain: "nothing"}
	for _, text := range different {
		h := hash("aws", text)
		if other, twice := seen[h]; twice {
			t.Errorf("%q and %q have one hash", text, other)
		}
		seen[h] = text
	}
	if h := hash("metal", "image: {disk_gb: 50}\nmetal: {platform: aws, formats: [raw], output: x}"); h != plain {
		t.Error("a disk of the metal target for AWS is not the image that the AWS target bakes")
	}
	if hash("metal", "metal: {platform: aws}") == hash("metal", "") {
		t.Error("the platform is not in the hash")
	}
	if h := hash("metal", "metal: {base: base.img}"); h == hash("metal", "") {
		t.Error("the base file is not in the hash")
	} else {
		write(t, filepath.Join(dir, "base.img"), "another disk")
		if h == hash("metal", "metal: {base: base.img}") {
			t.Error("another base file has the same hash")
		}
	}
}

func TestHashWith(t *testing.T) {
	p := resolve(t, "metal", "", Options{})
	if p.HashWith() != p.Hash || p.HashWith("a") == p.Hash || p.HashWith("a") == p.HashWith("b") || len(p.HashWith("a")) != 64 {
		t.Error("HashWith does not mix")
	}
}

func TestContainers(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"r.tar", "r2.tar"} {
		writeArchive(t, filepath.Join(dir, f), runner.DefaultImage+":latest")
	}
	writeArchive(t, filepath.Join(dir, "v2.tar"), "docker.io/"+runner.DefaultImage+":v2")
	gzipped(t, filepath.Join(dir, "v2.tar"), filepath.Join(dir, "v2.tgz"))
	digest := "@sha256:" + strings.Repeat("0", 64)
	tests := []struct{ name, spec, want, err string }{
		{"runner's first", "image: {pull: [z, a]}", "dataopslive/dataops-runner dataopslive/dataops-utils-runner z a", ""},
		{"one reference once", "image: {pull: ['docker.io/library/z:latest', z, 'index.docker.io/dataopslive/dataops-runner']}",
			"index.docker.io/dataopslive/dataops-runner dataopslive/dataops-utils-runner z", ""},
		{"tags differ", "image: {pull: ['z:1', 'z:2', z]}", "dataopslive/dataops-runner dataopslive/dataops-utils-runner z:1 z:2 z", ""},
		{"a digest is not its tag", "image: {pull: ['z:1', 'z:1" + digest + "', 'z" + digest + "']}",
			"dataopslive/dataops-runner dataopslive/dataops-utils-runner z:1 z" + digest, ""},
		{"an archive replaces the pull", "image: {pull: [{ref: dataopslive/dataops-runner, archive: r.tar}]}",
			"dataopslive/dataops-runner=r.tar dataopslive/dataops-utils-runner", ""},
		{"an archive decides the default's tag", "image: {pull: [{ref: 'dataopslive/dataops-runner:v2', archive: v2.tgz}]}",
			"dataopslive/dataops-runner:v2=v2.tgz dataopslive/dataops-utils-runner", ""},
		{"but not an author's", "runner: {image: dataopslive/dataops-runner}\nimage: {pull: [{ref: 'dataopslive/dataops-runner:v2', archive: v2.tar}]}",
			"dataopslive/dataops-runner dataopslive/dataops-utils-runner dataopslive/dataops-runner:v2=v2.tar", ""},
		{"two archives", "image: {pull: [{ref: dataopslive/dataops-runner, archive: r.tar}, {ref: dataopslive/dataops-runner, archive: r2.tar}]}",
			"", "dataopslive/dataops-runner has two archives"},
		{"not in the archive", "image: {pull: [{ref: 'dataopslive/dataops-runner:v3', archive: v2.tar}]}", "", "it holds docker.io/dataopslive/dataops-runner:v2"},
		{"a digest from an archive", "image: {pull: [{ref: 'z" + digest + "', archive: v2.tar}]}", "", "cannot stand in for a digest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.err != "" {
				if p := refused(t, "metal", tt.spec, Options{Dir: dir}); len(p) != 1 || !strings.Contains(p.Error(), tt.err) {
					t.Errorf("got %v", p)
				}
				return
			}
			p := resolve(t, "metal", tt.spec, Options{Dir: dir})
			var got []string
			for _, c := range p.Containers {
				ref := c.Ref
				if c.Archive != "" {
					ref += "=" + filepath.Base(c.Archive)
				}
				got = append(got, ref)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
			if p.Spec.Runner.Image != p.Containers[0].Ref && tt.name != "one reference once" {
				t.Errorf("the runner would be started from %s", p.Spec.Runner.Image)
			}
		})
	}
}

func TestArchiveThatIsNone(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "text.tar"), "no tar")
	write(t, filepath.Join(dir, "text.tgz"), "\x1f\x8bno gzip")
	writeTar(t, filepath.Join(dir, "empty.tar"), nil)
	writeTar(t, filepath.Join(dir, "damaged.tar"), map[string]string{"manifest.json": "{"})
	writeTar(t, filepath.Join(dir, "halved.tar"), map[string]string{"manifest.json": `[{"Config":"c.json","RepoTags":["z:latest"]}]`})
	writeTar(t, filepath.Join(dir, "untagged.tar"), map[string]string{"manifest.json": `[{"Config":"c.json","RepoTags":null}]`})
	for file, want := range map[string]string{
		"none.tar": "no such file", "text.tar": "no archive of docker save", "text.tgz": "damaged", "empty.tar": "holds no manifest.json",
		"damaged.tar": "manifest.json is damaged", "halved.tar": "holds no c.json", "untagged.tar": "it holds no tags",
	} {
		p := refused(t, "metal", "image: {pull: [{ref: z, archive: "+file+"}]}", Options{Dir: dir})
		if len(p) != 1 || p[0].Path != "image.pull[0].archive" || !strings.Contains(p.Error(), want) {
			t.Errorf("%s: got %v, want %q", file, p, want)
		}
	}
}

func TestMinimums(t *testing.T) {
	tests := []struct {
		target, spec  string
		launch        bool
		errors, warns int
	}{
		{"aws", "aws: {size: t3a.xlarge}", false, 0, 0},
		{"aws", "aws: {size: t3a.large}", false, 0, 1},
		{"aws", "aws: {size: t3a.medium}", false, 1, 0},
		{"aws", "aws: {size: c5.large}", false, 1, 0}, // two cores, 4 GB
		{"aws", "aws: {size: r5.large}", false, 0, 1}, // 16 GB, two cores
		{"aws", "image: {disk_gb: 49}", false, 1, 0},
		{"azure", "azure: {size: Standard_D4as_v5, resource_group: g}", false, 0, 0},
		{"azure", "azure: {size: b2MS, resource_group: g}", false, 0, 1},
		{"azure", "azure: {size: Standard_B1s, resource_group: g}", false, 1, 0},
		{"metal", "", false, 0, 0}, // the machine that bakes is not the runner
		{"metal", "metal: {cpus: 1, memory_gb: 1}", false, 0, 0},
		{"metal", "metal: {cpus: 1, memory_gb: 1}", true, 1, 0},
		{"metal", "metal: {cpus: 2, memory_gb: 4}", true, 1, 0},
		{"metal", "", true, 0, 1}, // a pilot by default
		{"metal", "metal: {cpus: 4, memory_gb: 16}", true, 0, 0},
	}
	for _, tt := range tests {
		text := "runner: {name: n, url: 'https://x.y', token: 'env:T'}\n" + tt.spec
		s, _ := Load("f", []byte(text))
		p, err := Resolve(s, tt.target, Options{Launch: tt.launch})
		var found Problems
		errors.As(err, &found)
		if p != nil {
			found = p.Warnings
		}
		if e, w := len(found.Errors()), len(found.Warnings()); e != tt.errors || w != tt.warns {
			t.Errorf("%s %q launch=%v: %d errors and %d warnings, want %d and %d: %v", tt.target, tt.spec, tt.launch, e, w, tt.errors, tt.warns, found)
		}
		if _, err := Resolve(s, tt.target, Options{Launch: tt.launch, AllowSmall: true}); err != nil {
			t.Errorf("%s %q: small is not allowed: %v", tt.target, tt.spec, err)
		}
	}
}

func TestIdentityIsForLaunching(t *testing.T) {
	resolve(t, "metal", "", Options{})
	p := refused(t, "metal", "", Options{Launch: true})
	var paths []string
	for _, q := range p.Errors() {
		paths = append(paths, q.Path)
	}
	if diff := cmp.Diff([]string{"runner.name", "runner.token", "runner.url"}, paths); diff != "" {
		t.Error(diff)
	}
}

func TestSizeDecidesTheArchitecture(t *testing.T) {
	if p := resolve(t, "aws", "aws: {size: m7g.xlarge}", Options{}); p.Spec.Image.Arch != "arm64" || !strings.Contains(p.Base.AMIName, "arm64") {
		t.Errorf("got %s, %s", p.Spec.Image.Arch, p.Base.AMIName)
	}
	if p := resolve(t, "aws", "image: {arch: arm64}", Options{}); p.Size.Arch != "arm64" {
		t.Errorf("got %+v", p.Size)
	}
}

func TestNoSecretInPlanOrSummary(t *testing.T) {
	text := "runner: {token: CANARY1, vault: {salt: CANARY2, content: 'plain:CANARY3'}}\nimage: {registry: {username: u, password: CANARY4}}\n"
	p := resolve(t, "metal", text, Options{})
	baked, err := runner.Encode(p.BakedRunner(), runner.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	js, err := p.Summary().Spec.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]string{"plan": fmt.Sprintf("%+v %#v", *p, *p), "baked": string(baked), "summary": string(js), "warnings": p.Warnings.Error()} {
		if strings.Contains(s, "CANARY") {
			t.Errorf("the %s shows a secret: %s", what, s)
		}
	}
	if n := len(p.Warnings); n != 4 {
		t.Errorf("%d of 4 literal secrets are warned about: %v", n, p.Warnings)
	}
}

func TestImageName(t *testing.T) {
	p := resolve(t, "metal", `image: {name: "a-{{.OS}}-{{.Arch}}-{{.Hash}}-{{.Date}}"}`, Options{})
	got, err := p.ImageName(strings.Repeat("ab", 32), time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC))
	if want := "a-ubuntu-20.04-amd64-abababababab-20261123-100000"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestUnknownTarget(t *testing.T) {
	if _, err := Resolve(&Spec{}, "gcp", Options{}); err == nil || !strings.Contains(err.Error(), "aws, azure, metal") {
		t.Error(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeArchive makes a docker-archive that holds one image.
func writeArchive(t *testing.T, file, tag string, layers ...string) {
	t.Helper()
	writeTar(t, file, map[string]string{
		"layer.tar":     strings.Repeat("x", 4096),
		"manifest.json": fmt.Sprintf(`[{"Config":"c.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, tag),
		"c.json":        fmt.Sprintf(`{"layers":%q}`, layers),
	})
}

func writeTar(t *testing.T, file string, entries map[string]string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range entries {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, file, b.String())
}

func gzipped(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, to, b.String())
}
