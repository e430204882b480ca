#!/usr/bin/env bash
# `lamella convert`: from a registry and from layouts, all compressions; again without a download; several images in one
# revision; damaged, mislabelled and inexpressible layers; killed half-way.
# time limit: 300 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need docker-registry skopeo jq python3 tar setfattr
need_root
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
need_image tiny
isolate convert

export LAMELLA_CONFIG_DIR=$WORK/config
TINY=$LM_IMAGES/oci-tiny
REPO=$WORK/storage/cvmfs/$FQRN

run_convert() { # ARGUMENT...: exit code in $CODE, what it said in $WORK/{out,err}
	CODE=0
	"$LAMELLA" convert "$@" --repo "$FQRN" >"$WORK/out" 2>"$WORK/err" || CODE=$?
	{ echo "--- convert $*" && cat "$WORK/out" "$WORK/err"; } >>"$WORK/log/convert.log"
	[ "$1" != --json ] || sed -i '$!d' "$WORK/out" # the report, without the events before it
}
expect() { # CODE PATTERN ARGUMENT...
	local code=$1 pattern=$2
	shift 2
	run_convert "$@"
	[ $CODE = "$code" ] || fail "convert $*: exit code $CODE instead of $code"
	grep -qE "$pattern" "$WORK/out" "$WORK/err" || fail "convert $*: does not say '$pattern'"
}
mark() { cp "$REPO/.cvmfspublished" "$WORK/published"; }
unchanged() { cmp -s "$REPO/.cvmfspublished" "$WORK/published" || fail "$1: something was published"; }
revision() { "$LAMELLA" repo info "$FQRN" --json | jq .revision; }

registry_start
repo_init
push "$TINY:latest" tiny:latest
push "$TINY:zstd" lib/tiny:zstd

say "wrong usage"
expect 2 'SOURCE and --repo' --json
expect 2 'single SOURCE' --name a/b:c "oci:$TINY" "oci:$TINY:zstd"
expect 2 'OS/ARCH' --platform linux "oci:$TINY"
expect 2 'unrecognized option' --nonsense "oci:$TINY"
expect 2 'oci-' "tape:$TINY"
expect 1 'nowhere' "oci:$WORK/nowhere"
expect 1 'no-such-tag' "oci:$TINY:no-such-tag"
expect 1 'tiny' "docker://$REGISTRY/tiny:no-such-tag"
[ "$(revision)" = 1 ] || fail "published by mistake"

say "killed half-way"
mark
for delay in 0.05 0.3 1; do
	"$LAMELLA" convert "oci:$TINY:latest" --repo "$FQRN" >/dev/null 2>&1 &
	sleep "$delay"
	kill -9 $! 2>/dev/null || true
	wait $! 2>/dev/null || true
done
unchanged "a killed convert"

say "from a registry"
registry_mark
expect 0 '2 of 2 layers converted' "docker://$REGISTRY/tiny:latest"
[ "$(registry_layer_requests "$TINY" | wc -l)" = 2 ] || fail "layers fetched: $(registry_layer_requests "$TINY")"
[ "$(revision)" = 2 ] || fail "revision $(revision)"
[ -z "$(ls "$REPO/data/txn")" ] || fail "left behind: $(ls "$REPO/data/txn")"

say "again: no layer is fetched, nothing changes"
mark
registry_mark
expect 0 'nothing changed: revision 2' "docker://$REGISTRY/tiny:latest"
[ -z "$(registry_layer_requests "$TINY")" ] || fail "layers fetched again: $(registry_layer_requests "$TINY")"
digest=$(manifest "$TINY" latest | sha256sum | cut -d' ' -f1)
expect 0 'nothing changed' "docker://$REGISTRY/tiny@sha256:$digest" --name "$REGISTRY/tiny:latest"
unchanged "a second convert"

say "several images in one revision, by tag, by digest, under another name"
digest=$(manifest "$TINY" zstd | sha256sum | cut -d' ' -f1)
run_convert --json "docker://$REGISTRY/lib/tiny@sha256:$digest" "oci:$TINY:latest" "oci:$TINY:zstd"
jq -e '.revision == 3 and .changed and (.images | length) == 3 and ([.images[].layers[].state] == ["converted", "converted",
	"present", "present", "present", "present"])' "$WORK/out" >/dev/null || fail "the report: $(cat "$WORK/out")"
jq -e '[.images[0].layers[] | .objects_stored <= 2] | all' "$WORK/out" >/dev/null || fail "the same content was stored twice"
expect 0 'revision 4 published' "oci:$TINY:zstd" --name registry.example.org/a/b/tiny:2.0

say "no compression"
mkdir "$WORK/tree"
echo hello >"$WORK/tree/file"
tar -C "$WORK/tree" -cf "$WORK/tmp/tree.tar" file
make_layout "$WORK/oci-plain" "$WORK/tmp/tree.tar" /file
expect 0 'revision 5 published' "oci:$WORK/oci-plain"
mark

