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

PATIENCE_S=30 # for one container or one file, with the settings below
SETTINGS=(CVMFS_TIMEOUT=3 CVMFS_TIMEOUT_DIRECT=3 CVMFS_MAX_RETRIES=1 CVMFS_BACKOFF_INIT=1 CVMFS_BACKOFF_MAX=1)
REPO=$WORK/storage/cvmfs/$FQRN

serve_lies() { # MODE PATTERN
	start_listening serve "$WEB" python3 "$LM_ROOT/tests/e2e/liar.py" "$WEB" "$WORK/storage" "$@"
}

# Sets the caches of the node back, so that everything is asked for again.
fresh_node() {
	[ ! -e "$WORK/run/fetcher.pid" ] || stop fetcher
	rm -rf "$WORK/cache"
	: >"$WORK/log/fetcher.log"
}

# --- at the start of a container --------------------------------------------------------------------------------------

# The image is not there and cannot be had from the repository: it comes by an ordinary pull.
falls_back() { # WHAT WORDS: of a line of the fetcher that also names the repository
	local begin layers
	begin=$(now_ms)
	registry_mark
	timeout $PATIENCE_S "$CRI" -s "$(containerd_socket lamella)" run --cgroup-parent "/lamella-${WORK##*/}" \
		"$REGISTRY/tiny:latest" bash -c 'echo ok' >"$WORK/output" 2>&1 || fail "$1: no container: $(cat "$WORK/output")"
	[ "$(cat "$WORK/output")" = ok ] || fail "$1: printed $(cat "$WORK/output")"
	layers=$(registry_layer_requests "$LM_IMAGES/oci-tiny")
	[ -n "$layers" ] || fail "$1: started from a repository that cannot be trusted"
	grep -E "$FQRN" "$WORK/log/fetcher.log" | grep -qiE "$2" || fail "$1: no line about it in the log (wanted $FQRN and $2)"
	cri lamella rmi "$REGISTRY/tiny:latest"
	say "$1: ordinary pull after $(($(now_ms) - begin)) ms; $(grep -E "$FQRN" "$WORK/log/fetcher.log" | grep -iE "$2" | head -n 1)"
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
	/usr/bin/chroot /usr/bin/dpkg /usr/share/debconf/confmodule /usr/lib/x86_64-linux-gnu/libapt-pkg.so.6.0)

sums() { cri lamella exec "$1" sh -c "for f in ${FILES[*]}; do sha256sum \$f 2>&1; done" || true; } # ID

in_container() { # MODE PATTERN WORDS: reads fail, and say why in the log
	local id mode=$1 pattern=$2 words=$3 begin line bad=0
	fresh_node
	serve_start
	fetcher_start "${SETTINGS[@]}"
	id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/tiny:latest" sh -c 'sha256sum /etc/passwd; exec sleep 3600')
	cri lamella exec "$id" sha256sum /etc/passwd >/dev/null
	stop serve KILL
	[ "$mode" = gone ] || serve_lies "$mode" "$pattern"
	begin=$(now_ms)
	sums "$id" >"$WORK/sums"
	[ $(($(now_ms) - begin)) -lt $((${#FILES[@]} * PATIENCE_S * 1000)) ] || fail "$mode: took $(($(now_ms) - begin)) ms"
	[ "$(wc -l <"$WORK/sums")" = ${#FILES[@]} ] || fail "$mode: $(cat "$WORK/sums")"
	while IFS= read -r line; do
		if [[ $line == *"Input/output error" ]]; then
			bad=$((bad + 1))
		else
			grep -qxF -- "$line" "$WORK/expected" || fail "$mode: wrong content: $line"
		fi
	done <"$WORK/sums"
	[ $bad -gt 0 ] || fail "$mode: everything could be read: $(cat "$WORK/sums")"
	grep -E "$FQRN.*[0-9a-f]{40}|[0-9a-f]{40}.*$FQRN" "$WORK/log/fetcher.log" | grep -qiE "$words" ||
		fail "$mode: no line with repository and object and $words"
	say "$mode: $bad of ${#FILES[@]} reads failed in $(($(now_ms) - begin)) ms; $(grep -E '[0-9a-f]{40}' "$WORK/log/fetcher.log" | grep -iE "$words" | head -n 1)"
	# A failed download leaves nothing behind.
	[ "$mode" = gone ] || stop serve KILL
	serve_start
	wait_for 60 "right content after $mode" healed "$id"
	cri lamella rm "$id"
	cri lamella rmi "$REGISTRY/tiny:latest"
	stop serve
}
healed() {
	sums "$1" >"$WORK/sums"
	cmp -s "$WORK/sums" "$WORK/expected"
}

registry_start
push_pause
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
repo_init
convert "oci:$LM_IMAGES/oci-tiny:latest"
serve_start
fetcher_start "${SETTINGS[@]}"
snapshotter_start
containerd_start lamella
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/tiny:latest" sleep 3600)
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
registry_mark
pod lamella run "$REGISTRY/tiny:latest" true || fail "a whitelist signed by this test"
[ -z "$(registry_layer_requests "$LM_IMAGES/oci-tiny")" ] || fail "a whitelist signed by this test was not believed"
cri lamella rmi "$REGISTRY/tiny:latest"
restore
sed -i 's/^N.*/Nother.lamella.test/' "$REPO/.cvmfspublished"
at_start "manifest of another repository" 'manifest|name'
restore
stop serve
serve_lies flip 'C$'
at_start "wrong byte in every catalog" '[0-9a-f]{40}'
stop serve KILL
serve_lies 404 'X$'
at_start "no certificate" '[0-9a-f]{40}'
stop serve KILL
serve_lies stall 'C$'
at_start "catalogs never come" 'tim(e|ed)'
stop serve KILL
at_start "no server" 'connect'
fresh_node
say "no fetcher"
registry_mark
pod lamella -t 30 run "$REGISTRY/tiny:latest" bash -c 'echo ok' >/dev/null || fail "no container without a fetcher"
[ -n "$(registry_layer_requests "$LM_IMAGES/oci-tiny")" ] || fail "nobody knows where the layers came from"
cri lamella rmi "$REGISTRY/tiny:latest"

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
