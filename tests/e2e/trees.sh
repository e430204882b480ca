#!/usr/bin/env bash
# Trees for the kernel: an EROFS image above the layers as data shows what an overlay of the layers shows, large files by itself; made
# once, the same bytes again, gone with the image, and left out where stock tools wrote a layer.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need docker-registry skopeo jq tar setfattr getfattr fusermount3 losetup
need_built "$ALONE" "$TREEDIFF" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
IMAGES=(tiny)
[ -n "${LM_SANITIZED:-}" ] || IMAGES+=(edge)
[ -z "$LM_ALL" ] || IMAGES+=(analysis)
need_image "${IMAGES[@]}"
isolate trees
MNT=$WORK/mnt
mkdir -p "$MNT" "$WORK"/{meta,seen,expected,files}

lamella() { # COMMAND ARGUMENT...: of the repository
	"$LAMELLA" "$@" --repo "$FQRN" --storage "$WORK/storage" >"$WORK/out" 2>"$WORK/err" ||
		fail "lamella $*: $(tail -n 3 "$WORK/err")"
}
revision() { "$LAMELLA" repo info "$FQRN" --storage "$WORK/storage" --json | jq .revision; }
layers_of() { manifest "$1" latest | jq -r '.layers[].digest'; } # LAYOUT: the lowest first
tree_of() { # DIGESTS, a line each
	local hex
	hex=$(sha256sum <<<"$1" | cut -d' ' -f1)
	echo ".lamella/trees/${hex:0:2}/$hex"
}
tree_row() { # FQRN STORAGE DIGESTS: time, content and catalog of the file, where it is
	"$LAMELLA" inspect tree "$1" --storage "$2" --raw | awk -v p="/$(tree_of "$3")/tree" '$NF == p { print $5, $6, $10 }' | grep . &&
		"$LAMELLA" inspect catalog "$1" "/$(tree_of "$3")" --storage "$2" --json | jq -r .catalog
}
report() { tail -n 1 "$WORK/out" | jq -c "$1"; } # JQ-PROGRAM

say "conversion"
repo_init
for i in "${IMAGES[@]}"; do
	lamella convert "oci:$LM_IMAGES/oci-$i" --dry-run --name "registry.example.org/$i:1" --json
	[ "$(report '.images[0].tree')" = true ] || fail "the plan: $(cat "$WORK/out")"
	lamella convert "oci:$LM_IMAGES/oci-$i" --name "registry.example.org/$i:1" --json
	[ "$(report '.images[0].tree | .made and .entries > 1000 and .bytes > .bytes_stored and .impossible == null')" = true ] ||
		fail "the report: $(cat "$WORK/out")"
done

say "the same again: nothing is written"
before=$(revision)
lamella convert "oci:$LM_IMAGES/oci-tiny" --name registry.example.org/tiny:1 --json
[[ $(report '.images[0].tree.made') = false && $(revision) = "$before" ]] || fail "made twice: $(cat "$WORK/out")"
lamella convert "oci:$LM_IMAGES/oci-tiny" --name registry.example.org/tiny:1 --dry-run --json
[ "$(report '.changed, .images[0].tree' | tr '\n' ' ')" = "false false " ] || fail "the plan: $(cat "$WORK/out")"

say "without, and later"
echo alone >"$WORK/files/alone"
setfattr -n user.colour -v blue "$WORK/files/alone"
tar -C "$WORK/files" --xattrs --owner=0 --group=0 -cf "$WORK/tmp/a.tar" .
make_layout "$WORK/oci-a" "$WORK/tmp/a.tar" /none
lamella convert "oci:$WORK/oci-a" --name registry.example.org/a:1 --no-trees --json
[ "$(report '.images[0].tree.made')" = false ] || fail "made unasked"
lamella images --json
jq -e '[.images[] | .tree == (.name != "registry.example.org/a:1")] | length > 1 and all' "$WORK/out" >/dev/null || fail "images: $(cat "$WORK/out")"
touch "$WORK/tmp/before"
lamella convert "oci:$WORK/oci-a" --name registry.example.org/a:1
object=$(find "$WORK/storage/cvmfs/$FQRN/data" -type f ! -name '*[A-Z]' -newer "$WORK/tmp/before")
grep -q '^  tree for kernels  1 entries' "$WORK/out" || fail "made later: $(cat "$WORK/out")"

