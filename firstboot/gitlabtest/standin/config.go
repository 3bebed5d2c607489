package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// config is what gitlab-runner reads of config.toml, as far as it matters here. Everything else is lost when it
// writes the file again, comments included.
type config struct {
	ListenAddress    string         `toml:"listen_address"`
	Concurrent       int            `toml:"concurrent"`
	CheckInterval    int            `toml:"check_interval"`
	ConnectionMaxAge string         `toml:"connection_max_age"`
	ShutdownTimeout  int            `toml:"shutdown_timeout"`
	Runners          []runnerConfig `toml:"runners"`
}

type runnerConfig struct {
	Name            string    `toml:"name"`
	URL             string    `toml:"url"`
	ID              int       `toml:"id"`
	Token           string    `toml:"token"`
	TokenObtainedAt time.Time `toml:"token_obtained_at"`
	TokenExpiresAt  time.Time `toml:"token_expires_at"`
	TLSCAFile       string    `toml:"tls-ca-file"`
	Executor        string    `toml:"executor"`
	Limit           int       `toml:"limit"`
	Docker          docker    `toml:"docker"`
}

type docker struct {
	Image        string    `toml:"image"`
	Privileged   bool      `toml:"privileged"`
	DisableCache bool      `toml:"disable_cache"`
	Volumes      []string  `toml:"volumes"`
	PullPolicy   oneOrMore `toml:"pull_policy"`
}

// oneOrMore is a string or a list of them.
type oneOrMore []string

// UnmarshalText reads the single string; a list is read by the library.
func (o *oneOrMore) UnmarshalText(b []byte) error { //nolint:unparam // an interface's
	*o = oneOrMore{string(b)}
	return nil
}

// readConfig parses a configuration file.
func readConfig(path string) (config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return config{}, err
	}
	c := config{Concurrent: 1, ConnectionMaxAge: "15m0s"}
	if err := toml.Unmarshal(data, &c); err != nil {
		return config{}, fmt.Errorf("decoding configuration file: %w", err)
	}
	return c, nil
}

// encode writes the file in gitlab-runner's layout, which differs a little from version to version.
func (a *app) encode(c config) []byte {
	var b bytes.Buffer
	line := func(indent int, key string, value any) {
		fmt.Fprintf(&b, "%*s%s = ", indent, "", key)
		switch v := value.(type) {
		case string:
			fmt.Fprintf(&b, "%q\n", v)
		case []string:
			quoted := make([]string, len(v))
			for i, s := range v {
				quoted[i] = fmt.Sprintf("%q", s)
			}
			fmt.Fprintf(&b, "[%s]\n", strings.Join(quoted, ", "))
		case time.Time:
			fmt.Fprintln(&b, v.UTC().Format("2006-01-02T15:04:05Z"))
		default:
			fmt.Fprintln(&b, v)
		}
	}
	if c.ListenAddress != "" {
		line(0, "listen_address", c.ListenAddress)
	}
	line(0, "concurrent", c.Concurrent)
	line(0, "check_interval", c.CheckInterval)
	if c.ConnectionMaxAge != "" {
		line(0, "connection_max_age", c.ConnectionMaxAge)
	}
	line(0, "shutdown_timeout", c.ShutdownTimeout)
	b.WriteString("\n[session_server]\n")
	line(2, "session_timeout", 1800)
	for _, r := range c.Runners {
		b.WriteString("\n[[runners]]\n")
		line(2, "name", r.Name)
		if r.Limit > 0 {
			line(2, "limit", r.Limit)
		}
		line(2, "url", r.URL)
		line(2, "id", r.ID)
		line(2, "token", r.Token)
		line(2, "token_obtained_at", r.TokenObtainedAt)
		line(2, "token_expires_at", r.TokenExpiresAt)
		if r.TLSCAFile != "" {
			line(2, "tls-ca-file", r.TLSCAFile)
		}
		line(2, "executor", r.Executor)
		b.WriteString("  [runners.cache]\n")
		line(4, "MaxUploadedArchiveSize", 0)
		if !a.before(17) {
			b.WriteString("    [runners.cache.s3]\n")
			if !a.before(19) {
				line(6, "AssumeRoleMaxConcurrency", 0)
			}
			b.WriteString("    [runners.cache.gcs]\n    [runners.cache.azure]\n")
		}
		b.WriteString("  [runners.docker]\n")
		line(4, "tls_verify", false)
		line(4, "image", r.Docker.Image)
		line(4, "privileged", r.Docker.Privileged)
		line(4, "disable_entrypoint_overwrite", false)
		line(4, "oom_kill_disable", false)
		line(4, "disable_cache", r.Docker.DisableCache)
		line(4, "volumes", r.Docker.Volumes)
		if !a.before(19) {
			line(4, "volume_keep", false)
		}
		if len(r.Docker.PullPolicy) > 0 {
			line(4, "pull_policy", []string(r.Docker.PullPolicy))
		}
		line(4, "shm_size", 0)
		if !a.before(17) {
			line(4, "network_mtu", 0)
		}
	}
	return b.Bytes()
}

// saveConfig writes in place and not atomically, as gitlab-runner does.
func (a *app) saveConfig(path string, c config) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, a.encode(c), 0o600)
}

var systemIDForm = regexp.MustCompile(`^[sr]_[0-9a-zA-Z]{12}$`)

// systemID reads .runner_system_id beside the configuration, or makes it: from the machine-id where there is one.
func systemID(configFile string) (string, error) {
	path := filepath.Join(filepath.Dir(configFile), ".runner_system_id")
	if b, err := os.ReadFile(path); err == nil && systemIDForm.MatchString(strings.TrimSpace(string(b))) {
		return strings.TrimSpace(string(b)), nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := "r_" + rand.Text()[:12]
	if machine, err := os.ReadFile("/etc/machine-id"); err == nil && len(bytes.TrimSpace(machine)) > 0 {
		mac := hmac.New(sha256.New, bytes.TrimSpace(machine))
		mac.Write([]byte("gitlab-runner"))
		id = "s_" + hex.EncodeToString(mac.Sum(nil))[:12]
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return id, os.WriteFile(path, []byte(id), 0o600) //nolint:gosec,nolintlint // beside the file that the caller names; found or not by what else is looked at
}
