#!/usr/bin/env bash
# Every revision of every repository of the fixtures, as the stock client shows it: by its own manifest, by tag, by date and
# by root hash; fixed roots stay what they are, also without a server.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/fixtures.bash
. "$(dirname "$0")/fixtures.bash"
fixtures_open revisions

iso() { date -u -d "@$1" +%Y-%m-%dT%H:%M:%SZ; }
shown() { # FILE NAME WHAT [OPTION...]: mounted with an empty cache it is as the listing says
	local file=$1 name=$2 what=$3
	shift 3
	forget_cache
	mount_repository "$name" "$@"
	listing_is "$file" "$name by $what"
	unmount
}

serve_start

say "by the manifest of each revision"
for f in "$FIXTURES"/published/*.rev?; do
	name=${f##*/} revision=${f##*.}
	name=${name%.cvmfspublished.*}
	[ -e "$(expected "$name" "$revision")" ] || continue
	publish "$name" "$revision"
	shown "$(expected "$name" "$revision")" "$name" "manifest of $revision"
	shown "$(expected "$name" "$revision")" "$name" "root of $revision" --root "$(field "$f" C)"
	restore "$name"
done
publish options.$R rev2
shown "$(expected options.$R latest)" options.$R "manifest of rev4"

say "by tag"
shown "$(expected $R rev1)" $R "tag first-release" --tag first-release
shown "$(expected $R rev2)" $R "tag second-release" --set CVMFS_REPOSITORY_TAG=second-release
shown "$(expected $R rev2)" $R "tag trunk-previous" --tag trunk-previous
shown "$(expected $R rev3)" $R "tag generic" --tag generic-2026-11-21T23:46:40Z
for name in rmd160.$R shake128.$R plain.$R; do
	shown "$(expected "$name" rev1)" "$name" "tag one" --tag one
	shown "$(expected "$name" rev2)" "$name" "tag two" --tag two
done
shown "$(expected options.$R latest)" options.$R "tag trunk" --tag trunk
shown "$(expected unpacked.$R latest)" unpacked.$R "tag trunk" --tag trunk

say "by date"
shown "$(expected $R rev1)" $R "the time of revision 1" --date "$(iso 1795304798)"
shown "$(expected $R rev2)" $R "the time of revision 2" --set "CVMFS_REPOSITORY_DATE=$(iso 1795304799)"
shown "$(expected $R rev3)" $R "the time of revision 3" --date "$(iso 1795304800)"
shown "$(expected $R rev3)" $R "a far time" --date 2100-01-01T00:00:00Z
shown "$(expected rmd160.$R rev1)" rmd160.$R "a time between" --date "$(iso 1795304814)"
forget_cache
not_mounted $R "a time before the first tag" "no revision for date" --date "$(iso 1795304797)"
not_mounted $R "a tag that is not there" "no revision for tag none" --tag none
for wrong in 2026-02-30T00:00:00Z 2026-11-01 now 2026-11-01T00:00:00 2026-1-1T0:0:0Z; do
	! "$LAMELLA" mount $R "$MNT" --url "$URL" --key "$KEYS/$R.pub" --cache "$WORK/cache" --date $wrong 2>"$WORK/err" ||
		fail "mounted by $wrong"
	grep -q 'no time like' "$WORK/err" || fail "$(cat "$WORK/err")"
done
code=0
"$LAMELLA" mount $R "$MNT" --tag a --date b 2>"$WORK/err" || code=$?
[ $code = 2 ] || fail "--tag with --date ended with code $code"

say "hidden, and by name: the revisions of tags"
forget_cache
mount_repository options.$R
[[ " $(names "$MNT") " != *" .cvmfs "* ]] || fail "a hidden directory is listed"
[ "$(names "$MNT/.cvmfs/snapshots")" = "one two" ] || fail "snapshots: $(names "$MNT/.cvmfs/snapshots")"
(cd "$MNT/.cvmfs/snapshots/one" && "$LISTING" .) >"$WORK/bound"
unmount
shown "$WORK/bound" options.$R "tag one, as bound" --tag one
mount_repository unpacked.$R --tag ducc-1795304842839306284
[ -d "$MNT/.layers" ] || fail "a revision in the middle"
unmount

say "alternative names, with data/ closed to them"
forget_cache
cd "$WORK/storage/cvmfs/options.$R"
for f in .cvmfsalt-*; do
	target=$(readlink "$f")
	cp --remove-destination "$target" "$f"
	rm "$target"
done
cd /
mount_repository options.$R
listing_is "$(expected options.$R latest)" "options, by alternative names"
unmount
forget_cache
mount_repository options.$R --tag trunk
listing_is "$(expected options.$R latest)" "options, by a tag and alternative names"
unmount
forget_cache
mount_repository options.$R --root "$(field "$WORK/good/options.$R/.cvmfspublished" C)"
listing_is "$(expected options.$R latest)" "options, by a root and alternative names"
unmount
restore options.$R
forget_cache
rm "$WORK/storage/cvmfs/options.$R"/.cvmfsalt-* # a replica that did not copy them
mount_repository options.$R
listing_is "$(expected options.$R latest)" "options, without the alternative names"
unmount
restore options.$R

say "fixed roots stay"
forget_cache
fetcher_of() { # SETTING...: for what the control service says
	local s=() v
	for v; do s+=(--set "$v"); done
	start_socket fetcher "$FETCHER_SOCKET" "$LM_BUILD/fetcher/lamella-fetcher" --config /dev/null "${SETTINGS[@]}" \
		--set CVMFS_REPOSITORIES=$R --set CVMFS_SERVER_URL="$URL" --set CVMFS_HTTP_PROXY=DIRECT \
		--set CVMFS_KEYS_DIR="$KEYS" --set CVMFS_CACHE_BASE="$WORK/cache" --set LAMELLA_MOUNT_BASE="$WORK/base" \
		--set LAMELLA_SOCKET="$FETCHER_SOCKET" "${s[@]}"
}
status_is() { # WORDS
	"$CONTROL" "$FETCHER_SOCKET" status >"$WORK/out"
	grep -qE "^$R $WORK/base/$R $1" "$WORK/out" || fail "status, not $1: $(cat "$WORK/out")"
}
publish $R rev2
fetcher_of CVMFS_REPOSITORY_TAG=trunk
status_is "2 online .*fixed=tag trunk$"
restore $R # revision 3 is published
"$CONTROL" "$FETCHER_SOCKET" update $R >/dev/null
status_is "2 online .*fixed=tag trunk$"
"$LISTING" "$WORK/base/$R" | diff "$(expected $R rev2)" - >/dev/null || fail "a fixed root moved"
stop fetcher
fetcher_of CVMFS_REPOSITORY_TAG=trunk # a new start finds what the tag names now
status_is "3 online .*fixed=tag trunk$"
stop fetcher

say "without a server, from the cache"
first=$(field "$FIXTURES/published/$R.cvmfspublished.rev1" C)
offline_is() { # REVISION STATE WHAT SETTING: mounted, and again without a server
	local revision=$1 state=$2 what=$3
	shift 3
	fetcher_of "$@"
	"$LISTING" "$WORK/base/$R" | diff "$(expected $R "rev$revision")" - >"$WORK/diff" || fail "$what: $(head "$WORK/diff")"
	stop fetcher
	stop serve
	fetcher_of "$@"
	status_is "$revision $state"
	"$LISTING" "$WORK/base/$R" | diff "$(expected $R "rev$revision")" - >"$WORK/diff" || fail "$what: $(head "$WORK/diff")"
	stop fetcher
	serve_start
	say "  $what"
}
offline_is 1 "offline .*fixed=tag first-release$" "a tag" CVMFS_REPOSITORY_TAG=first-release
offline_is 2 "offline .*fixed=date $(iso 1795304799)$" "a time" "CVMFS_REPOSITORY_DATE=$(iso 1795304799)"
offline_is 1 "online .*fixed=root $first$" "a root" "CVMFS_ROOT_HASH=$first"
offline_is 3 "offline " "none"
stop serve
not_mounted $R "a tag that the cached history does not have" "$R" --tag none
serve_start

say "never back, by tags either"
publish $R rev2
not_mounted $R "an older manifest, for a tag" "published at|not above" --tag none
forget_cache
mount_repository $R --tag trunk
unmount
restore $R
mount_repository $R --tag trunk
listing_is "$(expected $R rev3)" "the tag moved on"
unmount
publish $R rev2
mount_repository $R --tag trunk
listing_is "$(expected $R rev3)" "it does not move back"
unmount
restore $R
check_reports
say "passed"
