#!/usr/bin/env bash
# What `lamella convert` is like for those who run it: events as JSON, a dry run that changes nothing, two at once, one that
# is interrupted, a terminal; as an ordinary user without capabilities in 512 MB of memory.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need docker-registry skopeo jq python3 tar setpriv script
need_built "$ALONE" "$LAMELLA"
need_image tiny
BIG=edge
[ -z "$LM_ALL" ] || BIG=analysis
need_image $BIG
isolate people

TINY=$LM_IMAGES/oci-tiny
REPO=$WORK/storage/cvmfs/$FQRN
RSS_MAX_KIB=$((300 << 10))
MEMORY_MAX=$((512 << 20))

mkdir "$WORK/tree"
head -c 3000000 /dev/urandom >"$WORK/tree/noise"
for i in $(seq 50); do echo "file $i" >"$WORK/tree/file$i"; done
tar -C "$WORK/tree" -cf "$WORK/tmp/tree.tar" .
LAYER_GZIP=1 make_layout "$WORK/oci-small" "$WORK/tmp/tree.tar" /x
# Bytes that no compression makes less, enough of them that a conversion takes its time.
head -c 100000000 /dev/urandom >"$WORK/tree/noise"
tar -C "$WORK/tree" -cf "$WORK/tmp/tree.tar" noise
make_layout "$WORK/oci-large" "$WORK/tmp/tree.tar" /x
rm -r "$WORK/tree"

