#!/bin/bash
# Runs as root at every boot: guards against a machine that is forgotten, mounts the data disk, then calls what wants to go on
# after a reboot. The disk is formatted only if it is blank; INCUBATOR_... are for tests.
set -eu
disk=${INCUBATOR_DISK:-/dev/disk/by-id/google-data}
mount=${INCUBATOR_MOUNT:-/mnt/data}
hook=$mount/incubator/boot-hook

say() { echo "incubator: $*"; }

# Powers the machine off when for so many minutes nothing was bootstrapped and nobody was logged in over SSH. What is bootstrapped
# has an idle guard of its own. A session of sshd is called `sshd: NAME@pts/0`; its listener and its helpers have a [ in their title.
off_if_unused() {
    local hook=$1 minutes=$2 proc=$3 unused=0
    while [ "$unused" -lt "$minutes" ]; do
        sleep 60
        [ -e "$hook" ] && return
        unused=$((unused + 1))
        if grep -zqE '^sshd(-session)?: [^][ /]+(@[^][ ]*)? *$' "$proc"/[0-9]*/cmdline 2>/dev/null; then unused=0; fi
    done
    echo "incubator: nothing was bootstrapped within $minutes minutes: power off"
    until
        report "$4" || echo "incubator: no shutdown report came to the bucket"
        shutdown -h now
    do sleep 60; done
}

# The shutdown report of a machine on which nothing was ever bootstrapped, for `fab down` (training/runner/shutdown_report.py):
# nothing can be lost if the data disk is mounted and holds no file at all. Whatever is not sure is told as something to lose.
report() {
    local mount=$1 found token bucket name
    local metadata=${INCUBATOR_METADATA:-http://metadata.google.internal}/computeMetadata/v1/instance
    local storage=${INCUBATOR_STORAGE:-https://storage.googleapis.com} header='Metadata-Flavor: Google'
    if ! mountpoint --quiet "$mount"; then
        found="\"$mount, which is not mounted\""
    elif found=$(find "$mount" -mindepth 1 ! -path "$mount/lost+found" -print -quit) && [ -z "$found" ]; then
        found=
    else
        found="\"$mount\""
    fi
    token=$(curl -sf -m 20 -H "$header" "$metadata/service-accounts/default/token") &&
        token=$(grep -o '"access_token" *: *"[^"]*"' <<<"$token" | cut -d '"' -f 4) &&
        bucket=$(curl -sf -m 20 -H "$header" "$metadata/attributes/incubator-bucket") &&
        name=$(curl -sf -m 20 -H "$header" "$metadata/name") &&
        curl -sf -m 60 -o /dev/null -H "Authorization: Bearer $token" -H 'Content-Type: application/json' \
            --data "{\"format\": 1, \"time\": \"$(date -u +%Y-%m-%dT%H:%M:%S+00:00)\", \"jobs\": [], \"strays\": [$found]}" \
            "$storage/upload/storage/v1/b/$bucket/o?uploadType=media&name=runs%2F.machines%2F$name.json"
}
# Before anything can fail, and as a unit of its own: it outlives this script.
systemd-run --quiet --collect --unit=incubator-unused \
    bash -c "$(declare -f off_if_unused report); off_if_unused $hook ${INCUBATOR_UNUSED_MINUTES:-60} ${INCUBATOR_PROC:-/proc} $mount" ||
    say "there is no guard against a machine that is forgotten"

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
