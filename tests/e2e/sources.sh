#!/usr/bin/env bash
# Where `lamella convert` gets images from: archives of all kinds give what the layout gives; registries with a password
# and a certificate of their own, with tokens that die, with limits, with blobs elsewhere and broken connections; mirrors;
# every platform of an index.
# time limit: 180 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need docker-registry skopeo jq python3 tar gzip zstd openssl perl
need_built "$ALONE" "$LAMELLA"
isolate sources

export LAMELLA_CONFIG_DIR=$WORK/config HOME=$WORK/home
unset XDG_RUNTIME_DIR XDG_CONFIG_HOME DOCKER_CONFIG REGISTRY_AUTH_FILE
mkdir -p "$HOME"
TINY=$WORK/oci-tiny
REPO=$WORK/storage/cvmfs/$FQRN
A=$WORK/archives
mkdir "$A" "$WORK/tree"

# An image that is quickly converted: three megabytes that can't be compressed, some files and links.
head -c 3000000 /dev/urandom >"$WORK/tree/noise"
for i in $(seq 50); do echo "file $i" >"$WORK/tree/file$i"; done
ln "$WORK/tree/file1" "$WORK/tree/hard"
ln -s file1 "$WORK/tree/soft"
tar -C "$WORK/tree" -cf "$WORK/tmp/tree.tar" .
LAYER_GZIP=1 make_layout "$TINY" "$WORK/tmp/tree.tar" /hard

run_convert() { # ARGUMENT...: exit code in $CODE, what it said in $WORK/{out,err}
	CODE=0
	"$LAMELLA" convert "$@" --repo "$FQRN" >"$WORK/out" 2>"$WORK/err" || CODE=$?
	{ echo "--- convert $*" && cat "$WORK/out" "$WORK/err"; } >>"$WORK/log/convert.log"
	[ "$1" != --json ] || sed -i '$!d' "$WORK/out" # the report, without the events before it
	! grep -E 'secret|dXNlcjpz|identity' "$WORK/out" "$WORK/err" || fail "convert $*: a secret is shown"
}
expect() { # CODE PATTERN ARGUMENT...
	local code=$1 pattern=$2
	shift 2
	run_convert "$@"
	[ $CODE = "$code" ] || fail "convert $*: exit code $CODE instead of $code"
	grep -qE "$pattern" "$WORK/out" "$WORK/err" || fail "convert $*: does not say '$pattern'"
}
fresh_repo() {
	rm -rf "$WORK/storage" "$WORK/keys" "$LAMELLA_CONFIG_DIR"
	repo_init
}
# The files' contents, whatever layers they came in: all objects that are neither catalogs nor of the repository itself,
# nor the JSON beside layers and images.
contents() { find "$REPO/data" -type f -name '*[0-9a-f]' -printf '%f %s\n' | sort; }
files_of() { # REPORT: what the layers hold, bottom first
	jq -c '[.images[0].layers[] | [.diff_id, .files, .file_bytes]]' "$1"
}

say "the layout itself"
fresh_repo
run_convert --json "oci:$TINY:latest" --name example.org/tiny:1
[ $CODE = 0 ] || fail "the layout"
files_of "$WORK/out" >"$WORK/wanted"
jq '[.images[0].layers[].digest]' "$WORK/out" >"$WORK/wanted.digests"
contents >"$WORK/wanted.contents"

