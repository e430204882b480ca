#!/usr/bin/env bash
# It is visible whether an image is lazy, and why not: labels, log, counters, `lamella images --node`, metrics; each reason
# is provoked. The disk's figures are true, and a fetcher that is dead or silent holds up nothing but what needs it.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need curl python3
isolate visible

STATUS_SOCKET=/run/lamella/snapshotter-status.sock
METRICS_SOCKET=/run/lamella/snapshotter-metrics.sock
METRICS=127.0.0.1:9178
OTHER=others.lamella.test
TIMEOUT_S=5
LABEL=containerd.io/snapshot/lamella

# An image of layers of one file each, but for the first, which has /pause.
layer_tar() { # NAME: $WORK/tar/NAME, the same every time
	mkdir -p "$WORK/tar" "$WORK/tmp/$1"
	if [ "$1" = base ]; then cp "$LM_BUILD/tests/tools/pause" "$WORK/tmp/$1"; else echo "$1" >"$WORK/tmp/$1/$1"; fi
	tar -C "$WORK/tmp/$1" --owner=0 --group=0 --mtime=@1700000000 --sort=name -cf "$WORK/tar/$1" .
}
image() { # NAME LAYER...: pushed to the registry
	local name=$1 l tars=()
	shift
	for l; do
		layer_tar "$l"
		tars+=("$WORK/tar/$l")
	done
	make_layers "$WORK/oci-$name" "${tars[@]}" -- /pause
	push "$WORK/oci-$name:latest" "$name:latest"
}
digest() { manifest "$WORK/oci-$1" latest | jq -r ".layers[$2].digest"; } # IMAGE INDEX
ref() { echo "$REGISTRY/$1:latest"; }
pull() { cri lamella pull "$(ref "$1")" >/dev/null; }
rmi() { cri lamella rmi "$(ref "$1")"; }

