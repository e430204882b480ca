# shellcheck shell=bash
# A network of a benchmark's own: hosts, each in a network namespace, with one link each to a switch. Sourced after lib.sh;
# used inside isolate, which takes it all away again. The links have a bandwidth, by tbf, each way; the origin, where registry and
# repository are, is behind a relay (bench_relay.c) that makes the way to it long.
#
# Network namespaces only: all processes and mounts are where they would be without.

shopt -s inherit_errexit # what fails on the way to a figure must not become one

NET=198.18.0 # of those that are reserved for benchmarks
ORIGIN=$NET.2 SQUID=$NET.3
RELAY=$LM_BUILD/benchmarks/bench-relay
SQUID_PORT=3128
SQUID_CACHE_MB=16000

in_host() { nsenter --net="/run/netns/$1" "${@:2}"; } # HOST COMMAND...
on_host() { # HOST FUNCTION...: the daemons that it starts
	local START_BY=(nsenter --net="/run/netns/$1")
	"${@:2}"
}

need_net() {
	need ip tc nsenter
	need_built "$RELAY"
}

net_start() { # the script itself is on host `node`
	ip netns add switch
	ip -n switch link add bridge type bridge
	ip -n switch link set bridge up
	ip netns attach node $$
	net_link node 1
}
net_link() { # HOST NUMBER
	ip link add wire netns "$1" type veth peer name "$1" netns switch ||
		fail "no pair of network interfaces: is there CONFIG_VETH?"
	ip -n switch link set "$1" master bridge up
	ip -n "$1" address add "$NET.$2/24" dev wire
	ip -n "$1" link set wire up
}
net_host() { # HOST NUMBER
	ip netns add "$1"
	ip -n "$1" link set lo up
	net_link "$@"
}

# Bursts of a millisecond (of a large packet at least), queues of 50.
net_shape() { # MBIT HOST...
	local mbit=$1 host shape
	shift
	shape=(rate "${mbit}mbit" burst $((mbit > 160 ? mbit * 125 : 20000)) limit $((mbit * 125 * 50)))
	for host; do
		tc -n "$host" qdisc replace dev wire root tbf "${shape[@]}"
		tc -n switch qdisc replace dev "$host" root tbf "${shape[@]}"
	done
}

# What a host received and sent so far, headers included, of large packets one.
net_bytes() { in_host "$1" awk '$1 == "wire:" { printf "%.0f %.0f\n", $2, $10 }' /proc/self/net/dev; } # HOST

# --- workloads --------------------------------------------------------------------------------------------------------

WORKLOADS=${LM_SPECS:-$LM_ROOT/../shared/images}/workloads.tsv
need_workloads() { [ -e "$WORKLOADS" ] || skip "no table of workloads: set LM_SPECS"; }
usual_workload() { # IMAGE
	case $1 in
	tiny) echo python ;;
	analysis) echo fit ;;
	atlas) echo athena ;;
	*) echo shell ;;
	esac
}
# Column 3 is the line that is expected of it, 4 the command.
workload() { # IMAGE NAME COLUMN
	awk -F'\t' -v image="$1" -v name="$2" -v column="$3" '$1 !~ /^#/ && index("," $1 ",", "," image ",") && $2 == name { print $column; exit }' "$WORKLOADS"
}

# --- the origin -------------------------------------------------------------------------------------------------------

MANIFESTS='application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json'

# Registry and repository by their names in lib.sh, as everybody is to call them; they listen behind the relay.
origin_start() {
	net_host origin "${ORIGIN##*.}"
	REGISTRY=127.0.0.1:5000 on_host origin registry_start
	WEB=127.0.0.1:8000 on_host origin serve_start
	REGISTRY=$ORIGIN:5000 WEB=$ORIGIN:8000
	relay_start 0
}
relay_start() { # RTT_MS
	[ ! -e "$WORK/run/relay.pid" ] || stop relay
	on_host origin start_listening relay "$ORIGIN:5000" "$RELAY" --rtt-ms "$1" \
		"$ORIGIN:5000=127.0.0.1:5000" "$ORIGIN:8000=127.0.0.1:8000"
}

