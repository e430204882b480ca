#!/usr/bin/env bash
# Layer by layer, the converter makes the tree that containerd makes on an overlay's upper directory, and refuses what
# containerd refuses: layers full of corner cases, made by layers.py, and those of `edge` where it is there. What eStargz adds
# for lazy pullers is hidden. `lamella verify` finds nothing in any of them.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need python3 zstd
isolate layers

export LAMELLA_CONFIG_DIR=$WORK/config
LAYOUT=$WORK/corners
START=$(date +%s)
python3 "$LM_ROOT/tests/e2e/layers.py" "$LAYOUT"

pull() { # NAME:TAG
	ctr_ overlayfs images pull --plain-http --snapshotter overlayfs "$REGISTRY/$1" >"$WORK/pull.out" 2>&1
}
try_convert() { # SOURCE
	"$LAMELLA" convert "$1" --repo "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" >"$WORK/convert.out" 2>&1
}

verify() { # SOURCE
	"$LAMELLA" verify "$1" --repo "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" >"$WORK/verify.out" 2>&1 ||
		fail "verify $1: $(head -n 20 "$WORK/verify.out")"
}

# The directory in which containerd unpacked the layer with that chain id: the topmost of a view of it. Nothing holds the
# view, so containerd's garbage collection may be quicker than us.
unpacked() { # CHAIN
	local try mount
	for try in {1..20}; do
		ctr_ overlayfs snapshots --snapshotter overlayfs view "probe-$try" "$1" >/dev/null 2>&1 || true
		mount=$(ctr_ overlayfs snapshots --snapshotter overlayfs mounts /x "probe-$try" 2>/dev/null) || continue
		ctr_ overlayfs snapshots --snapshotter overlayfs rm "probe-$try" 2>/dev/null || true
		sed -E 's/.*(lowerdir=|-t bind )([^:, ]+).*/\2/' <<<"$mount"
		return
	done
	fail "containerd has no snapshot $1"
}

# Times that containerd did not take from the tar (of made parents, whiteouts, the root) are those of the unpacking: they
# go from both listings.
without_new_times() { # LISTING OTHER
	awk -v start="$START" '
		FNR == 1 { file++ }
		file == 1 { if (match($0, / mtime=[0-9]+/) && substr($0, RSTART + 7, RLENGTH - 7) >= start) new[$1] = 1; next }
		{ if ($1 in new) sub(/ mtime=[^ ]*/, ""); print }' "$1" "$2"
}

compare() { # TAG DIGEST CHAIN EXPECT
	local theirs=$WORK/theirs ours=$WORK/ours hex=${2#sha256:} dir
	dir=$(unpacked "$3")
	"$TREEDIFF" --list "$dir" >"$theirs"
	if [ "$4" = hidden ]; then # the last line counts the others
		sed -E '/^(\/(stargz\.index\.json|\.prefetch\.landmark|\.no\.prefetch\.landmark) |=)/d' "$theirs" >"$theirs.hidden"
		echo "=$(grep -c '^/' "$theirs.hidden")" >>"$theirs.hidden"
		mv "$theirs.hidden" "$theirs"
	fi
	"$TREEDIFF" --list "$MOUNT_BASE/$FQRN/.layers/${hex:0:2}/$hex/layerfs" >"$ours"
	without_new_times "$theirs" "$theirs" >"$theirs.fixed"
	without_new_times "$theirs" "$ours" >"$ours.fixed"
	"$TREEDIFF" "$theirs.fixed" "$ours.fixed" >"$WORK/differences" ||
		fail "$1, layer ${hex:0:12}, containerd | repository: $(head -n 40 "$WORK/differences")"
	say "  $1, layer ${hex:0:12}: $(grep -c '^/' "$theirs") entries equal"
}

compare_layout() { # LAYOUT-TABLE
	local tag expect digest chain
	while IFS=$'\t' read -r tag expect digest chain; do
		[ "$expect" = refused ] || compare "$tag" "$digest" "$chain" "$expect"
	done <"$1"
}

# The same table for an image that somebody else made.
table_of() { # LAYOUT TAG NAME
	local config chain='' id digest
	config=$(manifest "$1" "$2" | jq -r .config.digest)
	paste <(manifest "$1" "$2" | jq -r '.layers[].digest') <(jq -r '.rootfs.diff_ids[]' "$1/blobs/sha256/${config#sha256:}") |
		while read -r digest id; do
			if [ -n "$chain" ]; then chain=sha256:$(printf '%s %s' "$chain" "$id" | sha256sum | cut -d' ' -f1); else chain=$id; fi
			printf '%s\tsame\t%s\t%s\n' "$3" "$digest" "$chain"
		done
}

registry_start
push_pause
containerd_start overlayfs
repo_init
cp "$WORK/storage/cvmfs/$FQRN/.cvmfspublished" "$WORK/before"

say "layers that containerd refuses"
for tag in $(awk -F'\t' '$2 == "refused" { print $1 }' "$LAYOUT/layers.tsv" | uniq); do
	push "$LAYOUT:$tag" "corners:$tag"
	! pull "corners:$tag" || fail "$tag: containerd takes it"
	! try_convert "oci:$LAYOUT:$tag" || fail "$tag: converted"
	say "  $tag: $(tail -n 1 "$WORK/convert.out" | sed 's/.*: layer sha256:[0-9a-f]*: //' | cut -c 1-80)"
done
cmp -s "$WORK/storage/cvmfs/$FQRN/.cvmfspublished" "$WORK/before" || fail "something was published"

say "layers that containerd unpacks"
for tag in $(awk -F'\t' '$2 != "refused" { print $1 }' "$LAYOUT/layers.tsv" | uniq); do
	push "$LAYOUT:$tag" "corners:$tag"
	pull "corners:$tag" || fail "$tag: containerd: $(tail -n 2 "$WORK/pull.out")"
	try_convert "oci:$LAYOUT:$tag" || fail "$tag: $(tail -n 2 "$WORK/convert.out")"
	verify "oci:$LAYOUT:$tag"
done
say "an image of no layers"
try_convert "oci:$LAYOUT:none" || fail "none: $(tail -n 2 "$WORK/convert.out")"
verify "oci:$LAYOUT:none"
EDGE=$LM_IMAGES/oci-edge
if [ -e "$EDGE/index.json" ] && [ -z "${LM_SANITIZED:-}" ]; then
	push "$EDGE:latest" edge:latest
	pull edge:latest || fail "edge: containerd: $(tail -n 2 "$WORK/pull.out")"
	convert "oci:$EDGE:latest"
	verify "oci:$EDGE:latest"
	table_of "$EDGE" latest edge >"$WORK/edge.tsv"
fi
serve_start
fetcher_start
compare_layout "$LAYOUT/layers.tsv"
[ ! -e "$WORK/edge.tsv" ] || compare_layout "$WORK/edge.tsv"
check_reports
say "all layers equal"