say "a damaged layer"
cp -r "$TINY" "$WORK/oci-bad"
layer=$(manifest "$TINY" latest | jq -r '.layers[1].digest')
damage() { # BLOB: one bit of it
	python3 -c 'import sys; d = bytearray(open(sys.argv[1], "rb").read()); d[len(d) // 2] ^= 1; open(sys.argv[1], "wb").write(d)' "$1"
}
fresh_repo() { # a repository without tiny's layers
	rm -rf "$WORK/storage" "$WORK/keys" "$LAMELLA_CONFIG_DIR"
	repo_init
	mark
}
mv "$WORK/storage" "$WORK/storage.good"
mv "$WORK/keys" "$WORK/keys.good"
fresh_repo
damage "$WORK/oci-bad/blobs/sha256/${layer#sha256:}"
expect 1 "layer $layer: " "oci:$WORK/oci-bad:latest"
truncate -s -100 "$WORK/oci-bad/blobs/sha256/${layer#sha256:}"
expect 1 "$layer" "oci:$WORK/oci-bad:latest"
rm "$WORK/oci-bad/blobs/sha256/${layer#sha256:}"
expect 1 "${layer#sha256:}" "oci:$WORK/oci-bad:latest"
unchanged "a damaged layer"

say "a config that names other layers"
relabel() { # LAYOUT JQ-PROGRAM: a copy of oci-plain whose config is changed, and the digests above it with it
	local config
	cp -r "$WORK/oci-plain" "$1"
	config=$(manifest "$1" latest | jq -r .config.digest)
	jq -c "$2" "$1/blobs/sha256/${config#sha256:}" >"$1/tmp"
	config=$(blob "$1" "$1/tmp" application/vnd.oci.image.config.v1+json)
	manifest "$1" latest | jq -c --argjson c "$config" '.config = $c' >"$1/tmp"
	blob "$1" "$1/tmp" application/vnd.oci.image.manifest.v1+json |
		jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$1/index.new"
	mv "$1/index.new" "$1/index.json"
}
relabel "$WORK/oci-other" '.rootfs.diff_ids[0] = "sha256:" + ("0" * 64)'
expect 1 "diff id sha256:0000.*has sha256:" "oci:$WORK/oci-other"
relabel "$WORK/oci-fewer" '.rootfs.diff_ids = []'
expect 1 "oci-fewer" "oci:$WORK/oci-fewer"
unchanged "a wrong config"

say "what the format can't hold"
setfattr -n user.long -v "$(printf '%0300d' 0)" "$WORK/tree/file"
tar -C "$WORK/tree" --xattrs --format=posix -cf "$WORK/tmp/tree.tar" file
make_layout "$WORK/oci-long" "$WORK/tmp/tree.tar" /file
expect 1 'nothing published' "oci:$WORK/oci-long" --strict
grep -q '/file: attribute user.long left out: its value has 300 bytes' "$WORK/err" || fail "the loss is not named"
unchanged "--strict"
expect 0 'revision 2 published' "oci:$WORK/oci-long"
expect 0 'nothing changed' "oci:$WORK/oci-long" --strict # the layer is there, whatever it lacks

say "what readers see"
rm -rf "$WORK/storage" "$WORK/keys"
mv "$WORK/storage.good" "$WORK/storage"
mv "$WORK/keys.good" "$WORK/keys"
serve_start
fetcher_start
mnt=$MOUNT_BASE/$FQRN
for name in "$REGISTRY/tiny:latest" "localhost/oci-tiny:latest"; do
	cmp <(manifest "$TINY" latest) "$mnt/.metadata/$name/manifest.raw" || fail "$name: another manifest"
	config=$(manifest "$TINY" latest | jq -r .config.digest)
	cmp "$TINY/blobs/sha256/${config#sha256:}" "$mnt/.metadata/$name/config.raw" || fail "$name: another config"
	jq -e --arg d "$config" '.SchemaVersion == 2 and .Config.Digest == $d and (.Layers | length) == 2' \
		"$mnt/.metadata/$name/manifest.json" >/dev/null || fail "$name: manifest.json"
done
for name in "$REGISTRY/lib/tiny" localhost/oci-tiny:zstd registry.example.org/a/b/tiny:2.0 localhost/oci-plain:latest; do
	[ -e "$mnt/.metadata/$name/manifest.raw" ] || fail "no $name"
done
layers=$(manifest "$TINY" latest | jq -r '.layers[].digest' | cut -d: -f2)
for hex in $layers; do
	dir=$mnt/.layers/${hex:0:2}/$hex
	jq -e --arg d "sha256:$hex" '.[0]["compressed-diff-digest"] == $d' "$dir/.metadata/layers.json" >/dev/null || fail "layers.json"
	jq -e --arg d "$config" '.origin == [$d]' "$dir/.metadata/origin.json" >/dev/null || fail "origin.json"
	[ -d "$dir/layerfs" ] || fail "no layerfs"
	[ ! -e "$dir/layerfs/.cvmfscatalog" ] || fail "a marker inside the layer"
done
check_reports
say "converted, as it should be"
