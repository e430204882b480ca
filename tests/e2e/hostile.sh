#!/usr/bin/env bash
# A server, and a proxy, that do everything wrong, at every phase of a request. With nobody else to ask a read ends in EIO,
# in bounded time, and wrong content is never seen; when the fault ends everything can be read at once. With a second server
# or proxy that is well there is no error at all. Manifests that are wrong, forged, old or cut leave the newest root as it is.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need python3 jq tar
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/tests/tools/control"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate hostile

REPO=$WORK/storage/cvmfs/$FQRN
CONTROL=$LM_BUILD/tests/tools/control
PROXY=127.0.0.1:8002 HOSTILE=127.0.0.1:8001 # $WEB serves what is right
SPARE=127.0.0.1:8003                        # a proxy that is well
SETTINGS=(CVMFS_TIMEOUT=1 CVMFS_TIMEOUT_DIRECT=1 CVMFS_MAX_RETRIES=1 CVMFS_BACKOFF_INIT=1 CVMFS_BACKOFF_MAX=1)
# One server, one way to it: two attempts with a pause of 1 s between them, each 1 s to connect and 1.5 s of standstill.
# The rest is for other requests that have their turn first.
BOUND_MS=8000
MEMORY_MAX_KIB=$((100 << 10)) # of the daemon; a sanitizer needs more
[ -z "${LM_SANITIZED:-}" ] || MEMORY_MAX_KIB=$((2 << 20))

# What a read meets under each fault when there is nobody else to ask: the bytes, or EIO. A file for each.
HARMLESS="fine slow gzip_lie poisoned"
HARMFUL="flip empty portal longer endless endless_zlib short reset_body reset_headers reset_request close_request stall_request
	stall_headers stall_body stall_last drip_headers drip_body redirect redirect_loop redirect_file garbage garbage_headers old
	huge_header many_headers many_continues bad_chunks cut_chunks huge_chunk gzip transfer_gzip length_less length_none
	length_two length_wrong length_negative length_huge partial no_content not_modified long_refusal stalled_refusal 400 403 404
	407 416 429 500 502 503 504"
read -ra FAULTS <<<"${HARMLESS//$'\n'/ } ${HARMFUL//[$'\n\t']/ }"

declare -A SUM OBJECT # of each file: what it holds, and where the server has it

make_repository() {
	local f
	mkdir "$WORK/files"
	python3 - "$WORK/files" "${FAULTS[@]}" <<-'END'
		import random, sys
		for name in sys.argv[2:]:
		    open(f"{sys.argv[1]}/{name}", "wb").write(random.Random(name).randbytes(6000))
	END
	for f in "${FAULTS[@]}"; do SUM[$f]=$(sha256sum <"$WORK/files/$f" | cut -d' ' -f1); done
	tar -C "$WORK" --owner=0 --group=0 -cf "$WORK/tmp/files.tar" files
	make_layout "$WORK/oci-files" "$WORK/tmp/files.tar" /none
	repo_init
	convert "oci:$WORK/oci-files"
}

# Which object a file is: by its content.
find_objects() {
	local sum object name
	declare -A found
	while read -r sum object; do found[$sum]=$object; done < <(python3 - "$REPO" <<-'END'
		import glob, hashlib, sys, zlib
		for path in glob.glob(sys.argv[1] + "/data/??/*"):
		    if path[-1] in "0123456789abcdef":
		        print(hashlib.sha256(zlib.decompress(open(path, "rb").read())).hexdigest(), path[len(sys.argv[1]) + 1:])
	END
	)
	for name in "${FAULTS[@]}"; do OBJECT[$name]=${found[${SUM[$name]}]}; done
}

# --- faults, and reading under them -----------------------------------------------------------------------------------

