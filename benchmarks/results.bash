# shellcheck shell=bash
# Results as JSON lines, which `run bench report` reads. Sourced after lib.sh.
#
# A run begins with a line that has `time`; it says which benchmark this is, on what machine, and of what versions:
#
#   {"benchmark": "io", "run": "20260131T120000-4711", "time": "...", "command": "...", "machine": {...}, "versions": {...},
#    "commit": "...", "all": {"image": "tiny"}}
#
# Each line after it is one measurement: what was measured (text, and numbers that were chosen) and its figures. What is in
# `all` is so for each of them.

# shellcheck disable=SC2034 # for those who source this
MEDIAN='def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;' # of jq

commit() {
	local modified=''
	git -C "$LM_ROOT" diff --quiet HEAD 2>/dev/null || modified=', and changes'
	echo "$(git -C "$LM_ROOT" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)$modified"
}

results_begin() { # FILE BENCHMARK [KEY=VALUE...]: the rest is of `all`
	local file=$1 benchmark=$2
	shift 2
	mkdir -p "$(dirname "$file")"
	jq -nc --arg benchmark "$benchmark" --arg run "$(date -u +%Y%m%dT%H%M%S)-$RANDOM" --arg time "$(date -u +%FT%TZ)" \
		--arg command "run bench $benchmark ${arguments[*]:-}" --arg commit "$(commit)" --argjson machine "$(machine)" \
		--argjson versions "$(versions)" '{$benchmark, $run, $time, $command, $commit, $machine, $versions,
		all: ($ARGS.positional | map(split("=") | {(.[0]): .[1:] | join("=")}) | add // {})}' --args "$@" >>"$file"
}

machine() {
	jq -n --arg processor "$(sed -nE 's/^model name\s*: //p' /proc/cpuinfo | sed -n 1p)" --argjson cores "$(nproc)" \
		--argjson memory_mb "$(awk '/^MemTotal/ { printf "%d", $2 / 1024 }' /proc/meminfo)" \
		--arg kernel "$(uname -sr)" --arg architecture "$(uname -m)" --arg system "$(. /etc/os-release && echo "$PRETTY_NAME")" \
		--arg disk "$(findmnt -n -o FSTYPE -T "$LM_BUILD")" --arg load "$(cut -d' ' -f1-3 /proc/loadavg)" '$ARGS.named'
}

version_of() { "$@" 2>&1 | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?[^ ,]*' | sed -n 1p || true; } # COMMAND...
versions() { # of what is there; containerd unpacks by unpigz, later ones by igzip, where these are
	local p
	{
		echo "lamella $(version_of "$LAMELLA" --version)"
		for p in containerd runc unpigz igzip squid docker-registry "$LM_CONTAINERDS/stargz/bin/containerd-stargz-grpc"; do
			! command -v "$p" >/dev/null || echo "${p##*/} $(version_of "$p" --version)"
		done
	} | jq -nR '[inputs | select(test(" ")) | capture("^(?<key>[^ ]*) (?<value>.*)$")] | from_entries'
}
# Those, and what they have started, and so on.
process_tree() { # PID...
	local p
	for p; do
		[ -e "/proc/$p/stat" ] || continue
		echo "$p"
		# shellcheck disable=SC2046
		process_tree $(cat /proc/"$p"/task/*/children 2>/dev/null)
	done
}
