#!/usr/bin/env bash
# Reports of benchmarks: the tables have the figures of the samples, the page needs nothing beside it, a comparison tells
# changes from noise, and results that can't be read are no results.
# time limit: 60 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need python3 jq gnuplot
make_work report
REPORT=$LM_ROOT/benchmarks/report
mkdir "$WORK"/{now,before}

# results DIR LAMELLA_MS ORDINARY_MS ROUNDS: starts that take as long, give or take five per cent, at each round-trip time
results() {
	python3 - "$@" <<'END'
import json, sys
dir, lamella, ordinary, rounds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
machine = {"processor": "a <processor>", "cores": 2, "memory_mb": 24000, "kernel": "Linux 6", "architecture": "x86_64", "system": "Debian", "disk": "ext2/ext3"}
def begin(benchmark, **all):
    return {"benchmark": benchmark, "run": "1", "time": "2026-01-01T00:00:00Z", "command": f"run bench {benchmark} --rounds {rounds}", "commit": "abc",
            "machine": machine, "versions": {"lamella": "0.1"}, "all": all}
def write(name, lines):
    with open(f"{dir}/{name}.jsonl", "w") as f:
        f.writelines(json.dumps(l) + "\n" for l in lines)
starts = [begin("startup")]
for r in range(rounds):
    noise = 1 + 0.05 * (r / max(rounds - 1, 1) * 2 - 1)
    for way, ms, mb in (("lamella", lamella, 7), ("ordinary", ordinary, 70)):
        for rtt in (0, 10, 50):
            starts.append({"round": r + 1, "image": "tiny", "workload": "python", "way": way, "rate_mbit": 1000, "rtt_ms": rtt, "via": "direct", "start": "cold",
                           "total_ms": ms * noise + 12 * rtt, "pull_ms": ms / 2, "create_ms": 10, "start_ms": 20, "output_ms": ms / 2 - 30,
                           "received_bytes": mb * 1e6, "image_bytes": 70e6, "published": "0ld", "origin_bytes": mb * 1e6, "requests": 90, "written_bytes": {"containerd": 1e6, "fetcher": 2e6},
                           "standing_bytes": 7e5, "cpu_s": {"containerd": 0.25, "fetcher": 0.5, "serve": 0.2}, "peak_kib": {"containerd": 51200, "fetcher": 20480}})
write("startup", starts)
write("io-tiny", [begin("io", image="tiny", trees="yes")] + [
    {"round": r, "side": s, "loop": "stat", "cache": c, "ns": ns * 1e6, "cpu_ns": 1e6, "fetcher_ns": 1e5, "requests": 3}
    for r in (1, 2, 3) for s, ns in (("native", 100), ("lamella", 125)) for c in ("cold", "warm")])
write("convert-tiny", [begin("convert", image="tiny")] + [
    {"what": w, "round": r, "tag": "latest", "ms": ms, "rss": 40960, "report": None} for r in (1, 2, 3) for w, ms in (("ordinary", 2000), ("lamella", 3000))])
write("wire-tiny", [begin("wire"), {"image": "tiny", "workload": "python", "trees": "no", "wire": 4000000, "requests": 60, "catalogs": 300000, "kernel": 1,
                                    "touched": 5000000, "files": 1, "ms": 1, "read_ahead_kb": 128, "tree": 0}])
write("snapshots", [begin("snapshots")] + [{"benchmark": "snapshots", "service": s, "call": "Prepare", "snapshots": 10, "unit": "us", "rounds": 5, "min": 90.0, "median": 100.0,
                                            "max": 110.0, "ratio": 1.0} for s in ("overlayfs", "lamella")] + [
    {"benchmark": "snapshots", "what": "memory", "unit": "KiB", "value": 20480}])
# A node takes 50 ms of Squid's link: with 1000 of them the last is ready after 50 s, not after the second that one needs.
scale = [begin("scale-out")]
for n in (1, 2):
    case = {"image": "tiny", "workload": "python", "rate_mbit": 1000, "rtt_ms": 1, "way": "lamella", "nodes": n, "round": 1}
    scale += [case | {"node": i + 1, "ms": 1000 * (i + 1), "received_bytes": 6250000} for i in range(n)]
    scale.append(case | {"servers": True, "origin_bytes": 6e6 + 8000 * n, "registry_bytes": 8000 * n, "squid_bytes": 6.25e6 * n, "origin_requests": 80, "registry_cpu_s": 0, "serve_cpu_s": 0.1,
                         "squid_cpu_s": 0.01 * n, "squid_requests": 80 * n, "squid_hits": 80 * (n - 1)})
write("scale-out", scale)
END
}
report() { "$REPORT" --results "$WORK/now" "$@" >"$WORK/output" 2>"$WORK/errors" || fail "the report: $(cat "$WORK/output" "$WORK/errors")"; }
row() { grep -qF -- "$1" "$WORK/now/report.md" || fail "no row $1 in $(cat "$WORK/now/report.md")"; } # TEXT

