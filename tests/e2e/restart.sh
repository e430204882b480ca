#!/usr/bin/env bash
# The snapshotter is killed at any moment of pull, create, run and remove, and started again: running containers do not
# notice, containerd goes on, and nothing is lost or left over. Then the same with containerd itself.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need_image tiny edge
isolate restart

ROUNDS=15
[ -z "${LM_SANITIZED:-}" ] || ROUNDS=5
SEED=${SEED:-$(($(date +%s) % 32768))}
RANDOM=$SEED
say "seed $SEED"

# The witness counts, each time by new processes of programs from the image, and through its own writable layer.
witness_start() {
	mkdir "$WORK/witness"
	# shellcheck disable=SC2016
	WITNESS=$(pod lamella start --log-dir "$WORK/witness" "$REGISTRY/tiny:latest" bash -c \
		'i=0; while sleep 0.1; do i=$((i + 1)); echo $i >/var/tmp/count && cat /var/tmp/count || echo trouble; done')
}
witness_count() { grep -c . "$WORK/witness/container.log"; }
witness_beyond() { [ "$(witness_count)" -gt "$1" ]; }
witness_well() { # it goes on counting, never saw trouble, and containerd still knows it
	wait_for 10 "the running container to go on" witness_beyond "$(witness_count)"
	! grep -qE 'trouble|rror' "$WORK/witness/container.log" || fail "it was touched: $(tail -n 3 "$WORK/witness/container.log")"
	[[ $(cri lamella list) == *"$WITNESS running "* ]] || fail "containerd lost the running container"
}

# What the snapshotter is killed under; it may fail then, but not afterwards.
round() { # LOG
	pod lamella run "$REGISTRY/edge:latest" sh -c 'ls -R /edge | wc -l' >"$1" 2>&1 &&
		cri lamella rmi "$REGISTRY/edge:latest" >>"$1" 2>&1
}

snapshots() { ctr_ lamella snapshots --snapshotter lamella ls | grep -c . || true; }
directories() { find "$WORK/snapshotter/snapshots" -mindepth 1 -maxdepth 1 | grep -c . || true; }
same_directories() { [ "$(directories)" -le $(($(snapshots) - 1)) ]; } # less one for the heading

registry_start
push_pause
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
push "$LM_IMAGES/oci-edge:latest" edge:latest
repo_init
convert "oci:$LM_IMAGES/oci-tiny:latest"
convert "oci:$LM_IMAGES/oci-edge:latest"
serve_start
fetcher_start
snapshotter_start
containerd_start lamella
witness_start
round "$WORK/tmp/undisturbed" || fail "undisturbed: $(cat "$WORK/tmp/undisturbed")"

say "the snapshotter is killed"
survived=0
for ((i = 1; i <= ROUNDS; i++)); do
	round "$WORK/tmp/$i" &
	worker=$!
	sleep "$(printf '0.%03d' $((RANDOM % 700)))"
	stop snapshotter KILL
	sleep "$(printf '0.%03d' $((RANDOM % 300)))"
	snapshotter_start
	! wait $worker || survived=$((survived + 1))
	wait_for 60 "a container after round $i: $(tail -n 2 "$WORK/tmp/$i")" round "$WORK/tmp/again"
	cmp -s <(head -n 1 "$WORK/tmp/again") <(head -n 1 "$WORK/tmp/undisturbed") || fail "another output: $(cat "$WORK/tmp/again")"
	witness_well
done
say "$ROUNDS kills, $survived rounds did not notice"

say "containerd is stopped, and killed"
for signal in TERM KILL; do
	stop containerd-lamella $signal
	containerd_start lamella
	witness_well
	round "$WORK/tmp/after" || fail "after $signal to containerd: $(cat "$WORK/tmp/after")"
done
say "both are killed"
stop snapshotter KILL
stop containerd-lamella KILL
snapshotter_start
containerd_start lamella
witness_well

say "everything is removed"
[ "$(cri lamella exec "$WITNESS" cat /var/tmp/count)" -gt 5 ] || fail "the container's own layer was lost"
cri lamella rm "$WITNESS"
cri lamella rmi "$REGISTRY/tiny:latest"
cri lamella rmi "$REGISTRY/edge:latest" 2>/dev/null || true
wait_for 30 "snapshots to go, $(snapshots) are left" test "$(snapshots)" -le 2
wait_for 30 "directories to go: $(ls "$WORK/snapshotter/snapshots")" same_directories
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
