#!/usr/bin/env bash
# Images without extended attributes come from a second mount, on which the kernel does not ask for them; opaque directories
# are no reason not to, since a directory of whiteouts below their layer does the same. Other images do not, not even in part, since an overlay over two of our file systems would not keep the inode number of a file that it copies up.
# time limit: 240 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need jq tar setfattr getfattr
CONTROL=$LM_BUILD/tests/tools/control
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$CONTROL"
[ -c /dev/fuse ] || skip "no /dev/fuse"
need_image tiny
isolate lean

# An image of one layer, its folder's content; prints the digest of the layer.
image() { # NAME
	tar -C "$WORK/$1" --xattrs --xattrs-include='*' --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" .
	make_layout "$WORK/oci-$1" "$WORK/tmp/layer.tar" /none
	convert "oci:$WORK/oci-$1:latest"
	manifest "$WORK/oci-$1" latest | jq -r '.layers[0].digest'
}
# The lowest layer of tiny, which has programs, and a volume; with DIR, its content above that.
base_and() { # LAYOUT [DIR]
	local layout=$1 t=application/vnd.oci.image id='' layer='' config
	cp -r "$LM_IMAGES/oci-tiny" "$layout"
	if [ $# = 2 ]; then
		tar -C "$2" --xattrs --xattrs-include='*' --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" .
		id=sha256:$(sha256sum "$WORK/tmp/layer.tar" | cut -d' ' -f1)
		layer=$(blob "$layout" "$WORK/tmp/layer.tar" $t.layer.v1.tar)
	fi
	manifest "$layout" latest >"$WORK/tmp/manifest"
	jq -c --arg id "$id" '.rootfs.diff_ids |= [.[0], $id | select(. != "")] | del(.history) | .config.Volumes = {"/etc/apt": {}}' \
		"$layout/blobs/sha256/$(jq -r '.config.digest | ltrimstr("sha256:")' "$WORK/tmp/manifest")" >"$WORK/tmp/config"
	config=$(blob "$layout" "$WORK/tmp/config" $t.config.v1+json)
	jq -c --argjson c "$config" --argjson l "[$layer]" '.config = $c | .layers |= .[:1] + $l' "$WORK/tmp/manifest" >"$WORK/tmp/new"
	blob "$layout" "$WORK/tmp/new" $t.manifest.v1+json |
		jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$layout/index.json"
}
path_of() { "$CONTROL" "$FETCHER_SOCKET" resolve "$1" | sed -n 's/^[^ ]* LAYER_FAITHFUL \([^ ]*\) .*/\1/p'; } # DIGEST
asked() { # KIND: how many such requests the kernel made
	"$LAMELLA" status --socket "$FETCHER_SOCKET" --json | jq ".repositories[0].kernel_requests[] | select(.kind == \"$1\").answered"
}
LEAN=$MOUNT_BASE/.lean/$FQRN WHOLE=$MOUNT_BASE/$FQRN
lean_of() { "$CONTROL" "$FETCHER_SOCKET" lean "$1" | cut -d' ' -f1; } # DIGEST
opaque_of() { "$CONTROL" "$FETCHER_SOCKET" lean "$1" | cut -d' ' -f2; } # DIGEST
has_none() { [[ $(lean_of "$1") == - ]]; } # DIGEST
is_mounted() { [ "$(findmnt -no SOURCE "$1")" = "$2" ]; } # DIR SOURCE

for name in without with deep; do
	mkdir -p "$WORK/$name/d"
	for i in {1..300}; do echo "$name $i" >"$WORK/$name/d/f$i"; done
done
setfattr -n user.colour -v blue "$WORK/with/d/f7"
# Its attribute lies in a nested catalog.
for i in {1..3000}; do : >"$WORK/deep/d/n$i"; done
setfattr -n user.colour -v red "$WORK/deep/d/n7"
repo_init
without=$(image without) with=$(image with) deep=$(image deep)
serve_start
fetcher_start

say "which layer comes from where"
is_mounted "$WHOLE" cvmfs2 || fail "$(findmnt)"
is_mounted "$LEAN" lamella || fail "$(findmnt)"
for digest in "$without" "$with" "$deep"; do
	[[ $(path_of "$digest") == "$WHOLE/.layers/"* ]] || fail "$digest: $(path_of "$digest")"
done
[[ $(lean_of "$without") == "$LEAN/.layers/"* ]] || fail "without: $(lean_of "$without")"
has_none "$with" || fail "with: $(lean_of "$with")"
has_none "$deep" || fail "deep: $(lean_of "$deep")"
[ "$(getfattr --only-values -n user.colour "$(path_of "$with")/d/f7")" = blue ] || fail "an attribute is lost"
[ "$(getfattr --only-values -n user.colour "$(path_of "$deep")/d/n7")" = red ] || fail "an attribute in a nested catalog is lost"

say "what an overlay asks for"
mkdir "$WORK"/{upper,work,root,empty}
mount -t overlay overlay -o "lowerdir=$(lean_of "$without"):$WORK/empty,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/root"
before=$(asked getxattr)
(cd "$WORK/root/d" && cat f{1..300} >/dev/null)
attributes=$(($(asked getxattr) - before))
[ $attributes -le 20 ] || fail "$attributes questions for attributes of 300 files"
cmp <(cat "$WORK"/without/d/*) <(cat "$WORK"/root/d/*) || fail "wrong bytes"
[ "$(stat -c %i "$(lean_of "$without")/d/f9")" = "$(stat -c %i "$(path_of "$without")/d/f9")" ] || fail "node numbers differ"
getfattr -d "$WORK/root/d/f9" || fail "attributes can't be listed"
umount "$WORK/root"

say "a new revision is there, too"
mkdir "$WORK/more" && echo new >"$WORK/more/new"
more=$(image more)
"$LAMELLA" update --socket "$FETCHER_SOCKET" >/dev/null
[ "$(cat "$(lean_of "$more")/new")" = new ] || fail "the lean mount shows another revision"
[ "$(cat "$(path_of "$more")/new")" = new ] || fail "the whole mount shows another revision"

say "containers: one of lean layers only, two with opaque directories, two with an attribute besides"
registry_start
push_pause
base_and "$WORK/oci-lean"
base_and "$WORK/oci-mixed" "$WORK/with"
# Hides a directory of the layer below, a file, and what is not there; inside of what hides already; where nothing hides beside it.
mkdir -p "$WORK"/opaque/{usr/share/doc/{new,apt},etc/issue,only/here/below,usr/bin}
for dir in usr/share/doc usr/share/doc/apt etc/issue only/here only/here/below; do : >"$WORK/opaque/$dir/.wh..wh..opq"; done
echo new | tee "$WORK"/opaque/{usr/share/doc/new/f,usr/share/doc/apt/f,etc/issue/f,only/here/below/f,usr/bin/new} >/dev/null
base_and "$WORK/oci-opaque" "$WORK/opaque"
cp -r "$WORK/opaque" "$WORK/both" && setfattr -n user.colour -v blue "$WORK/both/usr/bin/new"
base_and "$WORK/oci-both" "$WORK/both"
cp -r "$LM_IMAGES/oci-tiny" "$WORK/oci-tiny"
IMAGES=(lean opaque tiny mixed both)
for image in "${IMAGES[@]}"; do
	push "$WORK/oci-$image:latest" "$image:latest"
	convert "docker://$REGISTRY/$image:latest"
done
"$LAMELLA" update --socket "$FETCHER_SOCKET" >/dev/null
snapshotter_start LAMELLA_TREES=no
containerd_start lamella
lower_of() { # ID: where the layers of a container come from, each kind once
	local links
	links=$(sed -n 's/.* - overlay overlay .*lowerdir=\([^, ]*\).*/\1/p' "/proc/$(cri lamella pid "$1")/mountinfo" | sed -n 1p | tr ':' '\n')
	grep -v '/opaque$' <<<"$links" | xargs -n 1 readlink | sed "s,/.layers/.*,," | sort -u
}
# A name that a container makes of a file below is the same file.
check_link() { # ID
	# shellcheck disable=SC2016
	cri lamella exec "$1" sh -c 'ln /usr/bin/wc /usr/bin/wc2; set -- $(stat -c %i /usr/bin/wc /usr/bin/wc2); [ $1 = $2 ]' ||
		fail "two inode numbers of one file"
}
root_of() { echo "/proc/$(cri lamella pid "$1")/root"; } # ID
# All names of a container but those that it was given, with what their layers say of them.
listing() { # ID
	(cd "$(root_of "$1")" && find . -xdev -printf '%p %y %m %U %G %n %s %T@ %l\n') |
		grep -Ev '^\.(/dev|/etc|/proc|/sys|/etc/hostname|/etc/hosts|/etc/resolv.conf)? ' | LC_ALL=C sort
}
first() { manifest "$WORK/oci-$1" latest | jq -r ".layers[$2].digest"; } # IMAGE LAYER
for image in "${IMAGES[@]}"; do
	id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/$image:latest" sleep 3600)
	expected=$LEAN
	[[ $image != mixed && $image != both ]] || expected=$WHOLE
	[ "$(lower_of "$id")" = "$expected" ] || fail "$image: from $(lower_of "$id")"
	[ "$image" != tiny ] || listing "$id" >"$WORK/tmp/lean.tiny"
	check_link "$id"
	# What the image has there is copied when the container is made.
	[ "$image" = tiny ] || cri lamella exec "$id" sh -c 'grep -q " /etc/apt " /proc/mounts && test -d /etc/apt/sources.list.d' || fail "$image: no volume"
	case $image in
	mixed) cri lamella exec "$id" sh -c 'test -e /d/f7' || fail "the layer is not there" ;;
	opaque | both)
		# shellcheck disable=SC2016
		cri lamella exec "$id" sh -c 'set -e
			test "$(echo $(ls /usr/share/doc /usr/share/doc/apt))" = "/usr/share/doc: apt new /usr/share/doc/apt: f"
			test "$(ls /etc/issue)" = f; test "$(ls /only/here)" = below; test "$(cat /usr/bin/new)" = new
			rm -r /usr/share/doc && mkdir /usr/share/doc && test -z "$(ls /usr/share/doc)"' || fail "$image: other content"
		;;
	esac
	cri lamella rm "$id"
