#!/usr/bin/env bash
# `lamella registry`: CRI pulls by name and digest through the registry on loopback while the real one is stopped; what
# skopeo and curl see; requests that are hostile; the repository unmounted, mounted again, and at a new revision.
# time limit: 120 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_containers
need curl python3
need_image tiny
isolate registry

TINY=$REGISTRY/tiny:latest MULTI=$REGISTRY/multi:latest
MIRROR=127.0.0.1:5050
URL=http://$MIRROR
layout=$LM_IMAGES/oci-tiny

get() { # PATH [OPTION...]: CODE, $WORK/body, $WORK/head
	local path=$1
	: >"$WORK/body"
	shift
	CODE=$(curl -sS --path-as-is -D "$WORK/head" -o "$WORK/body" -w '%{http_code}' "$@" "$URL$path") || CODE=failed
}
expect() { # CODE WORDS PATH [OPTION...]: in the JSON of an error, or in the body
	local code=$1 words=$2
	shift 2
	get "$@"
	[ "$CODE" = "$code" ] || fail "$*: $CODE instead of $code: $(head -c 300 "$WORK/body")"
	grep -qE "$words" "$WORK/body" || fail "$*: does not say '$words': $(head -c 300 "$WORK/body")"
	case $code in 4* | 5*) jq -e '.errors[0] | .code and .message' "$WORK/body" >/dev/null || fail "$*: no error: $(cat "$WORK/body")" ;; esac
}
header() { sed -n "s/^$1: \(.*\)\r$/\1/Ip" "$WORK/head"; }
sha() { echo "sha256:$(sha256sum "$@" | cut -d' ' -f1)"; }
forget() { ctr_ lamella images ls -q | grep -v /pause | while read -r name; do ctr_ lamella images rm --sync "$name"; done >/dev/null; }
runs() { # REF: a pod, pulled by this
	[ "$(pod lamella run "$1" sh -c 'echo from inside')" = "from inside" ] || fail "$1 did not run"
}

# An index of tiny for this machine and, with another config, for another one.
other=arm64
[ "$(dpkg --print-architecture)" != arm64 ] || other=amd64
cp -r "$layout" "$WORK/oci-multi"
one=$(manifest "$layout" latest)
type=$(jq -r '.manifests[0].mediaType' "$layout/index.json")
jq -c --arg a $other '.architecture = $a | del(.variant)' "$layout/blobs/sha256/$(jq -r '.config.digest[7:]' <<<"$one")" >"$WORK/tmp/json"
config=$(blob "$WORK/oci-multi" "$WORK/tmp/json" "$(jq -r .config.mediaType <<<"$one")")
jq -c --argjson c "$config" '.config = $c' <<<"$one" >"$WORK/tmp/json"
blob "$WORK/oci-multi" "$WORK/tmp/json" "$type" >"$WORK/tmp/two"
jq -c --arg this "$(dpkg --print-architecture)" --arg other $other --slurpfile two "$WORK/tmp/two" \
	'{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [
		(.manifests[0] | del(.annotations) | .platform = {os: "linux", architecture: $this}),
		($two[0] | .platform = {os: "linux", architecture: $other})]}' "$layout/index.json" >"$WORK/tmp/json"
blob "$WORK/oci-multi" "$WORK/tmp/json" application/vnd.oci.image.index.v1+json >"$WORK/tmp/index"
jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' "$WORK/tmp/index" >"$WORK/oci-multi/index.json"
index=$(jq -r .digest "$WORK/tmp/index")

registry_start
push_pause
push "$layout:latest" tiny:latest
skopeo copy -q --all --preserve-digests --dest-tls-verify=false "oci:$WORK/oci-multi:latest" "docker://$MULTI"
repo_init
convert "docker://$TINY"
convert "docker://$REGISTRY/pause:latest"
convert "docker://$MULTI" --platform all
stop registry
serve_start
fetcher_start
snapshotter_start
start_listening mirror $MIRROR "$LAMELLA" registry "$FQRN" --mount-base "$MOUNT_BASE" --listen $MIRROR
containerd_start lamella
cat >"$WORK/containerd-lamella/certs.d/$REGISTRY/hosts.toml" <<-END
	server = "http://$REGISTRY"
	[host."$URL"]
	  capabilities = ["pull", "resolve"]
END
digest=$(jq -r '.manifests[0].digest' "$layout/index.json")
config=$(jq -r .config.digest <<<"$one")
layer=$(jq -r '.layers[0].digest' <<<"$one")

say "CRI pulls by tag and by digest while the registry is away"
runs "$TINY"
grep -q "$digest" <<<"$(ctr_ lamella images ls "name==$TINY")" || fail "another digest: $(ctr_ lamella images ls)"
forget
runs "$REGISTRY/tiny@$digest"
forget
runs "$MULTI"
grep -q "$index" <<<"$(ctr_ lamella images ls "name==$MULTI")" || fail "another digest: $(ctr_ lamella images ls)"
forget
runs "$REGISTRY/multi@$index"
forget

