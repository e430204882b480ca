#!/usr/bin/env bash
# Layers from mounts that are there already (LAMELLA_SOURCE=path:...), without our fetcher: containers start lazily, from
# several repositories in their order; a mount that is replaced, frozen, dead or gone holds up nothing but what needs it;
# what stock tools wrote is used where it can be.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need curl python3 getfattr
isolate source

OTHER=others.lamella.test
TIMEOUT_S=5
PATIENCE_S=10 # after which a mount is taken to hang
LABEL=containerd.io/snapshot/lamella
METRICS_SOCKET=/run/lamella/snapshotter-metrics.sock
A=$WORK/mnt/first B=$WORK/mnt/second C=$WORK/mnt/stock
mkdir -p "$A" "$B" "$C" "$WORK/views"

# Layers: base has a shell, gone deletes what "first" has, any other a file of its name.
layer_tar() { # NAME: $WORK/tar/NAME, the same every time
	local dir=$WORK/tmp/layer-$1
	[ ! -e "$WORK/tar/$1" ] || return 0
	mkdir -p "$WORK/tar" "$dir"
	case $1 in
	base) programs_tree "$dir" sh cat ls sleep ;;
	gone) mkdir -p "$dir/data/opaque" && echo gone >"$dir/data/gone" && touch "$dir/data/.wh.first" "$dir/data/opaque/.wh..wh..opq" ;;
	*) mkdir -p "$dir/data/opaque" && echo "$1" >"$dir/data/$1" && echo "$1" >"$dir/data/opaque/$1" && chown 1234:5678 "$dir/data/$1" ;;
	esac
	tar -C "$dir" --numeric-owner --mtime=@1700000000 --sort=name -cf "$WORK/tar/$1" .
}
image() { # NAME LAYER...: pushed to the registry
	local name=$1 layout=$WORK/oci-$1 t=application/vnd.oci.image ids=() layers=() l config
	shift
	mkdir -p "$layout"
	for l; do
		layer_tar "$l"
		ids+=("sha256:$(sha256sum "$WORK/tar/$l" | cut -d' ' -f1)")
		cp "$WORK/tar/$l" "$WORK/tmp/tar"
		layers+=("$(blob "$layout" "$WORK/tmp/tar" $t.layer.v1.tar)")
	done
	jq -nc --arg arch "$(dpkg --print-architecture)" '{architecture: $arch, os: "linux",
		config: {Env: ["PATH=/usr/bin"]}, rootfs: {type: "layers", diff_ids: $ARGS.positional}}' \
		--args "${ids[@]}" >"$layout/tmp"
	config=$(blob "$layout" "$layout/tmp" $t.config.v1+json)
	printf '%s\n' "${layers[@]}" | jq -sc --argjson c "$config" --arg t $t.manifest.v1+json \
		'{schemaVersion: 2, mediaType: $t, config: $c, layers: .}' >"$layout/tmp"
	blob "$layout" "$layout/tmp" $t.manifest.v1+json |
		jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$layout/index.json"
	echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
	push "$layout:latest" "$name:latest"
}
ref() { echo "$REGISTRY/$1:latest"; }
pull() { cri lamella pull "$(ref "$1")" >/dev/null; }
rmi() { cri lamella rmi "$(ref "$1")"; }
digests() { manifest "$WORK/oci-$1" latest | jq -r '.layers[].digest'; } # IMAGE

