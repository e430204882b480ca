#!/usr/bin/env bash
# Repositories that stock tools wrote, mounted by `lamella mount` and lamella-fetcher: every file as the stock client shows
# it; damaged, missing and forged things refused, in bounded time; offline, interrupted, updated, killed.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/fixtures.bash
. "$(dirname "$0")/fixtures.bash"
fixtures_open fixtures

dead_or() { timeout 5 stat "$1" >/dev/null 2>&1; }

say "every repository as the stock client shows it"
serve_start
for name in $R {rmd160,shake128,plain,options,unpacked}.$R; do
	mount_repository "$name"
	listing_is "$(last_listing "$name")" "$name"
	unmount
	forget_cache
done

say "variables in link targets"
FIXTURE_ARCH=x86_64 mount_repository $R
list >"$WORK/list"
grep '^l' "$WORK/list" | diff "$FIXTURES/expected/$R.rev3.symlinks-FIXTURE_ARCH=x86_64" - || fail "link targets"
# While it is mounted: attributes of trusted.* are root's, names are limited, nothing can be written.
as_user() { # the leak sanitizer can't look at a process that has changed its user
	ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}
getfattr -m- "$MNT/xattr/trusted" 2>&1 | has -x trusted.fixture || fail "root does not see trusted attributes"
as_user getfattr -m- "$MNT/xattr/user" 2>&1 | has -x user.one || fail "others do not see user attributes"
! as_user getfattr -m- "$MNT/xattr/trusted" 2>&1 | grep -x trusted.fixture || fail "others see trusted attributes"
[ "$(stat -f -c %l "$MNT")" = 255 ] || fail "statfs: names of $(stat -f -c %l "$MNT") bytes"
[ "$(findmnt -no SOURCE,FSTYPE "$MNT" | tr -s ' ')" = "cvmfs2 fuse.lamella" ] || fail "$(findmnt "$MNT")"
! touch "$MNT/new" 2>"$WORK/err" || fail "a file was made"
grep -q "Read-only" "$WORK/err" || fail "not read-only: $(cat "$WORK/err")"
unmount

say "without a server, from the cache"
stop serve
mount_repository $R
listing_is "$(last_listing $R)" "offline"
grep -q "offline.*$R" "$WORK/cache/mount.log" || fail "the log does not say that it is offline"
unmount

# --- refused ----------------------------------------------------------------------------------------------------------

refused() { # WHAT WORDS [OPTION...]
	local what=$1 words=$2
	shift 2
	forget_cache
	not_mounted $R "$what" "$words" "$@"
	restore $R
}

say "refused at the mount"
refused "no server" "Couldn't connect"
serve_start
alternate .cvmfspublished published.bad-signature
refused "manifest with a wrong signature" "manifest.*signature"
alternate .cvmfspublished published.truncated
refused "manifest cut short" "manifest"
alternate .cvmfspublished published.other-name
refused "manifest of another repository" "other.cern.ch"
alternate .cvmfswhitelist whitelist.expired
refused "expired whitelist" "whitelist.*expired"
alternate .cvmfswhitelist whitelist.bad-signature
refused "whitelist with a wrong signature" "whitelist.*signature"
alternate .cvmfswhitelist whitelist.other-fingerprint
refused "certificate not on the whitelist" "certificate"
refused "wrong master key" "whitelist.*signature" --key "$FIXTURES/alternates/other.pub"
rm "$WORK/storage/cvmfs/$R/.cvmfspublished"
refused "no such repository" "404|cvmfspublished"
root=$(sed -n 's/^C\(..\)\(.*\)/data\/\1\/\2C/p;/^--/q' "$WORK/good/$R/.cvmfspublished")
printf x | dd of="$WORK/storage/cvmfs/$R/$root" bs=1 seek=100 conv=notrunc status=none
refused "damaged root catalog" "root catalog.*wrong bytes"
code=0
"$LAMELLA" mount "$R" 2>"$WORK/err" || code=$?
[ $code = 2 ] || fail "wrong usage ended with code $code"

# --- damaged and missing objects --------------------------------------------------------------------------------------

