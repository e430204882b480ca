#!/usr/bin/env bash
# `lamella doctor`: of a node where all is well it says so and what it looked at; and everything that it can find is found where
# it is made so, and named with what to do. At the end no row of its table may be left that was not provoked.
# time limit: 600 s
# runs by itself: loop devices are the machine's
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need unshare setpriv perl python3
need_built "$LM_BUILD/tests/tools/killer.so" "$LM_BUILD/tests/tools/other_kernel.so"
isolate doctor

STATUS_SOCKET=${SNAPSHOTTER_SOCKET%.sock}-status.sock
NOBODY=127.0.0.1:9 # refuses
OTHER_WEB=127.0.0.1:8001
declare -A PROVOKED

# --- running it -------------------------------------------------------------------------------------------------------

BY=()              # a command that runs it
PROGRAM=$LAMELLA   # or a copy
CONF=$WORK/fetcher.conf
OPTIONS=()
examine() { # AREA...: the report is in $WORK/report, the exit code in CODE
	CODE=0
	"${BY[@]}" "$PROGRAM" doctor "$@" --json --config "$CONF" --address "$(containerd_socket lamella)" "${OPTIONS[@]}" \
		>"$WORK/report" 2>"$WORK/err" || CODE=$?
	jq -e '.findings | type == "array"' "$WORK/report" >/dev/null || fail "doctor $*: exit code $CODE: $(cat "$WORK/report" "$WORK/err")"
	[ ! -s "$WORK/err" ] || fail "doctor $*: said on standard error: $(cat "$WORK/err")"
	[ $CODE = "$(jq '[.problems + .warnings, 1] | min' "$WORK/report")" ] || fail "doctor $*: exit code $CODE: $(cat "$WORK/report")"
}
finds() { # NAME TEXT AREA...: a finding of that name whose text matches
	local name=$1 text=$2
	shift 2
	examine "$@"
	jq -e --arg n "$name" --arg t "$text" 'any(.findings[]; .name == $n and (.text | test($t)))' "$WORK/report" >/dev/null ||
		fail "$name ($text) was not found: $(jq -c '.findings[] | [.name, .text]' "$WORK/report")"
	PROVOKED[$name]=1
}
finds_not() { # NAME AREA...
	local name=$1
	shift
	examine "$@"
	! jq -e --arg n "$name" 'any(.findings[]; .name == $n)' "$WORK/report" >/dev/null || fail "$name was found: $(cat "$WORK/report")"
}
finds_nothing() { # AREA...
	examine "$@"
	[[ $CODE = 0 && $(jq -c '[.healthy, .problems, .warnings, .notes, (.findings | length)]' "$WORK/report") = '[true,0,0,0,0]' ]] ||
		fail "doctor $*: exit code $CODE: $(jq -c '.findings[]' "$WORK/report")"
}
# In mounts of its own, which COMMANDS make before.
elsewhere() { # COMMANDS
	# shellcheck disable=SC2016
	BY=(unshare -m --propagation private bash -c "set -e; $1"'; exec "$@"' bash)
}
here() {
	BY=()
	PROGRAM=$LAMELLA
	CONF=$WORK/fetcher.conf
	OPTIONS=()
}
with_settings() { # KEY=VALUE...: beside those of the fetcher
	CONF=$WORK/other.conf
	cp "$WORK/fetcher.conf" "$CONF"
	printf '%s\n' "$@" >>"$CONF"
}
copy_program() { # FROM TO OLD NEW: another text of the same length in it
	perl -e 'local $/; my ($from, $to, $old, $new) = @ARGV; open F, "<:raw", $from or die; my $b = <F>; $b =~ s/\Q$old\E/$new/g or die "no $old";
		open T, ">:raw", $to or die; print T $b; close T or die' "$@" || fail "no copy of $1"
	chmod 755 "$2"
}

# --- a node -----------------------------------------------------------------------------------------------------------

