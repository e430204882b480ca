#!/usr/bin/env bash
# `lamella inspect` of every fixture repository and revision, from a directory and by URL: the tree equals what the stock
# client showed; every alternate manifest and whitelist gets its verdict; all JSON is valid; damage is named.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need tar python3 diff
need_built "$LAMELLA"
FIXTURES=$(realpath -m "$LM_ROOT/../shared/fixtures/cvmfs")
[ -e "$FIXTURES/README.md" ] || skip "no fixtures in $FIXTURES"
make_work inspect
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY
export TMPDIR=$WORK/tmp
KEYS=$FIXTURES/keys
R=fixture.cern.ch
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	[ ! -e "$WORK/run/serve.pid" ] || kill "$(pid_of serve)" 2>/dev/null || true
	wait 2>/dev/null || true
	[ -n "$LM_KEEP" ] || rm -rf "$WORK"
}
trap clean_up EXIT

mkdir -p "$WORK/storage/cvmfs" "$WORK/documents"
for f in "$FIXTURES"/repos/*.tar.gz; do tar -C "$WORK/storage/cvmfs" -xzf "$f"; done
start serve "$LAMELLA" serve "$WORK/storage" --listen 127.0.0.1:0
wait_for 20 "lamella serve" grep -q '^listening on ' "$WORK/log/serve.log"
URL=$(sed -n 's/^listening on //p' "$WORK/log/serve.log")
places() { echo "$WORK/storage/cvmfs/$1 $URL/cvmfs/$1"; } # REPOSITORY

inspect() {
	local code=0
	"$LAMELLA" inspect "$@" 2>"$WORK/err" || code=$?
	cat "$WORK/err" >>"$WORK/log/inspect.log"
	return $code
}
documents=0
keep_json() { cp "$WORK/json" "$WORK/documents/$((documents += 1))"; } # all are read at the end
field() { sed -n "s/^$1  *//p"; } # NAME: of what comes in

# --- trees ------------------------------------------------------------------------------------------------------------

trees=0
tree_is() { # REPOSITORY EXPECTED [OPTION...]
	local name=$1 expected=$FIXTURES/expected/$2.manifest place
	shift 2
	for place in $(places "$name"); do
		inspect tree "$place" --keys "$KEYS" "$@" >"$WORK/tree" || fail "tree of $place $*: $(cat "$WORK/err")"
		diff "$expected" "$WORK/tree" >"$WORK/diff" || fail "tree of $place $*: $(head -n 10 "$WORK/diff")"
		[ ! -s "$WORK/err" ] || fail "tree of $place $* said: $(cat "$WORK/err")"
		trees=$((trees + 1))
	done
}

say "trees"
for name in $R rmd160.$R shake128.$R; do
	for manifest in "$FIXTURES/published/$name.cvmfspublished".rev*; do
		tree_is "$name" "$name.${manifest##*.}" --manifest "$manifest"
	done
done
tree_is $R $R.rev3
tree_is plain.$R plain.$R.rev2
tree_is options.$R options.$R.latest
tree_is unpacked.$R unpacked.$R.latest
tree_is $R $R.rev1 --tag first-release
tree_is $R $R.rev2 --date 2026-11-21T23:46:39Z
tree_is $R $R.rev3 --date 2099-12-31
# The revision before, by what the root catalog says of it.
previous=$(inspect catalog "$WORK/storage/cvmfs/plain.$R" | sed -n 's/^property key=previous_revision value=//p')
for place in $(places plain.$R); do
	inspect tree "$place" --root "$previous" | diff "$FIXTURES/expected/plain.$R.rev1.manifest" - || fail "plain, revision 1"
done
say "  $trees trees alike"

say "variables"
variant() { grep ' /links/variant$' | cut -d' ' -f5,11; }
dir=$WORK/storage/cvmfs/$R
FIXTURE_ARCH=x86_64 inspect tree "$dir" --no-content | grep '^l ' | diff "$FIXTURES/expected/$R.rev3.symlinks-FIXTURE_ARCH=x86_64" - ||
	fail "links with a variable set"
[ "$(inspect tree "$dir" --no-content --raw | variant)" = "24 arch-\$(FIXTURE_ARCH)/lib" ] ||
	fail "raw target: $(inspect tree "$dir" --no-content --raw | variant)"
