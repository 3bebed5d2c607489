# Print what was baked, tabs between: "docker VERSION", then "package NAME VERSION" for each installed package.
set -eu

printf 'docker\t%s\n' "$(dockerd --version | sed 's/^Docker version \([^,]*\).*/\1/')"
# shellcheck disable=SC2016 # dpkg-query expands these
dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Version}\n' | sed -n 's/^ii *\t/package\t/p' | LC_ALL=C sort -u
