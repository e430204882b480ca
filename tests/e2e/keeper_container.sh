#!/usr/bin/env bash
# A container whose programs and files come from a mount goes on while the mount's worker is killed, replaced and stopped again
# and again: cold, with nothing of the image on the node but what it fetches meanwhile, and warm. It compares what it reads.
# LM_ALL=1: 50 kills for each state of the cache.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need_image tiny
isolate keeper_container

KILLS=6
[ -z "$LM_ALL" ] || KILLS=50
SEED=${SEED:-$(($(date +%s) % 32768))}
RANDOM=$SEED
say "seed $SEED"
OUTPUT=$WORK/container/container.log
# Each round starts programs of the image anew, and prints one line.
# shellcheck disable=SC2016 # evaluated in there
ROUND='find /usr/bin /usr/lib/python3* -xdev -type f -size -512k | sort | xargs -d "\n" -n 100 sha256sum | sha256sum | cut -d" " -f1'

keeper() { pid_of fetcher; }
worker() { pgrep -P "$(keeper)" 2>/dev/null | tail -n 1; }
new_worker() { local w; w=$(worker) && [ -n "$w" ] && [ "$w" != "$1" ]; } # OLD
gone() { ! kill -0 "$1" 2>/dev/null; }                                   # PID
count_said() { grep -c "$1" "$WORK/log/fetcher.log" || true; }           # PATTERN
said_times() { [ "$(count_said "$1")" -ge "$2" ]; }                      # PATTERN TIMES
pause_ms() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; }

kill_worker() {
	local w
	w=$(worker)
	kill -KILL "$w"
	wait_for 20 "another worker" new_worker "$w"
}

rounds() { grep -c . "$OUTPUT" || true; }
rounds_beyond() { [ "$(rounds)" -gt "$1" ]; }
well() { # WHAT: it goes on, saw what it was to see, and nothing else
	wait_for 60 "the container to go on after $1" rounds_beyond $(($(rounds) + 1))
	! grep -vq " stdout F $EXPECTED\$" "$OUTPUT" || fail "$1: the container saw $(grep -v " $EXPECTED\$" "$OUTPUT" | head -n 3)"
	[[ $(cri lamella list) == *"$CONTAINER running "* ]] || fail "$1: the container has ended"
	say "$1: $(rounds) rounds, no error"
}

# Nothing of the files is on the node, but for what is open.
forget() {
	find "$WORK/cache/lamella" -type f -path '*/cache/[0-9a-f][0-9a-f]/*' ! -name '*C' -delete 2>/dev/null || true
	echo 2 >/proc/sys/vm/drop_caches 2>/dev/null || true
}

registry_start
push_pause
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
repo_init
convert "oci:$LM_IMAGES/oci-tiny:latest"
serve_start
fetcher_start
snapshotter_start
containerd_start lamella

# What is to be seen: by a container that nobody disturbs.
EXPECTED=$(pod lamella run "$REGISTRY/tiny:latest" bash -c "$ROUND")
[[ $EXPECTED =~ ^[0-9a-f]{64}$ ]] || fail "undisturbed: $EXPECTED"
cri lamella rmi "$REGISTRY/tiny:latest"
stop fetcher
rm -rf "$WORK/cache"
fetcher_start

mkdir "$WORK/container"
CONTAINER=$(pod lamella start --log-dir "$WORK/container" "$REGISTRY/tiny:latest" bash -c "while :; do $ROUND; done")
for state in cold warm; do
	for ((i = 0; i < KILLS; i++)); do
		pause_ms $((RANDOM % 500))
		[ $state = warm ] || forget
		kill_worker
	done
	well "$KILLS kills, $state"
done

for ((i = 1; i <= 3; i++)); do
	pause_ms $((RANDOM % 400))
	forget
	w=$(worker)
	kill -USR2 "$(keeper)"
	wait_for 20 "the end of the old worker" gone "$w"
done
kill -USR1 "$(keeper)"
wait_for 20 "the keeper's replacement" said_times 'keeper was replaced' 1
kill_worker # the new keeper is as good as the old one
well "3 workers and the keeper replaced"

forget
w=$(worker)
kill -STOP "$w"
sleep 5
kill -CONT "$w"
well "SIGSTOP for 5 s"
[ "$(worker)" = "$w" ] || fail "it was replaced though it was only slow"

cri lamella rm "$CONTAINER"
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
