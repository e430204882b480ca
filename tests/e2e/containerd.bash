# shellcheck shell=bash
# One series of containerd with our snapshotter, beside the same with its own overlayfs: every way to pull, run and remove that
# it has. Sourced after lib.sh by containerd_*.sh, and by upgrade.sh.

DEEP=120 # layers of the deep image: more than a page of mount options
HALF=60  # of them that are converted at first
SMALL=$REGISTRY/small:latest # converted; deep has it as its lowest layer
PLAIN=$REGISTRY/plain:latest # never converted
DEEPEST=$REGISTRY/deep:latest

# Away from the namespace of the CRI, which gives each image that turns up there a second name.
in_other() { CTR_NAMESPACE=other "$@"; }

LAYOUTS=() # whose layers are looked for
# COMMAND does without any layer of the images from the registry, or with some.
quietly() { # WHAT COMMAND...
	local what=$1
	shift
	registry_mark
	"$@" >"$WORK/output" 2>&1 || fail "$what: $(tail -n 5 "$WORK/output")"
	REQUESTS=$(registry_layer_requests "${LAYOUTS[@]}")
}
lazily() { # WHAT COMMAND...
	quietly "$@"
	[ -z "$REQUESTS" ] || fail "$1: layers were pulled: $REQUESTS"
}
ordinarily() { # WHAT COMMAND...
	quietly "$@"
	[ -n "$REQUESTS" ] || fail "$1: no layer was pulled, though $SERIES cannot do without"
}

OPTIONS=(--rm) # of ctr run
ctr_run() { # ID REF COMMAND...
	ctr_ lamella run --snapshotter lamella --cgroup "/lamella-${WORK##*/}/$1" "${OPTIONS[@]}" "$2" "$1" "${@:3}"
}
says() { # WORD COMMAND...: the last line of output
	local word=$1
	shift
	"$@" >"$WORK/output" 2>&1 || fail "$*: exit code $?: $(tail -n 5 "$WORK/output")"
	[ "$(tail -n 1 "$WORK/output")" = "$word" ] || fail "$* printed $(tail -n 5 "$WORK/output")"
}

rows_are() { [ "$(store_rows)" = "$1" ]; }
# A removal that waits for the collection of garbage.
collect() {
	ctr_ lamella leases create --id collect >/dev/null
	ctr_ lamella leases rm --sync collect >/dev/null
}
nothing_left() {
	collect
	rows_are 0 && [ -z "$(ls "$WORK/snapshotter/snapshots")" ] && ! grep -qF " $WORK/snapshotter/" /proc/self/mountinfo
}
all_is_given_back() { # AFTER
	cri lamella rmi "$REGISTRY/pause:latest" 2>/dev/null || true
	wait_for 30 "everything to go after $1" nothing_left
}

# A shell with a few programs of this machine, and a file that says WORD.
small_layout() { # LAYOUT WORD
	local root=$WORK/tmp/root p
	mkdir -p "$root"/{bin,var/tmp,etc}
	for p in sh cat ls cksum sleep; do
		cp -L "$(command -v "$p")" "$root/bin/"
		ldd "$root/bin/$p" | grep -oE '/[^ ]+' | grep -v "^$root" | xargs -I '{}' cp -L --parents '{}' "$root"
	done
	echo "$2" >"$root/word"
	tar -C "$root" --owner=0 --group=0 -cf "$WORK/tmp/small.tar" .
	LAYER_GZIP=1 make_layout "$1" "$WORK/tmp/small.tar" /bin/sh
	rm -r "$root"
}

prepare() {
	local i
	registry_start
	push_pause
	small_layout "$WORK/oci-small" small
	small_layout "$WORK/oci-plain" plain
	python3 "$LM_ROOT/tests/e2e/deep.py" "$WORK/oci-small" latest "$WORK/oci-half" $((HALF - 1))
	python3 "$LM_ROOT/tests/e2e/deep.py" "$WORK/oci-small" latest "$WORK/oci-deep" $((DEEP - 1))
	for i in small plain deep; do
		push "$WORK/oci-$i:latest" $i:latest
		LAYOUTS+=("$WORK/oci-$i")
	done
	repo_init
	convert "oci:$WORK/oci-small:latest"
	convert "oci:$WORK/oci-half:latest"
	serve_start
	fetcher_start
	snapshotter_start
	containerd_start overlayfs
	containerd_start lamella
}

# --- the Container Runtime Interface -----------------------------------------------------------------------------------

