#!/usr/bin/env bash
# `lamella pull`: an image in containerd without CRI, from the registry, from the repository alone, with layers that no
# repository has; two at once, killed, interrupted, damaged, refused; and everything given back.
# time limit: 180 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need_image tiny
isolate pull

TINY=$REGISTRY/tiny:latest
N=tests
CTR=("${CONTAINERD_BIN:+$CONTAINERD_BIN/}ctr" -a "$(containerd_socket lamella)" -n "$N")
REPO=(--repo "$FQRN" --mount-base "$MOUNT_BASE")
export CONTAINERD_ADDRESS CONTAINERD_NAMESPACE=$N
CONTAINERD_ADDRESS=$(containerd_socket lamella)

pull() { # REF [OPTION]...: CODE, $WORK/out, $WORK/err
	CODE=0
	"$LAMELLA" pull "$@" >"$WORK/out" 2>"$WORK/err" || CODE=$?
	{ echo "--- pull $*: $CODE" && cat "$WORK/out" "$WORK/err"; } >>"$WORK/log/pull.log"
}
pulled() { # REF [OPTION]...
	pull "$@"
	[ $CODE = 0 ] || fail "pull $*: code $CODE: $(cat "$WORK/err")"
}
refused() { # WORDS REF [OPTION]...
	local words=$1
	shift
	pull "$@"
	[ $CODE = 1 ] || fail "pull $*: code $CODE instead of 1: $(cat "$WORK/out" "$WORK/err")"
	grep -qE "$words" "$WORK/err" || fail "pull $*: does not say '$words': $(cat "$WORK/err")"
}
run() { # REF COMMAND...: in a container
	local ref=$1
	shift
	timeout 60 "${CTR[@]}" run --rm --snapshotter lamella "$ref" "c-$RANDOM" "$@"
}
snapshots() { ctr_ lamella snapshots --snapshotter lamella ls | tail -n +2; "${CTR[@]}" snapshots --snapshotter lamella ls | tail -n +2; }
content() { "${CTR[@]}" content ls -q; ctr_ lamella content ls -q; }
leases() { "${CTR[@]}" leases ls -q | sort; }
directories() { find "$WORK/snapshotter/snapshots" -mindepth 1 -maxdepth 1; }
nothing_left() { # after a collection of garbage, which a removal brings about
	"${CTR[@]}" leases create --id collect-me >/dev/null 2>&1 && "${CTR[@]}" leases rm --sync collect-me >/dev/null 2>&1
	{ "${CTR[@]}" images ls -q; leases; snapshots; content; directories; } >"$WORK/log/left.log" 2>&1 || true
	[ -z "$(snapshots)$(content)$(directories)" ]
}
forget() { # every name, in both namespaces
	"${CTR[@]}" images ls -q | xargs -r "${CTR[@]}" images rm --sync >/dev/null
	ctr_ lamella images ls -q | while read -r name; do ctr_ lamella images rm --sync "$name"; done >/dev/null
	wait_for 20 "everything to go: $(snapshots; content; directories)" nothing_left
}

registry_start
push_pause
push "$LM_IMAGES/oci-tiny:latest" tiny:latest
repo_init
convert "docker://$TINY"
serve_start
fetcher_start
snapshotter_start
containerd_start lamella
layers=$(manifest "$LM_IMAGES/oci-tiny" latest | jq '.layers | length')
digest=$(jq -r '.manifests[0].digest' "$LM_IMAGES/oci-tiny/index.json")

say "from the registry, without a layer"
registry_mark
pulled "$TINY" --json
jq -e --arg d "$digest" --argjson n "$layers" '.from == "registry" and .digest == $d and
	([.layers[] | select(.state == "lazy")] | length) == $n' "$WORK/out" >/dev/null || fail "report: $(cat "$WORK/out")"
[ "$(run "$TINY" sh -c 'echo from inside' 2>&1)" = "from inside" ] || fail "the container did not run"
[ -z "$(registry_layer_requests "$LM_IMAGES/oci-tiny")" ] || fail "layers were asked for"
grep -q "$digest" <<<"$("${CTR[@]}" images ls "name==$TINY")" || fail "no image"
pulled "$TINY"
grep -q "$layers layers: $layers lazy" "$WORK/out" || fail "again: $(cat "$WORK/out")"
[ -z "$("${CTR[@]}" leases ls -q)" ] || fail "a lease is left"

say "an image that is removed gives everything back"
forget

say "without the registry, by the signed repository"
convert "oci:$WORK/oci-pause" --name "$REGISTRY/pause:latest"
"$LAMELLA" update >/dev/null
stop registry
pulled "$TINY" "${REPO[@]}" --json
jq -e --argjson n "$layers" '.from == "repository" and ([.layers[] | select(.state == "lazy")] | length) == $n' \
	"$WORK/out" >/dev/null || fail "report: $(cat "$WORK/out")"