say "tables"
results "$WORK/now" 400 4000 5
report
row '| startup | 2026-01-01T00:00:00Z | 5 | abc |'
row '| convert | 2026-01-01T00:00:00Z | 3 | abc |'
row 'Images were published before, by commit 0ld.'
row '| cold | 1000 Mb/s, 0 ms, direct | 4.00 (3.80–4.20) | 0.40 (0.38–0.42) | 10.0 |'
row '| lamella | 1000 Mb/s, 10 ms, direct | 200 | 10.0 | 20.0 | 170 | 0.70 | 7.00 | – | 10.0 | 90 | 7.00 | 3.00 |'
row '| lamella | fetcher | 0.50 (0.50–0.50) | 20.0 (20.0–20.0) |'
row '| lamella | 1000 Mb/s, 10 ms, direct | 0.52 | 90 | 12.0 | 0.12 | 0.056 | 0.34 | 0.75 | 0.20 |' # twelve round trips, as they were made
row '| stat, cold | 100 (100–100) | 125 (125–125) | 1.25 (1.25–1.25) | 1.10 (1.10–1.10) | 3 |'
row '| tiny:latest | lamella | 3.00 (3.00–3.00) | 1.50 (1.50–1.50) | 40.0 |'
row '| tiny, python | layers | 4.00 | 60 | 0.30 | 0 | 5.00 | 0.80 |'
row '| Prepare | 10 | lamella | 100 (90.0–110) | 1.00 |'
row 'Memory of the snapshotter with the most snapshots: 20.0 MiB.'
row "| lamella | 1000 | 50.0 | Squid's link | Squid's link 50.0 ms, Squid's processor 10.0 ms | 14.0 |"
row '| 1000 Mb/s, 0 ms, direct | loopback | 2.67 | 0.23 | – | 4.00 | 0.34 | 0.40 | 0.86 |'
row './run bench startup --rounds 5'

say "aims, with the figures that decide"
aims() { # LAMELLA_MS SECOND_MS BYTES: of atlas, beside an ordinary pull of 60 s, a second start of 1 s, and stargz of 3 s
	python3 - "$WORK/now/startup.jsonl" "$@" <<'END'
import json, sys
file, lamella, second, size = sys.argv[1], *map(float, sys.argv[2:])
lines = open(file).read().splitlines()[:1]
for r in range(5):
    for way, start, ms, received in (("ordinary", "cold", 60000, 3e9), ("ordinary", "warm", 1000, 0), ("stargz", "cold", 3000, 2e8), ("lamella", "cold", lamella, size),
                                     ("lamella", "warm", second, 0)):
        lines.append(json.dumps({"round": r + 1, "image": "atlas", "workload": "athena", "way": way, "rate_mbit": 1000, "rtt_ms": 1, "via": "direct", "start": start,
                                 "total_ms": ms, "pull_ms": 1, "create_ms": 1, "start_ms": 1, "output_ms": 1, "received_bytes": received, "image_bytes": 3e9, "origin_bytes": 1,
                                 "standing_bytes": 0, "requests": 1, "written_bytes": {}, "cpu_s": {}, "peak_kib": {}}))
open(file, "w").write("\n".join(lines) + "\n")
END
	report
	row '| stargz-opt by lamella, seconds | more than 1 | – | – | not measured |'
}
aims 2000 1200 90e6 # each just met
row '| ordinary pull by lamella, seconds | at least 30 | 30.0 | 30.0 | met |'
row '| bytes received, % of the compressed image | at most 3 | 3.00 | 3.00 | met |'
row '| stargz by lamella, seconds | more than 1 | 1.50 | 1.50 | met |'
row '| stock CVMFS, scaled, by lamella, seconds | more than 1 | 1.64 | 1.64 | met |'
row '| second start, lamella by ordinary, seconds | at most 1.2 | 1.20 | 1.20 | met |'
aims 3500 1300 91e6 # each just missed
row '| ordinary pull by lamella, seconds | at least 30 | 17.1 | 17.1 | MISSED |'
row '| bytes received, % of the compressed image | at most 3 | 3.03 | 3.03 | MISSED |'
row '| stargz by lamella, seconds | more than 1 | 0.86 | 0.86 | MISSED |'
row '| stock CVMFS, scaled, by lamella, seconds | more than 1 | 0.94 | 0.94 | MISSED |'
row '| second start, lamella by ordinary, seconds | at most 1.2 | 1.30 | 1.30 | MISSED |'
results "$WORK/now" 400 4000 5
report
! grep -q 'What was aimed at' "$WORK/now/report.md" || fail "aims of an image that was not measured"