mkdir "$WORK/one"
echo one >"$WORK/one/file"
tar -C "$WORK/one" --owner=0 --group=0 -cf "$WORK/tmp/one.tar" .
make_layout "$WORK/oci-one" "$WORK/tmp/one.tar" /none
registry_start
push_pause
push "$WORK/oci-one:latest" one:latest
repo_init
cp -r "$WORK/storage" "$WORK/behind" # a replica that stays as it is
convert "oci:$WORK/oci-one:latest"
serve_start
start_listening behind $OTHER_WEB "$LAMELLA" serve "$WORK/behind" --listen $OTHER_WEB
start_fetcher() {
	fetcher_start CVMFS_QUOTA_LIMIT=200
	printf '%s\n' CVMFS_QUOTA_LIMIT=200 LAMELLA_CACHE_RESERVE=0 >>"$WORK/fetcher.conf" # for whoever asks what the settings are
}
start_fetcher
snapshotter_start
containerd_start lamella
cri lamella pull "$REGISTRY/one:latest" >/dev/null

say "all is well"
# Rooms that are the machine's are looked at below; what is free here is not ours to say.
finds_nothing settings network fetcher snapshotter containerd
elsewhere "mkdir -p '$WORK/room' && mount -t tmpfs -o size=1g room '$WORK/room' && mkdir '$WORK/room/lamella'"
examine kernel
jq -e '[.findings[].name] - ["kernel-features"] == []' "$WORK/report" >/dev/null || fail "the kernel: $(cat "$WORK/report")"
here
for area in kernel settings network fetcher snapshotter containerd disk; do
	examine $area
	jq -e --arg a $area '(.saw | length > 0) and all(.saw[]; .area == $a) and all(.findings[]; .area == $a)' "$WORK/report" >/dev/null ||
		fail "$area: $(cat "$WORK/report")"
done
CODE=0
"$LAMELLA" doctor network settings --config "$CONF" >"$WORK/out" || CODE=$?
[ $CODE = 0 ] || fail "exit code $CODE: $(cat "$WORK/out")"
grep -q "^network .*$FQRN: 1 of 1 servers give revision 2, signed by our keys, by 1 of 1 proxies$" "$WORK/out" || fail "$(cat "$WORK/out")"
[ "$(tail -n 1 "$WORK/out")" = "0 problems, 0 warnings, 0 notes" ] || fail "$(cat "$WORK/out")"
CODE=0
"$LAMELLA" doctor nonsense >"$WORK/out" 2>&1 || CODE=$?
[ $CODE = 2 ] || fail "an area that there is not: exit code $CODE"

say "the kernel"
BY=(env LD_PRELOAD="$LM_BUILD/tests/tools/other_kernel.so" LM_RELEASE=5.4.0-200-generic)
finds kernel-old 'Linux 5.4.0' kernel
BY=(env LD_PRELOAD="$LM_BUILD/tests/tools/other_kernel.so" LM_RELEASE=5.14.0-503.el9)
finds kernel-features '6.1 is the oldest' kernel
finds kernel-features 'from 6.12 on' kernel
finds_not kernel-old kernel
elsewhere "mount --bind /dev/null /dev/fuse"
finds fuse 'not the device' kernel
mkdir "$WORK/dev" "$WORK/no-modules"
NO_MODULES="[ ! -d /lib/modules ] || mount --bind '$WORK/no-modules' /lib/modules"
elsewhere "mount -t tmpfs dev '$WORK/dev'; cp -a /dev/null /dev/zero /dev/urandom '$WORK/dev'; mount --rbind '$WORK/dev' /dev; $NO_MODULES"
finds fuse '/dev/fuse: No such' kernel
finds loop '/dev/loop-control' kernel
grep -v erofs /proc/filesystems >"$WORK/filesystems"
elsewhere "mount --bind '$WORK/filesystems' /proc/filesystems; $NO_MODULES"
finds erofs '/proc/filesystems' kernel
finds_not loop kernel
# Overlays of overlays of overlays are more than the kernel stacks.
mkdir -p "$WORK"/deep/{lower,{1,2}/{upper,work,root}}
mount -t tmpfs deep "$WORK/deep/2"
mkdir "$WORK"/deep/2/{upper,work,root}
overlay() { echo "mount -t overlay overlay -o 'lowerdir=$1,upperdir=$2/upper,workdir=$2/work' '$2/root'"; } # LOWER DIRECTORY
elsewhere "$(overlay "$WORK/deep/lower" "$WORK/deep/1"); $(overlay "$WORK/deep/1/root" "$WORK/deep/2"); mount --bind '$WORK/deep/2/root' '$WORK/snapshotter'"
finds overlay 'mount an overlay' kernel
umount "$WORK/deep/2"
NOBODY_BY=(setpriv --reuid 65534 --regid 65534 --clear-groups)
BY=("${NOBODY_BY[@]}")
finds not-root 'root' kernel
for area in fetcher snapshotter containerd; do
	examine $area
	[ "$(jq -c '[.problems, (.saw[].text | test("not looked at"))]' "$WORK/report")" = '[0,true]' ] ||
		fail "$area: taken for a problem, since it is root's: $(cat "$WORK/report")"
