#!/usr/bin/env bash
# `run demo` works, and leaves no process, mount, control group or file behind: when it ends, and when it is killed.
# runs by itself: the mounts of the machine are compared
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need_built "$LM_BUILD/tests/tools/pause"
make_work demo-test
export LM_TMP=$WORK/tmp

# What there is outside: mounts, groups, folders that containerd likes to make, processes that work in our folder.
state() {
	cut -d' ' -f3- /proc/self/mountinfo | sort
	find /sys/fs/cgroup -maxdepth 2 -name "lamella-demo.*"
	ls -d /run/containerd /run/lamella /opt/containerd /opt/cni /etc/cni /etc/lamella /var/lib/cni /var/lib/containerd /run/runc 2>/dev/null || true
	ls "$LM_TMP"
	processes
}
processes() {
	local p
	for p in /proc/[0-9]*; do
		if [[ $(tr '\0' ' ' <"$p/cmdline") == *"$LM_TMP/"* || $(readlink "$p/cwd") == "$LM_TMP"* ]]; then
			echo "${p#/proc/} $(tr '\0' ' ' <"$p/cmdline")"
		fi
	done 2>/dev/null
	return 0
}
nothing_left() { # AFTER
	local end=$(($(now_ms) + 20000))
	# What others took away meanwhile is not ours.
	until state | sort >"$WORK/after" && comm -13 "$WORK/before" "$WORK/after" >"$WORK/left" && [ ! -s "$WORK/left" ]; do
		[ "$(now_ms)" -lt $end ] || fail "left after $1: $(cat "$WORK/left")"
		sleep 0.1
	done
}
state | sort >"$WORK/before"

say "to the end"
"$LM_ROOT/run" demo >"$WORK/output" 2>&1 || fail "run demo: $(tail -n 40 "$WORK/output")"
cat "$WORK/output"
grep -q 'seconds from nothing to first output' "$WORK/output" || fail "no table"
nothing_left "the end"
bytes=$(awk '/^MB fetched/ { print ($3 < $4) }' "$WORK/output")
[ "$bytes" = 1 ] || fail "the lazy start fetched no less than the ordinary pull"

# Killed in each phase: when its heading is printed, and a little later.
for signal in KILL TERM INT HUP; do
	headings=('a registry with' 'a node' 'a container' 'ordinary pull')
	# The long tests try every signal everywhere.
	[ -n "$LM_ALL" ] || [ $signal = KILL ] || headings=('a container')
	for heading in "${headings[@]}"; do
		(trap - INT; exec "$LM_ROOT/run" demo) >"$WORK/output" 2>&1 &
		pid=$!
		wait_for 60 "the heading $heading" grep -qF "$heading" "$WORK/output"
		sleep 0.$((RANDOM % 5))
		kill -$signal $pid
		wait $pid 2>/dev/null || true
		nothing_left "$signal at $heading"
	done
	say "$signal: nothing left"
done
