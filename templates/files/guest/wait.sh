# Wait until a booted machine has finished coming up: cloud-init has ended and nothing else holds apt.
# Environment: WAIT_SECONDS, the longest wait for each of the two.
set -eu

log=/var/log/cloud-init-output.log
waited=0
# still WHAT: one more second has passed; an error once it is too long.
still() {
    if [ "$waited" -ge "$WAIT_SECONDS" ]; then
        echo "$1 after $WAIT_SECONDS s" >&2
        return 1
    fi
    sleep 1
    waited=$((waited + 1))
}

if command -v cloud-init >/dev/null 2>&1; then
    code=0
    timeout "$WAIT_SECONDS" cloud-init status --wait --long || code=$?
    if [ "$code" = 124 ]; then
        echo "cloud-init did not end within $WAIT_SECONDS s; the last lines of its output:" >&2
        tail -n 15 "$log" >&2 || :
        exit 1
    fi
    if [ "$code" != 0 ]; then
        # It gives up waiting at the first error, while later modules still run. A module that failed is for the reader
        # to judge: what we need of the machine, the steps after this find out.
        while [ ! -e /run/cloud-init/result.json ]; do
            still "cloud-init had an error and did not end" || { tail -n 15 "$log" >&2; exit 1; }
        done
        echo "warning: cloud-init ended with errors on the machine that bakes: $(tr -s ' \n' ' ' </run/cloud-init/result.json)"
    fi
fi

# The daily runs hold apt's locks for minutes: no new ones, and the present one may end. Nothing is disabled for good.
systemctl stop apt-daily.timer apt-daily-upgrade.timer 2>/dev/null || :
waited=0
for unit in apt-daily.service apt-daily-upgrade.service; do
    while state=$(systemctl is-active "$unit" 2>/dev/null || :) && { [ "$state" = activating ] || [ "$state" = active ]; }; do
        still "$unit still runs and holds apt's locks" || exit 1
    done
done
