#!/usr/bin/env bash
# Containers over the merged tree of their layers: what they see is what the layers themselves show, they write as ever, they go on when
# snapshotter and fetcher are killed, nothing of a tree is left when its image goes, and where a tree can't be had the layers serve.
# time limit: 300 s
# runs by itself: loop devices are the machine's
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need jq findmnt
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/snapshotter/lamella-snapshotter"
[ -c /dev/fuse ] || skip "no /dev/fuse"
[ -c /dev/loop-control ] || skip "no loop devices"
grep -qw erofs /proc/filesystems || modprobe erofs 2>/dev/null || skip "this kernel has no EROFS"
need_image tiny edge
isolate merged

IMAGES=(tiny edge)
trees() { findmnt -rn -t erofs -o TARGET | grep "^$WORK/snapshotter/" || true; }
count() { grep -c . || true; }
loops() { grep -l "^$MOUNT_BASE/$FQRN/" /sys/block/loop*/loop/backing_file 2>/dev/null | count; }
no_trees() { [ -z "$(trees)" ] && [ "$(loops)" = 0 ]; }
start_pod() { pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/$1:latest" sleep 3600; } # IMAGE
root_of() { echo "/proc/$(cri lamella pid "$1")/root"; } # ID
lower_of() { sed -n 's/.* - overlay overlay .*lowerdir=\([^, ]*\).*/\1/p' "/proc/$(cri lamella pid "$1")/mountinfo" | sed -n 1p; } # ID
tree_label() { ctr_ lamella snapshots --snapshotter lamella info "$1" | jq -r '.Labels["containerd.io/snapshot/lamella.tree"]'; } # ID
is_merged() { [[ $(lower_of "$1") == *::"$MOUNT_BASE"/* ]]; } # ID
# All of a container but what it was given, with content and what hard links are of one file.
listing() { # ID
	(
		cd "$(root_of "$1")"
		given='^\.(/dev|/etc|/proc|/sys|/etc/hostname|/etc/hosts|/etc/resolv.conf)? '
		# The size of a directory is its file system's affair, and overlayfs counts no links of merged ones.
		find . -xdev \( -type d -printf '%p %y %m %U %G %T@\n' \) -o -printf '%p %y %m %U %G %n %s %T@ %l\n' | grep -Ev "$given" | LC_ALL=C sort
		find . -xdev -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
		find . -xdev -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m '^(user|security)\.' -- 2>/dev/null || true
		find . -xdev -type f -links +1 -printf '%i %p\n' | LC_ALL=C sort -k2 |
			awk '{ i = $1; $1 = ""; if (!(i in n)) n[i] = NR; print "one of " n[i], $0 }'
	)
}
use() { # ID: writes of every kind
	# shellcheck disable=SC2016
	cri lamella exec "$1" sh -c 'set -e
		chmod 700 /usr/bin/wc; test "$(stat -c %a /usr/bin/wc)" = 700; echo a b c | wc -w | grep -qx 3
		echo more >>/etc/issue; tail -n 1 /etc/issue | grep -qx more; test "$(wc -l </etc/issue)" -ge 2
		ln /usr/bin/tail /usr/bin/tail2; set -- $(stat -c %i /usr/bin/tail /usr/bin/tail2); test $1 = $2
		mv /usr/bin/head /usr/bin/head2; echo x | head2 -n 1 | grep -qx x; ! test -e /usr/bin/head
		chown 7 /usr/bin/tac; echo x | tac | grep -qx x
		rm -r /usr/share/doc; mkdir /usr/share/doc; test -z "$(ls /usr/share/doc)"
		cp /usr/bin/sort /tmp/sort; cmp /usr/bin/sort /tmp/sort'
}

registry_start
push_pause
repo_init
for image in "${IMAGES[@]}"; do
	push "$LM_IMAGES/oci-$image:latest" "$image:latest"
	convert "docker://$REGISTRY/$image:latest"
done
serve_start
fetcher_start
snapshotter_start
containerd_start lamella
if grep -q 'merged trees of layers are not used' "$WORK/log/snapshotter.log"; then
	skip "$(grep -o 'merged trees.*' "$WORK/log/snapshotter.log" | sed -n 1p)"
fi

tree_answers() { "$LAMELLA" status --socket "$FETCHER_SOCKET" --json | jq -c '.tree_answers | map({(.name): .count}) | add'; }

say "containers over trees"
for image in "${IMAGES[@]}"; do
	id=$(start_pod "$image")
	is_merged "$id" || fail "$image: over $(lower_of "$id")"
	[ "$(tree_label "$id")" = used ] || fail "$image: tree $(tree_label "$id")"
	listing "$id" >"$WORK/tmp/merged.$image"
	use "$id" || fail "$image: can't be used"
	cri lamella rm "$id"
done
[ "$(trees | count) $(loops)" = "2 2" ] || fail "trees: $(trees), loop devices: $(loops)"
for tree in $(trees); do
	ahead=$(cat "/sys/class/bdi/$(mountpoint -d "$tree")/read_ahead_kb")
	[ "$ahead" = "$TREE_AHEAD_KIB" ] || fail "$ahead KiB are read ahead in $tree"
done
# Whenever mounts are asked for; of pods' sandboxes no layer is served, and no tree is asked for.
jq -e '.faithful >= 2 and .absent == 0 and .unavailable == 0' <<<"$(tree_answers)" >/dev/null || fail "asked for trees: $(tree_answers)"
"$LAMELLA" status --socket "$FETCHER_SOCKET" | has -E '^  trees     ([0-9]+) of \1 were there, 0 ' || fail "$("$LAMELLA" status)"

say "what a container has written can be told from its image"
id=$(start_pod tiny)
cri lamella exec "$id" sh -c 'echo written >/usr/written && touch /usr/bin/wc'
ctr_ lamella snapshots --snapshotter lamella diff "$id" | gzip -dc >"$WORK/tmp/diff.tar" || fail "no difference can be made"
tar -tf "$WORK/tmp/diff.tar" | LC_ALL=C sort | tr '\n' ' ' >"$WORK/tmp/changed"
grep -q 'usr/ usr/bin/ usr/bin/wc usr/written' "$WORK/tmp/changed" || fail "changed: $(cat "$WORK/tmp/changed")"
tar -xOf "$WORK/tmp/diff.tar" usr/bin/wc | cmp - "$(root_of "$id")/usr/bin/wc" || fail "wrong bytes in the difference"

say "what it uses is known to be in use"
used=$(($(manifest "$LM_IMAGES/oci-tiny" latest | jq '.layers | length') + 1)) # and the tree
keeps_used() { "$LAMELLA" cache show --socket "$FETCHER_SOCKET" --json | jq -e "(.layers_in_use | tonumber) == $used" >/dev/null; }
echo "CVMFS_QUOTA_LIMIT=1" >>"$WORK/fetcher.conf"
kill -HUP "$(pid_of fetcher)"
wait_for 20 "$used layers in use" keeps_used
sed -i '$d' "$WORK/fetcher.conf"
kill -HUP "$(pid_of fetcher)"

say "it goes on, whoever is killed"
witness=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/edge:latest" sh -c \
	'while sleep 0.1; do ls /edge >/dev/null && cat /usr/bin/[a-m]* >/dev/null && echo well || echo trouble; done')
witness_log=$WORK/tmp/container.log
says_well_again() { [ "$(grep -c well "$witness_log")" -gt "$wells" ]; }
well() {
	wells=$(grep -c well "$witness_log" || true)
	wait_for 30 "the container to go on" says_well_again
	! grep -qE 'trouble|rror' "$witness_log" || fail "it was touched: $(tail -n 3 "$witness_log")"
}
well
stop snapshotter KILL
snapshotter_start
well
connected() { ctr_ lamella snapshots --snapshotter lamella ls >/dev/null 2>&1; } # again: containerd takes its time
wait_for 20 "containerd to find the snapshotter" connected
for i in 1 2 3; do
	kill -KILL "$(pgrep -P "$(pid_of fetcher)")"
	echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
	well
done
again=$(start_pod tiny)
is_merged "$again" || fail "after all that: over $(lower_of "$again")"
[ "$(trees | count) $(loops)" = "2 2" ] || fail "mounted twice: $(trees)"
cri lamella rm "$again"

say "what was mounted is gone, as after a reboot"
for tree in $(trees); do umount -l "$tree"; done
again=$(start_pod tiny)
is_merged "$again" || fail "not mounted again: over $(lower_of "$again")"
well
cri lamella rm "$again"
cri lamella rm "$id"
cri lamella rm "$witness"

say "nothing is left of an image that goes"
for image in "${IMAGES[@]}"; do cri lamella rmi "$REGISTRY/$image:latest"; done
wait_for 30 "all trees to go" no_trees

say "where trees can't be mounted, the layers serve"
counted() { # what the snapshotter says last: trees used, absent, failed
	local lines
	lines=$(grep -c ' counters ' "$WORK/log/snapshotter.log" || true)
	kill -USR1 "$(pid_of snapshotter)"
	wait_for 10 "the counters" counted_beyond "$lines"
	sed -nE 's/.* counters .*trees_used=([0-9]+) trees_absent=([0-9]+) trees_failed=([0-9]+) .*/\1 \2 \3/p' "$WORK/log/snapshotter.log" | tail -n 1
}
counted_beyond() { [ "$(grep -c 'merged trees used=' "$WORK/log/snapshotter.log")" -gt "$1" ]; }
serves_layers() { # CAUSE: a container starts, and it is said and counted why not over the tree
	local id
	id=$(start_pod tiny)
	! is_merged "$id" || fail "$1: over a tree all the same"
	listing "$id" | diff - "$WORK/tmp/merged.tiny" >"$WORK/tmp/difference" || fail "$1: another tree: $(head "$WORK/tmp/difference")"
	tail -c "+$LOG_MARK" "$WORK/log/snapshotter.log" | has "layers are used without their merged tree.*reason=\".*$1" || fail "$1: not in the log"
	[[ $(tree_label "$id") == "not used: "*"$1"* ]] || fail "$1: the label says $(tree_label "$id")"
	[[ $(counted) == "0 0 "[1-9]* ]] || fail "$1: counted $(counted)"
	grep 'merged trees used=yes' "$WORK/log/snapshotter.log" | tail -n 1 | has "last_failure=\".*$1" || fail "$1: not the last failure"
	cri lamella rm "$id"
}
restart_snapshotter() { # [COMMAND...]: by which it is run
	stop snapshotter
	LOG_MARK=$(($(stat -c %s "$WORK/log/snapshotter.log") + 1))
	SNAPSHOTTER_BY=("$@")
	snapshotter_start
	wait_for 20 "containerd to find the snapshotter" connected
}
mount --bind /dev/null /dev/loop-control
restart_snapshotter
serves_layers 'find a loop device: Inappropriate ioctl'
umount /dev/loop-control
# No devices but those that every container has.
restart_snapshotter unshare -m sh -ec 'mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; exec "$@"' sh
serves_layers 'open /dev/loop-control: No such file'
restart_snapshotter
id=$(start_pod tiny)
is_merged "$id" || fail "not tried again"
cri lamella rm "$id"

say "the layers' file system is another one, after the fetcher was stopped and started"
before=$(trees)
stop fetcher
! findmnt "$MOUNT_BASE/$FQRN" >/dev/null || fail "a tree keeps the layers mounted"
fetcher_start
sleep 3.5 # answers are kept for 3 s where containers start
id=$(start_pod tiny)
is_merged "$id" || fail "not over a tree"
[[ $(trees) != "$before" && $(trees | count) = 1 ]] || fail "trees: $(trees)"
listing "$id" | diff - "$WORK/tmp/merged.tiny" >"$WORK/tmp/difference" || fail "another tree: $(head "$WORK/tmp/difference")"
cri lamella rm "$id"

say "and where they are turned off"
stop snapshotter
snapshotter_start LAMELLA_TREES=no
id=$(start_pod edge)
! is_merged "$id" || fail "over a tree all the same"
listing "$id" | diff - "$WORK/tmp/merged.edge" >"$WORK/tmp/difference" || fail "another tree: $(head "$WORK/tmp/difference")"
cri lamella rm "$id"
stop containerd-lamella
stop snapshotter
check_reports
say passed
