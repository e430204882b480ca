#!/usr/bin/env bash
# A container started from the repository sees exactly what one of containerd's own overlayfs snapshotter sees: every
# layer view in full, a running container, and a container after it has changed things. Of the two tags only zstd has a merged tree,
# so that its containers are over that where the kernel can.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
IMAGES=(tiny)
[ -n "${LM_SANITIZED:-}" ] || IMAGES+=(edge)
[ -z "$LM_ALL" ] || IMAGES+=(analysis atlas)
need_image "${IMAGES[@]}"
isolate faithful

# containerd ignores what a layer says of its root directory, so the time of / is that of the unpacking.
VIEW=(--ignore /:mtime)

# Changes that take every way through overlayfs: copy up, whiteout, opaque directory, rename, links.
# shellcheck disable=SC2016
CHANGES='set -e
	cd /usr
	chmod 700 bin/env; chown 3:4 bin/id; echo more >>share/base-files/motd
	rm -r share/doc; mkdir share/doc; echo new >share/doc/new
	rm bin/tac; mkdir bin/tac; ln bin/wc bin/wc2; mv bin/cut bin/cut2; ln -s wc bin/tac/wc
	cp -a lib/os-release lib/os-release2; mv lib/os-release2 lib/os-release
	setfattr -n user.new -v 1 bin/sort 2>/dev/null || true
	find . -xdev -newermt "10 minutes ago" -exec touch -hd @1000000000 {} +'

# The references by overlayfs: $WORK/IMAGE.{view,container,changed}.
reference() { # IMAGE
	local layout=$LM_IMAGES/oci-$1 id
	push "$layout:latest" "$1:latest"
	push "$layout:zstd" "$1:zstd"
	cri overlayfs pull "$REGISTRY/$1:latest" >/dev/null
	mount_view overlayfs "$(chain_id "$layout" latest)" "$WORK/view"
	"$TREEDIFF" "${VIEW[@]}" --list "$WORK/view" >"$WORK/$1.view"
	unmount_view overlayfs "$WORK/view"
	id=$(pod overlayfs start --no-pull --log-dir "$WORK/tmp" "$REGISTRY/$1:latest" sleep 3600)
	in_container overlayfs "$id" --list >"$WORK/$1.container"
	cri overlayfs exec "$id" sh -c "$CHANGES"
	in_container overlayfs "$id" --list >"$WORK/$1.changed"
	cri overlayfs rm "$id"
	say "$1: $(grep -c '^/' "$WORK/$1.view") entries by overlayfs"
}

lower() { # ID
	grep -q ' - overlay overlay .*lowerdir=[^,]*::' "/proc/$(cri lamella pid "$1")/mountinfo" && echo "a merged tree" || echo "its layers"
}
check() { # IMAGE TAG
	local layout=$LM_IMAGES/oci-$1 id requests
	registry_mark
	id=$(pod lamella start --log-dir "$WORK/tmp" "$REGISTRY/$1:$2" sleep 3600)
	requests=$(registry_layer_requests "$layout")
	[ "$(lower "$id")" = "${LOWER[$2]}" ] || fail "$1:$2: over $(lower "$id")"
	[ -z "$requests" ] || fail "$1:$2: layers were pulled: $requests"
	mount_view lamella "$(chain_id "$layout" "$2")" "$WORK/view"
	"$TREEDIFF" "${VIEW[@]}" --against "$WORK/$1.view" "$WORK/view" >"$WORK/differences" ||
		fail "$1:$2: the view differs in $(wc -l <"$WORK/differences") places: $(head -n 40 "$WORK/differences")"
	unmount_view lamella "$WORK/view"
	in_container lamella "$id" --against "$WORK/$1.container" >"$WORK/differences" ||
		fail "$1:$2: inside a container: $(head -n 40 "$WORK/differences")"
	cri lamella exec "$id" sh -c "$CHANGES"
	in_container lamella "$id" --against "$WORK/$1.changed" >"$WORK/differences" ||
		fail "$1:$2: after changes: $(head -n 40 "$WORK/differences")"
	cri lamella rm "$id"
	cri lamella rmi "$REGISTRY/$1:$2" # the tags have their layers' chain ids in common
	say "$1:$2: equal, over ${LOWER[$2]}"
}

registry_start
push_pause
containerd_start overlayfs
for i in "${IMAGES[@]}"; do reference "$i"; done
containerd_wipe overlayfs

repo_init
for i in "${IMAGES[@]}"; do
	convert "docker://$REGISTRY/$i:latest" --no-trees
	convert "oci:$LM_IMAGES/oci-$i:zstd"
done
"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" --objects --quiet >"$WORK/tmp/check" 2>&1 ||
	fail "repo check: $(head -n 20 "$WORK/tmp/check")"
serve_start
fetcher_start
snapshotter_start
containerd_start lamella
declare -A LOWER=([latest]="its layers" [zstd]="a merged tree")
if grep -q 'merged trees of layers are not used' "$WORK/log/snapshotter.log"; then LOWER[zstd]=${LOWER[latest]}; fi
for i in "${IMAGES[@]}"; do
	check "$i" latest
	check "$i" zstd
done
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