grep -q "the registry can't be reached" "$WORK/err" || fail "not said why: $(cat "$WORK/err")"
[ "$(run "$TINY" sh -c 'echo from inside' 2>&1)" = "from inside" ] || fail "the container did not run"
pulled "$REGISTRY/tiny@$digest" --offline "${REPO[@]}"
[ "$(run "$REGISTRY/tiny@$digest" sh -c 'echo by digest' 2>&1)" = "by digest" ] || fail "not by digest"
for image in tiny pause; do pulled "$REGISTRY/$image:latest" --offline --namespace k8s.io; done # the fetcher says where
grep -qx "$REGISTRY/tiny@$digest" <<<"$(ctr_ lamella images ls -q)" || fail "names: $(ctr_ lamella images ls -q)"
[ "$(pod lamella run --no-pull "$TINY" sh -c 'echo from a pod')" = "from a pod" ] || fail "no pod"
refused "no repository here has sha256:0+ of $REGISTRY/tiny" "$REGISTRY/tiny@sha256:$(printf %064d 0)" --offline "${REPO[@]}"
refused "no repository here has latest of $REGISTRY/other" "$REGISTRY/other:latest" "${REPO[@]}"
refused "is not mounted" "$TINY" --offline --repo other.lamella.test --mount-base "$MOUNT_BASE"
refused "nor from a repository: .*is not mounted" "$TINY" --repo "$FQRN" --mount-base "$WORK"
refused "no image for platform|only image is for platform" "$TINY" --offline "${REPO[@]}" --platform linux/s390x
refused "containerd: .*snapshotter not loaded: none" "$TINY" --offline "${REPO[@]}" --snapshotter none
refused "containerd is not running" "$TINY" --offline "${REPO[@]}" --address "$WORK/none.sock"
cri lamella rmi "$TINY" >/dev/null
forget

say "damaged documents are refused"
at=$MOUNT_BASE/$FQRN/.metadata/$TINY
for file in config manifest; do
	sed 's/"/ "/' "$at/$file.raw" >"$WORK/tmp/damaged" # the same JSON, another digest
	mount --bind "$WORK/tmp/damaged" "$at/$file.raw"
	if [ $file = config ]; then
		refused "no repository here has sha256:.* of $REGISTRY/tiny" "$TINY" --offline "${REPO[@]}"
	else
		refused "no repository here has $digest" "$REGISTRY/tiny@$digest" --offline "${REPO[@]}"
	fi
	umount "$at/$file.raw"
done
echo '{"schemaVersion": 2, "config": {' >"$WORK/tmp/damaged"
mount --bind "$WORK/tmp/damaged" "$at/manifest.raw"
refused "manifest" "$TINY" --offline "${REPO[@]}"
umount "$at/manifest.raw"
[ -z "$(snapshots)$(content)" ] || fail "left: $(snapshots; content)"

# tiny, and a layer on top that no repository has.
say "a layer that no repository has"
registry_start
cp -r "$LM_IMAGES/oci-tiny" "$WORK/oci-more"
mkdir "$WORK/more"
head -c 3000000 /dev/urandom >"$WORK/more/more"
tar -C "$WORK" --owner=0 --group=0 -cf "$WORK/tmp/more.tar" more
id=sha256:$(sha256sum "$WORK/tmp/more.tar" | cut -d' ' -f1)
top=$(blob "$WORK/oci-more" "$WORK/tmp/more.tar" application/vnd.oci.image.layer.v1.tar)
old=$(manifest "$WORK/oci-more" latest)
jq -c --arg id "$id" '.rootfs.diff_ids += [$id] | del(.history)' \
	"$WORK/oci-more/blobs/sha256/$(jq -r '.config.digest[7:]' <<<"$old")" >"$WORK/tmp/json"
config=$(blob "$WORK/oci-more" "$WORK/tmp/json" "$(jq -r .config.mediaType <<<"$old")")
jq -c --argjson c "$config" --argjson t "$top" '.config = $c | .layers += [$t]' <<<"$old" >"$WORK/tmp/json"
blob "$WORK/oci-more" "$WORK/tmp/json" "$(jq -r '.manifests[0].mediaType' "$WORK/oci-more/index.json")" >"$WORK/tmp/new"
jq -c --slurpfile n "$WORK/tmp/new" '.manifests[0] += $n[0]' "$WORK/oci-more/index.json" >"$WORK/tmp/json"
mv "$WORK/tmp/json" "$WORK/oci-more/index.json"
MORE=$REGISTRY/more:latest
push "$WORK/oci-more:latest" more:latest
refused "layer $(jq -r .digest <<<"$top") is not provided by snapshotter lamella \(.+\), and --lazy-only is given; .*lamella convert" "$MORE" --lazy-only
pulled "$MORE"
grep -qE "layer $(jq -r .digest <<<"$top") .*: fetched, 3.0 MB: .+" "$WORK/err" || fail "not said: $(cat "$WORK/err")"
grep -q "$layers lazy, 1 fetched; by the registry" "$WORK/out" || fail "report: $(cat "$WORK/out")"
refused "layer $(jq -r .digest <<<"$top") was unpacked here before \(.+\), and --lazy-only is given" "$MORE" --lazy-only
[ "$(run "$MORE" sha256sum /more/more 2>&1)" = "$(sha256sum <"$WORK/more/more" | cut -d' ' -f1)  /more/more" ] || fail "other content"
grep -q "$(jq -r .digest <<<"$top")" <<<"$("${CTR[@]}" content ls -q)" || fail "the blob is not kept"
forget

