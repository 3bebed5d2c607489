package builder

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/dorunner/dorunner-bake/templates"
)

// planted are files that a machine has after a bake, and what the audit says of each; "" for what stays.
var planted = map[string]struct{ content, finding string }{
	"etc/machine-id":                                {"0123456789abcdef0123456789abcdef\n", "machine id"},
	"var/lib/dbus/machine-id":                       {"0123456789abcdef0123456789abcdef\n", "id of its own"},
	"etc/ssh/ssh_host_ed25519_key":                  {"-----BEGIN OPENSSH PRIVATE KEY-----\n", "SSH host key"},
	"etc/ssh/ssh_host_ed25519_key.pub":              {"ssh-ed25519 AAAA\n", "SSH host key"},
	"var/lib/docker/engine-id":                      {"uuid", "Docker engine"},
	"var/lib/systemd/random-seed":                   {"seed", "random number"},
	"srv/dataops-runner-x/config/.runner_system_id": {"s_0123456789ab", "system id"},
	"etc/hostname":                                  {"builder-7\n", "baked on"},
	"etc/hosts":                                     {"127.0.0.1 localhost\n127.0.1.1 builder-7\n10.0.0.7 builder-7.lan builder-7\n10.0.0.1 git.lan\n", "baked on"},
	"root/.ssh/authorized_keys":                     {"ssh-ed25519 AAAA me\n", "log in"},
	"home/ubuntu/.ssh/authorized_keys":              {"ssh-ed25519 AAAA me\n", "log in"},
	"etc/sudoers.d/90-cloud-init-users":             {"ubuntu ALL=(ALL) NOPASSWD:ALL\n", "sudo rule"},
	"etc/shadow":                                    {"root:$6$x$y:1:0:99999:7:::\nubuntu:!:1:0:99999:7:::\ndaemon:*:1:0:99999:7:::\nopen::1:::::\n", "user root has a password"},
	"etc/shadow-":                                   {"root:$6$x$y:1\n", "old passwords"},
	"var/lib/dhcp/dhclient.eth0.leases":             {"lease {}\n", "DHCP lease"},
	"var/lib/cloud/instances/i-1/user-data.txt":     {"#cloud-config\n", "cloud-init"},
	"etc/netplan/50-cloud-init.yaml":                {"network: {}\n", "network configuration"},
	"etc/network/interfaces.d/50-cloud-init":        {"auto eth0\n", "network configuration"},
	"etc/udev/rules.d/70-persistent-net.rules":      {"x", "network cards"},
	"etc/cloud/cloud.cfg.d/99-installer.cfg":        {"datasource_list: [None]\n", "installer"},
	"etc/cloud/cloud.cfg.d/90-installer-network.cfg": {
		"network: {}\n", "installer",
	},
	"etc/cloud/ds-identify.cfg":             {"policy: enabled\n", "installer"},
	"var/lib/waagent/ovf-env.xml":           {"<UserPassword>x</UserPassword>", "Azure agent"},
	"var/lib/dorunner/journal.json":         {"{}", "first boot"},
	"etc/dorunner/runner.yaml":              {"name: x\n", "first boot"},
	"root/.docker/config.json":              {`{"auths": {"x": {"auth": "dTpw"}}}`, "login to a registry"},
	"root/.bash_history":                    {"docker login\n", "shell history"},
	"home/ubuntu/.bash_history":             {"docker login\n", "shell history"},
	"var/lib/apt/lists/deb.debian.org_main": {"Package: x\n", "list of packages"},
	"var/cache/apt/archives/docker.io.deb":  {"deb", "downloaded package"},
	"usr/sbin/policy-rc.d":                  {"#!/bin/sh\nexit 101\n", "services from starting"},
	"tmp/left":                              {"x", "temporary file"},
	"var/tmp/left":                          {"x", "temporary file"},
	"var/log/journal/0123/system.journal":   {"x", "system journal"},
	"var/log/auth.log":                      {"x", "log"},
	"etc/iscsi/initiatorname.iscsi":         {"# a comment\nInitiatorName=iqn.2004-10.com.ubuntu:01:1\n", "iSCSI"},
	"var/cache/pollinate/seeded":            {"", "seeded"},
	"var/log/syslog.1":                      {"x", "log"},

	"etc/dorunner/defaults.yaml":  {"concurrent: 8\n", ""},
	"etc/dorunner/platform":       {"nocloud\n", ""},
	"etc/ssh/sshd_config":         {"PermitRootLogin no\n", ""},
	"etc/cloud/cloud.cfg":         {"system_info: {}\n", ""},
	"home/ubuntu/.profile":        {"# mine\n", ""},
	"opt/app/settings":            {"author = me\n", ""},
	"var/lib/docker/image/a.json": {"{}", ""},
	"var/lib/dhcp/empty/.keep":    {"", "DHCP lease"},
	"var/log/amazon/ssm/a.log":    {"x", ""},
}

