#!/usr/bin/env bash
# What a node says of itself: lamella status, top and update, metrics, health; quick also when much is going on.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need curl jq python3 tar
CONTROL=$LM_BUILD/tests/tools/control
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$CONTROL"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate status

METRICS_SOCKET=${FETCHER_SOCKET%.sock}-metrics.sock
METRICS=127.0.0.1:9177
export LAMELLA_SOCKET=$FETCHER_SOCKET

page() { curl -sS --max-time 20 --unix-socket "$METRICS_SOCKET" "http://x$1"; } # PATH
code_of() { # COMMAND...: its exit code; its output is in $WORK/out and $WORK/err
	local code=0
	"$@" >"$WORK/out" 2>"$WORK/err" || code=$?
	echo $code
}
expect_code() { # CODE COMMAND...
	local want=$1 got
	shift
	got=$(code_of "$@")
	[ "$got" = "$want" ] || fail "$*: exit code $got, not $want: $(cat "$WORK/out" "$WORK/err")"
}
says() { # PATTERN...: of what the last command printed
	local p
	for p; do grep -qE -- "$p" "$WORK/out" || fail "no '$p' in: $(cat "$WORK/out" "$WORK/err")"; done
}
status_is() { # JQ-FILTER: true for what lamella status --json says
	"$LAMELLA" status --json --layers >"$WORK/status.json" || true
	jq -e "$1" "$WORK/status.json" >/dev/null || fail "status is not $1: $(cat "$WORK/status.json")"
}
metric() { # NAME{LABELS}: its value
	page /metrics | sed -n "s/^lamella_fetcher_${1//[\{\}]/.} //p"
}

