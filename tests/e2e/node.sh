#!/usr/bin/env bash
# What the chart's pod does to a node, by the script and the bundle that its image has: programs with libraries of their own,
# settings and keys, services, the handover to another build while a program reads, containerd's configuration of three series,
# the verdict of the acceptance Job, and removal. The node is this machine in namespaces of its own; its systemd is a stand-in
# that starts what the units name. The pod ends again and again: what it started goes on.
# time limit: 300 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need patchelf python3 curl flock
isolate node

DEPLOY=$LM_ROOT/deploy/kubernetes
NODE=$DEPLOY/lamella-node
PREFIX=/opt/lamella
IMAGE=$REGISTRY/small:latest

# --- a node: its own /opt, /etc and /var/lib/lamella, and something that takes orders for services ------------------------

mkdir -p "$WORK"/node/{opt,etc,work-etc,lib,sbin} "$WORK/standin" /run/systemd/system /var/lib/lamella
mount --bind "$WORK/node/opt" /opt
mount --bind "$WORK/node/sbin" /usr/local/sbin # the first place where a command is looked for
mount --bind "$WORK/node/lib" /var/lib/lamella
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$WORK/node/etc,workdir=$WORK/node/work-etc" /etc
mkdir -p /etc/systemd/system /etc/containerd

# The orders that lamella-node gives, and no other: whatever else is asked for is an error.
echo process >"$WORK/standin/killmode"
cat >/usr/local/sbin/systemctl <<'END'
#!/usr/bin/env bash
set -euo pipefail
echo "$*" >>"$STANDIN/orders"
pid_of() { cat "$STANDIN/$1.pid" 2>/dev/null || echo 0; }
lives() { [ "$1" != 0 ] && [ -e "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status"; }
begin() {
	# shellcheck disable=SC2046 # words of the unit
	setsid $(sed -n 's/^ExecStart=//p' "/etc/systemd/system/$1") >>"$STANDIN/../log/${1%.service}.log" 2>&1 </dev/null &
	echo $! >"$STANDIN/$1.pid"
}
end() {
	local p
	p=$(pid_of "$1")
	! lives "$p" || kill "$p"
	while lives "$p"; do sleep 0.05; done
	rm -f "$STANDIN/$1.pid"
}
case "$*" in
daemon-reload | "enable --quiet "*) ;;
"disable --now "*) for u in "${@:3}"; do end "$u"; done ;;
"is-active --quiet "*) lives "$(pid_of "$3")" ;;
"start "*) lives "$(pid_of "$2")" || begin "$2" ;;
"restart containerd.service") [ ! -e "$STANDIN/containerd-fails" ] || { rm "$STANDIN/containerd-fails" && exit 1; } ;;
"restart "*)
	end "$2"
	begin "$2"
	;;
"reload "*) kill -HUP "$(pid_of "$2")" ;;
"kill --kill-whom=main -s USR1 "*) kill -USR1 "$(pid_of "$5")" ;;
"show -p MainPID --value "*) pid_of "$5" ;;
"show -p KillMode --value "*) cat "$STANDIN/killmode" ;;
*) exit 1 ;;
esac
END
chmod 755 /usr/local/sbin/systemctl

# Unlike in a pod, everything is on the node already: there is no other directory or namespace to go through.
export STANDIN=$WORK/standin
export HOST='' ON_HOST=env SETTINGS=$WORK/settings KEYS=$WORK/pod-keys SECRET=$WORK/secret HOST_ADDRESS=127.0.0.1 FETCHER_PORT=9177 \
	SNAPSHOTTER_PORT=9178 HEARTBEAT=$WORK/alive LOCK=$WORK/lock INTERVAL_S=1 CONTAINERD_CONFIGURE=no NODE_NAME=here PAYLOAD=$WORK/payload
