package cloudinit

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// Autoinstall is the part of Ubuntu's unattended installation that we write (version 1 of its format).
type Autoinstall struct {
	Version       int             `yaml:"version"`
	EarlyCommands [][]string      `yaml:"early-commands,omitempty"`
	Identity      InstallIdentity `yaml:"identity"`
	SSH           InstallSSH      `yaml:"ssh"`
	Storage       InstallStorage  `yaml:"storage"`
	LateCommands  [][]string      `yaml:"late-commands,omitempty"`
	Shutdown      string          `yaml:"shutdown,omitempty"`
	UserData      *Document       `yaml:"user-data,omitempty"` // of the installed system
}

// InstallIdentity is the first user. The password is a hash, or "!" for none.
type InstallIdentity struct {
	Hostname string `yaml:"hostname"`
	Username string `yaml:"username"`
	Password string `yaml:"password"`
}

// InstallSSH is the installed system's SSH server.
type InstallSSH struct {
	InstallServer  bool     `yaml:"install-server"`
	AllowPassword  bool     `yaml:"allow-pw"`
	AuthorizedKeys []string `yaml:"authorized-keys,omitempty"`
}

// InstallStorage is the layout, and the disk that it goes to.
type InstallStorage struct {
	Layout struct {
		Name string `yaml:"name"` // lvm or direct
		// Sizing is "all" for lvm: Ubuntu's own choice leaves up to half of a disk unused.
		Sizing string            `yaml:"sizing-policy,omitempty"`
		Match  map[string]string `yaml:"match"`
	} `yaml:"layout"`
}

// Install is what an unattended installation is told.
type Install struct {
	Hostname, Username string
	PasswordHash       string   // crypt(3), or "" for no password
	Keys               []string // SSH public keys
	Layout             string   // lvm or direct
	Disk               string   // as ParseDisk reads it
	Media              string   // directory of the installer's medium that holds the payload, "/cdrom"; "" is the seed
	Docker             bool     // the payload has no Docker packages: install docker.io over the network
}

var (
	userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	hashForm = regexp.MustCompile(`^\$(1|2[aby]|5|6|y|7|gy)\$.{8,}$`)
)

// ParseDisk reads which disk may be wiped: serial=S, model=M, path=/dev/sda, size=480GB, size=400GB-500GB, largest or
// smallest. There is no default: an installer that takes the largest disk unasked wipes the data of somebody.
func ParseDisk(s string) (how, what string, err error) {
	how, what, given := strings.Cut(s, "=")
	switch {
	case s == "":
		return "", "", fmt.Errorf("say which disk may be wiped: serial=S, model=M, path=/dev/sda, size=480GB, size=400GB-500GB, smallest, or largest if you mean it")
	case (how == "largest" || how == "smallest") && !given:
		return how, "", nil
	case slices.Contains([]string{"serial", "model", "path"}, how) && what != "" && !strings.ContainsAny(what, "\"'\n|"):
		if how == "path" && !strings.HasPrefix(what, "/dev/") {
			return "", "", fmt.Errorf("disk %q: a path begins with /dev/", s)
		}
		return how, what, nil
	case how == "size":
		from, to, span := strings.Cut(what, "-")
		low, err1 := parseSize(from)
		high := low
		var err2 error
		if span {
			high, err2 = parseSize(to)
		}
		if err1 != nil || err2 != nil || low > high {
			return "", "", fmt.Errorf("disk %q: write a size as 480GB, 1TB or 400GB-500GB", s)
		}
		if !span { // makers round: a disk of 480 GB has 480,103,981,056 bytes
			low, high = low-low/50, high+high/50
		}
		return how, fmt.Sprintf("%d-%d", low, high), nil
	}
	return "", "", fmt.Errorf("disk %q: write serial=S, model=M, path=/dev/sda, size=480GB, smallest or largest", s)
}

func parseSize(s string) (int64, error) {
	for unit, factor := range map[string]int64{"GB": 1e9, "TB": 1e12, "GiB": 1 << 30, "TiB": 1 << 40} {
		if n, found := strings.CutSuffix(s, unit); found {
			v, err := strconv.ParseFloat(n, 64)
			if err != nil || v <= 0 || v > 1e6 {
				return 0, fmt.Errorf("no size: %s", s)
			}
			return int64(v * float64(factor)), nil
		}
	}
	return 0, fmt.Errorf("no size: %s", s)
}

// Autoinstall is the user-data of Ubuntu's installer: wipe one disk, install, and make the installed system this runner from
// the payload on the medium.
func (i Install) Autoinstall(s runner.Spec, o Options) ([]byte, error) {
	how, what, err := ParseDisk(i.Disk)
	if err != nil {
		return nil, err
	}
	switch {
	case !userForm.MatchString(i.Username):
		return nil, fmt.Errorf("user name %q: use lower-case letters, digits and dashes", i.Username)
	case i.PasswordHash != "" && !hashForm.MatchString(i.PasswordHash):
		return nil, fmt.Errorf("the password must be a hash, as `openssl passwd -6` makes it: whoever has the medium can read it")
	case i.PasswordHash == "" && len(i.Keys) == 0:
		return nil, fmt.Errorf("nobody could log in: give a password hash or an SSH key")
	case i.Layout != "lvm" && i.Layout != "direct":
		return nil, fmt.Errorf("layout %q is neither lvm nor direct", i.Layout)
	}
	if err := checkSecrets(s, "metal"); err != nil {
		return nil, err
	}
	content, err := runner.Encode(s, runner.EncodeOptions{AllowPlain: o.AllowPlain})
	if err != nil {
		return nil, err
	}
	guard, err := templates.Read("cloudinit/disk-guard.sh")
	if err != nil {
		return nil, err
	}
	const kept = "/var/lib/dorunner/payload"
	a := &Autoinstall{
		Version:       1,
		EarlyCommands: [][]string{{"sh", "-c", string(guard), "disk-guard", how, what}},
		Identity:      InstallIdentity{i.Hostname, i.Username, i.PasswordHash},
		SSH:           InstallSSH{InstallServer: true, AuthorizedKeys: i.Keys},
		Shutdown:      "reboot",
		UserData: &Document{
			WriteFiles: []WriteFile{NewWriteFile(RunnerFile, "0600", content)},
			RunCmd:     [][]string{{"sh", kept + "/install.sh", kept}, {"rm", "-rf", kept}},
		},
	}
	if a.Identity.Password == "" {
		a.Identity.Password = "!"
	}
	a.Storage.Layout.Name = i.Layout
	if i.Layout == "lvm" {
		a.Storage.Layout.Sizing = "all"
	}
	a.Storage.Layout.Match = map[string]string{"path": "DORUNNER_DISK"} // the guard names the disk; until it does, none fits
	from := i.Media
	if from == "" {
		from = "/run/dorunner-seed"
		a.LateCommands = append(a.LateCommands, []string{"mkdir", "-p", from}, []string{"mount", "-o", "ro", "LABEL=" + SeedLabel, from})
	}
	a.LateCommands = append(a.LateCommands, []string{"mkdir", "-p", "/target" + kept}, []string{"cp", "-r", from + "/" + PayloadDir + "/.", "/target" + kept})
	if i.Docker {
		a.LateCommands = append(a.LateCommands, []string{"curtin", "in-target", "--", "apt-get", "install", "-y", "docker.io"})
	}
	doc, err := Document{Autoinstall: a}.Encode()
	if err != nil {
		return nil, err
	}
	return doc, judge(doc, "user-data")
}
