# Check that every installed kernel finds its disk and network where the image is going to run: each driver named as
# argument is built in or in the initramfs, which is made anew with those that it lacks. The machine that bakes may be
# of another kind, for which an initramfs can be made to measure (MODULES=dep).
set -eu

# lacking prints those of the drivers that kernel $1 comes without.
lacking() {
    kernel=$1
    shift
    files=$(if command -v lsinitramfs >/dev/null; then lsinitramfs "/boot/initrd.img-$kernel"; else lsinitrd --kver "$kernel"; fi)
    for driver in "$@"; do
        grep -q "/$driver\.ko" "/lib/modules/$kernel/modules.builtin" && continue
        printf '%s\n' "$files" | grep -q "/$driver\.ko" || printf '%s ' "$driver"
    done
}

for dir in /lib/modules/*; do
    kernel=${dir##*/}
    [ -e "/boot/vmlinuz-$kernel" ] || continue # what another kernel left
    missing=$(lacking "$kernel" "$@")
    [ -n "$missing" ] || continue
    if command -v update-initramfs >/dev/null; then
        for driver in $missing; do echo "$driver"; done >>/etc/initramfs-tools/modules
        update-initramfs -u -k "$kernel"
        missing=$(lacking "$kernel" "$@")
    fi
    if [ -n "$missing" ]; then
        echo "kernel $kernel comes without ${missing}in its initramfs: the image would not boot where it is going to run; begin with a base whose kernel has them" >&2
        exit 1
    fi
done