say "none where a layer looks as stock tools write them"
mkdir "$WORK/marked"
: >"$WORK/marked/.cvmfscatalog"
tar -C "$WORK/marked" --owner=0 --group=0 -cf "$WORK/tmp/m.tar" .
make_layout "$WORK/oci-m" "$WORK/tmp/m.tar" /none
lamella convert "oci:$WORK/oci-m" --name registry.example.org/m:1 --strict
grep -q '^  no tree for kernels: .*stock tools' "$WORK/out" || fail "not said: $(cat "$WORK/out")"
lamella convert "oci:$WORK/oci-m" --name registry.example.org/m:1 --json
[ "$(report '.images[0].tree | .made, (.impossible | length > 0)' | tr '\n' ' ')" = "false true " ] || fail "not said: $(cat "$WORK/out")"
lamella convert "oci:$WORK/oci-m" --name registry.example.org/m:1 --dry-run
grep -q ': unchanged$' "$WORK/out" || fail "the plan: $(cat "$WORK/out")"
lamella rm registry.example.org/m:1 --now

say "an image that fails leaves none"
# An index of two platforms; the second one's layer is not there.
again() { # LAYOUT JQ-PROGRAM: changes the config of its image; prints the descriptor
	local m config
	m=$(jq -r '.manifests[0].digest | ltrimstr("sha256:")' "$1/index.json")
	config=$(jq -r '.config.digest | ltrimstr("sha256:")' "$1/blobs/sha256/$m")
	jq -c "$2" "$1/blobs/sha256/$config" >"$1/tmp"
	config=$(blob "$1" "$1/tmp" application/vnd.oci.image.config.v1+json)
	jq -c --argjson c "$config" '.config = $c' "$1/blobs/sha256/$m" >"$1/tmp"
	blob "$1" "$1/tmp" application/vnd.oci.image.manifest.v1+json
}
layout_of() { # LAYOUT DESCRIPTOR...: the layout's only image is an index of these
	local layout=$1
	shift
	jq -nc '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: $ARGS.positional}' --jsonargs "$@" >"$layout/tmp"
	blob "$layout" "$layout/tmp" application/vnd.oci.image.index.v1+json |
		jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$layout/index.json"
}
for i in c d; do
	echo $i >"$WORK/tmp/$i"
	tar -C "$WORK/tmp" --owner=0 --group=0 -cf "$WORK/tmp/$i.tar" $i
	make_layout "$WORK/oci-$i" "$WORK/tmp/$i.tar" /none
