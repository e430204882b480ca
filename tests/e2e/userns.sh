#!/usr/bin/env bash
# Containers in user namespaces over layers whose owners are mapped by the kernel: they see what a container without one sees, own what
# they write, and nothing is copied or has its owner changed; over merged trees, over layers, and over an ordinary image. After a reboot,
# which the mounts do not survive, they start again. Layers whose owners can't be mapped are refused, with the reason.
# time limit: 300 s
# runs by itself: loop devices are the machine's
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need jq findmnt
need_image edge tiny
isolate userns

HOST_ID=100000 IDS=1000000 # edge has owners far up
MAPS=(--uidmap "0:$HOST_ID:$IDS" --gidmap "0:$HOST_ID:$IDS" --remap-labels)
edge=$REGISTRY/edge:latest tiny=$REGISTRY/tiny:latest
mapped() { findmnt -rn -o TARGET | grep "^$WORK/snapshotter/snapshots/[0-9]*/mapped\." || true; }
container() { # NAME IMAGE MAPPING... -- COMMAND...
	local name=$1 image=$2 maps=()
	shift 2
	while [ "$1" != -- ]; do
		maps+=("$1")
		shift
	done
	shift
	ctr_ lamella run --rm --snapshotter lamella --cgroup "/lamella-${WORK##*/}/$name" "${maps[@]}" "$image" "$name" "$@"
}
none_mapped() { [ -z "$(mapped)" ]; }
written_twice() { [ "$(wc -l <"$upper/written")" = 2 ]; }
ended_task() { [ "$(ctr_ lamella tasks ls | awk -v t="$1" '$1 == t { print $3 }')" = STOPPED ]; }
end_task() { # NAME
	ctr_ lamella tasks kill -s KILL "$1"
	wait_for 20 "the end of $1" ended_task "$1"
	ctr_ lamella tasks rm "$1" >/dev/null 2>&1 || true # says how it ended, by its own code
}
# Of everything that the image brought: /etc and what is mounted are the runtime's. Written to a file of the host: of what a container
# says at its end, containerd's pipe may lose the last when the machine is busy.
# shellcheck disable=SC2016
LISTING='cd / && find . -xdev -mindepth 1 \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./etc \) -prune -o -printf "%p %y %m %U %G %s %l\n" | sort >/run/listed/names'
listed() { # FILE NAME IMAGE MAPPING...
	local file=$1 folder=$WORK/tmp/listed
	shift
	mkdir -m 777 "$folder"
	container "$@" --mount "type=bind,src=$folder,dst=/run/listed,options=rbind:rw" -- sh -c "$LISTING"
	mv "$folder/names" "$file"
	rmdir "$folder"
}
# shellcheck disable=SC2016
USE='
	test "$(id -u)" = 0; test "$(stat -c %u:%g /)" = 0:0
	chmod 700 /usr/bin/wc; chown 5:6 /usr/bin/tac; test "$(stat -c %u:%g /usr/bin/tac)" = 5:6
	echo mine >/written; mv /usr/bin/head /usr/bin/head2; rm /usr/bin/tail; ln /usr/bin/sort /usr/bin/sort2
	test "$(stat -c %u:%g /written /usr/bin/wc /usr/bin/head2 /usr/bin/sort2 | sort -u)" = 0:0
	mkdir /usr/share/new; rm -r /usr/share/doc; mkdir /usr/share/doc; echo a b c | wc -w | grep -qx 3
	read -r inside outside count </proc/self/uid_map; test "$inside $outside $count" = "0 '"$HOST_ID $IDS"'"'

registry_start
push_pause
repo_init
for image in edge tiny; do push "$LM_IMAGES/oci-$image:latest" "$image:latest"; done
convert "docker://$edge"
serve_start
fetcher_start