say "one page with everything in it"
page=$WORK/now/report.html
python3 - "$page" <<'END' || fail "the page"
import html.parser, sys
class Page(html.parser.HTMLParser):
    drawn, open = 0, []
    def handle_starttag(self, tag, attrs):
        self.drawn += tag == "svg"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                sys.exit(f"{tag} wants {value}")
            if tag in ("script", "link"):
                sys.exit(f"<{tag}>")
text = open(sys.argv[1]).read()
page = Page()
page.feed(text)
if page.drawn != 4:  # starts, their bytes, io, scale-out
    sys.exit(f"{page.drawn} plots")
if "a &lt;processor&gt;" not in text or "<processor>" in text:
    sys.exit("text is not escaped")
END
while read -r svg; do
	python3 -c 'import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])' "$WORK/now/$svg" || fail "$svg is no drawing"
done < <(grep -oE 'report-[^)]*\.svg' "$WORK/now/report.md")

changed() { # NUMBER WHAT
	report --compare "$WORK/before"
	grep -qx "changed beyond the noise: $1" "$WORK/output" || fail "$2: $(cat "$WORK/output"; sed -n '/What has changed/,/^## From/p' "$WORK/now/report.md")"
	say "$2: $1"
}
results "$WORK/before" 400 4000 5
changed 0 "the same again"
results "$WORK/before" 420 4000 5
changed 0 "slower by five per cent, where the rounds differ by ten"
results "$WORK/before" 800 4000 5
changed 3 "slower by 400 ms, at each of the round-trip times"
row '| startup | tiny, python, direct, 1000, 0, cold, lamella | total_ms | 800 (760–840) | 400 (380–420) | -50 % |'
results "$WORK/before" 800 4000 3
changed 0 "the same of three rounds, which tell nothing"
sed -i 's/"wire": 4000000/"wire": 5000000/' "$WORK/before/wire-tiny.jsonl"
changed 1 "a count that was measured once"
! grep -q 'Not on the same machine' "$WORK/now/report.md" || fail "another machine, though it is the same"
sed -i 's/"cores": 2/"cores": 4/' "$WORK/before/"*.jsonl
changed 1 "the same on another machine"
grep -q 'Not on the same machine' "$WORK/now/report.md" || fail "no word of another machine"

say "of what was measured twice, the later"
results "$WORK/before" 400 4000 5
sed 's/2026-01-01/2026-01-02/; s/"total_ms": [0-9.]*/"total_ms": 1000/' "$WORK/before/startup.jsonl" >>"$WORK/now/startup.jsonl"
report
row '| cold | 1000 Mb/s, 0 ms, direct | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) | 1.00 |'

refused() { # TEXT
	! "$REPORT" --results "$WORK/before" >"$WORK/output" 2>&1 || fail "a report of $1"
	grep -q "$1" "$WORK/output" || fail "no word of $1: $(cat "$WORK/output")"
	say "refused: $(cat "$WORK/output")"
}
echo '{"round": 1' >>"$WORK/before/wire-tiny.jsonl"
refused 'wire-tiny.jsonl:3: '
echo '{"round": 1}' >"$WORK/before/wire-tiny.jsonl"
refused 'wire-tiny.jsonl:1: no line before it says what was run'
rm "$WORK"/before/*
refused 'no results in'