done
good=$(layers_of "$WORK/oci-c") bad=$(layers_of "$WORK/oci-d")
c=$(again "$WORK/oci-c" '.architecture = "amd64"')
d=$(again "$WORK/oci-d" '.architecture = "arm64"')
cp -n "$WORK"/oci-d/blobs/sha256/* "$WORK/oci-c/blobs/sha256/"
layout_of "$WORK/oci-c" "$(jq -c '.platform = {os: "linux", architecture: "amd64"}' <<<"$c")" "$(jq -c '.platform = {os: "linux", architecture: "arm64"}' <<<"$d")"
registry_start
push_all() { skopeo copy -q --all --preserve-digests --dest-tls-verify=false "oci:$1" "docker://$REGISTRY/$2"; } # LAYOUT NAME:TAG
push_all "$WORK/oci-c:latest" two:1
push "$LM_IMAGES/oci-tiny:latest" tiny:1
blob=$WORK/registry/docker/registry/v2/blobs/sha256/${bad:7:2}/${bad:7}/data
cp "$blob" "$WORK/tmp/blob"
: >"$blob"
cat >"$WORK/wishes.yaml" <<-END2
	version: 2
	repositories:
	  - repository: $FQRN
	    images:
	      - {image: 'http://$REGISTRY/two:1', platform: all}
	      - 'http://$REGISTRY/tiny:1'
END2
! "$LAMELLA" sync "$WORK/wishes.yaml" >"$WORK/out" 2>&1 || fail "an image whose layer is damaged"
grep -q '1 image new' "$WORK/out" || fail "sync: $(cat "$WORK/out")"
has_tree() { [ -n "$(tree_row "$FQRN" "$WORK/storage" "$1")" ]; } # LAYERS, from the lowest on
! has_tree "$good" || fail "a tree of an image that failed"
cp "$WORK/tmp/blob" "$blob"
"$LAMELLA" sync "$WORK/wishes.yaml" >"$WORK/out" 2>&1 || fail "sync: $(cat "$WORK/out")"
{ has_tree "$good" && has_tree "$bad"; } || fail "no trees by the wish list"

say "another repository has the same bytes"
"$LAMELLA" repo init other.lamella.test --storage "$WORK/storage2" --keys "$WORK/keys2" >/dev/null
"$LAMELLA" convert "oci:$LM_IMAGES/oci-tiny" --repo other.lamella.test --storage "$WORK/storage2" >/dev/null || fail "other.lamella.test"
tiny=$(layers_of "$LM_IMAGES/oci-tiny")
row=$(tree_row "$FQRN" "$WORK/storage" "$tiny")
[ -n "$row" ] || fail "no tree of tiny"
[ "$row" = "$(tree_row other.lamella.test "$WORK/storage2" "$tiny")" ] || fail "other bytes"

say "verify, check"
lamella verify "oci:$WORK/oci-a" --name registry.example.org/a:1 --json
[ "$(jq -c '[.equal, .metadata.entries]' "$WORK/out")" = '[true,4]' ] || fail "verify: $(cat "$WORK/out")"
mv "$object" "$WORK/tmp/object"
! "$LAMELLA" verify "oci:$WORK/oci-a" --name registry.example.org/a:1 --repo "$FQRN" --storage "$WORK/storage" --json >"$WORK/out" 2>/dev/null ||
	fail "a tree that is not there is equal"
jq -e '.differences == 1 and (.metadata.findings[0].path | test("^/.lamella/trees/.*/tree$"))' "$WORK/out" >/dev/null || fail "verify: $(cat "$WORK/out")"
mv "$WORK/tmp/object" "$object"
# A program whose trees have another form.
LC_ALL=C sed 's/lamella form %d/lamella form 77/' "$LAMELLA" >"$WORK/tmp/lamella" && chmod +x "$WORK/tmp/lamella"
! cmp -s "$LAMELLA" "$WORK/tmp/lamella" || fail "the form is not where it was"
lamella rm registry.example.org/a:1 --now
LAMELLA=$WORK/tmp/lamella lamella convert "oci:$WORK/oci-a" --name registry.example.org/a:1
lamella verify "oci:$WORK/oci-a" --name registry.example.org/a:1 --json
[ "$(jq -c '[.equal, .differences, .uncompared, .metadata.entries, .metadata.findings[].kind]' "$WORK/out")" = '[true,0,1,3,"uncompared"]' ] ||
	fail "verify, another form: $(cat "$WORK/out")"
lamella verify "oci:$WORK/oci-a" --name registry.example.org/a:1
grep -q '^  not compared /.lamella/trees/.*: made by another version of this program: it has form 77' "$WORK/out" || fail "verify: $(cat "$WORK/out")"
grep -q '^equal, .*, 1 files not compared' "$WORK/out" || fail "verify: $(cat "$WORK/out")"
LAMELLA=$WORK/tmp/lamella lamella verify "oci:$WORK/oci-a" --name registry.example.org/a:1 --json
jq -e '.equal and .uncompared == 1' "$WORK/out" >/dev/null || fail "read as form 1, whatever made it: $(cat "$WORK/out")"
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --objects >"$WORK/out" || fail "check: $(cat "$WORK/out")"

