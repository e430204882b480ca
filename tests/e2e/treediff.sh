#!/usr/bin/env bash
# treediff finds each single kind of difference, and none between copies.
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need setfattr unshare
need_built "$TREEDIFF"
make_work treediff
cd "$WORK"

WHEN='2020-02-02 02:02:02.123456789 UTC'
set_times() { find "$1" -depth -exec touch -h -d "$WHEN" {} +; }

make_tree() {
	mkdir -p "$1"/{dir/sub,other,empty}
	echo content >"$1/dir/file"
	echo content >"$1/dir/sub/with blank"
	printf 'a\0b' >"$1/binary"
	: >"$1/nothing"
	ln "$1/dir/file" "$1/other/hard"
	ln "$1/binary" "$1/binary2"
	ln -s ../dir/file "$1/other/soft"
	ln -s dangling "$1/dangling"
	mknod "$1/char" c 1 3
	mknod "$1/block" b 7 200
	mkfifo "$1/fifo"
	printf x >"$1/$(printf 'odd \\ \n \377 =: name')"
	printf x >"$1/$(printf 'n%.0s' {1..255})"
	setfattr -n user.text -v value "$1/dir/file"
	setfattr -n user.binary -v 0x00ff3d205c "$1/dir/file"
	setfattr -n trusted.overlay.opaque -v y "$1/dir"
	setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 "$1/dir/sub/with blank"
	chown 12:34 "$1/other"
	chmod 2750 "$1/other"
	truncate -s 10M "$1/sparse"
	set_times "$1"
}

