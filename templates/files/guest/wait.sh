# Wait until a booted machine has finished coming up: cloud-init has ended well and nothing else holds apt.
# Environment: WAIT_SECONDS, the longest wait for each of the two.
set -eu

if command -v cloud-init >/dev/null 2>&1; then
    code=0
    timeout "$WAIT_SECONDS" cloud-init status --wait --long || code=$?
    case $code in
    0) ;;
    2) echo "cloud-init ended with warnings (above); going on" ;;
    124)
        echo "cloud-init did not end within $WAIT_SECONDS s; the last lines of its output:" >&2
        tail -n 15 /var/log/cloud-init-output.log >&2 || :
        exit 1
        ;;
    *)
        echo "cloud-init failed on the machine; its errors and the last lines of its output:" >&2
        cat /run/cloud-init/result.json >&2 || :
        tail -n 12 /var/log/cloud-init-output.log >&2 || :
        exit 1
        ;;
    esac
fi

# The daily runs hold apt's locks for minutes: no new ones, and the present one may end. Nothing is disabled for good.
systemctl stop apt-daily.timer apt-daily-upgrade.timer 2>/dev/null || :
waited=0
for unit in apt-daily.service apt-daily-upgrade.service; do
    while state=$(systemctl is-active "$unit" 2>/dev/null || :) && { [ "$state" = activating ] || [ "$state" = active ]; }; do
        if [ "$waited" -ge "$WAIT_SECONDS" ]; then
            echo "$unit is still running after $WAIT_SECONDS s: apt cannot be used" >&2
            exit 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
done
