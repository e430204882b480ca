#!/usr/bin/env bash
# A long time of everything that happens to a node: readers that compare go on while the worker is killed and stopped, servers
# go and come back, bytes come damaged, revisions appear, and the cache is too small. No read fails.
# time limit: 3600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
[ -n "$LM_ALL" ] || [ -n "${LM_SOAK_SECONDS:-}" ] || skip "takes long: LM_ALL=1, or LM_SOAK_SECONDS=N"
need_root
need python3 jq tar
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/tests/tools/control"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate soak

SOAK_S=${LM_SOAK_SECONDS:-600}
SEED=${SEED:-$(($(date +%s) % 32768))}
RANDOM=$SEED
say "seed $SEED, $SOAK_S s"
CONTROL=$LM_BUILD/tests/tools/control
HOSTILE=127.0.0.1:8001

repo_of_files 10 60 48
serve_start
echo >"$WORK/run/server.faults"
start_listening server $HOSTILE python3 "$LM_ROOT/tests/e2e/hostile.py" $HOSTILE "$WORK/storage" "$WORK/run/server.faults"
fetcher_start "CVMFS_SERVER_URL=http://$HOSTILE/cvmfs/@fqrn@;http://$WEB/cvmfs/@fqrn@" CVMFS_HOST_RESET_AFTER=2 CVMFS_TIMEOUT_DIRECT=2 \
	CVMFS_BACKOFF_INIT=1 CVMFS_BACKOFF_MAX=2 CVMFS_QUOTA_LIMIT=48
find_files

END_MS=$(($(now_ms) + SOAK_S * 1000))
going_on() { [ "$(now_ms)" -lt $END_MS ] && [ ! -e "$WORK/tmp/trouble" ]; }
trouble() { echo "$*" >>"$WORK/tmp/trouble"; }
reader() { # N
	while going_on; do
		(cd "$DIR" && shuf <(cut -c67- "$WORK/expected") | xargs sha256sum | sort -k 2) >"$WORK/tmp/sums-$1" 2>"$WORK/tmp/errors-$1" ||
			trouble "reader $1: $(head -n 1 "$WORK/tmp/errors-$1")"
		cmp -s "$WORK/expected" "$WORK/tmp/sums-$1" || trouble "reader $1: other content"
		echo >>"$WORK/tmp/rounds"
	done
}
lister() { while going_on; do ls -lR "$DIR" >"$WORK/tmp/list" || trouble "ls"; done; }

# What happens; all of it is to be survived without an error, the second server being well.
worker() { pgrep -x lamella-fetcher -P "$(pid_of fetcher)"; }
kill_worker() { kill -KILL "$(worker)" 2>/dev/null || true; }
stop_worker() {
	local pid
	pid=$(worker) || return 0
	kill -STOP "$pid" 2>/dev/null || return 0
	sleep 1
	kill -CONT "$pid" 2>/dev/null || true
}
restart_server() {
	stop server KILL
	sleep 0.$((RANDOM % 9 + 1))
	start_listening server $HOSTILE python3 "$LM_ROOT/tests/e2e/hostile.py" $HOSTILE "$WORK/storage" "$WORK/run/server.faults"
}
FAULTS=(flip short reset_body stall_body 404 500 garbage endless poisoned)
change_faults() {
	echo "${FAULTS[RANDOM % ${#FAULTS[@]}]} data/.*[0-4]P?\$" >"$WORK/run/server.new"
	[ $((RANDOM % 2)) = 0 ] || : >"$WORK/run/server.new"
	mv "$WORK/run/server.new" "$WORK/run/server.faults"
}
REVISIONS=0
publish() {
	REVISIONS=$((REVISIONS + 1))
	mkdir -p "$WORK/more"
	echo $REVISIONS >"$WORK/more/file"
	tar -C "$WORK" -cf "$WORK/tmp/more.tar" more
	make_layout "$WORK/oci-more-$REVISIONS" "$WORK/tmp/more.tar" /none
	convert "oci:$WORK/oci-more-$REVISIONS"
	timeout 60 "$CONTROL" $FETCHER_SOCKET update $FQRN >/dev/null 2>&1 || true # the worker may be killed meanwhile
}

jobs=()
for n in 1 2 3 4 5 6 7 8; do
	reader $n &
	jobs+=($!)
done
lister &
jobs+=($!)
EVENTS=(kill_worker stop_worker forget_mount forget_mount restart_server change_faults change_faults publish)
declare -A HAPPENED
while going_on; do
	event=${EVENTS[RANDOM % ${#EVENTS[@]}]}
	$event
	HAPPENED[$event]=$((${HAPPENED[$event]:-0} + 1))
	sleep 0.$((RANDOM % 9 + 1))
done
: >"$WORK/run/server.faults"
wait "${jobs[@]}"
for event in "${!HAPPENED[@]}"; do say "  $event: ${HAPPENED[$event]} times"; done
[ ! -e "$WORK/tmp/trouble" ] || fail "$(head -n 5 "$WORK/tmp/trouble")"
say "$(wc -l <"$WORK/tmp/rounds") times $(wc -l <"$WORK/expected") files compared"
stop fetcher
check_reports
