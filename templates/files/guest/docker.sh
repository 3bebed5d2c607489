# Install Docker Engine. What is there already, in the wanted version, stays as it is.
#   docker.sh key      print the signing key of Docker's repository; nothing when it is not needed
#   docker.sh install  the checked key comes on standard input
# Environment: DOCKER_URL (https://download.docker.com or a mirror of it; empty for the distribution's own docker.io),
# DOCKER_VERSION (an apt version or its beginning; empty for the newest), DAEMON_JSON, OFFLINE (1: no system runs).
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1

# There is no hurry to reach the disk: a bake that is interrupted is thrown away.
apt_get() {
    apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
        -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confold \
        -o APT::Install-Recommends=false -o APT::Install-Suggests=false \
        -o Acquire::Retries=3 -o Acquire::Languages=none -o Acquire::IndexTargets::deb::CNF::DefaultEnabled=false "$@"
}

# apt does not wait for the lock on its lists.
update() {
    for try in 1 2 3 4 5; do
        if apt_get update; then return 0; fi
        echo "apt-get update failed (try $try of 5)" >&2
        sleep 3
    done
    echo "apt-get update fails: check the machine's network, proxy and /etc/apt/sources.list" >&2
    return 1
}

# begins VERSION: whether it is, or begins with, the one wanted: 26.1 is met by 5:26.1.4-1~ubuntu, not by 26.10.
begins() {
    for form in "$1" "${1#*:}"; do
        case $form in
        "$DOCKER_VERSION") return 0 ;;
        "$DOCKER_VERSION"[0-9]*) ;;
        "$DOCKER_VERSION"*) return 0 ;;
        esac
    done
    return 1
}

installed() {
    command -v dockerd >/dev/null 2>&1 && command -v docker >/dev/null 2>&1 || return 1
    [ -z "$DOCKER_VERSION" ] && return 0
    for package in docker-ce docker.io; do
        # shellcheck disable=SC2016 # dpkg-query expands it
        version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || :)
        if [ -n "$version" ] && begins "$version"; then return 0; fi
    done
    return 1
}

# pick PACKAGE prints PACKAGE=VERSION for the newest version that is wanted.
pick() {
    if [ -z "$DOCKER_VERSION" ]; then
        echo "$1"
        return 0
    fi
    offered=$(apt-cache madison "$1" | cut -d '|' -f 2 | tr -d ' ')
    for version in $offered; do
        if begins "$version"; then
            echo "$1=$version"
            return 0
        fi
    done
    echo "no $1 $DOCKER_VERSION is offered; there are:" >&2
    echo "$offered" | head -n 15 >&2
    return 1
}

os_release() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}$/\1/p" /etc/os-release; }

case ${1:-} in
key)
    if installed || [ -z "$DOCKER_URL" ]; then exit 0; fi
    if [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then
        { update && apt_get install ca-certificates; } >&2
    fi
    file=$(mktemp -d)/key
    trap 'rm -rf "${file%/key}"' EXIT
    chmod 755 "${file%/key}" # apt downloads as a user of its own
    url=$DOCKER_URL/linux/$(os_release ID)/gpg
    if ! /usr/lib/apt/apt-helper -o Acquire::Retries=3 download-file "$url" "$file" >&2; then
        echo "the signing key of Docker's repository cannot be fetched from $url: check the network, or choose docker.source distro" >&2
        exit 1
    fi
    cat "$file"
    ;;

install)
    if [ "$OFFLINE" = 1 ]; then # until the seal, no package starts a service
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    if [ -e /etc/docker/daemon.json ]; then
        echo "/etc/docker/daemon.json is there already and stays as it is"
    else
        mkdir -p /etc/docker
        printf '%s\n' "$DAEMON_JSON" >/etc/docker/daemon.json
    fi
    if installed; then
        echo "docker is there already: $(dockerd --version)"
    else
        if [ -n "$DOCKER_URL" ]; then
            mkdir -p /etc/apt/keyrings
            cat >/etc/apt/keyrings/docker.asc
            chmod 644 /etc/apt/keyrings/docker.asc
            echo "deb [arch=$(dpkg --print-architecture) signed-by=/etc/apt/keyrings/docker.asc] $DOCKER_URL/linux/$(os_release ID) $(os_release VERSION_CODENAME) stable" \
                >/etc/apt/sources.list.d/docker.list
            update
            engine=$(pick docker-ce)
            cli=$(pick docker-ce-cli)
            set -- "$engine" "$cli" containerd.io
        else
            update
            engine=$(pick docker.io)
            set -- "$engine"
            if apt-cache show docker-cli >/dev/null 2>&1; then set -- "$@" docker-cli; fi
        fi
        # Without apparmor's programs a kernel that has it lets no container start; without certificates none is pulled.
        apt_get --allow-downgrades install "$@" apparmor ca-certificates
    fi
    if [ "$OFFLINE" != 1 ]; then
        systemctl start docker
        timeout 60 docker version
    fi
    ;;

*)
    echo "usage: docker.sh key|install" >&2
    exit 2
    ;;
esac
