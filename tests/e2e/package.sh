#!/usr/bin/env bash
# The Debian packages, as an administrator has them: in a fresh Debian with systemd they are installed, set up by the manual,
# upgraded under a container that reads on, keep a wish list, are removed and purged; then the disk is as it was before. The service
# manager is a real one.
# time limit: 900 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/machine.bash
. "$(dirname "$0")/machine.bash"
need_containers
need mmdebstrap dpkg-buildpackage dh unshare nsenter pivot_root python3
PACKAGES=$LM_BUILD/package
VERSION=$(sed -nE "s/^  version: '([^']*)',$/\1/p" "$LM_ROOT/meson.build")
NEXT=$VERSION+next
ARCH=$(dpkg --print-architecture)
debs() { echo "$1/lamella_$2_$ARCH.deb" "$1/lamella-node_$2_$ARCH.deb"; } # DIRECTORY VERSION
# What they need that is not of their own.
needed() {
	# shellcheck disable=SC2046 # two names
	for deb in $(debs "$PACKAGES" "$VERSION"); do dpkg-deb -f "$deb" Depends; done |
		tr , '\n' | sed -E 's/\|.*//; s/\(.*\)//; s/ //g' | grep -v '^lamella' | sort -u
}
if [ -z "${LM_ALONE:-}" ]; then
	"$LM_ROOT/run" package
	"$LM_ROOT/run" package "$NEXT"
	# The distribution is Debian's own word for where a package goes, which this is not for.
	if command -v lintian >/dev/null; then
		lintian --allow-root --fail-on error,warning --suppress-tags bad-distribution-in-changes-file "$PACKAGES/lamella_${VERSION}_$ARCH.changes" ||
			fail "lintian is not content"
	else
		say "not shown: that lintian is content, which is not installed"
	fi
	mapfile -t NEEDED < <(needed)
	ROOT_TAR=$PACKAGES/root-$(sha256sum <<<"${NEEDED[*]}" | cut -c1-16).tar
	export ROOT_TAR
	machine_root "$ROOT_TAR" systemd containerd runc "${NEEDED[@]}"
fi
isolate package

# --- what is on its disk ----------------------------------------------------------------------------------------------

# Names, types, modes, owners, and the contents of what is configuration. Not what grows as a machine runs: logs, containerd's own
# state, dpkg's and apt's records of what was done (that of what is installed is asked for by itself).
listing() { # FILE
	local not=(./var/log ./var/lib/containerd/io.containerd.* ./var/cache/apt ./var/cache/debconf ./var/lib/apt ./tmp ./var/tmp ./opt/containerd) prune=() p
	for p in "${not[@]}"; do prune+=(-o -path "$p"); done
	{
		(cd "$WORK/machine" && find . -xdev \( -false "${prune[@]}" \) -prune -o -printf '%P %y %#m %U:%G %l\n' | sort)
		(cd "$WORK/machine" && find etc -xdev -type f ! -name '*-' -print0 | sort -z | xargs -0 sha256sum)
		find "$WORK/machine/var/lib/containerd" -maxdepth 1 -name '*lamella*'
		inside dpkg -l
	} >"$1"
}
unchanged() {
	listing "$WORK/after"
	diff "$WORK/before" "$WORK/after" >"$WORK/difference" || fail "the disk is not as it was: $(grep '^[<>]' "$WORK/difference" | head -n 30)"
}

# --- the container that goes on ----------------------------------------------------------------------------------------

SOCKET=/run/containerd/containerd.sock
IMAGE=$REGISTRY/reader:latest
node_ready() { node status >/dev/null 2>&1; }
node() { inside /mnt/lamella-cri -s $SOCKET "$@"; }
OUTPUT=$WORK/shared/reader/container.log
lines() { grep -c . "$OUTPUT" 2>/dev/null || true; }
lines_beyond() { [ "$(lines)" -gt "$1" ]; }
reads_on() { # WHAT: from now on, and all that it read was right
	wait_for 20 "the container to read on after $1" lines_beyond $(($(lines) + 20))
	sed -E 's/^[^ ]+ (stdout|stderr) F //' "$OUTPUT" >"$WORK/seen"
	cmp "$WORK/seen" <(for _ in 1 2 3 4 5; do cat "$WORK/expected"; done 2>/dev/null | head -n "$(wc -l <"$WORK/seen")") || fail "$1: the container saw something else"
	[[ $(node list) == *"$READER running "* ]] || fail "$1: the container has ended"
	say "    $1: $(lines) files read, all as published; longest pause $(longest_pause) ms"
}
# Between two files, of all so far.
longest_pause() {
	cut -d' ' -f1 "$OUTPUT" | python3 -c 'import sys, datetime
t = [datetime.datetime.fromisoformat(l[:26] + "+00:00").timestamp() for l in sys.stdin]
print(round(1000 * max(b - a for a, b in zip(t, t[1:]))))'
}