say "removal"
alone=$(layers_of "$WORK/oci-a")
again "$WORK/oci-a" '.author = "somebody else"' |
	jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$WORK/tmp/index"
cp "$WORK/tmp/index" "$WORK/oci-a/index.json"
lamella convert "oci:$WORK/oci-a" --name registry.example.org/a:2 --json
[ "$(report '.images[0].tree.made')" = false ] || fail "another config, another tree: $(cat "$WORK/out")"
lamella rm registry.example.org/a:1 --now --json
[ "$(jq -c '[(.images | length), (.trees | length)]' "$WORK/out")" = '[1,0]' ] || fail "another image has it: $(cat "$WORK/out")"
has_tree "$alone" || fail "the tree of another image went"
lamella rm registry.example.org/a:2 --dry-run --now --json
[ "$(jq -c '[.dry_run, (.trees | length)]' "$WORK/out")" = '[true,1]' ] || fail "dry run: $(cat "$WORK/out")"
lamella rm registry.example.org/a:2 --grace 7
has_tree "$alone" || fail "gone before its time"
lamella convert "oci:$WORK/oci-a" --name registry.example.org/a:2
lamella rm registry.example.org/a:2 --now
grep -q ' 1 trees for kernels removed$' "$WORK/out" || fail "removal: $(cat "$WORK/out")"
! has_tree "$alone" || fail "still there"
has_tree "$tiny" || fail "another image's tree went"
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --objects >"$WORK/out" || fail "check: $(cat "$WORK/out")"

say "large files"
# Hard-linked, equal, of whole blocks, replaced, deleted in both ways, a database, and one that is read where the layers are.
make_layers() { # LAYOUT TAR...: the lowest first
	local layout=$1 tar t=application/vnd.oci.image ids=() layers=()
	shift
	for tar; do
		ids+=("sha256:$(sha256sum "$tar" | cut -d' ' -f1)")
		layers+=("$(blob "$layout" "$tar" $t.layer.v1.tar)")
	done
	jq -nc '{architecture: "amd64", os: "linux", rootfs: {type: "layers", diff_ids: $ARGS.positional}}' --args "${ids[@]}" >"$layout/tmp"
	blob "$layout" "$layout/tmp" $t.config.v1+json >"$layout/config"
	jq -nc --argjson c "$(cat "$layout/config")" --arg t $t.manifest.v1+json \
		'{schemaVersion: 2, mediaType: $t, config: $c, layers: $ARGS.positional}' --jsonargs "${layers[@]}" >"$layout/tmp"
	blob "$layout" "$layout/tmp" $t.manifest.v1+json |
		jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$layout/index.json"
	echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
}
LOW=$WORK/low UP=$WORK/up
mkdir -p "$LOW"/{large,other,gone} "$UP"/{large,gone} "$WORK/oci-l"
random() { head -c "$2" /dev/urandom >"$1"; } # FILE BYTES
random "$LOW/large/one" 3000001
setfattr -n user.colour -v red "$LOW/large/one"
ln "$LOW/large/one" "$LOW/large/two"
ln "$LOW/large/one" "$LOW/other/three"
cp "$LOW/large/one" "$LOW/large/same"
chmod 4755 "$LOW/large/same"
random "$LOW/large/blocks" 1048576
random "$LOW/large/replaced" 1500000
random "$LOW/large/deleted" 700000
random "$LOW/gone/below" 2000000
{ printf 'SQLite format 3\0' && head -c 1000000 /dev/urandom; } >"$LOW/large/database"
random "$LOW/large/small" 500000
random "$UP/large/replaced" 900000
: >"$UP/large/.wh.deleted"
: >"$UP/large/.wh.two"
: >"$UP/gone/.wh..wh..opq"
random "$UP/gone/new" 524289
tar -C "$LOW" --xattrs --owner=0 --group=0 -cf "$WORK/tmp/low.tar" .
tar -C "$UP" --owner=0 --group=0 -cf "$WORK/tmp/up.tar" .
make_layers "$WORK/oci-l" "$WORK/tmp/low.tar" "$WORK/tmp/up.tar"
lamella convert "oci:$WORK/oci-l" --name registry.example.org/l:1 --json
extent() { echo $(($1 - $1 % 4096 + 4096)); } # BYTES: with the zeros behind them
expected=$((4096 + $(extent 3000001) + $(extent 1048576) + $(extent 900000) + $(extent 524289) + $(extent 1000016)))
[ "$(report '.images[0].tree | .made, .content_bytes, .bytes_stored < 20000' | tr '\n' ' ')" = "true $expected true " ] ||
	fail "the report: $(cat "$WORK/out"), instead of $expected bytes"
