#!/usr/bin/env bash
# The fetcher's worker is killed, stopped, crashed and replaced under readers that compare what they read, and none of them
# sees an error; nor when the keeper is replaced, or killed under a service manager that holds its descriptors.
# LM_ALL=1: 50 kills for each way to resume and each state of the cache.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need python3 setfattr
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/tests/tools/manager"
need_image tiny
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate keeper

KILLS=6
[ -z "$LM_ALL" ] || KILLS=50
SEED=${SEED:-$(($(date +%s) % 32768))}
RANDOM=$SEED
say "seed $SEED"
ROOT=$MOUNT_BASE/$FQRN

keeper() { pid_of fetcher; }
worker() { pgrep -P "$(keeper)" 2>/dev/null | tail -n 1; }
new_worker() { local w; w=$(worker) && [ -n "$w" ] && [ "$w" != "$1" ]; } # OLD
pause_ms() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; }
mounted() { stat -t "$ROOT" >/dev/null 2>&1; }
not_mounted() { ! mounted; }
said() { grep -q "$1" "$WORK/log/fetcher.log"; }        # PATTERN
told() { grep -q "$1" "$WORK/log/manager.log"; }        # PATTERN
count_said() { grep -c "$1" "$WORK/log/fetcher.log" || true; } # PATTERN

kill_worker() { # SIGNAL: and waits for the next one
	local w
	w=$(worker)
	kill "-$1" "$w"
	wait_for 20 "another worker" new_worker "$w"
}

READERS=()
readers_start() {
	local i
	for i in 1 2 3 4 5 6 7 8; do
		python3 "$LM_ROOT/tests/e2e/reader.py" "$ROOT" "$WORK/list" $((SEED + i)) >"$WORK/tmp/reader.$i" 2>&1 &
		READERS[i]=$!
	done
	# shellcheck disable=SC2012 # what people type
	(while :; do ls -lR "$ROOT/.layers" 2>&1 | cmp -s - "$WORK/listing" || exit 1; done) &
	READERS[9]=$!
}

readers_stop() { # WHAT
	local i code total=0
	kill -0 "${READERS[9]}" 2>/dev/null || fail "$1: ls -lR saw something else"
	kill "${READERS[9]}" 2>/dev/null || true
	wait "${READERS[9]}" 2>/dev/null || true
	for i in 1 2 3 4 5 6 7 8; do
		kill -TERM "${READERS[i]}" 2>/dev/null || true
		code=0
		wait "${READERS[i]}" || code=$?
		[ $code = 0 ] || fail "$1: reader $i: $(cat "$WORK/tmp/reader.$i")"
		total=$((total + $(cat "$WORK/tmp/reader.$i")))
	done
	[ $total -gt 0 ] || fail "$1: nothing was read"
	say "$1: $total files read, no error"
}

repo_init
convert "oci:$LM_IMAGES/oci-tiny:latest"
serve_start

# What is to be seen: from a worker that nobody disturbs.
fetcher_start
(cd "$ROOT" && find . -type f -size -512k | sort | xargs -d '\n' sha256sum) >"$WORK/list"
ls -lR "$ROOT/.layers" >"$WORK/listing"
[ "$(wc -l <"$WORK/list")" -gt 500 ] || fail "too few files: $(wc -l <"$WORK/list")"
stop fetcher

for way in journal resend; do
	[ $way = journal ] || export LAMELLA_RESUME=resend
	rm -rf "$WORK/cache"
	for state in cold warm; do
		: >"$WORK/log/fetcher.log"
		fetcher_start
		readers_start
		for ((i = 0; i < KILLS; i++)); do
			pause_ms $((RANDOM % 500))
			kill_worker KILL
		done
		pause_ms 300
		readers_stop "$KILLS kills, $way, $state"
		[ "$(count_said 'worker died')" -ge "$KILLS" ] || fail "the log knows of $(count_said 'worker died') deaths"
		stop fetcher
		! mountpoint -q "$ROOT" || fail "still mounted"
	done
	unset LAMELLA_RESUME
done

say "replacing worker and keeper"
fetcher_start
readers_start
for ((i = 0; i < 5; i++)); do
	pause_ms $((RANDOM % 400))
	w=$(worker)
	kill -USR2 "$(keeper)"
	wait_for 20 "the replacement" eval "new_worker $w && ! kill -0 $w 2>/dev/null"
done
for ((i = 1; i <= 3; i++)); do
	pause_ms $((RANDOM % 400))
	kill -USR1 "$(keeper)"
	wait_for 20 "the keeper's replacement" eval "[ \$(count_said 'keeper was replaced') -ge $i ]"
done
kill_worker KILL # the new keeper is as good as the old one
pause_ms 300
readers_stop "5 workers and 3 keepers replaced"
[ "$(count_said 'worker was replaced')" -ge 8 ] || fail "workers were not replaced in good order"