same() { # WHAT SOURCE [digests|objects]
	say "$1"
	fresh_repo
	run_convert --json "$2" --name example.org/tiny:1
	[ $CODE = 0 ] || fail "$1: $(cat "$WORK/err")"
	files_of "$WORK/out" | cmp -s - "$WORK/wanted" || fail "$1: other files: $(files_of "$WORK/out")"
	if [ -n "${3:-}" ]; then
		jq '[.images[0].layers[].digest]' "$WORK/out" | cmp -s - "$WORK/wanted.digests" || fail "$1: other layers"
	fi
	if [ "${3:-}" = objects ]; then
		contents | cmp -s - "$WORK/wanted.contents" || fail "$1: other objects"
	fi
	"$LAMELLA" repo check "$FQRN" --storage "$WORK/storage" >>"$WORK/log/convert.log" 2>&1 || fail "$1: repo check"
}
copy() { skopeo --insecure-policy copy -q "$@" >>"$WORK/log/skopeo.log" 2>&1 || fail "skopeo copy $*"; }
copy "oci:$TINY:latest" "oci-archive:$A/oci.tar:latest"
copy "oci:$TINY:latest" "docker-archive:$A/docker.tar:tiny:one"
gzip -1k "$A/docker.tar"
zstd -q "$A/oci.tar" -o "$A/oci.tar.zst"
mkdir "$A/new" # as Docker 25 has it: the layout and manifest.json in one
cp -r "$TINY/." "$A/new"
manifest "$TINY" latest | jq -c '[{Config: ("blobs/sha256/" + (.config.digest | ltrimstr("sha256:"))),
	RepoTags: ["tiny:one"], Layers: [.layers[].digest | "blobs/sha256/" + ltrimstr("sha256:")]}]' >"$A/new/manifest.json"
tar -C "$A/new" -cf "$A/new.tar" .

same "oci-archive" "oci-archive:$A/oci.tar" objects
same "oci-archive, compressed" "oci-archive:$A/oci.tar.zst:latest" objects
grep -q 'compressed as a whole' "$WORK/err" || fail "unpacking is not said"
same "docker-archive" "docker-archive:$A/docker.tar"
same "docker-archive, compressed" "docker-archive:$A/docker.tar.gz:tiny:one"
same "docker-archive, new" "docker-archive:$A/new.tar:docker.io/library/tiny:one" digests

say "several images in one docker-archive"
mkdir "$A/two"
tar -C "$A/two" -xf "$A/docker.tar"
jq -c '[.[0], (.[0] | .RepoTags = ["example.org/other:2"])]' "$A/two/manifest.json" >"$A/two/m"
mv "$A/two/m" "$A/two/manifest.json"
tar -C "$A/two" --format=gnu -cf "$A/two.tar" .
expect 1 'holds 2 images.*tiny:one, example.org/other:2' "docker-archive:$A/two.tar"
expect 1 'has no image docker.io/library/none:latest' "docker-archive:$A/two.tar:none"
expect 1 'has no image @2' "docker-archive:$A/two.tar:@2"
expect 0 '^example.org/other:2 ' "docker-archive:$A/two.tar:@1"
expect 0 '^docker.io/library/tiny:one ' "docker-archive:$A/two.tar:tiny:one"

say "damaged archives"
head -c 100000 "$A/oci.tar" >"$A/cut.tar"
expect 1 'ends in the middle' "oci-archive:$A/cut.tar"
head -c 100000 /dev/urandom >"$A/noise.tar"
expect 1 'damaged tar' "docker-archive:$A/noise.tar"
head -c 100000 "$A/docker.tar.gz" >"$A/cut.tar.gz"
expect 1 'unpacking|damaged|ends in the middle' "docker-archive:$A/cut.tar.gz"
expect 1 'no manifest.json' "docker-archive:$A/oci.tar"
expect 1 'no OCI image layout' "oci-archive:$A/docker.tar"
expect 1 'No such file' "oci-archive:$A/nothing.tar"

say "a registry with a password and a certificate of its own"
mkdir "$WORK/tls" "$WORK/trust"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca \
	-keyout "$WORK/tls/ca.key" -out "$WORK/tls/ca.crt" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
	-keyout "$WORK/tls/server.key" -out "$WORK/tls/server.csr" 2>/dev/null
openssl x509 -req -in "$WORK/tls/server.csr" -CA "$WORK/tls/ca.crt" -CAkey "$WORK/tls/ca.key" -CAcreateserial -days 2 \
	-extfile <(echo 'subjectAltName=IP:127.0.0.1') -out "$WORK/tls/server.crt" 2>/dev/null
# shellcheck disable=SC2016
perl -e 'print "user:", crypt("secret", "\$2b\$05\$abcdefghijklmnopqrstuu"), "\n"' >"$WORK/htpasswd"
cat >"$WORK/private.yml" <<-END
	version: 0.1
	log: {level: error, accesslog: {disabled: false}}
	storage: {filesystem: {rootdirectory: $WORK/private}}
	auth: {htpasswd: {realm: private, path: $WORK/htpasswd}}
	http: {addr: $REGISTRY, secret: none, tls: {certificate: $WORK/tls/server.crt, key: $WORK/tls/server.key}}
