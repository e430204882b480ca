#!/usr/bin/env bash
# containerd is replaced by the next series, twice, and the snapshotter with it, under a running container: that goes on, and what
# was pulled by the old one starts in the new one. At the end the newest gives back what the oldest had taken.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/containerd.bash
. "$(dirname "$0")/containerd.bash"
need_containers
need python3
for SERIES in 1.7 2 1.6; do need_containerd $SERIES; done # the last one is gone on with
isolate upgrade

registry_start
push_pause
small_layout "$WORK/oci-small" small
push "$WORK/oci-small:latest" small:latest
LAYOUTS=("$WORK/oci-small")
repo_init
convert "oci:$WORK/oci-small:latest"
serve_start
fetcher_start
snapshotter_start
containerd_start lamella
say "containerd $(containerd_version)"
lazily "the pull" cri lamella pull "$SMALL"
mkdir "$WORK/witness"
witness=$(pod lamella start --no-pull --log-dir "$WORK/witness" "$SMALL" sh -c 'echo kept >/var/tmp/file; exec sleep 1000')
wait_for 10 "the container's file" has_written "$witness" kept

for SERIES in 1.7 2; do
	stop containerd-lamella
	stop snapshotter
	need_containerd $SERIES
	snapshotter_start
	containerd_start lamella
	say "containerd $(containerd_version)"
	cri lamella list | has "^$witness running " || fail "the running container is lost: $(cri lamella list)"
	has_written "$witness" kept || fail "the running container lost its file"
	lazily "a container of the image that is there" pod lamella run --no-pull "$SMALL" cat /word
	grep -qx small "$WORK/output" || fail "it printed $(cat "$WORK/output")"
	lazily "another pull" cri lamella pull "$SMALL"
done
cri lamella rm "$witness"
cri lamella rmi "$SMALL"
all_is_given_back "the image"
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
