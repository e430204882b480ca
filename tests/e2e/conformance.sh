#!/usr/bin/env bash
# The conformance suite (tests/conformance/conformance.h) against containerd's own overlayfs, as the reference, against our
# snapshotter as a proxy plugin, both through containerd's API, and against our snapshotter's socket; with a layer that
# the fetcher serves, for the race of equal references. Then the cases with many clients under the thread sanitizer.
#
# From outside: LM_CASES, a regular expression: only those cases; LM_CLIENTS, how many call at once.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need containerd ctr jq python3 tar
CONFORMANCE=$LM_BUILD/tests/conformance/snapshotter-conformance
TSAN=$LM_ROOT/build-tsan
need_built "$ALONE" "$TREEDIFF" "$CRI" "$LAMELLA" "$CONFORMANCE" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/snapshotter/lamella-snapshotter"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate conformance

CLIENTS=${LM_CLIENTS:-100}
layer=()

conformance() { # TARGET SOCKET SNAPSHOTTER [OPTION...]
	local target=$1 socket=$2 snapshotter=$3 log=$WORK/log/suite-$1.log
	shift 3
	# Cases that failed are repeated in the end, where they are seen.
	"$CONFORMANCE" --socket "$socket" --target "$target" --snapshotter "$snapshotter" --treediff "$TREEDIFF" \
		--work "$WORK/suite-$target" --clients "$CLIENTS" ${LM_CASES:+--case "$LM_CASES"} "${layer[@]}" "$@" >"$log" 2>&1 ||
		{ cat "$log" && fail "$target: $(grep -c ^FAILED "$log" || true) cases: $(grep -m 3 ^FAILED "$log" || tail -n 1 "$log")"; }
	tail -n 1 "$log"
}
# A lease that is removed makes containerd collect its garbage at once, and waits for it.
collected() {
	ctr_ lamella leases create --id collect >/dev/null && ctr_ lamella leases rm --sync collect >/dev/null && [ "$(snapshot_directories)" = 0 ]
}

repo_of_files 1 3 1
serve_start
fetcher_start
snapshotter_start
# An image of one layer: its blob is not compressed, so that its digest, the layer's and the chain's are one.
digest=sha256:$(basename "$(dirname "$(echo $MOUNT_BASE/$FQRN/.layers/*/*/layerfs)")")
layer=(--layer "$digest" --chain "$digest")

say "containerd's own snapshotter"
containerd_start overlayfs
conformance overlayfs "$(containerd_socket overlayfs)" overlayfs
stop containerd-overlayfs

say "ours, as a proxy plugin"
containerd_start lamella
conformance proxy "$(containerd_socket lamella)" lamella
wait_for 60 "containerd's garbage collection: $(snapshot_directories) directories are left" collected
stop containerd-lamella

say "ours, directly"
conformance direct "$SNAPSHOTTER_SOCKET" lamella
stop snapshotter
check_reports

if [ -n "${LM_SANITIZED:-}" ]; then
	say "under the other sanitizers; the thread sanitizer's part is the plain test's"
elif [ -x "$TSAN/snapshotter/lamella-snapshotter" ]; then
	say "many clients, under the thread sanitizer"
	export TSAN_OPTIONS="suppressions=$LM_ROOT/tests/tsan.supp halt_on_error=0 second_deadlock_stack=1 ignore_noninstrumented_modules=1"
	LM_BUILD=$TSAN snapshotter_start
	LM_CASES=${LM_CASES:-'-at-once|^one-|^parent-goes|^list-'} conformance direct "$SNAPSHOTTER_SOCKET" lamella
	grep -A 30 'WARNING: ThreadSanitizer' "$WORK/log/snapshotter.log" || true
	stop snapshotter
else
	say "without the thread sanitizer: build-tsan/snapshotter/lamella-snapshotter is not built"
fi
stop fetcher
check_reports
say "done"
