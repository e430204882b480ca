# shellcheck shell=bash
# The harness of the end-to-end tests and of the demonstration; sourced, not run.
#
# A script sources this first. It may then say what it needs (need_...), and goes on in a work folder of its own, $WORK:
# make_work gives just that; isolate goes on inside namespaces of its own as well, where the script is process 1 with its
# own mounts and network, so that whatever it starts and mounts is gone when it ends, also by kill -9 (tests/tools/alone.c).
#
# Daemons: start, stop, and the ..._start of each program below; their output is in $WORK/log/NAME.log, their process id
# in $WORK/run/NAME.pid. In there ports are our own: registry 5000, repositories 8000. Sockets are in /run, which is private.
#
# From outside: LM_BUILD (build folder), LM_IMAGES (folder of oci-NAME layouts), LM_TMP (where work folders are made),
# LM_CONTAINERD (1.6, 1.7 or 2 instead of the containerd that is installed), LM_CONTAINERDS (where get-containerd put them),
# LM_ALL=1 (the long tests as well), LM_KEEP=1 (keep the work folder). Exit code 77: skipped, and the reason printed.

set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

LM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LM_BUILD=$(realpath -m "${LM_BUILD:-$LM_ROOT/build}")
LM_IMAGES=$(realpath -m "${LM_IMAGES:-$LM_BUILD/images}")
LM_TMP=$(realpath -m "${LM_TMP:-$LM_BUILD/work}")
LM_CONTAINERDS=$(realpath -m "${LM_CONTAINERDS:-$LM_BUILD/containerd}")
LM_ALL=${LM_ALL:-}
LM_KEEP=${LM_KEEP:-}
export LM_BUILD LM_IMAGES LM_TMP LM_CONTAINERDS LM_ALL LM_KEEP

ALONE=$LM_BUILD/tests/tools/alone
TREEDIFF=$LM_BUILD/tests/tools/treediff
CRI=$LM_BUILD/tests/tools/lamella-cri
LAMELLA=$LM_BUILD/tools/lamella
REGISTRY=127.0.0.1:5000
WEB=127.0.0.1:8000
FQRN=images.lamella.test

# --- saying, failing, needing -----------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

fail() { # WHAT: after the ends of all logs, and the first thing that a sanitizer said
	local log
	for log in "${WORK:-/nonexistent}"/log/*.log; do
		[ -s "$log" ] || continue
		grep -m 1 -A 60 -E '(WARNING|ERROR): [A-Za-z]+Sanitizer' "$log" | cut -c1-200 >&2 || true
		printf -- '--- the end of %s\n' "${log##*/}" >&2
		tail -n 15 "$log" | cut -c1-400 >&2
	done
	printf 'FAILED: %s\n' "$*" >&2
	exit 1
}

# Whether its input has such a line. It reads to the end, where grep -q would end at the first one, and whoever writes with it.
has() { [ -n "$(grep -a "$@")" ]; }

skip() {
	printf 'skipped: %s\n' "$*"
	exit 77
}

need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }

need() { # COMMAND...
	local c missing=''
	for c; do command -v "$c" >/dev/null || missing+=" $c"; done
	[ -z "$missing" ] || skip "not installed:$missing"
}

need_built() { # FILE...
	local f
	for f; do [ -x "$f" ] || skip "not built: ${f#"$LM_BUILD"/}"; done
}

need_image() { # NAME...
	local i
	for i; do [ -e "$LM_IMAGES/oci-$i/index.json" ] || skip "no image oci-$i in $LM_IMAGES"; done
}

# All that a container needs.
need_containers() {
	need_root
	need containerd runc ctr docker-registry skopeo jq tar setfattr getfattr
	need_built "$ALONE" "$TREEDIFF" "$CRI" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/snapshotter/lamella-snapshotter"
	[ -c /dev/fuse ] || skip "no /dev/fuse"
}

# --- the work folder --------------------------------------------------------------------------------------------------

new_work() { # NAME
	mkdir -p "$LM_TMP"
	WORK=$(mktemp -d "$LM_TMP/$1.XXXXXX")
	mkdir "$WORK"/{log,run,tmp}
	export LAMELLA_CONFIG_DIR=$WORK/config
}

make_work() { # NAME
	new_work "$1"
	[ -n "$LM_KEEP" ] || trap 'rm -rf "$WORK"' EXIT
	trap 'exit 143' TERM
	trap 'exit 130' INT
}

