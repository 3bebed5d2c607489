#!/usr/bin/env bash
# From a spec to running runners on this one machine: bakes a disk image, boots COUNT machines from it in QEMU with
# generated user-data, and waits until each has registered and asked for jobs. Run it through `make bake`.
#
#   COUNT                       first argument, default 1
#   DORUNNER_REGISTRY_USERNAME, DORUNNER_REGISTRY_PASSWORD
#                               a Docker Hub login that may read dataopslive/dataops-runner: the real images are used
#   DORUNNER_METHOD             offline (default) or vm
set -euo pipefail
cd "$(dirname "$0")/../.."

count=${1:-1}
method=${DORUNNER_METHOD:-offline}
arch=$(go env GOARCH)
work=$(mktemp -d)
server=
finish() {
  [[ -z $server ]] || kill "$server" 2>/dev/null || :
  rm -rf "$work"
  # What root made is for the owner of this directory to look at and to remove.
  [[ ! -d out ]] || chown -R --reference=. out
}
trap finish EXIT

reachable() { curl -fsIL --max-time 5 -o /dev/null "$1" 2>/dev/null; }

image=()
if reachable https://cloud-images.ubuntu.com/focal/current/SHA256SUMS && reachable https://download.docker.com/linux/ubuntu/gpg; then
  echo "base: ubuntu-20.04, with Docker Engine from Docker's repository"
  image+=(--os ubuntu-20.04 --docker-source docker)
else
  echo "base: debian-12, with Docker Engine from Debian: Ubuntu's images or Docker's repository cannot be reached from here"
  image+=(--os debian-12 --docker-source distro)
fi

if [[ -n ${DORUNNER_REGISTRY_USERNAME:-} && -n ${DORUNNER_REGISTRY_PASSWORD:-} ]] && reachable https://hub.docker.com/; then
  echo "runner image: the real dataopslive/dataops-runner"
  image+=(--login-user "$DORUNNER_REGISTRY_USERNAME" --login-password env:DORUNNER_REGISTRY_PASSWORD)
else
  echo "runner image: a stand-in with gitlab-runner's flags and files: no registry login is given, or the registry cannot be reached"
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -ldflags '-s -w' -o "$work/standin" ./firstboot/gitlabtest/standin
  go run ./firstboot/gitlabtest/standin/pack -binary "$work/standin" -arch "$arch" -out "$work"
  image+=(--archive "dataopslive/dataops-runner=$work/dataops-runner.tar"
          --archive "dataopslive/dataops-utils-runner=$work/dataops-utils-runner.tar")
fi

mkdir -p out
bin/dorunner-bake metal "${image[@]}" --method "$method" --format qcow2 --out out >"$work/image"

# The guest reaches this machine's loopback as 10.0.2.2.
go build -o "$work/gitlab" ./firstboot/gitlabtest/server
token=$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')
"$work/gitlab" -listen 127.0.0.1:0 -registration-token "$token" -address-file "$work/address" >"$work/gitlab.log" 2>&1 &
server=$!
for _ in $(seq 100); do [[ -s $work/address ]] && break; sleep 0.1; done
port=$(sed 's/.*://' "$work/address")

printf '%s' "$token" >"$work/token"
bin/dorunner-bake launch metal --image "$(cat "$work/image")" --count "$count" --memory 2 --allow-small --wait --out out \
  --runner-name dataops-runner-local --url "http://10.0.2.2:$port" --token "plain:$(cat "$work/token")" --allow-plain-secrets
