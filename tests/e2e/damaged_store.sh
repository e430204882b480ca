#!/usr/bin/env bash
# The snapshotter's store is damaged in every way, under running containers: they go on, the next start makes it again, containerd
# sees all that it knew, new containers start from what is there, and in the end everything can be removed. What can't be made
# again is kept.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need python3 setfattr losetup
need_image tiny edge
isolate damaged_store

STATE=$WORK/snapshotter
DB=$STATE/store.db

# Lazily served, counting: each time by new processes, through its own writable layer.
witness_start() {
	mkdir "$WORK/witness"
	# shellcheck disable=SC2016
	WITNESS=$(pod lamella start --log-dir "$WORK/witness" "$REGISTRY/tiny:latest" bash -c \
		'i=0; while sleep 0.1; do i=$((i + 1)); echo $i >/var/tmp/count && cat /var/tmp/count || echo trouble; done')
}
witness_count() { grep -c . "$WORK/witness/container.log"; }
witness_beyond() { [ "$(witness_count)" -gt "$1" ]; }
witness_well() {
	wait_for 10 "the running container to go on" witness_beyond "$(witness_count)"
	! grep -qE 'trouble|rror' "$WORK/witness/container.log" || fail "it was touched: $(tail -n 3 "$WORK/witness/container.log")"
	[[ $(cri lamella list) == *"$WITNESS running "* ]] || fail "containerd lost the running container"
}
# All that containerd knows: keys, parents, kinds, and labels.
view() {
	local key
	ctr_ lamella snapshots --snapshotter lamella ls
	ctr_ lamella snapshots --snapshotter lamella ls | sed '1d; s/ .*//' | while read -r key; do
		ctr_ lamella snapshots --snapshotter lamella info "$key"
	done
}
connected() { ctr_ lamella snapshots --snapshotter lamella ls >/dev/null 2>&1; }
same_view() { # WHAT
	wait_for 20 "containerd to find the snapshotter" connected
	view | grep -v '"Updated"' | diff "$WORK/tmp/view" - >"$WORK/tmp/difference" || fail "$1: containerd sees something else: $(head "$WORK/tmp/difference")"
}
note_view() { view | grep -v '"Updated"' >"$WORK/tmp/view"; }
run_in() { # IMAGE
	pod lamella run --no-pull "$REGISTRY/$1:latest" sh -c 'echo from inside; test -w /tmp' 2>"$WORK/tmp/run" | has -x 'from inside' ||
		fail "$2: no new container from $1: $(cat "$WORK/tmp/run")"
}
log_mark() { LOG_MARK=$(($(stat -c %s "$WORK/log/snapshotter.log") + 1)); }
log_since() { tail -c "+$LOG_MARK" "$WORK/log/snapshotter.log"; }
kept() { find "$STATE/snapshots" -mindepth 2 -maxdepth 2 -name kept | grep -c . || true; }

sql() {
	python3 -c 'import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.close()' "$DB" "$1"
}
# Each after the end of the snapshotter; what it says of it.
missing() { rm "$DB"; }
empty() { : >"$DB"; }
rubbish() { dd if=/dev/urandom of="$DB" bs=4096 count=2 conv=notrunc status=none; }
flipped() { python3 -c 'import sys; f = open(sys.argv[1], "r+b"); b = bytearray(f.read()); b[4096:4104] = bytes(x ^ 0x10 for x in b[4096:4104]); f.seek(0); f.write(b)' "$DB"; }
cut_short() { truncate -s 6000 "$DB"; }
newer() { sql 'PRAGMA user_version = 99'; }
foreign() { rm "$DB" && sql 'CREATE TABLE snapshots(id)'; }
contradictory() { sql 'PRAGMA foreign_keys = OFF; UPDATE snapshots SET parent = 4711 WHERE parent NOT NULL'; }
declare -A SAID=([missing]="is missing" [empty]="is empty" [rubbish]="not a database" [flipped]="store: " [cut_short]="store: "
	[newer]="of version 99" [foreign]="is empty" [contradictory]="has no committed parent")

registry_start
push_pause
repo_init
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
push "$LM_IMAGES/oci-edge:latest" edge:latest
convert "oci:$LM_IMAGES/oci-tiny:latest"
serve_start
fetcher_start
note_loops
snapshotter_start
containerd_start lamella
witness_start
cri lamella pull "$REGISTRY/edge:latest" >/dev/null
run_in edge "at first"
collected() { [ "$(snapshot_directories)" = "$(store_rows)" ]; }
wait_for 20 "the clean-up" collected
note_view
[ "$(wc -l <"$WORK/tmp/view")" -gt 10 ] || fail "no snapshots: $(cat "$WORK/tmp/view")"

for damage in missing empty rubbish flipped cut_short newer foreign contradictory; do
	stop snapshotter
	log_mark
	$damage
	snapshotter_start
	log_since | has "the store was damaged and is made again.*${SAID[$damage]}.* directories_kept=0" ||
		fail "$damage: not said: $(log_since | head -n 5)"
	same_view "$damage"
	witness_well
	wait_for 20 "the clean-up" collected
done
for image in tiny edge; do run_in "$image" "after all that"; done
wait_for 20 "the clean-up" collected
say "${#SAID[@]} damages: all came back"

say "killed, and the database's log is lost"
stop snapshotter
snapshotter_start
wait_for 20 "containerd to find the snapshotter" connected
mkdir "$WORK/later"
later=$(pod lamella start --log-dir "$WORK/later" "$REGISTRY/tiny:latest" sh -c 'echo mine >/var/tmp/file; exec sleep 1000')
note_view
stop snapshotter KILL
log_mark
[ -s "$DB-wal" ] || fail "there is no log"
rm "$DB-wal"
snapshotter_start
log_since | has "made again.*older than the snapshots" || fail "not said: $(log_since | head -n 5)"
same_view "without its log"
cri lamella exec "$later" grep -qx mine /var/tmp/file || fail "the container lost its file"
cri lamella exec "$later" sh -c 'echo more >>/var/tmp/file' || fail "the container can't write"
witness_well

say "directories that nobody can say anything about"
victim=$(ctr_ lamella snapshots --snapshotter lamella mounts /m "$later" | sed -n 's/.*upperdir=\([^,]*\)\/fs.*/\1/p')
[ -f "$victim/fs/var/tmp/file" ] || fail "not the container's: $victim"
stop snapshotter
cp "$DB" "$WORK/tmp/store.db"
log_mark
setfattr -x user.lamella.record "$victim" || fail "no record on $victim"
rubbish
snapshotter_start
log_since | has "directory kept, nothing names it directory=$victim " || fail "not said: $(log_since | head -n 5)"
wait_for 20 "containerd to find the snapshotter" connected
run_in tiny "with a directory kept" # and the clean-up that follows
run_in edge "with a directory kept"
witness_well
stop snapshotter KILL
snapshotter_start
[ "$(kept)" = 1 ] || fail "it was not kept"
grep -qx more "$victim/fs/var/tmp/file" || fail "the file in it is not what it was"
cri lamella exec "$later" grep -qx more /var/tmp/file || fail "the container lost its file"

say "a store that is put back takes it up"
stop snapshotter
cp "$WORK/tmp/store.db" "$DB"
rm -f "$DB-wal" "$DB-shm"
snapshotter_start
[ "$(kept)" = 0 ] || fail "still kept"
same_view "put back"

say "everything is removed"
cri lamella rm "$later"
[ "$(cri lamella exec "$WITNESS" cat /var/tmp/count)" -gt 5 ] || fail "the container's own layer was lost"
cri lamella rm "$WITNESS"
expect_nothing_left
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
say passed