# Goes on with this script, alone. Overlayfs must be possible in the work folder: said here, once, instead of by containerd.
isolate() { # NAME [ARGUMENT...]
	local name=$1
	shift
	if [ -z "${LM_ALONE:-}" ]; then
		need_root
		need_built "$ALONE"
		[ -n "${LM_SWEPT:-}" ] || "$ALONE" --sweep "$LM_TMP" # whoever runs several at once did so before
		new_work "$name"
		LM_ALONE=$WORK exec "$ALONE" ${LM_KEEP:+--keep} "$WORK" bash "$0" "$@"
	fi
	WORK=$LM_ALONE
	unset LM_ALONE
	export TMPDIR=$WORK/tmp LAMELLA_CONFIG_DIR=$WORK/config
	mkdir -p "$WORK"/probe/{lower,upper,work,root}
	mount -t overlay overlay -o "lowerdir=$WORK/probe/lower,upperdir=$WORK/probe/upper,workdir=$WORK/probe/work" "$WORK/probe/root" 2>/dev/null ||
		skip "no overlayfs on the file system of $LM_TMP ($(stat -f -c %T "$WORK")): set LM_TMP"
	umount "$WORK/probe/root"
	mkdir -p /run/lamella
}

# --- daemons ----------------------------------------------------------------------------------------------------------

START_BY=() # a command that runs them, in another network for example
start() { # NAME COMMAND...
	local name=$1
	shift
	"${START_BY[@]}" "$@" >>"$WORK/log/$name.log" 2>&1 </dev/null &
	echo $! >"$WORK/run/$name.pid"
}

# The most memory that any process of the name had. In here all processes are ours.
peak_kib() { # NAME
	local p
	for p in $(pgrep -x "$1"); do awk '/^VmHWM/ { print $2 }' "/proc/$p/status"; done | sort -n | tail -n 1
}
pid_of() { cat "$WORK/run/$1.pid"; }
running() { kill -0 "$(pid_of "$1")" 2>/dev/null; }
ended() { ! running "$1"; }

# Ends a daemon; its exit code is checked where it ends by itself.
stop() { # NAME [SIGNAL]
	local name=$1 signal=${2:-TERM} code=0 pid
	pid=$(pid_of "$name")
	kill "-$signal" "$pid" 2>/dev/null || true
	[ "$signal" = KILL ] || wait_for 20 "the end of $name" ended "$name"
	wait "$pid" 2>/dev/null || code=$?
	rm "$WORK/run/$name.pid"
	[ "$signal" != TERM ] || [ $code = 0 ] || [ $code = 143 ] || fail "$name ended with code $code"
}

wait_for() { # SECONDS WHAT COMMAND...: until COMMAND succeeds
	local end=$(($(now_ms) + $1 * 1000)) what=$2
	shift 2
	until "$@"; do
		[ "$(now_ms)" -lt $end ] || fail "waited in vain for $what"
		sleep 0.02
	done
}

port_open() { "${START_BY[@]}" bash -c ': <>"/dev/tcp/$0/$1"' "${1%:*}" "${1##*:}" 2>/dev/null; }

# The file alone says nothing: a server that was killed leaves it behind.
socket_open() { perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) && connect(S, sockaddr_un($ARGV[0])) or exit 1' "$1"; } # SOCKET

start_listening() { # NAME HOST:PORT COMMAND...
	local name=$1 address=$2
	shift 2
	start "$name" "$@"
	wait_for 20 "$name on $address" started "$name" port_open "$address"
}

start_socket() { # NAME SOCKET COMMAND...
	local name=$1 socket=$2
	shift 2
	start "$name" "$@"
	wait_for 30 "$name on $socket" started "$name" socket_open "$socket"
}

started() { # NAME CHECK...: fails at once when the daemon has ended
	local name=$1
	shift
	running "$name" || fail "$name did not start"
	"$@"
}