say "the index is what lamella pull registers, too"
"$LAMELLA" pull "$MULTI" --offline --namespace k8s.io --address "$(containerd_socket lamella)" >>"$WORK/log/pull.log" 2>&1 || fail "no pull"
grep -q "$index" <<<"$(ctr_ lamella images ls "name==$REGISTRY/multi@$index")" || fail "another digest: $(ctr_ lamella images ls)"
[ "$(pod lamella run --no-pull "$MULTI" sh -c 'echo from inside')" = "from inside" ] || fail "$MULTI did not run"

say "the index is compared, too"
verified() { # CODE SOURCE NAME
	local code=0
	"$LAMELLA" verify "$2" --name "$3" --repo "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" >"$WORK/tmp/verified" 2>&1 || code=$?
	[ $code = "$1" ] || fail "verify $2 $3: code $code: $(cat "$WORK/tmp/verified")"
}
verified 0 "oci:$WORK/oci-multi:latest" "$MULTI"
verified 0 "oci:$layout:latest" "$MULTI" # which the index names
verified 0 "oci:$layout:latest" "$TINY"
verified 1 "oci:$WORK/oci-multi:latest" "$TINY"
grep -qx "  differs /.metadata/$TINY/index.raw: is not published" "$WORK/tmp/verified" || fail "verify: $(cat "$WORK/tmp/verified")"
verified 1 "oci:$WORK/oci-pause" "$MULTI"
grep -qx "  differs /.metadata/$MULTI/index.raw: is an index of other images" "$WORK/tmp/verified" || fail "verify: $(cat "$WORK/tmp/verified")"

say "what clients see"
skopeo inspect --tls-verify=false "docker://$MIRROR/tiny:latest" >"$WORK/tmp/inspect" || fail "skopeo inspect"
jq -e --arg d "$digest" '.Digest == $d and (.RepoTags | index("latest"))' "$WORK/tmp/inspect" >/dev/null || fail "skopeo: $(cat "$WORK/tmp/inspect")"
expect 200 '{}' /v2/
for ref in latest "$digest"; do
	expect 200 . "/v2/tiny/manifests/$ref?ns=${REGISTRY/:/%3A}"
	[ "$(sha "$WORK/body")" = "$digest" ] || fail "another manifest"
	[ "$(header docker-content-digest) $(header content-type)" = "$digest $(jq -r .mediaType <<<"$one")" ] || fail "headers: $(cat "$WORK/head")"
	size=$(header content-length)
	get "/v2/tiny/manifests/$ref" --head
	[ "$CODE $(header content-length) $(header docker-content-digest)" = "200 $size $digest" ] || fail "HEAD: $(cat "$WORK/head")"
	get "/v2/tiny/manifests/$ref" -H "If-None-Match: \"$digest\""
	[ "$CODE $(cat "$WORK/body")" = "304 " ] || fail "If-None-Match: $CODE"
done
expect 200 . "/v2/tiny/blobs/$config"
[ "$(sha "$WORK/body")" = "$config" ] || fail "another config"
expect 200 . "/v2/multi/manifests/latest-linux-$other"
[ "$(sha "$WORK/body")" = "$(jq -r .digest "$WORK/tmp/two")" ] || [ "$(sha "$WORK/body")" = "$index" ] || fail "another manifest"
expect 200 . "/v2/multi/manifests/$(jq -r .digest "$WORK/tmp/two")"
get /v2/_catalog
[ "$(jq -c .repositories "$WORK/body")" = "[\"$REGISTRY/multi\",\"$REGISTRY/pause\",\"$REGISTRY/tiny\"]" ] || fail "catalog: $(cat "$WORK/body")"
get "/v2/_catalog?n=2"
[ "$(jq '.repositories | length' "$WORK/body")" = 2 ] || fail "page: $(cat "$WORK/body")"
next=$(header link | sed -n 's/^<\(.*\)>; rel="next"$/\1/p')
get "$next"
[ "$(jq -c .repositories "$WORK/body") $(header link)" = "[\"$REGISTRY/tiny\"] " ] || fail "last page: $(cat "$WORK/body")"
get /v2/multi/tags/list
jq -e '.name == "multi" and (.tags | index("latest"))' "$WORK/body" >/dev/null || fail "tags: $(cat "$WORK/body")"
expect 404 "BLOB_UNKNOWN.*provided by lamella-snapshotter" "/v2/tiny/blobs/$layer"
expect 404 BLOB_UNKNOWN "/v2/tiny/blobs/sha256:$(printf %064d 0)"
expect 404 MANIFEST_UNKNOWN "/v2/tiny/manifests/sha256:$(printf %064d 0)"
expect 404 MANIFEST_UNKNOWN /v2/tiny/manifests/other
expect 404 MANIFEST_UNKNOWN "/v2/tiny/manifests/latest?ns=docker.io"
expect 404 NAME_UNKNOWN /v2/none/tags/list
expect 404 MANIFEST_UNKNOWN "/v2/pause/manifests/$digest" # it is another's