END
start_listening private "$REGISTRY" docker-registry serve "$WORK/private.yml"
cp "$WORK/tls/ca.crt" "$WORK/trust"
copy --dest-cert-dir "$WORK/trust" --dest-creds user:secret --preserve-digests "oci:$TINY:latest" "docker://$REGISTRY/group/tiny:1"
certs=$HOME/.config/containers/certs.d/$REGISTRY
PRIVATE=docker://$REGISTRY/group/tiny:1
mkdir -p "$certs" "$HOME/.docker" "$WORK/bin"
expect 1 'HTTP status 400' "$PRIVATE" # plain HTTP, since nothing says otherwise
cp "$WORK/tls/ca.crt" "$certs"
expect 1 'a user and a password are wanted' "$PRIVATE"
auth() { printf '{"auths":{"%s":{"auth":"%s"}}}' "$1" "$(printf %s "$2" | base64)"; }
auth "$REGISTRY" user:wrong >"$HOME/.docker/config.json"
expect 1 'HTTP status 401' "$PRIVATE"
auth "$REGISTRY/group/tiny" user:secret >"$HOME/.docker/config.json"
same "the password of its repository, in docker's file" "$PRIVATE" digests
auth "$REGISTRY/other" user:secret >"$HOME/.docker/config.json"
expect 1 'a user and a password are wanted' "$PRIVATE"
echo user:secret >"$WORK/creds"
expect 0 'nothing changed' "$PRIVATE" --name example.org/tiny:1 --creds-file "$WORK/creds"
expect 0 'nothing changed' "$PRIVATE" --name example.org/tiny:1 --creds-file "$WORK/creds" --cert-dir "$WORK/trust"
auth "$REGISTRY" user:secret >"$WORK/auth.json"
expect 0 'nothing changed' "$PRIVATE" --name example.org/tiny:1 --authfile "$WORK/auth.json"
REGISTRY_AUTH_FILE=$WORK/auth.json expect 0 'nothing changed' "$PRIVATE" --name example.org/tiny:1
cat >"$WORK/bin/docker-credential-e2e" <<-'END'
	#!/bin/sh
	read -r server
	[ "$1 $server" = "get 127.0.0.1:5000" ] || { echo credentials not found in native keychain; exit 1; }
	echo '{"ServerURL":"","Username":"user","Secret":"secret"}'
END
chmod +x "$WORK/bin/docker-credential-e2e"
printf '{"credHelpers":{"%s":"e2e"}}' "$REGISTRY" >"$WORK/auth.json"
expect 1 'docker-credential-e2e: No such file' "$PRIVATE" --authfile "$WORK/auth.json"
PATH=$WORK/bin:$PATH
expect 0 'nothing changed' "$PRIVATE" --name example.org/tiny:1 --authfile "$WORK/auth.json"
echo '{"credsStore":"e2e"}' >"$WORK/auth.json"
expect 0 'nothing changed' "$PRIVATE" --name example.org/tiny:1 --authfile "$WORK/auth.json"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=other \
	-keyout /dev/null -out "$certs/ca.crt" 2>/dev/null
expect 1 'certificate' "$PRIVATE" --creds-file "$WORK/creds"
stop private