revision() { "$LAMELLA" repo info "$FQRN" --json | jq .revision; }
checked() { "$LAMELLA" repo check "$FQRN" --objects --quiet >>"$WORK/log/check.log" 2>&1 || fail "repo check: $1"; }
# All of the storage: names, contents, modes, times.
storage() { (cd "$WORK/storage" && find . -printf '%p %y %m %s %T@ %l\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
fresh_repo() {
	rm -rf "$WORK/storage" "$WORK/keys" "$LAMELLA_CONFIG_DIR"
	repo_init
}
nothing_left() { [ -z "$(ls "$REPO/data/txn")" ] || fail "$1: left behind: $(ls "$REPO/data/txn")"; }

# --- events -----------------------------------------------------------------------------------------------------------

say "events: each line an object, the last one the report"
fresh_repo
"$LAMELLA" convert --json --repo "$FQRN" "oci:$TINY:latest" "oci:$WORK/oci-small" "oci:$TINY:latest" >"$WORK/events" 2>"$WORK/err" ||
	fail "convert: $(cat "$WORK/err")"
[ ! -s "$WORK/err" ] || fail "said on standard error: $(cat "$WORK/err")"
jq -es 'all(type == "object" and (.event | type) == "string")' <"$WORK/events" >/dev/null || fail "no events: $(head -c 500 "$WORK/events")"
[ "$(wc -l <"$WORK/events")" = "$(jq -cs length <"$WORK/events")" ] || fail "not one object a line"
jq -es '[.[] | select(.event == "image")] | length == 3 and .[0].layers == 2 and .[0].fetch_bytes > 0 and .[2].fetch_bytes == 0' \
	<"$WORK/events" >/dev/null || fail "events of images: $(grep '"image"' "$WORK/events")"
jq -es '[.[] | select(.event == "layer" and .state == "begin") | .digest] == [.[] | select(.event == "layer" and .state == "converted") | .digest] and
	([.[] | select(.event == "layer" and .state == "present")] | length) == 2' <"$WORK/events" >/dev/null || fail "events of layers"
jq -es 'map(.event) | index("publish") == length - 2 and .[-1] == "report"' <"$WORK/events" >/dev/null || fail "the end: $(tail -n 3 "$WORK/events")"
tail -n 1 "$WORK/events" | jq -e '.revision == 2 and .changed and (.images | length) == 3 and
	(.summary | .layers == 5 and .layers_converted == 3 and .skipped_bytes > 0 and .unpacked_bytes > .fetched_bytes and
		.content_bytes > .bytes_stored and .content_bytes > .known_bytes and
		(.stages | keys) == ["catalogs", "compress", "fetch", "inflate", "publish", "store", "tar"] and
		([.stages[].seconds] | add) > 0 and .stages.compress.seconds > 0 and .stages.publish.seconds > 0 and
		(.bottleneck as $b | .stages | has($b) and .[$b].held_up == ([.[].held_up] | max))) and
	([.images[].layers[].blob_bytes] | add) == .summary.fetched_bytes + .summary.skipped_bytes' >/dev/null ||
	fail "the report: $(tail -n 1 "$WORK/events")"
"$LAMELLA" convert --json --repo "$FQRN" "oci:$WORK/nowhere" >"$WORK/events" 2>/dev/null && fail "converted from nowhere"
tail -n 1 "$WORK/events" | jq -e '.event == "error" and (.message | contains("nowhere"))' >/dev/null || fail "the error: $(cat "$WORK/events")"

# --- a dry run --------------------------------------------------------------------------------------------------------

say "a dry run: says what would be, changes not one byte, waits for nobody"
fresh_repo
convert "oci:$WORK/oci-small"
storage >"$WORK/before"
exec 9<"$REPO/.lamella-publish.lock"
flock -n 9 || fail "the lock is held"
"$LAMELLA" convert --dry-run --json --repo "$FQRN" "oci:$TINY:latest" "oci:$WORK/oci-small" >"$WORK/out" || fail "a dry run: $(cat "$WORK/out")"
"$LAMELLA" convert --dry-run --repo "$FQRN" "oci:$WORK/oci-large" --name "localhost/oci-small:latest" >"$WORK/text" || fail "a dry run: $(cat "$WORK/text")"
exec 9<&-
storage | cmp -s - "$WORK/before" || fail "the storage changed: $(storage | diff "$WORK/before" - | head)"
bytes=$(image_bytes "$TINY" latest)
jq -e --argjson b "$bytes" '.event == "plan" and .changed and .layers == 3 and .fetch_layers == 2 and .fetch_bytes == $b and
	([.images[].state] == ["new", "unchanged"]) and ([.images[0].layers[].state] == ["fetch", "fetch"]) and
	.images[1].layers[0].state == "present"' "$WORK/out" >/dev/null || fail "the plan: $(cat "$WORK/out")"
grep -q 'replaced, instead of sha256:' "$WORK/text" || fail "the plan: $(cat "$WORK/text")"
grep -q '^1 of 1 layers would be fetched' "$WORK/text" || fail "the plan: $(cat "$WORK/text")"
"$LAMELLA" convert --dry-run --repo "$FQRN" "oci:$WORK/oci-small" | has '^nothing would change: revision 2$' || fail "nothing to do, but planned"
"$LAMELLA" convert --dry-run --repo "$FQRN" "oci:$WORK/nowhere" 2>/dev/null && fail "a plan for nowhere"

# --- two at once ------------------------------------------------------------------------------------------------------

say "two at once: one waits and says for whom, both are published"
fresh_repo
start first "$LAMELLA" convert --repo "$FQRN" "oci:$WORK/oci-large"
first=$(pid_of first)
holds() { grep -qx "pid=$first" "$REPO/.lamella-publish.lock" 2>/dev/null; }
wait_for 20 "the first one's lock" holds
code=0
"$LAMELLA" convert --no-wait --repo "$FQRN" "oci:$WORK/oci-small" >"$WORK/out" 2>&1 || code=$?
[ $code = 1 ] || fail "--no-wait: exit code $code"
grep -qE "process $first is publishing to this repository \(lamella convert, since 20[0-9-]+T[0-9:]+Z\)" "$WORK/out" || fail "--no-wait: $(cat "$WORK/out")"
start second "$LAMELLA" convert --repo "$FQRN" "oci:$WORK/oci-small"
wait_for 20 "the second one's word" grep -q "process $first is publishing .*; waiting for it to end" "$WORK/log/second.log"
for name in first second; do
	wait "$(pid_of $name)" || fail "the $name one failed"
done
[ "$(revision)" = 3 ] || fail "revision $(revision)"
for image in oci-large oci-small; do
	"$LAMELLA" inspect tree "$REPO/" --no-content 2>/dev/null | has " /\?.metadata/localhost/$image:latest/manifest.raw$" || fail "$image is lost"
done
checked "two at once"
nothing_left "two at once"

# --- interrupted ------------------------------------------------------------------------------------------------------

# A signal as from a terminal or a manager. Background jobs of a shell ignore SIGINT; this asks for it.
interrupt() { # SIGNAL SOURCE: some megabytes after it has the lock, or a second; exit code in $CODE, milliseconds in $TOOK
	CODE=0
	python3 - "$1" "$REPO/.lamella-publish.lock" "$LAMELLA" convert --repo "$FQRN" "$2" >"$WORK/out" 2>"$WORK/err" <<-'END' || CODE=$?
		import os, signal, subprocess, sys, time
		number = getattr(signal, sys.argv[1])
		signal.signal(signal.SIGINT, signal.default_int_handler)
		child = subprocess.Popen(sys.argv[3:])
		while not any(l == f"pid={child.pid}\n" for l in open(sys.argv[2])):
		    time.sleep(0.01)
		def written():
		    return int(open(f"/proc/{child.pid}/io").read().split("wchar: ")[1].split()[0])
		locked = time.monotonic()
		while written() < 5e6 and time.monotonic() < locked + 1:
		    time.sleep(0.01)
		begin = time.monotonic()
		child.send_signal(number)
		code = child.wait()
		print(int((time.monotonic() - begin) * 1000))
		sys.exit(128 - code if code < 0 else code)
	END
	TOOK=$(tail -n 1 "$WORK/out")
}
fresh_repo
convert "oci:$WORK/oci-small"
cp "$REPO/.cvmfspublished" "$WORK/published"
for signal in SIGINT:130 SIGTERM:143 SIGHUP:129; do
	say "${signal%:*}"
	interrupt "${signal%:*}" "oci:$WORK/oci-large"
	[ $CODE = "${signal#*:}" ] || fail "exit code $CODE: $(cat "$WORK/err")"
	[ "$TOOK" -lt 5000 ] || fail "it took $TOOK ms"
	grep -q 'interrupted: nothing is published, the repository is as it was' "$WORK/err" || fail "said: $(cat "$WORK/err")"
	cmp -s "$REPO/.cvmfspublished" "$WORK/published" || fail "something was published"
	nothing_left "interrupted"
done
checked "interrupted"
say "interrupted while a registry does not answer"
start_listening mute "$REGISTRY" python3 -c 'import socket, time
s = socket.create_server(("127.0.0.1", 5000))
keep = []
while True: keep.append(s.accept())'
interrupt SIGINT "docker://$REGISTRY/x:1"
[ $CODE = 130 ] || fail "exit code $CODE: $(cat "$WORK/err")"
[ "$TOOK" -lt 2000 ] || fail "it took $TOOK ms"
nothing_left "interrupted"
stop mute KILL
convert "oci:$WORK/oci-large"
checked "after interruptions"

# --- a terminal -------------------------------------------------------------------------------------------------------

on_terminal() { # ENVIRONMENT... : what a terminal of 70 columns gets, in $WORK/typescript
	fresh_repo
	env "$@" script -qefc "stty cols 70 rows 12; exec '$LAMELLA' convert --repo '$FQRN' 'oci:$WORK/oci-large'" "$WORK/typescript" >/dev/null </dev/null ||
		fail "on a terminal: $(tail -n 3 "$WORK/typescript")"
	sed -i '1d;$d' "$WORK/typescript" # script's own lines
}
esc=$'\033'
say "on a terminal"
on_terminal TERM=xterm NO_COLOR=
grep -q "layer 1/1  .*${esc}\[32m#" "$WORK/typescript" || fail "no progress"
grep -qE 'MB of 100\.[0-9] MB .*left' "$WORK/typescript" || fail "no remaining time"
# Each line on the screen fits in what there is.
! sed "s/$esc\[[0-9;]*[A-Za-z]/\n/g" "$WORK/typescript" | tr '\r' '\n' | grep -E '^layer .{70}' || fail "a line is too long"
on_terminal TERM=xterm NO_COLOR=1
grep -q "layer 1/1" "$WORK/typescript" || fail "no progress without colors"
! grep -q "${esc}\[[0-9]*m" "$WORK/typescript" || fail "colors, although there must be none"
on_terminal TERM=dumb
! grep -q "$esc" "$WORK/typescript" || fail "a dumb terminal gets escape sequences"
grep -q 'layer 1 of 1, sha256:' "$WORK/typescript" || fail "a dumb terminal gets no lines"

# --- an ordinary user -------------------------------------------------------------------------------------------------

say "an ordinary user, no capabilities, $((MEMORY_MAX >> 20)) MB: $BIG"
GROUP=''
memory_group() { # a control group with the limit, where that can be had
	local group
	if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
		group=/sys/fs/cgroup/memory/lamella-${WORK##*/}
		mkdir "$group" 2>/dev/null && echo $MEMORY_MAX >"$group/memory.limit_in_bytes" 2>/dev/null || return 0
	elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
		group=/sys/fs/cgroup/lamella-${WORK##*/}
		mkdir "$group" 2>/dev/null && echo $MEMORY_MAX >"$group/memory.max" 2>/dev/null || return 0
	else
		return 0
	fi
	(echo $BASHPID >"$group/cgroup.procs") 2>/dev/null || return 0
	GROUP=$group
}
memory_group
UID_=61234
home=$WORK/home
mkdir "$home"
chown $UID_:$UID_ "$home"
chmod 755 "$WORK"
cat >"$home/work" <<END
set -eu
[ -z "$GROUP" ] || echo \$\$ >"$GROUP/cgroup.procs"
exec setpriv --reuid $UID_ --regid $UID_ --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
	env -i PATH="$PATH" HOME="$home" TMPDIR="$home" "\$@"
END
as_user() { # COMMAND...
	if [ -n "$GROUP" ]; then
		bash "$home/work" "$@"
	else
		prlimit --data=$MEMORY_MAX bash "$home/work" "$@"
	fi
}
as_user cat "$TINY/index.json" "$LAMELLA" >/dev/null 2>&1 || skip "an ordinary user can't read $LM_IMAGES or $LAMELLA"
as_user grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status || fail "capabilities are left"
as_user "$LAMELLA" repo init "$FQRN" --storage "$home/storage" --keys "$home/keys" >>"$WORK/log/user.log" 2>&1 || fail "repo init as a user"
[ -n "$GROUP" ] || say "  no control group with memory to be had: the limit is prlimit's, on data"
as_user python3 -c 'import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)' "$LAMELLA" convert --repo "$FQRN" "oci:$LM_IMAGES/oci-$BIG:latest" >"$WORK/out" 2>"$WORK/log/user.log" ||
	fail "convert as a user: $(tail -n 5 "$WORK/log/user.log")"
as_user "$LAMELLA" repo check "$FQRN" --objects --quiet >>"$WORK/log/user.log" 2>&1 || fail "repo check as a user"
peak=$(awk '$1 == "peak" { print $2 }' "$WORK/out")
say "  peak resident memory of converting $BIG: $((peak >> 10)) MiB"
[ -n "${LM_SANITIZED:-}" ] || [ "$peak" -le $RSS_MAX_KIB ] || fail "more than $((RSS_MAX_KIB >> 10)) MiB"
[ -z "$(find "$home/storage" -newer "$home/work" ! -user $UID_)" ] || fail "files of others"
check_reports
say "well met"
