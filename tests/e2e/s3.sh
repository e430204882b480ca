#!/usr/bin/env bash
# A repository in an S3 bucket: made, filled, checked, tagged, collected and read by plain GETs, with a server that checks
# every signature, breaks connections and damages bodies; two publishers; a publisher killed in the middle.
# time limit: 300 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need python3 curl jq
need_built "$LAMELLA"
S3=127.0.0.1:5000 # REGISTRY's port: ours, in here
BUCKET=pool
ACCESS=AKIDTEST
SECRET='sec/ret+key=é'
URL=s3://$BUCKET/www
BASE=$URL/cvmfs/$FQRN
KEY=www/cvmfs/$FQRN
isolate s3

SERVER=$LM_ROOT/tests/e2e/s3_server.py
LOG=$WORK/log/access.log

s3_config() { # FILE [KEY=VALUE...]
	local file=$1
	shift
	(
		umask 077
		printf '%s\n' CVMFS_S3_HOST=127.0.0.1 CVMFS_S3_PORT=5000 CVMFS_S3_BUCKET=$BUCKET CVMFS_S3_DNS_BUCKETS=false \
			CVMFS_S3_ACCESS_KEY=$ACCESS "CVMFS_S3_SECRET_KEY='$SECRET'" CVMFS_S3_MAX_RETRIES=4 "$@" >"$file"
	)
}

control() { curl -sSf --data "$1" "http://$S3/-/control"; } # JSON
fault() { control "{\"faults\": [{\"method\": \"$1\", \"key\": \"$2\", \"count\": $3, \"do\": \"$4\"}]}"; }

lamella() { "$LAMELLA" "$@" >>"$WORK/log/lamella.log" 2>&1; }
fine() { lamella "$@" || fail "$* failed: $(tail -n 3 "$WORK/log/lamella.log")"; }
refused() { # WORDS COMMAND...: fails, and says that
	local words=$1 said
	shift
	! said=$("$LAMELLA" "$@" 2>&1) || fail "$* succeeded"
	[[ $said == *$words* ]] || fail "$*: \"$words\" is not in: $said"
	[[ $said != *"$SECRET"* ]] || fail "$*: the secret was told: $said"
	say "refused as it should be: $(tail -n 1 <<<"$said" | cut -c1-200)"
}
revision() { curl -sSf "http://$S3/$BUCKET/$KEY/.cvmfspublished" | sed -n 's/^S//p' | sed -n 1p; }
valid() { fine repo check "$FQRN" --objects; }
objects() { curl -sf "http://$S3/$BUCKET/$KEY/$1" -o /dev/null; }

# An image of COUNT small files of random content.
make_image() { # NAME COUNT
	local i
	mkdir "$WORK/$1"
	for i in $(seq "$2"); do head -c 3000 /dev/urandom >"$WORK/$1/$i"; done
	tar -C "$WORK/$1" --owner=0 --group=0 -cf "$WORK/tmp/$1.tar" .
	make_layout "$WORK/oci-$1" "$WORK/tmp/$1.tar" /1
}
count() { sed -n "$MARK,\$p" "$LOG" | grep -cE "$1" || true; }
mark() { MARK=$(($(wc -l <"$LOG") + 1)); }

python3 "$SERVER" --self-test >/dev/null || fail "the server does not sign as Amazon's examples do"
start_listening s3 "$S3" python3 "$SERVER" "$S3" $BUCKET $ACCESS "$SECRET" "$LOG"
s3_config "$WORK/s3.conf"
make_image a 120
make_image b 60
make_image c 150
make_image d 30
# All of a, and some of its own.
cp -r "$WORK/a" "$WORK/tmp/more"
make_image e 10
for i in "$WORK"/e/*; do mv "$i" "$WORK/tmp/more/own-${i##*/}"; done
rmdir "$WORK/e"
mv "$WORK/tmp/more" "$WORK/e"
tar -C "$WORK/e" --owner=0 --group=0 -cf "$WORK/tmp/e.tar" .
rm -r "$WORK/oci-e"
make_layout "$WORK/oci-e" "$WORK/tmp/e.tar" /1

# --- who may, and when ------------------------------------------------------------------------------------------------

