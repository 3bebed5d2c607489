# Pull the container images named as arguments. The login lives in memory and for this script only.
# Environment: REGISTRY (empty for Docker Hub), REGISTRY_USER (empty: no login). The password comes on standard input.
set -eu
umask 077

DOCKER_CONFIG=$(mktemp -d /run/dorunner-login.XXXXXX)
export DOCKER_CONFIG
trap 'rm -rf "$DOCKER_CONFIG"' EXIT
trap 'exit 1' HUP INT TERM

if [ -n "$REGISTRY_USER" ]; then
    # Refused or not reached: Docker's own last words tell which.
    if ! said=$(docker login --username "$REGISTRY_USER" --password-stdin ${REGISTRY:+"$REGISTRY"} 2>&1); then
        echo "logging in to the registry ${REGISTRY:-Docker Hub} as $REGISTRY_USER failed: $said" >&2
        exit 1
    fi
fi

pull() {
    for try in 1 2 3; do
        if docker pull "$1"; then return 0; fi
        echo "pulling $1 failed (try $try of 3)" >&2
        sleep 2
    done
    echo "$1 cannot be pulled: check its name, the login (image.registry) and the network, or name an archive" >&2
    return 1
}

for ref in "$@"; do
    pull "$ref"
    # By digest an image gets no tag: give it the one that it will be asked for by.
    name=${ref%@*}
    case $ref in
    *@*) case ${name##*/} in *:*) docker tag "${name%:*}@${ref#*@}" "$name" ;; esac ;;
    esac
done