done
[[ $(opaque_of "$(first tiny 1)") == "$LEAN/.layers/"*/opaque ]] || fail "tiny: $(opaque_of "$(first tiny 1)")"
[ "$(opaque_of "$(first tiny 0)")" = - ] || fail "tiny: $(opaque_of "$(first tiny 0)")"
has_none "$(first both 1)" || fail "both: $(lean_of "$(first both 1)")"

say "what a container has written can be told from its image"
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/tiny:latest" sleep 3600)
[ "$(lower_of "$id")" = "$LEAN" ] || fail "from $(lower_of "$id")"
cri lamella exec "$id" sh -c 'echo written >/usr/written && touch /usr/bin/wc'
ctr_ lamella snapshots --snapshotter lamella diff "$id" | gzip -dc >"$WORK/tmp/diff.tar" || fail "no difference can be made"
tar -tf "$WORK/tmp/diff.tar" | LC_ALL=C sort | tr '\n' ' ' >"$WORK/tmp/changed"
grep -q 'usr/ usr/bin/ usr/bin/wc usr/written' "$WORK/tmp/changed" || fail "changed: $(cat "$WORK/tmp/changed")"
cri lamella rm "$id"

say "the same without what belongs below, which is made again"
find "$WORK/snapshotter/snapshots" -mindepth 2 -maxdepth 2 -name opaque -type d -print -exec rm -r {} + >"$WORK/tmp/removed" || true
grep -q . "$WORK/tmp/removed" || fail "nothing belongs below"
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/opaque:latest" sleep 3600)
[ "$(lower_of "$id")" = "$LEAN" ] || fail "from $(lower_of "$id")"
# shellcheck disable=SC2016
cri lamella exec "$id" sh -c 'test "$(ls /only/here)" = below && test "$(ls /etc/issue)" = f' || fail "other content"
cri lamella rm "$id"

