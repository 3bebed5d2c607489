# Seal: remove everything that clones of this machine must not share, and what only this bake needed. What is left
# behind on purpose: packages, container images, first boot and its configuration, the author's files. Running it
# again is harmless; over SSH it leaves the connection alone.
# Environment: ROOT (a mounted system instead of this one; empty for this one), OFFLINE (1: no system runs).
# The last line printed is "root_used BYTES".
set -eu
ROOT=${ROOT:-}

# --- stop whoever would write again -------------------------------------------------------------------------------
if [ -z "$ROOT" ] && [ "${OFFLINE:-}" != 1 ]; then
    systemctl stop docker.socket docker.service containerd.service || :
    # It saves a new seed when it stops; stopped now, it will not do so at shutdown.
    systemctl stop systemd-random-seed.service || :
    systemctl stop syslog.socket rsyslog.service walinuxagent.service 2>/dev/null || :
    journalctl --relinquish-var >/dev/null 2>&1 || :
    # A DHCP client writes its lease again when the network goes down; let it write into memory.
    for dir in /var/lib/dhcp /var/lib/dhclient; do
        if [ -d "$dir" ] && ! mountpoint -q "$dir"; then
            rm -rf "${dir:?}"/*
            mount -t tmpfs -o mode=755 tmpfs "$dir" || :
        fi
    done
fi

# --- packages -----------------------------------------------------------------------------------------------------
rm -rf "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/cache/apt/*.bin "$ROOT"/var/cache/apt/archives/*.deb \
    "$ROOT"/var/cache/apt/archives/partial/* "$ROOT"/var/cache/debconf/*-old "$ROOT"/var/lib/dpkg/*-old \
    "$ROOT"/usr/sbin/policy-rc.d

# --- identity -----------------------------------------------------------------------------------------------------
# "uninitialized", not empty: systemd then knows a first boot.
if [ -L "$ROOT/etc/machine-id" ] || [ ! -w "$ROOT/etc/machine-id" ]; then rm -f "$ROOT/etc/machine-id"; fi
echo uninitialized >"$ROOT/etc/machine-id"
chmod 444 "$ROOT/etc/machine-id"
if [ -d "$ROOT/var/lib/dbus" ]; then ln -sfn /etc/machine-id "$ROOT/var/lib/dbus/machine-id"; fi
rm -f "$ROOT"/etc/ssh/ssh_host_*_key "$ROOT"/etc/ssh/ssh_host_*_key.pub "$ROOT"/etc/ssh/ssh_host_*-cert.pub \
    "$ROOT"/var/lib/docker/engine-id "$ROOT"/var/lib/systemd/random-seed "$ROOT"/var/lib/systemd/credential.secret \
    "$ROOT"/srv/*/config/.runner_system_id "$ROOT"/etc/docker/key.json \
    "$ROOT"/var/cache/pollinate/seeded "$ROOT"/etc/udev/rules.d/70-persistent-net.rules
iscsi=$ROOT/etc/iscsi/initiatorname.iscsi
if grep -qs '^InitiatorName=' "$iscsi"; then echo GenerateName=yes >"$iscsi"; fi # anew at its first start

# The name of the machine that was baked on, and what was added to /etc/hosts for it.
name=$(cat "$ROOT/etc/hostname" 2>/dev/null || :)
echo localhost >"$ROOT/etc/hostname"
if [ -f "$ROOT/etc/hosts" ]; then
    awk -v name="$name" '
        $1 == "127.0.1.1" { next }
        name != "" && name != "localhost" {
            for (i = 2; i <= NF; i++) { split($i, part, "."); if ($i == name || part[1] == name) next }
        }
        { print }' "$ROOT/etc/hosts" >"$ROOT/etc/hosts.sealed"
    cat "$ROOT/etc/hosts.sealed" >"$ROOT/etc/hosts"
    rm -f "$ROOT/etc/hosts.sealed"
fi

