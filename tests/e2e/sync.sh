#!/usr/bin/env bash
# `lamella sync`: DUCC's recipe and our own wish lists, wildcards, a bad image among good ones, nothing asked for that is
# known, notifications of a real registry and forged ones, the loop, HUP, TERM, what is not wished for any more.
# time limit: 180 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need docker-registry skopeo jq python3 tar curl
need_built "$ALONE" "$LAMELLA"
isolate sync

export LAMELLA_CONFIG_DIR=$WORK/config
LIST=$WORK/wishes.yaml
LISTEN=127.0.0.1:8100
SECRET=a-secret-of-some-length

image() { # NAME: a layout $WORK/oci-NAME of one small layer of its own
	local dir=$WORK/tree-$1
	mkdir -p "$dir"
	echo "$1" >"$dir/name"
	head -c 20000 /dev/urandom >"$dir/noise"
	tar -C "$dir" -cf "$WORK/tmp/tree.tar" name noise
	LAYER_GZIP=1 make_layout "$WORK/oci-$1" "$WORK/tmp/tree.tar" /name
}
revision() { "$LAMELLA" repo info "$FQRN" --json | jq .revision; }
run_sync() { # ARGUMENT...
	CODE=0
	"$LAMELLA" sync "$LIST" "$@" >"$WORK/out" 2>"$WORK/err" || CODE=$?
	{ echo "--- sync $*" && cat "$WORK/out" "$WORK/err"; } >>"$WORK/log/sync-once.log"
	! grep -F "$SECRET" "$WORK/out" "$WORK/err" || fail "sync $*: the secret is shown"
}
expect() { # CODE PATTERN ARGUMENT...
	local code=$1 pattern=$2
	shift 2
	run_sync "$@"
	[ $CODE = "$code" ] || fail "sync $*: exit code $CODE instead of $code: $(cat "$WORK/err")"
	grep -qE "$pattern" "$WORK/out" "$WORK/err" || fail "sync $*: does not say '$pattern': $(cat "$WORK/err")"
}
of_status() { "$LAMELLA" sync "$LIST" --status --json | jq -r "$1"; }
known() { # NAME: is published, by the state and by the repository
	of_status '.images[] | select(.image) | .name' | has -xF "$1" && "$LAMELLA" images --repo "$FQRN" 2>/dev/null | has -F "$1"
}
requests() { registry_log | grep -oE '"(GET|HEAD) /v2/[^"]*"' || true; }

cat >"$WORK/registry.yml" <<-END2
	version: 0.1
	log: {level: error, accesslog: {disabled: false}}
	storage: {filesystem: {rootdirectory: $WORK/registry}, cache: {blobdescriptor: inmemory}}
	http: {addr: $REGISTRY, secret: none}
	notifications:
	  endpoints:
	    - name: lamella
	      url: http://$LISTEN/notify
	      headers: {Authorization: [Bearer $SECRET]}
	      timeout: 1s
	      threshold: 2
	      backoff: 1s
END2
start_listening registry "$REGISTRY" docker-registry serve "$WORK/registry.yml"
repo_init
for i in one two three four; do image $i; done
push "$WORK/oci-one:latest" group/app:v1
push "$WORK/oci-two:latest" group/app:v2
push "$WORK/oci-three:latest" group/app:dev
push "$WORK/oci-four:latest" solo:latest

say "lists that are wrong"
wrong() { # PATTERN, the list on standard input
	cat >"$LIST"
	expect 2 "$1"
}
wrong '3:1: unknown key "imput"' <<-END2
	version: 2
	repositories: []
	imput: []
END2
wrong '2:13: repository: a text' <<-END2
	version: 1
	cvmfs_repo: [a]
	input: []
END2
wrong 'wishes.yaml: 1:10: version: 1' <<<'version: 3'
wrong 'wishes.yaml: 4:1: .*flow sequence' <<<$'version: 1\ninput: [a\n'
expect 2 'unrecognized option' --nonsense

say "DUCC's recipe, with a bad image among good ones"
cat >"$LIST" <<-END2
	version: 1
	user: somebody
	cvmfs_repo: $FQRN
	output_format: '\$(scheme)://registry.example.org/thin/\$(image)'
	input:
	        - 'http://$REGISTRY/group/app:v*'
	        - 'http://$REGISTRY/none:latest'
	        - '$REGISTRY/solo'
