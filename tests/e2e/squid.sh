#!/usr/bin/env bash
# Debian's Squid between node and server, as sites have it: groups, fail-over, fallback proxies, caches that are poisoned,
# refusals, passwords, CONNECT for https, IPv6, names with several addresses. There is no read error while another proxy or
# server is left, and nobody goes to the server directly who was not told to: the server's log shows who came.
# time limit: 300 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need squid python3 jq tar curl nginx openssl
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
getent passwd proxy >/dev/null || skip "no user proxy, whom Squid becomes"
isolate squid

REPO=$WORK/storage/cvmfs/$FQRN
A=127.0.0.1:3128 B=127.0.0.1:3129 F=127.0.0.1:3130
NAME=squids.lamella.test NAMED=3140 # A at 127.0.0.2, B at 127.0.0.3
SIX='[::1]:3131'                    # A
HOSTILE=127.0.0.1:8001 HTTPS=localhost:8443
SETTINGS=(CVMFS_TIMEOUT=2 CVMFS_TIMEOUT_DIRECT=2 CVMFS_MAX_RETRIES=1 CVMFS_BACKOFF_INIT=1 CVMFS_BACKOFF_MAX=1)
N=1600 # files; each is read once, by whichever part of the test is next

make_repository() {
	mkdir "$WORK/files"
	python3 - "$WORK/files" $N <<-'END'
		import random, sys
		for i in range(int(sys.argv[2])):
		    open(f"{sys.argv[1]}/{i}", "wb").write(random.Random(i).randbytes(3000))
	END
	(cd "$WORK/files" && sha256sum -- * | sort) >"$WORK/sums"
	tar -C "$WORK" --owner=0 --group=0 -cf "$WORK/tmp/files.tar" files
	make_layout "$WORK/oci-files" "$WORK/tmp/files.tar" /none
	repo_init
	convert "oci:$WORK/oci-files"
}

# --- proxies ----------------------------------------------------------------------------------------------------------

