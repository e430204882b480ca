# shellcheck shell=bash
# A machine of its own: a Debian with systemd as process 1, in namespaces below those of the test, whose network it has. Sourced
# after lib.sh, used after isolate.
#
#   machine_root NAME PACKAGE... - isolate - machine_boot - inside COMMAND...
#
# Its disk is the folder $WORK/machine, where what it mounts is not seen; $WORK/shared is its /mnt.

MACHINE_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Before isolate, since it may need the network: a minimal Debian with these packages, as a tar file that is kept.
machine_root() { # TAR PACKAGE...
	local tar=$1 tmp=$1.tmp
	shift
	[ ! -e "$tar" ] || return 0
	rm -rf --one-file-system "$tmp"
	mkdir -p "$tmp"
	# In a mount namespace, so that a killed one leaves no mounts.
	TMPDIR=$tmp unshare --mount --fork --kill-child mmdebstrap --quiet --mode=root --format=tar --variant=minbase \
		--include="$(tr ' ' , <<<"$*")" bookworm "$tmp/root.tar" >"$tmp/log" 2>&1 || skip "no Debian root can be made: $(tail -n 1 "$tmp/log")"
	mv "$tmp/root.tar" "$tar"
	rm -rf --one-file-system "$tmp"
}

# The hierarchies of control groups: "TYPE OPTIONS DIRECTORY", OPTIONS as mount(8) wants them.
hierarchies() {
	local type options dir
	awk '$5 ~ "^/sys/fs/cgroup" { for (i = 7; $i != "-"; i++); print $(i + 1), $(i + 3), $5 }' /proc/self/mountinfo |
		while read -r type options dir; do
			case $type in
			cgroup) options=$(tr , '\n' <<<"$options" | grep -vE '^(rw|ro|xattr|clone_children|release_agent=.*)$' | sed 's/^name=/none,&/' | paste -sd,) ;;
			cgroup2) options=rw ;;
			*) continue ;;
			esac
			echo "$type $options $dir"
		done
}

# The group of the test in each of them, which `alone` removes.
make_groups() {
	local type dir group f
	while read -r type _ dir; do
		group=$dir/lamella-${WORK##*/}
		mkdir -p "$group"
		for f in cpuset.cpus cpuset.mems; do # without them no process may enter
			[ "$type" = cgroup2 ] || [ ! -e "$dir/$f" ] || cat "$dir/$f" >"$group/$f"
		done
		echo "$group/cgroup.procs"
	done < <(hierarchies)
}

machine_boot() { # TAR
	local groups unit
	mkdir "$WORK"/{machine,shared}
	tar -C "$WORK/machine" -xf "$1"
	# Kernel and devices are the real machine's, which are not to be touched; logins and upkeep are not the test's matter.
	for unit in systemd-tmpfiles-setup-dev.service systemd-modules-load.service systemd-sysctl.service systemd-journald-audit.socket \
		dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount systemd-remount-fs.service systemd-firstboot.service \
		systemd-logind.service systemd-timesyncd.service getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
		e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
		ln -sf /dev/null "$WORK/machine/etc/systemd/system/$unit"
	done
	echo '127.0.0.1 localhost' >"$WORK/machine/etc/hosts"
	: >"$WORK/machine/etc/resolv.conf"
	mapfile -t groups < <(make_groups)
	hierarchies >"$WORK/tmp/hierarchies"
	cat >"$WORK/tmp/init" <<-'END'
		set -e
		cd "$1"
		mount --make-rprivate /
		mount --bind . .
		cd "$1"
		mount -t proc proc proc
		mount --bind proc/sys proc/sys
		mount -o remount,bind,ro proc/sys
		[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
		mount -t sysfs -o ro sysfs sys
		mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
		while read -r type options dir; do
			[ "$dir" = /sys/fs/cgroup ] || mkdir "${dir#/}"
			mount -t "$type" -o "$options" cgroup "${dir#/}"
		done <"$3"
		mount --rbind /dev dev
		mount -o remount,bind,ro dev
		mount --bind /dev/null dev/console
		mount --bind /dev/null dev/kmsg
		mount -t tmpfs -o mode=755 run run
		mount --bind "$2" mnt
		mkdir run/old
		pivot_root . run/old
		cd /
		umount -l /run/old
		rmdir /run/old
		mount --make-rshared /
		exec env -i container=lamella PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target
	END
	# shellcheck disable=SC2016 # a shell of its own, which goes into the groups
	start machine bash -c 'init=$1 root=$2 shared=$3 list=$4
		shift 4
		for group; do echo $$ >"$group"; done
		exec unshare --mount --pid --cgroup --uts --fork --kill-child bash "$init" "$root" "$shared" "$list"' \
		bash "$WORK/tmp/init" "$WORK/machine" "$WORK/shared" "$WORK/tmp/hierarchies" "${groups[@]}"
	wait_for 60 "systemd" started machine machine_is_up
	MACHINE_INIT=$(pgrep -P "$(pid_of machine)")
}
machine_is_up() {
	MACHINE_INIT=$(pgrep -P "$(pid_of machine)") || return
	[[ $(inside systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]
}
inside() { # COMMAND...
	nsenter -t "$MACHINE_INIT" --mount --uts --pid --cgroup --root env -i -C / PATH=$MACHINE_PATH LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
}
property() { inside systemctl show -P "$2" "$1"; } # UNIT PROPERTY
