#!/usr/bin/env bash
# /etc/cvmfs as a site has it is read: with its shell, in the stock client's order, a part for each domain and repository.
# --check-config says what is in force and where it comes from. A reload changes proxies under readers that see no error,
# adds and removes repositories; one that is wrong changes nothing.
# time limit: 120 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/fixtures.bash
. "$(dirname "$0")/fixtures.bash"
need jq
fixtures_open config

FETCHER=$LM_BUILD/fetcher/lamella-fetcher
OTHER=unpacked.fixture.cern.ch
ETC=$WORK/etc
LOG=$WORK/log/fetcher.log

# As the stock client's packages and an administrator leave it.
site() {
	mkdir -p "$ETC"/{default.d,domain.d,config.d,keys/fixtures,lamella}
	cp "$KEYS/$R.pub" "$KEYS/$OTHER.pub" "$ETC/keys/fixtures/"
	cat >"$ETC/default.conf" <<-'END'
		# Shipped; not to be edited.
		CVMFS_CLIENT_PROFILE=
		CVMFS_CACHE_BASE=/var/lib/cvmfs
		CVMFS_QUOTA_LIMIT=4000
		CVMFS_TIMEOUT=5
		CVMFS_STRICT_MOUNT=no
		CVMFS_SHARED_CACHE=yes
		CVMFS_CLAIM_OWNERSHIP=yes
		CVMFS_KEYS_DIR=/etc/cvmfs/keys
		# CVMFS_SYSLOG_FACILITY=
		if [ "x$CVMFS_BASE_ENV" = "x" ]; then
		  readonly CVMFS_USER=cvmfs
		  readonly CVMFS_MOUNT_DIR=/cvmfs
		  readonly CVMFS_BASE_ENV=1
		fi
	END
	cat >"$ETC/default.d/50-site.conf" <<-'END'
		CVMFS_CONFIG_REPO_DEFAULT_ENV=
		if [ -f /etc/debian_version ] && grep -q "wheezy\|jessie" /etc/debian_version;
		then
		    :
		else
		    CVMFS_CONFIG_REPOSITORY=config.cern.ch
		fi
		CVMFS_DEFAULT_DOMAIN=cern.ch
	END
	cat >"$ETC/domain.d/cern.ch.conf" <<-END
		if [ "\$CVMFS_CONFIG_REPO_DEFAULT_ENV" = "" ]; then
		  if [ "\$CVMFS_USE_CDN" = "yes" ]; then
		    CVMFS_SERVER_URL="http://cdn.example.org/cvmfs/@fqrn@"
		  else
		    CVMFS_SERVER_URL="http://$WEB/cvmfs/@fqrn@"
		  fi
		  CVMFS_KEYS_DIR=$ETC/keys/fixtures
		fi
	END
	cp "$ETC/domain.d/cern.ch.conf" "$ETC/domain.d/fixture.cern.ch.conf"
	# shellcheck disable=SC2016
	echo 'CVMFS_HTTP_PROXY="${CVMFS_HTTP_PROXY:-DIRECT}"' >"$ETC/config.d/$OTHER.conf"
	local_conf "fixture" "http://127.0.0.1:3128"
	cat >"$ETC/lamella/lamella.conf" <<-END
		LAMELLA_MOUNT_BASE=$MOUNT_BASE
		LAMELLA_SOCKET=$FETCHER_SOCKET
		LAMELLA_ON_MISS=pull
	END
}
local_conf() { # REPOSITORIES PROXY [LINE...]
	local repositories=$1 proxy=$2
	shift 2
	{
		printf '%s\n' "CVMFS_REPOSITORIES=$repositories" "CVMFS_HTTP_PROXY=\"$proxy\"" "CVMFS_CACHE_BASE=$WORK/cache" \
			"CVMFS_TIMEOUT=3" "CVMFS_BACKOFF_INIT=1" "CVMFS_BACKOFF_MAX=1" "$@"
	} >"$ETC/default.local.new"
	mv "$ETC/default.local.new" "$ETC/default.local"
}

# A proxy that counts its requests, one byte each.
proxy_start() { # PORT
	cat >"$WORK/proxy.py" <<-'END'
		import http.server, sys, urllib.error, urllib.request
		plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
		class Proxy(http.server.BaseHTTPRequestHandler):
		    protocol_version = "HTTP/1.1"
		    def do_GET(self):
		        open(sys.argv[2], "a").write(".")
		        try:
		            answer = plain.open(self.path)
		            code = 200
		        except urllib.error.HTTPError as e:
		            answer, code = e, e.code
		        body = answer.read()
		        self.send_response(code)
		        self.send_header("Content-Length", str(len(body)))
		        self.end_headers()
		        self.wfile.write(body)
		http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy).serve_forever()
	END
	touch "$WORK/proxied.$1"
	start_listening "proxy-$1" "127.0.0.1:$1" python3 "$WORK/proxy.py" "$1" "$WORK/proxied.$1"
}
proxied() { stat -c %s "$WORK/proxied.$1"; } # PORT
more_proxied() { [ "$(proxied "$1")" -gt "$2" ]; }