# Reports of the sanitizers, in the logs of our programs: none may be there at the end of a test.
check_reports() {
	! grep -HnE '(ERROR|WARNING): (Address|Leak|Thread)Sanitizer|runtime error:' "$WORK"/log/*.log || fail "a sanitizer reported"
}

# --- registry and images ----------------------------------------------------------------------------------------------

registry_start() {
	mkdir -p "$WORK/registry"
	cat >"$WORK/registry.yml" <<-END
		version: 0.1
		log: {level: error, accesslog: {disabled: false}}
		storage: {filesystem: {rootdirectory: $WORK/registry}, cache: {blobdescriptor: inmemory}}
		http: {addr: $REGISTRY, secret: none}
	END
	start_listening registry "$REGISTRY" docker-registry serve "$WORK/registry.yml"
}

push() { # LAYOUT[:TAG] NAME:TAG
	skopeo copy -q --preserve-digests --dest-tls-verify=false "oci:$1" "docker://$REGISTRY/$2"
}

# What was asked of the registry from now on, but for the image of pod sandboxes.
registry_mark() { REGISTRY_MARK=$(stat -c %s "$WORK/log/registry.log"); }
registry_log() { tail -c +$((REGISTRY_MARK + 1)) "$WORK/log/registry.log" | grep -vF ' /v2/pause/' || true; }

# Prints the requests for blobs that are not configurations of an image: layers, in other words.
registry_layer_requests() { # LAYOUT...
	local layout configs=()
	for layout; do
		while read -r c; do configs+=(-e "$c"); done < <(jq -r .manifests[].digest "$layout/index.json" |
			while IFS=: read -r _ d; do jq -r .config.digest "$layout/blobs/sha256/$d"; done)
	done
	registry_log | grep -E '"(GET|HEAD) /v2/[^ ]*/blobs/' | grep -vF "${configs[@]}" || true
}

# The sum of the bodies in lines of an access log, `... "GET PATH VERSION" STATUS BYTES ...`.
log_bytes() { awk -F'"' '$2 ~ /^GET / { split($3, a, " "); sum += a[2] } END { print sum + 0 }'; }
registry_bytes() { registry_log | log_bytes; }

blob() { # LAYOUT FILE TYPE: moves FILE to the blobs, prints its descriptor
	local digest
	digest=$(sha256sum "$2" | cut -d' ' -f1)
	jq -nc --arg t "$3" --arg d "sha256:$digest" --argjson s "$(stat -c %s "$2")" '{mediaType: $t, digest: $d, size: $s}'
	mkdir -p "$1/blobs/sha256"
	mv "$2" "$1/blobs/sha256/$digest"
}

# A layout of these layers, the lowest first, with tag latest. The tar files are used up. Layers are not compressed, or by gzip.
LAYER_GZIP=''
make_layers() { # LAYOUT TAR... -- [COMMAND...]
	local layout=$1 t=application/vnd.oci.image diff_ids=() descriptors=() config
	shift
	mkdir -p "$layout"
	while [ "$1" != -- ]; do
		diff_ids+=("sha256:$(sha256sum "$1" | cut -d' ' -f1)")
		[ -z "$LAYER_GZIP" ] || { gzip -1 -n "$1" && mv "$1.gz" "$1"; }
		descriptors+=("$(blob "$layout" "$1" "$t.layer.v1.tar${LAYER_GZIP:++gzip}")")
		shift
	done
	jq -nc --arg ids "${diff_ids[*]}" --arg arch "$(dpkg --print-architecture)" '{architecture: $arch, os: "linux",
		config: {Env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], Entrypoint: $ARGS.positional},
		rootfs: {type: "layers", diff_ids: ($ids / " ")}}' --args "${@:2}" >"$layout/tmp"
	config=$(blob "$layout" "$layout/tmp" $t.config.v1+json)
	printf '%s\n' "${descriptors[@]}" | jq -sc --argjson c "$config" --arg t $t.manifest.v1+json \
		'{schemaVersion: 2, mediaType: $t, config: $c, layers: .}' >"$layout/tmp"
	blob "$layout" "$layout/tmp" $t.manifest.v1+json |
		jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$layout/index.json"
	echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
}
make_layout() { make_layers "$1" "$2" -- "${@:3}"; } # LAYOUT TAR [COMMAND...]

# A tree in which these programs of this machine run.
programs_tree() { # DIRECTORY COMMAND...
	local dir=$1 program file
	shift
	mkdir -p "$dir/tmp" "$dir/var/tmp"
	for file in bin lib lib64; do mkdir -p "$dir/usr/$file" && ln -s "usr/$file" "$dir/$file"; done
	for program; do
		program=$(command -v "$program")
		cp -L "$program" "$dir/usr/bin/"
		for file in $(ldd "$program" | grep -o '/[^ ]*'); do
			mkdir -p "$dir$(dirname "$file")"
			[ -e "$dir$file" ] || cp -L "$file" "$dir$file"
		done
	done
}

