#!/usr/bin/env bash
# Images are pulled, run and removed, 8 at a time, through CRI and by ctr in another namespace, some of them served, some not, and the
# snapshotter is killed every 20 times: nothing fails but what is under way at a kill, and that only once; every container finds the
# content that it should; and in the end nothing is left of any: no mount, directory, row, loop device or process.
# LM_ALL=1: 1,000 times.
# time limit: 3600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need python3 losetup flock sha256sum ldd
isolate cycles

CYCLES=60 WORKERS=8 KILL_EVERY=20 IMAGES=10 SERVED=7
[ -z "$LM_ALL" ] || CYCLES=1000

# Every image has the programs, one of three layers above them, and its own.
make_images() {
	local d=$WORK/tmp/make i n
	programs_tree "$d/base" sh sha256sum cat sync
	for ((i = 0; i < 3; i++)); do
		mkdir -p "$d/middle-$i/data"
		for n in 1 2 3 4 5; do head -c $((n * 7000)) /dev/urandom >"$d/middle-$i/data/middle-$n"; done
	done
	for ((i = 0; i < IMAGES; i++)); do
		mkdir -p "$d/own-$i/data"
		head -c 300000 /dev/urandom >"$d/own-$i/data/large"
		echo "image $i" >"$d/own-$i/data/name"
		cp "$d/middle-$((i % 3))"/data/* "$d/own-$i/data/" # for the sums, and gone again
		(cd "$d/own-$i/data" && sha256sum -- * >../sums)
		rm "$d/own-$i"/data/middle-*
	done
	for i in base middle-{0..2} $(seq -f 'own-%g' 0 $((IMAGES - 1))); do tar -C "$d/$i" --owner=0 --group=0 -cf "$d/$i.tar" .; done
	for ((i = 0; i < IMAGES; i++)); do
		cp "$d/base.tar" "$d/middle-$((i % 3)).tar" "$WORK/tmp/"
		LAYER_GZIP=1 make_layers "$WORK/oci-$i" "$WORK/tmp/base.tar" "$WORK/tmp/middle-$((i % 3)).tar" "$d/own-$i.tar" --
		push "$WORK/oci-$i:latest" "image-$i:latest"
		[ $i -ge $SERVED ] || convert "oci:$WORK/oci-$i"
	done
	rm -r "$d"
}

# Each has two ways to the same: all files are what they should be, and what is written is there.
COMMAND=(sh -c 'cd /data && sha256sum -c --quiet ../sums && echo own >/own && sync /own && cat /own')
CTR=(ctr -a "$(containerd_socket lamella)" -n other)
by_cri() { # REF
	[ "$(pod lamella run "$1" "${COMMAND[@]}")" = own ] && cri lamella rmi "$1"
}
by_ctr() { # REF
	local id=c-$BASHPID-$RANDOM result=1
	"${CTR[@]}" images pull --plain-http --snapshotter lamella "$1" >/dev/null || return
	[ "$("${CTR[@]}" run --rm --cgroup "/lamella-${WORK##*/}/$id" --snapshotter lamella "$1" "$id" "${COMMAND[@]}")" = own ] && result=0
	# What a failed one leaves, its client takes away.
	if [ $result != 0 ]; then
		"${CTR[@]}" tasks rm -f "$id" || true
		"${CTR[@]}" containers rm "$id" || true
		"${CTR[@]}" snapshots --snapshotter lamella rm "$id" || true
	fi >/dev/null 2>&1
	"${CTR[@]}" images rm "$1" >/dev/null && [ $result = 0 ]
}

