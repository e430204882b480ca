#!/usr/bin/env bash
# The daemon with little of everything: 256 file descriptors for 64 jobs, 64 MiB of memory by control group, a disk that is
# full, a cache directory that is taken away. Every byte is read all the same, and it comes back to itself afterwards.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need python3 jq tar prlimit
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/tests/tools/control"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate limits

CONTROL=$LM_BUILD/tests/tools/control
BIG_MIB=48 # a big file, read in pieces
SMALL=800 # small ones
MEMORY_MAX=$((64 << 20))

repo_of_files 8 $((SMALL / 8)) $BIG_MIB
serve_start

workers() { pgrep -x lamella-fetcher || true; } # all processes of the daemon

node_start() { # [KEY=VALUE...]
	[ ! -e "$WORK/run/fetcher.pid" ] || stop fetcher
	rm -rf "$WORK/cache"
	fetcher_start "$@"
	PIDS=$(workers)
	find_files
}
read_all() { # WHAT JOBS: every file, by that many readers at a time, and the big one from several places at once
	local begin i readers=()
	begin=$(now_ms)
	for i in 0 1 2 3; do
		dd if="$DIR/big" of=/dev/null bs=128K skip=$((i * BIG_MIB * 2)) count=$((BIG_MIB * 2)) status=none || echo big >>"$WORK/tmp/failed" &
		readers+=($!)
	done
	(cd "$DIR" && find . -type f -print0 | sort -z | xargs -0 -n 24 -P "$2" sha256sum) >"$WORK/sums" 2>"$WORK/errors" || true
	wait "${readers[@]}"
	if [ -s "$WORK/errors" ] || [ -e "$WORK/tmp/failed" ]; then fail "$1: $(head -n 3 "$WORK/errors")"; fi
	sort -k 2 "$WORK/sums" | cmp -s - <(sort -k 2 "$WORK/expected") || fail "$1: not what it was"
	[ "$(workers)" = "$PIDS" ] || fail "$1: the daemon died"
	say "  $1: $((SMALL + 1)) files read in $(($(now_ms) - begin)) ms"
}

# --- file descriptors -------------------------------------------------------------------------------------------------

worker() { pgrep -x lamella-fetcher -P "$(pid_of fetcher)"; }
open_descriptors() { find "/proc/$(worker)/fd" -type l 2>/dev/null | wc -l; }
starved() { # requests that had to wait for descriptors
	LAMELLA_SOCKET=$FETCHER_SOCKET "$LAMELLA" status --json 2>"$WORK/errors" | jq -r '.repositories[0].kernel_starved'
}
watch_descriptors() { # their greatest number so far, until the file is taken away
	local n peak=0
	echo 0 >"$WORK/tmp/peak"
	while [ -e "$WORK/tmp/peak" ]; do
		n=$(open_descriptors)
		[ "$n" -le "$peak" ] || { peak=$n && echo "$n" >"$WORK/tmp/peak.new" && mv "$WORK/tmp/peak.new" "$WORK/tmp/peak"; }
	done
}

say "256 file descriptors, 64 jobs"
prlimit --pid $$ --nofile=256:256
node_start
prlimit --pid $$ --nofile=1024:1024 2>/dev/null || true # back again, where this may be
for p in $PIDS; do
	[ "$(prlimit --pid "$p" --nofile --output HARD --noheadings | tr -d ' ')" = 256 ] || fail "process $p is not limited"
done
watch_descriptors &
watcher=$!
read_all "nothing cached" 64
forget_mount
read_all "all cached" 64
peak=$(cat "$WORK/tmp/peak")
rm "$WORK/tmp/peak"
wait $watcher || true
say "  descriptors: $peak at most, $(starved) requests waited for some"
[ "$(starved)" = 0 ] || fail "256 are not enough"

say "16 more than an idle daemon has, 64 jobs"
node_start
cat "$DIR"/0/sub/1 >/dev/null
limit=$(($(open_descriptors) + 16))
prlimit --pid "$(worker)" --nofile=$limit:
read_all "$limit, nothing cached" 64
forget_mount
read_all "$limit, all cached" 64
prlimit --pid "$(worker)" --nofile=256:
say "  $(starved) requests waited for some"
[ "$(starved)" -gt 0 ] || fail "the limit was not reached"