say "hostile requests"
long=$(printf 'a%.0s' $(seq 2000))
for path in / /v1/ /v2/tiny /v2/tiny/manifests /v2/tiny/uploads/x "/v2/tiny/manifests/latest/../../../etc" "/v2/tiny/manifests/..%2f..%2fx"; do expect 404 UNSUPPORTED $path; done
for path in "/v2/../../etc/manifests/passwd" "/v2/%2e%2e/%2e%2e/manifests/x" "/v2/a%2f..%2f../manifests/latest" "/v2//tiny/manifests/latest" \
	"/v2/.metadata/manifests/x" "/v2/tiny/manifests/.." "/v2/tiny/manifests/latest%00x" \
	"/v2/tiny/manifests/a%zz" "/v2/tiny/blobs/latest" "/v2/tiny/blobs/sha256:.." "/v2/TINY/manifests/latest" "/v2/$long/manifests/latest" \
	"/v2/tiny/manifests/$long" "/v2/tiny/manifests/latest?ns=.." "/v2/tiny/manifests/latest?ns=..%2f.." "/v2/tiny/manifests/latest?ns=$long" \
	"/v2/$REGISTRY/tiny/manifests/latest" "/v2/_catalog?n=x" "/v2/_catalog?n=-1" "/v2/_catalog?last=$long" \
	"/v2/_catalog?last=%zz"; do
	expect 400 . "$path"
done
for method in POST PUT PATCH DELETE OPTIONS; do
	expect 405 UNSUPPORTED /v2/tiny/blobs/uploads/ -X $method --data-binary "@$LM_ROOT/README.md"
	[ "$(header allow)" = "GET, HEAD" ] || fail "$method: $(cat "$WORK/head")"
done
python3 - "$MIRROR" <<'END' || fail "silent clients are in the way"
import socket, sys, urllib.request
host, port = sys.argv[1].split(":")
idle = []
for i in range(40):
    s = socket.create_connection((host, int(port)), 5)
    s.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: ")
    idle.append(s)
assert urllib.request.urlopen("http://%s/v2/" % sys.argv[1], timeout=10).status == 200
for junk in (b"\x00\xff" * 50 + b"\r\n\r\n", b"GET " + b"/" * 100000 + b" HTTP/1.1\r\n\r\n", b"GET /v2/ HTTP/9.9\r\n\r\n"):
    s = socket.create_connection((host, int(port)), 5)
    try:
        s.sendall(junk)
        s.recv(4096)
    except OSError:
        pass
assert urllib.request.urlopen("http://%s/v2/" % sys.argv[1], timeout=10).status == 200
END

say "a document that was changed is not given out by its digest"
at=$MOUNT_BASE/$FQRN/.metadata/$TINY
sed 's/"/ "/' "$at/config.raw" >"$WORK/tmp/damaged"
mount --bind "$WORK/tmp/damaged" "$at/config.raw"
expect 404 BLOB_UNKNOWN "/v2/tiny/blobs/$config?ns=$REGISTRY"
umount "$at/config.raw"
expect 200 . "/v2/tiny/blobs/$config?ns=$REGISTRY"

say "a new revision, and no mount"
convert "oci:$layout" --name "$REGISTRY/new:v1"
planned() { # STATE
	"$LAMELLA" convert "oci:$layout" --name "$MULTI" --repo "$FQRN" --storage "$WORK/storage" --dry-run >"$WORK/tmp/plan" 2>&1 || true
	grep -q ": $1\b" "$WORK/tmp/plan" || fail "the plan: $(cat "$WORK/tmp/plan")"
}
planned completed
convert "oci:$layout" --name "$MULTI" # stands for no index any more
planned unchanged
verified 1 "oci:$WORK/oci-multi:latest" "$MULTI"
"$LAMELLA" update >/dev/null
expect 200 . /v2/new/manifests/v1
expect 200 . /v2/multi/manifests/latest
[ "$(sha "$WORK/body")" = "$digest" ] || fail "an index of before"
"$LAMELLA" rm "$MULTI" --repo "$FQRN" --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "rm"
"$LAMELLA" update >/dev/null
expect 404 MANIFEST_UNKNOWN /v2/multi/manifests/latest
[ ! -e "$MOUNT_BASE/$FQRN/.metadata/$MULTI" ] || fail "left: $(ls "$MOUNT_BASE/$FQRN/.metadata/$MULTI")"
stop fetcher
expect 503 "UNAVAILABLE.*not mounted" /v2/tiny/manifests/latest
fetcher_start
expect 200 . /v2/tiny/manifests/latest
stop mirror
"$LAMELLA" registry >/dev/null 2>&1 && fail "no repository is no mistake" || [ $? = 2 ] || fail "another code"
check_reports
say "done"
