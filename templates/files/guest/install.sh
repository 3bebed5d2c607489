# Install dorunner-firstboot: unpack the files that come as tar.gz on standard input, enable the units named as
# arguments, put the admin user in group docker. Prints "admin absent" when there is no such user yet.
# Environment: ADMIN_USER, OFFLINE (1: no system runs).
set -eu

tar -xz --no-same-owner --no-overwrite-dir -p -f - -C /
if [ "$OFFLINE" != 1 ]; then systemctl daemon-reload; fi
if [ $# -gt 0 ]; then systemctl enable "$@"; fi
# The engine must come up at every boot, whoever installed it.
systemctl enable docker.service

if id -u "$ADMIN_USER" >/dev/null 2>&1; then
    usermod -aG docker "$ADMIN_USER"
else
    echo "admin absent"
fi
