#!/usr/bin/env bash
# Layers are found by chain id and diff id: the converter publishes an index, the fetcher looks things up in it and refuses what is no entry,
# and clients that send no annotations, or want another compression of an image, download no layer.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need_image tiny
CONTROL=$LM_BUILD/tests/tools/control
FORGE=$LM_BUILD/tests/tools/forge
need_built "$CONTROL" "$FORGE"
isolate index
OTHER=other.lamella.test
TINY=$LM_IMAGES/oci-tiny

lamella() { # COMMAND ARGUMENT...: of the repository
	"$LAMELLA" "$@" --repo "$FQRN" --storage "$WORK/storage" >"$WORK/out" 2>"$WORK/err" ||
		fail "lamella $*: $(tail -n 3 "$WORK/err")"
}
revision() { "$LAMELLA" repo info "$FQRN" --storage "$WORK/storage" --json | jq .revision; }
config_of() { cat "$1/blobs/sha256/$(manifest "$1" "$2" | jq -r '.config.digest | ltrimstr("sha256:")')"; } # LAYOUT TAG
diff_ids() { config_of "$1" "$2" | jq -r '.rootfs.diff_ids[]'; }
digests() { manifest "$1" "$2" | jq -r '.layers[].digest'; }
chain_ids() { # LAYOUT TAG: the lowest layer's first
	local chain='' id
	while read -r id; do
		if [ -n "$chain" ]; then chain=sha256:$(printf '%s %s' "$chain" "$id" | sha256sum | cut -d' ' -f1); else chain=$id; fi
		echo "$chain"
	done < <(diff_ids "$1" "$2")
}
# The index as it is published: a line for each entry, the kind, its id, and the layer's digest.
entries() {
	"$LAMELLA" inspect tree "$FQRN" --storage "$WORK/storage" --no-content >"$WORK/tmp/rows" || fail "inspect"
	awk '{ print $13, $11 }' "$WORK/tmp/rows" |
		sed -nE 's,^/.lamella/(chains|diffs)/(..)/(\2[0-9a-f]{62}) \.\./\.\./\.\./\.layers/(..)/(\4[0-9a-f]{62})$,\1 sha256:\3 sha256:\5,p' | sort
}
entries_of() { # LAYOUT TAG: what an image has there
	(
		paste -d' ' <(chain_ids "$@") <(digests "$@") | sed 's/^/chains /'
		paste -d' ' <(diff_ids "$@") <(digests "$@") | sed 's/^/diffs /'
	) | sort -u
}
indexed() { [ -z "$(comm -13 <(entries) <(entries_of "$@"))" ]; } # LAYOUT TAG

say "conversion enters layers"
repo_init
convert "oci:$TINY:latest" --name registry.example.org/tiny:1
[ "$(entries)" = "$(entries_of "$TINY" latest)" ] || fail "entries: $(entries)"
before=$(revision)
lamella convert "oci:$TINY:latest" --name registry.example.org/tiny:1
[ "$(revision)" = "$before" ] || fail "entered twice"

