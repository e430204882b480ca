#!/usr/bin/env bash
# Containers do their work while their layers stay where they are: the registry gives manifest and configuration only, and
# of the repository only a part is read.
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
IMAGES=(tiny)
[ -z "$LM_ALL" ] || IMAGES+=(analysis)
need_image "${IMAGES[@]}"
isolate lazy

# workload IMAGE NAME EXPECTED COMMAND...: its last line matches EXPECTED; what was fetched for it is less than a third of
# the compressed image.
workload() {
	local image=$1 name=$2 expected=$3 layout=$LM_IMAGES/oci-$1 requests bytes size
	shift 3
	registry_mark
	web_mark
	rm -f "$WORK/timing"
	pod lamella run --timing "$WORK/timing" "$REGISTRY/$image:latest" "$@" >"$WORK/output" 2>"$WORK/errors" ||
		fail "$image $name: exit code $?: $(cat "$WORK/output" "$WORK/errors")"
	[[ $(tail -n 1 "$WORK/output") =~ ^$expected$ ]] || fail "$image $name printed $(cat "$WORK/output" "$WORK/errors")"
	requests=$(registry_layer_requests "$layout")
	[ -z "$requests" ] || fail "$image $name: layers were pulled: $requests"
	bytes=$(web_bytes)
	size=$(image_bytes "$layout" latest)
	[ $((3 * bytes)) -lt "$size" ] || fail "$image $name: fetched $bytes of $size bytes"
	say "$image $name: fetched $bytes bytes in $(web_log | wc -l) requests, $((100 * bytes / size)) % of $size; $(cat "$WORK/timing")"
}

# Nothing of the image is left on the node.
forget() { # IMAGE
	cri lamella rmi "$REGISTRY/$1:latest"
	stop fetcher
	rm -rf "$WORK/cache"
	fetcher_start
}

registry_start
push_pause
repo_init
for i in "${IMAGES[@]}"; do
	push "$LM_IMAGES/oci-$i:latest" "$i:latest"
	convert "oci:$LM_IMAGES/oci-$i:latest"
done
serve_start
fetcher_start
snapshotter_start
containerd_start lamella

python='import sys, os, re; print(sum(range(10)), sys.version_info[0])'
workload tiny shell ok bash -c 'echo ok'
workload tiny python '45 3' python3 -c "$python"
cri lamella rmi "$REGISTRY/tiny:latest"
stop serve
say "again, with a warm cache and no server"
pod lamella run "$REGISTRY/tiny:latest" python3 -c "$python" >"$WORK/output" 2>&1 || fail "a second start: $(cat "$WORK/output")"
if command -v nginx >/dev/null; then
	say "from nginx, with an empty cache"
	nginx_start
	forget tiny
	workload tiny python '45 3' python3 -c "$python"
	stop nginx
	cri lamella rmi "$REGISTRY/tiny:latest"
else
	say "nginx is not installed: not tried"
fi
serve_start
if [ -n "$LM_ALL" ]; then
	workload analysis fit 'm = 91\.190 s = 2\.502' python3 /opt/analysis/fit.py
	forget analysis
	workload analysis imports 'imports 45' python3 -c \
		'import numpy, scipy.optimize, pandas, matplotlib.pyplot, h5py, sklearn; print("imports", numpy.arange(10).sum())'
fi
stop containerd-lamella
stop snapshotter
stop fetcher
check_reports