node() { "$LAMELLA" images --node --json; }
node_is() { # JQ-FILTER, $r being the reference of IMAGE
	node >"$WORK/node.json" || fail "no node"
	jq -e --arg r "$(ref "${2:-}")" "$1" "$WORK/node.json" >/dev/null || fail "not $1: $(jq -c '.images, .fetcher' "$WORK/node.json")"
}
image_is() { node_is ".images[] | select(.reference == \$r) | $2" "$1"; } # IMAGE JQ-FILTER
label_of() { # IMAGE LABEL: of its topmost layer
	ctr_ lamella snapshots --snapshotter lamella info "$(chain_id "$WORK/oci-$1" latest)" | jq -r ".Labels[\"$LABEL.$2\"]"
}
# The topmost layer of an image, pulled just now, was pulled for a reason: on the snapshot, in the log, on the node, counted.
fell_back() { # IMAGE CAUSE WORDS
	local line
	[ "$(label_of "$1" layer)" = ordinary ] || fail "$1: no label"
	[ "$(label_of "$1" cause)" = "$2" ] || fail "$1: cause $(label_of "$1" cause)"
	[[ $(label_of "$1" reason) == *"$3"* ]] || fail "$1: reason $(label_of "$1" reason)"
	line=$(grep -F "layer not served, pulling it layer=$(digest "$1" -1) " "$WORK/log/snapshotter.log" | tail -n 1)
	[[ $line == *"image=$(ref "$1") cause=$2 reason="*"$3"* ]] || fail "$1: in the log: $line"
	image_is "$1" ".fallen_back > 0 and (.reason | contains(\"$3\"))"
	node_is ".counters[] | select(.name == \"fallback_${2//-/_}\") | .count > 0"
}
page() { curl -sS --max-time 20 --unix-socket "$METRICS_SOCKET" "http://x$1"; } # PATH
health() { curl -sS -o /dev/null -w '%{http_code}' --max-time 20 --unix-socket "$METRICS_SOCKET" http://x/healthz; }
says() { # PATTERN...: in $WORK/out
	local p
	for p; do grep -qE -- "$p" "$WORK/out" || fail "no '$p' in: $(cat "$WORK/out")"; done
}
usage_bytes() { ctr_ lamella snapshots --snapshotter lamella usage -b "$@" | awk 'NR > 1 { sum += $(NF - 1) } END { print sum + 0 }'; }
usage_inodes() { ctr_ lamella snapshots --snapshotter lamella usage -b "$@" | awk 'NR > 1 { sum += $NF } END { print sum + 0 }'; }
snapshots() { ctr_ lamella snapshots --snapshotter lamella ls | awk 'NR > 1 { print $1, $2 }' | sort; }
directories() { find "$WORK/snapshotter/snapshots" -mindepth 1 -maxdepth 1 | sort; }

registry_start
push_pause
for i in two:base,first mixed:base,second again:base,second,third away:away silent:silent deaf:deaf refused:base,refused; do
	# shellcheck disable=SC2046 # words
	image "${i%:*}" $(tr , ' ' <<<"${i#*:}")
done
"$LAMELLA" repo init "$OTHER" --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "repo init"
repo_init
convert "oci:$WORK/oci-two:latest"
serve_start

say "before anybody is there"
! "$LAMELLA" images --node >"$WORK/out" 2>&1 || fail "images without a snapshotter"
says "not running: $STATUS_SOCKET"
snapshotter_start LAMELLA_RESOLVE_TIMEOUT=$TIMEOUT_S LAMELLA_SNAPSHOTTER_METRICS=$METRICS
containerd_start lamella
for s in "$STATUS_SOCKET" "$METRICS_SOCKET" "$SNAPSHOTTER_SOCKET"; do
	[ "$(stat -c '%a %F' "$s")" = "600 socket" ] || fail "$s: $(stat -c '%a %F' "$s")"
done
node_is '.images == [] and .layers == [] and .fetcher.state == "unasked" and .on_miss == "pull"'
[ "$(health)" = 200 ] || fail "health before anything was asked"

say "no fetcher"
pull away
fell_back away unreachable "$FETCHER_SOCKET is not there"
node_is '.fetcher.state == "unreachable" and (.fetcher.listens | not)'
[ "$(health)" = 503 ] || fail "health without a fetcher"
! "$LAMELLA" status >"$WORK/out" 2>&1 || fail "all well without a fetcher?"
says "lamella-fetcher is not running" "^lamella-snapshotter " "0 lazy, 0 lossy, 1 fallen back, 0 ordinary" "was not there when it was asked last"

say "lazy"
fetcher_start CVMFS_REPOSITORIES=$FQRN,$OTHER "CVMFS_PUBLIC_KEY=$WORK/keys/$FQRN.pub:$WORK/keys/$OTHER.pub"
pull two
[ "$(label_of two layer)" = lazy ] || fail "two: $(label_of two layer)"
[ "$(label_of two source)" = "$FQRN" ] || fail "two: from $(label_of two source)"
image_is two '.lazy == 2 and .fallen_back + .ordinary + .lossy == 0 and .bytes == 0 and .reason == "" and .containers == 0'
node_is '.fetcher.state == "answers" and .problems == []'
[ "$(health)" = 200 ] || fail "health with a fetcher"
id=$(pod lamella start --log-dir "$WORK/tmp" "$(ref two)")
image_is two '.containers == 1'
node_is ".layers | map(select(.digest == \"$(digest two 0)\")) | .[0] | .containers == 1 and .state == \"lazy\" and .created_s > 1700000000"
"$LAMELLA" images --node --layers >"$WORK/out"
says "^NAME +LAZY +LOSSY +FALLEN +ORDINARY" "^$(ref two) +2 +0 +0 +0 +0 B +1 " "^ +$(digest two 1 | cut -c1-19) +lazy"
"$LAMELLA" status >"$WORK/out"
says "^lamella-snapshotter .* process $(pid_of snapshotter)," "2 lazy, 0 lossy, 2 fallen back" "^  fetcher   answers" \
	"fallen back since the start: 1 absent, 1 unreachable"
[ "$(grep -c '^  cache ' "$WORK/out")" = 1 ] || fail "the cache is not there once: $(cat "$WORK/out")"
"$LAMELLA" status --json | jq -e '.repositories[0].state == "online" and .snapshotter.lazy_layers == 2' >/dev/null || fail "status --json"

say "absent, with what each repository has"
pull mixed
revision=$("$LAMELLA" status --json | jq ".repositories[] | select(.fqrn == \"$FQRN\") | .revision")
other_revision=$("$LAMELLA" status --json | jq ".repositories[] | select(.fqrn == \"$OTHER\") | .revision")
[ "$revision" -gt "$other_revision" ] || fail "revisions $revision and $other_revision"
fell_back mixed absent "$FQRN revision $revision, $OTHER revision $other_revision"
image_is mixed '.lazy == 1 and .fallen_back == 1 and .bytes > 0'

say "metrics"
page /metrics >"$WORK/m1"
curl -sS --max-time 20 "http://$METRICS/metrics" >"$WORK/m2"
python3 "$LM_ROOT/tests/e2e/exposition.py" "$WORK/m1" "$WORK/m2" >"$WORK/out" || fail "the metrics are not as they should be"
grep -qx 'lamella_snapshotter_layers{state="lazy"} 2' "$WORK/m1" || fail "$(cat "$WORK/m1")"
grep -qx 'lamella_snapshotter_fallback_absent_total 2' "$WORK/m1" || fail "$(cat "$WORK/m1")"
page /status | jq -e '.images | length > 1' >/dev/null || fail "status"

say "a layer that appears later is used by the next pull"
convert "oci:$WORK/oci-mixed:latest"
pull again # in the same namespace containerd has what lies below the third layer, and does not ask for it
image_is again '.lazy == 1 and .fallen_back == 2'
lazy_now() {
	sleep 1
	rmi mixed 2>/dev/null || true
	rmi again 2>/dev/null || true
	pull mixed
	node | jq -e --arg r "$(ref mixed)" '.images[] | select(.reference == $r) | .lazy == 2' >/dev/null
}
wait_for 30 "mixed to be lazy" lazy_now

say "refused"
stop snapshotter
snapshotter_start LAMELLA_ON_MISS=fail LAMELLA_RESOLVE_TIMEOUT=$TIMEOUT_S
snapshots >"$WORK/before"
directories >>"$WORK/before"
! pull refused 2>"$WORK/out" || fail "it was pulled"
says "layer $(digest refused 1) is not served lazily, and LAMELLA_ON_MISS=fail: .*$FQRN revision [0-9]+"
nothing_left() { { snapshots && directories; } | cmp -s - "$WORK/before"; }
wait_for 30 "nothing to be left" nothing_left
node_is '.on_miss == "fail" and ([.counters[] | select(.name == "pulls_refused") | .count] == [1])'
stop snapshotter
snapshotter_start LAMELLA_ON_MISS=warn LAMELLA_RESOLVE_TIMEOUT=$TIMEOUT_S
pull refused
fell_back refused absent "$FQRN revision"
grep -q " warn .*layer not served, pulling it layer=$(digest refused 1) " "$WORK/log/snapshotter.log" || fail "no warning"

say "what it takes on the disk"
stop containerd-lamella # which counts a committed snapshot once by its name, and mixed was another before
containerd_start lamella
top=$(chain_id "$WORK/oci-two" latest)
usage=$(ctr_ lamella snapshots --snapshotter lamella usage -b "$top" | tail -n 1)
[[ $usage =~ ^"$top"\ +0\ +0\ *$ ]] || fail "a lazy layer takes: $usage"
ctr_ lamella snapshots --snapshotter lamella prepare written "$top" >/dev/null
upper=$(ctr_ lamella snapshots --snapshotter lamella mounts /x written | grep -oE 'upperdir=[^, ]*' | cut -d= -f2)
before=$(usage_bytes written)
dd if=/dev/urandom of="$upper/data" bs=1M count=8 status=none
for i in {1..20}; do ln "$upper/data" "$upper/link$i"; done
truncate -s 1G "$upper/sparse"
truth=$(($(usage_bytes written) - before))
if [ $truth -lt $((8 << 20)) ] || [ $truth -ge $((9 << 20)) ]; then fail "8 MiB, 20 links and a hole are $truth bytes"; fi
[ "$(usage_inodes written)" = 3 ] || fail "$(usage_inodes written) inodes"
image_filesystem() { # what kubelet is told is the sum of what there is, and its directory exists
	local used dir
	read -r used _ dir < <(cri lamella fsinfo)
	[ -d "$dir" ] && [ "$used" = "$(usage_bytes)" ]
}

say "a fetcher that is stopped"
mapfile -t fetchers < <(pgrep -x lamella-fetcher)
kill -STOP "${fetchers[@]}"
pull silent
fell_back silent timed-out "nothing came from $FETCHER_SOCKET in "
node_is '.fetcher.state == "silent" and .fetcher.listens'
started=$(now_ms)
for i in {1..24}; do
	ctr_ lamella snapshots --snapshotter lamella prepare "hanging-$i" "$top" >"$WORK/tmp/hanging-$i" 2>&1 &
	hanging[i]=$!
done
waiting() { node | jq -e '.fetcher.waiting_questions > 0' >/dev/null; }
wait_for 20 "starts that wait" waiting
began=$(now_ms)
ctr_ lamella snapshots --snapshotter lamella prepare ordinary "$(chain_id "$WORK/oci-away" latest)" >/dev/null
ctr_ lamella snapshots --snapshotter lamella mounts /x ordinary >/dev/null
usage_bytes >/dev/null
snapshots >/dev/null
took=$(($(now_ms) - began))
say "  prepare, mounts, usage of all and a list beside ${#hanging[@]} that wait: $took ms"
[ $took -lt $((TIMEOUT_S * 1000)) ] || fail "that is as long as the fetcher is waited for"
for i in "${!hanging[@]}"; do ! wait "${hanging[i]}" || fail "a container could start without its layers"; done
[ $(($(now_ms) - started)) -ge $((TIMEOUT_S * 900)) ] || fail "nobody waited"
grep -q 'a layer is not being served' "$WORK/tmp/hanging-1" || fail "$(cat "$WORK/tmp/hanging-1")"
kill -CONT "${fetchers[@]}"
ctr_ lamella snapshots --snapshotter lamella rm ordinary
start_again() { ctr_ lamella snapshots --snapshotter lamella prepare again "$top" >/dev/null 2>&1; }
wait_for 30 "starts to work again" start_again
ctr_ lamella snapshots --snapshotter lamella rm again

say "what kubelet is told of the disk, which containerd counts every 10 s"
wait_for 40 "the image file system's figures" image_filesystem
[ "$(cri lamella fsinfo | cut -d' ' -f1)" -lt $((16 << 20)) ] || fail "more than what is there: $(cri lamella fsinfo)"
ctr_ lamella snapshots --snapshotter lamella rm written
wait_for 20 "the space to be given back" test ! -e "$upper"

say "something else at the fetcher's socket"
cri lamella rm "$id"
stop fetcher
# shellcheck disable=SC2016 # of perl
start_socket deaf "$FETCHER_SOCKET" perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) && bind(S, sockaddr_un($ARGV[0])) && listen(S, 9) or die; sleep 1000' "$FETCHER_SOCKET"
pull deaf
fell_back deaf timed-out "nothing came from $FETCHER_SOCKET in "
stop deaf
stop containerd-lamella
stop snapshotter
for s in "$STATUS_SOCKET" "$METRICS_SOCKET"; do [ ! -e "$s" ] || fail "$s is left behind"; done
check_reports
say "passed"