say "an image that was there before there was an index gets its entries"
repository=$WORK/storage/cvmfs/$FQRN
forge() { "$FORGE" "$repository" "$FQRN" "$WORK/keys" "$@" || fail "forge"; }
empty_index() {
	local kind steps=(sql '' "UPDATE statistics SET value = value - $(entries | wc -l) WHERE counter = 'subtree_symlink'")
	for kind in chains diffs; do
		steps+=(sql "/.lamella/$kind" "UPDATE statistics SET value = value - (SELECT count(*) FROM catalog WHERE symlink != '') WHERE
			counter = 'self_symlink'; DELETE FROM catalog WHERE symlink != ''")
	done
	forge "${steps[@]}"
}
empty_index
[ -z "$(entries)" ] || fail "entries: $(entries)"
lamella convert "oci:$TINY:latest" --name registry.example.org/tiny:1 --dry-run
grep -q ': completed' "$WORK/out" || fail "the plan: $(cat "$WORK/out")"
lamella convert "oci:$TINY:latest" --name registry.example.org/tiny:1
[ "$(entries)" = "$(entries_of "$TINY" latest)" ] || fail "entries: $(entries)"
lamella convert "oci:$TINY:latest" --name registry.example.org/tiny:1 --dry-run
grep -q ': unchanged$' "$WORK/out" || fail "the plan: $(cat "$WORK/out")"
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --objects >"$WORK/out" || fail "check: $(cat "$WORK/out")"

say "also by a wish list whose images have not changed"
registry_start
push_pause
push "$TINY:latest" tiny:latest
push "$TINY:zstd" tiny:zstd
cat >"$WORK/wishes.yaml" <<-END2
	version: 2
	repositories: [{repository: $FQRN, images: ['http://$REGISTRY/tiny:latest']}]
END2
lamella_sync() { "$LAMELLA" sync "$WORK/wishes.yaml" --state "$WORK/state.json" >"$WORK/out" 2>&1 || fail "sync: $(cat "$WORK/out")"; }
lamella_sync
lamella_sync
grep -q ' 0 new, 0 failed' "$WORK/out" || fail "sync: $(cat "$WORK/out")"
sed -i 's/, index//' "$WORK/state.json" # as an earlier version left it
empty_index
lamella_sync
[ "$(entries)" = "$(entries_of "$TINY" latest)" ] || fail "entries: $(entries)"

say "another compression changes nothing, until the first one is removed"
mkdir "$WORK/files"
echo small >"$WORK/files/small"
tar -C "$WORK/files" --owner=0 --group=0 -cf "$WORK/tmp/small.tar" small
cp "$WORK/tmp/small.tar" "$WORK/tmp/again.tar"
LAYER_GZIP=1 make_layout "$WORK/oci-packed" "$WORK/tmp/small.tar" /packed
make_layout "$WORK/oci-plain" "$WORK/tmp/again.tar" /plain
PACKED=$WORK/oci-packed
lamella convert "oci:$PACKED:latest" --name registry.example.org/packed:1
lamella convert "oci:$WORK/oci-plain:latest" --name registry.example.org/plain:1
indexed "$WORK/oci-packed" latest || fail "entries: $(entries)"
lamella rm registry.example.org/packed:1 --now
indexed "$WORK/oci-plain" latest || fail "no heir: $(entries)"
lamella rm registry.example.org/plain:1 --now
[ "$(entries)" = "$(entries_of "$TINY" latest)" ] || fail "entries: $(entries)"

cp -a "$WORK/oci-plain" "$WORK/oci-honest"

say "a liar's layer is not found by what it calls itself"
victim=$(diff_ids "$TINY" latest | tail -n 1)
lamella convert "oci:$WORK/oci-plain:latest" --name registry.example.org/plain:1
config=$(config_of "$WORK/oci-plain" latest | jq -c --arg id "${victim%??}00" '.rootfs.diff_ids = [$id]')
echo "$config" >"$WORK/tmp/config"
descriptor=$(blob "$WORK/oci-plain" "$WORK/tmp/config" application/vnd.oci.image.config.v1+json)
manifest "$WORK/oci-plain" latest | jq -c --argjson c "$descriptor" '.config = $c' >"$WORK/tmp/manifest"
blob "$WORK/oci-plain" "$WORK/tmp/manifest" application/vnd.oci.image.manifest.v1+json |
	jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$WORK/tmp/index"
mv "$WORK/tmp/index" "$WORK/oci-plain/index.json"
lamella convert "oci:$WORK/oci-plain:latest" --name registry.example.org/liar:1
grep -q 'liar:1: layer sha256:.* is not known to have the diff id' "$WORK/err" || fail "not said: $(cat "$WORK/err")"
! entries | has "${victim%??}00" || fail "entered"
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --objects >"$WORK/out" || fail "check: $(cat "$WORK/out")"

say "the fetcher"
resolve() { "$CONTROL" "$FETCHER_SOCKET" resolve "$@" >"$WORK/out" 2>&1; } # LAYER...
line() { sed -n "$1p" "$WORK/out"; }
is_served() { [[ $(line "$1") == "$2 LAYER_FAITHFUL $MOUNT_BASE/${3:-$FQRN}/.layers/"*"/${2#sha256:}/layerfs -" ]] || fail "answer $1: $(cat "$WORK/out")"; } # NUMBER DIGEST [FQRN]
mapfile -t chains < <(chain_ids "$TINY" latest)
mapfile -t diffs < <(diff_ids "$TINY" latest)
mapfile -t blobs < <(digests "$TINY" latest)
packed=$(digests "$PACKED" latest) plain=$(digests "$WORK/oci-plain" latest) small=$(diff_ids "$PACKED" latest)
none=sha256:$(printf '0%.0s' {1..64})
# A repository that has only the other compression of an image.
lamella rm registry.example.org/plain:1 registry.example.org/liar:1 --now
lamella convert "oci:$PACKED:latest" --name registry.example.org/packed:1
"$LAMELLA" repo init "$OTHER" --storage "$WORK/storage" --keys "$WORK/keys2" >/dev/null 2>&1 || fail "repo init"
"$LAMELLA" convert "oci:$WORK/oci-honest:latest" --repo "$OTHER" --storage "$WORK/storage" >/dev/null 2>&1 || fail "convert"
serve_start
fetcher_start
resolve "chain=${chains[0]}" "chain=${chains[1]}" "diff=${diffs[1]}" "$none,chain=$none,diff=${diffs[0]}" "${blobs[1]}" "${blobs[0]},chain=${chains[1]}"
is_served 1 "${blobs[0]}"
is_served 2 "${blobs[1]}"
is_served 3 "${blobs[1]}"
is_served 4 "${blobs[0]}"
is_served 5 "${blobs[1]}"
is_served 6 "${blobs[0]}" # by the digest first
resolve "chain=$none" "diff=$none" "$none,chain=$none"
[[ $(line 1) == *" LAYER_ABSENT - no configured repository knows its chain id: $FQRN revision $(revision)" ]] || fail "absent: $(cat "$WORK/out")"
[[ $(line 2) == *" LAYER_ABSENT - no configured repository knows its diff id: $FQRN revision $(revision)" ]] || fail "absent: $(cat "$WORK/out")"
[[ $(line 3) == "$none LAYER_ABSENT - no configured repository has it: $FQRN revision $(revision)" ]] || fail "absent: $(cat "$WORK/out")"
web_mark
resolve "chain=$none" "diff=$none" "$none,chain=$none"
! web_log | grep '/data/' || fail "what is known to be absent was fetched"
for bad in "" "chain=" "chain=sha256:12" "diff=../../etc" "chain=sha512:${none#*:}" "$none,chain=x" "chain=SHA256:${none#*:}"; do
	! resolve "$bad" || fail "$bad: $(cat "$WORK/out")"
	grep -qE 'is no sha256 digest|a layer without digest' "$WORK/out" || fail "$bad: $(cat "$WORK/out")"
done
"$LAMELLA" status --socket "$FETCHER_SOCKET" --layers >"$WORK/out" || fail "status"
grep -q "$none" "$WORK/out" || fail "status: $(cat "$WORK/out")"

say "an entry that is none is refused"
cp -a "$repository" "$WORK/good"
forged() { # SQL WORDS
	forge sql /.lamella/chains "UPDATE catalog SET $1 WHERE symlink != ''"
	"$CONTROL" "$FETCHER_SOCKET" update >/dev/null
	resolve "chain=${chains[1]}" "chain=${chains[1]},diff=${diffs[1]}" "${blobs[1]},chain=${chains[1]}"
	[[ $(line 1) == *" LAYER_UNAVAILABLE - $FQRN: the index's entry of chain id ${chains[1]}: $2"* ]] || fail "$1: $(cat "$WORK/out")"
	is_served 2 "${blobs[1]}" # there are other ways to the same layer
	is_served 3 "${blobs[1]}"
}
forged "symlink = '../../../../etc'" "'../../../../etc' is no link to a layer"
place=.layers/${blobs[1]:7:2}/${blobs[1]:7}
forged "symlink = '/$place'" "'/$place' is no link to a layer"
forged "symlink = '../../../$place/layerfs/etc'" "'../../../$place/layerfs/etc' is no link to a layer"
forged "symlink = name" "'${chains[1]#*:}' is no link to a layer"
forged "symlink = '\$(HOME)'" "'"
forge sql /.lamella/chains "UPDATE catalog SET symlink = '../../../.layers/00/${none#*:}' WHERE symlink != ''"
"$CONTROL" "$FETCHER_SOCKET" update >/dev/null
resolve "chain=${chains[1]}" "chain=${chains[1]},diff=${diffs[1]}"
[[ $(line 1) == *" LAYER_ABSENT - "* ]] || fail "its layer is gone: $(cat "$WORK/out")"
is_served 2 "${blobs[1]}"

say "several repositories, in their order"
stop fetcher
rm -r "$repository" "$WORK/cache"
mv "$WORK/good" "$repository"
both=("CVMFS_PUBLIC_KEY=$WORK/keys/$FQRN.pub:$WORK/keys2/$OTHER.pub")
fetcher_start "CVMFS_REPOSITORIES=$OTHER,$FQRN" "${both[@]}"
resolve "chain=$small" "$packed,chain=$none" "$packed,chain=$small" "$plain" "chain=${chains[1]}"
is_served 1 "$plain" "$OTHER"
is_served 2 "$packed"
is_served 3 "$plain" "$OTHER"
is_served 4 "$plain" "$OTHER"
is_served 5 "${blobs[1]}"
resolve "chain=$none"
[[ $(line 1) == *"knows its chain id: $OTHER revision "*", $FQRN revision "* ]] || fail "absent: $(cat "$WORK/out")"
stop fetcher
rm -r "$WORK/cache"

say "containers, of an image of which the repository has one compression"
tree_label() { ctr_ lamella snapshots --snapshotter lamella info "$1" | jq -r '.Labels["containerd.io/snapshot/lamella.tree"]'; } # ID
run_tiny() { # TAG: prints what became of the merged tree
	local id requests
	registry_mark
	id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/tiny:$1" sleep 3600) || fail "$1: no container"
	[ "$(cri lamella exec "$id" bash -c 'echo ok')" = ok ] || fail "$1: no container"
	requests=$(registry_layer_requests "$TINY")
	[ -z "$requests" ] || fail "$1: layers were pulled: $requests"
	[ "$(ctr_ lamella snapshots --snapshotter lamella ls | grep -c Committed)" = 3 ] || # one is of the sandbox
		fail "$1: $(ctr_ lamella snapshots --snapshotter lamella ls)"
	tree_label "$id"
	cri lamella rm "$id"
	cri lamella rmi "$REGISTRY/tiny:$1"
}
fetcher_start
snapshotter_start
labels=()
for disabled in true false; do # without annotations clients say nothing of a layer but its chain id
	containerd_start lamella "s|disable_snapshot_annotations = .*|disable_snapshot_annotations = $disabled|"
	for tag in latest zstd; do
		label=$(run_tiny $tag)
		labels+=("$label")
		say "  $tag, annotations disabled: $disabled; tree: $label"
	done
	containerd_wipe lamella
done
[ "$(printf '%s\n' "${labels[@]}" | sort -u | wc -l)" = 1 ] || fail "some have a tree, others not: ${labels[*]}"
grep -q 'merged trees of layers are not used' "$WORK/log/snapshotter.log" || [ "${labels[0]}" = used ] || fail "tree: ${labels[0]}"

say "an image that was not converted is pulled, and the reason is its absence"
containerd_start lamella "s|disable_snapshot_annotations = .*|disable_snapshot_annotations = true|"
echo other >"$WORK/files/other"
tar -C "$WORK/files" --owner=0 --group=0 -cf "$WORK/tmp/other.tar" other
make_layout "$WORK/oci-other" "$WORK/tmp/other.tar" /other
push "$WORK/oci-other:latest" other:latest
cri lamella pull "$REGISTRY/other:latest" >/dev/null || fail "pull"
chain=$(chain_id "$WORK/oci-other" latest)
grep -q "layer not served, pulling it layer=$chain chain=$chain .* cause=absent reason=\"no configured repository knows its chain id: $FQRN revision" "$WORK/log/snapshotter.log" ||
	fail "the reason"
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
say "ok"
