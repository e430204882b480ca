#!/usr/bin/env bash
# A repository of stock tools goes on with keys of ours: signed anew, tagged, rolled back, its certificate changed. After each
# step clients, with what they have cached and without, show what it is then.
# time limit: 300 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/fixtures.bash
. "$(dirname "$0")/fixtures.bash"
need openssl
fixtures_open takeover

export LAMELLA_CONFIG_DIR=$WORK/config
OURS=$WORK/keys
mkdir -m 700 "$OURS"
repo() { # "PART" WORD...: of the repository, with our keys
	local part
	read -ra part <<<"$1"
	shift
	"$LAMELLA" repo "${part[@]}" $R "$@" --storage "$WORK/storage" --keys "$OURS" >"$WORK/out" 2>&1
}
must() { repo "$@" || fail "repo $*: $(cat "$WORK/out")"; }
checked() { # WHAT
	"$LAMELLA" repo check $R --storage "$WORK/storage" --key "$OURS/$R.pub" --objects --tags --quiet >"$WORK/out" 2>&1 ||
		fail "$1: $(head -n 20 "$WORK/out")"
}
# Both with the cache of the last client and without.
shown() { # REVISION WHAT [OPTION...]
	local revision=$1 what=$2
	shift 2
	mount_repository $R "$@"
	listing_is "$(expected $R "$revision")" "$what"
	unmount
	mv "$WORK/cache" "$WORK/warm"
	mount_repository $R "$@"
	listing_is "$(expected $R "$revision")" "$what, without a cache"
	unmount
	forget_cache
	mv "$WORK/warm" "$WORK/cache"
}

serve_start

say "with an expired whitelist, by keys as openssl makes them"
alternate .cvmfswhitelist whitelist.expired
not_mounted $R "expired" "whitelist: expired"
(
	umask 077
	cd "$OURS"
	openssl genrsa -traditional -out $R.key 2048
	openssl req -new -x509 -key $R.key -subj /CN=$R -days 3650 -out $R.crt
	openssl genrsa -out $R.masterkey 2048
	openssl rsa -in $R.masterkey -pubout -out $R.pub
) 2>"$WORK/err" || fail "openssl: $(cat "$WORK/err")"
! repo sign || fail "signed what nobody vouches for"
grep -q "not validly signed" "$WORK/out" || fail "$(cat "$WORK/out")"
must sign --trusted-by "$KEYS/$R.pub"
KEYS=$OURS
checked "taken over"
shown rev3 "taken over"

say "tags"
must "tag remove" first-release second-release
checked "without its tags"
must "tag add" one --revision 1 --description "found again"
must "tag add" three
checked "with other tags"
shown rev1 "tag one" --tag one
must "tag rollback" one
grep -q "^Revision 4," "$WORK/out" || fail "$(cat "$WORK/out")"
checked "gone back"
shown rev1 "gone back to revision 1"
shown rev3 "tag three" --tag three
must "tag rollback"
checked "come back"
shown rev3 "come back to revision 3"

say "another certificate"
must sign --new-certificate
checked "with two certificates"
shown rev3 "with two certificates"
must sign --only-ours
checked "with the new certificate"
shown rev3 "with the new certificate"
must "tag rollback" one
checked "gone back again"
shown rev1 "gone back again"
[ -z "$(find "$OURS" -name '*key*' -perm /077)" ] || fail "keys that others can read: $(ls -l "$OURS")"
check_reports
say "passed"