# differs NAME COMMAND PATTERN...: after COMMAND in a copy, treediff prints just lines that match the patterns, in
# order, when times are set back. A listing of the copy says the same as the copy itself.
OPTIONS=()
times_count=''
differs() {
	local name=$1 line i=0 code=0
	rm -rf b
	cp -a a b
	(cd b && eval "$2")
	shift 2
	[ -n "$times_count" ] || set_times b
	"$TREEDIFF" "${OPTIONS[@]}" a b >out || code=$?
	while IFS= read -r line; do
		[ $# -gt 0 ] || fail "$name: did not expect: $line"
		[[ $line =~ ^$1$ ]] || fail "$name: expected $1, got $line"
		shift
		i=$((i + 1))
	done <out
	[ $# = 0 ] || fail "$name: missed: $1"
	[ $code = $((i > 0)) ] || fail "$name: exit code $code"
	"$TREEDIFF" --list b >listing
	"$TREEDIFF" "${OPTIONS[@]}" a listing >out.listing || [ $? = 1 ]
	cmp out out.listing || fail "$name: a listing gives another result"
}

make_tree a
say "equal"
differs "a copy" true
differs "access times" 'find . -exec touch -h -a {} +'

say "one change each"
differs mode 'chmod 600 nothing' '/nothing: mode: 0644 \| 0600'
differs setuid 'chmod u+s nothing' '/nothing: mode: 0644 \| 4644'
differs setgid 'chmod g-s other' '/other: mode: 2750 \| 0750'
differs sticky 'chmod +t empty' '/empty: mode: 0755 \| 1755'
differs owner 'chown 100000 nothing' '/nothing: uid: 0 \| 100000'
differs group 'chgrp 7 nothing' '/nothing: gid: 0 \| 7'
differs "owner of a link" 'chown -h 1 dangling' '/dangling: uid: 0 \| 1'
differs "content of the same size" 'printf X | dd of=binary bs=1 conv=notrunc status=none' '/binary: sha256: .*' '/binary2: sha256: .*'
differs "last byte of a hole" 'printf X | dd of=sparse bs=1 seek=10485759 conv=notrunc status=none' '/sparse: sha256: .*'
differs size 'truncate -s 10M nothing' '/nothing: size: 0 \| 10485760' '/nothing: sha256: .*'
differs target 'ln -sfn elsewhere dangling' '/dangling: target: dangling \| elsewhere'
differs "target with odd bytes" 'ln -sfn "a b" dangling' '/dangling: target: dangling \| a\\x20b'
differs "device number" 'rm char; mknod char c 1 5' '/char: rdev: 1:3 \| 1:5'
differs "type of a device" 'rm block; mknod block c 7 200' '/block: type: b \| c'
differs "type" 'rm dangling; mkfifo -m 777 dangling' '/dangling: type: l \| p' '/dangling: target: dangling \| none'
differs "a name less" 'rm nothing' '/nothing: entry: present \| absent'
differs "a name more" ': >new' '/new: entry: absent \| present'
differs "a case" 'mv nothing Nothing' '/Nothing: entry: absent \| present' '/nothing: entry: present \| absent'
differs "an odd name" 'rm odd*' '/odd\\x20\\x5c\\x20\\x0a\\x20\\xff\\x20=:\\x20name: entry: present \| absent'
differs "a directory more" 'mkdir empty/new' '/empty: nlink: 2 \| 3' '/empty/new: entry: absent \| present'
differs "attribute less" 'setfattr -x user.text dir/file' '/dir/file: xattr:user.text: value \| none' '/other/hard: xattr:user.text: value \| none'
differs "attribute more" 'setfattr -n user.new empty' '/empty: xattr:user.new: none \| '
differs "attribute's bytes" 'setfattr -n user.binary -v 0x00ff3d205d dir/file' '/dir/file: xattr:user.binary: \\x00\\xff=\\x20\\x5c \| \\x00\\xff=\\x20\]' '/other/hard: .*'
differs "attribute of a link" 'setfattr -h -n trusted.t -v 1 dangling' '/dangling: xattr:trusted.t: none \| 1'
differs "attribute of a device" 'setfattr -n trusted.t -v 1 char' '/char: xattr:trusted.t: none \| 1'
differs "capability" 'setfattr -x security.capability dir/sub/*' '/dir/sub/with\\x20blank: xattr:security.capability: .* \| none'
differs "opaque" 'setfattr -n trusted.overlay.opaque -v x dir' '/dir: xattr:trusted.overlay.opaque: y \| x'
differs "a link broken up" 'cp -a binary x; mv x binary' \
	'/binary: nlink: 2 \| 1' '/binary: links-with: /binary \| none' '/binary2: nlink: 2 \| 1' '/binary2: links-with: /binary \| none'
# The same numbers of links, but of other files: contents and attributes are made equal first.
(cd a && cp -a binary third && ln third fourth) && set_times a
differs "links between other names" 'rm binary2 fourth; ln third binary2; ln binary fourth' \
	'/binary2: links-with: /binary \| /binary2' '/fourth: links-with: /fourth \| /binary' '/third: links-with: /fourth \| /binary2'

say "times"
times_count=1
differs "a nanosecond" 'touch -d "2020-02-02 02:02:02.123456788 UTC" nothing' '/nothing: mtime: 1580608922\.123456789 \| 1580608922\.123456788'
differs "time of a directory" 'touch -d @5 dir/sub' '/dir/sub: mtime: .* \| 5\.000000000'
differs "time of a link" 'touch -h -d @5 dangling' '/dangling: mtime: .* \| 5\.000000000'
differs "time before 1970" 'touch -d @-1.5 nothing' '/nothing: mtime: .* \| -2\.500000000'
times_count=''

say "options"
OPTIONS=(--exclude /dir/ --exclude '/with blank' --exclude /noth)
differs "left out" 'rm -rf dir; echo >"with blank"; : >nothing; chmod 700 nothing' \
	'/: nlink: .*' '/nothing: mode: 0644 \| 0700' '/other/hard: nlink: 2 \| 1' '/other/hard: links-with: /other/hard \| none'
OPTIONS=(--ignore /nothing:mode)
differs "one field of one path" 'chmod 600 nothing empty' '/empty: mode: 0755 \| 0600'
OPTIONS=(--no-dir-nlink)
differs "directories' links" 'mkdir empty/new; ln nothing new' \
	'/empty/new: entry: absent \| present' '/new: entry: absent \| present' '/nothing: nlink: 1 \| 2' '/nothing: links-with: none \| /new'
OPTIONS=()

say "mounts, deep trees, trouble"
rm -rf b && cp -a a b
cat >with-mount.sh <<'END'
mount -t tmpfs none b/empty
: >b/empty/inside
"$1" a b
END
! unshare --mount bash -eu with-mount.sh "$TREEDIFF" >out || fail "a mount was not seen"
grep -q '^/empty: type: d | mount$' out || fail "a mount was not named: $(cat out)"
grep -q inside out && fail "went into another mount"
mkdir deep
(cd deep && for _ in {1..120}; do mkdir "$(printf 'd%.0s' {1..100})" && cd d*; done && echo end >file)
"$TREEDIFF" deep deep || fail "a path of 12,000 bytes"
no_answer() { # WHAT WORDS ARGUMENT...: exit code 2, and says why
	local what=$1 words=$2 code=0
	shift 2
	"$TREEDIFF" "$@" >/dev/null 2>err || code=$?
	[ $code = 2 ] || fail "$what: exit code $code"
	grep -q -- "$words" err || fail "$what: $(cat err)"
}
no_answer "an absent tree" absent a absent
head -n 5 listing >short
no_answer "a listing cut short" 'cut short' --against short a
no_answer "another file" 'neither a directory nor a listing' a a/binary
no_answer "no operands" usage
code=0
"$TREEDIFF" --list a >/dev/full 2>err || code=$?
[ $code = 2 ] || fail "a full disk: $code"
say "done"