inspect tree "$WORK/storage/cvmfs/options.$R" --no-content --hidden | has ' /\.cvmfs/snapshots$' || fail "nothing hidden is shown"

# --- verdicts ---------------------------------------------------------------------------------------------------------

say "verdicts"
verdicts=0
verdict_is() { # VERDICT WHAT PART OPTION...
	local expected=$1 what=$2 code=0 wanted=0 got
	shift 2
	for place in $(places $R); do
		got=$({ inspect "$1" "$place" "${@:2}" || true; } | field signatures)
		[ "$got" = "$expected" ] || fail "$what of $place: '$got' instead of '$expected'"
		[ "$expected" != invalid ] || wanted=1
		code=0
		inspect "$1" "$place" "${@:2}" --json >"$WORK/json" || code=$?
		[ $code = $wanted ] || fail "$what of $place: exit code $code"
		keep_json
	done
	verdicts=$((verdicts + 1))
}
key=(--key "$KEYS/$R.pub")
while read -r file verdict; do
	[[ $file == whitelist.* || $file == published.* ]] || continue
	[[ $verdict == refused* ]] && expected=invalid || expected=valid
	if [[ $file == whitelist.* ]]; then
		# Whom it allows is the manifest's affair.
		[ "$file" = whitelist.other-fingerprint ] && alone=valid || alone=$expected
		verdict_is "$alone" "$file" whitelist --whitelist "$FIXTURES/alternates/$file" "${key[@]}"
		verdict_is "$expected" "manifest with $file" manifest --whitelist "$FIXTURES/alternates/$file" "${key[@]}"
	else
		verdict_is "$expected" "$file" manifest --manifest "$FIXTURES/alternates/$file" "${key[@]}"
	fi
done <"$FIXTURES/alternates/VERDICTS.txt"
verdict_is invalid "another key" manifest --key "$FIXTURES/alternates/other.pub"
verdict_is unchecked "no key" manifest
verdict_is unchecked "a whitelist without a key" whitelist
verdict_is valid "the certificate" certificate "${key[@]}"
inspect manifest "$dir" --manifest "$FIXTURES/alternates/published.unknown-fields" "${key[@]}" | has '^field letter=' ||
	fail "unknown fields are not shown"
say "  $verdicts verdicts"

# --- JSON -------------------------------------------------------------------------------------------------------------