say "settings that are wrong when a worker starts"
cp "$WORK/fetcher.conf" "$WORK/tmp/right.conf"
died=$(count_said 'worker died')
wrong="$WORK/fetcher.conf:$(($(wc -l <"$WORK/fetcher.conf") + 1)): CVMFS_MAX_RETRIES=many"
echo CVMFS_MAX_RETRIES=many >>"$WORK/fetcher.conf"
mv "$WORK/keys" "$WORK/keys.gone"
readers_start
kill_worker KILL
wait_for 20 "settings in force" said 'those in force before: files are not read after a crash'
kill -USR2 "$(keeper)"
wait_for 20 "settings in force, for the replacement" said "settings in files are wrong.*$wrong"
kill -HUP "$(keeper)"
wait_for 20 "the refusal" said 'settings not changed'
mv "$WORK/keys.gone" "$WORK/keys"
{ cat "$WORK/tmp/right.conf" && echo CVMFS_MAX_RETRIES=2 && echo "CVMFS_CACHE_BASE=$WORK/elsewhere"; } >"$WORK/fetcher.conf"
w=$(worker)
kill -USR2 "$(keeper)"
wait_for 20 "a replacement with the new files" eval "! kill -0 $w 2>/dev/null"
kill -HUP "$(keeper)" # which waits until the worker is ready
wait_for 20 "the reload" said 'key=CVMFS_CACHE_BASE.*takes_effect="with the next start of the program"'
! said 'key=CVMFS_MAX_RETRIES' || fail "the replacement did not read the files"
kill_worker KILL
pause_ms 300
readers_stop "settings in force"
[ ! -e "$WORK/elsewhere" ] || fail "another cache under mounts that go on"
[ "$(count_said 'worker died')" = $((died + 2)) ] || fail "$(($(count_said 'worker died') - died)) workers died"

say "stopped for 5 s"
readers_start
w=$(worker)
kill -STOP "$w"
sleep 5
kill -CONT "$w"
pause_ms 500
readers_stop "SIGSTOP for 5 s"
[ "$(worker)" = "$w" ] || fail "it was replaced though it was only slow"
stop fetcher

say "stopped for ever"
LAMELLA_PATIENCE_MS=1200 fetcher_start
readers_start
pause_ms 500
w=$(worker)
kill -STOP "$w"
wait_for 20 "a worker that makes progress" new_worker "$w"
pause_ms 500
readers_stop "a worker without progress"
said 'no progress' || fail "no line about it in the log"
stop fetcher

# A look-up that waits for its catalog is in hand whenever the worker crashes. (A read would be asked again by the kernel.)
say "a request that crashes the worker"
rm -rf "$WORK/cache"
fetcher_start CVMFS_TIMEOUT=60 CVMFS_TIMEOUT_DIRECT=60
victim=$(sed -n '1s/^[0-9a-f]*  //p' "$WORK/list")
kill -STOP "$(pid_of serve)"
stat "$ROOT/$victim" >"$WORK/tmp/victim" 2>&1 &
victim_reader=$!
# Those for the directories above it are answered at once.
in_hand() { { "$LAMELLA" status --json 2>/dev/null || true; } | jq -e '.repositories[0] | .kernel_waiting > 0 and (.downloads | length) > 0' >/dev/null; }
for i in 1 2 3; do
	wait_for 20 "the request in the worker's hands" in_hand # a worker that dies before is not to blame
	kill_worker ABRT # a sanitizer would report a SEGV as its own finding
done
wait_for 20 "the end of the request" said 'request given up'
wait $victim_reader && fail "it was not given up"
grep -q 'Input/output error' "$WORK/tmp/victim" || fail "not an input/output error: $(cat "$WORK/tmp/victim")"
kill -CONT "$(pid_of serve)"
right() { head -n 1 "$WORK/list" | (cd "$ROOT" && sha256sum -c --quiet - >/dev/null 2>&1); }
wait_for 60 "the file, afterwards" right
stop fetcher

say "the keeper is killed"
fetcher_start
w=$(worker)
stop fetcher KILL
wait_for 20 "the end of its worker" eval "! kill -0 $w 2>/dev/null"
not_mounted || fail "a mount without a process"
fetcher_start
wait_for 20 "the mount" mounted
said 'taking away the mount of a process that died' || fail "the dead mount was not noticed"
head -n 20 "$WORK/list" | (cd "$ROOT" && sha256sum -c --quiet -)
stop fetcher

say "the keeper is killed, and a service manager has its descriptors"
export WATCHDOG_USEC=400000
start_socket fetcher "$FETCHER_SOCKET" "$LM_BUILD/tests/tools/manager" "$WORK/log/manager.log" \
	"$LM_BUILD/fetcher/lamella-fetcher" --config "$WORK/fetcher.conf"
unset WATCHDOG_USEC
wait_for 20 "READY" told READY=1
readers_start
for i in 1 2 3; do
	pause_ms $((RANDOM % 600 + 200))
	kill -USR1 "$(keeper)" # kills the program
	# The settings, and a device and a journal of both mounts.
	wait_for 20 "the next keeper" eval "[ \$(grep -c 'started again with 5 descriptors' '$WORK/log/manager.log') = $i ]"
	wait_for 20 "the mounts" eval "[ \$(count_said 'mounts came back') -ge $i ]"
	# The last one, with files that are wrong.
	[ $i != 2 ] || echo CVMFS_MAX_RETRIES=many >>"$WORK/fetcher.conf"
done
wait_for 20 "settings" said 'settings in files are wrong'
pause_ms 500
readers_stop "3 kills of the keeper"
wait_for 5 "the watchdog" told WATCHDOG=1
stop fetcher
for line in STOPPING=1 FDPOLL=0 'FDNAME=journal=' FDSTOREREMOVE=1; do
	told "$line" || fail "the manager was not told $line"
done
! mountpoint -q "$ROOT" || fail "still mounted"

say "errors at the start"
code=0
"$LM_BUILD/fetcher/lamella-fetcher" --no-such-option >"$WORK/tmp/out" 2>&1 || code=$?
{ [ $code = 2 ] && grep -q 'wrong usage' "$WORK/tmp/out"; } || fail "code $code: $(cat "$WORK/tmp/out")"
check_reports