# What is spoiled can't be read, says so, and everything else is right. Objects of files have no letter or a P.
spoiled() { # WHAT OBJECT WORDS
	local begin lost
	forget_cache
	mount_repository $R
	begin=$(now_ms)
	! list >"$WORK/list" || fail "$1: all could be read"
	# Lines that differ from the stock client's: only files, only with their content missing.
	diff "$(last_listing $R)" "$WORK/list" | grep '^[<>]' >"$WORK/diff" || true
	lost=$(grep -c '^> f.* error ' "$WORK/diff") || fail "$1: $(head -n 5 "$WORK/diff")"
	[ "$(grep -c '^>' "$WORK/diff") $(grep -c '^<' "$WORK/diff")" = "$lost $lost" ] || fail "$1: $(head -n 5 "$WORK/diff")"
	grep "$R" "$WORK/cache/mount.log" | grep "object=$2" | has -E "path=/.*$3" ||
		fail "$1: no line with repository, object, path and $3 in the log"
	grep -q 'Input/output error' "$WORK/listing.err" || fail "$1: $(cat "$WORK/listing.err")"
	unmount
	restore $R
	say "  $1: $lost of $(wc -l <"$WORK/list") lost, after $(($(now_ms) - begin)) ms"
}
flip() { # FILE
	python3 -c 'import sys; d = bytearray(open(sys.argv[1], "rb").read()); d[len(d) // 2] ^= 1; open(sys.argv[1], "wb").write(d)' "$1"
}
objects() { (cd "$WORK/storage/cvmfs/$R" && find data -type f -name "$1" -size +1 | sort); } # PATTERN

say "spoiled objects"
mount_repository $R
list >/dev/null
(cd "$WORK/cache/lamella/cache" && find . -type f ! -name '*C') | sed 's,^\./,data/,' | sort >"$WORK/used" # by revision 3
unmount
pick() { comm -12 <(objects "$1") "$WORK/used" | sed -n 1p; } # PATTERN
file=$(pick '*[0-9a-f]') chunk=$(pick '*P')
[ -n "$file" ] || fail "no object of a file to spoil"
[ -n "$chunk" ] || fail "no chunk to spoil"
flip "$WORK/storage/cvmfs/$R/$file"
spoiled "a wrong byte in a file's object" "$file" "wrong bytes"
flip "$WORK/storage/cvmfs/$R/$chunk"
spoiled "a wrong byte in a chunk" "$chunk" "wrong bytes"
rm "$WORK/storage/cvmfs/$R/$chunk"
spoiled "a missing chunk" "$chunk" "404"
truncate -s -1 "$WORK/storage/cvmfs/$R/$file"
spoiled "a file's object cut short" "$file" "wrong bytes"

# A nested catalog: its directory can't be listed, all else is right, and it heals when the catalog is there again.
forget_cache
mount_repository $R
nested=$(cd "$WORK/storage/cvmfs/$R" && find data -name '*C' | grep -v "$root" | sort)
for f in $nested; do mv "$WORK/storage/cvmfs/$R/$f" "$WORK/storage/cvmfs/$R/$f.away"; done
! timeout $PATIENCE_S ls "$MNT/nested" >"$WORK/out" 2>&1 || fail "listed without its catalog: $(cat "$WORK/out")"
grep -q "Input/output" "$WORK/out" || fail "without its catalog: $(cat "$WORK/out")"
timeout $PATIENCE_S cat "$MNT/files/hello.txt" >/dev/null || fail "a lost nested catalog spoils other files"
for f in $nested; do mv "$WORK/storage/cvmfs/$R/$f.away" "$WORK/storage/cvmfs/$R/$f"; done
list >"$WORK/list" || fail "a catalog that came back: $(cat "$WORK/listing.err")"
diff "$(last_listing $R)" "$WORK/list" >/dev/null || fail "a catalog that came back"
unmount

# --- a server that goes away or says nothing --------------------------------------------------------------------------

say "a server that goes away"
forget_cache
mount_repository $R
timeout $PATIENCE_S cat "$MNT/files/hello.txt" >"$WORK/hello"
stop serve KILL
begin=$(now_ms)
! timeout $PATIENCE_S cat "$MNT/chunked/large.bin" >/dev/null 2>"$WORK/err" || fail "read what nobody serves"
grep -q "Input/output" "$WORK/err" || fail "$(cat "$WORK/err")"
say "  EIO after $(($(now_ms) - begin)) ms"
timeout $PATIENCE_S cat "$MNT/files/hello.txt" | cmp - "$WORK/hello" || fail "what is cached can't be read"
unmount

say "a server that says nothing"
forget_cache
start_listening serve "$WEB" python3 "$LM_ROOT/tests/e2e/liar.py" "$WEB" "$WORK/storage" stall '/data/.*[0-9a-fP]$'
mount_repository $R
cat "$MNT/chunked/large.bin" >/dev/null 2>&1 &
reader=$!
sleep 0.5
timeout 5 ls -l "$MNT/files" >/dev/null || fail "a stalled download holds up others"
begin=$(now_ms)
kill -KILL $reader
wait $reader 2>/dev/null || true
[ $(($(now_ms) - begin)) -lt 1500 ] || fail "a reader could not be killed for $(($(now_ms) - begin)) ms"
begin=$(now_ms)
! timeout $PATIENCE_S cat "$MNT/chunked/large.bin" >/dev/null 2>"$WORK/err" || fail "read what was not sent"
grep -q "Input/output" "$WORK/err" || fail "not in $PATIENCE_S s: $(cat "$WORK/err")"
say "  EIO after $(($(now_ms) - begin)) ms; a waiting reader dies at once"
for _ in 1 2 3 4 5 6 7 8; do cat "$MNT/chunked/n65537" >/dev/null 2>&1 & done # waiting readers, at the end
sleep 0.3
begin=$(now_ms)
pkill -TERM -x lamella-fetcher # in here it is the only one
wait_for 10 "the end of a daemon with waiting readers" no_daemon
keep_log
! mountpoint -q "$MNT" || fail "the mount is still there"
say "  ended with waiting readers in $(($(now_ms) - begin)) ms"
stop serve KILL
wait