node() { "$LAMELLA" images --node --json; }
sources_of() { # IMAGE: of its layers, the lowest first; what is not served: its cause
	node | jq -r --arg r "$(ref "$1")" '. as $all | .images[] | select(.reference == $r) | .layers[] as $id |
		$all.layers[] | select(.id == $id) | if .source != "" then .source else .cause end' | paste -sd' '
}
sources_are() { [ "$(sources_of "$1")" = "$2" ] || fail "$1 comes from '$(sources_of "$1")' instead of '$2'"; } # IMAGE SOURCES
label_of() { # IMAGE LABEL: of its topmost layer
	ctr_ lamella snapshots --snapshotter lamella info "$(chain_id "$WORK/oci-$1" latest)" | jq -r ".Labels[\"$LABEL.$2\"]"
}
lazily() { # IMAGE: pulled without any layer from the registry
	registry_mark
	pull "$1" || fail "pull of $1"
	[ -z "$(registry_layer_requests "$WORK/oci-$1")" ] || fail "$1: layers were pulled: $(registry_layer_requests "$WORK/oci-$1")"
}
fell_back() { # IMAGE CAUSE WORDS: pulled now, for this reason
	pull "$1" || fail "pull of $1"
	[ "$(label_of "$1" cause)" = "$2" ] || fail "$1: cause $(label_of "$1" cause), reason $(label_of "$1" reason)"
	[[ $(label_of "$1" reason) == *"$3"* ]] || fail "$1: reason $(label_of "$1" reason)"
	grep -qF "image=$(ref "$1") cause=$2 " "$WORK/log/snapshotter.log" || fail "$1: not in the log"
}
says() { # WORDS IMAGE COMMAND...: the last line in a container
	local words=$1 image=$2
	shift 2
	pod lamella run "$(ref "$image")" "$@" >"$WORK/output" 2>&1 || fail "$image: exit code $?: $(cat "$WORK/output")"
	[ "$(tail -n 1 "$WORK/output")" = "$words" ] || fail "$image printed $(cat "$WORK/output")"
}
refused() { # KEY: a snapshot over the image one
	! ctr_ lamella snapshots --snapshotter lamella prepare "$1" "$top" >"$WORK/output" 2>&1 &&
		grep -q 'a layer is not being served' "$WORK/output"
}
list_and_stat() { ctr_ lamella snapshots --snapshotter lamella ls >/dev/null 2>&1 && [ "$(label_of one layer 2>/dev/null)" = lazy ]; }
usage() { ctr_ lamella snapshots --snapshotter lamella usage >/dev/null; }
is_dead() { ! ls "$1" >/dev/null 2>&1; }
within() { # SECONDS WHAT COMMAND...
	local began limit=$1 what=$2 took
	shift 2
	began=$(now_ms)
	"$@" || fail "$what"
	took=$(($(now_ms) - began))
	say "  $what: $took ms"
	[ $took -lt $((limit * 1000)) ] || fail "$what: $took ms, of $limit s at most"
}
page() { curl -sS --max-time 20 --unix-socket "$METRICS_SOCKET" "http://x$1"; } # PATH
health() { curl -sS -o /dev/null -w '%{http_code}' --max-time 20 --unix-socket "$METRICS_SOCKET" http://x/healthz; }

mounted_by() { pgrep -f "LAMELLA_MOUNTPOINT=$1( |\$)"; } # DIR: its processes
mount_at() { # NAME DIR CACHE
	"$LAMELLA" mount "$1" "$2" --url "http://$WEB/cvmfs/@fqrn@" --key "$WORK/keys/$1.pub" --cache "$WORK/$3" >"$WORK/tmp/mount" 2>&1 ||
		fail "mount of $1: $(cat "$WORK/tmp/mount")"
	ln -sf "$WORK/$3/mount.log" "$WORK/log/$3.log"
}

registry_start
push_pause
image one base first
image two base first gone
image own base own
image later base own later
image never never
image never2 never2
image never3 never3
image never4 never4
image never5 never5
image kept kept base
image marked base marked gone
"$LAMELLA" repo init "$OTHER" --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "repo init"
repo_init
convert "oci:$WORK/oci-one:latest"
"$LAMELLA" convert "oci:$WORK/oci-own:latest" --repo "$OTHER" --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "convert"
convert "oci:$WORK/oci-two:latest"
serve_start

say "settings that are none"
for bad in path:relative "fetcher,path:$A" "path:$A,path:$A" "$A" "path:$A,"; do
	echo "LAMELLA_SOURCE=$bad" >"$WORK/bad.conf"
	! timeout 20 "$LM_BUILD/snapshotter/lamella-snapshotter" --config "$WORK/bad.conf" --root "$WORK/bad" --address /run/lamella/bad.sock \
		2>"$WORK/output" || fail "$bad: started"
	grep -q 'LAMELLA_SOURCE: ' "$WORK/output" || fail "$bad: $(cat "$WORK/output")"
done

say "lazily from two mounts, without a fetcher's socket"
mount_at "$FQRN" "$A" first
mount_at "$OTHER" "$B" second
settings=("LAMELLA_SOURCE=path:$A,path:$B" "LAMELLA_RESOLVE_TIMEOUT=$TIMEOUT_S")
snapshotter_start "${settings[@]}"
containerd_start lamella
[ ! -e "$FETCHER_SOCKET" ] || fail "there is a fetcher"
for i in one two own; do lazily $i; done
sources_are one "$A $A"
sources_are own "$A $B" # both have the lower one
sources_are two "$A $A $A"
[ "$(label_of own source)" = "$B" ] || fail "label: $(label_of own source)"
says first one cat /data/first
says own own cat /data/own
names() { says "$1" "$2" sh -c 'cd /data && echo *'; } # NAMES IMAGE
names "gone opaque" two
"$LAMELLA" images --node --layers >"$WORK/output"
grep -qE "^ +$(digests own | tail -n 1 | cut -c1-19) +lazy .*  from $B\$" "$WORK/output" || fail "images --node: $(cat "$WORK/output")"
"$LAMELLA" status >"$WORK/output" 2>&1 || fail "status: $(cat "$WORK/output")"
grep -qE "^  source +path:$A,path:$B\$" "$WORK/output" || fail "status: $(cat "$WORK/output")"
page /metrics >"$WORK/metrics"
python3 "$LM_ROOT/tests/e2e/exposition.py" "$WORK/metrics" >"$WORK/output" || fail "the metrics: $(cat "$WORK/output")"
grep -qF "lamella_snapshotter_layers_served{source=\"$A\"} " "$WORK/metrics" || fail "metrics: $(cat "$WORK/metrics")"
[ "$(health)" = 200 ] || fail "health: $(page /healthz)"
node | jq -e '.trees.used == false and (.trees.reason | contains("mounts of others"))' >/dev/null || fail "trees: $(node | jq .trees)"

say "who looks is killed, and the snapshotter"
looking() { pgrep -f -- '--look path:'; }
looks_anew() { [ "$(looking)" != "$before" ] && looking >/dev/null; }
resident() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; } # PID
[ "$(looking | wc -l)" = 1 ] || fail "not one process that looks: $(looking)"
say "  it takes $(resident "$(looking)") KiB, the snapshotter $(resident "$(pid_of snapshotter)")"
before=$(looking)
kill -KILL "$before"
wait_for 10 "another process that looks" looks_anew
says first one cat /data/first
before=$(looking)
stop snapshotter KILL
is_gone() { [ ! -e "/proc/$before" ]; }
wait_for 10 "its end with the snapshotter's" is_gone
snapshotter_start "${settings[@]}"
wait_for 30 "containerd to connect again" list_and_stat
says first one cat /data/first

