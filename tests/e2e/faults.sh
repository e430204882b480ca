#!/usr/bin/env bash
# What is served is wrong, forged, missing, late or not there. At the start of a container it then comes by an ordinary
# pull; in a running one a read ends in EIO. Both in bounded time, with a line in the log that names repository and object,
# and wrong content is never seen.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need openssl python3
need_image tiny
isolate faults

PATIENCE_S=60 # for one container or one file, with the settings below
SETTINGS=(CVMFS_TIMEOUT=3 CVMFS_TIMEOUT_DIRECT=3 CVMFS_MAX_RETRIES=1 CVMFS_BACKOFF_INIT=1 CVMFS_BACKOFF_MAX=1)
REPO=$WORK/storage/cvmfs/$FQRN
OBJECT='([0-9a-f]{40}|[0-9a-f]{2}/[0-9a-f]{38})' # an object in a line of the log

serve_lies() { # MODE PATTERN
	start_listening serve "$WEB" python3 "$LM_ROOT/tests/e2e/liar.py" "$WEB" "$WORK/storage" "$@"
}

# The lines of the fetcher that name the repository and match; fails when there is none.
said() { grep -F "$FQRN" "$WORK/log/fetcher.log" | grep -iE "$1"; } # PATTERN

# Sets the caches of the node back, so that everything is asked for again; the snapshotter remembers answers for a moment.
# containerd tries again only after a pause when it found nobody behind the socket, and what it is asked meanwhile fails.
reached() { ctr_ lamella snapshots --snapshotter lamella ls >/dev/null 2>&1; }
fresh_node() {
	stop snapshotter
	[ ! -e "$WORK/run/fetcher.pid" ] || stop fetcher
	rm -rf "$WORK/cache"
	: >"$WORK/log/fetcher.log"
	snapshotter_start
	wait_for 30 "containerd's way to the snapshotter" reached
}

# --- at the start of a container --------------------------------------------------------------------------------------

# An image of one program; what is tried at the start of a container is tried often.
make_small() {
	mkdir "$WORK/small"
	cp "$LM_BUILD/tests/tools/pause" "$WORK/small/still"
	tar -C "$WORK/small" --owner=0 --group=0 -cf "$WORK/tmp/small.tar" still
	make_layout "$WORK/oci-small" "$WORK/tmp/small.tar" /still
	push "$WORK/oci-small:latest" small:latest
	convert "oci:$WORK/oci-small:latest"
}

