#!/usr/bin/env bash
# `lamella repo check` of every fixture repository, from a directory and by URL, each revision through its tags and its
# kept manifest; damage is named with its path, and the same on both ways.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need tar python3
need_built "$LAMELLA"
FIXTURES=$(realpath -m "$LM_ROOT/../shared/fixtures/cvmfs")
[ -e "$FIXTURES/README.md" ] || skip "no fixtures in $FIXTURES"
make_work check
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY
export TMPDIR=$WORK/tmp LAMELLA_CONFIG_DIR=$WORK/config
KEYS=$FIXTURES/keys
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	[ ! -e "$WORK/run/serve.pid" ] || kill "$(pid_of serve)" 2>/dev/null || true
	wait 2>/dev/null || true
	[ -n "$LM_KEEP" ] || rm -rf "$WORK"
}
trap clean_up EXIT

mkdir -p "$WORK/storage/cvmfs" "$TMPDIR"
for f in "$FIXTURES"/repos/*.tar.gz; do tar -C "$WORK/storage/cvmfs" -xzf "$f"; done
start serve "$LAMELLA" serve "$WORK/storage" --listen 127.0.0.1:0
wait_for 20 "lamella serve" grep -q '^listening on ' "$WORK/log/serve.log"
URL=$(sed -n 's/^listening on //p' "$WORK/log/serve.log")
places() { echo "$WORK/storage/cvmfs/$1 $URL/cvmfs/$1"; } # REPOSITORY

check() { "$LAMELLA" repo check "$@" >"$WORK/out" 2>"$WORK/err"; }
is_clean() { # PLACE OPTION...
	check "$@" || fail "check $*: exit code $?: $(cat "$WORK/out" "$WORK/err")"
	grep -q ': 0 problems, 0 warnings, ' "$WORK/out" || fail "check $*: $(cat "$WORK/out")"
	[ ! -s "$WORK/err" ] || fail "check $* said: $(cat "$WORK/err")"
}
finds() { # WHAT PLACE OPTION...
	local what=$1 code=0
	shift
	check "$@" || code=$?
	[ $code = 1 ] || fail "check $*: exit code $code: $(cat "$WORK/out" "$WORK/err")"
	grep -qF -- "$what" "$WORK/out" || fail "check $* did not find '$what': $(cat "$WORK/out" "$WORK/err")"
}

say "fixtures"
for dir in "$WORK"/storage/cvmfs/*; do
	for place in $(places "${dir##*/}"); do
		is_clean "$place" --keys "$KEYS" --objects --tags
		tail -n 1 "$WORK/out" >>"$WORK/said"
		check "$place" --keys "$KEYS" --json || fail "JSON of $place"
		python3 -m json.tool <"$WORK/out" >/dev/null || fail "$place: no valid JSON"
	done
	[ "$(sort -u "$WORK/said" | wc -l)" = 1 ] || fail "directory and URL differ: $(cat "$WORK/said")"
	rm "$WORK/said"
done

say "kept manifests"
kept=0
for manifest in "$FIXTURES/published/"*.cvmfspublished.rev*; do
	name=${manifest##*/}
	name=${name%.cvmfspublished.*}
	mkdir -p "$WORK/kept"
	cp -a "$WORK/storage/cvmfs/$name" "$WORK/kept/"
	cp "$manifest" "$WORK/kept/$name/.cvmfspublished"
	rm "$WORK/kept/$name/.cvmfsreflog" # it is that of a later revision
	is_clean "$WORK/kept/$name" --keys "$KEYS" --objects
	rm -rf "$WORK/kept"
	kept=$((kept + 1))
done
[ "$kept" -ge 8 ] || fail "only $kept manifests"

say "damage"
R=fixture.cern.ch
dir=$WORK/storage/cvmfs/$R
object=$(find "$dir/data" -type f -name '*P' | sort | sed -n 1p)
cp "$object" "$WORK/object"
printf 'x' | dd of="$object" bs=1 seek=30 conv=notrunc status=none
for place in $(places $R); do
	is_clean "$place" --keys "$KEYS"
	finds 'problem object-damaged: ' "$place" --keys "$KEYS" --objects --tags
	grep -q "${object#"$dir"/}" "$WORK/out" || fail "the object is not named: $(cat "$WORK/out")"
done
rm "$object"
for place in $(places $R); do
	finds 'problem object-missing: "/' "$place" --keys "$KEYS" --tags
	finds 'problem object-missing: "/' "$place" --keys "$KEYS" --tags --objects
done
cp "$WORK/object" "$object"
root=$(sed -n 's/^C//p' "$dir/.cvmfspublished" | sed -n 1p)
mv "$dir/data/${root:0:2}/${root:2}C" "$WORK/root"
for place in $(places $R); do finds 'problem catalog-missing: "/", data/' "$place" --keys "$KEYS"; done
mv "$WORK/root" "$dir/data/${root:0:2}/${root:2}C"
finds 'problem whitelist: ' "$dir" --key "$FIXTURES/alternates/other.pub"
for place in $(places $R); do is_clean "$place" --keys "$KEYS" --objects --tags; done

say "a server that is not there"
kill "$(pid_of serve)"
wait 2>/dev/null || true
code=0
check "$URL/cvmfs/$R" --keys "$KEYS" || code=$?
[ $code = 1 ] || fail "exit code $code without a server"
grep -q '^lamella: ' "$WORK/err" || fail "nothing was said: $(cat "$WORK/err")"
[ -z "$(ls -A "$TMPDIR")" ] || fail "left in TMPDIR: $(ls -A "$TMPDIR")"
say "ok"