say "tokens, limits, blobs elsewhere"
GATE=127.0.0.1:5001
# shellcheck disable=SC2119
gate_start() { start_listening gate "$GATE" python3 "$LM_ROOT/tests/e2e/gatekeeper.py" "$TINY" "$GATE" 127.0.0.1:5002 127.0.0.2:5003; }
gate_start
expect 1 'HTTP status 401' "docker://$GATE/group/tiny:latest"
auth "$GATE" user:secret >"$WORK/auth.json"
same_gate() { # WHAT
	REGISTRY_AUTH_FILE=$WORK/auth.json same "$1" "docker://$GATE/group/tiny:latest" digests
	! grep LEAK "$WORK/log/gate.log" || fail "$1: the blob store was shown an Authorization header"
}
same_gate "a user's token"
grep -q '^registry 429' "$WORK/log/gate.log" || fail "no limit was met"
[ "$(grep -c '^blobs 206' "$WORK/log/gate.log")" = "$(grep -c 'cut$' "$WORK/log/gate.log")" ] || fail "not resumed by range"
grep -q 'cut$' "$WORK/log/gate.log" || fail "no connection was broken"
printf '{"auths":{"%s":{"identitytoken":"identity"}}}' "$GATE" >"$WORK/auth.json"
same_gate "an identity token"
grep -q '^tokens 200 access_token' "$WORK/log/gate.log" || fail "the identity token was not exchanged"
[ "$(grep -c '^tokens 200 token' "$WORK/log/gate.log")" = 2 ] || fail "no token was renewed in the middle: $(grep tokens "$WORK/log/gate.log")"

say "mirrors"
REGISTRY_AUTH_FILE=$WORK/auth.json expect 0 'nothing changed' docker://registry.invalid/tiny:latest --name example.org/tiny:1 \
	--mirror registry.invalid=http://127.0.0.1:1/ --mirror "registry.invalid=http://$GATE/group" \
	--mirror "registry.invalid=http://$GATE/group/" # the first of these two meets the limit
expect 2 'a mirror is' "oci:$TINY" --mirror registry.invalid=ftp://x
stop gate

say "every platform"
multi=$WORK/oci-multi
cp -r "$TINY" "$multi"
relabelled() { # ARCHITECTURE [VARIANT]: prints the descriptor of tiny as if it were made for that
	local config
	config=$(manifest "$TINY" latest | jq -r .config.digest)
	jq -c --arg a "$1" --arg v "${2:-}" '.architecture = $a | if $v != "" then .variant = $v else . end' \
		"$TINY/blobs/sha256/${config#sha256:}" >"$multi/tmp"
	config=$(blob "$multi" "$multi/tmp" application/vnd.oci.image.config.v1+json)
	manifest "$TINY" latest | jq -c --argjson c "$config" '.config = $c' >"$multi/tmp"
	blob "$multi" "$multi/tmp" application/vnd.oci.image.manifest.v1+json |
		jq -c --arg a "$1" --arg v "${2:-}" '.platform = {os: "linux", architecture: $a} + (if $v != "" then {variant: $v} else {} end)'
}
{ relabelled amd64 && relabelled arm64 v8 && relabelled arm v7; } >"$WORK/items"
jq -cs '{schemaVersion: 2, manifests: .}' "$WORK/items" >"$multi/tmp"
blob "$multi" "$multi/tmp" application/vnd.oci.image.index.v1+json |
	jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "multi"}}]}' >"$WORK/index"
mv "$WORK/index" "$multi/index.json"
expect 0 'linux/arm/v7' "oci:$multi:multi" --platform linux/armhf --name example.org/multi:1
expect 1 'no image for platform linux/s390x' "oci:$multi:multi" --platform linux/s390x --name example.org/multi:1
run_convert --json "oci:$multi:multi" --platform all --name example.org/multi:1
[ $CODE = 0 ] || fail "all platforms: $(cat "$WORK/err")"
jq -e '[.images[].platform] == ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"]' "$WORK/out" >/dev/null || fail "platforms: $(cat "$WORK/out")"
grep -q . "$WORK/out" && expect 0 'nothing changed' "oci:$multi:multi" --platform all --name example.org/multi:1
expect 0 'nothing changed' "oci:$multi:multi" --platform linux/arm64 --name example.org/multi:1-linux-arm64-v8

say "a foreign layer"
foreign=$WORK/oci-foreign
cp -r "$TINY" "$foreign"
manifest "$TINY" latest | jq -c '.layers[0].mediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"' >"$foreign/tmp"
blob "$foreign" "$foreign/tmp" application/vnd.oci.image.manifest.v1+json | jq -c '{schemaVersion: 2, manifests: [.]}' >"$WORK/index"
mv "$WORK/index" "$foreign/index.json"
expect 1 'foreign layer' "oci:$foreign"
check_reports
say "ok"