say "as after an ordinary pull"
containerd_start overlayfs
cri overlayfs pull "$(ref two)" >/dev/null
chain=$(chain_id "$WORK/oci-two" latest)
for s in lamella overlayfs; do mount_view $s "$chain" "$WORK/views/$s"; done
"$TREEDIFF" --ignore /:mtime "$WORK/views/overlayfs" "$WORK/views/lamella" >"$WORK/output" || fail "another tree: $(head -n 20 "$WORK/output")"
for s in lamella overlayfs; do unmount_view $s "$WORK/views/$s"; done
stop containerd-overlayfs

say "what no mount has"
fell_back never absent "no mount has it: $A"
[[ $(label_of never reason) == *", $B"* ]] || fail "reason: $(label_of never reason)"

say "by chain id alone"
for i in one two own; do rmi $i; done
stop containerd-lamella
containerd_start lamella 's|disable_snapshot_annotations = .*|disable_snapshot_annotations = true|'
lazily own
[ "$(label_of own source)" = "$B" ] || fail "label: $(label_of own source)"
says own own cat /data/own
rmi own
stop containerd-lamella
containerd_start lamella

say "the mount is replaced under a container"
lazily one
id=$(pod lamella start --log-dir "$WORK/tmp" "$(ref one)" sleep 1000)
umount "$A"
convert "oci:$WORK/oci-later:latest"
mount_at "$FQRN" "$A" replaced
[ "$(cri lamella exec "$id" cat /data/first)" = first ] || fail "the container does not read its files"
cri lamella rm "$id"
says first one cat /data/first
lazily later
[ "$(label_of later source)" = "$A" ] || fail "later is from $(label_of later source)"
lazily own

