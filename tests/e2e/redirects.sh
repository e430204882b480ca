#!/usr/bin/env bash
# A server that sends to another one: not followed, that is a failure of the server; followed, what comes is as good as from the
# server itself, and no better.
# time limit: 120 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need python3 jq tar
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate redirects

REDIRECTS=127.0.0.1:8001
FILES='data/../[0-9a-f]+P?$' # and no catalogs
export LAMELLA_SOCKET=$FETCHER_SOCKET
SETTINGS=("CVMFS_SERVER_URL=http://$REDIRECTS/cvmfs/@fqrn@" CVMFS_TIMEOUT_DIRECT=2 CVMFS_BACKOFF_INIT=1 CVMFS_BACKOFF_MAX=1)

repo_of_files 2 12 1
serve_start
: >"$WORK/run/faults"
start_listening redirects $REDIRECTS python3 "$LM_ROOT/tests/e2e/hostile.py" $REDIRECTS "$WORK/storage" "$WORK/run/faults"

faults() { # LINE...: from now on
	printf '%s\n' "$@" >"$WORK/run/faults.new"
	mv "$WORK/run/faults.new" "$WORK/run/faults"
}
node_start() { # [KEY=VALUE...]
	rm -rf "$WORK/cache"
	fetcher_start "${SETTINGS[@]}" "$@"
}
read_all() { (cd "$DIR" && sha256sum -c --quiet "$WORK/expected") >"$WORK/outcome" 2>&1; }
reads_all() { read_all || fail "$1: $(head -n 3 "$WORK/outcome")"; } # WHAT
fails() { # WHAT REASON FILE: one that was not asked for before
	! timeout 60 head -c 1 "$DIR/$3" >/dev/null 2>"$WORK/errors" || fail "$1: it was read"
	grep -q 'Input/output error' "$WORK/errors" || fail "$1: $(cat "$WORK/errors")"
	grep -qE "$2" "$WORK/log/fetcher.log" || fail "$1: the log does not say $2"
	say "  $1: an error, and why"
}

say "not followed"
node_start CVMFS_FOLLOW_REDIRECTS=no
find_files
faults "elsewhere $FILES"
web_mark
fails "data elsewhere" "HTTP status 302" 0/0
[ -z "$(web_log)" ] || fail "it was followed: $(web_log)"
stop fetcher
node_start # the default
find_files
fails "data elsewhere, by default" "HTTP status 302" 0/0
stop fetcher
node_start "CVMFS_SERVER_URL=http://$REDIRECTS/cvmfs/@fqrn@;http://$WEB/cvmfs/@fqrn@"
find_files
reads_all "with another server"
say "  with another server: all read"
stop fetcher

say "followed"
faults "elsewhere ." # the manifest, too
web_mark
node_start CVMFS_FOLLOW_REDIRECTS=yes
find_files
reads_all "everything elsewhere"
[ "$(web_files)" -ge 24 ] || fail "$(web_files) requests elsewhere"
stop fetcher
faults "elsewhere $FILES"
node_start CVMFS_FOLLOW_REDIRECTS=yes
find_files
head -c 1 "$DIR/0/sub/1" >/dev/null
faults "redirect_loop $FILES"
fails "in a circle" "Maximum .8. redirects" 0/0
faults "redirect_file $FILES"
fails "to a file of this machine" "Protocol .*file" 0/3
faults "nowhere $FILES"
fails "to where nobody listens" "127.0.0.1:9|onnection refused|connect to 127" 0/6
faults
stop fetcher
node_start CVMFS_FOLLOW_REDIRECTS=yes
find_files
reads_all "afterwards"
stop fetcher
check_reports