say "JSON"
for name in "$WORK"/storage/cvmfs/*; do
	name=${name##*/}
	for place in $(places "$name"); do
		for part in manifest whitelist certificate history reflog metainfo tree "tree --raw --hidden" catalog "catalog --rows"; do
			# shellcheck disable=SC2086 # words
			inspect ${part%% *} "$place" ${part#"${part%% *}"} --keys "$KEYS" --json >"$WORK/json" ||
				fail "$part of $place: $(cat "$WORK/err")"
			keep_json
		done
	done
done
# Listing and JSON say the same, whatever the names are made of.
inspect tree "$dir" --keys "$KEYS" --json >"$WORK/json"
python3 - "$WORK/json" "$FIXTURES/expected/$R.rev3.manifest" <<'END' || fail "JSON and listing differ"
import json, re, sys
def raw(text):
    return re.sub(rb'%([0-9a-f]{2})', lambda m: bytes([int(m[1], 16)]), text.encode())
files = json.load(open(sys.argv[1]))['tree']
lines = [line.split(' ') for line in open(sys.argv[2]).read().splitlines()]
assert len(files) == len(lines) > 100
for f, l in zip(files, lines):
    assert raw(f['path']) == raw(l[12]), (f, l)
    assert raw(f.get('target', '')) == (b'' if l[10] == '-' else raw(l[10])), (f, l)
    assert [f['type'], f['mode'], str(f['uid']), str(f['gid']), str(f['size']), f['mtime'], str(f['links'])] == l[:7], (f, l)
    assert f.get('sha256', '-') == l[9], (f, l)
    xattrs = ','.join(x['name'] + '=' + x['hex'] for x in f.get('xattrs', []))
    assert xattrs == ('' if l[11] == '-' else l[11]), (f, l)
END
# --- catalogs and objects ---------------------------------------------------------------------------------------------

say "catalogs and objects"
[ "$(inspect catalog "$dir" / | field mountpoint)" = / ] || fail "the root catalog"
[ "$(inspect catalog "$dir" /nested/a/b/c/deep-file --keys "$KEYS" 2>/dev/null | field mountpoint)" = "" ] || fail "no such file"
[ "$(inspect catalog "$dir" /nested/a/f | field mountpoint)" = /nested/a ] || fail "the catalog of /nested/a/f"
[ "$(inspect catalog "$dir" /nested/a | field mountpoint)" = /nested/a ] || fail "the catalog of /nested/a"
nested=$(inspect catalog "$dir" /nested/a | field catalog)
[ "$(inspect catalog "$dir" --hash "$nested" | field mountpoint)" = /nested/a ] || fail "a catalog by its hash"
rows=$(inspect catalog "$dir" --rows | grep -c '^row ')
[ "$rows" = "$(inspect catalog "$dir" --json --rows | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["rows"]))')" ] ||
	fail "rows as text and as JSON"

root=$(field root_catalog < <(inspect manifest "$dir"))
for place in $(places $R); do
	inspect object "$place" "${root}C" >"$WORK/object" || fail "object of $place: $(cat "$WORK/err")"
	for line in 'present yes' 'hash right' 'kind catalog' 'compression zlib' 'content_bytes 131072' 'seems sqlite-database'; do
		tr -s ' ' <"$WORK/object" | has -x "$line" || fail "object of $place: not '$line'"
	done
	inspect object "$place" "$root" | has '^object .*C$' || fail "object without a suffix"
	[ "$(inspect object "$place" "${root}C" --cat | head -c 15)" = "SQLite format 3" ] || fail "--cat"
	inspect object "$place" "${root}C" --cat --stored | cmp - "$dir/data/${root:0:2}/${root:2}C" || fail "--cat --stored"
	! inspect object "$place" 0000000000000000000000000000000000000000 >"$WORK/object" || fail "an absent object"
	grep -q '^present  *no' "$WORK/object" || fail "an absent object"
done
plain=$(inspect catalog "$WORK/storage/cvmfs/plain.$R" --rows | sed -n 's/^row .* compression=none hash=\([^ ]*\).*/\1/p' | sed -n 1p)
inspect object "$WORK/storage/cvmfs/plain.$R" "$plain" | has '^compression  *none' || fail "a plain object"

# --- damage -----------------------------------------------------------------------------------------------------------

say "damage"
damaged() { # WORDS PART PLACE ARGUMENT...: exit code 1, said, JSON all the same
	local words=$1 code=0
	shift
	inspect "$@" >"$WORK/text" || code=$?
	[ $code = 1 ] || fail "$*: exit code $code"
	grep -qE "$words" "$WORK/err" || fail "$*: not '$words' but $(cat "$WORK/err")"
	inspect "$@" --json >"$WORK/json" || true
	keep_json
}
flip() { # FILE BYTE
	printf '\377' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
object=$(inspect catalog "$dir" --rows | sed -n 's/^row .*path=\/files\/hello.txt .* hash=\([^ ]*\).*/\1/p')
file=$dir/data/${object:0:2}/${object:2}
cp "$file" "$WORK/file"
flip "$file" 5
for place in $(places $R); do
	damaged hash object "$place" "$object"
	grep -q '^hash  *wrong' "$WORK/text" || fail "a wrong hash is not told"
	damaged /files/hello.txt tree "$place" --keys "$KEYS"
	[ "$(diff "$FIXTURES/expected/$R.rev3.manifest" "$WORK/text" | grep -c '^>.* error - - /files/hello.txt$')" = 1 ] ||
		fail "one file can't be read, and others suffer"
done
rm "$file"
for place in $(places $R); do damaged /files/hello.txt tree "$place" --keys "$KEYS"; done
cp "$WORK/file" "$file"

file=$dir/data/${nested:0:2}/${nested:2}C
cp "$file" "$WORK/file"
truncate -s 1000 "$file"
for place in $(places $R); do
	damaged /nested/a tree "$place" --keys "$KEYS"
	damaged "${nested:2}" catalog "$place" /nested/a --keys "$KEYS"
done
cp "$WORK/file" "$file"

# A database that is sound, yet says nonsense: packed anew and named by its hash.
history=$(inspect manifest "$dir" | field history)
inspect object "$dir" "${root}C" --cat >"$WORK/catalog.db"
forge() { # SQL: prints the hash
	cp "$WORK/catalog.db" "$WORK/forged.db"
	python3 - "$WORK/forged.db" "$dir" "$1" <<'END'
import hashlib, os, sqlite3, sys, zlib
db = sqlite3.connect(sys.argv[1])
db.executescript(sys.argv[3])
db.commit()
db.close()
packed = zlib.compress(open(sys.argv[1], 'rb').read())
digest = hashlib.sha1(packed).hexdigest()
os.makedirs(f'{sys.argv[2]}/data/{digest[:2]}', exist_ok=True)
open(f'{sys.argv[2]}/data/{digest[:2]}/{digest[2:]}C', 'wb').write(packed)
print(digest)
END
}
# WORDS|SQL
while IFS='|' read -r words sql; do
	forged=$(forge "$sql")
	for place in $(places $R); do
		damaged "$words" tree "$place" --root "$forged"
		damaged "$words" catalog "$place" --hash "$forged" --rows
	done
done <<'END'
name|UPDATE catalog SET name = 'a/b' WHERE name = 'hello.txt'
name|UPDATE catalog SET name = NULL WHERE name = 'hello.txt'
path|UPDATE catalog SET name = 'hallo.txt' WHERE name = 'hello.txt'
attributes|UPDATE catalog SET xattr = x'01ff' WHERE name = 'hello.txt'
chunk|UPDATE chunks SET offset = offset + 1
size|UPDATE catalog SET size = 'large' WHERE name = 'hello.txt'
END
forged=$(forge "UPDATE nested_catalogs SET sha1 = (SELECT sha1 FROM nested_catalogs WHERE path = '/dirtab/x') WHERE path = '/nested'")
for place in $(places $R); do damaged "made for '/dirtab/x'" tree "$place" --root "$forged"; done
printf 'no database' | python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read()))' >"$WORK/file"
forged=$(sha1sum <"$WORK/file" | cut -c1-40)
mkdir -p "$dir/data/${forged:0:2}"
for suffix in C H; do cp "$WORK/file" "$dir/data/${forged:0:2}/${forged:2}$suffix"; done
damaged database tree "$dir" --root "$forged"
sed "s/^H$history/H$forged/" "$dir/.cvmfspublished" >"$WORK/manifest"
damaged 'history|database' history "$dir" --manifest "$WORK/manifest"
damaged NOT tree "$dir" --manifest "$WORK/manifest" --keys "$KEYS"

