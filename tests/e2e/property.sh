#!/usr/bin/env bash
# Random trees, edited and published round by round (tests/unit/repo/test_property.c): each revision, mounted by `lamella
# mount` and listed by `lamella inspect`, is what was asked for. LM_SEED repeats a run; LM_ALL=1: 200 rounds instead of 20.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
LISTING=$LM_BUILD/tests/tools/listing
PROPERTY=$LM_BUILD/tests/unit/repo_test_property
need_root
need fusermount3
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LISTING" "$PROPERTY"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate property

R=random.lamella.test
MNT=$WORK/mnt
SEED=${LM_SEED:-$((RANDOM << 15 | RANDOM))}
mkdir -p "$MNT" "$WORK/storage"
serve_start

mount_it() {
	"$LAMELLA" mount $R "$MNT" --url "http://$WEB/cvmfs/@fqrn@" --key "$WORK/keys/$R.pub" --cache "$WORK/cache" \
		2>"$WORK/log/mount.log" || fail "round $1: mount: $(cat "$WORK/log/mount.log")"
	ln -sf "$WORK/cache/mount.log" "$WORK/log/daemon.log"
}
no_daemon() { ! pgrep -x lamella-fetcher >/dev/null; } # in here it is the only one
compare() { # ROUND WHAT FILE
	diff "$WORK/listing" "$3" >"$WORK/diff" || fail "LM_SEED=$SEED, round $1, $2: $(head -n 20 "$WORK/diff")"
}

# One round: the cache is that of the round before, of none every fifth time.
look() { # ROUND
	[ $(($1 % 5)) != 0 ] || rm -rf "$WORK/cache"
	mount_it "$1"
	"$LISTING" "$MNT" >"$WORK/list" 2>"$WORK/listing.err" || fail "LM_SEED=$SEED, round $1: $(head -n 5 "$WORK/listing.err")"
	compare "$1" mounted "$WORK/list"
	umount "$MNT"
	wait_for 30 "the end of the daemon" no_daemon
	cat "$WORK/cache/mount.log" >>"$WORK/log/daemons.log"
	"$LAMELLA" inspect tree "$WORK/storage/cvmfs/$R" --keys "$WORK/keys" >"$WORK/list" 2>"$WORK/inspect.err" ||
		fail "LM_SEED=$SEED, round $1: inspect: $(cat "$WORK/inspect.err")"
	compare "$1" inspected "$WORK/list"
}

say "LM_SEED=$SEED"
ROUNDS=$([ -n "$LM_ALL" ] && echo 200 || echo 20)
coproc RANDOM_TREE { LM_WORK=$WORK LM_SEED=$SEED LM_ROUNDS=$ROUNDS exec "$PROPERTY" 2>&1; }
# Bash forgets the coprocess when it ends.
random_tree=$RANDOM_TREE_PID
exec 8<&"${RANDOM_TREE[0]}" 9>&"${RANDOM_TREE[1]}"
rounds=0
while read -r word round <&8; do
	if [ "$word" = round ]; then
		look "$round"
		rounds=$round
		echo next >&9
	else
		echo "$word $round" >>"$WORK/log/property.log"
	fi
done
code=0
wait "$random_tree" || code=$?
[ $code = 0 ] || fail "LM_SEED=$SEED: the publisher ended with code $code"
[ "$rounds" = "$ROUNDS" ] || fail "only $rounds rounds"
check_reports
say "$rounds rounds, $(grep -a " edits, " "$WORK/log/property.log")"
say "passed"
