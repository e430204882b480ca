#!/usr/bin/env bash
# `lamella serve` as curl sees it: whole files, ranges, refusals, many at once, the log, the end.
set -euo pipefail
source_root=$(cd "$(dirname "$0")/../.." && pwd)
lamella=${LM_BUILD:-$source_root/build}/tools/lamella
for tool in curl cmp; do
	command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
[ -x "$lamella" ] || { echo "skipped: $lamella is not built"; exit 77; }
"$lamella" serve --help >/dev/null 2>&1 || { echo "skipped: $lamella was built without serve"; exit 77; }

work=$(mktemp -d)
server=''
# shellcheck disable=SC2317 # called by the trap
clean_up() {
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap clean_up EXIT
unset http_proxy HTTP_PROXY all_proxy ALL_PROXY

fail() {
	echo "FAILED: $*" >&2
	exit 1
}
expect() { # WHAT EXPECTED GOT
	[ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

root=$work/root
mkdir -p "$root/cvmfs/r.example.org/data/ab" "$root/dir"
repo=$root/cvmfs/r.example.org
printf 'hello, world\n' >"$root/hello"
printf 'spaced\n' >"$root/a b%c"
: >"$root/empty"
printf 'secret\n' >"$work/secret"
printf 'manifest\n' >"$repo/.cvmfspublished"
printf 'list\n' >"$repo/.cvmfswhitelist"
head -c 100000 /dev/urandom >"$repo/data/ab/cdef"
head -c $((192 << 20)) /dev/urandom >"$root/big"
ln -s hello "$root/link-inside"
ln -s ../secret "$root/link-outside"
ln -s "$work/secret" "$root/link-absolute"
ln -s ../.. "$root/dir/up"
ln -s loop "$root/loop"
mkfifo "$root/fifo"
printf 'mine\n' >"$root/unreadable"
chmod 0 "$root/unreadable"

start() { # ARGUMENT...
	: >"$work/out"
	"$lamella" serve "$root" --listen 127.0.0.1:0 "$@" >"$work/out" 2>"$work/err" &
	server=$!
	for ((i = 0; i < 300; i++)); do
		[ ! -s "$work/out" ] || break
		kill -0 "$server" 2>/dev/null || fail "serve ended: $(cat "$work/err")"
		sleep 0.1
	done
	expect 'ready line' 'listening on http://127.0.0.1:' "$(head -1 "$work/out" | sed 's/[0-9]*$//')"
	url=$(sed -n 's/^listening on //p' "$work/out")
}
status() { # PATH CURL-ARGUMENT...
	local path=$1
	shift
	curl -s --max-time 60 --path-as-is -o "$work/body" -D "$work/head" -w '%{http_code}' "$@" "$url$path"
}
header() {
	tr -d '\r' <"$work/head" | sed -n "s/^$1: //Ip" | tail -1
}

start --access-log "$work/log"

# Whole files
expect 'file' 200 "$(status /hello)"
cmp "$root/hello" "$work/body"
expect 'length' 13 "$(header content-length)"
expect 'ranges' bytes "$(header accept-ranges)"
etag=$(header etag)
expect 'unchanged' 304 "$(status /hello -H "If-None-Match: $etag")"
expect 'empty file' 200 "$(status /empty)"
expect 'empty file' 0 "$(stat -c %s "$work/body")"
expect 'percent' 200 "$(status /a%20b%25c)"
cmp "$root/a b%c" "$work/body"
expect 'query' 200 "$(status '/hello?x=/../y')"
expect 'slashes' 200 "$(status //cvmfs/./r.example.org//data/ab/cdef)"
cmp "$repo/data/ab/cdef" "$work/body"
expect 'link inside' 200 "$(status /link-inside)"
expect 'HEAD' '200 0' "$(curl -s --max-time 60 -I -o "$work/head" -w '%{http_code} %{size_download}' "$url/big")"
expect 'HEAD length' $((192 << 20)) "$(header content-length)"

# How long it may be kept
expect 'object' 200 "$(status /cvmfs/r.example.org/data/ab/cdef)"
expect 'object cached' 'max-age=31536000, immutable' "$(header cache-control)"
for name in .cvmfspublished .cvmfswhitelist; do
	expect "$name" 200 "$(status "/cvmfs/r.example.org/$name")"
	expect "$name cached" 'max-age=61' "$(header cache-control)"
done

# Ranges
range() { # RANGE STATUS FROM COUNT
	expect "range $1" "$2" "$(status /big -H "Range: bytes=$1")"
	tail -c "+$(($3 + 1))" "$root/big" | head -c "$4" | cmp - "$work/body" || fail "range $1: wrong bytes"
}
size=$((192 << 20))
set +o pipefail # head closes early
range 0-0 206 0 1
range 1000000-1999999 206 1000000 1000000
expect 'content-range' "bytes 1000000-1999999/$size" "$(header content-range)"
range $((size - 10))- 206 $((size - 10)) 10
range -7 206 $((size - 7)) 7
range $((size - 3))-99999999999999999999999 206 $((size - 3)) 3
set -o pipefail
expect 'suffix longer than the file' 206 "$(status /hello -H 'Range: bytes=-1000')"
cmp "$root/hello" "$work/body"
expect 'past the end' 416 "$(status /hello -H 'Range: bytes=13-')"
expect 'past the end' 'bytes */13' "$(header content-range)"
expect 'last none' 416 "$(status /hello -H 'Range: bytes=-0')"
expect 'range of nothing' 416 "$(status /empty -H 'Range: bytes=0-0')"
for r in 'bytes=5-2' 'bytes=a-b' 'bytes=-' 'bytes=0-1,3-4' 'lines=0-1' 'bytes=1' 'bytes= 1-2'; do
	expect "range $r is not understood" 200 "$(status /hello -H "Range: $r")"
	cmp "$root/hello" "$work/body"
done
expect 'If-Range, the same' 206 "$(status /hello -H 'Range: bytes=0-1' -H "If-Range: $etag")"
expect 'If-Range, another' 200 "$(status /hello -H 'Range: bytes=0-1' -H 'If-Range: "other"')"

# What is refused
refuse() { # PATH STATUS
	expect "$1" "$2" "$(status "$1")"
	! grep -q secret "$work/body" || fail "$1 gave the secret away"
}
for path in / /dir /dir/ /fifo /link-outside /link-absolute /dir/up/secret /loop /../secret /dir/../../secret \
	/dir/../hello /%2e%2e/secret /..%2fsecret /dir/%2E%2E/%2e%2e/secret /.. /dir/.. //../secret; do
	refuse "$path" 403
done
for path in /nothing /hello/ /hello/x /...; do refuse "$path" 404; done
for path in /hello%00 /hello%0 /%zz /%; do refuse "$path" 400; done
refuse "/$(printf 'x%.0s' {1..5000})" 404
[ "$(id -u)" = 0 ] || refuse /unreadable 403
for method in POST PUT DELETE OPTIONS; do
	expect "$method" 405 "$(status /hello -X "$method" -d 'some=thing')"
	expect "$method: allowed" 'GET, HEAD' "$(header allow)"
done

# One connection for many requests, refused ones too
expect 'keep-alive' '1 0 0 0' "$(curl -s --path-as-is -o /dev/null -o /dev/null -o /dev/null -o /dev/null -w '%{num_connects} ' \
	"$url/hello" "$url/nothing" "$url/../x" "$url/empty" | sed 's/ $//')"

# A big file, whole; 200 requests at once; a client that goes away
expect 'big file' 200 "$(status /big)"
cmp "$root/big" "$work/body" || fail 'the big file came out differently'
for ((i = 0; i < 200; i++)); do
	printf 'url = "%s/cvmfs/r.example.org/data/ab/cdef?%d"\noutput = "%s/many-%d"\n' "$url" "$i" "$work" "$i"
done >"$work/many"
curl -s --max-time 120 --parallel --parallel-immediate --parallel-max 200 --fail -K "$work/many" 2>"$work/curl-err" ||
	fail "200 at once: $(cat "$work/curl-err")"
for ((i = 0; i < 200; i++)); do cmp "$repo/data/ab/cdef" "$work/many-$i"; done
curl -s --max-time 5 "$url/big" | head -c 1000 >/dev/null || true
expect 'after a client went away' 200 "$(status /hello)"

# The log: one line per request, foreign bytes escaped
printf 'GET /hello"\x01\xff\\ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >"$work/raw"
exec 3<>"/dev/tcp/127.0.0.1/${url##*:}"
cat "$work/raw" >&3
timeout 10 cat <&3 >/dev/null || true
exec 3>&-

kill -TERM "$server"
code=0
wait "$server" || code=$?
server=''
expect 'exit code after SIGTERM' 0 "$code"
grep -qE '^127\.0\.0\.1 - - \[[^]]*\] "GET /hello HTTP/1\.1" 200 13$' "$work/log" || fail 'no line of the first request'
grep -q '"HEAD /big HTTP/1.1" 200 0$' "$work/log" || fail 'no line of the HEAD request'
grep -q '"GET /../secret HTTP/1.1" 403 ' "$work/log" || fail 'no line of a refused request'
expect 'lines of 200 requests' 200 "$(grep -c '/data/ab/cdef?' "$work/log")"
! LC_ALL=C grep -qvP '^[\x20-\x7e]*$' "$work/log" || fail 'raw bytes in the log'
[ ! -s "$work/err" ] || fail "said on standard error: $(cat "$work/err")"

# The log on standard output, SIGINT, IPv6 where there is one
start --access-log -
expect 'file' 200 "$(status /hello)"
kill -INT "$server" || true
for ((i = 0; i < 20; i++)); do
	kill -0 "$server" 2>/dev/null || break
	sleep 0.1
done
kill -TERM "$server" 2>/dev/null || true # a background job may have been started with SIGINT ignored
wait "$server" || fail 'exit code after SIGINT'
server=''
grep -q '"GET /hello HTTP/1.1" 200 13$' "$work/out" || fail 'no log on standard output'

# Usage and failures
code_of() {
	local code=0
	"$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
	echo "$code"
}
expect '--help' 0 "$(code_of "$lamella" serve --help)"
grep -q -- '--listen' "$work/out" || fail '--help says nothing of --listen'
expect 'no directory' 2 "$(code_of "$lamella" serve)"
expect 'two directories' 2 "$(code_of "$lamella" serve "$root" "$root")"
expect 'unknown option' 2 "$(code_of "$lamella" serve "$root" --nonsense)"
for address in nonsense 127.0.0.1 127.0.0.1:x 127.0.0.1:70000 :80 ::1:80; do
	expect "--listen $address" 2 "$(code_of "$lamella" serve "$root" --listen "$address")"
	[ -s "$work/err" ] || fail "--listen $address: nothing said"
done
expect 'no such directory' 1 "$(code_of "$lamella" serve "$work/nowhere")"
expect 'not a directory' 1 "$(code_of "$lamella" serve "$root/hello")"
expect 'log not possible' 1 "$(code_of "$lamella" serve "$root" --listen 127.0.0.1:0 --access-log "$work/no/log")"
start
expect 'port taken' 1 "$(code_of "$lamella" serve "$root" --listen "${url#http://}")"
echo 'passed'
