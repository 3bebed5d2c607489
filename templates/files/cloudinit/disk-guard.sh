#!/bin/sh
# Runs in the installer before anything is written. Finds the one disk that was meant and names it in the installer's
# configuration, which until then names none; anything but exactly one match stops the installation.
# Arguments: serial|model VALUE, path DEVICE, size FROM-TO (bytes), largest or smallest.
set -eu
how=$1
what=${2-}
config=${AUTOINSTALL:-/autoinstall.yaml}

disks() { lsblk --bytes --nodeps --noheadings --pairs --output NAME,SIZE,TYPE,SERIAL,MODEL,RO; }
# What is mounted carries the installer, and the seed's label is that of a stick: neither can be meant.
busy() { lsblk --noheadings --output MOUNTPOINT,LABEL "/dev/$1" | grep -Eq '/|CIDATA'; }
value() { printf '%s\n' "$line" | sed -n "s/.*\\b$1=\"\\([^\"]*\\)\".*/\\1/p" | sed 's/^ *//; s/ *$//'; }

found=
count=0
best=
while IFS= read -r line; do
    if [ "$(value TYPE)" != disk ] || [ "$(value RO)" != 0 ]; then continue; fi
    size=$(value SIZE)
    # Card readers without a card, floppy drives: nothing that a system fits on.
    if [ "$size" -lt 4000000000 ] || busy "$(value NAME)"; then continue; fi
    match=
    case $how in
    serial) [ "$(value SERIAL)" != "$what" ] || match=1 ;;
    model) [ "$(value MODEL)" != "$what" ] || match=1 ;;
    path) [ "/dev/$(value NAME)" != "$what" ] || match=1 ;;
    size) if [ "$size" -ge "${what%-*}" ] && [ "$size" -le "${what#*-}" ]; then match=1; fi ;;
    largest) if [ -z "$best" ] || [ "$size" -gt "$best" ]; then best=$size count=0; fi; [ "$size" != "$best" ] || match=1 ;;
    smallest) if [ -z "$best" ] || [ "$size" -lt "$best" ]; then best=$size count=0; fi; [ "$size" != "$best" ] || match=1 ;;
    esac
    if [ -n "$match" ]; then
        found=/dev/$(value NAME)
        count=$((count + 1))
    fi
done <<END
$(disks)
END

if [ "$count" != 1 ]; then
    echo "dorunner: $count disks match $how $what, one is wanted: nothing was written. Disks that are mounted or smaller than 4 GB do not count. The disks are:" >&2
    disks >&2
    exit 1
fi
sed -i "s|DORUNNER_DISK|$found|" "$config"
echo "dorunner: installing on $found ($how $what)"
