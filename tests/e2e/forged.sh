#!/usr/bin/env bash
# Repositories that are signed and all the same damaged or forged, and such as nobody makes any more, through the mounted
# client: what makes no sense is refused, alone, with a line in the log that names it; nothing hangs, nothing grows.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/fixtures.bash
. "$(dirname "$0")/fixtures.bash"
need sqlite3
fixtures_open forged
KEYS=$WORK/keys
REPO=$WORK/storage/cvmfs/$R
MEMORY_MAX_KIB=$((400 << 10)) # of the daemon; a sanitizer needs more
DISK_MAX_KIB=$((64 << 10))    # of the cache
! grep -q __asan_init "$LM_BUILD/fetcher/lamella-fetcher" || MEMORY_MAX_KIB=$((2 << 20))

forge() { "$FORGE" "$REPO" $R "$KEYS" "$@" || fail "forge"; }
logged() { grep -E "read failed .*path=\"?$1" "$WORK/cache/mount.log" | has -E "$2"; } # PATH WORDS
bounded() { # WHAT
	local memory disk
	memory=$(peak_kib lamella-fetcher) disk=$(du -sk "$WORK/cache" | cut -f1)
	[ "$memory" -lt $MEMORY_MAX_KIB ] || fail "$1: $memory KiB of memory"
	[ "$disk" -lt $DISK_MAX_KIB ] || fail "$1: $disk KiB of cache"
	say "  $1: at most $((memory >> 10)) MiB of memory, $((disk >> 10)) MiB of cache"
}
serve_start

# --- old and mixed ----------------------------------------------------------------------------------------------------

# What each revision of the schema lacks, from the newest to the oldest.
declare -A WITHOUT=(
	[6]="ALTER TABLE catalog DROP COLUMN mtimens"
	[5]="SELECT 1"
	[4]="DELETE FROM statistics WHERE counter LIKE '%special' OR counter LIKE '%chunk%' OR counter LIKE '%\_file\_size' ESCAPE '\\'"
	[3]="DROP TABLE bind_mountpoints"
	[2]="DELETE FROM statistics WHERE counter LIKE '%external%'"
	[1]="ALTER TABLE catalog DROP COLUMN xattr; DELETE FROM statistics WHERE counter LIKE '%xattr'"
	[0]="ALTER TABLE nested_catalogs DROP COLUMN size; DELETE FROM properties WHERE key = 'schema_revision'"
	[2.4]="UPDATE properties SET value = '2.4' WHERE key = 'schema'"
)
NESTED="/nested /nested/a /nested/a/b/c /nested/empty-one /nested/later /dirtab/x /dirtab/y /dirtab/z"

say "older revisions of the schema"
cp "$(expected $R rev3)" "$WORK/expected"
for revision in 6 5 4 3 2 1 0 2.4; do
	steps=()
	for m in '' $NESTED; do
		steps+=(sql "$m" "${WITHOUT[$revision]}; UPDATE properties SET value = '$revision' WHERE key = 'schema_revision'")
	done
	forge "${steps[@]}"
	case $revision in
	6) # whole seconds only
		sed -E 's/^(([^ ]+ ){5}-?[0-9]+)\.[0-9]+/\1.000000000/' "$WORK/expected" >"$WORK/e" && mv "$WORK/e" "$WORK/expected" ;;
	1) # no attributes
		awk '{ $12 = "-"; print }' "$WORK/expected" >"$WORK/e" && mv "$WORK/e" "$WORK/expected" ;;
	esac
	forget_cache
	mount_repository $R
	listing_is "$WORK/expected" "schema of revision $revision"
	unmount
done
restore $R

say "mixed hashes"
steps=(algo '' shake128)
for m in $NESTED; do steps+=(algo "$m" "$([[ $m == *a* ]] && echo rmd160 || echo sha1)"); done
forge "${steps[@]}"
[[ $(field "$REPO/.cvmfspublished" C) == *-shake128 ]] || fail "not a root by SHAKE128"
forget_cache
mount_repository $R
listing_is "$(expected $R rev3)" "a SHAKE128 root over SHA-1 and RIPEMD-160 catalogs"
unmount
restore $R

