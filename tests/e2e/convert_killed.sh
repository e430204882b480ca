#!/usr/bin/env bash
# `lamella convert`, killed at random moments: the repository is valid after each kill, what was finished is not fetched again,
# and the tree that comes out equals one that nobody disturbed. The same where a run fails over something else, and what a
# collection of garbage in between has swept is fetched again. LM_ALL=1: 30 kills on analysis. LM_SEED repeats a run.
# time limit: 1800 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need docker-registry skopeo jq python3 tar setfattr
need_root
need_built "$ALONE" "$LAMELLA"
IMAGE=edge KILLS=6
[ -z "$LM_ALL" ] || IMAGE=analysis KILLS=30
need_image tiny "$IMAGE"
isolate convert_killed

export LAMELLA_CONFIG_DIR=$WORK/config
LAYOUT=$LM_IMAGES/oci-$IMAGE
TINY=$LM_IMAGES/oci-tiny
REPO=$WORK/storage/cvmfs/$FQRN
SOURCE=docker://$REGISTRY/$IMAGE:latest
SEED=${LM_SEED:-$RANDOM}
RANDOM=$SEED
say "LM_SEED=$SEED"

run_convert() { # ARGUMENT...: exit code in $CODE, what it said in $WORK/{out,err}
	CODE=0
	"$LAMELLA" convert "$@" --repo "$FQRN" >"$WORK/out" 2>"$WORK/err" || CODE=$?
	{ echo "--- convert $*" && cat "$WORK/out" "$WORK/err"; } >>"$WORK/log/convert.log"
}
must() { # ARGUMENT...
	run_convert "$@"
	[ $CODE = 0 ] || fail "convert $*: $(tail -n 3 "$WORK/err")"
}
checked() { # WHAT
	"$LAMELLA" repo check "$FQRN" --objects --quiet >"$WORK/check" 2>&1 || fail "$1: $(head -n 20 "$WORK/check")"
}
# Times are the layers' own, or of the moment when something was published.
tree() {
	"$LAMELLA" inspect tree "$REPO" --keys "$WORK/keys" |
		awk '{ if ($0 !~ / \/\.layers\/..\/[0-9a-f]+\/layerfs/) $6 = "-"; print }' | sort
}
states() { jq -r 'select(.images) | [.images[].layers[].state] | unique | join(" ")' "$WORK/out"; }
doze() { # MS: any time up to that
	local ms=$(((RANDOM * 32768 + RANDOM) % $1))
	sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
}
fresh() {
	rm -rf "$WORK/storage" "$LAMELLA_CONFIG_DIR"
	cp -a "$WORK/empty" "$WORK/storage"
	cp -a "$WORK/records" "$LAMELLA_CONFIG_DIR"
}

# The digests of all layers that were asked for since the last call; a request is in the log once it is over.
asked() {
	stop registry
	registry_layer_requests "$LAYOUT" | grep -oE 'sha256:[0-9a-f]+' | sort -u || true
	registry_start
	registry_mark
}
# The beginnings of the digests of those that the command has finished.
finished() { grep -oE 'sha256:[0-9a-f]{12}: .*(files|is there)' "$WORK/err" | grep -oE '^sha256:[0-9a-f]+' || true; }

registry_start
push "$LAYOUT:latest" "$IMAGE:latest"
repo_init
cp -a "$WORK/storage" "$WORK/empty"
cp -a "$LAMELLA_CONFIG_DIR" "$WORK/records"

say "undisturbed"
begin=$(now_ms)
must "$SOURCE"
TIME=$(($(now_ms) - begin))
tree >"$WORK/tree.good"
grep -q layerfs/ "$WORK/tree.good" || fail "the tree is empty"
fresh

say "$KILLS kills within $TIME ms"
registry_mark
asked >/dev/null
: >"$WORK/finished"
kills=0 resumed=0
while [ $kills -lt $KILLS ]; do
	"$LAMELLA" convert "$SOURCE" --repo "$FQRN" >"$WORK/out" 2>"$WORK/err" &
	pid=$!
	# One after the other at any moment, and soon after a layer is finished.
	if [ $((kills % 2)) = 0 ]; then doze "$TIME"; else
		while kill -0 $pid 2>/dev/null && ! grep -qE ': .* new in storage' "$WORK/err"; do sleep 0.02; done
		doze $((TIME / 10))
	fi
	code=0
	kill -9 $pid 2>/dev/null || true
	wait $pid 2>/dev/null || code=$?
	cat "$WORK/err" >>"$WORK/log/convert.log"
	checked "after kill $kills"
	asked >"$WORK/asked"
	if grep -Ff "$WORK/finished" "$WORK/asked" >"$WORK/again" && [ -s "$WORK/finished" ]; then
		fail "run $kills: fetched again: $(cat "$WORK/again")"
	fi
	! grep -q 'kept from an earlier run' "$WORK/err" || resumed=$((resumed + 1))
	finished >>"$WORK/finished"
	if [ $code = 137 ]; then
		kills=$((kills + 1))
		continue
	fi
	[ $code = 0 ] || fail "run $kills ended with code $code: $(tail -n 3 "$WORK/err")"
	tree | diff "$WORK/tree.good" - >"$WORK/diff" || fail "run $kills came through, but: $(head -n 5 "$WORK/diff")"
	fresh
	: >"$WORK/finished"
done
must "$SOURCE"
asked >"$WORK/asked"
[ ! -s "$WORK/finished" ] || ! grep -Ff "$WORK/finished" "$WORK/asked" || fail "the last run has fetched that again"
checked "at the end"
tree | diff "$WORK/tree.good" - >"$WORK/diff" || fail "the tree at the end: $(head -n 5 "$WORK/diff")"
say "$resumed of these runs found finished layers"
[ $resumed -gt 0 ] || fail "no run found anything finished: nothing was tested"