END2
# A blob that is not what its digest says: the image's only layer.
bad=$(manifest "$WORK/oci-two" latest | jq -r '.layers[0].digest')
blob=$WORK/registry/docker/registry/v2/blobs/sha256/${bad:7:2}/${bad:7}/data
cp "$blob" "$WORK/good-blob"
python3 -c 'import sys; d = bytearray(open(sys.argv[1], "rb").read()); d[-9] ^= 1; open(sys.argv[1], "wb").write(d)' "$blob"
expect 1 'revision 2 published: 2 images new'
grep -q 'has no none:latest' "$WORK/err" || fail "the missing image is not named"
grep -q "app:v2: .*${bad:7:12}" "$WORK/err" || fail "the damaged image is not named: $(cat "$WORK/err")"
known "$REGISTRY/group/app:v1" || fail "app:v1 is not there"
known "$REGISTRY/solo:latest" || fail "solo is not there"
! known "$REGISTRY/group/app:v2" || fail "a damaged image was published"
[ "$(of_status '[.images[] | select(.error)] | length')" = 2 ] || fail "failures are not remembered: $(of_status .)"
find_layer() { "$LAMELLA" inspect tree "$FQRN" | has -F "/.layers/${1:7:2}/${1:7}"; }
! find_layer "$bad" || fail "a layer of the image that failed is in the revision"
"$LAMELLA" repo check "$FQRN" --objects >>"$WORK/log/check.log" 2>&1 || fail "repo check"
"$LAMELLA" images --repo "$FQRN" | has -E "^$REGISTRY/group/app:v2 .*attempt 1: .*${bad:7:12}.*never published" ||
	fail "images: $("$LAMELLA" images --repo "$FQRN")"
[ "$("$LAMELLA" images --repo "$FQRN" --json | jq -c '[.failing[] | .published, .attempts, .list]')" = "[false,1,\"$LIST\",false,1,\"$LIST\"]" ] ||
	fail "images --json: $("$LAMELLA" images --repo "$FQRN" --json)"
"$LAMELLA" sync "$LIST" --status | has 'failing .*app:v2' || fail "--status: $("$LAMELLA" sync "$LIST" --status)"

say "it gets well"
cp "$WORK/good-blob" "$blob"
expect 1 'revision 3 published: 1 image new'
known "$REGISTRY/group/app:v2" || fail "app:v2 is not there"
[ "$("$LAMELLA" images --repo "$FQRN" --json | jq -r '.failing[].name')" = "$REGISTRY/none:latest" ] || fail "app:v2 fails still"

