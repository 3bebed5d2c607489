package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dorunner/dorunner-bake/firstboot/runner"
)

// configDir is what the runner's container sees as /etc/gitlab-runner.
func configDir(name string) string { return "/srv/dataops-runner-" + name + "/config" }

const (
	configInside = "/etc/gitlab-runner"
	freshInside  = configInside + "/register.toml"
)

func (b *boot) configFile() string   { return configDir(b.spec.Name) + "/config.toml" }
func (b *boot) freshFile() string    { return configDir(b.spec.Name) + "/register.toml" }
func (b *boot) systemIDFile() string { return configDir(b.spec.Name) + "/.runner_system_id" }

// configMount binds the configuration directory into a container.
func (b *boot) configMount() string {
	return b.h.path(configDir(b.spec.Name)) + ":" + configInside
}

var systemIDForm = regexp.MustCompile(`^[sr]_[0-9a-zA-Z]{12}$`)

// hasSystemID takes the derived id, or the one of a runner that was set up here before this program came.
func (b *boot) hasSystemID(context.Context) (bool, error) {
	data, err := b.h.readFile(b.systemIDFile())
	if err != nil {
		return false, err
	}
	have := strings.TrimSpace(string(data))
	if have != runner.SystemID(b.id.InstanceID) {
		_, registered, err := b.findEntry(b.configFile())
		if err != nil || !registered || !systemIDForm.MatchString(have) {
			return false, err
		}
	}
	b.systemID, b.report.SystemID = have, have
	return true, nil
}

func (b *boot) writeSystemID(context.Context) error {
	return b.h.writeFile(b.systemIDFile(), []byte(runner.SystemID(b.id.InstanceID)))
}

// findEntry looks for our runner in a config.toml: its name and URL are ours, and it has a token.
func (b *boot) findEntry(file string) (at int, found bool, err error) {
	entries, err := entriesOf(b.h, file)
	if err != nil {
		return 0, false, err
	}
	at = findRunner(entries, b.desc, b.spec.URL)
	if at >= 0 {
		b.secrets = append(b.secrets, entries[at].Token)
	}
	return at, at >= 0, nil
}

func findRunner(entries []runnerEntry, desc, url string) int {
	return slices.IndexFunc(entries, func(e runnerEntry) bool {
		return e.Name == desc && gitlabBase(e.URL) == gitlabBase(url) && e.Token != "" && e.Executor != ""
	})
}

func entriesOf(h *Host, file string) ([]runnerEntry, error) {
	doc, err := h.readFile(file)
	if err != nil {
		return nil, err
	}
	entries, err := readEntries(doc)
	if err != nil && strings.HasSuffix(file, "/register.toml") {
		return nil, nil // the register command was killed while it wrote
	}
	if err != nil {
		return nil, final(fmt.Errorf("%s is not TOML: %w", file, err), "mend or remove it")
	}
	return entries, nil
}

// isConfigured says whether config.toml holds our entry and the documented settings.
func (b *boot) isConfigured(context.Context) (bool, error) {
	have, err := b.h.readFile(b.configFile())
	if err != nil {
		return false, err
	}
	if _, found, err := b.findEntry(b.configFile()); !found || err != nil {
		return false, err
	}
	want, err := b.configText()
	return err == nil && string(have) == string(want), err
}

// configure writes config.toml whole, with our entry in it once, and then forgets the fresh registration.
func (b *boot) configure(context.Context) error {
	text, err := b.configText()
	if err != nil {
		return err
	}
	if err := b.h.writeFile(b.configFile(), text); err != nil {
		return err
	}
	return removeFile(b.h.path(b.freshFile()))
}

// configText is config.toml as it should be: what is there, our entry taken over from the fresh registration where it
// is missing, and our settings.
func (b *boot) configText() ([]byte, error) {
	doc, err := b.h.readFile(b.configFile())
	if err != nil {
		return nil, err
	}
	at, found, err := b.findEntry(b.configFile())
	if err != nil {
		return nil, err
	}
	if !found {
		fresh, err := b.h.readFile(b.freshFile())
		if err != nil {
			return nil, err
		}
		n, found, err := b.findEntry(b.freshFile())
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, errors.New("the registration is gone from the disk: something else changes it at the same time")
		}
		if doc == nil {
			doc = fresh
		} else {
			_, entry, err := cutEntry(fresh, n)
			if err != nil {
				return nil, err
			}
			doc = appendEntry(doc, entry)
		}
		entries, err := readEntries(doc)
		if err != nil {
			return nil, err
		}
		at = findRunner(entries, b.desc, b.spec.URL)
	}
	text, err := setTOML(doc, at, b.settings())
	if err != nil {
		return nil, final(fmt.Errorf("%s: %w", b.configFile(), err), "mend it by hand")
	}
	return text, nil
}

// metricsAddress is where the runner tells how its polls were answered; reachable from this machine alone, since no
// port of the container is published.
const metricsAddress = ":9252"

func (b *boot) settings() []setting {
	docker := func(key, value string) setting {
		return setting{path: []string{"runners", "docker", key}, value: value}
	}
	return []setting{
		{path: []string{"concurrent"}, value: strconv.Itoa(b.spec.Concurrent)},
		{path: []string{"check_interval"}, value: strconv.Itoa(b.spec.CheckInterval)},
		{path: []string{"listen_address"}, value: tomlString(metricsAddress), keep: true},
		docker("image", tomlString(b.spec.JobImage)),
		docker("volumes", tomlStrings(b.spec.Volumes)),
		docker("pull_policy", tomlStrings(b.spec.PullPolicy)),
	}
}

// entryText is the config.toml that gitlab-runner's register command writes.
func (b *boot) entryText(c credentials) []byte {
	expires := c.Expires
	return fmt.Appendf(nil, `concurrent = 1
check_interval = 0
shutdown_timeout = 0

[session_server]
  session_timeout = 1800

[[runners]]
  name = %s
  url = %s
  id = %d
  token = %s
  token_obtained_at = %s
  token_expires_at = %s
  executor = %s
  [runners.cache]
    MaxUploadedArchiveSize = 0
  [runners.docker]
    tls_verify = false
    image = %s
    privileged = false
    disable_entrypoint_overwrite = false
    oom_kill_disable = false
    disable_cache = false
    volumes = ["/cache"]
    shm_size = 0
`, tomlString(b.desc), tomlString(b.spec.URL), c.ID, tomlString(c.Token), b.h.Now().UTC().Format(time.RFC3339),
		expires.UTC().Format(time.RFC3339), tomlString(b.spec.Executor), tomlString(b.spec.JobImage))
}

// dropEntry takes a runner out of a config.toml and leaves everything else.
func dropEntry(h *Host, file, desc, url string) error {
	entries, err := entriesOf(h, file)
	if err != nil {
		return err
	}
	at := findRunner(entries, desc, url)
	if at < 0 {
		return nil
	}
	doc, err := h.readFile(file)
	if err != nil {
		return err
	}
	rest, _, err := cutEntry(doc, at)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return h.writeFile(file, rest)
}

func removeFile(p string) error {
	if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