# --- memory -----------------------------------------------------------------------------------------------------------

# A control group with that limit, by version 1 or 2 of the interface; prints its folder.
memory_group() { # BYTES
	local group
	if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
		group=/sys/fs/cgroup/memory/lamella-${WORK##*/}
		mkdir -p "$group" && echo "$1" >"$group/memory.limit_in_bytes" || return 1
	elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
		group=/sys/fs/cgroup/lamella-${WORK##*/}
		mkdir -p "$group" && echo "$1" >"$group/memory.max" || return 1
		echo 0 >"$group/memory.swap.max" 2>/dev/null || true
	else
		return 1
	fi
	echo "$group"
}
oom_kills() { cat "$1"/memory.oom_control "$1"/memory.events 2>/dev/null | awk '$1 == "oom_kill" { print $2 }'; }

if [ -n "${LM_SANITIZED:-}" ]; then
	say "64 MiB of memory: not with a sanitizer"
elif ! GROUP=$(memory_group $MEMORY_MAX); then
	say "64 MiB of memory: not tried, there is no control group with memory limits here"
else
	say "64 MiB of memory, by $GROUP"
	# The daemon is born in the group; nothing else is.
	stop fetcher
	(echo $BASHPID >"$GROUP/cgroup.procs" && exec true) || fail "can't enter $GROUP"
	real=$LM_BUILD/fetcher/lamella-fetcher
	mkdir -p "$WORK/limited/fetcher"
	printf '#!/bin/sh\necho $$ >%s/cgroup.procs && exec %s "$@"\n' "$GROUP" "$real" >"$WORK/limited/fetcher/lamella-fetcher"
	chmod 755 "$WORK/limited/fetcher/lamella-fetcher"
	LM_BUILD=$WORK/limited node_start
	for p in $PIDS; do grep -qx "$p" "$GROUP/cgroup.procs" || fail "process $p is not in the group"; done
	read_all "nothing cached" 64
	forget_mount
	read_all "all cached" 64
	[ "$(oom_kills "$GROUP")" = 0 ] || fail "killed for want of memory: $(oom_kills "$GROUP")"
	stop fetcher
fi

# --- disk -------------------------------------------------------------------------------------------------------------

say "a small disk, and a full one"
truncate -s 32M "$WORK/disk"
mkdir "$WORK/small"
if mkfs.ext4 -q "$WORK/disk" 2>/dev/null && mount -o loop "$WORK/disk" "$WORK/small" 2>"$WORK/errors"; then
	node_start "CVMFS_CACHE_BASE=$WORK/small"
	read_all "twice as much as fits" 16
	forget_mount
	head -c 32M /dev/zero >"$WORK/small/others" 2>/dev/null || true # somebody else fills it up
	[ "$(df --output=avail -k "$WORK/small" | tail -n 1)" -lt 64 ] || fail "the disk is not full"
	read_all "no room at all" 16
	rm "$WORK/small/others"
	forget_mount
	read_all "room again" 16
	[ "$(du -sk "$WORK/small/lamella/cache" | cut -f1)" -gt 1024 ] || fail "nothing is cached any more"
	stop fetcher
	umount "$WORK/small"
else
	say "  not tried: no file system of one's own here: $(cat "$WORK/errors")"
fi

say "the cache directory is taken away"
node_start
head -c 1000 "$DIR/big" >/dev/null
until rm -rf "$WORK/cache/lamella" 2>/dev/null; do :; done # it is made again at once where something is written
forget_mount
read_all "gone" 16
forget_mount
read_all "again" 16
line=$("$CONTROL" $FETCHER_SOCKET update $FQRN) || fail "update: $line"
[[ $line == *" online "* ]] || fail "update: $line"
stop fetcher
node_start
read_all "after a new start" 16
stop fetcher
check_reports