lamella convert "oci:$WORK/oci-l" --name registry.example.org/l:1 --dry-run --json
[ "$(report .changed)" = false ] || fail "the plan: $(cat "$WORK/out")"
large=$(layers_of "$WORK/oci-l")
"$LAMELLA" convert "oci:$WORK/oci-l" --repo other.lamella.test --storage "$WORK/storage2" >/dev/null || fail "other.lamella.test"
[ "$(tree_row "$FQRN" "$WORK/storage" "$large")" = "$(tree_row other.lamella.test "$WORK/storage2" "$large")" ] || fail "other bytes"
[ "$(tree_row "$FQRN" "$WORK/storage" "$large" | wc -l)" = 2 ] || fail "no tree of large files"
lamella verify "oci:$WORK/oci-l" --name registry.example.org/l:1 --json
jq -e '.equal and .uncompared == 0' "$WORK/out" >/dev/null || fail "verify: $(cat "$WORK/out")"

say "what the tree names outlives the garbage"
lamella convert "oci:$WORK/oci-c" --name registry.example.org/c:1
lamella rm registry.example.org/c:1 --now
lamella convert "oci:$WORK/oci-a" --name registry.example.org/a:3
"$LAMELLA" repo gc "$FQRN" --storage "$WORK/storage" --keep-days 0 --json >"$WORK/out" || fail "gc: $(cat "$WORK/out")"
jq -e '[.. | numbers] | add > 0' "$WORK/out" >/dev/null || fail "nothing was garbage: $(cat "$WORK/out")"
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --objects >"$WORK/out" || fail "check: $(cat "$WORK/out")"

# --- what is seen ---

serve_start
"$LAMELLA" mount "$FQRN" "$MNT" --url "http://$WEB/cvmfs/@fqrn@" --key "$WORK/keys/$FQRN.pub" --cache "$WORK/cache" 2>"$WORK/log/mount.log" ||
	fail "mount: $(cat "$WORK/log/mount.log")"
[ "$(stat -c '%a %U %h' "$MNT/$(tree_of "$tiny")/tree")" = "444 root 1" ] || fail "$(stat "$MNT/$(tree_of "$tiny")/tree")"
[ "$(ls -A "$MNT/$(tree_of "$tiny")")" = tree ] || fail "beside it: $(ls -A "$MNT/$(tree_of "$tiny")")"

