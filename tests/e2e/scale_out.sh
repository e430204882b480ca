#!/usr/bin/env bash
# The benchmark of many nodes, in its smallest form, and the report of what it wrote: each node is there once, the origin's link
# is shared, and Squid fetches for all what one of them asks for.
# time limit: 300 s
# shellcheck disable=SC2016 # the conditions are jq's
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need curl shuf squid ip tc nsenter python3
need_image tiny
need_built "$LM_BUILD/benchmarks/bench-relay" "$LM_BUILD/tests/tools/control"
getent passwd proxy >/dev/null || skip "no user proxy, whom Squid becomes"
[ -e "${LM_SPECS:-$LM_ROOT/../shared/images}/workloads.tsv" ] || skip "no table of workloads: set LM_SPECS"
make_work scale-out-test
RESULTS=$WORK/results/scale-out.jsonl
RATE=100

LM_TMP=$WORK/tmp "$LM_ROOT/benchmarks/scale-out" --nodes 1,2 --rate $RATE --rounds 1 --out "$RESULTS" >"$WORK/output" 2>&1 ||
	fail "the benchmark, exit code $?: $(tail -n 30 "$WORK/output")"
cat "$WORK/output"

check() { # WHAT CONDITION: of the nodes, and of what served so many of them, by way
	jq -es --argjson rate $RATE --argjson size "$(image_bytes "$LM_IMAGES/oci-tiny" latest)" \
		'.[1:] as $all | def nodes($way; $n): $all[] | select(.node and .way == $way and .nodes == $n);
		def served($way; $n): $all[] | select(.servers and .way == $way and .nodes == $n); '"$2" "$RESULTS" >/dev/null || fail "$1: $(cat "$RESULTS")"
	say "$1"
}
check "a line about the machine, then each node and what served it once" '(.[0] | .benchmark == "scale-out" and .machine.cores > 0) and
	($all | length) == 10 and ([$all[] | select(.node)] | length == 6 and (group_by([.way, .nodes, .node]) | all(length == 1)))'
check "an ordinary node receives the image, at the rate of its link" 'all(nodes("ordinary"; 1, 2); .received_bytes > $size and .received_bytes < 1.2 * $size and
	.ms > $size * 8 / $rate / 1000)'
check "two share the link of the origin" '[nodes("ordinary"; 2).ms] | max > $size * 2 * 8 / $rate / 1000'
check "which sends the image to each" 'all(served("ordinary"; 1, 2); .origin_bytes > .nodes * $size and .squid_bytes < 10000)'
check "a lazy node receives a third at most, and is quicker" '[nodes("ordinary"; 1).ms] as [$ordinary] |
	all(nodes("lamella"; 1, 2); .received_bytes > 100000 and .received_bytes * 3 < $size and .ms < $ordinary)'
check "Squid fetches for both nodes what it fetches for one" '[served("lamella"; 1, 2)] | .[1].origin_bytes < 1.3 * .[0].origin_bytes and
	.[1].squid_bytes > 1.7 * .[0].squid_bytes and .[1].squid_hits > 0'
check "each node asks the registry itself" '[served("lamella"; 1, 2)] | .[0].registry_bytes > 0 and .[0].registry_bytes * 20 < .[0].origin_bytes and
	.[1].registry_bytes == 2 * .[0].registry_bytes'
check "processor time of the servers" 'all(served("ordinary"; 1, 2); .registry_cpu_s > 0) and all(served("lamella"; 1, 2); .squid_cpu_s > 0)'

if command -v gnuplot >/dev/null; then
	"$LM_ROOT/benchmarks/report" --results "$WORK/results" >"$WORK/output" || fail "the report: $(cat "$WORK/output")"
	grep -q '^| lamella | 1000 | [0-9.,]* | ' "$WORK/results/report.md" || fail "no thousand nodes: $(cat "$WORK/results/report.md")"
	say "the report has them"
else
	say "gnuplot is not installed: no report made"
fi