# A call may fail if it was under way at a kill, or began before containerd had connected again: 3 s at most.
GRACE_MS=3500
note_kill() { # TIME
	echo "$1" >"$WORK/tmp/killed.new"
	mv "$WORK/tmp/killed.new" "$WORK/tmp/killed"
}
at_kill() { # BEGAN: of the call that has failed now
	[ "$1" -lt $(($(cat "$WORK/tmp/killed") + GRACE_MS)) ]
}
# And containerd 1.6 may collect a layer between the look whether it is there and the use as a parent, if the last other image
# with it is removed at that moment; with its own overlayfs, too. It calls the parent by the name that it has in containerd.
collected_away() { grep -qE 'parent snapshot sha256:[0-9a-f]{64} does not exist: not found' "$1"; } # OUTPUT
next() { # the number of the next cycle, for one worker
	# shellcheck disable=SC2016 # expanded in there
	flock "$WORK/tmp/next" sh -c 'n=$(cat "$1"); echo $((n + 1)) >"$1"; echo "$n"' sh "$WORK/tmp/next"
}
attempt() { # NUMBER
	local ref=$REGISTRY/image-$(($1 % IMAGES)):latest way=by_cri
	[ $(($1 % 4)) != 3 ] || way=by_ctr
	( # nobody else has the image meanwhile
		flock 9
		$way "$ref"
	) 9>"$WORK/tmp/image-$(($1 % IMAGES)).$way"
}
worker() {
	local n began tries out
	while n=$(next) && [ "$n" -lt $CYCLES ]; do
		out=$WORK/tmp/out-$n
		for ((tries = 1; ; tries++)); do
			began=$(now_ms)
			! attempt "$n" >"$out" 2>&1 || break
			if [ $tries -lt 5 ] && at_kill "$began"; then
				[ $tries != 1 ] || echo "$n: $(tail -n 1 "$out")" >>"$WORK/tmp/failed"
			elif [ $tries -lt 5 ] && collected_away "$out"; then
				echo "$n" >>"$WORK/tmp/collected"
			else
				echo "cycle $n, try $tries: $(cat "$out")" >>"$WORK/tmp/trouble"
				return 1
			fi
			sleep 1.5
		done
		rm "$out"
		echo "$n" >>"$WORK/tmp/done"
	done
}
lines() { wc -l <"$WORK/tmp/$1"; }
working() { [ ! -s "$WORK/tmp/trouble" ] && [ "$(lines "done")" -lt "$1" ]; }

registry_start
push_pause
repo_init
make_images
serve_start
fetcher_start
note_loops
snapshotter_start
containerd_start lamella
mounts_before=$(wc -l </proc/self/mountinfo)

echo 0 | tee "$WORK/tmp/next" "$WORK/tmp/killed" >/dev/null
: >"$WORK/tmp/done"
: >"$WORK/tmp/failed"
: >"$WORK/tmp/collected"
: >"$WORK/tmp/trouble"
began=$(now_ms)
workers=()
for ((i = 0; i < WORKERS; i++)); do
	worker &
	workers+=($!)
done
kills=0
for ((next_kill = KILL_EVERY / 2; next_kill < CYCLES; next_kill += KILL_EVERY)); do
	while working $next_kill; do sleep 0.05; done
	[ ! -s "$WORK/tmp/trouble" ] || break
	note_kill $(($(now_ms) + 60000)) # as long as it is away
	stop snapshotter KILL
	snapshotter_start
	note_kill "$(now_ms)"
	kills=$((kills + 1))
done
wait "${workers[@]}" || true
[ ! -s "$WORK/tmp/trouble" ] || fail "$(head -c 2000 "$WORK/tmp/trouble")"
[ "$(lines "done")" = $CYCLES ] || fail "$(lines "done") of $CYCLES cycles"
say "$CYCLES cycles in $((($(now_ms) - began) / 1000)) s, $kills kills, $(lines failed) failed at one and were tried again"
[ ! -s "$WORK/tmp/collected" ] || say "containerd collected a layer under a pull $(lines collected) times"
[ "$(lines failed)" -le $((kills * WORKERS)) ] || fail "more failed than were under way: $(head -n 20 "$WORK/tmp/failed")"
grep -q 'layer served lazily' "$WORK/log/snapshotter.log" || fail "nothing was served"

say "nothing is left"
cri lamella clear # the sandboxes of calls that failed
expect_nothing_left
[ "$(wc -l </proc/self/mountinfo)" = "$mounts_before" ] || fail "mounts: $(cut -d' ' -f5 /proc/self/mountinfo | sort | uniq -d)"
[ -z "$("${CTR[@]}" snapshots --snapshotter lamella ls | sed 1d)" ] || fail "in the other namespace: $("${CTR[@]}" snapshots --snapshotter lamella ls)"
! grep -E 'the store was damaged|are kept that nothing names' "$WORK/log/snapshotter.log" || fail "a kill damaged the store"
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
say passed
