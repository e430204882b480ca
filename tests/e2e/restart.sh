#!/usr/bin/env bash
# Everything around a container is killed, stopped and replaced, in every order, and under whatever goes on: it reads, compares, writes
# and syncs all the while and sees no error; containerd knows it in the end, and new containers start.
# LM_ALL=1: every order in every way.
# time limit: 900 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need python3 losetup
need_built "$LM_BUILD/tests/tools/manager"
need_image tiny edge
isolate restart

KILLS=8
[ -z "$LM_ALL" ] || KILLS=30
[ -z "${LM_SANITIZED:-}" ] || KILLS=4
SEED=${SEED:-$(($(date +%s) % 32768))}
RANDOM=$SEED
say "seed $SEED"

# --- the container ----------------------------------------------------------------------------------------------------

LIFE=$WORK/inhabitant/container.log
inhabitant_start() {
	mkdir "$WORK/inhabitant"
	INHABITANT=$(pod lamella start --log-dir "$WORK/inhabitant" "$REGISTRY/tiny:latest" \
		python3 -c "$(cat "$LM_ROOT/tests/e2e/inhabitant.py")")
	wait_for 120 "its first look at its files" grep -q ' stdout F files ' "$LIFE"
}
rounds() { grep -c ' stdout F round ' "$LIFE" || true; }
rounds_beyond() { [ "$(rounds)" -gt "$1" ] || grep -q trouble "$LIFE"; }
well() { # AFTER
	wait_for 60 "the container to go on $1" rounds_beyond "$(rounds)"
	! grep -vE ' stdout F (files|round) ' "$LIFE" || fail "$1 the container saw an error"
}
known() { [[ $(cri lamella list) == *"$INHABITANT running "* ]]; }

# --- what happens to the rest -----------------------------------------------------------------------------------------

# The fetcher is under a service manager, which keeps its descriptors: it is killed by USR1 to that.
manager() { pid_of fetcher; }
keeper() { pgrep -x lamella-fetcher -P "$(manager)" | sed -n 1p; }
worker() { pgrep -x lamella-fetcher -P "$(keeper)" 2>/dev/null | tail -n 1; }
other() { local p; p=$($1) && [ -n "$p" ] && [ "$p" != "$2" ]; } # worker|keeper OLD
gone() { ! kill -0 "$1" 2>/dev/null; }
managed_fetcher_start() {
	fetcher_start # for its configuration
	stop fetcher
	start_socket fetcher "$FETCHER_SOCKET" "$LM_BUILD/tests/tools/manager" "$WORK/log/manager.log" \
		"$LM_BUILD/fetcher/lamella-fetcher" --config "$WORK/fetcher.conf"
	wait_for 20 "READY" grep -q READY=1 "$WORK/log/manager.log"
}

down_containerd() { stop containerd-lamella "$1"; }
up_containerd() { containerd_start lamella; }
down_snapshotter() { stop snapshotter "$1"; }
up_snapshotter() { snapshotter_start; }
FETCHER_TURN=0
down_fetcher() { # KILL|TERM: worker, worker and keeper, or each replaced by a new one
	local w k
	w=$(worker)
	k=$(keeper)
	FETCHER_TURN=$((FETCHER_TURN + 1))
	if [ "$1" = TERM ]; then
		kill -USR2 "$k"
		wait_for 30 "the worker's replacement" gone "$w"
	elif [ $((FETCHER_TURN % 2)) = 0 ]; then
		kill -KILL "$w"
		wait_for 30 "another worker" other worker "$w"
	else
		kill -USR1 "$(manager)"
		wait_for 30 "another keeper" other keeper "$k"
	fi
}
up_fetcher() { wait_for 30 "the fetcher" socket_open "$FETCHER_SOCKET"; }

ORDERS=("snapshotter containerd fetcher" "snapshotter fetcher containerd" "containerd snapshotter fetcher" "containerd fetcher snapshotter"
	"fetcher snapshotter containerd" "fetcher containerd snapshotter")
one_after_the_other() { # SIGNAL PROGRAM...
	local signal=$1 program
	shift
	for program; do
		"down_$program" "$signal"
		"up_$program"
	done
}
all_at_once() { # SIGNAL PROGRAM...: down in that order, and up in it
	local signal=$1 program
	shift
	for program; do "down_$program" "$signal"; done
	for program; do "up_$program"; done
}
# What the snapshotter is killed under; it may fail then, but not afterwards.
round() { # LOG
	pod lamella run "$REGISTRY/edge:latest" sh -c 'ls -R /edge | wc -l' >"$1" 2>&1 &&
		cri lamella rmi "$REGISTRY/edge:latest" >>"$1" 2>&1
}

registry_start
push_pause
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
push "$LM_IMAGES/oci-edge:latest" edge:latest
repo_init
convert "oci:$LM_IMAGES/oci-tiny:latest"
convert "oci:$LM_IMAGES/oci-edge:latest"
serve_start
managed_fetcher_start
note_loops
snapshotter_start
containerd_start lamella
inhabitant_start
round "$WORK/tmp/undisturbed" || fail "undisturbed: $(cat "$WORK/tmp/undisturbed")"
well "undisturbed"

say "in every order"
WAYS=("one_after_the_other KILL" "all_at_once TERM" "all_at_once KILL" "one_after_the_other TERM")
for ((o = 0; o < ${#ORDERS[@]}; o++)); do
	for ((w = 0; w < ${#WAYS[@]}; w++)); do
		[ -n "$LM_ALL" ] || [ $w = $((o % ${#WAYS[@]})) ] || continue
		# shellcheck disable=SC2086 # words
		${WAYS[w]} ${ORDERS[o]}
		well "${WAYS[w]} ${ORDERS[o]}:"
		known || fail "${WAYS[w]} ${ORDERS[o]}: containerd lost the container"
	done
done
wait_for 60 "a container after all that: $(tail -n 2 "$WORK/tmp/again" 2>/dev/null)" round "$WORK/tmp/again"
cmp -s <(head -n 1 "$WORK/tmp/again") <(head -n 1 "$WORK/tmp/undisturbed") || fail "another output: $(cat "$WORK/tmp/again")"

say "the snapshotter is killed at any moment of pull, create, run and remove"
survived=0
for ((i = 1; i <= KILLS; i++)); do
	round "$WORK/tmp/$i" &
	job=$!
	sleep "$(printf '0.%03d' $((RANDOM % 700)))"
	stop snapshotter KILL
	sleep "$(printf '0.%03d' $((RANDOM % 300)))"
	snapshotter_start
	! wait $job || survived=$((survived + 1))
	wait_for 60 "a container after kill $i: $(tail -n 2 "$WORK/tmp/$i")" round "$WORK/tmp/again"
	cmp -s <(head -n 1 "$WORK/tmp/again") <(head -n 1 "$WORK/tmp/undisturbed") || fail "another output: $(cat "$WORK/tmp/again")"
done
well "after $KILLS kills"
known || fail "containerd lost the container"
say "$KILLS kills, $survived rounds did not notice; the container went through $(rounds) rounds"

say "everything is removed"
[ "$(cri lamella exec "$INHABITANT" sh -c 'wc -l </var/tmp/own/log')" -gt 5 ] || fail "the container's own layer was lost"
cri lamella rm "$INHABITANT"
cri lamella clear # the sandboxes of calls that failed
note_loops
expect_nothing_left
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
say passed
