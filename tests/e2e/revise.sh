#!/usr/bin/env bash
# Twenty revisions under load: whoever works inside an old one, a container above all, notices nothing; what is new appears
# after `update`, and by itself after the TTL; the kernel's entries of old revisions go away, numbers do not run off.
# time limit: 180 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need skopeo jq python3
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LM_BUILD/tests/tools/control"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate revise

CONTROL=$LM_BUILD/tests/tools/control
REVISIONS=20
TTL_S=10
M=$MOUNT_BASE/$FQRN

# An image of one small layer: a hundred files that are the same in each, and one that says which it is.
image() { # NUMBER
	local d=$WORK/tmp/tree
	rm -rf "$d"
	mkdir -p "$d/same/deep/er"
	seq 100 | while read -r n; do echo "file $n" >"$d/same/deep/er/$n"; done
	head -c 3000000 /dev/urandom >"$d/large"
	echo "$1" >"$d/number"
	tar -C "$d" --sort=name -cf "$WORK/tmp/layer.tar" .
	rm -rf "$WORK/oci-$1"
	make_layout "$WORK/oci-$1" "$WORK/tmp/layer.tar" /bin/true
}
layer() { # NUMBER: the folder of the image's layer
	local hex
	hex=$(manifest "$WORK/oci-$1" latest | jq -r '.layers[0].digest')
	hex=${hex#sha256:}
	echo "$M/.layers/${hex:0:2}/$hex/layerfs"
}
# Readers of what an old revision led to. Each says what it got wrong and ends; at the end of the test all must be running.
cat >"$WORK/reader.py" <<'END'
import mmap, os, sys
kind, root, first = sys.argv[1], sys.argv[2], sys.argv[3]
os.chdir(root + "/same/deep/er")
here, there = os.getcwd(), os.stat(".").st_ino
names = sorted(str(n) for n in range(1, 101))
large = open(root + "/large", "rb")
content = large.read()
mapped = mmap.mmap(large.fileno(), 0, prot=mmap.PROT_READ)
held, rounds = open("7"), 0
def check(ok, what):
    if not ok:
        print(kind, "round", rounds, "in", root, ":", what)
        sys.exit(1)
while not os.path.exists(sys.argv[4]):
    check(os.getcwd() == here, "getcwd")
    check(os.stat(".").st_ino == there, "inode of the working directory")
    check(sorted(os.listdir(".")) == names, "listing of it")
    check(sorted(os.listdir(root)) == ["large", "number", "same"], "listing from the root")
    check(open(root + "/number").read() == first + "\n", "content")
    check(open("../../../number").read() == first + "\n", "content by way of the parents")
    held.seek(0)
    check(held.read() == "file 7\n", "open file")
    os.posix_fadvise(large.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    check(mapped[:] == content, "mapping")
    for n in names[rounds % 10::10]:
        check(open(n).read() == "file %s\n" % n, "file " + n)
        check(os.lstat(root + "/same/deep/er/" + n).st_size == len("file %s\n" % n), "attributes of " + n)
    rounds += 1
print(kind, "ended well after", rounds, "rounds")
END

"$LAMELLA" repo init "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" --ttl $TTL_S >>"$WORK/log/convert.log" 2>&1
image 0
convert "oci:$WORK/oci-0:latest"
serve_start
fetcher_start
mkdir -p "$WORK"/c/{upper,work,root}
old=$(layer 0)
mount -t overlay overlay -o "lowerdir=$old,upperdir=$WORK/c/upper,workdir=$WORK/c/work" "$WORK/c/root"
for i in 1 2; do start "plain$i" python3 "$WORK/reader.py" "plain$i" "$old" 0 "$WORK/stop"; done
for i in 1 2; do start "container$i" python3 "$WORK/reader.py" "container$i" "$WORK/c/root" 0 "$WORK/stop"; done
(cd "$M/.layers" && exec sleep 1000) & # whose directory is replaced
inside=$!

check_readers() {
	local r
	for r in plain1 plain2 container1 container2; do running $r || fail "$r: $(cat "$WORK/log/$r.log")"; done
}
shows() { [ "$(cat "$(layer "$1")/number" 2>/dev/null)" = "$1" ]; }

say "$REVISIONS revisions under load"
begin=$(now_ms) slowest=0
for ((n = 1; n <= REVISIONS; n++)); do
	image $n
	[ ! -e "$(layer "$n")" ] || fail "layer $n is there before its time" # which the kernel keeps in mind
	convert "oci:$WORK/oci-$n:latest"
	"$CONTROL" "$FETCHER_SOCKET" update "$FQRN" >"$WORK/out" || fail "update"
	from=$(now_ms)
	wait_for 5 "image $n" shows "$n"
	[ $(($(now_ms) - from)) -le $slowest ] || slowest=$(($(now_ms) - from))
	shows 0 || fail "image 0 is gone"
	check_readers
done
say "  $(($(now_ms) - begin)) ms; at most $slowest ms from the answer to update until a new layer was seen"

say "one more, which nobody announces"
[ ! -e "$WORK/oci-$n" ] || fail "counted wrongly"
image $n
[ ! -e "$(layer "$n")" ] || fail "layer $n is there before its time"
convert "oci:$WORK/oci-$n:latest"
from=$(now_ms)
wait_for $((5 * TTL_S)) "image $n" shows "$n"
say "  seen after $(($(now_ms) - from)) ms, with a TTL of $TTL_S s"
check_readers

say "what is kept of old revisions"
table=$(find "$WORK/cache" -name catalogs -size +0 | sed -n 1p)
bytes=$(stat -c %s "$table")
# Per revision: root, .layers, the layer's folder of two digits, the layer; each is a record of 36 bytes and a path.
[ "$bytes" -lt $((REVISIONS * 8 * 130)) ] || fail "$bytes bytes of catalog numbers for $REVISIONS revisions"
kill $inside
wait $inside 2>/dev/null || true
touch "$WORK/stop"
for r in plain1 plain2 container1 container2; do
	wait_for 20 "the end of $r" ended $r
	grep 'ended well' "$WORK/log/$r.log" | sed 's/^/  /' || fail "$r: $(cat "$WORK/log/$r.log")"
done
umount "$WORK/c/root"
say "  $bytes bytes of numbers; fetcher at most $(peak_kib lamella-fetcher) KiB"

stop fetcher
check_reports
say "passed"