for way in "merged trees" layers; do
	say "over $way"
	settings=()
	[ "$way" != layers ] || settings=(LAMELLA_TREES=no)
	snapshotter_start "${settings[@]}"
	containerd_start lamella
	if grep -q 'no containers in user namespaces' "$WORK/log/snapshotter.log"; then
		skip "$(grep -o 'no containers in user namespaces.*' "$WORK/log/snapshotter.log" | sed -n 1p)"
	fi
	images=("$edge" "$tiny") main=$edge # tiny is an ordinary one
	if [ "$way" = layers ]; then
		convert "docker://$tiny"
		"$LAMELLA" update --socket "$FETCHER_SOCKET" >/dev/null
		images=("$tiny") main=$tiny
	fi
	for image in "${images[@]}"; do
		cri lamella pull "$image" >"$WORK/tmp/pull" || fail "pull of $image"
		listed "$WORK/tmp/plain" plain "$image"
		listed "$WORK/tmp/inside" inside "$image" "${MAPS[@]}"
		[ "$(wc -l <"$WORK/tmp/plain")" -gt 200 ] || fail "only $(wc -l <"$WORK/tmp/plain") names in $image"
		diff "$WORK/tmp/plain" "$WORK/tmp/inside" >"$WORK/tmp/diff" || fail "$image in a user namespace: $(head -n 5 "$WORK/tmp/diff")"
		container writes "$image" "${MAPS[@]}" -- sh -ex -c "$USE" 2>"$WORK/tmp/use" || fail "$image can't be used: $(tail -n 2 "$WORK/tmp/use")"
		say "  ${image##*/}: $(wc -l <"$WORK/tmp/inside") names, all with the owners they have without"
	done

	say "  what it writes is its own, and nothing else was written"
	ctr_ lamella run -d --snapshotter lamella --cgroup "/lamella-${WORK##*/}/kept" "${MAPS[@]}" "$main" kept \
		sh -c 'chown 5 /usr/bin/wc; echo mine >>/written; exec sleep 3600'
	upper=$(ctr_ lamella snapshots --snapshotter lamella mounts /nowhere kept | grep -o 'upperdir=[^, ]*' | cut -d= -f2)
	wait_for 20 "what it writes" test -s "$upper/written"
	[ "$(cd "$upper" && find . -type f | sort | tr '\n' ' ')" = "./usr/bin/wc ./written " ] || fail "written: $(find "$upper" | head -n 5)"
	[ "$(stat -c %u:%g "$upper" "$upper/written" "$upper/usr/bin/wc" | tr '\n' ' ')" = "$HOST_ID:$HOST_ID $HOST_ID:$HOST_ID $((HOST_ID + 5)):$HOST_ID " ] ||
		fail "owners: $(stat -c %u:%g "$upper" "$upper/written" "$upper/usr/bin/wc")"
	end_task kept

	say "  and starts again when its mounts are gone, as after a reboot"
	[ -n "$(mapped)" ] || fail "nothing is mounted with mapped owners"
	for mount in $(mapped); do umount -l "$mount"; done
	ctr_ lamella tasks start -d kept || fail "does not start again"
	wait_for 20 "what it writes" written_twice
	end_task kept
	ctr_ lamella containers rm kept

	if [ "$way" = layers ]; then
		say "  layers with attributes of their own can't be mapped, and it is said"
		cri lamella pull "$edge" >"$WORK/tmp/pull" || fail "pull of $edge"
		! container attributes "$edge" "${MAPS[@]}" -- true 2>"$WORK/tmp/refused" || fail "started, with whose owners?"
		grep -q "can't have its ids mapped (of layers without a merged tree" "$WORK/tmp/refused" || fail "refused without a word: $(cat "$WORK/tmp/refused")"
	fi

	say "  gone with its images"
	ctr_ lamella images ls -q | xargs ctr -a "$(containerd_socket lamella)" -n k8s.io images rm --sync >/dev/null
	wait_for 20 "the end of the mounts" none_mapped
	stop containerd-lamella
	stop snapshotter
done
check_reports