# The image of pod sandboxes, in the registry as pause:latest.
push_pause() {
	tar -C "$LM_BUILD/tests/tools" --owner=0 --group=0 -cf "$WORK/tmp/pause.tar" pause
	make_layout "$WORK/oci-pause" "$WORK/tmp/pause.tar" /pause
	push "$WORK/oci-pause:latest" pause:latest
}

manifest() { # LAYOUT TAG: prints the manifest
	local digest
	digest=$(jq -r --arg t "$2" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $t).digest' "$1/index.json")
	cat "$1/blobs/sha256/${digest#sha256:}"
}

# The image of a merged tree, as the snapshotter mounts it.
TREE_AHEAD_KIB=256
mount_erofs() { # IMAGE DIRECTORY
	local loop r=0
	loop=$(losetup -r -b 4096 --direct-io=on --show -f "$1") || return
	blockdev --setra $((TREE_AHEAD_KIB * 2)) "$loop"
	mount -t erofs -o ro "$loop" "$2" || r=$?
	losetup -d "$loop" || r=$? # it goes when it is unmounted
	return $r
}

image_bytes() { manifest "$1" "$2" | jq '[.layers[].size] | add'; } # LAYOUT TAG: compressed

chain_id() { # LAYOUT TAG: of the topmost layer
	local config chain='' id
	config=$(manifest "$1" "$2" | jq -r .config.digest)
	while read -r id; do
		if [ -n "$chain" ]; then chain=sha256:$(printf '%s %s' "$chain" "$id" | sha256sum | cut -d' ' -f1); else chain=$id; fi
	done < <(jq -r '.rootfs.diff_ids[]' "$1/blobs/sha256/${config#sha256:}")
	echo "$chain"
}

# --- the repository ---------------------------------------------------------------------------------------------------

# $WORK/storage/cvmfs/$FQRN is the repository, $WORK/keys its keys.
repo_init() {
	"$LAMELLA" repo init "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 ||
		fail "repo init: $(tail -n 3 "$WORK/log/convert.log")"
}
convert() { # SOURCE [OPTION...]
	"$LAMELLA" convert "$@" --repo "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 ||
		fail "convert $1: $(tail -n 3 "$WORK/log/convert.log")"
}