fetcher() { "$FETCHER" --config-dir "$ETC" --config "$ETC/lamella/lamella.conf" "$@"; }
check() { # CODE [OPTION...]: into $WORK/check
	local expected=$1 code=0
	shift
	fetcher --check-config "$@" >"$WORK/check" 2>"$WORK/check.err" || code=$?
	[ $code = "$expected" ] || fail "--check-config ended with $code instead of $expected: $(tail -n 4 "$WORK/check" "$WORK/check.err")"
}
checked() { grep -qxF -- "$1" "$WORK/check" || fail "--check-config does not say: $1 ($(grep -F "${1%%=*}" "$WORK/check"))"; } # LINE

said() { [ "$(grep -cE -- "$1" "$LOG")" -ge "${2:-1}" ]; } # PATTERN [TIMES]
reloads=0
reload() { # waits for the end of it
	reloads=$((reloads + 1))
	kill -HUP "$(pid_of fetcher)"
	wait_for 20 "reload $reloads" said 'settings (read again|not changed)' $reloads
}
mounted() { mountpoint -q "$MOUNT_BASE/$1"; }
not_mounted() { ! mounted "$1"; }

# --- what is in force -------------------------------------------------------------------------------------------------

site
check 0
checked "CVMFS_REPOSITORIES=fixture  # $ETC/default.local:1"
checked "CVMFS_SERVER_URL=http://$WEB/cvmfs/$R  # $ETC/domain.d/cern.ch.conf:5"
checked "CVMFS_TIMEOUT=3 s  # $ETC/default.local:4"
checked "CVMFS_TIMEOUT_DIRECT=10 s  # default"
checked "CVMFS_QUOTA_LIMIT=4000 MiB  # $ETC/default.conf:4"
checked "# Repository $R, to be mounted at $MOUNT_BASE/$R, trusting 2 keys"
checked "$ETC/default.conf:6: CVMFS_STRICT_MOUNT: always: what CVMFS_REPOSITORIES lists is mounted, and nothing else"
! grep -q '^# Warnings' "$WORK/check" || fail "warnings about a sound site: $(cat "$WORK/check")"

local_conf "fixture,$OTHER" 'http://user:s3cret@127.0.0.1:3128' CVMFS_QUOTA_LIMT=1 CVMFS_IGNORE_SIGNATURE=yes
check 1
checked 'CVMFS_HTTP_PROXY=http://user:***@127.0.0.1:3128  # '"$ETC/default.local:2"
checked "CVMFS_HTTP_PROXY=http://user:***@127.0.0.1:3128  # $ETC/config.d/$OTHER.conf:1"
checked "$ETC/default.local:7: CVMFS_QUOTA_LIMT: unknown, also to the stock client; is CVMFS_QUOTA_LIMIT meant?"
checked "$ETC/default.local:8: CVMFS_IGNORE_SIGNATURE: has no effect: signatures are always verified"
check 1 --json
! grep -q s3cret "$WORK/check" || fail "a password is shown"
jq -e --arg r "$R" --arg f "$ETC/domain.d/cern.ch.conf" '.repositories[] | select(.name == $r) | .keys == 2 and
	(.settings[] | select(.key == "CVMFS_SERVER_URL") | .from.file == $f and .from.line == 5 and .reload == "live")' \
	"$WORK/check" >/dev/null || fail "--json: $(jq -c '.repositories[0].settings[0]' "$WORK/check")"
[ "$(jq '[.remarks[] | select(.warning)] | length' "$WORK/check")" = 2 ] || fail "--json: $(jq -c .remarks "$WORK/check")"

# shellcheck disable=SC2016
local_conf fixture 'http://127.0.0.1:3128' 'CVMFS_TIMEOUT=$(cat /timeout)'
check 2
grep -qF "$ETC/default.local:7: " "$WORK/check.err" || fail "file and line are not named: $(cat "$WORK/check.err")"
check 2 --json
jq -e .error "$WORK/check" >/dev/null || fail "--json of what is wrong: $(cat "$WORK/check")"
local_conf fixture 'http://127.0.0.1:3128|ftp://127.0.0.1'
check 2
local_conf fixture 'auto;DIRECT' 'CVMFS_PAC_URLS=http://wpad/wpad.dat'
check 2
grep -qF 'proxy "auto": programs that find proxies (PAC, WPAD) are not run; name the proxies' "$WORK/check.err" ||
	fail "the refusal of PAC: $(cat "$WORK/check.err")"
