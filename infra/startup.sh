#!/bin/bash
# Runs as root at every boot: mounts the data disk, then calls what wants to go on after a reboot.
# The disk is formatted only if it is blank; INCUBATOR_DISK and INCUBATOR_MOUNT are for tests.
set -eu
disk=${INCUBATOR_DISK:-/dev/disk/by-id/google-data}
mount=${INCUBATOR_MOUNT:-/mnt/data}
hook=$mount/incubator/boot-hook

say() { echo "incubator: $*"; }

for _ in $(seq 60); do
    [ -e "$disk" ] && break
    sleep 1
done
if ! [ -e "$disk" ]; then
    say "there is no data disk at $disk"
    exit 1
fi

if ! mountpoint --quiet "$mount"; then
    found=$(wipefs --no-act "$disk") # on a line of its own: if this fails, the script ends here and formats nothing
    if [ -z "$found" ] && cmp --quiet --bytes=16M "$disk" /dev/zero; then # no signature may also be a damaged one
        say "formatting $disk, which is blank"
        mkfs.ext4 -q -m 0 -E lazy_itable_init=0,lazy_journal_init=0,discard "$disk"
    fi
    mkdir -p "$mount"
    mount -o discard,noatime "$disk" "$mount"
    resize2fs "$disk" # a disk that has grown; otherwise it does nothing
    chmod 1777 "$mount"
fi
say "$mount is mounted"

if [ -x "$hook" ]; then
    owner=$(stat --format %U "$hook")
    say "calling $hook as $owner"
    runuser --user "$owner" -- "$hook"
fi
