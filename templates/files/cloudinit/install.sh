#!/bin/sh
# Makes this machine a runner from a directory: Docker's packages, container images, first boot. May run again.
# Arguments: the directory. It needs no network.
set -eu
from=$1
umask 022
say() { echo "dorunner: $*" | tee /dev/console; }
fail() { say "offline installation failed: $*" >&2; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
mkdir -p /etc/docker /etc/dorunner
if [ ! -e /etc/docker/daemon.json ]; then
    cp "$from/daemon.json" /etc/docker/daemon.json
    systemctl try-restart docker.service 2>/dev/null || true # when Docker is there already
fi
if ls "$from"/packages/*.deb >/dev/null 2>&1; then
    say "installing Docker"
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C
    tries=0
    until dpkg --install --skip-same-version --refuse-downgrade --force-confold "$from"/packages/*.deb 2>"$log"; do
        cat "$log" >&2
        # The system's own upgrades may run at first boot: wait for them, for at most ten minutes.
        tries=$((tries + 1))
        if [ "$tries" -gt 120 ] || ! grep -q 'lock.*another process\|another process.*lock' "$log"; then
            fail "dpkg: are all packages there that Docker depends on, and for this release? $(tail -n 3 "$log" | tr '\n' ' ')"
        fi
        sleep 5
    done
fi
command -v dockerd >/dev/null || fail "there is no Docker Engine, neither here nor on the seed"

systemctl enable --now docker.service

for image in "$from"/images/*.tar; do
    [ -e "$image" ] || continue
    say "loading ${image##*/}"
    docker load --quiet --input "$image" || fail "docker load ${image##*/}"
done

install -m 0755 "$from/dorunner-firstboot" /usr/local/bin/dorunner-firstboot
install -m 0600 "$from/defaults.yaml" /etc/dorunner/defaults.yaml
install -m 0644 "$from/platform" /etc/dorunner/platform
install -m 0644 "$from"/units/*.service /etc/systemd/system/
systemctl daemon-reload
for unit in "$from"/units/*.service; do
    systemctl enable "${unit##*/}"
done
say "starting first boot"
systemctl start --no-block dorunner-firstboot.service