images() {
	registry_start
	push_pause
	mkdir "$WORK/tree"
	programs_tree "$WORK/tree" sh cksum sleep
	python3 "$LM_ROOT/tests/e2e/files.py" "$WORK/tree/data" 6 200 0
	(cd "$WORK/tree" && find data -type f | sort >list && xargs cksum <list) >"$WORK/expected"
	tar -C "$WORK/tree" --owner=0 --group=0 -cf "$WORK/tmp/reader.tar" .
	rm -r "$WORK/tree"
	LAYER_GZIP=1 make_layout "$WORK/oci-reader" "$WORK/tmp/reader.tar" /bin/sh
	push "$WORK/oci-reader:latest" reader:latest
	repo_init
	convert "oci:$WORK/oci-reader:latest"
	serve_start
}

# --- the life of a package --------------------------------------------------------------------------------------------

apt() { inside apt-get -qy -o Dpkg::Use-Pty=0 "$@" >>"$WORK/log/apt.log" 2>&1 || fail "apt-get $*: $(tail -n 20 "$WORK/log/apt.log")"; }
install_version() { # VERSION
	local deb names=()
	for deb in $(debs "$PACKAGES" "$1"); do
		cp "$deb" "$WORK/shared/"
		names+=("/mnt/${deb##*/}")
	done
	apt install --no-install-recommends "${names[@]}"
}
version_is() { # VERSION
	local p
	for p in lamella lamella-fetcher lamella-snapshotter; do
		[ "$(inside $p --version)" = "$p $1" ] || fail "$p is $(inside $p --version), not $1"
	done
}
running_version() { inside lamella status --json | jq -r .version; }

test_install() {
	local p unit page
	say "installed: $VERSION"
	install_version "$VERSION"
	version_is "$VERSION"
	for p in lamella lamella-fetcher lamella-snapshotter; do inside $p --help | has . || fail "$p --help says nothing"; done
	for page in "$LM_ROOT"/deploy/man/* lamella-fetcher-worker.8; do
		page=${page##*/}
		inside gzip -t "/usr/share/man/man${page##*.}/$page.gz" || fail "no manual $page"
	done
	for unit in fetcher snapshotter sync registry; do
		inside systemd-analyze verify --man=no "/lib/systemd/system/lamella-$unit.service" >"$WORK/verify" 2>&1 || echo "exit code $?" >>"$WORK/verify"
		[ ! -s "$WORK/verify" ] || fail "lamella-$unit.service: $(cat "$WORK/verify")"
		[ "$(inside systemctl is-active lamella-$unit || true)$(inside systemctl is-enabled lamella-$unit || true)" = inactivedisabled ] ||
			fail "lamella-$unit is active or enabled though nothing is configured"
		say "    $(inside systemd-analyze security --no-pager lamella-$unit.service | tail -n 1 | grep -oE 'Overall.*[0-9.]+ [A-Z]+')"
	done
}

# By the manual; what is not a site's is where it finds its registry, and control groups.
configure() {
	local d=$WORK/machine/etc
	mkdir -p "$d/lamella/keys" "$d/containerd/certs.d/$REGISTRY"
	cp "$WORK/keys/$FQRN.pub" "$d/lamella/keys/"
	cat >>"$d/lamella/lamella.conf" <<-END
		CVMFS_REPOSITORIES=$FQRN
		CVMFS_SERVER_URL=http://$WEB/cvmfs/@fqrn@
		CVMFS_HTTP_PROXY=DIRECT
		CVMFS_PUBLIC_KEY=/etc/lamella/keys/$FQRN.pub
	END
	cp "$d/containerd/config.toml" "$WORK/config.toml"
	sed -i '1i imports = ["/etc/containerd/lamella.toml"]' "$d/containerd/config.toml"
	{
		cat "$WORK/machine/usr/share/lamella/containerd/1.6.toml"
		containerd_cri_2 /etc/containerd
	} >"$d/containerd/lamella.toml"
	echo "server = \"http://$REGISTRY\"" >"$d/containerd/certs.d/$REGISTRY/hosts.toml"
	cp "$CRI" "$WORK/shared/"
}

