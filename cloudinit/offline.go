package cloudinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/dorunner/dorunner-bake/cloudinit/iso9660"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// Payload is what a machine needs to become a runner without any network but the GitLab address.
type Payload struct {
	FirstBoot string      // the dorunner-firstboot program for the machine's architecture
	Defaults  runner.Spec // without identity
	Packages  string      // directory with Docker's packages and what they depend on; "" when the machine has Docker
	Images    []Archive   // container images
	Arch      string      // amd64 or arm64, of the packages
}

// Archive is a container image in a docker-archive file.
type Archive struct{ Ref, File string }

// PayloadDir is where the payload is on a medium.
const PayloadDir = "dorunner"

// Files are the payload's files below PayloadDir. They are read while the medium is written, not before.
func (p Payload) Files() ([]iso9660.File, error) {
	defaults, err := runner.Encode(p.Defaults, runner.EncodeOptions{})
	if err != nil {
		return nil, err
	}
	files := []iso9660.File{
		iso9660.Bytes("defaults.yaml", defaults, 0o400),
		iso9660.Bytes("platform", []byte("nocloud\n"), 0o444),
	}
	embedded := map[string]string{"install.sh": "cloudinit/install.sh", "daemon.json": "guest/docker-daemon.json"}
	units, err := fs.Glob(templates.FS(), "units/*.service")
	if err != nil || len(units) == 0 {
		return nil, errors.Join(errors.New("this program carries no systemd units"), err)
	}
	for _, u := range units {
		embedded[u] = u
	}
	for name, from := range embedded {
		b, err := templates.Read(from)
		if err != nil {
			return nil, err
		}
		files = append(files, iso9660.Bytes(name, b, 0o444))
	}
	var errs []error
	add := func(name, file string, mode fs.FileMode) {
		f, err := iso9660.FromDisk(name, file, mode)
		errs = append(errs, err)
		files = append(files, f)
	}
	add("dorunner-firstboot", p.FirstBoot, 0o555)
	packages, err := p.packages()
	errs = append(errs, err)
	for _, deb := range packages {
		add("packages/"+filepath.Base(deb), deb, 0o444)
	}
	for i, a := range p.Images {
		add(fmt.Sprintf("images/%02d-%s.tar", i+1, fileName(path.Base(a.Ref))), a.File, 0o444)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i := range files {
		files[i].Path = PayloadDir + "/" + files[i].Path
	}
	return files, nil
}

// packages lists the .deb files of the directory; one for another architecture would make dpkg refuse them all.
func (p Payload) packages() ([]string, error) {
	if p.Packages == "" {
		return nil, nil
	}
	all, err := filepath.Glob(filepath.Join(p.Packages, "*.deb"))
	if err != nil {
		return nil, err
	}
	engine := false
	for _, deb := range all {
		name := filepath.Base(deb)
		if !strings.HasSuffix(name, "_"+p.Arch+".deb") && !strings.HasSuffix(name, "_all.deb") {
			return nil, fmt.Errorf("%s is not for %s: its name ends in neither _%s.deb nor _all.deb", deb, p.Arch, p.Arch)
		}
		engine = engine || strings.HasPrefix(name, "docker-ce_") || strings.HasPrefix(name, "docker.io_") || strings.HasPrefix(name, "moby-engine_")
	}
	if !engine {
		if _, err := os.Stat(p.Packages); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s holds no docker-ce, docker.io or moby-engine package: fill it on a machine of the same release with apt-get download", p.Packages)
	}
	return all, nil
}

// OfflineScript is the part that installs from the seed; it goes into the sources of its user-data.
func OfflineScript() (Source, error) {
	b, err := templates.Read("cloudinit/offline.sh")
	return Source{"offline.sh", b}, err
}
