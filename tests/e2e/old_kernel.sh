#!/usr/bin/env bash
# Under a kernel that knows nothing of FUSE_NOTIFY_RESEND (before 6.9): what is mounted is read, and is the lower layer of an
# overlay that is written to and run from; the worker is killed under readers that compare, cold and warm, and goes on by its
# journal. LM_KERNEL_RUNNER names a program that runs a command under another kernel, in a virtual machine that sees this
# machine's files and has room in $TMPDIR:  LM_KERNEL_RUNNER -m MEMORY -t SECONDS VERSION -- COMMAND...
# time limit: 1800 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
KERNEL=6.1
KILLS=12

if [ "${1:-}" != inside ]; then
	[ -n "$LM_ALL" ] || skip "takes long: LM_ALL=1"
	need_root
	[ -n "${LM_KERNEL_RUNNER:-}" ] || skip "LM_KERNEL_RUNNER is not set"
	need "$LM_KERNEL_RUNNER"
	need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
	cd "$LM_ROOT" || exit
	code=0
	# shellcheck disable=SC2016 # TMPDIR is set in there
	"$LM_KERNEL_RUNNER" -m 2G -t 1700 $KERNEL -- \
		sh -c 'LM_BUILD=$1 LM_TMP=$TMPDIR/work exec bash tests/e2e/old_kernel.sh inside' sh "$LM_BUILD" || code=$?
	exit $code
fi
isolate old_kernel inside

say "Linux $(uname -r)"
[[ $(uname -r) == $KERNEL* ]] || fail "another kernel: $(uname -r)"
RANDOM=${SEED:-1}
worker() { pgrep -P "$(pid_of fetcher)" 2>/dev/null | tail -n 1; }
new_worker() { local w; w=$(worker) && [ -n "$w" ] && [ "$w" != "$1" ]; } # OLD
reads_all() { (cd "$1" && sha256sum -c --quiet "$WORK/expected") || fail "$2"; } # DIR WHAT

repo_of_files 4 30 2
serve_start

say "mounted, read, listed"
fetcher_start
find_files
reads_all "$DIR" "cold"
forget_mount
reads_all "$DIR" "warm"
[ "$(find "$DIR" -type f | wc -l)" = "$(wc -l <"$WORK/expected")" ] || fail "other files"

say "below an overlay"
mkdir "$WORK"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$DIR,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/root"
reads_all "$WORK/root" "through the overlay"
echo more >>"$WORK/root/0/0"
rm "$WORK/root/0/3"
mv "$WORK/root/1/0" "$WORK/root/1/renamed"
cp /bin/true "$WORK/root/2/true"
"$WORK/root/2/true" || fail "a program can't be run"
[ "$(tail -n 1 "$WORK/root/0/0" | tail -c 5)" = more ] || fail "copied up, but not as it was written"
[ ! -e "$WORK/root/0/3" ] || fail "removed, and still there"
[ -e "$DIR/0/3" ] || fail "removed below"
cmp "$WORK/root/1/renamed" "$DIR/1/0"
reads_all "$DIR" "the lower layer afterwards"
umount "$WORK/root"
stop fetcher

reader() { # N: one round after another until it is told to end
	until [ -e "$WORK/enough" ]; do
		# shellcheck disable=SC2012 # what people type
		(cd "$DIR" && sha256sum -c --quiet "$WORK/expected" && ls -lR . | cmp - "$WORK/listing") >"$WORK/tmp/reader.$1" 2>&1 ||
			{ echo "reader $1" >>"$WORK/trouble" && return 1; }
		echo >>"$WORK/rounds"
	done
}
rounds() { wc -l <"$WORK/rounds"; }
rounds_beyond() { [ -e "$WORK/trouble" ] || [ "$(rounds)" -gt "$1" ]; }

: >"$WORK/rounds"
for state in cold warm; do
	[ $state = warm ] || rm -rf "$WORK/cache"
	: >"$WORK/log/fetcher.log"
	fetcher_start
	find_files
	(cd "$DIR" && ls -lR .) >"$WORK/listing"
	readers=()
	for n in 1 2 3 4; do
		reader $n &
		readers+=($!)
	done
	before=$(rounds)
	for ((i = 0; i < KILLS; i++)); do
		sleep "0.$((RANDOM % 900 + 100))"
		forget_mount
		w=$(worker)
		kill -KILL "$w"
		wait_for 120 "another worker" new_worker "$w"
	done
	wait_for 300 "readers to go on" rounds_beyond $(($(rounds) + 4))
	touch "$WORK/enough"
	wait "${readers[@]}" || true
	rm "$WORK/enough"
	[ ! -e "$WORK/trouble" ] || fail "$state: $(head -n 3 "$WORK/trouble" "$WORK"/tmp/reader.*)"
	[ "$(grep -c 'worker died' "$WORK/log/fetcher.log")" -ge $KILLS ] || fail "$state: the log knows of fewer deaths"
	say "$KILLS kills, $state: $(($(rounds) - before)) rounds of $(wc -l <"$WORK/expected") files and a listing, no error"
	stop fetcher
done
check_reports