# Starts it, within PATIENCE_S, says whether layers were pulled, and forgets it.
small_pulled() { # WHAT
	local id
	registry_mark
	id=$(POD_TIMEOUT_S=$PATIENCE_S pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/small:latest" 2>&1) || fail "$1: no container: $id"
	[[ $(cri lamella list) == *"$id running "* ]] || fail "$1: the container does not run"
	cri lamella rm "$id"
	cri lamella rmi "$REGISTRY/small:latest"
	[ -n "$(registry_layer_requests "$WORK/oci-small")" ]
}

# The image cannot be had from the repository: it comes by an ordinary pull.
falls_back() { # WHAT WORDS: of a line of the fetcher that also names the repository
	local begin
	begin=$(now_ms)
	small_pulled "$1" || fail "$1: started from a repository that cannot be trusted"
	said "$2" >/dev/null || fail "$1: no line about it in the log (wanted $FQRN and $2)"
	say "$1: ordinary pull after $(($(now_ms) - begin)) ms; $(said "$2" | sed -n 1p | cut -c1-300)"
}

at_start() { # WHAT WORDS
	fresh_node
	fetcher_start "${SETTINGS[@]}"
	falls_back "$1" "$2"
}

flip_last_byte() { # FILE
	python3 - "$1" <<-'END'
		import sys
		data = bytearray(open(sys.argv[1], "rb").read())
		data[-1] ^= 1
		open(sys.argv[1], "wb").write(data)
	END
}

# The whitelist with another time of expiry, properly signed.
sign_whitelist() { # EXPIRY
	local w=$REPO/.cvmfswhitelist t=$WORK/tmp/whitelist hash
	sed '/^--$/,$d' "$w" | sed "2s/.*/E$1/" >"$t"
	hash=$(sha1sum <"$t" | cut -d' ' -f1)
	{
		cat "$t"
		printf -- '--\n%s\n' "$hash"
		printf %s "$hash" | openssl pkeyutl -sign -inkey "$WORK/keys/$FQRN.masterkey"
	} >"$w.new"
	mv "$w.new" "$w"
}

# --- in a running container -------------------------------------------------------------------------------------------

# Files of the image that nothing at its start reads, and what they hold.
FILES=(/usr/share/common-licenses/Artistic /usr/share/common-licenses/GPL-2 /usr/share/perl5/Debconf/Db.pm
	/usr/bin/dpkg-deb /usr/bin/dpkg /usr/share/debconf/confmodule /usr/lib/x86_64-linux-gnu/libapt-pkg.so.6.0)

sums() { cri lamella exec "$1" sh -c "for f in ${READ[*]}; do sha256sum \$f 2>&1; done" || true; } # ID

in_container() { # MODE PATTERN WORDS: reads fail, and say why in the log
	local id mode=$1 pattern=$2 words=$3 begin line bad=0
	READ=("${FILES[@]}")
	[ "$mode" != stall ] || READ=("${FILES[0]}")
	fresh_node
	serve_start
	fetcher_start "${SETTINGS[@]}"
	id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/tiny:latest" sh -c 'sha256sum /etc/passwd; exec sleep 3600')
	# The programs that read, and what kills them when they wait, must be here: with their pieces of the C library.
	cri lamella exec "$id" timeout -s KILL 5 sh -c 'sha256sum /etc/passwd; cat /etc/passwd' >/dev/null
	cri lamella exec "$id" timeout -s KILL 0.2 sleep 60 >/dev/null 2>&1 && fail "sleep was not killed"
	stop serve KILL
	[ "$mode" = gone ] || serve_lies "$mode" "$pattern"
	begin=$(now_ms)
	sums "$id" >"$WORK/sums"
	[ $(($(now_ms) - begin)) -lt $((${#READ[@]} * PATIENCE_S * 1000)) ] || fail "$mode: took $(($(now_ms) - begin)) ms"
	[ "$(wc -l <"$WORK/sums")" = ${#READ[@]} ] || fail "$mode: $(cat "$WORK/sums")"
	while IFS= read -r line; do
		if [[ $line == *"Input/output error" ]]; then
			bad=$((bad + 1))
		else
			grep -qxF -- "$line" "$WORK/expected" || fail "$mode: wrong content: $line"
		fi
	done <"$WORK/sums"
	[ $bad -gt 0 ] || fail "$mode: everything could be read: $(cat "$WORK/sums")"
	said "$OBJECT.*($words)|($words).*$OBJECT" >/dev/null ||
		fail "$mode: no line with repository and object and $words"
	say "$mode: $bad of ${#READ[@]} reads failed in $(($(now_ms) - begin)) ms; $(said "$OBJECT.*($words)" | sed -n 1p | cut -c1-300)"
	[ "$mode" != stall ] || killed_in_read "$id"
	# A failed download leaves nothing behind.
	[ "$mode" = gone ] || stop serve KILL
	serve_start
	wait_for 60 "right content after $mode" healed "$id"
	cri lamella rm "$id"
	cri lamella rmi "$REGISTRY/tiny:latest"
	stop serve
}
healed() {
	READ=("${FILES[@]}")
	sums "$1" >"$WORK/sums"
	cmp -s "$WORK/sums" "$WORK/expected"
}
# A process that waits for a download can be killed, long before that is given up.
killed_in_read() { # ID
	local begin
	begin=$(now_ms)
	cri lamella exec "$1" timeout -s KILL 1 cat "${FILES[3]}" >/dev/null 2>&1 && fail "stall: was read"
	[ $(($(now_ms) - begin)) -lt 2500 ] || fail "stall: a blocked reader was killed only after $(($(now_ms) - begin)) ms"
}

registry_start
push_pause
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
repo_init
convert "oci:$LM_IMAGES/oci-tiny:latest"
make_small
serve_start
fetcher_start "${SETTINGS[@]}"
snapshotter_start
containerd_start lamella
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/tiny:latest" sleep 3600)
READ=("${FILES[@]}")
sums "$id" >"$WORK/expected"
[ "$(grep -cE '^[0-9a-f]{64}' "$WORK/expected")" = ${#FILES[@]} ] || fail "not the files expected: $(cat "$WORK/expected")"
cri lamella rm "$id"
cri lamella rmi "$REGISTRY/tiny:latest"

say "at the start of a container"
cp -a "$REPO" "$WORK/good"
restore() { cp -a "$WORK"/good/.cvmfs* "$REPO/"; }
flip_last_byte "$REPO/.cvmfspublished"
at_start "wrong signature of the manifest" 'signature'
restore
flip_last_byte "$REPO/.cvmfswhitelist"
at_start "wrong signature of the whitelist" 'whitelist'
restore
sign_whitelist "$(date -u -d '2 days ago' +%Y%m%d%H%M%S)"
at_start "expired whitelist" 'whitelist.*expired'
sign_whitelist "$(date -u -d '+2 days' +%Y%m%d%H%M%S)"
fresh_node
fetcher_start "${SETTINGS[@]}"
! small_pulled "a whitelist signed by this test" || fail "a whitelist signed by this test was not believed"
restore
sed -i 's/^N.*/Nother.lamella.test/' "$REPO/.cvmfspublished"
at_start "manifest of another repository" 'manifest|name'
restore
stop serve
serve_lies flip 'C$'
at_start "wrong byte in every catalog" "$OBJECT"
stop serve KILL
serve_lies 404 'X$'
at_start "no certificate" "$OBJECT"
stop serve KILL
serve_lies stall 'C$'
at_start "catalogs never come" 'tim(e|ed)'
stop serve KILL
at_start "no server" 'connect'
fresh_node
say "no fetcher"
small_pulled "no fetcher" || fail "nobody knows where the layers came from"

say "in a running container"
files='/data/../[0-9a-f]+P?$'
in_container flip "$files" 'hash|digest|wrong|mismatch'
in_container longer "$files" 'hash|digest|wrong|mismatch'
in_container html "$files" 'hash|digest|wrong|mismatch'
in_container empty "$files" 'hash|digest|wrong|mismatch'
in_container short "$files" '.'
in_container 404 "$files" '404|absent|missing|not found'
in_container 500 "$files" '500'
in_container 302 "$files" '.'
in_container stall "$files" 'tim(e|ed)'
in_container gone . 'connect|refused'
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