INIT=(repo init "$FQRN" --storage "$URL" --keys "$WORK/keys")
refused "no keys for bucket" "${INIT[@]}"
s3_config "$WORK/bad.conf" CVMFS_S3_SECRET_KEY=wrong
refused SignatureDoesNotMatch "${INIT[@]}" --s3-config "$WORK/bad.conf"
s3_config "$WORK/bad.conf" CVMFS_S3_ACCESS_KEY=nobody
refused InvalidAccessKeyId "${INIT[@]}" --s3-config "$WORK/bad.conf"
cp "$WORK/s3.conf" "$WORK/open.conf"
chmod 644 "$WORK/open.conf"
refused "everybody can read it" "${INIT[@]}" --s3-config "$WORK/open.conf"
control '{"skew": 5000}'
refused "the clock of this machine is 500" "${INIT[@]}" --s3-config "$WORK/s3.conf"
control '{"skew": 0}'
[ ! -e "$WORK/config/repositories.d/$FQRN.conf" ] || fail "a repository that was not made is recorded"

# --- the whole road ---------------------------------------------------------------------------------------------------

control '{"page": 3}'
fine "${INIT[@]}" --s3-config "$WORK/s3.conf"
refused "there is a repository already" "${INIT[@]}" --s3-config "$WORK/s3.conf"
! grep -rqF "$SECRET" "$WORK/config" || fail "the secret is recorded"
mark
fine convert "oci:$WORK/oci-a" --repo "$FQRN"
puts=$(count '^PUT .*/data/')
[ "$puts" -ge 120 ] || fail "$puts objects were put"
[ "$(count '^PUT .*/data/.* 200')" = "$(sed -n "$MARK,\$p" "$LOG" | grep -E '^PUT .*/data/.* 200' | sort -u | wc -l)" ] ||
	fail "an object was put twice"
last=$(sed -n "$MARK,\$p" "$LOG" | grep '^PUT ' | tail -n 1)
[[ $last == *.cvmfspublished\ 200* ]] || fail "put last: $last"
say "$puts objects put"
mark
fine convert "oci:$WORK/oci-a" --repo "$FQRN"
[ "$(count '^PUT .*/data/')" = 0 ] || fail "what is there was put again"
valid
fine repo info "$FQRN"
fine repo tag add "$FQRN" first
fine repo sign "$FQRN" --manifest
AWS_ACCESS_KEY_ID=$ACCESS AWS_SECRET_ACCESS_KEY=$SECRET AWS_ENDPOINT_URL=http://$S3 fine repo check "$BASE" --key "$WORK/keys/$FQRN.pub"
fine repo info "http://$S3/$BUCKET/$KEY" --key "$WORK/keys/$FQRN.pub" # a web server to everybody

# What another image brought is neither packed nor sent again.
mark
fine convert "oci:$WORK/oci-e" --repo "$FQRN"
grep -q ' of content was known from before' "$WORK/log/lamella.log" || fail "nothing was known from before"
puts=$(count '^PUT .*/data/') heads=$(count '^HEAD .*/data/')
if [ "$puts" -lt 10 ] || [ "$puts" -gt 30 ]; then fail "$puts objects were put for 10 files"; fi
say "$puts objects put, $heads asked for, for 10 files beside 120 known ones"
valid

# --- a server that has a bad day --------------------------------------------------------------------------------------

control '{"faults": [{"method": "PUT", "key": "/data/", "count": 5, "do": "503"}, {"method": "PUT", "key": "/data/", "count": 3, "do": "reset"},
	{"method": "PUT", "key": "/data/", "count": 3, "do": "flip"}, {"method": "HEAD", "key": "/data/", "count": 3, "do": "500"},
	{"method": "PUT", "key": "/data/", "count": 2, "do": "lost"}, {"method": "PUT", "key": "cvmfspublished", "count": 1, "do": "lost"},
	{"method": "GET", "key": "/data/", "count": 2, "do": "truncate"}]}'
mark
fine convert "oci:$WORK/oci-b" --repo "$FQRN"
for words in 'SlowDown' 'reset' 'XAmzContentSHA256Mismatch' 'InternalError'; do
	[ "$(count "$words")" -ge 3 ] || fail "only $(count "$words") of $words"
