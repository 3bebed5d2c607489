package images

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// rules collects what is wrong with a spec for one target.
type rules struct {
	Options
	spec  *Spec
	found Problems
	// archives are the image ids of what image.pull loads, by file and full reference.
	archives map[string]string
}

// bad notes a mistake, unless one is known at the very same place: the first is the cause.
func (r *rules) bad(path, message, hint string) {
	if r.known(path) {
		return
	}
	r.found = append(r.found, r.spec.source.problem(path, message, hint))
}

func (r *rules) known(path string) bool {
	return path != "" && slices.ContainsFunc(r.found, func(p Problem) bool { return p.Path == path && !p.Warning })
}

func (r *rules) warn(path, message, hint string) {
	p := r.spec.source.problem(path, message, hint)
	p.Warning = true
	r.found = append(r.found, p)
}

// small is an error below the documented minimums, or a warning when the author insists.
func (r *rules) small(path, message, hint string) {
	if r.AllowSmall {
		r.warn(path, message, "")
		return
	}
	r.bad(path, message, hint+", or use --allow-small for an experiment")
}

func (r *rules) oneOf(path, value string, of ...string) {
	if value == "" || slices.Contains(of, value) {
		return
	}
	hint := "write one of " + strings.Join(of, ", ")
	if near, ok := closest(value, of); ok {
		hint = fmt.Sprintf("did you mean %q? The values are %s", near, strings.Join(of, ", "))
	}
	r.bad(path, fmt.Sprintf("%q is not known here", value), hint)
}

// form is a regular expression that is compiled when it is needed: most programs that hold these need none of them.
type form string

func (f form) matches(s string) bool { return regexp.MustCompile(string(f)).MatchString(s) }

// matches holds a value that was given against its form.
func (r *rules) matches(path, value string, want form, what, hint string) {
	if value != "" && !want.matches(value) {
		r.bad(path, fmt.Sprintf("%q is not %s", value, what), hint)
	}
}

func (r *rules) between(path string, value, low, high int, unit string) {
	if value < low || value > high {
		r.bad(path, fmt.Sprintf("%d is not between %d and %d%s", value, low, high, unit), "")
	}
}

// each applies a check to every entry of a list.
func each(path string, list []string, check func(path, value string)) {
	for i, v := range list {
		check(fmt.Sprintf("%s[%d]", path, i), v)
	}
}

// network is a range of addresses that may reach a builder.
func (r *rules) network(path, value string) {
	if value == "" {
		return
	}
	p, err := netip.ParsePrefix(value)
	if err != nil {
		r.bad(path, fmt.Sprintf("%q is not a network", value), "write it as 203.0.113.7/32")
	} else if p.Bits() == 0 {
		r.warn(path, "the whole world may try to log in to the machine that bakes", "name your own network")
	}
}

// given rejects an explicit nothing where a default would silently take its place.
func (r *rules) given() {
	s := r.spec
	check := func(path string, empty bool, message string) {
		if empty && (s.source.from[path] != "" || s.source.values[path] != nil) {
			r.bad(path, message, "leave the key out for the default")
		}
	}
	check("runner.concurrent", s.Runner.Concurrent == 0, "0 is not possible")
	check("runner.check_interval", s.Runner.CheckInterval == 0, "0 is not possible")
	check("runner.volumes", len(s.Runner.Volumes) == 0, "the list is empty")
	check("runner.pull_policy", len(s.Runner.PullPolicy) == 0, "the list is empty")
	check("image.disk_gb", s.Image.DiskGB == 0, "0 is not possible")
	check("metal.cpus", s.Metal.CPUs == 0, "0 is not possible")
	check("metal.memory_gb", s.Metal.MemoryGB == 0, "0 is not possible")
	check("metal.formats", len(s.Metal.Formats) == 0, "the list is empty")
	check("aws.sizes", len(s.AWS.Sizes) == 0, "the list is empty")
	check("azure.sizes", len(s.Azure.Sizes) == 0, "the list is empty")
}

const (
	versionForm = form(`^[0-9][0-9A-Za-z.+:~-]*$`)
	userForm    = form(`^[a-z_][a-z0-9_-]{0,31}$`)
	serverForm  = form(`^[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?$`)
	mirrorForm  = form(`^https?://[^\s'"$]+$`)
	nameForm    = form(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,78}[a-zA-Z0-9_]$`)
)

// image checks what goes into an image, whatever the target.
func (r *rules) image() {
	i := r.spec.Image
	r.oneOf("image.os", i.OS, BaseNames()...)
	r.oneOf("image.arch", i.Arch, Arches...)
	if name, err := imageName(i, strings.Repeat("0", 64), anyDate); err != nil {
		r.bad("image.name", err.Error(), "the fields are .OS, .Arch, .Hash and .Date")
	} else if !nameForm.matches(name) {
		r.bad("image.name", fmt.Sprintf("%q cannot name an image on every cloud", name), "use 2 to 80 letters, digits, dots, dashes and underscores")
	}
	if src := i.Docker.Source; src != "docker" && src != "distro" && !mirrorForm.matches(src) {
		r.oneOf("image.docker.source", src, "docker", "distro", "https://MIRROR")
	}
	r.matches("image.docker.version", i.Docker.Version, versionForm, "a version of a package", `write the beginning of one, for example "26.1"`)
	r.matches("image.admin_user", i.AdminUser, userForm, "a user name", "use lower-case letters, digits, dashes and underscores")
	if i.AdminUser == "root" {
		r.bad("image.admin_user", "root needs no group docker", "name an ordinary user")
	}
	r.between("image.disk_gb", i.DiskGB, 3, 16384, " GB")
	r.matches("image.registry.server", i.Login.Server, serverForm, "the name of a registry", "write host or host:port, for example docker.io")
	switch user, password := i.Login.Username != "", !i.Login.Password.IsZero(); {
	case user && !password:
		r.bad("image.registry.password", "the login has a user name and no password", "refer to it, for example env:DOCKER_PASSWORD")
	case password && !user:
		r.bad("image.registry.username", "the login has a password and no user name", "")
	}
	switch i.Login.Password.Scheme() {
	case "", "env", "file":
	case "plain":
		r.literal("image.registry.password", "env:DOCKER_PASSWORD or file:/run/secrets/docker")
	default:
		r.bad("image.registry.password", fmt.Sprintf("%s cannot be read on the machine that bakes", i.Login.Password), "use env: or file:")
	}
}

// runner checks who the machine will be; identity only where it is launched.
func (r *rules) runner() {
	s := r.spec.Runner
	validate := s.Validate
	if r.Launch {
		validate = s.ValidateIdentity
	}
	for _, f := range validate() {
		r.bad("runner."+f.Path, f.Message, f.Hint)
	}
	for path, secret := range s.Secrets() {
		if secret.IsPlain() {
			r.literal("runner."+path, "ssm:, secretsmanager:, keyvault:, file:, env: or credential:")
		}
	}
}

func (r *rules) literal(path, instead string) {
	r.warn(path, "the secret itself stands here, for everybody to read", "refer to it instead: "+instead)
}

// cloudDisk holds the root disk of a machine that will be a runner against the documented minimum.
func (r *rules) cloudDisk() {
	if gb := r.spec.Image.DiskGB; gb > 0 && gb < minDiskGB {
		r.small("image.disk_gb", fmt.Sprintf("a disk of %d GB is less than the documented minimum of %d GB (300 GB are recommended)", gb, minDiskGB), "choose a larger disk")
	}
}
