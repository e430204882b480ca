#!/usr/bin/env bash
# The benchmark of starts, in its smallest form, and the report of what it wrote: each start is there once, with figures that
# can be true.
# time limit: 300 s
# shellcheck disable=SC2016 # the conditions are jq's
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need curl shuf ip tc nsenter python3
need_image tiny
need_built "$LM_BUILD/benchmarks/bench-relay"
[ -e "${LM_SPECS:-$LM_ROOT/../shared/images}/workloads.tsv" ] || skip "no table of workloads: set LM_SPECS"
make_work startup-test
RESULTS=$WORK/results/startup.jsonl
RTT=20 RATE=100

VIA=direct
[ -z "$LM_ALL" ] || ! command -v squid >/dev/null || VIA+=,squid
LM_TMP=$WORK/tmp "$LM_ROOT/benchmarks/startup" --image tiny --workloads python --ways ordinary,lamella --rate $RATE --rtt $RTT --via $VIA \
	--rounds 1 --out "$RESULTS" >"$WORK/output" 2>&1 || fail "the benchmark, exit code $?: $(tail -n 30 "$WORK/output")"
cat "$WORK/output"

# check WHAT CONDITION: of $all, the samples, by way, start and network.
check() {
	jq -es --arg via "$VIA" --argjson rtt $RTT --argjson rate $RATE --argjson size "$(image_bytes "$LM_IMAGES/oci-tiny" latest)" \
		'.[1:] as $all | def of($way; $start; $via): $all[] | select(.way == $way and .start == $start and .via == $via);
		def each($way; $start): $all[] | select(.way == $way and .start == $start); '"$2" "$RESULTS" >/dev/null || fail "$1: $(cat "$RESULTS")"
	say "$1"
}
vias=$([ $VIA = direct ] && echo 1 || echo 3)
check "a line about the machine, then each start once" '(.[0] | .benchmark == "startup" and .machine.cores > 0 and .commit != "") and
	($all | length) == 6 * '"$vias"' and ($all | group_by([.way, .start, .via]) | all(length == 1))'
check "the parts of a start are all of it" 'all($all[]; .total_ms > 0 and .output_ms >= 0 and
	((.pull_ms + .create_ms + .start_ms + .output_ms - .total_ms) | fabs) <= 1)'
check "an ordinary pull moves the image, at the rate of the link" '[of("ordinary"; "cold"; "direct")] | length == 1 and all(.[];
	.received_bytes > $size and .received_bytes < 1.2 * $size and .total_ms > $size * 8 / $rate / 1000 and .written_bytes.containerd > $size)'
check "a lazy start moves a third of it at most, and is quicker" '[of("lamella"; "cold"; "direct"), of("ordinary"; "cold"; "direct")] |
	.[0].received_bytes * 3 < $size and .[0].received_bytes > 100000 and .[0].total_ms < .[1].total_ms'
check "round trips are in it: manifest and configuration at least" 'all(each("ordinary", "lamella"; "cold") | select(.via == "direct"); .pull_ms >= 2 * $rtt)'
check "a second start moves nothing to speak of" 'all(each("ordinary", "lamella"; "warm"); .received_bytes < 200000 and .pull_ms < 200)'
check "another image with the same layers moves its own one" '[of("ordinary"; "shared"; "direct")] | all(.[]; .received_bytes > 3000000 and .received_bytes < 5000000)'
check "what a node has before is said" 'all(each("lamella"; "cold"); .standing_bytes > 0 and .standing_bytes < 1000000) and all(each("ordinary"; "cold"); .standing_bytes < 10000) and
	all($all[]; .published == $all[0].published and (.published | test("^[0-9a-f]{12}|unknown")))'
check "every daemon is counted" 'all(each("lamella"; "cold"); (.cpu_s | has("containerd", "snapshotter", "fetcher", "serve", "registry", "relay")) and
	.cpu_s.fetcher > 0 and .peak_kib.fetcher > 1000 and .peak_kib.containerd > 1000)'
[ $VIA = direct ] || check "a warm Squid spares the origin" '[of("lamella"; "cold"; "squid-cold"), of("lamella"; "cold"; "squid-warm")] |
	.[0].origin_bytes > 4 * .[1].origin_bytes and .[1].origin_requests * 2 < .[1].requests'

if command -v gnuplot >/dev/null; then
	"$LM_ROOT/benchmarks/report" --results "$WORK/results" >"$WORK/output" || fail "the report: $(cat "$WORK/output")"
	grep -q '^| cold | 100 Mb/s, 20 ms, direct | [0-9.]* | [0-9.]* | [0-9.]* |$' "$WORK/results/report.md" || fail "no row of the cold start: $(cat "$WORK/results/report.md")"
	say "the report has them"
else
	say "gnuplot is not installed: no report made"
fi