// notSealed are findings that the seal leaves for the author: it cannot know whether they are meant.
var notSealed = map[string]struct{ content, finding string }{
	"root/.ssh/id_ed25519":                     {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "private key"},
	"srv/dataops-runner-x/config/config.toml":  {"token = \"glrt-abcdefghij0123456789\"\n", "GitLab token"},
	"opt/app/register.sh":                      {"register --registration-token GR1348941abcdefghij\n", "GitLab token"},
	"home/ubuntu/.aws/credentials":             {"aws_access_key_id = AKIAIOSFODNN7EXAMPLE\n", "AWS access key"},
	"etc/containers/auth.json":                 {`{"auths":{"x":{"auth":"dTpw"}}}`, "registry login"},
	"etc/app.conf":                             {"password = the-canary-password\n", "secret that this bake used"},
	"secrets/vault.salt":                       {"00000000000000000000", "vault"},
	"usr/local/bin/with space":                 {"the-canary-password\n", "secret that this bake used"},
	"root/a/.runner_system_id":                 {"s_0123456789ab", "system id"},
	"home/ubuntu/notes about the canary.txt":   {"nothing here\n", ""},
	"etc/not-a-token":                          {"glrt-short AKIA GR1348941\n", ""},
	"etc/ssl/private/made-by-the-author.key":   {"-----BEGIN PRIVATE KEY-----\nAAAA\n", ""},
	"usr/share/doc/registry/example-auth.json": {`{"auth":"x"}`, ""},
}

func plant(t *testing.T, root string, files map[string]struct{ content, finding string }) {
	t.Helper()
	for name, f := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(f.content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func guestText(t *testing.T, name string) string {
	t.Helper()
	text, err := templates.Read("guest/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func guestScript(t *testing.T, name, root, stdin string, args ...string) string {
	t.Helper()
	c := exec.Command("/bin/sh", append([]string{"-c", guestText(t, name), name}, args...)...)
	c.Env = append(os.Environ(), "ROOT="+root)
	c.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%s: %v\n%s%s", name, err, out, errs.String())
	}
	return string(out)
}

// mustFind holds the audit's findings against what was planted.
func mustFind(t *testing.T, got []AuditFinding, files map[string]struct{ content, finding string }) {
	t.Helper()
	by := map[string][]string{}
	for _, f := range got {
		by[f.Path] = append(by[f.Path], f.What)
	}
	dirs := []string{"/var/lib/dorunner", "/var/log/installer"} // found as a whole
	for name, f := range files {
		path := "/" + name
		for _, d := range dirs {
			if strings.HasPrefix(path, d+"/") {
				path = d
			}
		}
		said := strings.Join(by[path], "; ")
		if (f.finding == "") != (said == "") || !strings.Contains(said, f.finding) {
			t.Errorf("%s: the audit says %q, want %q", path, said, f.finding)
		}
	}
}

func TestAuditFindsWhatIsPlanted(t *testing.T) {
	root := t.TempDir()
	plant(t, root, planted)
	plant(t, root, notSealed)
	before := tree(t, root)
	got := parseAudit(guestScript(t, "audit.sh", root, "the-canary-password\n"))
	mustFind(t, got, planted)
	mustFind(t, got, notSealed)
	if after := tree(t, root); !slices.Equal(before, after) {
		t.Error("the audit changed something")
	}
}

// What the seal leaves, the audit of its own finds; and the seal touches nothing else.
func TestSealThenAudit(t *testing.T) {
	root := t.TempDir()
	plant(t, root, planted)
	plant(t, root, map[string]struct{ content, finding string }{"etc/app.conf": {"the-canary-password\n", ""}})
	out := guestScript(t, "seal-and-audit.sh", root, "the-canary-password\n", guestText(t, "seal.sh"), guestText(t, "audit.sh"))
	sealed, findings, _ := strings.Cut(out, "audit\n")
	if !strings.HasPrefix(sealed, "root_used ") {
		t.Errorf("the seal says %q", sealed)
	}
	if got := parseAudit(findings); len(got) != 1 || got[0].Path != "/etc/app.conf" {
		t.Errorf("the sealed machine still has %v", got)
	}
	for name, f := range planted {
		data, err := os.ReadFile(filepath.Join(root, name))
		if f.finding == "" && !strings.HasPrefix(name, "var/log/") && (err != nil || string(data) != f.content) {
			t.Errorf("%s did not stay: %q, %v", name, data, err)
		}
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	if got := read("etc/hosts"); got != "127.0.0.1 localhost\n10.0.0.1 git.lan\n" {
		t.Errorf("/etc/hosts: %q", got)
	}
	if got := read("etc/shadow"); got != "root:!:1:0:99999:7:::\nubuntu:!:1:0:99999:7:::\ndaemon:*:1:0:99999:7:::\nopen:!:1:::::\n" {
		t.Errorf("/etc/shadow: %q", got)
	}
	if got := read("etc/machine-id"); got != "uninitialized\n" {
		t.Errorf("/etc/machine-id: %q", got)
	}
	if got, err := os.Readlink(filepath.Join(root, "var/lib/dbus/machine-id")); got != "/etc/machine-id" {
		t.Errorf("/var/lib/dbus/machine-id -> %q, %v", got, err)
	}
	if info, err := os.Stat(filepath.Join(root, "etc/shadow")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("/etc/shadow: %v, %v", info.Mode(), err)
	}
	once := tree(t, root)
	guestScript(t, "seal.sh", root, "")
	if again := tree(t, root); !slices.Equal(once, again) {
		t.Error("a second seal changed something")
	}
}

// The audit needs no secret to look for, and finds none in an empty machine but the missing machine-id.
func TestAuditOfAnEmptyTree(t *testing.T) {
	got := parseAudit(guestScript(t, "audit.sh", t.TempDir(), ""))
	if len(got) != 1 || got[0].Path != "/etc/machine-id" {
		t.Errorf("found %v", got)
	}
}

// tree lists every file with its content.
func tree(t *testing.T, root string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, _ := os.ReadFile(path)
		out = append(out, path+"="+string(data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return out
}