say "nothing new: one HEAD request for each, one list, no revision"
sed -i '/none:latest/d' "$LIST"
expect 0 '3 images looked at .* 0 new, 0 failed'
registry_mark
expect 0 '3 images looked at .* 0 new, 0 failed'
[ "$(requests | grep -c '"HEAD /v2/[^ ]*/manifests/')" = 3 ] || fail "requests: $(requests)"
[ "$(requests | grep -c 'tags/list')" = 1 ] || fail "requests: $(requests)"
[ "$(requests | wc -l)" = 4 ] || fail "requests: $(requests)"
[ "$(revision)" = 3 ] || fail "revision $(revision)"
[ "$(of_status '[.images[] | select(.error)] | length')" = 0 ] || fail "an old failure is remembered"

say "somebody else removes an image"
"$LAMELLA" rm "$REGISTRY/solo:latest" --repo "$FQRN" >>"$WORK/log/check.log" 2>&1 || fail "rm"
expect 0 'revision 5 published: 1 image new'
known "$REGISTRY/solo:latest" || fail "solo did not come back"

say "the daemon: metrics, health, notifications"
echo "$SECRET" >"$WORK/secret"
cat >"$LIST" <<-END2
	version: 2
	grace: 0s
	repositories:
	  - repository: $FQRN
	    flat: false
	    images:
	      - image: http://$REGISTRY/group/app:*
	        exclude: ['*-rc*']
	      - http://$REGISTRY/solo
END2
start_listening sync "$LISTEN" "$LAMELLA" sync "$LIST" --listen "$LISTEN" --secret "$WORK/secret"
wait_for 10 "the first round" known "$REGISTRY/group/app:dev"
fetch() { curl -sS -o "$WORK/page" -w '%{http_code}' "$@"; }
[ "$(fetch "http://$LISTEN/healthz")" = 200 ] || fail "healthz: $(cat "$WORK/page")"
[ "$(fetch "http://$LISTEN/metrics")" = 200 ] || fail "metrics"
python3 "$LM_ROOT/tests/e2e/exposition.py" <"$WORK/page" >/dev/null || fail "metrics are no exposition"
grep -q "lamella_sync_image_failing{repository=\"$FQRN\",image=\"$REGISTRY/group/app:dev\"} 0" "$WORK/page" || fail "no metrics of images"

say "a pushed tag is there within seconds"
push "$WORK/oci-one:latest" group/app:new
start_ms=$(now_ms)
wait_for 10 "app:new" known "$REGISTRY/group/app:new"
say "  after $(($(now_ms) - start_ms)) ms"
push "$WORK/oci-two:latest" group/app:2.0-rc1
push "$WORK/oci-two:latest" group/other:1
metric() { curl -sS "http://$LISTEN/metrics" | awk -v n="lamella_sync_$1" '$1 == n { print $2 }'; }
unwished() { [ "$(metric notified_unwished_total)" -ge 2 ]; }
wait_for 10 "notifications that nobody wishes for" unwished
! known "$REGISTRY/group/app:2.0-rc1" || fail "an excluded tag was published"

say "notifications that are none"
post() { fetch -X POST "http://$LISTEN/notify" "$@"; }
[ "$(post -d '{}')" = 401 ] || fail "no secret"
[ "$(post -H "Authorization: Bearer wrong-$SECRET" -d '{}')" = 401 ] || fail "a wrong secret"
auth=(-H "Authorization: Bearer $SECRET")
[ "$(post "${auth[@]}" -d '{"events": 7}')" = 400 ] || fail "malformed"
[ "$(post "${auth[@]}" -d '{"events": [{"action": "pull"}]}')" = 202 ] || fail "a pull"
[ "$(head -c 1100000 /dev/zero | post "${auth[@]}" --data-binary @-)" = 413 ] || fail "too large"
[ "$(post -H "Authorization: $SECRET" -d '{"type": "PUSH_ARTIFACT", "event_data": {"repository": {"repo_full_name":
	"group/app"}, "resources": [{"tag": "v1"}]}}')" = 202 ] || fail "Harbor's"
[ "$(fetch "http://$LISTEN/nothing")" = 404 ] || fail "404"
[ "$(fetch -X PUT "http://$LISTEN/metrics")" = 405 ] || fail "405"
for i in $(seq 300); do printf 'next\nurl = "http://%s/notify"\nheader = "Authorization: %s"\ndata = "{}"\noutput = /dev/null\nwrite-out = "%%{http_code}\\n"\n' "$LISTEN" "$SECRET"; done |
	sed 1d >"$WORK/curlrc"
curl -sS -K "$WORK/curlrc" >"$WORK/codes"
grep -q 429 "$WORK/codes" || fail "no limit: $(sort "$WORK/codes" | uniq -c)"
! grep -F "$SECRET" "$WORK/log/sync.log" || fail "the secret is in the log"

say "HUP: a list that is wrong, then one without solo"
good=$(cat "$LIST")
echo 'version: 9' >"$LIST"
kill -HUP "$(pid_of sync)"
unhealthy() { [ "$(fetch "http://$LISTEN/healthz")" = 503 ] && grep -q 'wish list is wrong' "$WORK/page"; }
wait_for 10 "the wrong list to be said" unhealthy
grep -q 'the list read before stays in force' "$WORK/log/sync.log" || fail "not said"
push "$WORK/oci-three:latest" group/app:later
wait_for 10 "app:later by the old list" known "$REGISTRY/group/app:later"
echo "$good" | sed '/solo/d' >"$LIST"
kill -HUP "$(pid_of sync)"
solo_unwished() { of_status '.images[] | select(.unwished) | .name' | has -xF "$REGISTRY/solo:latest"; }
wait_for 10 "solo to be unwished" solo_unwished
known "$REGISTRY/solo:latest" || fail "taken away without --prune"
expect 1 'another .lamella sync. has this list'
stop sync
stop registry

say "a registry that is down: said, and nothing is unwished for it"
expect 1 'not asked again|refused|connect' --prune
known "$REGISTRY/group/app:v1" || fail "an image went with its registry"

say "--loop, and --prune"
start_listening registry "$REGISTRY" docker-registry serve "$WORK/registry.yml"
start sync "$LAMELLA" sync "$LIST" --loop 1 --prune
gone() { ! known "$REGISTRY/solo:latest"; }
wait_for 10 "solo to go" gone
push "$WORK/oci-four:latest" group/app:looped
wait_for 10 "app:looped" known "$REGISTRY/group/app:looped"
stop sync

say "the list asks for more of an image that has not changed"
LIST=$WORK/more.yaml
image five
push "$WORK/oci-five:latest" more:v1
asks_for() { # FLAT TREES
	cat >"$LIST" <<-END2
		version: 2
		repositories:
		  - repository: $FQRN
		    flat: $1
		    trees: $2
		    images: ['http://$REGISTRY/more:v1']
	END2
}
parts() { "$LAMELLA" images --repo "$FQRN" --json | jq -c '.images[] | select(.name == "'"$REGISTRY"'/more:v1") | [.flat, .tree]'; }
asks_for false false
expect 0 'revision [0-9]+ published: 1 image new'
before=$(parts)
asks_for true true
registry_mark
expect 0 'revision [0-9]+ published: 1 image new'
[ "$before $(parts)" = "[false,false] [true,true]" ] || fail "parts: $before, then $(parts)"
! requests | grep '/blobs/' | has "$(manifest "$WORK/oci-five" latest | jq -r '.layers[0].digest')" || fail "the layer was fetched again: $(requests)"
expect 0 '1 images looked at .* 0 new, 0 failed'
"$LAMELLA" repo check "$FQRN" --objects >>"$WORK/log/check.log" 2>&1 || fail "repo check"
check_reports
say "ok"