faults() { # NAME [LINE...]: of server or proxy NAME, from now on
	local name=$1
	shift
	printf '%s\n' "$@" >"$WORK/run/$name.new"
	mv "$WORK/run/$name.new" "$WORK/run/$name.faults"
}
every_fault() { # NAME [FAULT...]: each for its own file
	local f lines=() name=$1
	shift
	[ $# -gt 0 ] || set -- "${FAULTS[@]}"
	for f; do lines+=("$f ${OBJECT[$f]}\$"); done
	faults "$name" "${lines[@]}"
}
hostile_start() { # NAME ADDRESS
	faults "$1"
	start_listening "$1" "$2" python3 "$LM_ROOT/tests/e2e/hostile.py" "$2" "$WORK/storage" "$WORK/run/$1.faults"
}

DIR='' # where the files are mounted
node_start() { # [KEY=VALUE...]: with nothing in its cache but the catalogs
	[ ! -e "$WORK/run/fetcher.pid" ] || stop fetcher
	rm -rf "$WORK/cache"
	fetcher_start "${SETTINGS[@]}" "$@"
	DIR=$(echo "$MOUNT_BASE/$FQRN"/.layers/*/*/layerfs/files)
	[ -e "$DIR/fine" ] || fail "the files are not where they were expected: $DIR"
}
forget_files() { # in the cache of the node, and in the kernel's
	local f
	for f in "${FAULTS[@]}"; do rm -f "$WORK/cache/lamella/cache/${OBJECT[$f]#data/}"; done
	forget_mount
}
read_files() { # [NAME...]: all of them at the same time; what came of it is in $WORK/outcome
	[ $# -gt 0 ] || set -- "${FAULTS[@]}"
	python3 "$LM_ROOT/tests/e2e/readers.py" "${@/#/$DIR/}" >"$WORK/outcome"
	[ "$(wc -l <"$WORK/outcome")" = $# ] || fail "not all readers ended: $(cat "$WORK/outcome")"
}
worst() { sort -k 2n "$WORK/outcome" | awk 'END { print $2 " ms (" $1 ")" }'; }

# No wrong content, no error but EIO, and each in time.
check_outcome() { # WHAT
	local name ms result
	while read -r name ms result; do
		[ "$result" = EIO ] || [ "$result" = "${SUM[$name]}" ] || fail "$1: $name ended in $result"
		[ "$ms" -le $BOUND_MS ] || fail "$1: $name took $ms ms"
	done <"$WORK/outcome"
}
# When a fault ended; what failed is not asked for again for a moment (fetcher/failures.h).
RECOVERY_S=5
readable() { # NAME...
	read_files "$@"
	! grep -q EIO "$WORK/outcome"
}
all_read() { # WHAT
	check_outcome "$1"
	! grep -q EIO "$WORK/outcome" || fail "$1: not readable: $(awk '$3 == "EIO" { print $1 }' "$WORK/outcome" | paste -sd ' ')"
	say "  $1: $(grep -c . "$WORK/outcome") files read, the slowest in $(worst)"
}
as_documented() { # WHAT
	local name ms result
	check_outcome "$1"
	while read -r name ms result; do
		if [[ " $HARMLESS " == *" $name "* ]]; then
			[ "$result" != EIO ] || fail "$1: $name is no reason for an error"
		else
			[ "$result" = EIO ] || fail "$1: $name could be read"
		fi
	done <"$WORK/outcome"
	grep -qE "read failed.*repository=$FQRN" "$WORK/log/fetcher.log" || fail "$1: no line in the log"
	say "  $1: $(grep -c EIO "$WORK/outcome") of ${#FAULTS[@]} reads failed, the slowest in $(worst)"
}
memory_bounded() {
	local kib
	kib=$(peak_kib lamella-fetcher)
	[ "$kib" -lt $MEMORY_MAX_KIB ] || fail "the daemon needed $kib KiB"
	say "  at most $((kib >> 10)) MiB of memory"
}


# --- nobody else to ask -----------------------------------------------------------------------------------------------

alone() { # WHO WHAT
	every_fault "$1"
	read_files
	as_documented "$2"
	memory_bounded
	faults "$1"
	wait_for $RECOVERY_S "$2: recovery" readable "${FAULTS[@]}"
	all_read "$2, afterwards"
}

# The whole of a connection goes wrong, so all files at once; a few are enough.
connections() { # WHO WHAT
	local fault
	for fault in stall_accept stall_connect reset_connect; do
		forget_files
		faults "$1" "$fault -"
		read_files fine slow empty
		check_outcome "$2: $fault"
		[ "$(grep -c EIO "$WORK/outcome")" = 3 ] || fail "$2: $fault: could be read: $(cat "$WORK/outcome")"
		say "  $2: $fault: the slowest in $(worst)"
		faults "$1"
		wait_for $RECOVERY_S "$2: recovery from $fault" readable fine slow empty
	done
}

make_repository
find_objects
serve_start
hostile_start server $HOSTILE
hostile_start proxy $PROXY
hostile_start spare $SPARE

say "one server, hostile"
node_start "CVMFS_SERVER_URL=http://$HOSTILE/cvmfs/@fqrn@"
alone server "no other server"
connections server "no other server"

say "one proxy, hostile"
node_start "CVMFS_HTTP_PROXY=http://$PROXY"
alone proxy "no other proxy"
connections proxy "no other proxy"

# --- somebody else to ask ---------------------------------------------------------------------------------------------

asked() { grep -qE "${OBJECT[$2]} $2\$" "$WORK/log/$1.log"; } # WHO FAULT: met this fault
some_read() { # WHAT
	forget_files
	read_files "${FAULTS[@]:0:8}"
	check_outcome "$1"
	! grep EIO "$WORK/outcome" || fail "$1: not readable"
	say "  $1: 8 files read, the slowest in $(worst)"
}
# Reads until each fault was met: after the first one the others may be asked elsewhere, until the reset time is over.
another() { # WHO WHAT
	local round fault left=("${FAULTS[@]}") still
	: >"$WORK/log/$1.log"
	for ((round = 1; ${#left[@]} > 0; round++)); do
		[ $round -le 30 ] || fail "$2: never asked there: ${left[*]}"
		[ $round = 1 ] || sleep 1.1 # the reset time
		forget_files
		every_fault "$1" "${left[@]}"
		read_files "${left[@]}"
		all_read "$2"
		still=()
		for fault in "${left[@]}"; do asked "$1" "$fault" || still+=("$fault"); done
		left=("${still[@]}")
	done
	for fault in stall_accept stall_connect reset_connect; do
		sleep 1.1
		faults "$1" "$fault -"
		some_read "$2: $fault"
	done
	faults "$1"
}

say "a second server"
node_start "CVMFS_SERVER_URL=http://$HOSTILE/cvmfs/@fqrn@;http://$WEB/cvmfs/@fqrn@" CVMFS_HOST_RESET_AFTER=1
another server "a second server"
say "a second proxy"
node_start "CVMFS_HTTP_PROXY=http://$PROXY;http://$SPARE" CVMFS_PROXY_RESET_AFTER=1
another proxy "a proxy of the next group"
node_start "CVMFS_HTTP_PROXY=http://$PROXY|http://$SPARE" CVMFS_PROXY_RESET_AFTER=1
every_fault proxy
forget_files
read_files
all_read "a second proxy of the same group"
faults proxy

# --- revisions --------------------------------------------------------------------------------------------------------

revision() { "$CONTROL" $FETCHER_SOCKET status | awk '{ print $3 }'; }
# Asks for a new revision: it stays as it is, says so, and says why; what was there can be read.
stays() { # WHAT WORDS
	local line begin before
	before=$(revision)
	begin=$(now_ms)
	: >"$WORK/log/fetcher.log"
	line=$("$CONTROL" $FETCHER_SOCKET update $FQRN)
	[ $(($(now_ms) - begin)) -le $((2 * BOUND_MS)) ] || fail "$1: update took $(($(now_ms) - begin)) ms"
	[[ $line == *" $before offline "* ]] || fail "$1: $line"
	grep -F $FQRN "$WORK/log/fetcher.log" | has -E "offline.*($2)" || fail "$1: no line in the log with $2"
	forget_files
	read_files fine
	! grep EIO "$WORK/outcome" || fail "$1: not readable"
	say "  $1: stays at revision $before, $(($(now_ms) - begin)) ms: $(grep -oE 'cause=.*' "$WORK/log/fetcher.log" | sed -n 1p | cut -c1-160)"
}
goes_on() { # WHAT REVISION
	local line
	line=$("$CONTROL" $FETCHER_SOCKET update $FQRN)
	[[ $line == *" $2 online "* ]] || fail "$1: $line"
	forget_files
	wait_for $RECOVERY_S "$1: recovery" readable fine
	say "  $1: revision $2"
}
publish() { # NAME: one more revision
	mkdir "$WORK/$1"
	echo "$1" >"$WORK/$1/file"
	tar -C "$WORK" --owner=0 --group=0 -cf "$WORK/tmp/$1.tar" "$1"
	make_layout "$WORK/oci-$1" "$WORK/tmp/$1.tar" /none
	convert "oci:$WORK/oci-$1"
}
keep_signed() { # NAME
	mkdir -p "$WORK/signed/$1"
	cp "$REPO"/.cvmfs{published,whitelist} "$WORK/signed/$1/"
}
put_signed() { cp "$WORK/signed/$1"/.cvmfs* "$REPO/"; } # NAME

say "revisions, from a hostile server"
node_start "CVMFS_SERVER_URL=http://$HOSTILE/cvmfs/@fqrn@"
first=$(revision)
keep_signed first
publish second
second=$((first + 1))
for fault in flip short stall_body empty portal endless 404 garbage; do
	faults server "$fault [.]cvmfspublished\$"
	stays "manifest: $fault" .
done
faults server "flip [.]cvmfswhitelist\$"
stays "whitelist: flip" whitelist
faults server "flip /data/../[0-9a-f]*C\$"
stays "root catalog: flip" catalog
head -c 100 "$REPO/.cvmfspublished" >"$WORK/tmp/cut"
keep_signed second
cp "$WORK/tmp/cut" "$REPO/.cvmfspublished"
faults server
stays "a manifest cut short" 'cut short'
put_signed second
goes_on "the server is well again" $second

put_signed first
stays "a revision that goes back" 'older|revision'
put_signed second
goes_on "the newest revision" $second
say "a proxy's cache that holds the older one"
cp "$WORK/signed/first/.cvmfspublished" "$REPO/.cvmfspublished.stale"
cp "$WORK/signed/first/.cvmfswhitelist" "$REPO/.cvmfswhitelist.stale"
faults server "stale [.]cvmfspublished\$"
goes_on "the older manifest" $second
faults server

say "another certificate"
"$LAMELLA" repo sign $FQRN --new-certificate --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "sign"
publish third
third=$(sed -n 's/^S//p' "$REPO/.cvmfspublished")
[ "$third" -gt "$second" ] || fail "no new revision"
keep_signed third
cp "$WORK/signed/second/.cvmfswhitelist" "$REPO/"
stays "a certificate that is not on the whitelist" 'whitelist|certificate'
put_signed third
faults server "stale [.]cvmfswhitelist\$"
goes_on "the whitelist from before in a cache" "$third"
node_start "CVMFS_SERVER_URL=http://$HOSTILE/cvmfs/@fqrn@"
goes_on "the whitelist from before in a cache, at the start" "$third"

say "a second server, and the first one with a manifest, whitelist, certificate or root catalog that is damaged"
for fault in short flip_early portal endless; do
	for what in [.]cvmfspublished [.]cvmfswhitelist 'X$' 'C$'; do
		faults server "$fault $what"
		node_start "CVMFS_SERVER_URL=http://$HOSTILE/cvmfs/@fqrn@;http://$WEB/cvmfs/@fqrn@" CVMFS_HOST_RESET_AFTER=1
		goes_on "$fault: $what" "$third"
	done
done
faults server
stop fetcher
check_reports
