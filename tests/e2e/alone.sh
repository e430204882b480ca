#!/usr/bin/env bash
# The harness itself: `alone` leaves nothing behind, however it ends.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need_built "$ALONE"
need pgrep setsid
make_work alone
cd "$WORK/tmp"
SLEEP=$((100000000 + $$)) # seconds, to tell our process from others

# A command with a child in another session, a mount, and control groups; it says when all is there.
cat >inside.sh <<'END'
[ $$ = 1 ] && [ -z "$(ls /run)" ] || exit 1
mount -t tmpfs none "$1/mounted"
for c in /sys/fs/cgroup/memory /sys/fs/cgroup; do
	if mkdir -p "$c/lamella-${1##*/}/below" 2>/dev/null; then break; fi
done
(echo $BASHPID >"$1/../ready.new" && exec setsid sleep "$2") &
while [ ! -s "$1/../ready.new" ]; do sleep 0.01; done
mv "$1/../ready.new" "$1/../ready"
wait
END

begin() { # sets CALLED and GUARDIAN
	rm -rf work ready
	mkdir -p work/mounted
	: >work/file
	"$ALONE" "$WORK/tmp/work" bash inside.sh "$WORK/tmp/work" $SLEEP &
	CALLED=$!
	trap 'kill $CALLED 2>/dev/null || true; rm -rf "$WORK"' EXIT # a failure of this test must not leave it, either
	wait_for 10 "the command" test -s ready
	GUARDIAN=$(cat "/proc/$CALLED/task/$CALLED/children")
	GUARDIAN=${GUARDIAN% }
	sleepers || fail "the command does not run"
}
sleepers() { pgrep -fx "sleep $SLEEP" >/dev/null; }
no_sleepers() { ! sleepers; }
groups_() { find /sys/fs/cgroup -maxdepth 2 -name lamella-work; }
gone() { no_sleepers && [ ! -e work ] && [ -z "$(groups_)" ]; }

for signal in TERM INT HUP QUIT KILL; do
	begin
	kill -$signal "$CALLED"
	code=0
	wait "$CALLED" 2>/dev/null || code=$?
	[ $code = $((128 + $(kill -l $signal))) ] || fail "$signal: exit code $code"
	[ $signal = KILL ] || gone || fail "$signal: ended before everything was gone"
	wait_for 10 "nothing to be left after $signal" gone
done
begin
kill -KILL "$GUARDIAN"
wait "$CALLED" 2>/dev/null || true
wait_for 10 "nothing to be left after the guardian's end" gone
begin
kill -STOP "$CALLED" # or it may see the guardian's end before its own, and clean up
kill -KILL "$GUARDIAN" "$CALLED"
wait_for 10 "the command to end with both" no_sleepers
[ -e work ] || fail "who removed the folder?"
"$ALONE" --sweep "$WORK/tmp"
gone || fail "not swept: $(ls work; groups_)"

mkdir work
code=0
"$ALONE" "$WORK/tmp/work" bash -c 'exit 5' || code=$?
[ $code = 5 ] || fail "exit code $code instead of 5"
gone || fail "left after an ordinary end"
mkdir work
"$ALONE" --keep "$WORK/tmp/work" touch "$WORK/tmp/work/kept"
[ -e work/kept ] || fail "did not keep the folder"
code=0
"$ALONE" "$WORK/tmp/work" sh -c "$ALONE --sweep $WORK/tmp; test -e work/kept" || fail "swept a folder that is in use"
code=0
mkdir work
"$ALONE" work /nonexistent 2>/dev/null || code=$?
[ $code = 125 ] || fail "exit code $code for a command that is not there"
say "done"
