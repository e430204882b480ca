#!/usr/bin/env bash
# The cache under pressure: an image larger than the quota reads right all the same, and the thrash is said; a pin stays whole;
# `lamella cache` shows, clears and verifies; a damaged object after an unclean end of the machine is fetched again, never served;
# a full disk, a read-only one and a removed directory cost no reader an error.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need jq tar mkfs.ext4
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate cache

export LAMELLA_SOCKET=$FETCHER_SOCKET
CACHE=$WORK/cache/lamella
QUOTA_MIB=16

mkdir -p "$WORK/files/big" "$WORK/files/small"
for i in $(seq 200); do head -c 200000 /dev/urandom >"$WORK/files/big/$i"; done
for i in $(seq 20); do head -c 50000 /dev/urandom >"$WORK/files/small/$i"; done
repo_init
tar -C "$WORK/files" --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" big small
make_layout "$WORK/oci-cache" "$WORK/tmp/layer.tar" /none
convert "oci:$WORK/oci-cache:latest"
DIGEST=$(manifest "$WORK/oci-cache" latest | jq -r '.layers[0].digest')
HEX=${DIGEST#sha256:}
LAYER=/.layers/${HEX:0:2}/$HEX
DIR=$MOUNT_BASE/$FQRN$LAYER/layerfs
serve_start

reads_all() { # WHAT: from us, not from the kernel's pages
	forget_mount
	diff -r "$WORK/files" "$DIR" >"$WORK/diff" 2>&1 || fail "$1: $(head -n 5 "$WORK/diff")"
}
shows() { "$LAMELLA" cache show --json >"$WORK/show" && jq -e "$1" "$WORK/show" >/dev/null; } # JQ-FILTER
must_show() { shows "$1" || fail "not $1: $(cat "$WORK/show")"; }
has_number() { shows "(.$1 | tonumber) $2"; } # FIELD COMPARISON
disk_mib() { echo $(($(du -s --block-size=1 "$CACHE/cache" | cut -f1) >> 20)); }

# --- more than the quota ----------------------------------------------------------------------------------------------

fetcher_start CVMFS_QUOTA_LIMIT=$QUOTA_MIB LAMELLA_CACHE_RESERVE=0
"$LAMELLA" cache pin "$FQRN" "$LAYER/layerfs/small" 2>"$WORK/out" || fail "pin: $(cat "$WORK/out")"
"$LAMELLA" cache pins | has "small.*complete" || fail "the pin is not listed: $("$LAMELLA" cache pins)"
for round in 1 2; do reads_all "beyond the quota, round $round"; done
wait_for 20 "eviction" has_number evicted "> 0"
wait_for 20 "less than the quota" has_number bytes "<= $((QUOTA_MIB << 20))"
[ "$(disk_mib)" -le $QUOTA_MIB ] || fail "the disk holds $(disk_mib) MiB"
must_show .thrashing
"$LAMELLA" cache | has 'too small' || fail "thrash is not said"
if "$LAMELLA" cache pin "$DIGEST" 2>"$WORK/out"; then fail "pinned more than there may be"; fi
grep -q 'pins may hold' "$WORK/out" || fail "unclear: $(cat "$WORK/out")"
say "40 MB read twice through $QUOTA_MIB MiB: $("$LAMELLA" cache | tr '\n' ';')"

# The pin needs no server, not even in a new process.
stop fetcher
stop serve
fetcher_start CVMFS_QUOTA_LIMIT=$QUOTA_MIB CVMFS_TIMEOUT_DIRECT=2 CVMFS_MAX_RETRIES=0
diff -r "$WORK/files/small" "$DIR/small" || fail "the pin is not whole"
serve_start
"$LAMELLA" cache unpin "$FQRN" "$LAYER/layerfs/small" 2>"$WORK/out" || fail "unpin: $(cat "$WORK/out")"
if "$LAMELLA" cache unpin "$FQRN" "$LAYER/layerfs/small" 2>/dev/null; then fail "unpinned twice"; fi
"$LAMELLA" cache clear 2>"$WORK/out" || fail "clear: $(cat "$WORK/out")"
[ "$(find "$CACHE/cache" -type f ! -name '*C' | wc -l)" = 0 ] || fail "clear left objects"

# --- an unclean end of the machine ------------------------------------------------------------------------------------

reads_all "after clear"
stop fetcher KILL
umount -l "$MOUNT_BASE/$FQRN"
rm -f "$FETCHER_SOCKET" # the next one has not begun before there is a new one
sed -i 's/^boot .*/boot 00000000-0000-0000-0000-000000000000/' "$CACHE/boot"
victim=$(find "$CACHE/cache" -type f -size 196k -print -quit)
printf damaged | dd of="$victim" bs=1 seek=1000 conv=notrunc status=none
fetcher_start
reads_all "a damaged object"
has_number damaged "== 1" || fail "the damage was not seen: $(cat "$WORK/show")"
has_number verified "> 20" || fail "nothing was verified: $(cat "$WORK/show")"
"$LAMELLA" cache verify 2>"$WORK/out" || fail "verify: $(cat "$WORK/out")"
grep -q ': 0 were damaged' "$WORK/out" || fail "verify: $(cat "$WORK/out")"
must_show '.unclean == false'

# --- the directory is removed -----------------------------------------------------------------------------------------

rm -rf "$CACHE/cache"
reads_all "a removed directory"
must_show '.state == "works"'
[ "$(disk_mib)" -gt 20 ] || fail "nothing is cached after the directory was removed"
stop fetcher

# --- full, and read-only ----------------------------------------------------------------------------------------------

rm -rf "$WORK/cache"
mkdir "$WORK/cache"
truncate -s 24M "$WORK/disk"
mkfs.ext4 -q -m 0 "$WORK/disk"
mount -o loop,errors=remount-ro "$WORK/disk" "$WORK/cache" || skip "no loop device: the rest is not tried"
fetcher_start CVMFS_QUOTA_LIMIT=-1 LAMELLA_CACHE_RESERVE=10
reads_all "a small disk"
fallocate -l "$(df --output=avail -B1 "$WORK/cache" | tail -n 1)" "$WORK/cache/others" || true
reads_all "a full disk"
rm "$WORK/cache/others"
reads_all "a disk with room again"
must_show '.state == "works"'

# An error of the disk, upon which ext4 makes itself read-only.
device=$(basename "$(findmnt -no SOURCE "$WORK/cache")")
if [ -w "/sys/fs/ext4/$device/trigger_fs_error" ]; then
	echo injected >"/sys/fs/ext4/$device/trigger_fs_error"
	reads_all "a read-only disk"
	must_show '.state == "read-only" or .state == "broken"'
	grep -q "cache's disk" <<<"$("$LAMELLA" status || true)" || fail "status does not say that the disk fails"
fi
stop fetcher
umount "$WORK/cache"
check_reports
say "all read right"