test_cri() {
	local id
	say "CRI: pull, run, exec, stop, remove"
	lazily "the pull" cri lamella pull "$SMALL"
	[ "$(cri lamella image "$SMALL" | cut -d' ' -f1)" = "$(cat "$WORK/output")" ] || fail "another image than was pulled"
	says small pod lamella run "$SMALL" cat /word
	mkdir "$WORK/small"
	id=$(pod lamella start --no-pull --log-dir "$WORK/small" "$SMALL" sh -c 'echo mine >/var/tmp/file; exec sleep 1000')
	wait_for 10 "the container's file" has_written "$id" mine
	cri lamella stop "$id"
	cri lamella list | has "^$id exited " || fail "not stopped: $(cri lamella list)"
	cri lamella rm "$id"
	test_fsinfo
	cri lamella rmi "$SMALL"
	! cri lamella image "$SMALL" >/dev/null 2>&1 || fail "the image is still there"
	all_is_given_back "the image"
}

has_written() { [ "$(cri lamella exec "$1" cat /var/tmp/file 2>/dev/null)" = "$2" ]; } # ID WORD

# What kubelet is told: a directory that exists, in containerd 2 that of the snapshotter.
test_fsinfo() {
	local dir
	read -r _ _ dir < <(cri lamella fsinfo)
	[ -d "$dir" ] || fail "the file system of images is $dir, which is not there"
	[ "$SERIES" != 2 ] || [ "$dir" = "$WORK/snapshotter" ] || fail "the file system of images is $dir"
}

test_ordinary() {
	local label
	say "CRI: an image that was never converted"
	ordinarily "the pull" cri lamella pull "$PLAIN"
	label=$(ctr_ lamella snapshots --snapshotter lamella info "$(chain_id "$WORK/oci-plain" latest)")
	jq -e '.Labels["containerd.io/snapshot/lamella.layer"] == "ordinary"' <<<"$label" >/dev/null || fail "no label: $label"
	says plain pod lamella run --no-pull "$PLAIN" cat /word
	cri lamella rmi "$PLAIN"
	all_is_given_back "the ordinary image"
}

# The deep image in a container by overlayfs, then by ours: what that prints, and all that treediff with OPTIONs sees. Its mount
# options are longer than a page, or it is over a merged tree.
deep_container() { # SNAPSHOTTER OPTION...
	local s=$1 id
	rm -rf "$WORK/deep-$s"
	mkdir "$WORK/deep-$s"
	id=$(pod "$s" start --no-pull --log-dir "$WORK/deep-$s" "$DEEPEST" sleep 1000)
	cri "$s" exec "$id" sh -c 'cat /word /deep/last; ls /deep/own /deep/some' >"$WORK/deep-$s/output"
	in_container "$s" "$id" "${@:2}" || fail "another container than by overlayfs"
	ctr_ "$s" snapshots --snapshotter "$s" mounts /x "$id" >"$WORK/deep-$s/mounts"
	if ! grep -q '::' "$WORK/deep-$s/mounts" && [ "$(wc -c <"$WORK/deep-$s/mounts")" -le 4096 ]; then
		fail "the mount options fit into a page: this shows nothing"
	fi
	cri "$s" rm "$id"
}
same_container() {
	deep_container lamella --against "$WORK/deep.tree"
	cmp "$WORK/deep-overlayfs/output" "$WORK/deep-lamella/output" || fail "another output than by overlayfs"
}

test_deep() {
	cri overlayfs pull "$DEEPEST" >/dev/null
	deep_container overlayfs --list >"$WORK/deep.tree"
	say "$DEEP layers, of which the upper ones were not converted"
	ordinarily "the pull" cri lamella pull "$DEEPEST"
	[ "$(grep -c GET <<<"$REQUESTS")" = $((DEEP - HALF)) ] || fail "other layers than those that were not converted were pulled: $REQUESTS"
	same_container
	cri lamella rmi "$DEEPEST"
	say "$DEEP layers, lazily, since they were converted meanwhile"
	convert "oci:$WORK/oci-deep:latest"
	"$LAMELLA" update --socket "$FETCHER_SOCKET" >/dev/null
	stop snapshotter # which remembers for ten seconds what was absent
	snapshotter_start
	lazily "the pull" cri lamella pull "$DEEPEST"
	same_container
	say "the same without a merged tree"
	stop snapshotter
	snapshotter_start LAMELLA_TREES=no
	same_container
	stop snapshotter
	snapshotter_start
	cri lamella rmi "$DEEPEST"
	all_is_given_back "the deep image"
}

# --- ctr --------------------------------------------------------------------------------------------------------------

ctr_pull() { ctr_ lamella images pull --plain-http --snapshotter lamella "$@" "$SMALL"; }
ctr_rmi() { ctr_ lamella images rm --sync "$SMALL" >/dev/null; }