test_start() {
	local unit
	say "configured, enabled, started"
	inside systemctl start lamella-fetcher 2>/dev/null && fail "the fetcher starts without a repository"
	sleep 1
	[ "$(property lamella-fetcher NRestarts)" -le 1 ] || fail "the fetcher is started again and again without a repository"
	inside systemctl reset-failed lamella-fetcher
	configure
	inside systemctl enable --now lamella-fetcher lamella-snapshotter 2>>"$WORK/log/systemctl.log" ||
		fail "the services don't start: $(journal)"
	inside systemctl restart containerd
	wait_for 30 "containerd" node_ready
	for unit in fetcher snapshotter; do
		[[ " $(property containerd After) " == *" lamella-$unit.service "* ]] || fail "containerd does not start after lamella-$unit"
	done
	registry_mark
	mkdir -p "$WORK/shared/reader"
	# shellcheck disable=SC2016 # the shell in there
	READER=$(node start --log-dir /mnt/reader --cgroup-parent /pods "$IMAGE" sh -c 'while :; do while read -r f; do cksum "$f"; sleep 0.1; done </list; done') ||
		fail "no container: $(journal)"
	[ -z "$(registry_layer_requests "$WORK/oci-reader")" ] || fail "layers were pulled: $(registry_log)"
	reads_on "the start"
	inside lamella doctor >"$WORK/doctor" 2>&1 || fail "lamella doctor: $(cat "$WORK/doctor")"
	# The guide's first container, without the CRI.
	inside lamella pull "$IMAGE" >"$WORK/pull" 2>&1 || fail "lamella pull: $(cat "$WORK/pull")"
	[ "$(inside ctr run --rm --snapshotter lamella "$IMAGE" first sh -c 'echo started')" = started ] || fail "ctr starts no container: $(journal)"
	[ -z "$(registry_layer_requests "$WORK/oci-reader")" ] || fail "lamella pull pulled layers: $(registry_log)"
	inside ctr images rm --sync "$IMAGE" >"$WORK/pull" 2>&1 || fail "ctr images rm: $(cat "$WORK/pull")"
}
journal() { inside journalctl -q --no-pager -n 20 -u 'lamella-*'; }

test_upgrade() {
	local fetcher worker snapshotter before
	say "upgraded to $NEXT under the container"
	fetcher=$(property lamella-fetcher MainPID)
	worker=$(inside cat "/proc/$fetcher/task/$fetcher/children")
	snapshotter=$(property lamella-snapshotter MainPID)
	[ "$(running_version)" = "$VERSION" ] || fail "$(running_version) runs, not $VERSION"
	before=$(lines)
	install_version "$NEXT"
	say "    $(($(lines) - before)) files were read meanwhile"
	[ "$(lines)" -gt "$before" ] || fail "nothing was read during the upgrade: this shows nothing"
	version_is "$NEXT"
	[ "$(running_version)" = "$NEXT" ] || fail "$(running_version) runs, not $NEXT: $(journal)"
	[ "$(property lamella-fetcher MainPID)" = "$fetcher" ] || fail "the keeper was stopped, not replaced"
	[ "$(inside cat "/proc/$fetcher/task/$fetcher/children")" != "$worker" ] || fail "the worker is the old one"
	[ "$(property lamella-snapshotter MainPID)" != "$snapshotter" ] || fail "the snapshotter is the old one"
	[ "$(inside systemctl is-active lamella-fetcher lamella-snapshotter containerd | sort -u)" = active ] || fail "not all is active: $(journal)"
	[ "$(property lamella-fetcher NRestarts)" = 0 ] || fail "the fetcher was started again"
	grep -q "^CVMFS_REPOSITORIES=$FQRN$" "$WORK/machine/etc/lamella/lamella.conf" || fail "the settings are lost"
	reads_on "the upgrade"
	[ "$(node run --no-pull --cgroup-parent /pods "$IMAGE" sh -c 'echo started')" = started ] || fail "no container starts after the upgrade"
}

