#!/usr/bin/env bash
# Where it is wanted, layers without extended attributes come from a second mount, on which the kernel does not ask for them.
# time limit: 120 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need jq tar setfattr getfattr
CONTROL=$LM_BUILD/tests/tools/control
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$CONTROL"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate lean

# An image of one layer, its folder's content; prints the digest of the layer.
image() { # NAME
	tar -C "$WORK/$1" --xattrs --xattrs-include='*' --owner=0 --group=0 -cf "$WORK/tmp/layer.tar" .
	make_layout "$WORK/oci-$1" "$WORK/tmp/layer.tar" /none
	convert "oci:$WORK/oci-$1:latest"
	manifest "$WORK/oci-$1" latest | jq -r '.layers[0].digest'
}
path_of() { "$CONTROL" "$FETCHER_SOCKET" resolve "$1" | sed -n 's/^[^ ]* LAYER_FAITHFUL \([^ ]*\) .*/\1/p'; } # DIGEST
asked() { # KIND: how many such requests the kernel made
	"$LAMELLA" status --socket "$FETCHER_SOCKET" --json | jq ".repositories[0].kernel_requests[] | select(.kind == \"$1\").answered"
}
LEAN=$MOUNT_BASE/.lean/$FQRN WHOLE=$MOUNT_BASE/$FQRN
from_whole() { [[ $(path_of "$1") == "$WHOLE"/.layers/* ]]; } # DIGEST
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
fetcher_start LAMELLA_LEAN_MOUNTS=yes

say "which layer comes from where"
is_mounted "$WHOLE" cvmfs2 || fail "$(findmnt)"
is_mounted "$LEAN" lamella || fail "$(findmnt)"
[[ $(path_of "$without") == "$LEAN/.layers/"* ]] || fail "without: $(path_of "$without")"
from_whole "$with" || fail "with: $(path_of "$with")"
from_whole "$deep" || fail "deep: $(path_of "$deep")"
[ "$(getfattr --only-values -n user.colour "$(path_of "$with")/d/f7")" = blue ] || fail "an attribute is lost"
[ "$(getfattr --only-values -n user.colour "$(path_of "$deep")/d/n7")" = red ] || fail "an attribute in a nested catalog is lost"

say "what an overlay of both asks for"
mkdir "$WORK"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$(path_of "$without"):$(path_of "$with"),upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/root"
before=$(asked getxattr)
(cd "$WORK/root/d" && cat f{1..300} >/dev/null)
attributes=$(($(asked getxattr) - before))
[ $attributes -le 20 ] || fail "$attributes questions for attributes of 300 files"
cmp <(cat "$WORK"/without/d/*) <(cat "$WORK"/root/d/*) || fail "wrong bytes"
n=$(path_of "$without")/d/f9
[ "$(stat -c %i "$n")" = "$(stat -c %i "$WHOLE${n#"$LEAN"}")" ] || fail "node numbers differ"
getfattr -d "$WORK/root/d/f9" || fail "attributes can't be listed"
umount "$WORK/root"

say "a new revision is there, too"
mkdir "$WORK/more" && echo new >"$WORK/more/new"
more=$(image more)
"$LAMELLA" update --socket "$FETCHER_SOCKET" >/dev/null
[ "$(cat "$(path_of "$more")/new")" = new ] || fail "the lean mount shows another revision"
[[ $(path_of "$more") == "$LEAN"/* ]] || fail "more: $(path_of "$more")"

say "taken away from outside, the whole one serves"
umount "$LEAN"
wait_for 10 "its end" from_whole "$without"
cmp "$WORK/without/d/f1" "$(path_of "$without")/d/f1" || fail "wrong bytes"
stop fetcher

say "not unless it is asked for"
fetcher_start
! findmnt "$LEAN" >/dev/null || fail "mounted all the same"
from_whole "$without" || fail "$(path_of "$without")"
stop fetcher
! findmnt "$WHOLE" >/dev/null || fail "still mounted"
check_reports
say passed