test_ctr() {
	say "ctr: pull, run, remove"
	# Before 2 it fetches the whole image, then has it unpacked: nobody is asked for a layer.
	if [ "$SERIES" = 2 ]; then lazily "ctr's pull" in_other ctr_pull; else ordinarily "ctr's pull" in_other ctr_pull; fi
	in_other says small ctr_run first "$SMALL" cat /word
	in_other ctr_rmi
	all_is_given_back "ctr's image"
	if [ "$SERIES" = 2 ]; then
		say "ctr: without the transfer service"
		ordinarily "ctr's local pull" in_other ctr_pull --local
		in_other says small ctr_run second "$SMALL" cat /word
		in_other ctr_rmi
		all_is_given_back "ctr's other image"
	fi
}

# The image goes while a container runs over it.
test_removed_in_use() {
	say "an image is removed under a container"
	in_other quietly "ctr's pull" ctr_pull
	OPTIONS=(-d)
	in_other ctr_run survivor "$SMALL" sleep 1000
	OPTIONS=(--rm)
	in_other ctr_rmi
	in_other says "still here" ctr_ lamella tasks exec --exec-id one survivor sh -c 'echo still here >/var/tmp/file; cat /var/tmp/file'
	rows_are 2 || fail "$(store_rows) records for a layer and a container"
	in_other ctr_ lamella tasks kill -s KILL survivor
	wait_for 10 "the end of the task" in_other removed survivor
	all_is_given_back "the container"
}
removed() { ctr_ lamella tasks rm "$1" >/dev/null 2>&1 && ctr_ lamella containers rm "$1"; } # ID

# containerd is told that we map owners, and asks for it: else it would copy the image into a snapshot of its own.
test_user_namespace() {
	say "a container in a user namespace"
	in_other quietly "ctr's pull" ctr_pull
	OPTIONS=(--rm --remap-labels --uidmap 0:100000:65536 --gidmap 0:100000:65536)
	# shellcheck disable=SC2016 # the shell in there
	in_other says '0 100000 65536' ctr_run mapped "$SMALL" sh -c 'read -r a b c </proc/self/uid_map; echo $a $b $c'
	OPTIONS[0]=-d
	in_other ctr_run mapped "$SMALL" sleep 1000
	OPTIONS=(--rm)
	collect
	rows_are 2 || fail "$(store_rows) records for a layer and a container: $(in_other ctr_ lamella snapshots --snapshotter lamella ls)"
	in_other ctr_ lamella tasks kill -s KILL mapped
	wait_for 10 "the end of the task" in_other removed mapped
	in_other ctr_rmi
	all_is_given_back "the container in a user namespace"
}

# A network plugin that does nothing: kubelet gives a user namespace only to pods with a network of their own.
no_network() {
	local dir=$WORK/containerd-lamella/cni name
	for name in loopback nothing; do
		cat >"$dir/$name" <<-'END'
			#!/bin/sh
			case $CNI_COMMAND in
			ADD) echo "{\"cniVersion\": \"1.0.0\", \"interfaces\": [{\"name\": \"$CNI_IFNAME\", \"sandbox\": \"$CNI_NETNS\"}],
			  \"ips\": [{\"address\": \"198.18.0.9/24\", \"interface\": 0}]}" ;;
			VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
			esac
		END
		chmod 755 "$dir/$name"
	done
	echo '{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "nothing"}]}' >"$dir/nothing.conflist"
}