# What the units are for, by the real service manager.
test_units() {
	local fetcher snapshotter
	say "the services under systemd"
	fetcher=$(property lamella-fetcher MainPID)
	inside systemctl kill --kill-whom=main -s KILL lamella-fetcher
	wait_for 20 "another keeper" another lamella-fetcher "$fetcher"
	[ "$(property lamella-fetcher NRestarts)" = 1 ] || fail "$(property lamella-fetcher NRestarts) starts after the kill"
	reads_on "the keeper's death"
	apt install --reinstall --no-install-recommends "/mnt/lamella-node_${NEXT}_$ARCH.deb"
	[ "$(property lamella-fetcher NRestarts)" = 1 ] || fail "the fetcher was started again by an installation after a crash"
	reads_on "an upgrade after that"
	inside systemctl reload lamella-fetcher
	snapshotter=$(property lamella-snapshotter MainPID)
	inside systemctl kill -s KILL lamella-snapshotter
	wait_for 20 "another snapshotter" another lamella-snapshotter "$snapshotter"
	inside systemctl restart lamella-snapshotter containerd
	wait_for 30 "containerd" node_ready
	reads_on "a reload, and restarts of snapshotter and containerd"
	[ "$(property lamella-fetcher WatchdogTimestampMonotonic)" != 0 ] || fail "no watchdog"
	echo "REPOSITORIES=\"$FQRN\"" >"$WORK/machine/etc/lamella/registry.env"
	inside systemctl start lamella-registry || fail "lamella-registry: $(journal)"
	inside systemctl stop lamella-registry
	rm "$WORK/machine/etc/lamella/registry.env"
}
another() { [ "$(property "$1" MainPID)" != "$2" ] && [ "$(property "$1" ActiveState)" = active ]; } # SERVICE PID

# As lamella-librarian(7) says: under the unit's restrictions it fetches, converts and publishes, also after root has had a hand in.
PUBLISHED=service.lamella.test
wishes() { # TAG...
	printf 'version: 2\nrepositories:\n  - repository: %s\n    images:\n' $PUBLISHED
	printf "      - http://$REGISTRY/reader:%s\n" "$@"
}
published() { inside lamella images --repo $PUBLISHED 2>/dev/null | has -F "$REGISTRY/reader:$1"; } # TAG
test_sync() {
	local tag tags=()
	say "a wish list, kept by the service"
	inside lamella repo init $PUBLISHED --storage /srv/repo --keys /srv/keys >>"$WORK/log/sync.log" 2>&1 || fail "repo init"
	inside chown -R lamella: /srv/repo /srv/keys
	for tag in latest second third; do
		tags+=("$tag")
		push "$WORK/oci-reader:latest" "reader:$tag"
		wishes "${tags[@]}" >"$WORK/machine/etc/lamella/wishes.yaml"
		inside systemctl reload-or-restart lamella-sync || fail "lamella-sync: $(journal)"
		wait_for 60 "the service to publish $tag" published "$tag"
		inside lamella repo sign $PUBLISHED >>"$WORK/log/sync.log" 2>&1 || fail "repo sign"
	done
	[ "$(property lamella-sync NRestarts)$(property lamella-sync ActiveState)" = 0active ] || fail "lamella-sync: $(journal)"
	! inside journalctl -q -u lamella-sync | has -iE 'not permitted|permission denied|read-only' || fail "it may not do what it has to: $(journal)"
	inside systemctl stop lamella-sync
	[ "$(property lamella-sync Result)" = success ] || fail "lamella-sync: $(journal)"
	inside rm -r /srv/repo /srv/keys /etc/lamella/wishes.yaml /etc/lamella/repositories.d
}

test_remove() {
	say "removed"
	node rm "$READER"
	node clear
	apt remove lamella lamella-node
	# Names of processes have 15 characters.
	[ -z "$(pgrep -x lamella-fetcher)$(pgrep -x lamella-snapsho)" ] || fail "programs are running"
	! inside grep -E ' (cvmfs2|lamella) | /var/lib/lamella/' /proc/mounts || fail "mounts are left"
	[ -e "$WORK/machine/etc/lamella/lamella.conf" ] || fail "the settings went at a removal"
	[ -d "$WORK/machine/var/lib/cvmfs/lamella" ] || fail "the cache went at a removal"
	say "purged"
	apt purge lamella lamella-node
	# What is the administrator's, the administrator takes away.
	rm "$WORK/machine/etc/lamella/keys/$FQRN.pub" "$WORK/machine/etc/containerd/certs.d/$REGISTRY/hosts.toml" "$WORK/machine/etc/containerd/lamella.toml"
	rmdir "$WORK/machine/etc/lamella/keys" "$WORK/machine/etc/lamella" "$WORK/machine/etc/containerd/certs.d/$REGISTRY" "$WORK/machine/etc/containerd/certs.d"
	cp "$WORK/config.toml" "$WORK/machine/etc/containerd/config.toml"
	[ -z "$(inside find /run/lamella 2>/dev/null)" ] || fail "left: $(inside find /run/lamella)"
	unchanged
}

images
machine_boot "$ROOT_TAR"
say "systemd $(inside systemctl --version | sed -n '1s/^systemd //p') as process 1: $(inside systemctl is-system-running || true)"
listing "$WORK/before"
test_install
test_start
test_upgrade
test_units
test_sync
test_remove
say "passed"
