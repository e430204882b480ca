#!/usr/bin/env bash
# The snapshotter alone, without any fetcher, under a real containerd: images are unpacked the ordinary way and say why,
# a container outlives kill -9 of the snapshotter, and nothing stays behind.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need containerd runc ctr docker-registry skopeo jq python3
need_built "$ALONE" "$CRI" "$LM_BUILD/snapshotter/lamella-snapshotter"
need_image tiny
isolate snapshotter

TINY=$REGISTRY/tiny:latest
STATE=$WORK/snapshotter
pull() { cri lamella pull "$TINY" >/dev/null; }
# An active snapshot, because containerd's garbage collection may take a view that ctr made away again.
mount_tree() { # SNAPSHOTTER DIR
	mkdir -p "$2"
	ctr_ "$1" snapshots --snapshotter "$1" prepare "${2##*/}" "$top" >/dev/null
	eval "$(ctr_ "$1" snapshots --snapshotter "$1" mounts "$2" "${2##*/}")"
	mountpoint -q "$2" || fail "$2 is not mounted"
}
unmount_tree() { # SNAPSHOTTER DIR
	umount "$2"
	ctr_ "$1" snapshots --snapshotter "$1" rm "${2##*/}"
}
run_true() { pod lamella run "$TINY" true; }
exec_() { cri lamella exec "$1" "${@:2}"; }

registry_start
push_pause
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
snapshotter_start
containerd_start lamella

say "an ordinary pull says why"
output=$(pod lamella run "$TINY" sh -c 'echo from inside; id -u; test -w /tmp' 2>&1) || fail "$output"
[ "$(head -n 1 <<<"$output")" = "from inside" ] || fail "the container printed: $output"
grep -q 'layer not served, pulling it layer=sha256:.* reason="the fetcher does not answer' "$WORK/log/snapshotter.log" ||
	fail "no reason in the log"
top=$(chain_id "$LM_IMAGES/oci-tiny" latest)
info=$(ctr_ lamella snapshots --snapshotter lamella info "$top")
jq -e '.Labels["containerd.io/snapshot/lamella.layer"] == "ordinary" and
	(.Labels["containerd.io/snapshot/lamella.reason"] | startswith("the fetcher does not answer"))' <<<"$info" >/dev/null ||
	fail "no reason on the snapshot: $info"
ctr_ lamella snapshots --snapshotter lamella usage "$top" | has "$top" || fail "no usage"

# The layers have no entry for /, so its time is that of the unpacking.
say "the tree is that of containerd's own snapshotter"
containerd_start overlayfs
cri overlayfs pull "$TINY" >/dev/null
mount_tree overlayfs "$WORK/native"
"$TREEDIFF" --ignore /:mtime --list "$WORK/native" >"$WORK/tmp/native"
unmount_tree overlayfs "$WORK/native"
stop containerd-overlayfs
same_tree() { # WHEN
	mount_tree lamella "$WORK/ours"
	"$TREEDIFF" --ignore /:mtime --against "$WORK/tmp/native" "$WORK/ours" || fail "the trees differ $1"
	unmount_tree lamella "$WORK/ours"
}
same_tree "at first"

say "snapshotter and containerd are killed in the middle of a pull"
for delay in 0.05 0.3 1 2 4; do
	cri lamella rmi "$TINY" >/dev/null 2>&1 || true
	pull &
	worker=$!
	sleep $delay
	stop snapshotter KILL
	[ $delay != 1 ] || stop containerd-lamella KILL
	snapshotter_start
	[ $delay != 1 ] || containerd_start lamella
	wait $worker || true
	wait_for 60 "a pull after the kill" pull
done 2>"$WORK/log/killed.log"
same_tree "after the kills"

say "a running container outlives kill -9 of the snapshotter"
mkdir "$WORK/witness"
witness=$(pod lamella start --log-dir "$WORK/witness" "$TINY" sh -c 'echo kept >/var/tmp/file; exec sleep 1000')
wait_for 10 "the container's file" exec_ "$witness" test -s /var/tmp/file
stop snapshotter KILL
exec_ "$witness" cat /var/tmp/file | has -x kept || fail "exec without a snapshotter"
snapshotter_start
exec_ "$witness" sh -c 'cat /var/tmp/file && echo more >>/var/tmp/file' | has -x kept || fail "exec after the restart"
wait_for 20 "a second container" run_true 2>"$WORK/log/second.log"

say "the state is of one process"
code=0
"$LM_BUILD/snapshotter/lamella-snapshotter" --root "$STATE" --address "$SNAPSHOTTER_SOCKET" >"$WORK/tmp/out" 2>&1 || code=$?
[ $code = 1 ] || fail "it started, or ended with code $code: $(cat "$WORK/tmp/out")"
grep -q "another process is using this directory" "$WORK/tmp/out" || fail "$(cat "$WORK/tmp/out")"

say "settings that make no sense are refused"
refused() { # SETTING
	echo "$1" >"$WORK/tmp/refused.conf"
	code=0
	"$LM_BUILD/snapshotter/lamella-snapshotter" --root "$WORK/tmp/refused" --address "$WORK/tmp/refused.sock" \
		--config "$WORK/tmp/refused.conf" >"$WORK/tmp/out" 2>&1 || code=$?
	[ $code = 1 ] || fail "$1: it started, or ended with code $code: $(cat "$WORK/tmp/out")"
	grep -q "not started.*${1%%=*}" "$WORK/tmp/out" || fail "$1: not said: $(cat "$WORK/tmp/out")"
}
for setting in LAMELLA_RESOLVE_TIMEOUT=0 LAMELLA_RESOLVE_TIMEOUT=601 LAMELLA_RESOLVE_TIMEOUT=x LAMELLA_TREES=perhaps LAMELLA_ON_MISS=cry; do refused $setting; done

say "everything is removed"
cri lamella rm "$witness"
cri lamella rmi "$TINY" >/dev/null
cri lamella rmi "$REGISTRY/pause:latest" >/dev/null 2>&1 || true
expect_nothing_left
stop containerd-lamella
kill -USR1 "$(pid_of snapshotter)"
wait_for 10 "the counters" grep -q 'counters .*fallback_unavailable=' "$WORK/log/snapshotter.log"
stop snapshotter
[ ! -e "$SNAPSHOTTER_SOCKET" ] || fail "the socket is left"
check_reports
say "done"