# --- who may log in -----------------------------------------------------------------------------------------------
for home in "$ROOT/root" "$ROOT"/home/*; do
    [ -d "$home" ] || continue
    rm -rf "$home"/.ssh/authorized_keys* "$home"/.ssh/known_hosts* "$home"/.docker/config.json \
        "$home"/.bash_history "$home"/.sh_history "$home"/.zsh_history "$home"/.ash_history "$home"/.lesshst \
        "$home"/.viminfo "$home"/.wget-hsts "$home"/.python_history "$home"/.sudo_as_admin_successful \
        "$home"/.cache "$home"/.ansible
done
rm -f "$ROOT/etc/sudoers.d/90-cloud-init-users" "$ROOT/etc/shadow-" "$ROOT/etc/gshadow-" "$ROOT/etc/passwd-" "$ROOT/etc/group-"
# No password opens anything: what is neither locked nor disabled becomes locked.
if [ -f "$ROOT/etc/shadow" ]; then
    awk 'BEGIN { FS = OFS = ":" } $2 !~ /^[!*]/ { $2 = "!" } { print }' "$ROOT/etc/shadow" >"$ROOT/etc/shadow.sealed"
    cat "$ROOT/etc/shadow.sealed" >"$ROOT/etc/shadow" # keeps owner and mode
    rm -f "$ROOT/etc/shadow.sealed"
fi

# --- cloud-init, network, installer, agents ------------------------------------------------------------------------
rm -rf "$ROOT"/var/lib/cloud/* "$ROOT"/run/cloud-init/instance-data*.json \
    "$ROOT"/etc/netplan/50-cloud-init.yaml "$ROOT"/etc/netplan/*-installer-config.yaml \
    "$ROOT"/etc/network/interfaces.d/50-cloud-init* "$ROOT"/etc/systemd/network/*-cloud-init-* \
    "$ROOT"/etc/NetworkManager/system-connections/cloud-init-* \
    "$ROOT"/etc/cloud/cloud.cfg.d/99-installer.cfg "$ROOT"/etc/cloud/cloud.cfg.d/90-installer-network.cfg \
    "$ROOT"/etc/cloud/cloud.cfg.d/subiquity-disable-cloudinit-networking.cfg "$ROOT"/etc/cloud/ds-identify.cfg \
    "$ROOT"/etc/cloud/clean.d/99-installer "$ROOT"/var/log/installer "$ROOT"/autoinstall.yaml \
    "$ROOT"/var/lib/dhcp/* "$ROOT"/var/lib/dhclient/* "$ROOT"/var/lib/NetworkManager/*.lease \
    "$ROOT"/var/lib/NetworkManager/secret_key "$ROOT"/var/lib/systemd/network/* \
    "$ROOT"/var/lib/waagent/* "$ROOT"/var/lib/amazon/ssm/i-* "$ROOT"/var/lib/ubuntu-advantage/private/*

# --- our own ------------------------------------------------------------------------------------------------------
rm -rf "$ROOT/var/lib/dorunner" "$ROOT/run/dorunner" "$ROOT/etc/dorunner/runner.yaml"

# --- traces -------------------------------------------------------------------------------------------------------
if [ -d "$ROOT/var/log" ]; then
    rm -rf "$ROOT"/var/log/journal/*
    find "$ROOT/var/log" -xdev -type f \( -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' -o -name '*-20[0-9][0-9][0-9][0-9][0-9][0-9]' \) -delete
    find "$ROOT/var/log" -xdev -type f -size +0 -exec truncate -s 0 {} +
fi
for dir in "$ROOT/tmp" "$ROOT/var/tmp"; do
    if [ -d "$dir" ]; then find "$dir" -xdev -mindepth 1 -delete 2>/dev/null || :; fi
done
rm -rf "$ROOT"/var/crash/* "$ROOT"/var/lib/systemd/coredump/* "$ROOT"/var/mail/* "$ROOT"/root/.cache

# --- the disk -----------------------------------------------------------------------------------------------------
sync
if [ -z "$ROOT" ] && [ "${OFFLINE:-}" != 1 ]; then fstrim -av >/dev/null 2>&1 || :; fi
printf 'root_used %s\n' "$(df --output=used -B1 "$ROOT/" | tail -n 1 | tr -d ' ')"
