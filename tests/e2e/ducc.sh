#!/usr/bin/env bash
# Layers that stock tools wrote into a repository, as containers see them: through snapshotter and containerd, an image is the
# same as after an ordinary pull, what these tools lose excepted; its deletions hold. The plain mount shows the repository as
# it is.
# time limit: 120 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/fixtures.bash
. "$(dirname "$0")/fixtures.bash"
need_containers
fixtures_open ducc

FQRN=unpacked.fixture.cern.ch
mkdir -p "$WORK/keys" "$WORK/oci" "$WORK/views"
cp "$FIXTURES/keys/$FQRN.pub" "$WORK/keys/"
tar -C "$WORK/oci" --strip-components=1 -xzf "$FIXTURES/oci-layout.tar.gz"
mapfile -t tags < <(jq -r '.manifests[].annotations["org.opencontainers.image.ref.name"]' "$WORK/oci/index.json")
[ ${#tags[@]} = 3 ] || fail "the fixture has ${#tags[@]} images"

# What stock tools keep: no owners, attributes, hard links, modes of symbolic links, nor times of what tar did not name.
kept() { # DIR
	"$TREEDIFF" --list "$1" | sed -E 's/ (uid|gid|nlink|mtime|links-with|device|xattr:[^ =]*)=[^ ]*//g; / type=l/s/ mode=[^ ]*//'
}

registry_start
i=0
for tag in "${tags[@]}"; do push "$WORK/oci:$tag" "image$((++i)):latest"; done
serve_start
fetcher_start
snapshotter_start
containerd_start overlayfs
containerd_start lamella

say "images by way of the repository, and by an ordinary pull"
i=0
for tag in "${tags[@]}"; do
	image=$REGISTRY/image$((++i)):latest
	registry_mark
	cri lamella pull "$image" >/dev/null || fail "pull of $tag"
	layers=$(registry_layer_requests "$WORK/oci")
	[ -z "$layers" ] || fail "$tag: layers were pulled: $layers"
	cri overlayfs pull "$image" >/dev/null || fail "ordinary pull of $tag"
	chain=$(chain_id "$WORK/oci" "$tag")
	mount_view lamella "$chain" "$WORK/views/lamella$i"
	mount_view overlayfs "$chain" "$WORK/views/overlayfs$i"
	kept "$WORK/views/overlayfs$i" >"$WORK/ordinary"
	kept "$WORK/views/lamella$i" >"$WORK/lazy"
	# An archive may say another mode with a hard link; of stock tools' separate files each has its own.
	"$TREEDIFF" --ignore /usr/bin/busy:mode --ignore /usr/bin/busy-link:mode "$WORK/ordinary" "$WORK/lazy" >"$WORK/diff" || fail "$tag: $(head -n 20 "$WORK/diff")"
	say "  $tag: $(grep -c '^/' "$WORK/lazy") entries alike"
done

say "the layers themselves"
M=$MOUNT_BASE/$FQRN
mapfile -t digests < <(cd "$M/.layers" && printf '%s\n' ??/*/layerfs | cut -d/ -f2)
"$CONTROL" "$FETCHER_SOCKET" resolve "${digests[@]/#/sha256:}" >"$WORK/out"
[ "$(grep -c "LAYER_LOSSY $M/.lamella-layers/.*/layerfs .*owners" "$WORK/out")" = ${#digests[@]} ] || fail "resolve: $(cat "$WORK/out")"
[ -z "$(cd "$M/.lamella-layers" && find . -name '.wh.*' -o -name .cvmfscatalog)" ] || fail "marks are shown"
[ "$(cd "$M/.lamella-layers" && find . -type c -printf '%f %m\n' | sort | paste -sd,)" = "null 666,removed-later 0,su 0" ] ||
	fail "devices: $(cd "$M/.lamella-layers" && find . -type c -ls)"
[ "$(stat -c %t:%T "$M"/.lamella-layers/cb/*/layerfs/etc/removed-later)" = 0:0 ] || fail "a deletion is no whiteout"
opaque=$(cd "$M/.lamella-layers" && find . -type d -exec getfattr -n trusted.overlay.opaque --only-values {} + 2>/dev/null) || true # not all have it
[ "$opaque" = y ] || fail "opaque directories: '$opaque'"
[[ $(ls -a "$M") != *lamella* ]] || fail "the view of layers is listed"
"$LISTING" "$M" | diff "$(last_listing $FQRN)" - >"$WORK/diff" || fail "the plain mount: $(head "$WORK/diff")"

say "the same where layers come from mounts that are there already"
looks_into() { # DIR: what is said of the layers there, in $WORK/out
	rm -f "$WORK/tmp/life"
	mkfifo "$WORK/tmp/life"
	# shellcheck disable=SC2016 # of that shell
	start look bash -c 'exec "$1" --look "path:$2" --address /run/lamella/look.sock <"$3"' - "$LM_BUILD/snapshotter/lamella-snapshotter" "$1" "$WORK/tmp/life"
	exec 9>"$WORK/tmp/life"
	wait_for 20 "who looks into $1" started look socket_open /run/lamella/look.sock
	"$CONTROL" /run/lamella/look.sock resolve "${digests[@]/#/sha256:}" >"$WORK/out" || fail "resolve: $(cat "$WORK/out")"
	exec 9>&-
	wait_for 10 "its end" ended look
}
looks_into "$M"
[ "$(grep -c "LAYER_LOSSY $M/.lamella-layers/.*/layerfs .*owners" "$WORK/out")" = ${#digests[@]} ] || fail "resolve: $(cat "$WORK/out")"
mkdir -p "$WORK/plain/.layers" # as the stock client shows it, which has no other view
mount --bind "$M/.layers" "$WORK/plain/.layers"
looks_into "$WORK/plain"
for digest in "${digests[@]}"; do
	dir=$(cd "$M/.layers" && echo ??/"$digest")/layerfs
	marks=$(find "$M/.layers/$dir" -name '.wh.*' ! -type d | wc -l)
	expected="LAYER_LOSSY $WORK/plain/.layers/$dir "
	[ "$marks" = 0 ] || expected='LAYER_ABSENT - .*marks deletions by names'
	grep -q "$digest $expected" "$WORK/out" || fail "$digest with $marks marks: $(cat "$WORK/out")"
	say "  $digest: $marks marks"
done
umount "$WORK/plain/.layers"

say "a container's writable layer above them"
lower=''
while read -r digest; do lower=$(ls -d "$M"/.lamella-layers/??/"$digest")/layerfs${lower:+:$lower}; done < <(
	manifest "$WORK/oci" "${tags[2]}" | jq -r '.layers[].digest' | cut -d: -f2)
mkdir -p "$WORK"/rw/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$WORK/rw/upper,workdir=$WORK/rw/work" "$WORK/rw/root"
cd "$WORK/rw/root"
[ ! -e etc/removed-later ] || fail "a deleted file is there"
echo again >etc/removed-later
[ "$(cat etc/removed-later)" = again ] || fail "a deleted file can't be made again"
echo more >>etc/passwd
grep -q more etc/passwd || fail "copied up"
[ "$(names opt/old)" = new ] || fail "an opaque directory shows $(names opt/old)"
rm -r opt
[ ! -e opt ] || fail "removed"
mkdir -p opt/old
[ "$(names opt/old)" = '' ] || fail "a new directory shows $(names opt/old)"
cd /
umount "$WORK/rw/root"

for v in "$WORK"/views/*; do s=${v##*/} && unmount_view "${s%[0-9]}" "$v"; done
stop containerd-lamella
stop containerd-overlayfs
stop snapshotter
stop fetcher
check_reports
say "passed"