# A repository with an image of one layer: files made by files.py. $WORK/expected has their checksums, by path.
repo_of_files() { # DIRECTORIES FILES BIG_MIB
	python3 "$LM_ROOT/tests/e2e/files.py" "$WORK/files" "$@"
	(cd "$WORK/files" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$WORK/expected"
	tar -C "$WORK" --owner=0 --group=0 -cf "$WORK/tmp/files.tar" files
	rm -r "$WORK/files"
	make_layout "$WORK/oci-files" "$WORK/tmp/files.tar" /none
	repo_init
	convert "oci:$WORK/oci-files"
	rm -r "$WORK/oci-files"
}

serve_start() {
	start_listening serve "$WEB" "$LAMELLA" serve "$WORK/storage" --listen "$WEB" --access-log "$WORK/log/access.log"
}


# The same by an ordinary web server.
nginx_start() {
	local t=$WORK/tmp/nginx
	mkdir -p "$t"
	cat >"$WORK/nginx.conf" <<-END
		user root;
		daemon off;
		pid $t/pid;
		events {}
		http {
			access_log $WORK/log/access.log combined;
			client_body_temp_path $t/body;
			proxy_temp_path $t/proxy;
			fastcgi_temp_path $t/fastcgi;
			uwsgi_temp_path $t/uwsgi;
			scgi_temp_path $t/scgi;
			server { listen $WEB; root $WORK/storage; }
		}
	END
	start_listening nginx "$WEB" nginx -e stderr -c "$WORK/nginx.conf"
}

# What was asked of the repository from now on.
web_mark() { WEB_MARK=$(stat -c %s "$WORK/log/access.log"); }
web_log() { tail -c +$((WEB_MARK + 1)) "$WORK/log/access.log"; }
web_bytes() { web_log | log_bytes; }
web_files() { web_log | grep -cE '"GET [^ ]*/data/[0-9a-f]{2}/[0-9a-f]+P? ' || true; } # files and chunks, not catalogs

# --- our node ---------------------------------------------------------------------------------------------------------

FETCHER_SOCKET=/run/lamella/fetcher.sock
SNAPSHOTTER_SOCKET=/run/lamella/snapshotter.sock
MOUNT_BASE=/run/lamella/cvmfs

fetcher_start() { # [KEY=VALUE...]
	local set=() s
	for s; do set+=(--set "$s"); done
	mkdir -p "$MOUNT_BASE"
	cat >"$WORK/fetcher.conf" <<-END
		CVMFS_REPOSITORIES=$FQRN
		CVMFS_SERVER_URL=http://$WEB/cvmfs/@fqrn@
		CVMFS_HTTP_PROXY=DIRECT
		CVMFS_PUBLIC_KEY=$WORK/keys/$FQRN.pub
		CVMFS_CACHE_BASE=$WORK/cache
		LAMELLA_MOUNT_BASE=$MOUNT_BASE
		LAMELLA_SOCKET=$FETCHER_SOCKET
	END
	start_socket fetcher "$FETCHER_SOCKET" "$LM_BUILD/fetcher/lamella-fetcher" --config "$WORK/fetcher.conf" "${set[@]}"
}

# Where repo_of_files has its files, in the mount.
find_files() {
	DIR=$(echo "$MOUNT_BASE/$FQRN"/.layers/*/*/layerfs/files)
	[ -e "$DIR/big" ] || fail "the files are not where they were expected: $DIR"
}

# The kernel forgets what it knows by this mount, names, attributes, and content, and nothing else.
forget_mount() { mount -i -o remount,ro "$MOUNT_BASE/$FQRN"; }
forget_content() { find "$1" -type f -exec dd if={} iflag=nocache count=0 status=none \;; } # DIR: of any file system

SNAPSHOTTER_BY=() # a command that runs it
snapshotter_start() { # [KEY=VALUE...]
	local s
	for s; do echo "$s"; done >"$WORK/snapshotter.conf"
	start_socket snapshotter "$SNAPSHOTTER_SOCKET" "${SNAPSHOTTER_BY[@]}" "$LM_BUILD/snapshotter/lamella-snapshotter" --config "$WORK/snapshotter.conf" \
		--root "$WORK/snapshotter" --address "$SNAPSHOTTER_SOCKET" --fetcher "$FETCHER_SOCKET"
}

# --- containerd -------------------------------------------------------------------------------------------------------

CONTAINERD_BIN='' # the folder of containerd, its shim, ctr and runc; else those that are installed
containerd_version() { "${CONTAINERD_BIN:+$CONTAINERD_BIN/}containerd" --version | grep -oE ' v?[0-9]+\.[0-9]+\.[0-9]+' | sed -n 1p | tr -d ' v'; }
containerd_series() { # 1.6, 1.7 or 2, as the files in deploy/containerd are called
	local v
	v=$(containerd_version)
	case $v in 1.*) echo "${v%.*}" ;; *) echo "${v%%.*}" ;; esac
}

# Goes on with that containerd: the installed one, if it is of that series, or what get-containerd fetched.
need_containerd() { # 1.6|1.7|2
	CONTAINERD_BIN=''
	need containerd
	[ "$(containerd_series)" != "$1" ] || return 0
	CONTAINERD_BIN=$LM_CONTAINERDS/$1/bin
	[ -x "$CONTAINERD_BIN/containerd" ] ||
		skip "no containerd $1: $(cat "$LM_CONTAINERDS/$1.log" 2>/dev/null || echo "see tests/tools/get-containerd")"
}
[ -z "${LM_CONTAINERD:-}" ] || need_containerd "$LM_CONTAINERD"