done
elsewhere "mount -t tmpfs dev '$WORK/dev'; cp -a /dev/null /dev/zero /dev/urandom /dev/fuse '$WORK/dev'; chmod 600 '$WORK/dev/fuse'; mount --rbind '$WORK/dev' /dev"
BY+=("${NOBODY_BY[@]}")
finds_not fuse kernel
here

say "settings"
mkdir "$WORK/bin"
cp "$LAMELLA" "$WORK/bin/lamella"
PROGRAM=$WORK/bin/lamella BY=(env PATH=/nonexistent)
finds fetcher-missing 'lamella-fetcher' settings
printf '#!/bin/sh\necho "no such option" >&2\nexit 2\n' >"$WORK/bin/lamella-fetcher" # an older one
chmod 755 "$WORK/bin/lamella-fetcher"
finds fetcher-missing 'no such option' settings
printf '#!/bin/sh\necho "{}, and more"\n' >"$WORK/bin/lamella-fetcher"
finds fetcher-missing 'no JSON' settings
rm "$WORK/bin/lamella-fetcher"
here
with_settings CVMFS_TIMEOUT=soon
finds settings-wrong 'other.conf:[0-9]+: CVMFS_TIMEOUT=soon is not a number' settings
finds_not settings-doubtful settings
examine network
jq -e '.saw[0].text | test("not looked at")' "$WORK/report" >/dev/null || fail "the network, without settings: $(cat "$WORK/report")"
with_settings CVMFS_PUBLIC_KEY=/nonexistent.pub
finds settings-wrong 'public key /nonexistent.pub' settings
with_settings CVMFS_TIMEUOT=3
finds settings-doubtful 'other.conf:[0-9]+: CVMFS_TIMEUOT: .*CVMFS_TIMEOUT' settings
here