say "where that can't be made, the whole one serves"
while read -r dir; do
	rm -rf "$dir"
	mkdir "$dir.new"
	mount -t tmpfs none "$dir.new" # in the way, and can't be removed
done <"$WORK/tmp/removed"
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/opaque:latest" sleep 3600)
[ "$(lower_of "$id")" = "$WHOLE" ] || fail "from $(lower_of "$id")"
# shellcheck disable=SC2016
cri lamella exec "$id" sh -c 'test "$(ls /only/here)" = below && test "$(ls /etc/issue)" = f' || fail "other content"
grep -q 'layers are used with their attributes' "$WORK/log/snapshotter.log" || fail "nothing was said"
cri lamella rm "$id"
while read -r dir; do umount "$dir.new"; done <"$WORK/tmp/removed"
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/opaque:latest" sleep 3600)
[ "$(lower_of "$id")" = "$LEAN" ] || fail "afterwards from $(lower_of "$id")"
cri lamella rm "$id"

say "taken away from outside, the whole one serves"
umount "$LEAN"
wait_for 10 "its end" has_none "$without"
cmp "$WORK/without/d/f1" "$(path_of "$without")/d/f1" || fail "wrong bytes"
sleep 3.5 # answers are kept for 3 s where containers start
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/lean:latest" sleep 3600)
[ "$(lower_of "$id")" = "$WHOLE" ] || fail "lean: from $(lower_of "$id")"
cri lamella rm "$id"
id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/tiny:latest" sleep 3600)
[ "$(lower_of "$id")" = "$WHOLE" ] || fail "tiny: from $(lower_of "$id")"
listing "$id" >"$WORK/tmp/whole.tiny"
diff "$WORK/tmp/lean.tiny" "$WORK/tmp/whole.tiny" || fail "tiny: another tree without attributes than with them"
[ "$(wc -l <"$WORK/tmp/lean.tiny")" -gt 8000 ] || fail "tiny: $(wc -l <"$WORK/tmp/lean.tiny") names"
cri lamella rm "$id"
stop containerd-lamella
stop snapshotter
stop fetcher

say "not where it is turned off"
fetcher_start LAMELLA_LEAN_MOUNTS=no
! findmnt "$LEAN" >/dev/null || fail "mounted all the same"
has_none "$without" || fail "$(lean_of "$without")"
stop fetcher
! findmnt "$WHOLE" >/dev/null || fail "still mounted"
check_reports
say passed
