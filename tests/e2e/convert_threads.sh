#!/usr/bin/env bash
# The converter, for the thread sanitizer: images from a registry, one after the other and by a wish list, progress on a
# terminal and as events, ends by signals in the middle. What comes out is checked by the ordinary program.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need docker-registry skopeo jq script
TSAN=$LM_ROOT/build-tsan
need_built "$ALONE" "$LAMELLA" "$TSAN/tools/lamella"
need_image tiny
isolate convert_threads

export LAMELLA_CONFIG_DIR=$WORK/config
export TSAN_OPTIONS="suppressions=$LM_ROOT/tests/tsan.supp halt_on_error=0 second_deadlock_stack=1 history_size=4 log_path=$WORK/log/tsan.log"
INSTRUMENTED=$TSAN/tools/lamella
ENDS=4

checked() { # WHAT
	"$LAMELLA" repo check "$FQRN" --objects --quiet >"$WORK/check" 2>&1 || fail "$1: $(head -n 20 "$WORK/check")"
	no_reports "$1"
}
no_reports() { # WHAT
	local report
	for report in "$WORK"/log/tsan.log.*; do
		[ ! -s "$report" ] || fail "$1: $(head -n 60 "$report")"
	done
}
fresh_repo() {
	rm -rf "$WORK/storage" "$WORK/keys" "$LAMELLA_CONFIG_DIR"
	repo_init
}
image() { # NAME: a layout $WORK/oci-NAME of one layer
	mkdir -p "$WORK/tmp/tree"
	head -c 30000000 /dev/urandom >"$WORK/tmp/tree/$1"
	tar -C "$WORK/tmp/tree" -cf "$WORK/tmp/tree.tar" "$1"
	rm "$WORK/tmp/tree/$1"
	LAYER_GZIP=1 make_layout "$WORK/oci-$1" "$WORK/tmp/tree.tar" /none
}

"$INSTRUMENTED" --help >/dev/null || fail "the instrumented program does not start"
registry_start
image one
image two
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
push "$WORK/oci-one:latest" group/one:v1
push "$WORK/oci-two:latest" group/two:v1

say "an image, on a terminal; again, as events"
fresh_repo
script -qefc "exec '$INSTRUMENTED' convert --repo '$FQRN' 'docker://$REGISTRY/tiny:latest'" "$WORK/typescript" >/dev/null </dev/null ||
	fail "on a terminal: $(tail -n 3 "$WORK/typescript")"
"$INSTRUMENTED" convert --repo "$FQRN" --json "docker://$REGISTRY/tiny:latest" >"$WORK/events" 2>"$WORK/log/convert.log" ||
	fail "again: $(tail -n 3 "$WORK/log/convert.log")"
tail -n 1 "$WORK/events" | jq -e '[.images[].layers[].state] | unique == ["present"]' >/dev/null || fail "again: $(tail -n 1 "$WORK/events")"
checked "an image"

say "ends by signals"
fresh_repo
for ((i = 1; i <= ENDS; i++)); do
	"$INSTRUMENTED" convert --repo "$FQRN" "docker://$REGISTRY/tiny:latest" >>"$WORK/log/convert.log" 2>&1 &
	pid=$!
	sleep "$((RANDOM % 4)).$((RANDOM % 10))"
	kill -TERM $pid 2>/dev/null || true
	code=0
	wait $pid || code=$?
	case $code in 0 | 143) ;; *) fail "exit code $code: $(tail -n 5 "$WORK/log/convert.log")" ;; esac
	no_reports "end $i"
done
convert "docker://$REGISTRY/tiny:latest"
checked "after $ENDS ends"

say "a wish list"
cat >"$WORK/wishes.yaml" <<-END
	version: 1
	user: nobody
	cvmfs_repo: $FQRN
	output_format: '\$(scheme)://\$(registry)/\$(image)'
	input:
	  - 'http://$REGISTRY/group/one:*'
	  - 'http://$REGISTRY/group/two:v1'
	  - 'http://$REGISTRY/tiny:latest'
END
for run in first second; do
	"$INSTRUMENTED" sync "$WORK/wishes.yaml" >>"$WORK/log/sync.log" 2>&1 || fail "$run sync: $(tail -n 5 "$WORK/log/sync.log")"
done
"$LAMELLA" images --repo "$FQRN" >"$WORK/images" 2>>"$WORK/log/sync.log"
for name in group/one group/two tiny; do grep -qF "$name" "$WORK/images" || fail "$name is not there: $(cat "$WORK/images")"; done
checked "a wish list"
