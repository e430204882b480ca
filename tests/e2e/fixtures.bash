# shellcheck shell=bash
# The repositories of the fixtures, served and mounted; sourced after lib.sh by the tests that read them.
#
# fixtures_open NAME goes on in a work folder of its own, where all repositories are unpacked in $WORK/storage/cvmfs, for
# serve_start or nginx_start to serve, and again in $WORK/good, for restore.

FIXTURES=$(realpath -m "$LM_ROOT/../shared/fixtures/cvmfs")
LISTING=$LM_BUILD/tests/tools/listing
CONTROL=$LM_BUILD/tests/tools/control
FORGE=$LM_BUILD/tests/tools/forge

R=fixture.cern.ch
URL=http://$WEB/cvmfs/@fqrn@
PATIENCE_S=30 # for whatever must end by itself, with the settings below
SETTINGS=(--set CVMFS_TIMEOUT_DIRECT=3 --set CVMFS_MAX_RETRIES=1 --set CVMFS_BACKOFF_INIT=1 --set CVMFS_BACKOFF_MAX=1)

fixtures_open() { # NAME
	need_root
	need curl python3 fusermount3 getfattr
	need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher" "$LISTING" "$CONTROL" "$FORGE"
	[ -c /dev/fuse ] || skip "no /dev/fuse"
	[ -e "$FIXTURES/README.md" ] || skip "no fixtures in $FIXTURES"
	isolate "$1"
	MNT=$WORK/mnt
	KEYS=$FIXTURES/keys
	mkdir -p "$MNT" "$WORK/storage/cvmfs" "$WORK/good"
	chmod 755 "$WORK" # for other users
	local f
	for f in "$FIXTURES"/repos/*.tar.gz; do tar -C "$WORK/storage/cvmfs" -xzf "$f"; done
	cp -a "$WORK/storage/cvmfs/." "$WORK/good/"
}

# The repository as it was.
restore() { # NAME
	rm -rf "$WORK/storage/cvmfs/$1"
	cp -a "$WORK/good/$1" "$WORK/storage/cvmfs/"
}
publish() { cp "$FIXTURES/published/$1.cvmfspublished.$2" "$WORK/storage/cvmfs/$1/.cvmfspublished"; } # NAME REVISION
alternate() { cp "$FIXTURES/alternates/$2" "$WORK/storage/cvmfs/$R/$1"; }                             # FILE FIXTURE
field() { sed -n "/^--/q; s/^$2//p" "$1"; } # FILE LETTER: prints the value

expected() { echo "$FIXTURES/expected/$1.$2.manifest"; } # NAME REVISION
last_listing() { printf '%s\n' "$FIXTURES/expected/$1".*.manifest | sort | tail -n 1; } # NAME

# In the background, as a user would.
try_mount() { # NAME [OPTION...]
	local name=$1
	shift
	timeout $PATIENCE_S "$LAMELLA" mount "$name" "$MNT" --url "$URL" --key "$KEYS/$name.pub" --cache "$WORK/cache" \
		"${SETTINGS[@]}" "$@" 2>"$WORK/log/mount.log"
}
mount_repository() { # NAME [OPTION...]
	try_mount "$@" || fail "mount of $*: $(cat "$WORK/log/mount.log")"
	ln -sf "$WORK/cache/mount.log" "$WORK/log/daemon.log"
}
keep_log() { cat "$WORK/cache/mount.log" >>"$WORK/log/daemons.log"; } # check_reports looks there
unmount() {
	timeout $PATIENCE_S umount "$MNT"
	wait_for $PATIENCE_S "the end of the daemon" no_daemon
	keep_log
}
no_daemon() { ! pgrep -x lamella-fetcher >/dev/null; }
forget_cache() { rm -rf "$WORK/cache"; }

names() { find "$1" -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sort | paste -sd ' '; } # DIR: prints what is listed
list() { timeout $((10 * PATIENCE_S)) "$LISTING" "$MNT" 2>"$WORK/listing.err"; } # prints the listing
listing_is() { # FILE WHAT
	list >"$WORK/list" || fail "$2: $(cat "$WORK/listing.err")"
	diff "$1" "$WORK/list" >"$WORK/diff" || fail "$2: $(head -n 20 "$WORK/diff")"
	say "  $2: $(wc -l <"$WORK/list") files alike"
}

# What can't be mounted says why, leaves nothing behind, and does not take long.
not_mounted() { # NAME WHAT WORDS [OPTION...]
	local name=$1 what=$2 words=$3 begin
	shift 3
	begin=$(now_ms)
	! try_mount "$name" "$@" || fail "$what: mounted"
	grep "$name" "$WORK/log/mount.log" | has -E "$words" || fail "$what: $(cat "$WORK/log/mount.log")"
	! mountpoint -q "$MNT" || fail "$what: refused, but something is mounted"
	no_daemon || fail "$what: refused, but a daemon goes on"
	keep_log
	say "  $what: $(grep '^lamella-fetcher:' "$WORK/log/mount.log" | cut -c18-200) ($(($(now_ms) - begin)) ms)"
}
