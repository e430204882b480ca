#!/usr/bin/env bash
# The machine goes down, by a power cut or in order, and comes up with other daemons first each time: whatever was mounted is
# gone, /run is empty, it is another boot, and what is on disk is all there is. Containers that were there start again on what
# they had written, and new ones from images that are there: those of ordinary images at once, served ones as soon as the
# fetcher is there. Nothing is fetched from the registry.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need python3 losetup findmnt ldd
need_image tiny
isolate reboot

declare -A IMAGE=([served]=tiny [ordinary]=programs)
# Each time it starts it shows what it finds, and adds a line.
LIFE='cat /var/tmp/file 2>/dev/null; echo boot >>/var/tmp/file; sync /var/tmp/file; wc -l </var/tmp/file >/var/tmp/boots; exec sleep 1000'
existing_make() { # KIND
	ctr_ lamella run -d --snapshotter lamella --cgroup "/lamella-${WORK##*/}/$1" "$REGISTRY/${IMAGE[$1]}:latest" "$1" sh -c "$LIFE"
}
existing_start() { ctr_ lamella tasks start -d "$1" >"$WORK/log/start.log" 2>&1; } # KIND
boots() { ctr_ lamella tasks exec --exec-id "e-$RANDOM" "$1" cat /var/tmp/boots 2>/dev/null; }
booted() { [ "$(boots "$1")" = "$2" ]; } # KIND TIMES
fresh() { # KIND: a new container
	pod lamella run --no-pull "$REGISTRY/${IMAGE[$1]}:latest" sh -c 'echo from inside; echo x >/var/tmp/x' >"$WORK/log/fresh.log" 2>&1 &&
		grep -qx 'from inside' "$WORK/log/fresh.log"
}
trees() { findmnt -rn -t erofs -o TARGET | grep "^$WORK/snapshotter/" || true; }
overlay_of() { awk -v t="/run/containerd-lamella/io.containerd.runtime.v2.task/k8s.io/$1/rootfs" '$5 == t' /proc/self/mountinfo; } # KIND

# --- the machine ------------------------------------------------------------------------------------------------------