# --- damaged ----------------------------------------------------------------------------------------------------------

COLUMNS=md5path_1,md5path_2,parent_1,parent_2,hardlinks,hash,size,mode,mtime,mtimens,flags,name,symlink,uid,gid,xattr
# SQL that makes DIR/NAME in the root catalog, a copy of the row of another path.
copy_of() { # PATH DIR NAME
	echo "INSERT INTO catalog ($COLUMNS) SELECT path_1('$2/$3'), path_2('$2/$3'), path_1('$2'), path_2('$2'), hardlinks, hash, size,
		mode, mtime, mtimens, flags, '$3', symlink, uid, gid, xattr FROM catalog WHERE md5path_1 = path_1('$1') AND md5path_2 = path_2('$1');"
}
at() { echo "md5path_1 = path_1('$1') AND md5path_2 = path_2('$1')"; } # PATH
object() { # FILE: makes its bytes an object, of a file and of a chunk, and prints its hash
	local hash
	hash=$(sha1sum "$1" | cut -d' ' -f1)
	mkdir -p "$REPO/data/${hash:0:2}"
	cp "$1" "$REPO/data/${hash:0:2}/${hash:2}"
	cp "$1" "$REPO/data/${hash:0:2}/${hash:2}P"
	echo "$hash"
}
python3 - "$WORK/tmp" <<'END'
import sys, zlib
def bomb(path, mib):
    z, block = zlib.compressobj(9), bytes(1 << 20)
    with open(path, "wb") as f:
        for _ in range(mib):
            f.write(z.compress(block))
        f.write(z.flush())
bomb(sys.argv[1] + "/bomb", 2000)
for name, content in ("ten", b"ten bytes."), ("more", b"Ten bytes."):
    open(f"{sys.argv[1]}/{name}", "wb").write(zlib.compress(content))
END
say "a bomb of $(stat -c %s "$WORK/tmp/bomb") bytes holds 2000 MiB"
bomb=$(object "$WORK/tmp/bomb") ten=$(object "$WORK/tmp/ten") more=$(object "$WORK/tmp/more")