# A server that takes connections and never answers: the command waits there, all layers of the first image done.
say "killed right before the publication"
python3 -c 'import signal, socket
server = socket.create_server(("127.0.0.1", 5009))
signal.pause()' &
silent=$!
wait_for 20 "the silent server" port_open 127.0.0.1:5009
fresh
"$LAMELLA" convert "$SOURCE" docker://127.0.0.1:5009/never:1 --repo "$FQRN" >"$WORK/out" 2>"$WORK/err" &
pid=$!
count=$(manifest "$LAYOUT" latest | jq '.layers | length')
wait_for $((TIME / 100 + 60)) "the last layer" grep -qE "layer $count of $count, sha256:[0-9a-f]+: .*files" "$WORK/err"
kill -9 $pid
wait $pid 2>/dev/null || true
kill $silent
wait $silent 2>/dev/null || true
checked "killed right before the publication"
asked >/dev/null
"$LAMELLA" convert "$SOURCE" --repo "$FQRN" --dry-run --json >"$WORK/plan" 2>"$WORK/err" || fail "a dry run: $(cat "$WORK/err")"
jq -e --argjson n "$count" '.fetch_layers == 0 and .fetch_bytes == 0 and .kept_layers == ([.images[].layers[].digest] | unique | length) and
	(.images[0].layers | length) == $n and .changed' "$WORK/plan" >/dev/null || fail "the plan after a kill: $(cat "$WORK/plan")"
asked >"$WORK/asked"
[ ! -s "$WORK/asked" ] || fail "a dry run fetched: $(cat "$WORK/asked")"
must "$SOURCE" --json
[ "$(states)" = kept ] || fail "states: $(states)"
asked >"$WORK/asked"
[ ! -s "$WORK/asked" ] || fail "fetched: $(cat "$WORK/asked")"
checked "published out of what was kept"
tree | diff "$WORK/tree.good" - >"$WORK/diff" || fail "the tree of kept layers: $(head -n 5 "$WORK/diff")"

say "failed over another image; then for one of the same layers"
other=$WORK/oci-other
cp -r "$TINY" "$other"
config=$(manifest "$TINY" latest | jq -r .config.digest)
jq -c '.config.Labels = {other: "yes"}' "$TINY/blobs/sha256/${config#sha256:}" >"$other/tmp"
config=$(blob "$other" "$other/tmp" application/vnd.oci.image.config.v1+json)
manifest "$TINY" latest | jq -c --argjson c "$config" '.config = $c' >"$other/tmp"
blob "$other" "$other/tmp" application/vnd.oci.image.manifest.v1+json |
	jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' >"$WORK/index"
mv "$WORK/index" "$other/index.json"
fresh
must "oci:$other:latest" --name example.org/tiny:1
tree >"$WORK/tree.other"
fresh
run_convert "oci:$TINY:latest" "oci:$WORK/nowhere"
[ $CODE = 1 ] || fail "a missing image: exit code $CODE"
must "oci:$other:latest" --name example.org/tiny:1 --json
[ "$(states)" = kept ] || fail "states: $(states)"
checked "layers kept for another image"
tree | diff "$WORK/tree.other" - >"$WORK/diff" || fail "the tree of layers kept for another image: $(head -n 5 "$WORK/diff")"

say "garbage collection in between"
fresh
run_convert "oci:$TINY:latest" "oci:$WORK/nowhere"
"$LAMELLA" repo gc "$FQRN" --keep-days 0 >>"$WORK/log/convert.log" 2>&1 || fail "repo gc"
must "oci:$other:latest" --name example.org/tiny:1 --json
[ "$(states)" = converted ] || fail "states: $(states)"
checked "after a collection"
tree | diff "$WORK/tree.other" - >"$WORK/diff" || fail "the tree after a collection: $(head -n 5 "$WORK/diff")"

say "refused by --strict; what is lost is known when the layer is kept"
mkdir "$WORK/tree"
echo hello >"$WORK/tree/file"
setfattr -n user.long -v "$(printf '%0300d' 0)" "$WORK/tree/file"
tar -C "$WORK/tree" --xattrs --format=posix -cf "$WORK/tmp/tree.tar" file
make_layout "$WORK/oci-long" "$WORK/tmp/tree.tar" /file
for _ in 1 2; do
	run_convert "oci:$WORK/oci-long" --strict
	[ $CODE = 1 ] || fail "--strict: exit code $CODE"
	grep -q 'nothing published' "$WORK/err" || fail "--strict does not say so"
done
must "oci:$WORK/oci-long" --json
[ "$(states)" = kept ] || fail "states: $(states)"
[ "$(jq 'select(.images) | .images[0].layers[0].attributes_lost' "$WORK/out")" = 1 ] || fail "the loss is forgotten"

say "a ledger that is damaged, or can't be written"
fresh
run_convert "oci:$TINY:latest" "oci:$WORK/nowhere"
ledger=$(echo "$LAMELLA_CONFIG_DIR"/state/ledger/*.db)
head -c 20000 /dev/urandom | dd of="$ledger" conv=notrunc status=none
must "oci:$other:latest" --name example.org/tiny:1 --json
[ "$(states)" = converted ] || fail "states: $(states)"
[ -e "$ledger.damaged" ] || fail "the damaged ledger is not kept aside"
checked "without the ledger"
fresh
touch "$LAMELLA_CONFIG_DIR/state"
must "oci:$TINY:latest"
grep -q 'going on without it' "$WORK/err" || fail "not said that there is no ledger"
check_reports
say "ok"