# What is not on this machine: the registry and the repository's server.
elsewhere() { [ "$1" = "$(pid_of registry)" ] || { [ -e "$WORK/run/serve.pid" ] && [ "$1" = "$(pid_of serve)" ]; }; }
processes() {
	local p
	for p in /proc/[0-9]*; do
		p=${p#/proc/}
		# Not this script, and no thread of the kernel's.
		[ "$p" = $$ ] || [ "$p" = "$BASHPID" ] || elsewhere "$p" || ! readlink "/proc/$p/exe" >/dev/null 2>&1 || echo "$p"
	done
}
kill_all() {
	local p
	for p in $(processes); do kill -KILL "$p" 2>/dev/null || true; done
	[ -z "$(processes)" ]
}
machine_mounts() { awk -v w="$WORK/" '$5 == "/run" || index($5, "/run/") == 1 || index($5, w) == 1 { print $5 }' /proc/self/mountinfo | tac; }
unmount_all() {
	local m
	for m in $(machine_mounts); do umount -l "$m" 2>/dev/null || true; done
	[ -z "$(machine_mounts)" ]
}
no_loops_left() { [ -z "$(own_loops)" ]; }
machine_down() { # KILL, or TERM in order
	local d
	note_loops
	if [ "$1" = TERM ]; then
		for d in containerd-lamella snapshotter fetcher; do stop $d; done
	fi
	wait_for 20 "processes to go: $(processes)" kill_all
	rm -f "$WORK"/run/{containerd-lamella,snapshotter,fetcher}.pid
	wait_for 10 "mounts to go: $(machine_mounts)" unmount_all
	find /sys/fs/cgroup -mindepth 2 -depth -type d -path "*/lamella-${WORK##*/}/*" -exec rmdir {} + 2>/dev/null || true
	wait_for 10 "loop devices to go: $(own_loops)" no_loops_left
}
machine_up() {
	mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
	mkdir -p /run/lamella
	python3 -c "import uuid; print(uuid.uuid4())" >"$WORK/tmp/boot_id"
	umount /proc/sys/kernel/random/boot_id 2>/dev/null || true
	mount --bind "$WORK/tmp/boot_id" /proc/sys/kernel/random/boot_id
	registry_mark
}
expect_kept() { # KIND TIMES
	wait_for 60 "the $1 container to run again" existing_start "$1"
	wait_for 30 "its file, $2 times" booted "$1" "$2"
}
nothing_fetched() { ! registry_log | grep '/blobs/' || fail "fetched from the registry"; }

registry_start
push_pause
repo_init
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
programs_tree "$WORK/tmp/programs" sh cat sync wc sleep
tar -C "$WORK/tmp/programs" --owner=0 --group=0 -cf "$WORK/tmp/programs.tar" .
make_layout "$WORK/oci-programs" "$WORK/tmp/programs.tar"
push "$WORK/oci-programs:latest" programs:latest
convert "oci:$LM_IMAGES/oci-tiny:latest"
serve_start
fetcher_start
snapshotter_start
containerd_start lamella
for kind in served ordinary; do
	cri lamella pull "$REGISTRY/${IMAGE[$kind]}:latest" >/dev/null
	existing_make $kind
	wait_for 20 "the $kind container" booted $kind 1
	fresh $kind || fail "$kind: $(cat "$WORK/log/fresh.log")"
done
trees_before=$(trees | grep -c . || true)

say "a power cut, and the fetcher is the last to come"
machine_down KILL
machine_up
snapshotter_start
containerd_start lamella
expect_kept ordinary 2
fresh ordinary || fail "no new container of an ordinary image: $(cat "$WORK/log/fresh.log")"
! existing_start served || fail "a container of layers that nobody serves"
grep -qi unavailable "$WORK/log/start.log" || fail "not unavailable: $(cat "$WORK/log/start.log")"
! fresh served || fail "a new container of layers that nobody serves"
grep -qi 'unavailable\|status 14' "$WORK/log/fresh.log" || fail "not unavailable: $(cat "$WORK/log/fresh.log")"
fetcher_start
expect_kept served 2
wait_for 30 "a new container of a served image" fresh served
nothing_fetched
[ "$(trees | grep -c . || true)" = "$trees_before" ] || fail "$trees_before merged trees before, now $(trees)"
# What it writes is where it always was, and what it reads is there.
for kind in served ordinary; do [[ $(overlay_of $kind) == *upperdir=$WORK/snapshotter/snapshots/* ]] || fail "$kind: $(overlay_of $kind)"; done
ctr_ lamella tasks exec --exec-id all served sh -c 'find /usr -xdev -type f -exec cat {} + >/dev/null' || fail "the container can't read"

# Images whose snapshotter is not there when it starts, the CRI plugin does not show; kubelet then pulls them, which costs no blob.
say "in order, and containerd is the first to come"
machine_down TERM
machine_up
containerd_start lamella
! existing_start ordinary || fail "without a snapshotter"
snapshotter_start
fetcher_start
expect_kept ordinary 3
expect_kept served 3
for kind in served ordinary; do
	wait_for 30 "the $kind image" cri lamella pull "$REGISTRY/${IMAGE[$kind]}:latest" >/dev/null
	wait_for 30 "a new $kind container" fresh $kind
done
nothing_fetched

say "a power cut, and the fetcher is the first to come, without a network"
stop serve
machine_down KILL
machine_up
fetcher_start
snapshotter_start
containerd_start lamella
expect_kept served 4
expect_kept ordinary 4
for kind in served ordinary; do wait_for 30 "a new $kind container" fresh $kind; done
nothing_fetched

say "everything is removed"
note_loops
for kind in served ordinary; do
	ctr_ lamella tasks rm -f $kind >/dev/null
	ctr_ lamella containers rm $kind
done
cri lamella clear
expect_nothing_left
! grep -E 'the store was damaged|are kept that nothing names' "$WORK/log/snapshotter.log" || fail "the store was damaged"
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
say passed