say "servers, proxies, keys, clocks"
good=http://$WEB/cvmfs/@fqrn@
with_settings "CVMFS_SERVER_URL=http://$NOBODY/cvmfs/@fqrn@"
finds unreachable "$NOBODY" network
with_settings "CVMFS_SERVER_URL='http://$NOBODY/cvmfs/@fqrn@;$good'"
finds server-fails "$NOBODY" network
finds_not unreachable network
finds_not proxy-fails network
with_settings "CVMFS_SERVER_URL='$good;http://$WEB/cvmfs/nowhere'"
finds server-fails "nowhere.*404" network
with_settings "CVMFS_HTTP_PROXY='http://$NOBODY;DIRECT'"
finds proxy-fails "$NOBODY" network
finds_not server-fails network
with_settings "CVMFS_HTTP_PROXY='http://somebody:secret@$NOBODY;DIRECT'"
finds proxy-password "$NOBODY" network
! grep -q secret "$WORK/report" || fail "a password is shown: $(cat "$WORK/report")"
# What was not tried may work.
with_settings "CVMFS_HTTP_PROXY='http://somebody:secret@$NOBODY|http://127.0.0.1:10'"
finds proxy-fails '127.0.0.1:10' network
finds_not unreachable network
finds_not server-fails network
with_settings CVMFS_DNS_SERVER=127.0.0.1
examine network
jq -e 'any(.saw[].text; test("CVMFS_DNS_SERVER 127.0.0.1"))' "$WORK/report" >/dev/null || fail "who is asked for names: $(cat "$WORK/report")"
with_settings "CVMFS_SERVER_URL='http://$OTHER_WEB/cvmfs/@fqrn@;$good'"
finds server-behind "$OTHER_WEB.* revision 1, another 2" network
"$LAMELLA" repo init other.lamella.test --storage "$WORK/others" --keys "$WORK/other-keys" >/dev/null
with_settings "CVMFS_PUBLIC_KEY=$WORK/other-keys/other.lamella.test.pub"
finds untrusted "$WEB" network
with_settings "CVMFS_KEYS_DIR=$WORK/other-keys" CVMFS_PUBLIC_KEY=
finds untrusted "$WEB" network
now=$(date +%s)
BY=(env LD_PRELOAD="$LM_BUILD/tests/tools/killer.so" LM_KILL_CLOCK=$((now + 40 * 86400)))
CONF=$WORK/fetcher.conf
finds whitelist-expired 'expired' network
finds clock 'it is 34[0-9]{5} s ahead' network
BY=(env LD_PRELOAD="$LM_BUILD/tests/tools/killer.so" LM_KILL_CLOCK=$((now - 3600)))
finds clock 'it is 3[0-9]{3} s behind' network
here
"$LAMELLA" repo sign "$FQRN" --days 3 --storage "$WORK/storage" --keys "$WORK/keys" >/dev/null
finds whitelist-expires "$FQRN, at 20" network
"$LAMELLA" repo sign "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" >/dev/null
finds_nothing network
# One server whose clock is wrong is its own matter; where it is the only one, one can't know.
start_listening hour 127.0.0.1:8002 python3 "$LM_ROOT/tests/e2e/liar.py" 127.0.0.1:8002 "$WORK/storage" hour .
with_settings "CVMFS_SERVER_URL='http://127.0.0.1:8002/cvmfs/@fqrn@;$good'"
finds_not clock network
with_settings "CVMFS_SERVER_URL=http://127.0.0.1:8002/cvmfs/@fqrn@"
finds clock 'it is 3[0-9]{3} s behind' network
here

say "the fetcher"
OPTIONS=(--socket /nonexistent.sock)
finds fetcher-down '/nonexistent.sock is not there' fetcher
here
with_settings LAMELLA_SOCKET=
finds fetcher-down 'LAMELLA_SOCKET is set to nothing' fetcher
here
version=$("$LAMELLA" --version | cut -d' ' -f2)
copy_program "$LAMELLA" "$WORK/bin/lamella" "$version" "${version%?}x"
PROGRAM=$WORK/bin/lamella
finds fetcher-version "$version runs, ${version%?}x is installed" fetcher
finds snapshotter-version "$version runs, ${version%?}x is installed" snapshotter
here
chmod 666 "$FETCHER_SOCKET" "$STATUS_SOCKET" "$SNAPSHOTTER_SOCKET"
finds fetcher-socket "$FETCHER_SOCKET has mode 0666" fetcher
finds snapshotter-socket "$STATUS_SOCKET has mode 0666" snapshotter
finds snapshotter-socket "$SNAPSHOTTER_SOCKET has mode 0666" snapshotter
chmod 600 "$FETCHER_SOCKET" "$STATUS_SOCKET" "$SNAPSHOTTER_SOCKET"
start_socket fetcher2 /run/lamella/fetcher2.sock "$LM_BUILD/fetcher/lamella-fetcher" --config "$CONF" --set "CVMFS_CACHE_BASE=$WORK/cache2" \
	--set LAMELLA_SOCKET=/run/lamella/fetcher2.sock --set "LAMELLA_MOUNT_BASE=$WORK/mounts2" --set "CVMFS_SERVER_URL=http://$NOBODY/cvmfs/@fqrn@"