# As kubelet does it of a pod with hostUsers: false: nothing is copied, and nothing is unpacked for it.
test_pod_user_namespace() {
	local id rows root
	say "CRI: a pod in a user namespace"
	lazily "the pull" cri lamella pull "$SMALL"
	rows=$(store_rows)
	no_network
	wait_for 10 "the network plugin" pod lamella run --no-pull --users 200000 "$SMALL" sh -c :
	# shellcheck disable=SC2016 # the shell in there
	says '0 200000 65536' pod lamella run --no-pull --users 200000 "$SMALL" sh -c 'read -r a b c </proc/self/uid_map; echo $a $b $c'
	mkdir "$WORK/mapped"
	id=$(pod lamella start --no-pull --users 200000 --log-dir "$WORK/mapped" "$SMALL" sh -c 'echo mine >/var/tmp/file; exec sleep 1000')
	wait_for 10 "the container's file" has_written "$id" mine
	root=/proc/$(cri lamella pid "$id")/root
	[ "$(stat -c '%u %g' "$root"/{word,var/tmp/file} | sort -u)" = '200000 200000' ] || fail "$(stat -c '%n %u %g' "$root"/{word,var/tmp/file})"
	collect
	# The image of sandboxes, and what pod and container write.
	rows_are $((rows + 3)) || fail "$(store_rows) records instead of three more than $rows: $(ctr_ lamella snapshots --snapshotter lamella ls)"
	cri lamella rm "$id"
	cri lamella rmi "$SMALL"
	rm -r "$WORK"/containerd-lamella/cni/*
	all_is_given_back "the image"
}

test_namespaces() {
	local before
	say "two namespaces with the same image"
	cri lamella pull "$SMALL" >/dev/null
	before=$(store_rows)
	in_other quietly "the pull in another namespace" ctr_pull
	if [ "$SERIES" = 2 ]; then
		[ -z "$REQUESTS" ] || fail "layers were pulled that are there already: $REQUESTS"
		[ "$(store_rows)" = "$before" ] || fail "$(store_rows) records instead of $before: layers are there twice"
	fi
	says small ctr_run here "$SMALL" cat /word
	in_other says small ctr_run there "$SMALL" cat /word
	cri lamella rmi "$SMALL"
	collect
	in_other says small ctr_run again "$SMALL" cat /word
	in_other ctr_rmi
	all_is_given_back "the image in both namespaces"
}

# A client that is killed leaves its lease, and that keeps what was made so far; what nothing refers to goes.
test_leases() {
	local worker lease dir=$WORK/tmp/kept
	say "leases, and collection of garbage"
	in_other ctr_ lamella images pull --plain-http --snapshotter lamella ${LOCAL:+--local} "$DEEPEST" >"$WORK/tmp/pull" 2>&1 &
	worker=$!
	wait_for 60 "the first layers" some_layers
	pkill -KILL -P $worker
	wait $worker 2>/dev/null || true
	lease=$(in_other ctr_ lamella leases ls -q)
	[ "$(wc -l <<<"$lease")" = 1 ] && [ -n "$lease" ] || fail "not one lease: $lease"
	collect
	some_layers || fail "layers are gone that a lease keeps"
	mkdir "$dir"
	ctr_ lamella snapshots --snapshotter lamella prepare kept >/dev/null
	in_other ctr_ lamella leases rm --sync "$lease" >/dev/null
	rows_are 1 || fail "$(store_rows) records, though all but one snapshot are unused"
	eval "$(ctr_ lamella snapshots --snapshotter lamella mounts "$dir" kept)"
	touch "$dir/file"
	umount "$dir"
	ctr_ lamella snapshots --snapshotter lamella label kept containerd.io/gc.root= >/dev/null
	all_is_given_back "the leases"
}
some_layers() { [ "$(store_rows)" -ge 5 ]; }

# --- the transfer service ---------------------------------------------------------------------------------------------

LOCAL_PULL='Falling back to local image pull mode'
test_transfer() {
	say "the CRI by the transfer service"
	grep -q "$LOCAL_PULL" "$WORK/log/containerd-lamella.log" || fail "the pulls until now were not the CRI's own"
	stop containerd-lamella
	mv "$WORK/log/containerd-lamella.log" "$WORK/log/containerd-local.log"
	containerd_start lamella 's/^( *disable_snapshot_annotations = )false/\1true/'
	! grep -q "$LOCAL_PULL" "$WORK/log/containerd-lamella.log" || fail "not by the transfer service"
	lazily "the pull" cri lamella pull "$SMALL"
	says small pod lamella run --no-pull "$SMALL" cat /word
	cri lamella rmi "$SMALL"
	ordinarily "the pull of what was not converted" cri lamella pull "$PLAIN"
	says plain pod lamella run --no-pull "$PLAIN" cat /word
	cri lamella rmi "$PLAIN"
	all_is_given_back "the images"
}

containerd_tests() { # SERIES
	SERIES=$1
	LOCAL=''
	[ "$SERIES" != 2 ] || LOCAL=1 # ctr's own lease, instead of one that the daemon takes back
	need_containers
	need python3
	need_containerd "$SERIES"
	isolate "containerd-$SERIES"
	say "containerd $(containerd_version), $("${CONTAINERD_BIN:+$CONTAINERD_BIN/}runc" --version | sed -n 1p)"
	prepare
	test_cri
	test_ordinary
	test_deep
	test_ctr
	test_removed_in_use
	[ "$SERIES" = 1.6 ] || test_user_namespace # proxy plugins have no capabilities there
	[ "$SERIES" != 2 ] || test_pod_user_namespace # what the CRI of 1.7 has of it is experimental
	test_namespaces
	test_leases
	[ "$SERIES" != 2 ] || test_transfer
	stop containerd-lamella
	stop containerd-overlayfs
	stop snapshotter
	stop fetcher
	check_reports
}