# Whatever Squid asks for comes from 127.0.0.9: so the server's log tells its requests from direct ones.
squid_conf() { # NAME PORT... [-- LINE...]
	local name=$1 dir=/run/squid-$1
	shift
	mkdir -p "$dir"
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		echo "http_port $1"
		shift
	done >"$dir/conf"
	shift || true
	[ $# = 0 ] || printf '%s\n' "$@" >>"$dir/conf"
	cat >>"$dir/conf" <<-END
		http_access allow all
		tcp_outgoing_address 127.0.0.9
		pid_filename $dir/pid
		access_log stdio:$dir/access.log
		cache_log $dir/cache.log
		coredump_dir $dir
		cache_mem 32 MB
		refresh_pattern . 1440 100% 10080
		pinger_enable off
		netdb_filename none
		shutdown_lifetime 0 seconds
		max_filedescriptors 1024
		visible_hostname $name.lamella.test
		cache_effective_user proxy
	END
	touch "$dir/access.log" "$dir/cache.log"
	chown -R proxy:proxy "$dir"
}
squid_start() { # NAME ADDRESS
	rm -f "/run/squid-$1/pid"
	start_listening "squid-$1" "$2" squid -N -f "/run/squid-$1/conf"
}
squid_kill() { stop "squid-$1" KILL; }
# What it was asked for since the last squid_mark.
squid_mark() { for s in a b f; do [ ! -e /run/squid-$s ] || : >"/run/squid-$s/access.log"; done; }
squid_log() { grep -E '/data/../[0-9a-f]+P? ' "/run/squid-$1/access.log" || true; }
used() { [ -n "$(squid_log "$1")" ]; }
came_directly() { web_log | grep -v '^127\.0\.0\.9 ' || true; }

# --- the node ---------------------------------------------------------------------------------------------------------

DIR='' # where the files are mounted
node_start() { # [KEY=VALUE...]: with an empty cache
	[ ! -e "$WORK/run/fetcher.pid" ] || stop fetcher
	rm -rf "$WORK/cache"
	web_mark
	squid_mark
	fetcher_start "${SETTINGS[@]}" "$@"
	DIR=$(echo "$MOUNT_BASE/$FQRN"/.layers/*/*/layerfs/files)
	[ -e "$DIR/0" ] || fail "the files are not where they were expected: $DIR"
}

NEXT=0
# Eight readers read COUNT files that nobody read before; the outcome grows in $WORK/outcome.
start_reading() { # COUNT
	[ $((NEXT + $1)) -le $N ] || fail "not enough files"
	FIRST=$NEXT COUNT=$1 NEXT=$((NEXT + $1))
	: >"$WORK/outcome"
	(cd "$DIR" && seq "$FIRST" $((NEXT - 1)) | xargs -P 8 -n 1 sha256sum >"$WORK/outcome" 2>"$WORK/errors") &
	READING=$!
}
read_so_far() { [ "$(wc -l <"$WORK/outcome")" -ge "$1" ]; }
check_read() { # WHAT: no error, no wrong content
	wait $READING || fail "$1: $(head -n 3 "$WORK/errors")"
	[ "$(wc -l <"$WORK/outcome")" = "$COUNT" ] || fail "$1: $(wc -l <"$WORK/outcome") of $COUNT files"
	[ -z "$(sort "$WORK/outcome" | comm -13 "$WORK/sums" -)" ] || fail "$1: wrong content"
}
read_files() { # WHAT [COUNT]
	start_reading "${2:-16}"
	check_read "$1"
}
nothing_direct() { [ -z "$(came_directly)" ] || fail "$1: came directly: $(came_directly | head -n 3)"; }

make_repository
serve_start
squid_conf a $A 127.0.0.2:$NAMED "$SIX"
squid_conf b $B 127.0.0.3:$NAMED
squid_conf f $F
printf '127.0.0.1 localhost\n127.0.0.2 %s\n127.0.0.3 %s\n' $NAME $NAME >"$WORK/hosts"
mount --bind "$WORK/hosts" /etc/hosts
squid_start a $A
squid_start b $B
squid_start f $F

# --- groups -----------------------------------------------------------------------------------------------------------

say "a group, one proxy for all"
node_start "CVMFS_HTTP_PROXY=http://$A|http://$B;http://$F"
read_files "a group"
nothing_direct "a group"
! used f || fail "the second group was used"
[ "$(for s in a b; do ! used $s || echo $s; done | wc -l)" = 1 ] || fail "not one proxy for all"

say "a group, sharded"
node_start "CVMFS_HTTP_PROXY=http://$A|http://$B" CVMFS_PROXY_SHARD=yes
read_files "sharded" 40
nothing_direct "sharded"
{ used a && used b; } || fail "not both proxies were used"
say "  $(squid_log a | wc -l) objects through one, $(squid_log b | wc -l) through the other"

say "killed and started again under load"
begin=$(now_ms)
start_reading 1000
kills=0
for _ in 1 2 3; do
	for s in a b; do
		kills=$((kills + 1))
		wait_for 60 "reads to go on" read_so_far $((kills * 130))
		squid_kill $s
		wait_for 60 "reads to go on without squid-$s" read_so_far $(($(wc -l <"$WORK/outcome") + 30))
		squid_start $s "$([ $s = a ] && echo $A || echo $B)"
	done
done
check_read "under load"
nothing_direct "under load"
say "  1000 files in $(($(now_ms) - begin)) ms, $kills kills, no error"

say "back to the first group after the reset time"
node_start "CVMFS_HTTP_PROXY=http://$A;http://$B" CVMFS_PROXY_RESET_AFTER=1 CVMFS_MAX_RETRIES=0
read_files "the first group" 8
! used b || fail "the second group was used"
squid_kill a
read_files "the second group" 8
used b || fail "the second group was not used"
squid_start a $A
squid_mark
back() {
	read_files "going back" 1
	used a
}
wait_for 10 "the first group to be used again" back

# --- nobody goes directly who was not told to -------------------------------------------------------------------------

say "fallback proxies"
node_start "CVMFS_HTTP_PROXY=http://$A|http://$B;DIRECT" "CVMFS_FALLBACK_PROXY=http://$F" CVMFS_MAX_RETRIES=0
squid_kill a
squid_kill b
read_files "fallback"
used f || fail "the fallback proxy was not used"
nothing_direct "fallback"
grep -q 'DIRECT is left out' "$WORK/log/fetcher.log" || fail "no word about DIRECT"

say "no proxy left"
squid_kill f
start_reading 4
wait $READING && fail "read without any proxy"
grep -q 'Input/output error' "$WORK/errors" || fail "$(cat "$WORK/errors")"
nothing_direct "no proxy left"
squid_start a $A
# What failed a moment ago is not asked for at once again (lamella-fetcher(8)).
recovered() {
	NEXT=$FIRST
	start_reading 4
	wait $READING
}
wait_for 10 "reads through the proxy that is there again" recovered

say "DIRECT, as configured"
squid_kill a
node_start "CVMFS_HTTP_PROXY=http://$A;DIRECT" CVMFS_MAX_RETRIES=0
read_files "direct"
[ -n "$(came_directly)" ] || fail "nobody came directly"
squid_start b $B

# --- proxies that answer themselves -----------------------------------------------------------------------------------

refused_by_a() { # WHAT STATUS LINE...: squid-a says no, squid-b is asked
	local what=$1 status=$2
	shift 2
	say "$what"
	squid_conf a $A 127.0.0.2:$NAMED "$SIX" -- "$@"
	squid_start a $A
	node_start "CVMFS_HTTP_PROXY=http://$A;http://$B"
	read_files "$what"
	nothing_direct "$what"
	grep -q "/$status " /run/squid-a/access.log || fail "$what: $(cat /run/squid-a/access.log)"
	! grep -q 'next="next server"' "$WORK/log/fetcher.log" || fail "$what: taken for the server's fault"
	used b || fail "$what: the next proxy was not used"
	squid_kill a
}
refused_by_a "denied by an access list" 403 "http_access deny all"
refused_by_a "an error of the proxy" '50[23]' "cache_peer 127.0.0.1 parent 9 0 no-query default" "never_direct allow all"

say "with a password"
printf 'reader:%s\n' "$(openssl passwd -apr1 secret)" >/run/squid-a/passwords
squid_conf a $A 127.0.0.2:$NAMED "$SIX" -- "auth_param basic program /usr/lib/squid/basic_ncsa_auth /run/squid-a/passwords" \
	"acl known proxy_auth REQUIRED" "http_access deny !known"
squid_start a $A
node_start "CVMFS_HTTP_PROXY=http://reader:secret@$A"
read_files "a password"
squid_kill a
start_reading 2
! wait $READING || fail "read without the proxy"
! grep -F secret "$WORK/log/fetcher.log" || fail "the password is in the log"
grep -qF "$A" "$WORK/log/fetcher.log" || fail "the log does not name the proxy"
squid_conf a $A 127.0.0.2:$NAMED "$SIX"
squid_start a $A

# --- a poisoned cache -------------------------------------------------------------------------------------------------

say "a poisoned cache"
: >"$WORK/run/faults"
start_listening hostile $HOSTILE python3 "$LM_ROOT/tests/e2e/hostile.py" $HOSTILE "$WORK/storage" "$WORK/run/faults"
node_start "CVMFS_SERVER_URL=http://$HOSTILE/cvmfs/@fqrn@" "CVMFS_HTTP_PROXY=http://$A" CVMFS_MAX_RETRIES=0
object=$(python3 - "$REPO" "$WORK/files/$NEXT" <<-'END'
	import glob, sys, zlib
	want = open(sys.argv[2], "rb").read()
	for path in glob.glob(sys.argv[1] + "/data/??/*"):
	    try:
	        if zlib.decompress(open(path, "rb").read()) == want:
	            print(path[len(sys.argv[1]) + 1:])
	    except zlib.error:
	        pass
END
)
through_a() { curl -sf -x "http://$A" "http://$HOSTILE/cvmfs/$FQRN/$object" | cmp -s - "$REPO/$object"; }
echo "flip $object\$" >"$WORK/run/faults.new" && mv "$WORK/run/faults.new" "$WORK/run/faults"
! through_a || fail "nothing wrong came"
: >"$WORK/run/faults.new" && mv "$WORK/run/faults.new" "$WORK/run/faults"
! through_a || fail "Squid did not keep what was wrong"
read_files "poisoned" 1
through_a || fail "the cache was not healed"
grep -q 'past the caches' "$WORK/log/fetcher.log" || fail "no word about it in the log"
stop hostile KILL

# --- https, IPv6, names -----------------------------------------------------------------------------------------------

say "https behind CONNECT"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
	-keyout "$WORK/tls.key" -out "$WORK/tls.pem" 2>>"$WORK/log/openssl.log"
mkdir -p "$WORK/tmp/nginx"
cat >"$WORK/nginx.conf" <<-END
	user root;
	daemon off;
	pid $WORK/tmp/nginx/pid;
	events {}
	http {
		access_log $WORK/log/https.log combined;
		client_body_temp_path $WORK/tmp/nginx/body;
		proxy_temp_path $WORK/tmp/nginx/proxy;
		fastcgi_temp_path $WORK/tmp/nginx/fastcgi;
		uwsgi_temp_path $WORK/tmp/nginx/uwsgi;
		scgi_temp_path $WORK/tmp/nginx/scgi;
		server {
			listen 127.0.0.1:8443 ssl;
			ssl_certificate $WORK/tls.pem;
			ssl_certificate_key $WORK/tls.key;
			root $WORK/storage;
		}
	}
END
start_listening nginx 127.0.0.1:8443 nginx -e stderr -c "$WORK/nginx.conf"
node_start "CVMFS_SERVER_URL=https://$HTTPS/cvmfs/@fqrn@" "CVMFS_HTTP_PROXY=http://$A" "LAMELLA_CA_FILE=$WORK/tls.pem"
read_files "https"
stop fetcher # Squid tells of a tunnel when it has ended
wait_for 10 "Squid to tell of CONNECT" grep -q "CONNECT $HTTPS" /run/squid-a/access.log
! grep -qv '^127\.0\.0\.9 ' "$WORK/log/https.log" || fail "somebody came directly: $(cat "$WORK/log/https.log")"
mkdir "$WORK/cas"
cp "$WORK/tls.pem" "$WORK/cas/$(openssl x509 -noout -hash -in "$WORK/tls.pem").0"
node_start "CVMFS_SERVER_URL=https://$HTTPS/cvmfs/@fqrn@" "CVMFS_HTTP_PROXY=http://$A" "X509_CERT_DIR=$WORK/cas"
read_files "https, a folder of authorities"
stop fetcher
rm -rf "$WORK/cache"
: >"$WORK/log/fetcher.log"
fetcher_start "${SETTINGS[@]}" "CVMFS_SERVER_URL=https://$HTTPS/cvmfs/@fqrn@" "CVMFS_HTTP_PROXY=http://$A"
wait_for 20 "an unknown authority to be refused" grep -q 'certificate' "$WORK/log/fetcher.log"
stop nginx

if [ -e /proc/net/if_inet6 ]; then
	say "IPv6"
	node_start "CVMFS_HTTP_PROXY=http://$SIX"
	read_files "IPv6"
	used a || fail "not through $SIX"
	nothing_direct "IPv6"
fi

say "a name with two addresses"
node_start "CVMFS_HTTP_PROXY=http://$NAME:$NAMED" CVMFS_MAX_RETRIES=0
read_files "a name"
nothing_direct "a name"
first=a other=b
used a || first=b other=a
{ used $first && ! used $other; } || fail "not one of the two"
squid_kill $first
read_files "its other address"
used $other || fail "the other address was not used"
nothing_direct "its other address"

stop squid-$other
stop fetcher
stop serve
check_reports