# --- life of a daemon -------------------------------------------------------------------------------------------------

say "a full disk"
forget_cache
mkdir "$WORK/cache"
mount -t tmpfs -o size=8m tmpfs "$WORK/cache"
serve_start
mount_repository $R
find "$MNT" >/dev/null # catalogs need their room
dd if=/dev/zero of="$WORK/cache/filler" bs=64k 2>/dev/null || true
list >"$WORK/list" || fail "full disk: $(cat "$WORK/listing.err")"
diff "$(last_listing $R)" "$WORK/list" >"$WORK/diff" || fail "full disk: $(head -n 20 "$WORK/diff")"
rm "$WORK/cache/filler"
timeout $PATIENCE_S cat "$MNT/files/hello.txt" | cmp - "$WORK/hello" || fail "after a full disk"
unmount
umount "$WORK/cache"
stop serve

say "a new revision"
forget_cache
serve_start
publish $R rev2
start_socket fetcher "$FETCHER_SOCKET" "$LM_BUILD/fetcher/lamella-fetcher" --config /dev/null "${SETTINGS[@]}" \
	--set CVMFS_REPOSITORIES="$R,unpacked.$R" --set CVMFS_SERVER_URL="$URL" --set CVMFS_HTTP_PROXY=DIRECT \
	--set CVMFS_KEYS_DIR="$FIXTURES/keys" --set CVMFS_CACHE_BASE="$WORK/cache" --set LAMELLA_MOUNT_BASE="$WORK/base" \
	--set LAMELLA_SOCKET="$FETCHER_SOCKET"
M=$WORK/base/$R
diff "$FIXTURES/expected/$R.rev2.manifest" <("$LISTING" "$M") >/dev/null || fail "revision 2"
exec 9<"$M/files/hello.txt"
! stat "$M/files/new-in-3" 2>/dev/null || fail "revision 3 is there before its time"
inode=$(stat -c %i "$M/nested/a/f")
restore $R
"$CONTROL" "$FETCHER_SOCKET" update $R >"$WORK/out"
grep -q "^$R $M 3 online" "$WORK/out" || fail "update: $(cat "$WORK/out")"
wait_for 5 "the file of revision 3" test -e "$M/files/new-in-3" # the kernel had been told that it is not there
diff "$FIXTURES/expected/$R.rev3.manifest" <("$LISTING" "$M") >"$WORK/diff" || fail "revision 3: $(head "$WORK/diff")"
[ "$(stat -c %i "$M/nested/a/f")" = "$inode" ] || fail "a file in an unchanged catalog got another inode"
[ "$(stat -L -c %u /dev/fd/9)" = 0 ] || fail "an open file changed"
[ "$(stat -c %u "$M/files/hello.txt")" = 1000 ] || fail "a file did not change"
cat <&9 | cmp - "$WORK/hello" || fail "an open file of the old revision"
exec 9<&-

say "the control service"
layer=$(cd "$WORK/base/unpacked.$R/.layers" && echo ??/* | tr ' ' '\n' | sed -n 1p)
digest=${layer#*/}
"$CONTROL" "$FETCHER_SOCKET" resolve "sha256:$digest" "sha256:$(printf '0%.0s' {1..64})" >"$WORK/out"
grep -q "^sha256:$digest LAYER_LOSSY $WORK/base/unpacked.$R/.lamella-layers/$layer/layerfs ." "$WORK/out" || fail "resolve: $(cat "$WORK/out")"
grep -q "^sha256:0000.* LAYER_ABSENT - ." "$WORK/out" || fail "resolve: $(cat "$WORK/out")"
[ -d "$(awk '/LOSSY/ { print $3 }' "$WORK/out")" ] || fail "resolve: not a directory"
! "$CONTROL" "$FETCHER_SOCKET" resolve "sha256:../../etc" 2>"$WORK/err" || fail "resolve: no digest"
! "$CONTROL" "$FETCHER_SOCKET" update other.example.org 2>"$WORK/err" || fail "update of what is not configured"
"$CONTROL" "$FETCHER_SOCKET" status >"$WORK/out"
[ "$(grep -c ' online ' "$WORK/out")" = 2 ] || fail "status: $(cat "$WORK/out")"
stop serve KILL
"$CONTROL" "$FETCHER_SOCKET" update >"$WORK/out"
[ "$(grep -c ' offline ' "$WORK/out")" = 2 ] || fail "status: $(cat "$WORK/out")"
"$CONTROL" "$FETCHER_SOCKET" resolve "sha256:$(printf '0%.0s' {1..64})" | has "LAYER_UNAVAILABLE - .*$R" ||
	fail "offline, an unknown layer is not known to be absent"