local_conf fixture 'DIRECT' 'CVMFS_PAC_URLS=http://wpad/wpad.dat'
check 0
checked "$ETC/default.local:7: CVMFS_PAC_URLS: proxy auto-configuration files are programs, which are not run: name proxies in CVMFS_HTTP_PROXY"
"$FETCHER" --help-settings >"$WORK/help"
grep -qx '    always no: owners are those that catalogs say, as layers of images need' "$WORK/help" || fail "--help-settings"

# --- it mounts --------------------------------------------------------------------------------------------------------

serve_start
for port in 3128 3129; do proxy_start $port; done
local_conf fixture 'http://127.0.0.1:3128'
mkdir -p "$MOUNT_BASE"
start_socket fetcher "$FETCHER_SOCKET" "$FETCHER" --config-dir "$ETC" --config "$ETC/lamella/lamella.conf"
wait_for 20 "$R" mounted "$R"
(cd "$MOUNT_BASE/$R" && find . -type f -size -64k -exec sha256sum {} + 2>/dev/null | sort -k2 | awk 'NR <= 30') >"$WORK/sums" || true
[ "$(wc -l <"$WORK/sums")" = 30 ] || fail "too little can be read in $R"
[ "$(proxied 3128)" -gt 5 ] || fail "$(proxied 3128) requests by the proxy of the settings"

# Readers of everything, while the cache is emptied: each round fetches anew.
read_all() {
	(cd "$MOUNT_BASE/$R" && sha256sum --quiet -c "$WORK/sums") >"$WORK/trouble" 2>&1
}
keep_reading() {
	until [ -e "$WORK/enough" ]; do
		read_all || return 1
		find "$WORK/cache/lamella" -type f -path '*/cache/[0-9a-f][0-9a-f]/*' ! -name '*C' -delete 2>/dev/null || true
		mount -i -o remount,ro "$MOUNT_BASE/$R" # the kernel forgets
		echo . >>"$WORK/rounds"
	done
}
rounds() { [ "$(wc -l <"$WORK/rounds")" -ge "$1" ]; }
more_rounds() { wait_for 30 "readers: $(cat "$WORK/trouble" 2>/dev/null)" rounds $(($(wc -l <"$WORK/rounds") + $1)); }
touch "$WORK/rounds"
keep_reading &
reader=$!
more_rounds 1

say "proxies change under readers"
for port in 3129 3128 3129; do
	local_conf fixture "http://127.0.0.1:$port"
	reload
	before=$(proxied $port)
	"$LAMELLA" update "$R" >/dev/null 2>&1 || true
	wait_for 10 "requests by proxy $port" more_proxied $port "$before"
	more_rounds 1
done
said 'setting changed.*key=CVMFS_HTTP_PROXY.*takes_effect=now' 3 || fail "changes are not logged"
worker=$(pgrep -P "$(pid_of fetcher)")
before=$(proxied 3128)

say "what is wrong changes nothing"
local_conf fixture 'http://127.0.0.1:3128' CVMFS_MAX_RETRIES=many
reload
said 'settings not changed.*default.local:7: CVMFS_MAX_RETRIES=many' || fail "the reason is not logged"
local_conf fixture 'http://127.0.0.1:3129' "CVMFS_CACHE_BASE=$WORK/elsewhere"
reload
said 'setting changed.*key=CVMFS_CACHE_BASE.*takes_effect="with the next start' || fail "what needs a start is not named"
local_conf fixture 'http://127.0.0.1:3129'
reload
more_rounds 1
[ "$(proxied 3128)" = "$before" ] || fail "settings that are wrong came into force"
[ "$(pgrep -P "$(pid_of fetcher)")" = "$worker" ] || fail "another worker, though nothing needed one"

say "repositories come and go"
local_conf "fixture,$OTHER" 'http://127.0.0.1:3129'
reload
wait_for 20 "$OTHER" mounted "$OTHER"
more_rounds 1
ls "$MOUNT_BASE/$OTHER" >/dev/null || fail "$OTHER can't be read"
before_worker=$worker
wait_for 20 "the end of the old worker" eval "! kill -0 $before_worker 2>/dev/null"
# shellcheck disable=SC2016 # evaluated later
wait_for 20 "the new worker" eval '[ -S "$FETCHER_SOCKET" ] && "$LAMELLA" status >/dev/null 2>&1'
local_conf fixture 'http://127.0.0.1:3129'
reload
wait_for 20 "the end of $OTHER" not_mounted "$OTHER"
more_rounds 1

touch "$WORK/enough"
wait $reader || fail "a reader saw: $(cat "$WORK/trouble")"
stop fetcher
! mounted "$R" || fail "still mounted after the end"
check_reports
say "$(wc -l <"$WORK/rounds") rounds of reading, $reloads reloads, no error"
