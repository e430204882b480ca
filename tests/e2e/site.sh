#!/usr/bin/env bash
# What a site is given beside the node: Debian's Squid takes squid.conf as it is and does with it what is promised, the second node
# asks the server for nothing that the first one had, many at once ask it once, and nobody gets anything else by that way; the wish
# list is one.
# time limit: 120 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need squid python3 curl tar
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
getent passwd proxy >/dev/null || skip "no user proxy, whom Squid becomes"
isolate site

CONF=$LM_ROOT/deploy/atlas/squid.conf
SQUID=127.0.0.1:3128

say "squid -k parse"
squid -k parse -f "$CONF" >"$WORK/out" 2>&1 || fail "$(cat "$WORK/out")"
! grep -E 'ERROR|WARNING|FATAL' "$WORK/out" || fail "$(cat "$WORK/out")"

say "the wish list"
# No registry can be reached here: what is right is asked for (exit code 1), what is wrong is not (2).
list_code() { # FILE
	local code=0
	"$LAMELLA" sync "$1" --state "$WORK/state-$(basename "$1").json" --storage "$WORK/none" --keys "$WORK/none" >"$WORK/out" 2>&1 || code=$?
	echo $code
}
[ "$(list_code "$LM_ROOT/deploy/atlas/wishes.yaml")" = 1 ] || fail "the list: $(cat "$WORK/out")"
for name in atlas/athena:25 analysisbase athanalysis atlas-grid-centos7 analysis/software; do
	grep -q "$name.*: Could not\|$name.*: .*[Rr]esolve" "$WORK/out" || fail "$name is not asked for: $(cat "$WORK/out")"
done
sed 's/^    images:/    imagees:/' "$LM_ROOT/deploy/atlas/wishes.yaml" >"$WORK/wrong.yaml"
[ "$(list_code "$WORK/wrong.yaml")" = 2 ] || fail "a list that is wrong is taken: $(cat "$WORK/out")"

# Its own places and a small disk; whatever Squid asks for comes from 127.0.0.9.
D=/run/squid-site
mkdir -p $D/cache
sed -E -e "s|^http_port .*|http_port $SQUID|" -e "s|^cache_dir .*|cache_dir aufs $D/cache 200 16 64|" -e 's|^cache_mem .*|cache_mem 32 MB|' \
	-e "s|^coredump_dir .*|coredump_dir $D|" -e 's|^max_filedescriptors .*|max_filedescriptors 1024|' "$CONF" >$D/conf
cat >>$D/conf <<-END
	tcp_outgoing_address 127.0.0.9
	pid_filename $D/pid
	access_log stdio:$D/access.log
	cache_log $D/cache.log
	pinger_enable off
	netdb_filename none
	cache_effective_user proxy
	END
chown -R proxy:proxy $D
squid -N -z -f $D/conf >>"$WORK/log/squid.log" 2>&1 || fail "squid -z"
rm -f $D/pid
start_listening squid $SQUID squid -N -f $D/conf

repo_of_files 4 200 3
serve_start
read_all() { # WHAT: by a node without a cache
	rm -rf "${WORK:?}/cache"
	web_mark
	fetcher_start "CVMFS_HTTP_PROXY=http://$SQUID"
	find_files
	(cd "$DIR" && sha256sum --quiet -c "$WORK/expected") >"$WORK/out" 2>&1 || fail "$1: $(head -n 3 "$WORK/out")"
	stop fetcher
}
objects() { web_log | grep -c '/data/' || true; }

say "two nodes"
read_all "the first node"
first=$(objects)
[ "$first" -ge 50 ] || fail "the first node had $first objects from the server"
read_all "the second node"
[ "$(objects)" = 0 ] || fail "the second node had objects from the server: $(web_log | grep /data/ | head -n 3)"
! grep -v '^127\.0\.0\.9 ' "$WORK/log/access.log" || fail "somebody came directly"
say "  $first objects from the server for the first, $(objects) for the second"

say "many at once"
object=$(grep -ohE '/cvmfs/[^ ]*/data/[0-9a-f]{2}/[0-9a-f]+P?' "$WORK/log/access.log" | sed -n 1p)
mkdir "$WORK/slow"
# A server that takes a second: whoever comes meanwhile waits for the same answer.
start_listening slow 127.0.0.1:8002 python3 -c '
import http.server, sys, time
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        print(self.path, file=open(sys.argv[1], "a", buffering=1))
        time.sleep(1)
        body = b"x" * 100000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=31536000")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8002), Slow).serve_forever()' "$WORK/slow/requests"
for i in {1..20}; do
	curl -sf --max-time 20 -x "http://$SQUID" -o "$WORK/slow/$i" "http://127.0.0.1:8002$object" &
	pids[i]=$!
done
for p in "${pids[@]}"; do wait "$p" || fail "a request failed"; done
[ "$(cat "$WORK"/slow/[0-9]* | wc -c)" = 2000000 ] || fail "not 20 whole answers"
[ "$(wc -l <"$WORK/slow/requests")" = 1 ] || fail "20 clients made $(wc -l <"$WORK/slow/requests") requests of the server"

say "what is not of CVMFS is refused"
code() { curl -s -o /dev/null -w '%{http_code}' --max-time 10 -x "http://$SQUID" "$@" || true; }
[ "$(code "http://$WEB/cvmfs/$FQRN/.cvmfspublished")" = 200 ] || fail "no manifest"
for refused in "http://$WEB/" "http://$WEB/keys/$FQRN.pub" "http://$WEB/cvmfs/"; do
	[ "$(code "$refused")" = 403 ] || fail "$refused: $(code "$refused")"
done
[ "$(code "https://$WEB/cvmfs/$FQRN/.cvmfspublished")" = 000 ] || fail "CONNECT"
[ "$(code -d x=y "http://$WEB/cvmfs/$FQRN/.cvmfspublished")" = 403 ] || fail "POST"
stop squid
stop slow KILL
stop serve
check_reports
say "passed"
