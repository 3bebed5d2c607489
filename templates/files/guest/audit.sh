# Audit a sealed machine without changing it: one line "PATH<TAB>WHAT" for everything of this one machine that is still
# there. It is written apart from seal.sh and shares nothing with it, so that a mistake there shows here.
# Environment: ROOT (a mounted system instead of this one; empty for this one).
# Standard input: secrets that this bake used, one per line; they may be in no file.
set -eu
ROOT=${ROOT:-}

found() { printf '%s\t%s\n' "${1#"$ROOT"}" "$2"; }

# each WHAT PATH...: a finding for every path that exists. Patterns that match nothing stand for themselves.
each() {
    what=$1
    shift
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then found "$path" "$what"; fi
    done
}

# filled WHAT DIR...: a finding for every file below.
filled() {
    what=$1
    shift
    for dir in "$@"; do
        [ -d "$dir" ] || continue
        find "$dir" -xdev \( -type f -o -type l \) | head -n 20 | while IFS= read -r path; do found "$path" "$what"; done
    done
}

# --- identity
id=$(cat "$ROOT/etc/machine-id" 2>/dev/null || echo missing)
[ "$id" = uninitialized ] || found "$ROOT/etc/machine-id" "holds a machine id (or nothing): it must say uninitialized"
if [ -e "$ROOT/var/lib/dbus/machine-id" ] && [ ! -L "$ROOT/var/lib/dbus/machine-id" ]; then
    found "$ROOT/var/lib/dbus/machine-id" "is a file with an id of its own: it must link to /etc/machine-id"
fi
each "SSH host key" "$ROOT"/etc/ssh/ssh_host_*
each "identity of the Docker engine" "$ROOT/var/lib/docker/engine-id" "$ROOT/etc/docker/key.json"
each "seed of the random number generator" "$ROOT/var/lib/systemd/random-seed"
each "host secret of systemd-creds" "$ROOT/var/lib/systemd/credential.secret"
find "$ROOT/srv" "$ROOT/etc" "$ROOT/root" "$ROOT/home" -xdev -name .runner_system_id 2>/dev/null |
    while IFS= read -r path; do found "$path" "system id of a runner"; done
name=$(cat "$ROOT/etc/hostname" 2>/dev/null || :)
[ -z "$name" ] || [ "$name" = localhost ] || found "$ROOT/etc/hostname" "names the machine that was baked on: $name"
if grep -q '^127\.0\.1\.1' "$ROOT/etc/hosts" 2>/dev/null; then found "$ROOT/etc/hosts" "names the machine that was baked on"; fi
if grep -qs '^InitiatorName=' "$ROOT/etc/iscsi/initiatorname.iscsi"; then
    found "$ROOT/etc/iscsi/initiatorname.iscsi" "iSCSI name of this machine"
fi
each "marks entropy as seeded" "$ROOT/var/cache/pollinate/seeded"
each "rules for this machine's network cards" "$ROOT/etc/udev/rules.d/70-persistent-net.rules"

# --- who may log in
each "keys that may log in" "$ROOT"/root/.ssh/authorized_keys* "$ROOT"/home/*/.ssh/authorized_keys*
each "sudo rule for a user of this machine" "$ROOT/etc/sudoers.d/90-cloud-init-users"
each "copy of old passwords" "$ROOT/etc/shadow-" "$ROOT/etc/gshadow-"
if [ -f "$ROOT/etc/shadow" ]; then
    awk -F : '$2 !~ /^[!*]/ { print $1 }' "$ROOT/etc/shadow" |
        while IFS= read -r user; do found "$ROOT/etc/shadow" "user $user has a password"; done
fi

# --- cloud-init, network, installer, agents
filled "state of cloud-init" "$ROOT/var/lib/cloud"
filled "DHCP lease" "$ROOT/var/lib/dhcp" "$ROOT/var/lib/dhclient" "$ROOT/var/lib/systemd/network"
each "DHCP lease" "$ROOT"/var/lib/NetworkManager/*.lease
each "network configuration of this machine" "$ROOT"/etc/netplan/50-cloud-init.yaml \
    "$ROOT"/etc/netplan/*-installer-config.yaml "$ROOT"/etc/network/interfaces.d/50-cloud-init*
each "left by the operating system's installer" "$ROOT/etc/cloud/cloud.cfg.d/99-installer.cfg" \
    "$ROOT/etc/cloud/cloud.cfg.d/90-installer-network.cfg" "$ROOT/etc/cloud/ds-identify.cfg" "$ROOT/var/log/installer" \
    "$ROOT/etc/cloud/cloud.cfg.d/subiquity-disable-cloudinit-networking.cfg"
filled "state of the Azure agent" "$ROOT/var/lib/waagent"

# --- our own
each "state of first boot" "$ROOT/var/lib/dorunner" "$ROOT/etc/dorunner/runner.yaml"
each "vault of a runner" "$ROOT/secrets/vault.yml" "$ROOT/secrets/vault.salt"

# --- traces
each "login to a registry" "$ROOT"/root/.docker/config.json "$ROOT"/home/*/.docker/config.json
each "shell history" "$ROOT"/root/.*_history "$ROOT"/home/*/.*_history
filled "list of packages" "$ROOT/var/lib/apt/lists"
each "downloaded package" "$ROOT"/var/cache/apt/archives/*.deb
each "keeps services from starting" "$ROOT/usr/sbin/policy-rc.d"
filled "temporary file" "$ROOT/tmp" "$ROOT/var/tmp"
if [ -d "$ROOT/var/log/journal" ]; then filled "system journal" "$ROOT/var/log/journal"; fi
if [ -d "$ROOT/var/log" ]; then # but for the clouds' agents, which run and write until the machine stops
    find "$ROOT/var/log" -xdev -type f -size +0 ! -path "$ROOT/var/log/journal/*" ! -path "$ROOT/var/log/installer/*" \
        ! -path "$ROOT/var/log/amazon/*" ! -path "$ROOT/var/log/azure/*" |
        head -n 20 | while IFS= read -r path; do found "$path" "log"; done
fi

# --- secrets: what they look like, then those that were used
set -- "$ROOT/etc" # never none: grep would take the current directory
for dir in root home srv var/lib/dorunner opt usr/local/etc usr/local/bin var/spool; do
    if [ -d "$ROOT/$dir" ]; then set -- "$@" "$ROOT/$dir"; fi
done
report() { while IFS= read -r path; do found "$path" "$1"; done; }
grep -rIlsE 'glrtr?-[A-Za-z0-9_-]{10,}|GR1348941[A-Za-z0-9_-]{5,}' "$@" | report "looks like a GitLab token" || :
grep -rIlsE '"(auth|identitytoken|registrytoken)"[[:space:]]*:[[:space:]]*"[^"]+"' "$@" | report "looks like a registry login" || :
grep -rIlsE '(^|[^A-Za-z0-9/+])A(KIA|SIA)[0-9A-Z]{16}([^A-Za-z0-9/+]|$)' "$@" | report "looks like an AWS access key" || :
for dir in root home srv etc/ssh etc/dorunner; do
    if [ -d "$ROOT/$dir" ]; then
        grep -rIlsE -e '-----BEGIN ([A-Z]+ )*PRIVATE KEY-----' "$ROOT/$dir" | report "private key" || :
    fi
done
for dir in tmp var/tmp var/log var/lib/cloud; do
    if [ -d "$ROOT/$dir" ]; then set -- "$@" "$ROOT/$dir"; fi
done
grep -v '^$' | { grep -rlsF -f - "$@" || :; } | report "holds a secret that this bake used"