# --- usage ------------------------------------------------------------------------------------------------------------

say "usage"
usage() { # EXIT-CODE ARGUMENT...
	local wanted=$1 code=0
	shift
	inspect "$@" >/dev/null || code=$?
	[ $code = "$wanted" ] || fail "inspect $*: exit code $code instead of $wanted"
}
usage 0 --help
for part in manifest whitelist certificate catalog object history reflog metainfo tree; do
	usage 0 $part --help
	usage 2 $part
	usage 2 $part "$dir" a b c
	[ $part = object ] || usage 1 $part ./absent
done
usage 2 nonsense "$dir"
usage 1 object ./absent "$root"
usage 2 tree "$dir" --date yesterday
usage 2 tree "$dir" --root abc
usage 2 tree "$dir" --root "$root" --tag trunk
usage 1 tree "$dir" --tag no-such-tag
usage 1 tree "$dir" --date 1999-01-01
usage 2 object "$dir" abc
usage 2 object "$dir" "$root" --stored
usage 2 catalog "$dir" relative/path
usage 1 catalog "$dir" /no/such/path
usage 2 manifest "$dir" --key a --keys b
usage 1 manifest "$dir" --key "$WORK/absent"
usage 1 manifest "http://127.0.0.1:1/cvmfs/$R" --keys "$KEYS"
usage 2 manifest "$dir" --storage "$WORK/storage"
usage 0 manifest $R --storage "$WORK/storage" --keys "$KEYS"

say "every JSON document"
python3 - "$WORK"/documents/* <<'END' || fail "no valid JSON"
import json, sys
for name in sys.argv[1:]:
    try:
        json.loads(open(name, 'rb').read().decode('ascii'))
    except ValueError as why:
        sys.exit(f'{name}: {why}')
END
say "  $documents documents"

stop serve
check_reports
[ -z "$(ls -A "$WORK/tmp")" ] || fail "temporary files stay: $(ls "$WORK/tmp")"
say "inspect: all is shown as it is"