# A containerd of its own by the name of its snapshotter: lamella, or overlayfs for the ordinary pull. What concerns
# lamella is in the file that administrators install; EXPRESSIONs of sed change that file. Any other snapshotter has its part
# printed by containerd_SNAPSHOTTER_VERSION, as overlayfs has. What follows a dot in the name tells several of a kind apart.
containerd_start() { # SNAPSHOTTER [EXPRESSION...]
	local s=$1 d=$WORK/containerd-$1 series version=2 change=(-e '') e
	shift
	for e; do change+=(-e "$e"); done
	series=$(containerd_series)
	[ "$series" != 2 ] || version=3
	mkdir -p "$d/certs.d/$REGISTRY" "$d/cni" "$d/root/io.containerd.snapshotter.v1.lamella"
	echo "server = \"http://$REGISTRY\"" >"$d/certs.d/$REGISTRY/hosts.toml"
	# Without a host the file is not looked at, and a registry that is not on loopback gets https.
	[[ $REGISTRY == 127.* ]] || printf '[host."http://%s"]\n  capabilities = ["pull", "resolve"]\n' "$REGISTRY" >>"$d/certs.d/$REGISTRY/hosts.toml"
	cat >"$d/config.toml" <<-END
		version = $version
		imports = ["$d/$s.toml"]
		root = "$d/root"
		state = "/run/containerd-$s"
		disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
		[grpc]
		  address = "$(containerd_socket "$s")"
	END
	if [ "$s" = lamella ]; then
		sed -E -e "s|\"/var/lib/lamella/snapshotter\"|\"$WORK/snapshotter\"|" -e "s|\"/usr/lib/cni\"|\"$d/cni\"|" \
			-e "s|\"/etc/cni/net.d\"|\"$d/cni\"|" "${change[@]}" "$LM_ROOT/deploy/containerd/$series.toml"
	else
		"containerd_${s%%.*}_$version" "$d"
	fi >"$d/$s.toml"
	# In the imported file: versions 1.6 and 1.7 take the whole section from there.
	containerd_cri_$version "$d" >>"$d/$s.toml"
	start_socket "containerd-$s" "$(containerd_socket "$s")" \
		env PATH="${CONTAINERD_BIN:+$CONTAINERD_BIN:}$PATH" containerd --config "$d/config.toml"
	wait_for 30 "the runtime service of containerd-$s" runtime_ready "$s"
}