# An image of one layer with the files given; prints the digest of the layer.
image() { # NAME FILE...
	local name=$1
	shift
	tar -C "$WORK/files" --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" "$@"
	make_layout "$WORK/oci-$name" "$WORK/tmp/layer.tar" /none
	convert "oci:$WORK/oci-$name:latest"
	manifest "$WORK/oci-$name" latest | jq -r '.layers[0].digest'
}
layer_dir() { local d=${1#sha256:}; echo "$MOUNT_BASE/$FQRN/.layers/${d:0:2}/$d/layerfs"; } # DIGEST

say "before there is a fetcher"
expect_code 1 "$LAMELLA" status
grep -q "$FETCHER_SOCKET" "$WORK/err" || fail "which socket? $(cat "$WORK/err")"
expect_code 1 "$LAMELLA" top -n 1
expect_code 1 "$LAMELLA" update
expect_code 2 "$LAMELLA" status a b
expect_code 2 "$LAMELLA" top nonsense
expect_code 2 "$LAMELLA" top -n 0

mkdir "$WORK/files"
for i in {1..200}; do head -c 20000 /dev/urandom >"$WORK/files/f$i"; done
repo_init
first=$(image first f{1..100})
serve_start
fetcher_start LAMELLA_METRICS=$METRICS
first_revision=$("$LAMELLA" status --json | jq '.repositories[0].revision')

say "status"
expect_code 0 "$LAMELLA" status
says "^lamella-fetcher .*, process [0-9]+, up " "^$FQRN: online for .*, revision $first_revision$" "^  mounted +$MOUNT_BASE/$FQRN$" \
	"the next in [0-9]+ (min|s)" "^  cache "
! grep -q problems "$WORK/out" || fail "problems: $(cat "$WORK/out")"
expect_code 0 "$LAMELLA" status $FQRN
expect_code 1 "$LAMELLA" status nobody.example.org
grep -q nobody.example.org "$WORK/err" || fail "$(cat "$WORK/err")"
status_is ".repositories[0] | .fqrn == \"$FQRN\" and .state == \"online\" and .looks == 1 and .failed_looks == 0 and .ttl_s > 0"
status_is ".problems == [] and .layers == [] and .uptime_ms > 0 and .cache.objects > 0"
[ "$(readlink "/proc/$(jq .process "$WORK/status.json")/exe")" = "$LM_BUILD/fetcher/lamella-fetcher-worker" ] || fail "another process"

say "layers"
absent=sha256:$(printf 'f%.0s' {1..64})
"$CONTROL" "$FETCHER_SOCKET" resolve "$first" "$absent" >"$WORK/out"
says "^$first LAYER_FAITHFUL" "^$absent LAYER_ABSENT"
status_is ".layers | map({(.digest): .state}) | add == {\"$first\": \"faithful\", \"$absent\": \"absent\"}"
status_is ".layers[] | select(.digest == \"$first\") | .repository == \"$FQRN\" and .revision == $first_revision and .asked == 1"
expect_code 0 "$LAMELLA" status --layers
says "$first faithful, .* ago, $FQRN revision $first_revision" "$absent absent"

say "metrics"
page /metrics >"$WORK/m1"
for i in {1..100}; do cmp "$WORK/files/f$i" "$(layer_dir "$first")/f$i" || fail "wrong bytes"; done
page /metrics >"$WORK/m2"
curl -sS --max-time 20 "http://$METRICS/metrics" >"$WORK/m3"
python3 "$LM_ROOT/tests/e2e/exposition.py" "$WORK"/m[123] >"$WORK/out" || fail "the metrics are not as they should be"
say "  $(tail -n 1 "$WORK/out") samples, $(stat -c %s "$WORK/m3") bytes"
[ "$(metric "fetched_files_total{repository=\"$FQRN\"}")" -ge 100 ] || fail "files: $(page /metrics | grep fetched)"
[ "$(metric "layer_answers_total{state=\"faithful\"}")" = 1 ] || fail "answers: $(page /metrics | grep layer)"
[ "$(metric "repository_online{repository=\"$FQRN\"}")" = 1 ] || fail "not online"
[ "$(metric "repository_revision{repository=\"$FQRN\"}")" = "$first_revision" ] || fail "revision"

say "health and status over HTTP"
page /healthz | jq -e '. == {healthy: true, problems: []}' >/dev/null || fail "health: $(page /healthz)"
page /status | jq -e ".repositories[0].fqrn == \"$FQRN\" and (.layers | length) == 2" >/dev/null || fail "status: $(page /status)"
[ "$(curl -sS -o /dev/null -w '%{http_code}' "http://$METRICS/else")" = 404 ] || fail "not 404"
[ "$(curl -sS -o /dev/null -w '%{http_code}' -d x=y "http://$METRICS/metrics")" = 405 ] || fail "not 405"

say "update"
expect_code 0 "$LAMELLA" update
says "^$FQRN: revision $first_revision is the newest$"
second=$(image second f{101..200})
expect_code 0 "$LAMELLA" update $FQRN
says "^$FQRN: revision $first_revision -> $((first_revision + 1))$"
[ -e "$(layer_dir "$second")/f101" ] || fail "the new layer is not there"
expect_code 0 "$LAMELLA" update --json
jq -e ".results == [{fqrn: \"$FQRN\", old_revision: $((first_revision + 1)), new_revision: $((first_revision + 1)), error: \"\"}]" \
	"$WORK/out" >/dev/null || fail "$(cat "$WORK/out")"
expect_code 1 "$LAMELLA" update nobody.example.org

say "top, not on a terminal"
"$LAMELLA" top -n 2 -d 1 >"$WORK/out" 2>"$WORK/err" &
top=$!
cat "$(layer_dir "$second")"/* >/dev/null
wait $top || fail "top: $(cat "$WORK/err")"
says "^TIME +REPOSITORY +STATE +REVISION"
[ "$(grep -cE "^[0-9:]{8} $FQRN +online +$((first_revision + 1)) " "$WORK/out")" = 2 ] || fail "top: $(cat "$WORK/out")"
! grep -q $'\033' "$WORK/out" || fail "escapes in a file"
if command -v script >/dev/null; then
	say "top, on a terminal"
	script -qec "$LAMELLA top -n 1 -d 1" /dev/null </dev/null >"$WORK/out" 2>&1 || true
	says "$FQRN +online" $'\033\\[\\?1049h' $'\033\\[\\?1049l'
fi

say "many who ask, and some who say nothing"
for i in {1..40}; do
	exec {fd}<>/dev/tcp/${METRICS%:*}/${METRICS#*:}
	silent[i]=$fd
done
for i in {1..8}; do
	(for _ in {1..10}; do "$CONTROL" "$FETCHER_SOCKET" status || exit 1; done) >/dev/null &
	asking[i]=$!
done
for _ in {1..20}; do curl -sS --max-time 20 -o "$WORK/m4" -w '%{time_total}\n' --unix-socket "$METRICS_SOCKET" http://x/metrics; done |
	sort -n >"$WORK/times"
say "  a page beside 8 others: $(sed -n 10p "$WORK/times") s in the middle, $(tail -n 1 "$WORK/times") s at the most"
for pid in "${asking[@]}"; do wait "$pid" || fail "a status call failed"; done
for fd in "${silent[@]}"; do exec {fd}>&-; done
python3 "$LM_ROOT/tests/e2e/exposition.py" "$WORK/m3" "$WORK/m4" >/dev/null || fail "metrics"

say "another worker"
worker_is() { [ "$("$LAMELLA" status --json 2>/dev/null | jq .worker)" = "$1" ]; } # NUMBER
worker_is 1 || fail "worker: $("$LAMELLA" status)"
kill -KILL "$("$LAMELLA" status --json | jq .process)"
wait_for 20 "the second worker" worker_is 2
status_is '.worker_restarts == 1 and .problems == [] and (.worker_last_end | length) > 0'
kill -USR2 "$(pid_of fetcher)"
wait_for 20 "the third worker" worker_is 3
status_is '.worker_restarts == 1 and .problems == []'
for p in /metrics /healthz; do page $p >/dev/null || fail "no $p of the third worker"; done
curl -sS --max-time 20 "http://$METRICS/metrics" >"$WORK/m6"
python3 "$LM_ROOT/tests/e2e/exposition.py" "$WORK/m6" >/dev/null || fail "metrics"
grep -qx 'lamella_fetcher_worker_restarts_total 1' "$WORK/m6" || fail "restarts: $(grep restarts "$WORK/m6")"
! grep -q 'no metrics' "$WORK/log/fetcher.log" || fail "a worker without metrics"

say "a taken port does not hold up a node"
stop fetcher
start_listening other $METRICS "$LAMELLA" serve "$WORK/files" --listen $METRICS
fetcher_start LAMELLA_METRICS=$METRICS
grep -q 'no metrics.*9177' "$WORK/log/fetcher.log" || fail "nothing said of it"
expect_code 0 "$LAMELLA" status
stop other
stop fetcher
[ ! -e "$METRICS_SOCKET" ] || fail "the socket is left behind"
check_reports
say "passed"
