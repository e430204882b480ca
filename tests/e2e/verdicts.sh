#!/usr/bin/env bash
# Whom a client trusts: every whitelist and manifest of alternates/ gets the verdict of VERDICTS.txt, with an empty cache and
# with one that knows a revision; never back; blacklists, several keys and fingerprints.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/fixtures.bash
. "$(dirname "$0")/fixtures.bash"
fixtures_open verdicts

at_revision() { # REVISION: what is mounted, told by its files
	case $1 in
	2) [ ! -e "$MNT/files/new-in-3" ] && [ "$(stat -c %u "$MNT/files/hello.txt")" = 0 ] ;;
	3) [ -e "$MNT/files/new-in-3" ] && [ "$(stat -c %u "$MNT/files/hello.txt")" = 1000 ] ;;
	esac
}
mounted_at() { # REVISION WHAT [OPTION...]
	local revision=$1 what=$2
	shift 2
	mount_repository $R "$@"
	at_revision "$revision" || fail "$what: not revision $revision"
	cat "$MNT/files/hello.txt" >/dev/null || fail "$what: can't be read"
	unmount
	say "  $what: revision $revision"
}
warm_cache() { # REVISION: as it is after a mount of that revision
	forget_cache
	cp -a "$WORK/warm$1" "$WORK/cache"
}

serve_start
say "caches that know a revision"
for revision in 2 3; do
	publish $R rev$revision
	mounted_at $revision "made"
	mv "$WORK/cache" "$WORK/warm$revision"
done
restore $R

say "every verdict"
count=0
while read -r file verdict; do
	[[ $file == whitelist.* || $file == published.* ]] || continue
	count=$((count + 1))
	[ "${file%%.*}" = whitelist ] && place=.cvmfswhitelist || place=.cvmfspublished
	restore $R
	alternate "$place" "$file"
	forget_cache
	case $verdict in
	mounts* | 'cold cache: mounts'*)
		mounted_at 3 "$file, cold"
		warm_cache 2
		# A manifest with an older revision number leaves the known one in place, whatever its catalog is.
		if [[ $verdict == *'Warm cache'* ]]; then revision=2; else revision=3; fi
		mounted_at $revision "$file, knowing revision 2"
		;;
	refused*)
		not_mounted $R "$file, cold" "$R: (manifest|whitelist|certificate)"
		warm_cache 2
		mounted_at 2 "$file, knowing revision 2"
		grep -qE "offline .*$R: (manifest|whitelist|certificate)" "$WORK/cache/mount.log" || fail "$file: no reason in the log"
		;;
	*) fail "a verdict that can't be tested: $verdict" ;;
	esac
	warm_cache 3
	mounted_at 3 "$file, knowing revision 3"
done <"$FIXTURES/alternates/VERDICTS.txt"
[ $count = "$(find "$FIXTURES/alternates" -name 'whitelist.*' -o -name 'published.*' | wc -l)" ] || fail "$count verdicts only"
restore $R

say "never back"
for revision in 1 2; do
	publish $R rev$revision
	warm_cache 3
	mounted_at 3 "a server back at revision $revision"
	grep -qE "offline .*(published at|not above)" "$WORK/cache/mount.log" || fail "no reason in the log"
done
forget_cache
mounted_at 2 "the same without a cache"
restore $R

say "blacklist"
fingerprint=$(sed -n '4p' "$WORK/good/$R/.cvmfswhitelist")
blacklisted() { printf '%s\n' "$@" >"$WORK/blacklist"; }
B=(--set "CVMFS_BLACKLIST=$WORK/blacklist")
forget_cache
blacklisted "# a comment" "<other.cern.ch 100" "<$R 3" "00:${fingerprint#*:}"
mounted_at 3 "nothing of it" "${B[@]}"
blacklisted "<$R 4"
not_mounted $R "the revision, known" "revision 3 is blacklisted" "${B[@]}"
forget_cache
not_mounted $R "the revision" "revision 3 is blacklisted" "${B[@]}"
blacklisted "<$R 2"
first=$(field "$FIXTURES/published/$R.cvmfspublished.rev1" C)
not_mounted $R "the revision of a tag" "revision 1 is blacklisted" "${B[@]}" --tag first-release
not_mounted $R "the revision of a root" "revision 1 is blacklisted" "${B[@]}" --root "$first"
mount_repository $R "${B[@]}" --tag second-release
unmount
forget_cache
blacklisted "$fingerprint # lost"
not_mounted $R "the certificate" "certificate.*blacklisted" "${B[@]}"
warm_cache 3
not_mounted $R "the certificate of a known root" "certificate.*blacklisted" "${B[@]}"
stop serve
warm_cache 3
not_mounted $R "the same, offline" "$R" "${B[@]}"
mounted_at 3 "offline without blacklist"
blacklisted "<$R 4"
not_mounted $R "the known revision, offline" "$R" "${B[@]}"
serve_start
forget_cache
blacklisted "what is this"
not_mounted $R "a blacklist that makes no sense" "blacklist: neither" "${B[@]}"
not_mounted_usage() { # WHAT WORDS [OPTION...]: wrong settings
	local what=$1 words=$2
	shift 2
	! try_mount $R "$@" || fail "$what: mounted"
	grep -qE "$words" "$WORK/log/mount.log" || fail "$what: $(cat "$WORK/log/mount.log")"
	say "  $what: refused"
}
not_mounted_usage "a blacklist that is not there" "CVMFS_BLACKLIST" --set "CVMFS_BLACKLIST=$WORK/none"

say "several keys"
other=$FIXTURES/alternates/other.pub right=$FIXTURES/keys/$R.pub
mounted_at 3 "the second of a list" --set "CVMFS_PUBLIC_KEY=$other:$right"
forget_cache
mounted_at 3 "the first of a list" --set "CVMFS_PUBLIC_KEY=$right:$other"
forget_cache
mkdir "$WORK/keys"
cp "$other" "$FIXTURES/keys/rmd160.$R.pub" "$WORK/keys"
not_mounted $R "a folder without the right one" "none of 2 master keys" --set CVMFS_PUBLIC_KEY= --set "CVMFS_KEYS_DIR=$WORK/keys"
cp "$right" "$WORK/keys/zzz.pub"
echo nonsense >"$WORK/keys/readme"
mounted_at 3 "a folder with it" --set CVMFS_PUBLIC_KEY= --set "CVMFS_KEYS_DIR=$WORK/keys"
not_mounted_usage "a list with a missing file" "public key $WORK/none.pub" --set "CVMFS_PUBLIC_KEY=$right:$WORK/none.pub"

say "fingerprints of other algorithms"
for algo in rmd160 shake128; do
	forget_cache
	"$FORGE" "$WORK/storage/cvmfs/$R" $R "$WORK/forged-keys" fingerprint '' $algo
	KEYS=$WORK/forged-keys mounted_at 3 "$algo"
	restore $R
done
"$FORGE" "$WORK/storage/cvmfs/$R" $R "$WORK/forged-keys" algo '' shake128 fingerprint '' rmd160 fingerprint '' sha1
forget_cache
KEYS=$WORK/forged-keys mounted_at 3 "two, neither of them the manifest's"
check_reports
say "passed"