# Each forged entry is in a directory of its own, /bad/WHAT, beside one that is right. refused: what happens to it:
# absent (not listed, not found), hidden (not listed, EIO by name), unreadable (listed, EIO when read).
declare -A FORGED=( # WHAT -> NAME|REFUSED|WORDS OF THE LOG|SET CLAUSE
	[null-name]="f|hidden|name is no text|name = NULL"
	[blob-name]="f|hidden|name is no text|name = x'66'"
	[nul-name]="f|hidden|NUL byte|name = CAST(x'660067' AS TEXT)"
	[empty-name]="f|hidden|is no name|name = ''"
	[dot]="f|hidden|is no name|name = '.'"
	[dotdot]="f|hidden|is no name|name = '..'"
	[slash]="f|hidden|is no name|name = '../../etc/passwd'"
	[long-name]="f|hidden|name of 256 bytes|name = printf('%.*c', 256, 'n')"
	[other-name]="f|hidden|path hash is not that of|name = 'g'"
	[other-hash]="f|absent|path hash is not that of|md5path_1 = 4711"
	[size-negative]="f|hidden|size -1|size = -1"
	[size-text]="f|hidden|size is no number|size = 'many'"
	[mode-none]="f|hidden|do not fit|mode = 420"
	[mode-dir]="f|hidden|do not fit|mode = 16877"
	[hash-none]="f|hidden|without a content hash|hash = NULL"
	[hash-short]="f|hidden|hash of 19 bytes|hash = zeroblob(19)"
	[owner]="f|hidden|uid -1|uid = -1"
	[attributes]="f|hidden|attributes of 1000000 bytes|xattr = zeroblob(1000000)"
	[mountpoint-file]="f|hidden|mountpoint that is no directory|flags = 6"
	[link-null]="l|hidden|link target is no text|symlink = NULL"
	[link-long]="l|hidden|link target of 5000 bytes|symlink = printf('%.*c', 5000, 't')"
	[mountpoint]="d|hidden|no catalog is named|flags = 3"
	[size-less]="f|unreadable|more content|hash = x'$ten', size = 9"
	[size-more]="f|unreadable|10 bytes of content|hash = x'$more', size = 11"
	[bomb]="f|unreadable|more content|hash = x'$bomb', size = 4096"
	[external]="f|unreadable|external|flags = 132"
	[chunks-none]="c|unreadable|chunks|flags = 68"
)
steps=(sql '' "$(copy_of /files '' bad)")
for what in "${!FORGED[@]}"; do
	IFS='|' read -r name _ _ clause <<<"${FORGED[$what]}"
	case $name in
	f) from=/files/hello.txt ;;
	l) from=/links/variant ;;
	d) from=/files ;;
	c) from=/chunked/large.bin ;;
	esac
	d=/bad/$what
	steps+=(sql '' "$(copy_of /files /bad "$what")$(copy_of "$from" "$d" "$name")$(copy_of /files/hello.txt "$d" right)
		UPDATE catalog SET $clause WHERE $(at "$d/$name")")
done
chunks() { # WHAT SQL [WORDS]: a chunked file whose chunks were changed by SQL, in which @ is its path
	local p=/bad/$1/c
	FORGED[$1]="c|unreadable|${3:-chunk}|"
	steps+=(sql '' "$(copy_of /files /bad "$1")$(copy_of /chunked/large.bin "/bad/$1" c)$(copy_of /files/hello.txt "/bad/$1" right)
		INSERT INTO chunks SELECT path_1('$p'), path_2('$p'), offset, size, hash FROM chunks WHERE $(at /chunked/large.bin);
		${2//@/$(at "$p")}")
}
chunks chunks-overlap "UPDATE chunks SET size = size + 1 WHERE @ AND offset = 0"
chunks chunks-gap "DELETE FROM chunks WHERE @ AND offset = (SELECT max(offset) FROM chunks WHERE @ AND offset < 700000)"
chunks chunks-endless "UPDATE chunks SET size = 9223372036854775807 WHERE @ AND offset = 0"
chunks chunks-short "DELETE FROM chunks WHERE @ AND offset > 700000"
chunks chunks-bomb "UPDATE chunks SET hash = x'$bomb' WHERE @ AND offset = 0" "more content"
FORGED[rowid]="f|hidden|row id .* out of range|"
steps+=(sql '' "$(copy_of /files /bad rowid)$(copy_of /files/hello.txt /bad/rowid right)$(copy_of /files/hello.txt /bad/rowid f)")
# Rows that nothing is said against: huge counts, a link to nothing.
steps+=(sql '' "UPDATE statistics SET value = 9223372036854775807; $(copy_of /files /bad fine)$(copy_of /files/hello.txt /bad/fine right)
	UPDATE catalog SET hardlinks = 4294967295 WHERE $(at /bad/fine);
	UPDATE catalog SET rowid = 4611686018427387904 WHERE $(at /bad/rowid/f)") # last: new rows come after the highest

say "forged entries"
forge "${steps[@]}"
forget_cache
mount_repository $R
# All that was there before is as it was.
"$LISTING" "$MNT" >"$WORK/list" 2>"$WORK/listing.err" || true
grep -vE ' /bad(/|$)' "$WORK/list" >"$WORK/rest"
# The root has one directory more.
diff <(sed '1d' "$(expected $R rev3)") <(sed '1d' "$WORK/rest") >"$WORK/diff" || fail "the rest: $(head "$WORK/diff")"
for what in "${!FORGED[@]}"; do
	IFS='|' read -r name refused words _ <<<"${FORGED[$what]}"
	d=$MNT/bad/$what
	cmp -s "$d/right" "$MNT/files/hello.txt" || fail "$what: the entry beside it: $(ls "$d" 2>&1)"
	listed=right
	[ "$refused" != unreadable ] || listed="$name right"
	[ "$(names "$d")" = "$listed" ] || fail "$what: listed $(names "$d")"
	if cat "$d/$name" >/dev/null 2>"$WORK/err" || readlink "$d/$name" >/dev/null; then fail "$what: read"; fi
	case $refused in
	absent) grep -q 'No such file' "$WORK/err" ;;
	*) grep -qE 'Input/output|File name too long' "$WORK/err" ;;
	esac || fail "$what: $(cat "$WORK/err")"
	logged "/bad/$what" "$words" || fail "$what: no line with $words: $(grep "bad/$what" "$WORK/cache/mount.log")"
done
[ "$(stat -c %h "$MNT/bad/fine")" = 4294967295 ] || fail "a large link count: $(stat -c %h "$MNT/bad/fine")"
say "  ${#FORGED[@]} kinds refused, all else alike"
bounded "forged entries"
unmount
restore $R

say "forged catalogs"
fixture_hash() { # MOUNTPOINT: of revision 3
	python3 - "$WORK/good/$R" "$(field "$WORK/good/$R/.cvmfspublished" C)" "$1" "$WORK/tmp/nested.db" <<'END'
import sqlite3, sys, zlib
repo, root, mountpoint, tmp = sys.argv[1:]
open(tmp, "wb").write(zlib.decompress(open(f"{repo}/data/{root[:2]}/{root[2:]}C", "rb").read()))
print(sqlite3.connect(tmp).execute("SELECT sha1 FROM nested_catalogs WHERE path = ?", (mountpoint,)).fetchone()[0])
END
}
root=$(field "$REPO/.cvmfspublished" C)
head -c 20000 /dev/urandom >"$WORK/tmp/noise"
: >"$WORK/tmp/empty"
# A database whose header claims 2^32-1 pages, and one cut in half.
"$FORGE" "$REPO" $R "$KEYS" >/dev/null
good_db() { python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.decompress(open(sys.argv[1], "rb").read()))' "$(catalog_file "$1")"; }
catalog_file() { local h; h=$(fixture_hash "$1"); echo "$WORK/good/$R/data/${h:0:2}/${h:2}C"; }
good_db /nested >"$WORK/tmp/pages"
printf '\xff\xff\xff\xff' | dd of="$WORK/tmp/pages" bs=1 seek=28 conv=notrunc status=none
good_db /nested | head -c 9000 >"$WORK/tmp/half"
declare -A CATALOGS=( # WHAT -> WORDS|STEP|VALUE
	[wal]="rollback-journal|sql|PRAGMA journal_mode = WAL"
	[no-table]="no such table|sql|DROP TABLE chunks"
	[no-root]="no row for the root|sql|DELETE FROM catalog WHERE rowid = 1"
	[no-index]="no such index|sql|DROP INDEX idx_catalog_parent"
	[root-moved]="not a directory in row 1|sql|UPDATE catalog SET rowid = 1000 WHERE rowid = 1"
	[schema]="unknown schema|sql|UPDATE properties SET value = '3.0' WHERE key = 'schema'"
	[prefix]="made for '/etc'|sql|UPDATE properties SET value = '/etc' WHERE key = 'root_prefix'"
	[view]="neither table nor index|sql|CREATE VIEW v AS SELECT * FROM catalog"
	[trigger]="neither table nor index|sql|CREATE TRIGGER t AFTER INSERT ON catalog BEGIN DELETE FROM catalog; END"
	[half]="malformed|database|$WORK/tmp/half"
	[pages]="malformed|database|$WORK/tmp/pages"
	[noise]="not an SQLite database|database|$WORK/tmp/noise"
	[nothing]="database of 0 bytes|database|$WORK/tmp/empty"
	[not-zlib]="not a zlib stream|stored|$WORK/tmp/noise"
	[bomb]="more content than the 16777216 bytes|stored|$WORK/tmp/bomb"
)
steps=(sql '' "$(copy_of /files '' worse)")
for what in "${!CATALOGS[@]}"; do
	IFS='|' read -r _ step value <<<"${CATALOGS[$what]}"
	steps+=(nest "/worse/$what" inside "$step" "/worse/$what" "$value")
done
steps+=(nest /worse/circle inside sql /worse/circle "
	INSERT INTO nested_catalogs VALUES ('/worse/circle', '$root', 0), ('/worse', '$root', 0), ('', '$root', 0);
	UPDATE catalog SET (parent_1, parent_2) = (md5path_1, md5path_2) WHERE rowid = 2")
forge "${steps[@]}"
# Names of catalogs that are somewhere else: another's, the root's (a circle of places).
forge sql '' "$(copy_of /files /worse other)$(copy_of /files /worse root)
	UPDATE catalog SET flags = 3 WHERE $(at /worse/other) OR $(at /worse/root);
	INSERT INTO nested_catalogs VALUES ('/worse/other', '$(fixture_hash /nested)', 0), ('/worse/root', '$root', 0)"
CATALOGS[other]="made for '/nested'||"
CATALOGS[root]="made for ''||"
forget_cache
mount_repository $R --set LAMELLA_CATALOG_MAX=16
"$LISTING" "$MNT" >"$WORK/list" 2>"$WORK/listing.err" || true
grep -vE ' /worse(/|$)' "$WORK/list" | sed 1d | diff <(sed '1d' "$(expected $R rev3)") - >"$WORK/diff" || fail "the rest: $(head "$WORK/diff")"
for what in "${!CATALOGS[@]}"; do
	IFS='|' read -r words _ <<<"${CATALOGS[$what]}"
	! timeout $PATIENCE_S ls "$MNT/worse/$what" >"$WORK/out" 2>&1 || fail "$what: listed $(cat "$WORK/out")"
	grep -q 'Input/output' "$WORK/out" || fail "$what: $(cat "$WORK/out")"
	logged "/worse/$what" "$words" || fail "$what: no line with $words: $(grep "worse/$what" "$WORK/cache/mount.log")"
done
[ -z "$(names "$MNT/worse/circle")" ] || fail "circle: $(timeout $PATIENCE_S find "$MNT/worse/circle" | head)"
say "  ${#CATALOGS[@]} kinds refused, all else alike"
bounded "forged catalogs"
unmount

say "forged at the top"
for what in wal no-table no-root schema view; do
	restore $R
	IFS='|' read -r words step value <<<"${CATALOGS[$what]}"
	forge "$step" '' "$value"
	forget_cache
	not_mounted $R "$what" "root catalog.*$words"
done
restore $R
forge stored '' "$WORK/tmp/bomb"
forget_cache
begin=$(du -sk "$WORK" | cut -f1)
not_mounted $R "bomb" "root catalog.*more content than the 4194304 bytes" --set LAMELLA_CATALOG_MAX=4
[ $(($(du -sk "$WORK" | cut -f1) - begin)) -lt $DISK_MAX_KIB ] || fail "a bomb in the cache"
restore $R

say "forged tag databases"
for sql in "DROP TABLE tags" "UPDATE tags SET hash = NULL" "UPDATE tags SET hash = 'x'" "PRAGMA journal_mode = WAL"; do
	restore $R
	forge tags '' "$sql"
	forget_cache
	not_mounted $R "$sql" "history" --tag trunk
done
forge field '' H
not_mounted $R "no history" "has no tags" --tag trunk
check_reports
say "passed"
