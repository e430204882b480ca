#!/usr/bin/env bash
# Flat trees, public links, one name for all machines, `lamella images` and `lamella rm`: the tree is what a container sees,
# a program runs in it, stock's check of the repository is content, and what is removed is gone when its time has come.
# time limit: 300 s
# also sanitized
# Programs for other shells are in single quotes.
# shellcheck disable=SC2016
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need python3 unshare chroot setpriv
IMAGES=(tiny)
[ -n "${LM_SANITIZED:-}" ] || IMAGES+=(edge)
need_image "${IMAGES[@]}"
isolate flat
M=$MOUNT_BASE/$FQRN

lamella() { # COMMAND ARGUMENT...: of the repository
	"$LAMELLA" "$@" --repo "$FQRN" --storage "$WORK/storage" >"$WORK/out" 2>"$WORK/err" || {
		cat "$WORK/out" "$WORK/err" >>"$WORK/log/convert.log"
		fail "lamella $*: $(tail -n 3 "$WORK/err")"
	}
}
revision() { "$LAMELLA" repo info "$FQRN" --storage "$WORK/storage" --json | jq .revision; }
config_of() { manifest "$LM_IMAGES/oci-$1" latest | jq -r .config.digest; }
flat_of() { # CONFIG
	local hex=${1#sha256:}
	echo ".flat/${hex:0:2}/$hex"
}
images() { # JQ-PROGRAM
	lamella images --json
	jq -r "$1" "$WORK/out"
}
mounted() { # waits for the newest revision
	"$LAMELLA" update "$FQRN" --socket "$FETCHER_SOCKET" >/dev/null || fail "update"
}

# What Apptainer adds or replaces. Link counts of directories: an overlay has none of those it merges.
APPTAINER=(--exclude /.singularity.d --exclude /singularity --exclude /.run --exclude /.exec --exclude /.test --exclude /.shell
	--exclude /environment --exclude /etc/hosts --exclude /etc/resolv.conf)
# Two of this file's three names are replaced by upper layers; an overlay counts them all the same.
APPTAINER+=(--ignore /edge/links/c:nlink --ignore /edge/links/c:links-with)
for dir in dev proc sys tmp var/tmp home root; do EMPTY+=("$dir"); done

# The owner can read everything and go everywhere.
readable() {
	python3 -c 'import re, sys
for line in sys.stdin:
	kind = re.search(r" type=([fd])(?= )", line)
	if kind:
		more = 0o700 if kind[1] == "d" else 0o600
		line = re.sub(r"( mode=)([0-7]+)", lambda m: m[1] + "%0*o" % (len(m[2]), int(m[2], 8) | more), line)
	sys.stdout.write(line)'
}

registry_start
repo_init
serve_start
for i in "${IMAGES[@]}"; do
	push "$LM_IMAGES/oci-$i:latest" "$i:latest"
	convert "docker://$REGISTRY/$i:latest"
done
fetcher_start
containerd_start overlayfs

say "the tree of a container"
for i in "${IMAGES[@]}"; do
	cri overlayfs pull "$REGISTRY/$i:latest" >/dev/null
	mount_view overlayfs "$(chain_id "$LM_IMAGES/oci-$i" latest)" "$WORK/view"
	"$TREEDIFF" --list "$WORK/view" | readable >"$WORK/$i.expected"
	added=()
	for dir in "${EMPTY[@]}"; do [ -e "$WORK/view/$dir" ] || added+=(--exclude "/$dir"); done
	unmount_view overlayfs "$WORK/view"
	link=$M/$REGISTRY/$i:latest
	[ "$(readlink "$link")" = "../$(flat_of "$(config_of "$i")")" ] || fail "$link leads to $(readlink "$link")"
	"$TREEDIFF" "${APPTAINER[@]}" "${added[@]}" --no-dir-nlink --ignore /:mtime --against "$WORK/$i.expected" "$link/" >"$WORK/differences" ||
		fail "$i: $(wc -l <"$WORK/differences") differences: $(head -n 30 "$WORK/differences")"
	[[ ! -s $link/etc/hosts && -x $link/.singularity.d/runscript ]] ||
		fail "$i: Apptainer's files: $(ls -la "$link/.singularity.d")"
	say "  $i: $(grep -c '^/' "$WORK/$i.expected") entries"
done

say "a program runs in it"
link=$M/$REGISTRY/tiny:latest
[ "$(chroot "$link/" /.singularity.d/actions/exec sh -c 'echo "$LD_LIBRARY_PATH $(cat /etc/hosts | wc -c)"')" = "/.singularity.d/libs 0" ] ||
	fail "exec"
[ "$(chroot "$link/" /.run echo arguments)" = arguments ] || fail "run"
grep -q '^export PATH$' "$link/.singularity.d/env/10-docker2singularity.sh" || fail "the environment of the config"
[ "$(env -i A=mine "$(command -v chroot)" "$link/" /.exec sh -c 'echo "$PATH"' | cut -c1)" = / ] || fail "PATH"
# As Apptainer does it for an ordinary user: a user name space, and the host's file over etc/hosts.
say "10.0.0.1 there" >"$WORK/hosts"
if ids=$(unshare --user --map-root-user --mount bash -ec 'mount --bind "$1" "$1/" && mount --bind "$2" "$1/etc/hosts" && chroot "$1/" /.exec cat /etc/hosts' - "$(readlink -f "$link")" "$WORK/hosts" 2>"$WORK/err"); then
	[ "$ids" = "10.0.0.1 there" ] || fail "in a user name space: $ids"
else
	grep -q 'unshare' "$WORK/err" || fail "in a user name space: $(cat "$WORK/err")"
fi

say "the same again: nothing is written"
before=$(revision)
convert "docker://$REGISTRY/tiny:latest"
[ "$(revision)" = "$before" ] || fail "revision $(revision) after $before"
"$LAMELLA" convert "oci:$LM_IMAGES/oci-tiny:latest" --repo "$FQRN" --storage "$WORK/storage" --json >"$WORK/out" || fail "another name"
tail -n 1 "$WORK/out" | jq -e '[.images[].flat.made] == [false]' >/dev/null || fail "made twice: $(cat "$WORK/out")"

say "without a flat tree"
tar -C "$LM_BUILD/tests/tools" --owner=0 --group=0 -cf "$WORK/tmp/a.tar" pause
make_layout "$WORK/oci-a" "$WORK/tmp/a.tar" /pause amd64
lamella convert "oci:$WORK/oci-a" --no-flat --name registry.example.org/a:1
images '.images[] | select(.name == "registry.example.org/a:1") | "\(.flat) \(.link)"' >"$WORK/seen"
[ "$(cat "$WORK/seen")" = "false null" ] || fail "a:1: $(cat "$WORK/seen")"
lamella convert "oci:$WORK/oci-a" --flat --name registry.example.org/a:1
[ "$(images '.images[] | select(.name == "registry.example.org/a:1") | .flat')" = true ] || fail "a:1 has no flat tree"

say "one name for all machines"
echo other >"$WORK/tmp/other"
tar -C "$WORK/tmp" --owner=0 --group=0 -cf "$WORK/tmp/b.tar" other
make_layout "$WORK/oci-b" "$WORK/tmp/b.tar" /other
relabel() { # LAYOUT ARCHITECTURE: prints the descriptor of its image, made for that
	local m config
	m=$(jq -r '.manifests[0].digest' "$1/index.json")
	config=$(jq -r .config.digest "$1/blobs/sha256/${m#sha256:}")
	jq -c --arg a "$2" '.architecture = $a | .author = "all"' "$1/blobs/sha256/${config#sha256:}" >"$1/tmp"
	config=$(blob "$1" "$1/tmp" application/vnd.oci.image.config.v1+json)
	jq -c --argjson c "$config" '.config = $c' "$1/blobs/sha256/${m#sha256:}" >"$1/tmp"
	blob "$1" "$1/tmp" application/vnd.oci.image.manifest.v1+json |
		jq -c --arg a "$2" '. + {platform: {os: "linux", architecture: $a}}'
}
a=$(relabel "$WORK/oci-a" amd64)
b=$(relabel "$WORK/oci-b" arm64)
cp -r "$WORK/oci-a" "$WORK/oci-all"
cp -n "$WORK"/oci-b/blobs/sha256/* "$WORK/oci-all/blobs/sha256/"
jq -nc --argjson a "$a" --argjson b "$b" '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [$a, $b]}' >"$WORK/oci-all/tmp"
blob "$WORK/oci-all" "$WORK/oci-all/tmp" application/vnd.oci.image.index.v1+json |
	jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$WORK/oci-all/index.json"
all=registry.example.org/team/all:1
lamella convert "oci:$WORK/oci-all" --platform all --name $all
machine=$(uname -m)
native=$(case $machine in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) skip "no image for $machine" ;; esac)
"$LAMELLA" inspect tree "$FQRN" --storage "$WORK/storage" --raw --no-content | awk '$1 == "l" && $13 ~ /team/ {print $13, $11}' | sort >"$WORK/seen"
[ "$(grep -c "^/$all-linux-\(amd64\|arm64\|x86_64\|aarch64\) ../../.flat/" "$WORK/seen")" = 4 ] || fail "links: $(cat "$WORK/seen")"
grep -qF "/$all all:1-linux-\$(CVMFS_ARCH:-$machine)" "$WORK/seen" || fail "the link for all: $(cat "$WORK/seen")"
mounted
case $native in amd64) file=pause ;; *) file=other ;; esac
[ -e "$M/$all/$file" ] || fail "$all: $(readlink "$M/$all"), $(ls "$M/$all/")"
[[ -e $M/$all-linux-x86_64/pause && -e $M/$all-linux-aarch64/other ]] || fail "machines: $(ls -l "$M/registry.example.org/team")"
[ "$(readlink "$M/$all")" = "all:1-linux-$machine" ] || fail "$all leads to $(readlink "$M/$all")"
[ "$(jq -r '.Layers | length' "$M/.metadata/$all/manifest.json")" = 1 ] || fail "the manifest of $all"
images '.images[] | select(.platforms | length > 0) | "\(.name) \(.platform) \(.platforms | length)"' >"$WORK/seen"
[ "$(cat "$WORK/seen")" = "$all linux/$native 2" ] || fail "images: $(cat "$WORK/seen")"
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --objects >"$WORK/out" || fail "check: $(cat "$WORK/out")"

say "words that are for nodes alone"
for option in --layers --snapshotter=/nonexistent.sock; do
	code=0
	"$LAMELLA" images --repo "$FQRN" --storage "$WORK/storage" "$option" >"$WORK/out" 2>"$WORK/err" || code=$?
	[ $code = 2 ] || fail "images $option: exit code $code"
	grep -q 'are for --node' "$WORK/err" || fail "images $option: $(cat "$WORK/err")"
	[ ! -s "$WORK/out" ] || fail "images $option: a list: $(cat "$WORK/out")"
done

say "what would be removed"
before=$(revision)
lamella rm "$all" --dry-run --now --json
jq -e '(.names | length) == 3 and (.images | length) == 2 and (.layers | length) == 1 and (.flat | length) == 2 and .dry_run' "$WORK/out" >/dev/null ||
	fail "dry run: $(cat "$WORK/out")"
[ "$(revision)" = "$before" ] || fail "the dry run changed something"
if "$LAMELLA" rm "$all" registry.example.org/none:1 --repo "$FQRN" --storage "$WORK/storage" >"$WORK/out" 2>&1; then fail "removed nothing"; fi
[ "$(revision)" = "$before" ] || fail "half of a removal"

say "names go, content stays for a while"
exec 7<"$M/$all/$file"
lamella rm "$all" --grace 7
[ "$(revision)" = $((before + 1)) ] || fail "revision $(revision)"
mounted
[[ ! -e $M/registry.example.org/team && ! -e $M/.metadata/registry.example.org/team && -e $M/registry.example.org/a:1 ]] ||
	fail "names: $(ls -R "$M/registry.example.org" "$M/.metadata/registry.example.org")"
[ "$(jq -r '[.[] | select(.RemoveAfter and .Name and .Config.Digest)] | length' "$M/.metadata/remove-schedule.json")" = 2 ] ||
	fail "schedule: $(cat "$M/.metadata/remove-schedule.json")"
[ "$(images '.removed | length')" = 2 ] || fail "images does not list what was removed"
mapfile -t flats < <(images '.removed[].config')
for config in "${flats[@]}"; do [ -d "$M/$(flat_of "$config")" ] || fail "the flat tree of $config is gone"; done
cat <&7 >/dev/null || fail "what was open"

say "an image that comes back is not removed"
lamella convert "oci:$WORK/oci-all" --name $all
[ "$(images '.removed | length')" = 1 ] || fail "both are scheduled still: $(cat "$WORK/out")"
lamella rm $all --grace 7

say "without time of grace"
lamella convert "oci:$WORK/oci-all" --platform all --name $all
lamella rm "$all" --now
mounted
[ "$(images '.removed | length')" = 0 ] || fail "still scheduled: $(cat "$WORK/out")"
for config in "${flats[@]}"; do [ ! -e "$M/$(flat_of "$config")" ] || fail "the flat tree of $config is there"; done
layer=$(jq -r '.layers[0].digest' "$WORK/oci-b/blobs/sha256/$(jq -r .digest <<<"$b" | cut -d: -f2)" | cut -d: -f2)
shared=$(jq -r '.layers[0].digest' "$WORK/oci-a/blobs/sha256/$(jq -r .digest <<<"$a" | cut -d: -f2)" | cut -d: -f2)
[ ! -e "$M/.layers/${layer:0:2}/$layer" ] || fail "the layer that only it had"
[ -d "$M/.layers/${shared:0:2}/$shared/layerfs" ] || fail "a layer of another image is gone"
[ "$(jq -r '.origin | length' "$M/.layers/${shared:0:2}/$shared/.metadata/origin.json")" = 1 ] ||
	fail "origins: $(cat "$M/.layers/${shared:0:2}/$shared/.metadata/origin.json")"

say "a name that moves to another image"
lamella convert "oci:$WORK/oci-b" --name registry.example.org/a:1
[ "$(images '.removed[].name')" = registry.example.org/a:1 ] || fail "not scheduled: $(cat "$WORK/out")"
lamella rm registry.example.org/a:1 --now

say "what is due goes with the next conversion"
lamella convert "oci:$WORK/oci-b" --name registry.example.org/b:1
lamella rm registry.example.org/b:1 --grace 1
python3 - "$WORK/late" <<-'END'
	import pathlib, sys
	pathlib.Path(sys.argv[1] + ".c").write_text('''
	#define _GNU_SOURCE
	#include <dlfcn.h>
	#include <time.h>
	int clock_gettime(clockid_t clock, struct timespec *ret)
	{
		int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
		int r = real(clock, ret);
		if (clock == CLOCK_REALTIME)
			ret->tv_sec += 2 * 86400;
		return r;
	}
	time_t time(time_t *ret)
	{
		struct timespec now;
		clock_gettime(CLOCK_REALTIME, &now);
		if (ret)
			*ret = now.tv_sec;
		return now.tv_sec;
	}
	''')
END
if [ -z "${LM_SANITIZED:-}" ] && command -v cc >/dev/null; then
	cc -shared -fPIC -o "$WORK/late.so" "$WORK/late.c" -ldl
	LD_PRELOAD=$WORK/late.so "$LAMELLA" convert "docker://$REGISTRY/tiny:latest" --repo "$FQRN" --storage "$WORK/storage" >"$WORK/out" 2>&1 ||
		fail "two days later: $(cat "$WORK/out")"
	grep -q 'b:1: its time is over' "$WORK/out" || fail "two days later: $(cat "$WORK/out")"
	[ "$(images '[.removed[].name] | index("registry.example.org/b:1")')" = null ] || fail "still scheduled"
fi

say "the repository after all that, and after garbage collection"
"$LAMELLA" repo gc "$FQRN" --storage "$WORK/storage" --keep-revisions 1 --keep-days 0 >"$WORK/out" || fail "gc: $(cat "$WORK/out")"
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --objects >"$WORK/out" || fail "check: $(cat "$WORK/out")"
mounted
for i in "${IMAGES[@]}"; do
	"$TREEDIFF" "${APPTAINER[@]}" --exclude /var/tmp --ignore /:mtime --no-dir-nlink --against "$WORK/$i.expected" \
		"$M/$REGISTRY/$i:latest/" >"$WORK/differences" || fail "$i after all: $(head -n 10 "$WORK/differences")"
done
stop containerd-overlayfs
stop fetcher
check_reports
