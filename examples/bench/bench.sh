#!/usr/bin/env bash
# The figures that we hold ourselves to, each against its alternative in the same run. Run it through `make bench`;
# `make bench ONLY=firstboot` runs one part of: programs bake firstboot userdata aws azure.
# Machines differ and are noisy: read the ratios, not the seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
only=${ONLY:-programs bake firstboot userdata aws azure}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bench() { # package, pattern, times
  go test "$1" -run '^$' -bench "$2" -benchtime "$3" -timeout 60m | grep -E '^(Benchmark|FAIL|---)' || true
}

# seconds COMMAND...: how long it took.
seconds() {
  local began=$EPOCHREALTIME
  "$@" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; return 1; }
  awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

bake() {
  go run ./firstboot/gitlabtest/standin/pack -out "$work"
  local common=(bin/dorunner-bake metal --force --os debian-12 --docker-source distro --format raw
    --archive "dataopslive/dataops-runner=$work/dataops-runner.tar"
    --archive "dataopslive/dataops-utils-runner=$work/dataops-utils-runner.tar")
  "${common[@]}" --out "$work/warm" --quiet >/dev/null # builds the base, once
  local offline vm
  offline=$(seconds "${common[@]}" --method offline --out "$work/offline")
  vm=$(seconds "${common[@]}" --method vm --out "$work/vm")
  awk -v o="$offline" -v v="$vm" 'BEGIN {
    printf "offline bake %s s (at most 60), vm bake %s s, ratio %.2f (at most 0.30)\n", o, v, o / v }'
}

# userdata shows each figure beside what it is held to.
userdata() {
  { bench ./cloudinit ISO 3x; bench ./cloudinit TenThousand 3x; bench ./cloudinit/lint . 200x; } | tee "$work/userdata"
  awk '
    function figure(unit, i) { for (i = 2; i < NF; i++) if ($(i + 1) == unit) return $i }
    /ISO2GiB/ { printf "iso with 2 GiB: %.2f of xorriso (at most 0.80), %.0f MiB resident (at most 32)\n", figure("x-of-xorriso"), figure("MiB-resident") }
    /TenThousandHosts/ { printf "%s: %.2f s (at most 2)\n", /Network/ ? "10,000 hosts, with network-config" : "10,000 hosts", figure("ns/op") / 1e9 }
    /Lint16KB/ { printf "lint of 16 KB: %.2f ms (at most 5), cloud-init schema %.0f ms, ratio %.4f\n", figure("ms/lint"), figure("ms/cloud-init-schema"), figure("x-of-cloud-init-schema") }
  ' "$work/userdata"
}

for part in $only; do
  echo "== $part"
  case $part in
    programs) bench ./cmd Programs 20x ;;
    bake) bake ;;
    firstboot) bench ./firstboot FirstBoot 10x ;;
    userdata) userdata ;;
    aws) bench ./builder/aws . 1x ;;
    azure) bench ./builder/azure . 1x ;;
    *) echo "no such part: $part" >&2; exit 2 ;;
  esac
done
