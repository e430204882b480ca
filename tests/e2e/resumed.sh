#!/usr/bin/env bash
# What a worker says and shows that goes on with the mounts of one that was killed: it serves the recorded root before it has
# looked at the network, which is no problem; and without such a record the kernel forgets what it knew of the older root.
# time limit: 120 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need jq
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate resumed

export LAMELLA_SOCKET=$FETCHER_SOCKET
ROOT=$MOUNT_BASE/$FQRN
worker() { pgrep -P "$(pid_of fetcher)" 2>/dev/null | tail -n 1; }
new_worker() { local w; w=$(worker) && [ -n "$w" ] && [ "$w" != "$1" ]; } # OLD
kill_worker() {
	local w
	w=$(worker)
	kill -KILL "$w"
	wait_for 20 "another worker" new_worker "$w"
}
in_state() { [ "$({ "$LAMELLA" status --json 2>/dev/null || true; } | jq -r '.repositories[0].state')" = "$1" ]; } # STATE
publish() { # NAME: an image of one file, NAME.example.org/x:1; prints the path of its file
	local hex
	echo "$1" >"$WORK/tmp/$1"
	tar -C "$WORK/tmp" --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" "$1"
	make_layout "$WORK/oci-$1" "$WORK/tmp/layer.tar" /none
	convert "oci:$WORK/oci-$1" --name "$1.example.org/x:1"
	hex=$(manifest "$WORK/oci-$1" latest | jq -r '.layers[0].digest | ltrimstr("sha256:")')
	echo ".layers/${hex:0:2}/$hex/layerfs/$1"
}

repo_init
first=$(publish first)
serve_start
fetcher_start
[ "$(cat "$ROOT/$first")" = first ] || fail "not there: $(ls -la "$ROOT")"

say "the recorded root is served while the server says nothing"
kill -STOP "$(pid_of serve)"
kill_worker
wait_for 20 "the worker's word" in_state recorded
"$LAMELLA" status >"$WORK/out" || fail "a problem: $(cat "$WORK/out")"
grep -q "^$FQRN: recorded for .*, revision [1-9]" "$WORK/out" || fail "$(cat "$WORK/out")"
[ "$(cat "$ROOT/$first")" = first ] || fail "not served"
kill -CONT "$(pid_of serve)"
wait_for 60 "the end of the look" in_state online

say "without a record the newest revision is seen at once"
unrecorded() { rm "$WORK/cache/lamella/repositories/$FQRN/root"; }
known() { (cd "$ROOT" && stat .layers "$1.example.org" >/dev/null && ls >/dev/null && ! stat "$2.example.org" 2>/dev/null) || fail "before $2"; } # OLD NEW
seen() { # NAME PATH: in the mount, and by listing it
	[ "$(cat "$ROOT/$2")" = "$1" ] || fail "$1: not in its layer: $(ls "$ROOT"/.layers/*)"
	[ -e "$ROOT/$1.example.org" ] || fail "$1: not in the root directory"
	find "$ROOT" -maxdepth 1 | has -x "$ROOT/$1.example.org" || fail "$1: not listed: $(ls "$ROOT")"
}
[ "$("$LAMELLA" status --json | jq '.repositories[0].ttl_s')" -ge 60 ] || fail "time-outs would do"
known first second
second=$(publish second)
unrecorded
kill_worker
wait_for 20 "the first look" in_state online
seen second "$second"

say "the same where there is no root at first"
known second third
stop serve
unrecorded
kill_worker
wait_for 60 "the first look" in_state failed
third=$(publish third)
serve_start
"$LAMELLA" update >/dev/null || fail "update: $("$LAMELLA" status)"
seen third "$third"
stop fetcher
check_reports
say passed