serve_start

say "the end of a daemon"
(cd "$M" && exec sleep 100) &
user=$!
wait_for 5 "a user of the mount" test "/proc/$user/cwd" -ef "$M"
begin=$(now_ms)
stop fetcher
[ $(($(now_ms) - begin)) -lt 5000 ] || fail "took $(($(now_ms) - begin)) ms"
! mountpoint -q "$M" || fail "the mount is still there"
[ ! -e "$FETCHER_SOCKET" ] || fail "the socket is still there"
kill $user
wait $user 2>/dev/null || true

mount_repository $R
pkill -KILL -x lamella-fetcher
wait_for 5 "the end of a killed daemon" no_daemon
! dead_or "$MNT" || fail "the mount of a killed daemon answers"
mount_repository $R
grep -q "process that died" "$WORK/cache/mount.log" || fail "a dead mount was taken away without a word"
list >"$WORK/list"
diff "$(last_listing $R)" "$WORK/list" >/dev/null || fail "after a kill"
! timeout $PATIENCE_S "$LAMELLA" mount $R "$MNT" --url "$URL" --key "$FIXTURES/keys/$R.pub" --cache "$WORK/cache2" 2>"$WORK/err" ||
	fail "mounted twice"
grep -q "mounted there already" "$WORK/err" || fail "$(cat "$WORK/err")"

say "one cache, two daemons"
# Both fetch the same, at the same time, into a cache that has nothing.
find "$WORK/cache/lamella" -type f -path '*/cache/[0-9a-f][0-9a-f]/*' -delete
timeout $PATIENCE_S "$LAMELLA" mount $R "$WORK/mnt2" --url "$URL" --key "$FIXTURES/keys/$R.pub" --cache "$WORK/cache" 2>"$WORK/err" ||
	fail "one cache, two daemons: $(cat "$WORK/err")"
"$LISTING" "$WORK/mnt2" >"$WORK/list2" 2>"$WORK/err" &
other=$!
listing_is "$(last_listing $R)" "the first of two"
wait $other || fail "the second of two: $(cat "$WORK/err")"
diff "$WORK/list" "$WORK/list2" >/dev/null || fail "the second of two sees something else"
timeout $PATIENCE_S umount "$WORK/mnt2"
unmount
# What they left is whole: it is all that there is.
stop serve
mount_repository $R
listing_is "$(last_listing $R)" "what two daemons left"
unmount
serve_start

say "without root"
mknod -m 666 "$WORK/tmp/fuse" c 10 229
mount --bind "$WORK/tmp/fuse" /dev/fuse # in here only: distributions let users have it
install -d -o 65534 -g 65534 "$WORK/user" "$WORK/user/mnt"
install -m 644 "$FIXTURES/keys/$R.pub" "$WORK/user/key.pub"
if as_user test -x "$LAMELLA" && as_user sh -c ': <>/dev/fuse'; then
	as_user timeout $PATIENCE_S "$LAMELLA" mount $R "$WORK/user/mnt" --url "$URL" --key "$WORK/user/key.pub" \
		--cache "$WORK/user/cache" 2>"$WORK/err" || fail "as a user: $(cat "$WORK/err")"
	as_user cat "$WORK/user/mnt/files/hello.txt" | cmp - "$WORK/hello" || fail "as a user: content"
	as_user fusermount3 -u "$WORK/user/mnt"
	wait_for $PATIENCE_S "the end of a user's daemon" no_daemon
	as_user timeout $PATIENCE_S "$LAMELLA" mount $R "$WORK/user/mnt" --url "$URL" --key "$WORK/user/key.pub" \
		--cache "$WORK/user/cache" 2>"$WORK/err" || fail "as a user, again: $(cat "$WORK/err")"
	as_user sh -c "exec 3<'$WORK/user/mnt/files/hello.txt'; exec sleep 100" &
	sleep 0.3
	pkill -TERM -x lamella-fetcher
	wait_for 10 "the end of a user's daemon whose mount is in use" no_daemon
	! mountpoint -q "$WORK/user/mnt" || fail "as a user: still mounted"
	kill $!
else
	say "  left out: a user can't reach the programs or /dev/fuse here"
fi
check_reports
say "passed"
