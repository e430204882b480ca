#!/usr/bin/env bash
# New limits of the cache are in force at once after a reload; and a disk that does not give back what it took costs no reader an
# error.
# time limit: 120 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need jq tar mkfs.ext4 filefrag
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate forgets

export LAMELLA_SOCKET=$FETCHER_SOCKET
FILES=300
mkdir -p "$WORK/files"
for i in $(seq $FILES); do head -c $((i % 7 * 20000 + 3000)) /dev/urandom >"$WORK/files/$i"; done
repo_init
tar -C "$WORK/files" --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" .
make_layout "$WORK/oci-forgets" "$WORK/tmp/layer.tar" /none
convert "oci:$WORK/oci-forgets:latest"
serve_start

forget_disk() { sync && forget_content "$WORK/cache/lamella/cache" && forget_mount; }
node_start() { # [KEY=VALUE...]
	fetcher_start "$@"
	DIR=$(echo "$MOUNT_BASE/$FQRN"/.layers/*/*/layerfs)
	[ -d "$DIR" ] || fail "there is no layer: $DIR"
}
read_all() { # WHAT: all files, by many at a time
	local begin
	begin=$(now_ms)
	(cd "$DIR" && find . -type f -print0 | xargs -0 -n 5 -P 64 sha256sum) >"$WORK/sums" 2>"$WORK/errors" || true
	[ ! -s "$WORK/errors" ] || fail "$1: $(head -n 3 "$WORK/errors")"
	cmp -s <(sort "$WORK/sums") "$WORK/expected" || fail "$1: not what it was"
	say "  $1: $FILES files in $(($(now_ms) - begin)) ms"
}
(cd "$WORK/files" && find . -type f -print0 | xargs -0 sha256sum) | sort >"$WORK/expected"

# --- new limits by a reload -------------------------------------------------------------------------------------------

say "limits of the cache change while it is in use"
node_start
read_all "nothing cached"
holds() { "$LAMELLA" cache show --json >"$WORK/show" && jq -e "$1" "$WORK/show" >/dev/null; } # JQ-FILTER
holds '(.bytes | tonumber) > 8000000' || fail "what was read is not cached: $(cat "$WORK/show")"
echo "CVMFS_QUOTA_LIMIT=4" >>"$WORK/fetcher.conf"
kill -HUP "$(pid_of fetcher)"
wait_for 20 "the new quota" holds '(.quota | tonumber) == 4194304 and (.bytes | tonumber) <= 4194304'
sed -i '$d' "$WORK/fetcher.conf"
echo "LAMELLA_CACHE_RESERVE=90" >>"$WORK/fetcher.conf"
kill -HUP "$(pid_of fetcher)"
wait_for 20 "the new reserve" holds '(.bytes | tonumber) < 1000000 and (.reserve | tonumber) > (.free | tonumber)'
forget_mount
read_all "beyond all limits"
stop fetcher

# --- a disk that forgets ----------------------------------------------------------------------------------------------

say "cached objects can't be read any more"
rm -rf "$WORK/cache"
mkdir -p "$WORK/cache"
truncate -s 64M "$WORK/disk"
mkfs.ext4 -q -m 0 -O ^has_journal "$WORK/disk"
mount -o loop "$WORK/disk" "$WORK/cache" 2>"$WORK/errors" || skip "no loop device: $(cat "$WORK/errors")"
node_start CVMFS_QUOTA_LIMIT=-1 LAMELLA_CACHE_RESERVE=0
read_all "nothing cached"
forget_disk
read_all "all cached"
# The objects' blocks lie behind the metadata: what is there is taken from the disk.
size=$(stat -c %s "$WORK/disk")
forget_disk
find "$WORK/cache/lamella/cache" -type f -size +20k -exec filefrag -v {} + | awk '$1 == "0:" { print $4 + 0 }' | sort -n >"$WORK/blocks"
from=$(head -n $(($(wc -l <"$WORK/blocks") / 2)) "$WORK/blocks" | tail -n 1)
block=$(stat -f -c %S "$WORK/cache")
truncate -s $((from * block)) "$WORK/disk"
forget_disk
read_all "half of it is gone"
grep -q "can't be read" "$WORK/log/fetcher.log" || fail "nothing could not be read: the disk was not hurt"
truncate -s "$size" "$WORK/disk"
forget_disk
read_all "the disk is back"
stop fetcher
umount "$WORK/cache"
check_reports
say "all read right"
