#!/usr/bin/env bash
# Everything at the same time, for the thread sanitizer: readers of everything, listings, readers that are killed in the
# middle, new revisions, questions to the control service, a cache that is too small, and an end under load. What is read is
# compared.
# time limit: 900 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need python3 jq tar
TSAN=$LM_ROOT/build-tsan
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/tests/tools/control" "$TSAN/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate stress

SECONDS_LONG=${LM_STRESS_SECONDS:-15}
[ -z "$LM_ALL" ] || SECONDS_LONG=${LM_STRESS_SECONDS:-180}
CONTROL=$LM_BUILD/tests/tools/control
export TSAN_OPTIONS="suppressions=$LM_ROOT/tests/tsan.supp halt_on_error=0 second_deadlock_stack=1 history_size=7"

repo_of_files 8 30 24
serve_start

# The daemon under test is the instrumented one; everything else is as usual.
sanitized_start() {
	LM_BUILD=$TSAN fetcher_start CVMFS_QUOTA_LIMIT=32 LAMELLA_CACHE_RESERVE=0 CVMFS_TIMEOUT_DIRECT=5
	find_files
}
UNTIL=0
going_on() { [ "$(now_ms)" -lt $UNTIL ] && [ ! -e "$WORK/tmp/trouble" ]; }
trouble() { echo "$*" >>"$WORK/tmp/trouble"; }

reader() { # N: compares everything, in an order of its own
	while going_on; do
		(cd "$DIR" && shuf <(cut -c67- "$WORK/expected") | xargs sha256sum | sort -k 2) >"$WORK/tmp/sums-$1" 2>"$WORK/tmp/errors-$1" ||
			trouble "reader $1: $(head -n 1 "$WORK/tmp/errors-$1")"
		cmp -s "$WORK/expected" "$WORK/tmp/sums-$1" || trouble "reader $1: other content"
	done
}
lister() { while going_on; do ls -lR "$DIR" >"$WORK/tmp/list" || trouble "ls"; done; }
interrupter() { # readers that do not wait for the end
	while going_on; do
		timeout -s KILL 0.0$((RANDOM % 9 + 1)) cat "$DIR/big" "$DIR"/?/[0-9]* >/dev/null 2>&1 || true
	done
}
asker() {
	while going_on; do
		"$CONTROL" $FETCHER_SOCKET status >/dev/null || trouble "status"
		"$CONTROL" $FETCHER_SOCKET resolve sha256:"$(printf %064d $RANDOM)" >/dev/null || trouble "resolve"
	done
}
forgetter() { while going_on; do forget_mount; sleep 0.3; done; }
publisher() {
	local i
	for ((i = 0; ; i++)); do
		going_on || break
		mkdir -p "$WORK/more"
		echo $i >"$WORK/more/file"
		tar -C "$WORK" -cf "$WORK/tmp/more.tar" more
		make_layout "$WORK/oci-more-$i" "$WORK/tmp/more.tar" /none
		convert "oci:$WORK/oci-more-$i"
		"$CONTROL" $FETCHER_SOCKET update $FQRN >/dev/null || trouble "update"
		sleep 1
	done
}

round() { # SECONDS
	local jobs=() n
	UNTIL=$(($(now_ms) + $1 * 1000))
	for n in 1 2 3 4 5 6 7 8; do
		reader $n &
		jobs+=($!)
	done
	interrupter 2>/dev/null & # the shell tells of every kill
	jobs+=($!)
	for n in lister asker forgetter publisher; do
		$n &
		jobs+=($!)
	done
	wait "${jobs[@]}"
	[ ! -e "$WORK/tmp/trouble" ] || fail "$(head -n 5 "$WORK/tmp/trouble")"
}

say "$SECONDS_LONG s of everything"
sanitized_start
round "$SECONDS_LONG"
say "$(grep -c '' "$WORK/expected") files, revision $("$CONTROL" $FETCHER_SOCKET status | awk '{ print $3 }')"
say "the end, under load"
for end in 1 2 3; do
	(cd "$DIR" && find . -type f -print0 | xargs -0 -n 4 -P 8 cat) >/dev/null 2>&1 &
	sleep 0.$((RANDOM % 9 + 1))
	stop fetcher
	wait $! || true
	[ $end = 3 ] || sanitized_start
done
check_reports