containerd_overlayfs_2() { # DIRECTORY
	cat <<-END
		version = 2
		[plugins."io.containerd.grpc.v1.cri".containerd]
		  snapshotter = "overlayfs"
		[plugins."io.containerd.grpc.v1.cri".cni]
		  bin_dir = "$1/cni"
		  conf_dir = "$1/cni"
	END
}
containerd_cri_2() { # DIRECTORY
	local cri='plugins."io.containerd.grpc.v1.cri"'
	cat <<-END
		[$cri]
		  sandbox_image = "$REGISTRY/pause:latest"
		  disable_tcp_service = true
		  restrict_oom_score_adj = true
		[$cri.containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[$cri.containerd.runtimes.runc.options]
		  SystemdCgroup = false
		[$cri.registry]
		  config_path = "$1/certs.d"
	END
}

containerd_overlayfs_3() { # DIRECTORY
	cat <<-END
		version = 3
		[plugins."io.containerd.cri.v1.images"]
		  snapshotter = "overlayfs"
	END
}
containerd_cri_3() { # DIRECTORY
	local images='plugins."io.containerd.cri.v1.images"' runtime='plugins."io.containerd.cri.v1.runtime"'
	cat <<-END
		[$images.pinned_images]
		  sandbox = "$REGISTRY/pause:latest"
		[$images.registry]
		  config_path = "$1/certs.d"
		[$runtime]
		  restrict_oom_score_adj = true
		[$runtime.containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[$runtime.containerd.runtimes.runc.options]
		  SystemdCgroup = false
		[$runtime.cni]
		  bin_dirs = ["$1/cni"]
		  conf_dir = "$1/cni"
		[plugins."io.containerd.grpc.v1.cri"]
		  disable_tcp_service = true
		[plugins."io.containerd.nri.v1.nri"]
		  disable = true
	END
}

containerd_socket() { echo "/run/lamella/containerd-$1.sock"; }
runtime_ready() { cri "$1" status >/dev/null 2>&1; }
cri() { # SNAPSHOTTER COMMAND...
	local s=$1
	shift
	"$CRI" -s "$(containerd_socket "$s")" "$@"
}
POD_TIMEOUT_S=300
pod() { # SNAPSHOTTER run|start ...: a pod in the control group that goes with the work folder
	local s=$1 verb=$2
	shift 2
	cri "$s" -t $POD_TIMEOUT_S "$verb" --cgroup-parent "/lamella-${WORK##*/}" "$@"
}
ctr_() { # SNAPSHOTTER COMMAND...
	local s=$1
	shift
	"${CONTAINERD_BIN:+$CONTAINERD_BIN/}ctr" -a "$(containerd_socket "$s")" -n "${CTR_NAMESPACE:-k8s.io}" "$@"
}

# What the runtime mounts, and the directories in which it makes the mount points.
INSIDE=(--exclude /proc --exclude /sys --exclude /dev --exclude /etc/hosts --exclude /etc/hostname --exclude /etc/resolv.conf
	--ignore /:mtime --ignore /etc:mtime)
in_container() { # SNAPSHOTTER ID OPTION...: treediff of what is seen in there
	local s=$1 id=$2
	shift 2
	"$TREEDIFF" "${INSIDE[@]}" "$@" "/proc/$(cri "$s" pid "$id")/root"
}

# Everything of containerd-NAME, as if it had never been: containers, images, state.
containerd_wipe() { # SNAPSHOTTER
	stop "containerd-$1"
	rm -rf "$WORK/containerd-$1/root"
}

# Mounts a read-only view of the image whose topmost layer has chain id CHAIN. Nothing refers to the view, so it is made a
# root of garbage collection; collection may come between the two commands.
mount_view() { # SNAPSHOTTER CHAIN DIR
	local ctr=(ctr_ "$1" snapshots --snapshotter "$1") key=view-${3##*/}
	mkdir -p "$3"
	until "${ctr[@]}" view "$key" "$2" >/dev/null && "${ctr[@]}" label "$key" containerd.io/gc.root=now >/dev/null 2>&1; do
		running "containerd-$1" || fail "no containerd-$1"
	done
	eval "$("${ctr[@]}" mounts "$3" "$key")"
}
unmount_view() { # SNAPSHOTTER DIR
	umount "$2"
	ctr_ "$1" snapshots --snapshotter "$1" rm "view-${2##*/}"
}

# --- what is left of it all -------------------------------------------------------------------------------------------

snapshot_directories() { find "$WORK/snapshotter/snapshots" -mindepth 1 -maxdepth 1 | grep -c . || true; }
store_rows() { # of the snapshotter, which may run
	python3 -c 'import sqlite3, sys; print(sqlite3.connect("file:%s?mode=ro" % sys.argv[1], uri=True).execute("SELECT count(*) FROM snapshots").fetchone()[0])' "$WORK/snapshotter/store.db"
}
store_mounts() { awk -v p="$WORK/snapshotter/" 'index($5, p) == 1' /proc/self/mountinfo; }
# Loop devices are the machine's, and others have theirs; ours are of files in our mounts.
note_loops() { OWN_DEVICES+=" $(printf '%04x' "$(stat -c %d "$MOUNT_BASE/$FQRN")")"; } # as long as the fetcher runs
own_loops() {
	local d
	for d in ${OWN_DEVICES:-}; do losetup -a | grep -F "[$d]" || true; done
}

# Any removal makes containerd collect its garbage; this one waits for it.
collect_garbage() {
	local ctr=(ctr -a "$(containerd_socket lamella)" -n k8s.io)
	"${ctr[@]}" images tag --force "$REGISTRY/pause:latest" collect:me >/dev/null 2>&1 || true
	"${ctr[@]}" images ls -q | xargs -r "${ctr[@]}" images rm --sync >/dev/null 2>&1 || true
	"${ctr[@]}" leases ls -q | xargs -r -n1 "${ctr[@]}" leases rm --sync >/dev/null 2>&1 || true
}
all_collected() {
	collect_garbage
	[ "$(snapshot_directories) $(store_rows)" = "0 0" ]
}
no_loops() { [ -z "$(own_loops)" ]; } # they go a moment after their mounts
no_shims() { ! pgrep -f containerd-shim >/dev/null; }

# Removes all images; then nothing may be left of any, nor of the containers that were removed before.
expect_nothing_left() {
	wait_for 60 "snapshots to go: $(store_rows) rows, directories $(ls "$WORK/snapshotter/snapshots")" all_collected
	[ -z "$(store_mounts)" ] || fail "mounts are left: $(store_mounts)"
	wait_for 10 "loop devices to go: $(own_loops)" no_loops
	wait_for 20 "the processes of containers to go: $(pgrep -af containerd-shim || true)" no_shims
}
