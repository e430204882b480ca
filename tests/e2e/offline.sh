#!/usr/bin/env bash
# Without a server: a cold start fails and says so, a warm one serves what is cached; what is not ends in EIO in bounded time;
# when the server returns, all recovers by itself, a revision published meanwhile appears. Status says at each step how it is.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need curl jq tar
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate offline

SETTINGS=(CVMFS_TIMEOUT=3 CVMFS_TIMEOUT_DIRECT=3 CVMFS_MAX_RETRIES=1 CVMFS_BACKOFF_INIT=1 CVMFS_BACKOFF_MAX=1)
PATIENCE_S=20 # for a read that must fail, and for a recovery
export LAMELLA_SOCKET=$FETCHER_SOCKET
METRICS_SOCKET=${FETCHER_SOCKET%.sock}-metrics.sock

image() { # NAME FILE...: published as one more revision; prints the digest of its layer
	local name=$1
	shift
	tar -C "$WORK/files" --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" "$@"
	make_layout "$WORK/oci-$name" "$WORK/tmp/layer.tar" /none
	convert "oci:$WORK/oci-$name:latest"
	manifest "$WORK/oci-$name" latest | jq -r '.layers[0].digest'
}
layer_dir() { local d=${1#sha256:}; echo "$MOUNT_BASE/$FQRN/.layers/${d:0:2}/$d/layerfs"; } # DIGEST
health() { curl -sS --max-time 20 -o "$WORK/health" -w '%{http_code}' --unix-socket "$METRICS_SOCKET" http://x/healthz; }
has_status() { # JQ-FILTER
	"$LAMELLA" status --json >"$WORK/status.json" 2>/dev/null || true
	jq -e "$1" "$WORK/status.json" >/dev/null
}
status_is() { # EXIT-CODE HEALTH JQ-FILTER
	local code=0
	has_status "$3" || fail "status is not $3: $(cat "$WORK/status.json")"
	"$LAMELLA" status >"$WORK/out" 2>&1 || code=$?
	[ $code = "$1" ] || fail "exit code $code, not $1: $(cat "$WORK/out")"
	[ "$(health)" = "$2" ] || fail "health is not $2: $(cat "$WORK/health")"
}
same() { cmp "$WORK/files/$2" "$(layer_dir "$1")/$2" || fail "wrong bytes in $2"; } # DIGEST FILE
reads() { cmp -s "$WORK/files/$2" "$(layer_dir "$1")/$2"; } # DIGEST FILE
fails_in_time() { # FILE
	local begin code=0
	begin=$(now_ms)
	timeout $PATIENCE_S cat "$1" >/dev/null 2>"$WORK/err" || code=$?
	[[ $code = 1 && $(<"$WORK/err") == *"Input/output error"* ]] || fail "$1: $code, $(cat "$WORK/err")"
	say "  EIO after $(($(now_ms) - begin)) ms"
}
recovers() { # WHAT JQ-FILTER
	local begin
	begin=$(now_ms)
	wait_for $PATIENCE_S "$1" has_status "$2"
	say "  $1 after $(($(now_ms) - begin)) ms"
}

mkdir "$WORK/files"
for f in a b c d e; do head -c 300000 /dev/urandom >"$WORK/files/$f"; done
repo_init
first=$(image first a b)

say "a cold start without a server"
code=0
begin=$(now_ms)
mkdir -p "$MOUNT_BASE"
timeout 60 "$LM_BUILD/fetcher/lamella-fetcher" --config /dev/null --require-mounts --set CVMFS_REPOSITORIES=$FQRN \
	--set "CVMFS_SERVER_URL=http://$WEB/cvmfs/@fqrn@" --set CVMFS_HTTP_PROXY=DIRECT \
	--set "CVMFS_PUBLIC_KEY=$WORK/keys/$FQRN.pub" --set "CVMFS_CACHE_BASE=$WORK/cache" --set "LAMELLA_MOUNT_BASE=$MOUNT_BASE" \
	--set "LAMELLA_SOCKET=$FETCHER_SOCKET" "${SETTINGS[@]/#/--set=}" 2>"$WORK/err" || code=$?
[ $code = 1 ] || fail "exit code $code with --require-mounts: $(cat "$WORK/err")"
grep -qE "$FQRN.*(onnect|refused)" "$WORK/err" || fail "not said why: $(cat "$WORK/err")"
say "  refused after $(($(now_ms) - begin)) ms where mounts are required"
fetcher_start "${SETTINGS[@]}"
status_is 1 503 '.repositories[0] | .state == "failed" and .mountpoint == "" and .revision == 0 and (.last_error | length) > 0'
jq -e '.problems[0].what | startswith("no trusted root")' "$WORK/status.json" >/dev/null || fail "$(cat "$WORK/status.json")"
! mountpoint -q "$MOUNT_BASE/$FQRN" || fail "mounted without a root"

say "the server comes"
serve_start
recovers "mounted" '.repositories[0] | .state == "online" and .mountpoint != ""'
status_is 0 200 '.repositories[0].revision == 2 and .problems == []'
revision=2
same "$first" a

say "it goes while we run"
stop serve
same "$first" a
code=0
"$LAMELLA" update >"$WORK/out" 2>&1 || code=$?
[[ $code = 1 && $(<"$WORK/out") =~ $FQRN.*(onnect|refused) ]] || fail "update: $code, $(cat "$WORK/out")"
status_is 1 200 ".repositories[0] | .state == \"offline\" and .revision == $revision and (.last_error | length) > 0 and .mountpoint != \"\""
jq -e '.problems | length == 1 and .[0].degraded' "$WORK/status.json" >/dev/null || fail "$(cat "$WORK/status.json")"
fails_in_time "$(layer_dir "$first")/b"

say "a warm start without it"
stop fetcher
fetcher_start "${SETTINGS[@]}"
status_is 1 200 ".repositories[0] | .state == \"offline\" and .revision == $revision and .mountpoint != \"\""
[ "$(echo "$(layer_dir "$first")"/*)" = "$(layer_dir "$first")/a $(layer_dir "$first")/b" ] || fail "names"
same "$first" a
fails_in_time "$(layer_dir "$first")/b"
same "$first" a

say "a warm start without it, after an unclean end of the machine"
worker=$(pgrep -P "$(pid_of fetcher)")
stop fetcher KILL
wait_for 10 "the end of the worker" eval "! kill -0 $worker 2>/dev/null"
for m in $(awk '$5 ~ "^/run/lamella/" { print $5 }' /proc/self/mountinfo | tac); do umount -l "$m"; done
sed -i 's/^boot .*/boot 00000000-0000-0000-0000-000000000000/' "$WORK/cache/lamella/boot"
fetcher_start "${SETTINGS[@]}"
grep -q 'ended uncleanly' "$WORK/log/fetcher.log" || fail "not an unclean end"
status_is 1 200 ".repositories[0] | .state == \"offline\" and .revision == $revision and .mountpoint != \"\""
same "$first" a
fails_in_time "$(layer_dir "$first")/b"

say "a revision is published meanwhile, then the server returns"
second=$(image second c)
revision=$((revision + 1))
sleep 1.1
status_is 1 200 '.repositories[0] | .state == "offline" and .state_age_ms >= 1000'
serve_start
begin=$(now_ms)
wait_for 10 "a file that was not there" reads "$first" b
say "  a file that failed is read after $(($(now_ms) - begin)) ms"
recovers "online, and the new revision" ".repositories[0] | .state == \"online\" and .revision == $revision"
status_is 0 200 '.problems == []'
same "$first" b
same "$second" c

say "it goes and returns while something asks"
stop serve
"$LAMELLA" update >/dev/null 2>&1 && fail "update without a server"
third=$(image third d)
revision=$((revision + 1))
"$LAMELLA" status >/dev/null 2>&1 && fail "all well without a server"
has_status '.repositories[0].state == "offline"' || fail "$(cat "$WORK/status.json")"
serve_start
"$LAMELLA" update >"$WORK/out" || fail "update: $(cat "$WORK/out")"
grep -qx "$FQRN: revision $((revision - 1)) -> $revision" "$WORK/out" || fail "$(cat "$WORK/out")"
same "$third" d
stop fetcher

say "a revision appears by the time to live"
FQRN=short.lamella.test
"$LAMELLA" repo init $FQRN --ttl 5 --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "repo init"
fetcher_start "${SETTINGS[@]}"
has_status '.repositories[0] | .state == "online" and .ttl_s == 5' || fail "$(cat "$WORK/status.json")"
fourth=$(image fourth e)
recovers "revision 2" '.repositories[0].revision == 2'
wait_for 10 "the layer" test -e "$(layer_dir "$fourth")/e"
same "$fourth" e
stop fetcher
stop serve
check_reports
say "passed"