# The kernel's own view of an image; METACOPY where it is too old to go without.
METACOPY=''
show() { # LAYOUT
	mount_erofs "$MNT/$(tree_of "$(layers_of "$1")")/tree" "$WORK/meta" || fail "mount of the tree of $1"
	mount -t overlay overlay -o "ro,xino=on${METACOPY},lowerdir=$WORK/meta::$MNT/.layers" "$WORK/seen"
}
unshow() {
	umount "$WORK/seen"
	umount "$WORK/meta"
}
expect() { # LAYOUT: an overlay of its layers
	local dirs='' digest
	for digest in $(layers_of "$1"); do
		digest=${digest#sha256:}
		dirs=$MNT/.layers/${digest:0:2}/$digest/layerfs${dirs:+:$dirs}
	done
	mkdir -p "$WORK/empty"
	mount -t overlay overlay -o "ro,xino=on,lowerdir=$dirs:$WORK/empty" "$WORK/expected"
}
possible() {
	local way
	grep -qw erofs /proc/filesystems || modprobe erofs 2>/dev/null || { echo "no erofs in this kernel"; return 1; }
	losetup -f >/dev/null 2>&1 || { echo "no loop devices"; return 1; }
	for way in '' ,metacopy=on; do
		METACOPY=$way
		if show "$WORK/oci-a" 2>/dev/null && cmp -s "$WORK/files/alone" "$WORK/seen/alone"; then
			unshow
			return 0
		fi
		umount "$WORK/seen" 2>/dev/null || true
		umount "$WORK/meta" 2>/dev/null || true
	done
	echo "no data-only layers in this kernel ($(uname -r))"
	return 1
}

possible >"$WORK/why" || {
	[ -s "$WORK/why" ] || fail "the kernel does not take the tree"
	say "nothing is mounted: $(cat "$WORK/why")"
	umount "$MNT"
	check_reports
	skip "$(cat "$WORK/why")"
}

say "the tree of a container"
[ "$(getfattr -n user.colour --only-values "$MNT/.layers"/*/*/layerfs/alone)" = blue ] || fail "the attribute in the layer"
for layout in "${IMAGES[@]/#/$LM_IMAGES/oci-}" "$WORK/oci-l"; do
	show "$layout"
	expect "$layout"
	"$TREEDIFF" "$WORK/expected" "$WORK/seen" >"$WORK/differences" ||
		fail "$layout: $(wc -l <"$WORK/differences") differences: $(head -n 30 "$WORK/differences")"
	say "  ${layout##*/oci-}: $(find "$WORK/seen" -mindepth 1 | wc -l) entries"
	umount "$WORK/expected"
	unshow
done

say "large files are in the tree itself"
show "$WORK/oci-l"
umount "$WORK/seen"
for file in large/one other/three large/same large/blocks large/database; do
	cmp "$LOW/$file" "$WORK/meta/$file" || fail "$file"
	! getfattr --absolute-names -n trusted.overlay.redirect "$WORK/meta/$file" >/dev/null 2>&1 || fail "$file leads elsewhere"
done
cmp "$UP/large/replaced" "$WORK/meta/large/replaced" || fail "replaced"
cmp "$UP/gone/new" "$WORK/meta/gone/new" || fail "gone/new"
for file in gone/below large/two large/deleted; do [ ! -e "$WORK/meta/$file" ] || fail "$file is still there"; done
getfattr --absolute-names -n trusted.overlay.redirect "$WORK/meta/large/small" >/dev/null || fail "a small file leads nowhere"
mkdir -p "$WORK/large"/{upper,work}
mount -t overlay overlay -o "xino=on${METACOPY},lowerdir=$WORK/meta::$MNT/.layers,upperdir=$WORK/large/upper,workdir=$WORK/large/work" "$WORK/seen"
echo more >>"$WORK/seen/other/three"
[ "$(cat "$LOW/large/one" <(echo more) | sha256sum)" = "$(sha256sum <"$WORK/seen/other/three")" ] || fail "after a change"
chmod 600 "$WORK/seen/large/blocks"
cmp "$LOW/large/blocks" "$WORK/seen/large/blocks" || fail "after a change of its mode"
cmp "$LOW/large/database" "$WORK/seen/large/database" || fail "the database"
unshow

say "an upper directory above it"
mkdir -p "$WORK"/{upper,work}
show "$WORK/oci-a"
umount "$WORK/seen"
mount -t overlay overlay -o "xino=on${METACOPY},lowerdir=$WORK/meta::$MNT/.layers,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/seen"
echo more >>"$WORK/seen/alone"
[ "$(cat "$WORK/seen/alone")" = $'alone\nmore' ] || fail "after a change: $(cat "$WORK/seen/alone")"
[ "$(getfattr -n user.colour --only-values "$WORK/upper/alone")" = blue ] || fail "the attribute of a changed file"
unshow
umount "$MNT"
check_reports