OPTIONS=(--socket /run/lamella/fetcher2.sock)
failed() { { "$LAMELLA" status --socket /run/lamella/fetcher2.sock || true; } 2>&1 | has 'no trusted root'; }
wait_for 60 "the fetcher's failure" failed
finds fetcher-problem "$FQRN: no trusted root" fetcher
here
stop fetcher2
stop serve
"$LAMELLA" update >/dev/null 2>&1 && fail "updated without a server"
finds fetcher-degraded "$FQRN: offline" fetcher
finds_not fetcher-problem fetcher
serve_start
"$LAMELLA" update >/dev/null
finds_nothing fetcher
worker=$(pgrep -P "$(pid_of fetcher)" | tail -n 1)
kill -KILL "$worker"
another() { [ "$("$LAMELLA" status --json 2>/dev/null | jq '.worker_restarts')" = 1 ]; }
wait_for 30 "the next worker" another
finds fetcher-crashes '1 times .*(KILL|killed|signal)' fetcher
stop fetcher
start_fetcher
finds_nothing fetcher
# A fetcher that hangs, and so does whoever touches its mount, in which the cache is said to be.
mapfile -t frozen < <(pid_of fetcher && pgrep -P "$(pid_of fetcher)")
[ ${#frozen[@]} -gt 1 ] || fail "no worker: $(ps ax)"
kill -STOP "${frozen[@]}"
with_settings "CVMFS_CACHE_BASE=$MOUNT_BASE/$FQRN/nobody-has-asked-for-this"
began=$(now_ms)
finds unwritable "the cache: $MOUNT_BASE/.*: no answer within 10 s" fetcher disk
say "  said after $(($(now_ms) - began)) ms"
kill -CONT "${frozen[@]}"
jq -e 'any(.findings[]; .name == "fetcher-down")' "$WORK/report" >/dev/null || fail "of one that hangs: $(cat "$WORK/report")"
here
finds_nothing fetcher

say "the snapshotter"
OPTIONS=(--snapshotter /nonexistent.sock)
finds snapshotter-down '/nonexistent.sock is not there' snapshotter
here
top=$(chain_id "$WORK/oci-one" latest)
# Who asks for mounts over a layer makes the snapshotter ask the fetcher.
ask_mounts() { ctr_ lamella snapshots --snapshotter lamella prepare "$1" "$top" >"$WORK/tmp/mounts" 2>&1; } # KEY
stop snapshotter
# shellcheck disable=SC2016
SNAPSHOTTER_BY=(unshare -m --propagation slave bash -c 'mount --bind /dev/null /dev/loop-control && exec "$@"' bash)
snapshotter_start
SNAPSHOTTER_BY=()
ask_mounts without-loop || fail "no mounts, without a loop device: $(cat "$WORK/tmp/mounts")"
finds snapshotter-degraded 'loop' snapshotter
stop snapshotter
snapshotter_start
stop fetcher
finds snapshotter-fetcher "$FETCHER_SOCKET" snapshotter
! ask_mounts away || fail "mounts, without a fetcher"
finds snapshotter-problem 'fetcher' snapshotter
start_fetcher
wait_for 30 "mounts, with a fetcher" ask_mounts back
finds_nothing snapshotter
stop snapshotter
snapshotter_start LAMELLA_TREES=no
finds trees 'turned off by LAMELLA_TREES' snapshotter
stop snapshotter
mkdir "$WORK/memory"
mount -t ramfs memory "$WORK/memory"
start_socket snapshotter2 /run/lamella/snapshotter2.sock "$LM_BUILD/snapshotter/lamella-snapshotter" --config "$WORK/snapshotter.conf" \
	--root "$WORK/memory" --address /run/lamella/snapshotter2.sock --fetcher "$FETCHER_SOCKET"
OPTIONS=(--snapshotter /run/lamella/snapshotter2-status.sock)
finds owners "$WORK/memory" snapshotter
finds volatile "$WORK/memory is on ramfs" disk
finds plugin-address "$SNAPSHOTTER_SOCKET, lamella-snapshotter listens at /run/lamella/snapshotter2.sock" containerd
here
stop snapshotter2
# Layers from mounts of others: no fetcher is needed, nor is one missed.
echo "LAMELLA_SOURCE=path:$MOUNT_BASE/$FQRN" >"$WORK/other-snapshotter.conf"
mkdir "$WORK/from-mounts"
start_socket snapshotter2 /run/lamella/snapshotter2.sock "$LM_BUILD/snapshotter/lamella-snapshotter" --config "$WORK/other-snapshotter.conf" \
	--root "$WORK/from-mounts" --address /run/lamella/snapshotter2.sock
PROGRAM=$WORK/bin/lamella BY=(env PATH=/nonexistent)
cp "$LAMELLA" "$WORK/bin/lamella"
OPTIONS=(--snapshotter /run/lamella/snapshotter2-status.sock --socket /nonexistent.sock)
examine settings network fetcher snapshotter
jq -e ".problems + .warnings == 0 and any(.saw[]; .area == \"fetcher\" and (.text | test(\"$MOUNT_BASE/$FQRN\")))" "$WORK/report" >/dev/null ||
	fail "without a fetcher: $(cat "$WORK/report")"
here
stop snapshotter2
snapshotter_start
finds_nothing snapshotter

say "containerd"
FILE=$WORK/containerd-lamella/lamella.toml
changed() { # EXPRESSION OF SED: what its file says now; containerd goes on as it was
	cp "$FILE" "$WORK/tmp/saved.toml"
	sed -i -E "$1" "$FILE"
	! cmp -s "$FILE" "$WORK/tmp/saved.toml" || fail "$1 changes nothing in $FILE"
}
back() { cp "$WORK/tmp/saved.toml" "$FILE"; }
OPTIONS=(--address /nonexistent.sock)
finds containerd-down '/nonexistent.sock' containerd
# One that accepts nobody any more; a third one has to wait for its place in the queue.
start full python3 -c 'import socket, sys, time
s, waiting = socket.socket(socket.AF_UNIX), [socket.socket(socket.AF_UNIX) for _ in range(2)]
s.bind(sys.argv[1])
s.listen(0)
for w in waiting:
	w.setblocking(False)
	w.connect_ex(sys.argv[1])
print("full", flush=True)
time.sleep(600)' "$WORK/tmp/full.sock"
wait_for 20 "a queue that is full" grep -q full "$WORK/log/full.log"
OPTIONS=(--address "$WORK/tmp/full.sock")
finds containerd-down 'full.sock: .*timed out' containerd
stop full
here
# In another root directory its files may be others.
mkdir "$WORK/tmp/root"
# shellcheck disable=SC2016 # the loop is in there
elsewhere "mount -t tmpfs root '$WORK/tmp/root'; cd '$WORK/tmp/root'"'; for d in /*; do
	if [ -L "$d" ]; then cp -a "$d" .; elif [ -d "$d" ]; then mkdir ".$d" && mount --rbind "$d" ".$d"; fi
done'
BY+=(chroot "$WORK/tmp/root")
finds_nothing containerd
jq -e 'any(.saw[].text; test("not looked at: it has another root"))' "$WORK/report" >/dev/null || fail "in another root: $(cat "$WORK/report")"
here
changed '1s/^/this is no TOML\n/'
finds containerd-config 'config.toml' containerd
back
changed 's/proxy_plugins\.lamella/proxy_plugins.another/; s/"snapshot"/"content"/'
finds plugin-absent 'none of 1 proxy plugins' containerd
back
changed 's/lamella\]/other]/; s/lamella\.exports/other.exports/; s/^( *snapshotter = )"lamella"/\1"other"/'
finds plugin-not-loaded 'proxy plugin other' containerd
back
changed 's/^( *snapshotter = )"lamella"/\1"overlayfs"/'
finds cri-snapshotter 'overlayfs' containerd
back
changed 's/disable_snapshot_annotations = false/disable_snapshot_annotations = true/'
finds annotations 'disable_snapshot_annotations' containerd
back
changed 's/( *)(disable_snapshot_annotations = false)/\1\2\n\1discard_unpacked_layers = true/'
finds discarded 'discard_unpacked_layers' containerd
back
finds_nothing containerd
if [ "$(containerd_series)" != 2 ]; then
	rmdir "$WORK/containerd-lamella/root/io.containerd.snapshotter.v1.lamella"
	finds image-filesystem 'io.containerd.snapshotter.v1.lamella is not there' containerd
fi
stop containerd-lamella
mkdir "$WORK/old"
whole=$(command -v "${CONTAINERD_BIN:+$CONTAINERD_BIN/}containerd")
v=$(containerd_version)
for p in containerd-shim-runc-v2 ctr runc; do ln -s "$(command -v "${CONTAINERD_BIN:+$CONTAINERD_BIN/}$p")" "$WORK/old/$p"; done
copy_program "$whole" "$WORK/old/containerd" "$v" "1.5${v:3}"
start_socket containerd-lamella "$(containerd_socket lamella)" env PATH="$WORK/old:$PATH" containerd --config "$WORK/containerd-lamella/config.toml"
finds containerd-old "1\\.5" containerd
containerd_wipe lamella

say "room"
room() { # OPTIONS COMMANDS: the cache is in a file system of its own
	elsewhere "mkdir -p '$WORK/cache'; mount -t tmpfs -o $1 room '$WORK/cache'; cd '$WORK/cache'; mkdir lamella; $2"
}
room size=1g ':'
finds_not quota disk
finds_not disk-low disk
with_settings CVMFS_QUOTA_LIMIT=2000
finds quota '2\.1 GB, and in .*/cache/lamella' disk
CONF=$WORK/fetcher.conf
room size=400m 'head -c 390m /dev/zero >lamella/full'
finds disk-low 'the cache: .* of 419[0-9.]* MB' disk
# shellcheck disable=SC2016 # the loop is in there
room size=400m,nr_inodes=200 'for i in {1..194}; do : >lamella/$i; done'
finds inodes-low 'the cache: [0-9] of 200' disk
elsewhere "mount --bind '$WORK/snapshotter' '$WORK/snapshotter'; mount -o remount,bind,ro '$WORK/snapshotter'"
finds unwritable 'the snapshotter: .*Read-only' disk
here

say "containerd 2"
need_containerd 2
containerd_start lamella
finds_nothing containerd
changed '/^ *capabilities = /d'
finds remap 'lamella' containerd
back
changed 's/(capabilities = \[)/\1"rebase", /'
finds rebase 'lamella' containerd
finds_not remap containerd
back
changed "s|^( *root = ).*|\\1\"/elsewhere\"|"
finds image-filesystem "exports.root .* is /elsewhere, .* $WORK/snapshotter" containerd
back
changed '/^\[\[.*unpack_config/,+2d'
finds unpack-config 'lamella' containerd
back
finds_nothing containerd

say "every row of the table was provoked"
"$LAMELLA" doctor --list >"$WORK/list"
while IFS=$'\t' read -r name level area sentence advice; do
	[ -n "${PROVOKED[$name]:-}" ] || fail "$name was not provoked"
	[[ -n $level && -n $area && -n $sentence && -n $advice ]] || fail "$name: a gap in the table"
done <"$WORK/list"
[ "${#PROVOKED[@]}" = "$(wc -l <"$WORK/list")" ] || fail "not in the table: ${!PROVOKED[*]}"
check_reports