installs() { "$NODE" install >"$WORK/out" 2>&1 || fail "install: $(cat "$WORK/out")"; }
refuses() { # PATTERN COMMAND...
	local pattern=$1
	shift
	! "$@" >"$WORK/out" 2>&1 || fail "$*: not refused, though $pattern"
	grep -qF -- "$pattern" "$WORK/out" || fail "$*: refused, but not since $pattern: $(cat "$WORK/out")"
}
said() { grep -qE -- "$1" "$WORK/out" || fail "no word of $1: $(cat "$WORK/out")"; } # PATTERN
keeper() { cat "$STANDIN/lamella-fetcher.service.pid"; }
worker() { pgrep -P "$(keeper)" | tail -n 1; }
snapshotter() { cat "$STANDIN/lamella-snapshotter.service.pid"; }
orders() { grep -cE "$1" "$STANDIN/orders" || true; }
runs_ours() { # PID...: the bundle's programs, with its libraries and no other
	local p
	for p; do
		[[ $(readlink "/proc/$p/exe") == $PREFIX/sbin/lamella-* ]] || fail "process $p is $(readlink "/proc/$p/exe")"
		! grep -E ' /(usr/)?lib/.*\.so' "/proc/$p/maps" | grep -v "$PREFIX" || fail "process $p has libraries of the node"
		grep -q " $PREFIX/lib/$(cat "$PAYLOAD/id")/" "/proc/$p/maps" || fail "process $p has other libraries than $(cat "$PAYLOAD/id")"
	done
}
quota_is() { [ "$(curl -sf "http://127.0.0.1:$FETCHER_PORT/metrics" | sed -n 's/^lamella_fetcher_cache_quota_bytes //p')" = $(($1 << 20)) ]; }
is_ready() { "$NODE" ready 2>"$WORK/out"; }

# --- the bundle -------------------------------------------------------------------------------------------------------

bundle() { # FETCHER OUT
	"$DEPLOY/bundle" "$1" "$LM_BUILD/snapshotter/lamella-snapshotter" "$LAMELLA" "$2" >"$WORK/out" 2>&1 || fail "bundle: $(cat "$WORK/out")"
	say "  $(cat "$2/id"): $(tail -n 1 "$WORK/out")"
}
say "two bundles, of two builds"
bundle "$LM_BUILD/fetcher/lamella-fetcher" "$WORK/payload"
for s in '' -worker; do
	cp "$LM_BUILD/fetcher/lamella-fetcher$s" "$WORK/other-fetcher$s"
	printf 'another build' >>"$WORK/other-fetcher$s"
done
bundle "$WORK/other-fetcher" "$WORK/payload-other"
! cmp -s "$WORK/payload/id" "$WORK/payload-other/id" || fail "two builds have one name"

# --- the first time ---------------------------------------------------------------------------------------------------

registry_start
push_pause
programs_tree "$WORK/tree" bash find sort xargs sha256sum cut
seq 300 | while read -r i; do head -c 20000 /dev/urandom >"$WORK/tree/usr/bin/data$i"; done
tar -C "$WORK/tree" --owner=0 --group=0 -cf "$WORK/tmp/small.tar" .
make_layout "$WORK/oci-small" "$WORK/tmp/small.tar" /usr/bin/bash
push "$WORK/oci-small:latest" small:latest
repo_init
convert "docker://$IMAGE"
serve_start
mkdir "$SETTINGS" "$KEYS" "$MOUNT_BASE"
settings() { # [LINE...]
	cat >"$SETTINGS/lamella.conf" <<-END
		CVMFS_REPOSITORIES='$FQRN'
		CVMFS_PUBLIC_KEY='/etc/lamella/keys/$FQRN.pub'
		LAMELLA_MOUNT_BASE='$MOUNT_BASE'
		CVMFS_SERVER_URL='http://$WEB/cvmfs/@fqrn@'
		CVMFS_HTTP_PROXY='DIRECT'
		CVMFS_CACHE_BASE='$WORK/cache'
		LAMELLA_TREES='no'
	END
	printf '%s\n' "$@" >>"$SETTINGS/lamella.conf"
}
settings CVMFS_QUOTA_LIMIT=1000
cp "$WORK/keys/$FQRN.pub" "$KEYS/"
echo "CVMFS_TIMEOUT_DIRECT=7" >"$SETTINGS/repository.$FQRN.conf"
printf '[Service]\nMemoryHigh=2G\n' >"$SETTINGS/lamella-fetcher.service.conf"

say "a node without Lamella"
refuses "is not that of this image" "$NODE" ready
installs
wait_for 30 "the node to be ready" is_ready
runs_ours "$(keeper)" "$(worker)" "$(snapshotter)"
for f in lamella.conf "config.d/$FQRN.conf" "keys/$FQRN.pub"; do [ -s "/etc/lamella/$f" ] || fail "no /etc/lamella/$f"; done
[ "$(stat -c %a /etc/lamella/lamella.conf)" = 600 ] || fail "a proxy's password could be read"
grep -q MemoryHigh /etc/systemd/system/lamella-fetcher.service.d/50-kubernetes.conf || fail "no drop-in"

if command -v systemd-analyze >/dev/null; then
	systemd-analyze verify --man=no /etc/systemd/system/lamella-{fetcher,snapshotter}.service >"$WORK/out" 2>&1 || fail "units: $(cat "$WORK/out")"
	[ ! -s "$WORK/out" ] || fail "units: $(cat "$WORK/out")"
else
	say "  units not looked at: no systemd-analyze"
fi

say "metrics that the alerts and the dashboard name"
for port in $FETCHER_PORT $SNAPSHOTTER_PORT; do curl -sf "http://127.0.0.1:$port/metrics" || fail "no metrics at $port"; done >"$WORK/metrics"
sed -nE 's/^# TYPE ([^ ]+) histogram$/\1_bucket/p; s/^# TYPE ([^ ]+) .*/\1/p' "$WORK/metrics" | sort -u >"$WORK/there"
grep -ohE 'lamella_(fetcher|snapshotter)_[a-z0-9_]+' "$DEPLOY"/chart/files/* | sort -u >"$WORK/named"
grep -q "^lamella_fetcher_repository_mounted{repository=\"$FQRN\"} 1" "$WORK/metrics" || fail "not mounted"
[ "$(wc -l <"$WORK/named")" -gt 40 ] || fail "the alerts and the dashboard name $(wc -l <"$WORK/named") metrics"
[ -z "$(comm -13 "$WORK/there" "$WORK/named")" ] || fail "no such metrics: $(comm -13 "$WORK/there" "$WORK/named")"

say "nothing to do"
before=$(keeper)-$(worker)-$(snapshotter)
: >"$STANDIN/orders"
installs
[ "$(keeper)-$(worker)-$(snapshotter)" = "$before" ] || fail "something was started anew"
[ "$(orders '^(start|restart|reload|kill|daemon-reload)')" = 0 ] || fail "orders: $(cat "$STANDIN/orders")"

# --- laziness, as the Job sees it -------------------------------------------------------------------------------------

say "the acceptance Job"
containerd_start lamella
"$NODE" mark "$WORK/mark" >"$WORK/out" || fail "mark"
pod lamella run "$IMAGE" bash -c 'echo started' >"$WORK/out"
said started
"$NODE" verdict "$WORK/mark" "$IMAGE" >"$WORK/out" 2>&1 || fail "verdict: $(cat "$WORK/out")"
said "is lazy on here"
sed 's/^/  /' "$WORK/out"
refuses "more than 1 bytes" env MAX_BYTES=1 "$NODE" verdict "$WORK/mark" "$IMAGE"
refuses "NOT lazy on here" "$NODE" verdict "$WORK/mark" "$REGISTRY/pause:latest"
refuses "is not among the images" "$NODE" verdict "$WORK/mark" "$REGISTRY/never:latest"

# --- a container reads meanwhile --------------------------------------------------------------------------------------

# shellcheck disable=SC2016 # evaluated in there
ROUND='find /usr/bin -type f | sort | xargs -d "\n" -n 50 sha256sum | sha256sum | cut -d" " -f1'
EXPECTED=$(pod lamella run --no-pull "$IMAGE" bash -c "$ROUND")
mkdir "$WORK/container"
CONTAINER=$(pod lamella start --no-pull --log-dir "$WORK/container" "$IMAGE" bash -c "while :; do $ROUND; done")
OUTPUT=$WORK/container/container.log
rounds() { grep -c . "$OUTPUT" || true; }
rounds_beyond() { [ "$(rounds)" -gt "$1" ]; }
goes_on() { # AFTER WHAT
	wait_for 60 "the container to go on after $1" rounds_beyond $(($(rounds) + 1))
	! grep -vq " stdout F $EXPECTED\$" "$OUTPUT" || fail "$1: the container saw $(grep -v " $EXPECTED\$" "$OUTPUT" | head -n 3)"
	[[ $(cri lamella list) == *"$CONTAINER running "* ]] || fail "$1: the container has ended"
	say "  $1: $(rounds) rounds, no error"
}
forget() {
	find "$WORK/cache/lamella" -type f -path '*/cache/[0-9a-f][0-9a-f]/*' ! -name '*C' -delete 2>/dev/null || true
	forget_mount
	forget_content "/proc/$(cri lamella pid "$CONTAINER")/root/usr/bin" # lean mounts, and what lies over them
}
goes_on "the start"

say "the pod ends"
start pod "$NODE" run
wait_for 20 "the pod's script" grep -q "the node has" "$WORK/log/pod.log"
"$NODE" alive || fail "not alive"
before=$(keeper)-$(worker)-$(snapshotter)
stop pod KILL
start pod "$NODE" run
wait_for 20 "the next pod's script" grep -q "the node has" "$WORK/log/pod.log"
[ "$(keeper)-$(worker)-$(snapshotter)" = "$before" ] || fail "something was started anew"
settings CVMFS_QUOTA_LIMIT=1500
wait_for 20 "the pod to see other settings" quota_is 1500
stop pod
forget
goes_on "two pods"
touch -d '20 minutes ago' "$HEARTBEAT"
refuses "no sign of life" "$NODE" alive
flock "$LOCK" sleep 1 &
begin=$(now_ms)
sleep 0.2
"$NODE" settle || fail "settle"
[ $(($(now_ms) - begin)) -ge 900 ] || fail "settle did not wait for an installation"

say "the next version"
export PAYLOAD=$WORK/payload-other
refuses "is not that of this image" "$NODE" ready
w=$(worker) k=$(keeper) s=$(snapshotter)
web_mark
forget
: >"$STANDIN/orders"
installs
said "its mounts are as they were"
[ "$(keeper)" = "$k" ] || fail "the keeper has another process id"
{ [ "$(worker)" != "$w" ] && [ "$(snapshotter)" != "$s" ]; } || fail "the old ones run still"
[ "$(orders 'lamella-fetcher.service')" = "$(orders '^(is-active|show|enable|kill) .*lamella-fetcher.service')" ] || fail "the fetcher was not just handed over: $(cat "$STANDIN/orders")"
runs_ours "$(keeper)" "$(worker)" "$(snapshotter)"
goes_on "the next version"
[ "$(web_files)" -gt 0 ] || fail "nothing was fetched meanwhile"
wait_for 30 "the node to be ready" is_ready
say "and back"
export PAYLOAD=$WORK/payload
forget
installs
runs_ours "$(keeper)" "$(worker)" "$(snapshotter)"
goes_on "the version before"
[ "$(find $PREFIX/lib -mindepth 1 -maxdepth 1 | wc -l)" = 2 ] || fail "libraries: $(ls -a $PREFIX/lib)"

# --- settings ---------------------------------------------------------------------------------------------------------

say "settings that change, are wrong, and go"
w=$(worker)
settings CVMFS_QUOTA_LIMIT=2000
installs
wait_for 20 "the new quota" quota_is 2000
[ "$(worker)" = "$w" ] || fail "another worker for a quota"
mkdir "$SECRET"
echo "LAMELLA_READ_TIMEOUT=77" >"$SECRET/secret.conf"
installs
[ "$(tail -n 1 /etc/lamella/lamella.conf)" = LAMELLA_READ_TIMEOUT=77 ] || fail "the Secret does not count last"
settings LAMELLA_NONSENSE=1
installs
said "settings are wrong, and not put in force"
! grep -q NONSENSE /etc/lamella/lamella.conf || fail "wrong settings are in /etc"
settings CVMFS_QUOTA_LIMIT=2000
cp "$SETTINGS/repository.$FQRN.conf" "$WORK/tmp/repository"
echo "LAMELLA_NONSENSE=1" >>"$SETTINGS/repository.$FQRN.conf"
installs
said "settings are wrong, and not put in force"
grep -q "NONSENSE" "$WORK/out" || fail "it is not said what is wrong: $(cat "$WORK/out")"
cmp "/etc/lamella/config.d/$FQRN.conf" "$WORK/tmp/repository" || fail "a repository's wrong settings are in /etc"
rm "$SETTINGS/repository.$FQRN.conf" "$SETTINGS/lamella-fetcher.service.conf"
: >"$STANDIN/orders"
installs
[ ! -e "/etc/lamella/config.d/$FQRN.conf" ] || fail "a file of settings is left"
[ ! -e /etc/systemd/system/lamella-fetcher.service.d/50-kubernetes.conf ] || fail "a drop-in is left"
[ "$(orders '^daemon-reload$')" = 1 ] || fail "systemd goes on with a drop-in that is gone"
[ ! -e /etc/lamella/.new ] || fail "left: $(find /etc/lamella/.new)"
touch "$SETTINGS/what.else"
installs
said "left out.*what.else"
rm "$SETTINGS/what.else"
goes_on "settings"

# --- containerd's configuration ---------------------------------------------------------------------------------------

export CONTAINERD_CONFIGURE=yes
site_config() { # VERSION
	local runc='plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc' registry='plugins."io.containerd.grpc.v1.cri".registry'
	[ "$1" = 2 ] || runc="plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc" registry="plugins.'io.containerd.cri.v1.images'.registry"
	rm -f /etc/containerd/*
	cat >/etc/containerd/config.toml <<-END
		version = $1
		root = "$WORK/containerd-root"
		[metrics]
		  address = "127.0.0.1:1338"
		[$runc]
		  runtime_type = "io.containerd.runc.v2"
		  [$runc.options]
		    SystemdCgroup = true
		[$registry]
		  config_path = "/etc/containerd/certs.d"
	END
	chmod 640 /etc/containerd/config.toml
}
settings_of() { "$CONTAINERD" --config /etc/containerd/config.toml config dump | tr \' '"' | sed -E 's/^ +//'; }
holds() { grep -qF -- "$1" <<<"$2" || fail "containerd $SERIES: no $1 in $2"; } # LINE DUMP
for SERIES in 1.6 1.7 2; do
	CONTAINERD=$(command -v containerd)
	if [ "$(CONTAINERD_BIN='' containerd_series)" != $SERIES ]; then
		CONTAINERD=$LM_CONTAINERDS/$SERIES/bin/containerd
		[ -x "$CONTAINERD" ] || {
			say "  not tried: no containerd $SERIES (tests/tools/get-containerd)"
			continue
		}
	fi
	export CONTAINERD
	say "containerd $SERIES"
	site_config "$([ $SERIES = 2 ] && echo 3 || echo 2)"
	: >"$STANDIN/orders"
	installs
	[ "$(orders '^restart containerd.service$')" = 1 ] || fail "containerd was not restarted once"
	now=$(settings_of)
	for line in 'snapshotter = "lamella"' 'disable_snapshot_annotations = false' 'SystemdCgroup = true' 'address = "127.0.0.1:1338"' \
		'config_path = "/etc/containerd/certs.d"' 'address = "/run/lamella/snapshotter.sock"'; do
		holds "$line" "$now"
	done
	[ $SERIES = 2 ] || [ -d "$WORK/containerd-root/io.containerd.snapshotter.v1.lamella" ] || fail "no directory for kubelet"
	[ "$(cd /etc/containerd && stat -c %a config.toml lamella.toml | xargs)" = "640 600" ] || fail "modes: $(ls -l /etc/containerd)"
	[ -e /etc/containerd/config.toml.before-lamella ] || fail "the old one is not kept"
	: >"$STANDIN/orders"
	installs
	[ "$(orders '^restart containerd')" = 0 ] || fail "containerd was restarted again"
	[ "$(grep -c 'lamella.toml' /etc/containerd/config.toml)" = 1 ] || fail "imported more than once"

	site_config "$([ $SERIES = 2 ] && echo 3 || echo 2)"
	sed -i '1i imports = ["/etc/containerd/site.toml"]' /etc/containerd/config.toml
	printf 'version = %s\noom_score = -500\n' "$([ $SERIES = 2 ] && echo 3 || echo 2)" >/etc/containerd/site.toml
	installs
	now=$(settings_of)
	holds 'oom_score = -500' "$now"
	holds 'snapshotter = "lamella"' "$now"
	site_config "$([ $SERIES = 2 ] && echo 3 || echo 2)"
	cp /etc/containerd/config.toml "$WORK/tmp/was"
	touch "$STANDIN/containerd-fails"
	: >"$STANDIN/orders"
	refuses "does not start with lamella" "$NODE" install
	cmp "$WORK/tmp/was" /etc/containerd/config.toml || fail "containerd is left without its configuration"
	[ "$(orders '^restart containerd.service$')" = 2 ] || fail "containerd was not started again"
	echo control-group >"$STANDIN/killmode"
	refuses "would end all containers" "$NODE" install
	echo process >"$STANDIN/killmode"
	[ $SERIES != 2 ] || {
		site_config 2
		cp /etc/containerd/config.toml "$WORK/tmp/was"
		refuses "containerd config migrate" "$NODE" install
		cmp "$WORK/tmp/was" /etc/containerd/config.toml || fail "it was changed all the same"
	}
done
goes_on "containerd's configuration"

# --- away with it -----------------------------------------------------------------------------------------------------

say "removal"
site_config 2
export CONTAINERD=containerd
installs
refuses "containers of this node" $PREFIX/libexec/lamella-node remove
mkdir -p /var/lib/lamella/snapshotter/snapshots/1/tree
mount -t tmpfs tree /var/lib/lamella/snapshotter/snapshots/1/tree # as if an image with a merged tree were there
cri lamella rm "$CONTAINER"
collect_garbage
$PREFIX/libexec/lamella-node remove >"$WORK/out" 2>&1 || fail "remove: $(cat "$WORK/out")"
stop containerd-lamella
[ ! -e $PREFIX ] || fail "left: $(find $PREFIX)"
! grep -q lamella /etc/containerd/config.toml || fail "containerd's configuration names it still"
[ "$(stat -c %a /etc/containerd/config.toml)" = 640 ] || fail "containerd's configuration can be read by everybody"
[ -z "$(find /etc/systemd/system -name 'lamella*')" ] || fail "units are left"
[ ! -e /etc/lamella/lamella.conf ] || fail "settings are left"
! grep -E " ($MOUNT_BASE|/var/lib/lamella/snapshotter)/" /proc/self/mountinfo || fail "mounts are left"
! pgrep lamella- >/dev/null || fail "processes are left: $(pgrep -a lamella-)"
stop serve
check_reports
say "passed"