# What it serves comes from its memory, whoever asks and whatever was there before: it is read once, ahead of time. Files of
# $WORK, a line each: what a pull reads, what was asked of the repository since web_mark, and all those in the input read.
registry_files() { # NAME TAG...
	local tag digests digest
	for tag in "${@:2}"; do
		digests=$(curl -sSf "http://$REGISTRY/v2/$1/manifests/$tag" -H "Accept: $MANIFESTS" | jq -r '.config.digest, .layers[].digest')
		for digest in $digests; do
			digest=${digest#sha256:}
			echo "registry/docker/registry/v2/blobs/sha256/${digest:0:2}/$digest/data"
		done
	done
}
repository_files() { web_log | sed -nE 's|.*"GET /([^ ]*) [^"]*" 20[06] .*|storage/\1|p' | sort -u; }
read_ahead_of_time() { (cd "$WORK" && sort -u | xargs -r cat >/dev/null); }

# --- Squid ------------------------------------------------------------------------------------------------------------

squid_host() { net_host squid "${SQUID##*.}"; }
# With an empty cache. As CVMFS's guide for sites wants it, but that it keeps whole layers, too.
squid_start() {
	local dir=/run/squid
	[ ! -e "$WORK/run/squid.pid" ] || squid_stop
	mkdir -p "$dir/cache" "$WORK/squid"
	mount --bind "$WORK/squid" "$dir/cache" # on the disk, where Squid's user may not go otherwise
	cat >"$dir/conf" <<-END
		http_port $SQUID_PORT
		http_access allow all
		pid_filename none
		access_log stdio:$dir/access.log
		cache_log $dir/cache.log
		coredump_dir $dir
		collapsed_forwarding on
		minimum_expiry_time 0
		cache_mem 256 MB
		maximum_object_size_in_memory 128 KB
		maximum_object_size 8 GB
		cache_dir aufs $dir/cache $SQUID_CACHE_MB 4 16
		pinger_enable off
		netdb_filename none
		shutdown_lifetime 0 seconds
		visible_hostname squid.lamella.test
		cache_effective_user proxy
	END
	touch "$dir/access.log" "$dir/cache.log"
	chown -R proxy:proxy "$dir"
	squid -N -z -f "$dir/conf" >"$WORK/log/squid-z.log" 2>&1 || fail "squid -z: $(tail -n 3 "$WORK/log/squid-z.log" "$dir/cache.log")"
	on_host squid start_listening squid "$SQUID:$SQUID_PORT" squid -N -f "$dir/conf"
}
squid_stop() {
	stop squid
	umount /run/squid/cache
	rm -rf "$WORK/squid" /run/squid
}
squid_mark() { SQUID_MARK=$(stat -c %s /run/squid/access.log); }
squid_log() { tail -c +$((SQUID_MARK + 1)) /run/squid/access.log; } # of Squid's own form: the 4th column says hit or miss, the 5th how many bytes

# --- what processes took ----------------------------------------------------------------------------------------------

# Prints clock ticks of processor time, also of children that ended, bytes written to disk, and the most memory, in KiB, of a
# daemon and its children; of memory the sum of each one's most.
used_by() { # NAME
	local p files=()
	for p in $(process_tree "$(pid_of "$1")"); do files+=("/proc/$p/stat" "/proc/$p/io" "/proc/$p/status"); done
	# A child may have ended meanwhile.
	{ cat "${files[@]}" 2>/dev/null || true; } | awk '/^[0-9]+ \(/ { sub(/.*\) /, ""); ticks += $12 + $13 + $14 + $15 }
		/^write_bytes:/ { written += $2 } /^cancelled_write_bytes:/ { written -= $2 } /^VmHWM:/ { peak += $2 }
		END { printf "%.0f %.0f %.0f\n", ticks, written, peak }'
}
forget_peaks() { # NAME...: of memory the most from now on
	local d p
	for d; do
		for p in $(process_tree "$(pid_of "$d")"); do echo 5 >"/proc/$p/clear_refs"; done
	done
}
