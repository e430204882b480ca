#!/usr/bin/env bash
# What the daemon needs when nothing is asked of it, and after everything was: a whole image listed and read, again and
# again, from its cache and with nothing cached. It stays small, does not grow, and sleeps when there is nothing to do.
# runs by itself: idle processes are watched
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need jq tar
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
IMAGES=(edge)
if [ -n "$LM_ALL" ]; then
	for image in analysis atlas; do [ ! -e "$LM_IMAGES/oci-$image/index.json" ] || IMAGES+=("$image"); done
fi
need_image "${IMAGES[@]}"
isolate memory

RSS_MAX_KIB=$((40 << 10)) # of all its processes together
GROWTH_MAX_KIB=2048
ROUNDS=5
[ -z "$LM_ALL" ] || ROUNDS=20
IDLE_S=4
WAKEUPS_PER_S=4
IDLE_US_PER_S=500 # a two-thousandth of a core
[ -z "${LM_SANITIZED:-}" ] || ROUNDS=3 # for leaks; sizes mean nothing there

workers() { pgrep -x lamella-fetcher; }
# What each has for itself, and once what they share, with each other or with any program: libraries count in full, however many
# others run with them meanwhile, so that figures of different times can be compared.
resident_kib() {
	for p in $(workers); do cat "/proc/$p/smaps_rollup"; done | awk '
		/^Rss:/ { shared = 0 }
		/^Shared_/ { shared += $2; if (shared > most) most = shared }
		/^Private_/ { own += $2 }
		END { print own + most }'
}
# Wake-ups: each ends with the thread going back to sleep. That others wanted the processor meanwhile is not its doing.
work_done() { for p in $(workers); do cat /proc/"$p"/task/*/status; done | awk '/^voluntary_ctxt_switches/ { sum += $2 } END { print sum }'; }

read_everything() {
	ls -lR "$MOUNT_BASE/$FQRN/.layers" >"$WORK/tmp/list"
	find "$MOUNT_BASE/$FQRN/.layers" -type f -print0 | xargs -0 -n 200 -P 4 cat >/dev/null
}
# Microseconds of processor time.
worked_us() { for p in $(workers); do cat /proc/"$p"/task/*/schedstat; done | awk '{ sum += $1 } END { printf "%d\n", sum / 1000 }'; }
# Nothing is done while nothing is asked. gRPC looks at its timers now and then, whatever one does, which takes no time.
idle() { # WHAT
	local us wakeups
	us=$(worked_us) wakeups=$(work_done)
	sleep $IDLE_S
	us=$(($(worked_us) - us)) wakeups=$(($(work_done) - wakeups))
	[ $us -le $((IDLE_US_PER_S * IDLE_S)) ] || fail "$1: worked $us us within $IDLE_S s"
	[ $wakeups -le $((WAKEUPS_PER_S * IDLE_S)) ] || fail "$1: woke up $wakeups times in $IDLE_S s"
	say "  $1: idle, $wakeups wake-ups and $us us of work in $IDLE_S s, $(resident_kib) KiB"
}
small() { # WHAT
	local kib
	kib=$(resident_kib)
	[ -n "${LM_SANITIZED:-}" ] || [ "$kib" -le $RSS_MAX_KIB ] || fail "$1: $kib KiB"
	say "  $1: $kib KiB"
}
settled() { # nothing is read ahead any more, and what was left free is given back: 2.5 s without work
	local before
	before=$(work_done)
	sleep 2.5
	[ $(($(work_done) - before)) -le $((3 * WAKEUPS_PER_S)) ]
}
settle() { wait_for 20 "rest" settled; }

repo_init
serve_start
for image in "${IMAGES[@]}"; do
	say "$image"
	convert "oci:$LM_IMAGES/oci-$image"
	fetcher_start CVMFS_QUOTA_LIMIT=20000
	settle
	idle "nothing read yet"
	read_everything
	settle
	small "all listed and read, $(grep -c . "$WORK/tmp/list") lines, for the first time"
	idle "all read"
	sizes=()
	for ((round = 1; round <= ROUNDS; round++)); do
		# Every other time with nothing but catalogs in its cache.
		[ $((round % 2)) = 0 ] || find "$WORK/cache/lamella/cache" -type f ! -name '*C' -delete
		forget_mount
		read_everything
		settle
		sizes+=("$(resident_kib)")
	done
	small "$ROUNDS times more"
	[ -n "${LM_SANITIZED:-}" ] || [ "${sizes[-1]}" -le $((sizes[1] + GROWTH_MAX_KIB)) ] || fail "$image: grew: ${sizes[*]} KiB"
	say "  after each: ${sizes[*]} KiB"
	stop fetcher
done
check_reports