say "a blob that somebody else is writing is waited for"
more=$(jq -r .digest <<<"$top")
being_written() { grep -q "$more" <<<"$("${CTR[@]}" content active)"; }
mkfifo "$WORK/tmp/blob"
"${CTR[@]}" content ingest --expected-digest "$more" "lamella-$more" <"$WORK/tmp/blob" >>"$WORK/log/pull.log" 2>&1 &
writer=$!
exec 9>"$WORK/tmp/blob"
wait_for 20 "the other to begin" being_written
"$LAMELLA" pull "$MORE" 9>&- >"$WORK/out" 2>"$WORK/err" &
worker=$!
sleep 2
kill -0 $worker 2>/dev/null || fail "did not wait: $(cat "$WORK/err")"
cat "$WORK/oci-more/blobs/sha256/${more#sha256:}" >&9
exec 9>&-
wait $writer || fail "the other failed: $(tail -n 3 "$WORK/log/pull.log")"
wait $worker || fail "pull: $(cat "$WORK/err")"
grep -q "$layers lazy, 1 fetched" "$WORK/out" || fail "report: $(cat "$WORK/out")"
forget
stop snapshotter
snapshotter_start LAMELLA_ON_MISS=fail
refused "containerd: .*Prepare" "$MORE"
# Before it stops: containerd does not collect anew what a snapshotter that was away kept.
wait_for 20 "everything to go" nothing_left
stop snapshotter
snapshotter_start

# With kill -9 its lease stays, until it ends by itself; with TERM it takes the lease away. At one moment after another, by turns,
# until both were seen twice.
say "killed in the middle, nothing is left after its lease, and the next run works"
new_leases() { comm -13 <(echo "$before") <(leases); } # of an earlier one, a lease may still be there
killed=0 ended=0
for ((try = 0; try < 160 && (killed < 2 || ended < 2); try++)); do
	signal=TERM
	[ $((try % 2)) = 1 ] || [ $killed -gt 1 ] || signal=KILL
	code=0
	before=$(leases)
	"$LAMELLA" pull "$MORE" --lease 4 >>"$WORK/log/pull.log" 2>&1 &
	worker=$!
	sleep "$(printf 0.%03d $((30 + try * 70 % 800)))"
	kill -$signal $worker 2>/dev/null || true
	wait $worker 2>/dev/null || code=$?
	if [ $signal = KILL ]; then
		[ -z "$(new_leases)" ] || killed=$((killed + 1))
	else
		[ $code = 0 ] || [ $code = 143 ] || fail "ended with code $code"
		[ -z "$(new_leases)" ] || fail "ended, and left its lease: $(new_leases)"
		[ $code = 0 ] || ended=$((ended + 1))
	fi
	"${CTR[@]}" images rm --sync "$MORE" >/dev/null 2>&1 || true
done
[ $((killed > 1 && ended > 1)) = 1 ] || fail "killed $killed times in the middle, ended $ended times"
# What was under way when the last one was killed may come to its end in containerd after the removal: an image, then.
nothing_left_but_an_image() {
	"${CTR[@]}" images rm --sync "$MORE" >/dev/null 2>&1 || true
	nothing_left
}
wait_for 30 "everything to go" nothing_left_but_an_image
[ -z "$("${CTR[@]}" content active | tail -n +2)" ] || fail "left: $("${CTR[@]}" content active)"
[ -z "$(leases)" ] || fail "left: $(leases)"
pulled "$MORE"
[ "$(run "$MORE" sh -c 'echo after the kills' 2>&1)" = "after the kills" ] || fail "the container did not run"
forget

say "words that are wrong"
for words in "" "oci:$WORK/oci-more" "UPPER/case:x" "a b"; do
	pull ${words:+"$words"}
	[ $CODE = 2 ] || fail "pull '$words': code $CODE"
done
pull "$TINY" --platform linux
[ $CODE = 2 ] || fail "a platform: code $CODE"
check_reports
say "done"