say "the first mount is frozen"
mapfile -t frozen < <(mounted_by "$A")
[ ${#frozen[@]} -gt 0 ] || fail "no process of $A: $(ps ax)"
kill -STOP "${frozen[@]}"
within $((TIMEOUT_S + 5)) "an ordinary image" fell_back never2 unavailable "$A did not answer in time"
[ "$(health)" = 503 ] || fail "health: $(page /healthz)"
page /healthz | has -F "$A did not answer" || fail "health: $(page /healthz)"
! "$LAMELLA" status >"$WORK/output" 2>&1 || fail "all well?"
top=$(chain_id "$WORK/oci-one" latest)
within $((TIMEOUT_S + 5)) "a container over what the kernel knows of it is refused" refused known
sleep $PATIENCE_S
within 5 "another" fell_back never3 unavailable "$A does not answer: nothing has come"
grep -q 'mount does not answer' "$WORK/log/snapshotter.log" || fail "not in the log"
within $((TIMEOUT_S + 3)) "a container over it is refused" refused hanging
within $TIMEOUT_S "a list, and stat" list_and_stat
within $TIMEOUT_S "usage of all" usage
within $TIMEOUT_S "an ordinary snapshot" ctr_ lamella snapshots --snapshotter lamella prepare ordinary "$(chain_id "$WORK/oci-never2" latest)" >/dev/null
ctr_ lamella snapshots --snapshotter lamella rm ordinary
rmi own
within $((TIMEOUT_S + 5)) "an image that the second has" lazily own
[ "$(label_of own source)" = "$B" ] || fail "label: $(label_of own source)"
within 10 "the end of the snapshotter" stop snapshotter
within 10 "its start" snapshotter_start "${settings[@]}"
kill -CONT "${frozen[@]}"
start_again() { ctr_ lamella snapshots --snapshotter lamella prepare again "$top" >/dev/null 2>&1; }
wait_for 60 "starts to work again" start_again
ctr_ lamella snapshots --snapshotter lamella rm again
says first one cat /data/first

say "its process is dead"
mapfile -t frozen < <(mounted_by "$A")
kill -KILL "${frozen[@]}"
wait_for 10 "the end of the mount" is_dead "$A"
fell_back never4 unavailable "$A: Transport endpoint is not connected"
sleep 3 # for which a start believes what the last one saw
within $((TIMEOUT_S + 3)) "a container over it is refused" refused dead

say "it is gone"
umount -l "$A"
fell_back never5 unavailable "$A has no .layers: no repository with images is there"
[ "$(health)" = 503 ] || fail "health: $(page /healthz)"
says own own cat /data/own
[ "$(node | jq -r --arg d "$(digests own | sed -n 1p)" '.layers[] | select(.digest == $d).source')" = "$B" ] ||
	fail "the layer that both have: $(node | jq -c .layers)"

say "layers that stock tools wrote"
stock_layer() { # NAME
	local dir hex
	hex=$(sha256sum "$WORK/tar/$1" | cut -d' ' -f1)
	dir=$C/.layers/${hex:0:2}/$hex/layerfs
	mkdir -p "$dir"
	tar -C "$dir" --no-same-owner -xf "$WORK/tar/$1"
	touch "$dir/.cvmfscatalog"
}
for l in kept base gone marked; do stock_layer $l; done
stop snapshotter
snapshotter_start "LAMELLA_SOURCE=path:$C" LAMELLA_RESOLVE_TIMEOUT=$TIMEOUT_S
lazily kept
sources_are kept "$C $C"
[[ $(label_of kept reason) == *"written by stock tools"* ]] || fail "reason: $(label_of kept reason)"
says kept kept cat /data/kept
pull marked
[ "$(label_of marked cause)" = absent ] || fail "cause $(label_of marked cause)"
[[ $(label_of marked reason) == *"marks deletions by names (data/"* ]] || fail "reason: $(label_of marked reason)"
names "gone marked opaque" marked

stop containerd-lamella
stop snapshotter
check_reports
say "passed"