done
control '{"faults": []}'
valid
before=$(revision)
fault PUT /data/ 1000000 503
s3_config "$WORK/hasty.conf" CVMFS_S3_MAX_RETRIES=1
refused "SlowDown: Please reduce your request rate." convert "oci:$WORK/oci-d" --repo "$FQRN" --storage "$URL" --keys "$WORK/keys" --s3-config "$WORK/hasty.conf"
control '{"faults": []}'
[ "$(revision)" = "$before" ] || fail "published without its objects"

# --- one publisher at a time ------------------------------------------------------------------------------------------

# The first stops at its manifest; another process here, then another machine (with files of its own), must wait.
fault PUT cvmfspublished 1 wait:4
start publisher "$LAMELLA" convert "oci:$WORK/oci-d" --repo "$FQRN"
wait_for 20 "the lock" objects .lamella-publish.lock
refused "process [0-9]* is publishing to this repository (lamella convert, since 20" repo tag add "$FQRN" second
mkdir "$WORK/tmp/elsewhere"
TMPDIR=$WORK/tmp/elsewhere refused 'is publishing to this repository *; seen' repo tag add "$FQRN" second
wait_for 30 "the publisher" ended publisher
wait "$(pid_of publisher)" || fail "the publisher failed"
[ "$(revision)" = $((before + 1)) ] || fail "revision $(revision) instead of $((before + 1))"
! objects .lamella-publish.lock 2>/dev/null || fail "the lock is still there"

# Killed in the middle: the repository is as before, nobody here waits, and others only until the lock has expired.
killed_publisher() {
	fault PUT /data/ 1000000 wait:0.2
	mark
	start killed "$LAMELLA" convert "oci:$WORK/oci-c" --repo "$FQRN"
	wait_for 20 "objects" some_put
	stop killed KILL
	control '{"faults": []}'
}
some_put() { [ "$(count '^PUT .*/data/.* 200')" -ge 20 ]; }
before=$(revision)
killed_publisher
[ "$(revision)" = "$before" ] || fail "the manifest changed under a publisher that was killed"
valid
TMPDIR=$WORK/tmp/elsewhere refused 'is publishing to this repository *; seen' repo tag add "$FQRN" third
control "{\"age\": {\"$KEY/.lamella-publish.lock\": 400}}"
TMPDIR=$WORK/tmp/elsewhere fine repo tag add "$FQRN" third
killed_publisher
mark
fine convert "oci:$WORK/oci-c" --repo "$FQRN"
valid

# A server that ignores conditions is found out.
control '{"ignore_conditions": true}'
fine repo tag add "$FQRN" fourth
grep -q "ignores conditions" "$WORK/log/lamella.log" || fail "nothing was said about a server that ignores conditions"
control '{"ignore_conditions": false}'

# --- what nobody wants any more ---------------------------------------------------------------------------------------

fine convert "oci:$WORK/oci-a" --repo "$FQRN" --name localhost/again:1
fault DELETE /data/ 3 503
mark
fine repo gc "$FQRN" --keep-days 0
say "$(count '^DELETE .*/data/.* 204') objects removed"
[ "$(count '^DELETE .*/data/.* 204')" -ge 5 ] || fail "$(count '^DELETE .*/data/.* 204') objects were removed"
control '{"page": 1000, "faults": []}'
valid

# --- a node that reads it ---------------------------------------------------------------------------------------------

if [ -x "$LM_BUILD/fetcher/lamella-fetcher" ] && [ -c /dev/fuse ]; then
	mkdir "$WORK/storage"
	fetcher_start "CVMFS_SERVER_URL=http://$S3/$BUCKET/www/cvmfs/@fqrn@" "CVMFS_REPOSITORIES=$FQRN"
	n=0
	for image in a b c e; do
		digest=$(manifest "$WORK/oci-$image" latest | jq -r '.layers[0].digest' | cut -d: -f2)
		diff -r "$WORK/$image" "$MOUNT_BASE/$FQRN/.layers/${digest:0:2}/$digest/layerfs" || fail "image $image reads as something else"
		n=$((n + $(find "$WORK/$image" -type f | wc -l)))
	done
	say "$n files read by plain GETs are what they were"
	stop fetcher
fi
check_reports
