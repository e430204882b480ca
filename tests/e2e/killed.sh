#!/usr/bin/env bash
# Whatever changes a repository, killed at its N-th write, rename, link, removal or fsync: the repository is then the old or
# the new revision, byte for byte, and passes the check with every object read; the same command goes through afterwards, and
# garbage collection leaves what it leaves of a repository where nothing was ever killed. LM_ALL=1: every N.
# time limit: 1200 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
KILLER=$LM_BUILD/tests/tools/killer.so
need jq tar
need_built "$LAMELLA"
[ -e "$KILLER" ] || skip "not built: ${KILLER#"$LM_BUILD"/}"
[ -z "${LM_SANITIZED:-}" ] || skip "what is preloaded goes before the sanitizers"
make_work killed

STATE=$WORK/state # storage, keys and records of them: all that commands change
WORK_REAL=$(realpath "$WORK")
REPO=$STATE/storage/cvmfs/$FQRN
export LAMELLA_CONFIG_DIR=$STATE/config
# Layers that a killed convert has finished have other times than those of an undisturbed one: each begins without a ledger.
export LAMELLA_STATE_DIR=$WORK/ledger

# Three moments: of the command that is killed, of its repetition, of the collection, when leftovers are days old.
T1=$(date +%s)
T2=$((T1 + 10))
T3=$((T1 + 4 * 86400))

at() { # SECOND COMMAND...: exit code in $CODE, what it says in $WORK/out
	local clock=$1
	shift
	CODE=0
	rm -rf "$LAMELLA_STATE_DIR"
	LD_PRELOAD=$KILLER LM_KILL_CLOCK=$clock "$@" >"$WORK/out" 2>&1 || CODE=$?
}
must() { # SECOND COMMAND...
	at "$@"
	[ $CODE = 0 ] || fail "$* ended with code $CODE: $(tail -n 5 "$WORK/out")"
}
lamella() { "$LAMELLA" "$@"; }
convert_() { "$LAMELLA" convert "oci:$WORK/oci-$1" --repo "$FQRN" --name "example.org/$1:latest"; }
checked() { # WHAT
	check || fail "$1: $(head -n 20 "$WORK/out")"
}
check() { "$LAMELLA" repo check "$FQRN" --objects --tags --quiet >"$WORK/out" 2>&1; }
# No two files are replaced at once: for a moment the reflog, which no client reads, is ahead of the manifest.
checked_killed() { # WHAT STATE
	check || { [ "$2" = old ] && grep -q '^problem reflog: .cvmfsreflog: its hash is' "$WORK/out" &&
		[ "$(grep -c '^problem' "$WORK/out")" = 1 ]; } || fail "$1: $(head -n 20 "$WORK/out")"
}
save() { rm -rf "$WORK/before" && cp -a "$STATE" "$WORK/before"; }
load() { rm -rf "$STATE" && cp -a "$WORK/before" "$STATE"; }
data() { (cd "$REPO" && find data -mindepth 1 ! -name '??' | sort); }
collect() { must $T3 lamella repo gc "$FQRN" --keep-days 0; }

layout() { # NAME FILE...
	local name=$1
	shift
	tar --owner=0 --group=0 --mtime=@1600000000 -C "$WORK/tree" -cf "$WORK/tmp/$name.tar" "$@"
	make_layout "$WORK/oci-$name" "$WORK/tmp/$name.tar" /x
}

# --- one command ------------------------------------------------------------------------------------------------------

# From the state "before": how many changes the command makes, what it makes of the repository, what collection leaves.
reference() { # COMMAND...
	rm -f "$WORK/steps"
	load
	cp "$REPO/.cvmfspublished" "$WORK/published-old"
	LM_KILL_DIR=$WORK_REAL/state LM_KILL_LOG=$WORK/steps must "$T1" "$@"
	STEPS=$(wc -l <"$WORK/steps")
	[ "$STEPS" -gt 5 ] || fail "$*: only $STEPS changes seen"
	cp "$REPO/.cvmfspublished" "$WORK/published-new"
	at $T2 "$@"
	collect
	data >"$WORK/data-new"
	load
	must $T2 "$@"
	collect
	data >"$WORK/data-old"
	checked "$*, never killed"
}

# Killed at change N: 1 when the command went through before it came to that.
killed_at() { # N COMMAND...
	local n=$1 state
	shift
	load
	LM_KILL_DIR=$WORK_REAL/state LM_KILL_AT=$n at "$T1" "$@"
	[ $CODE != 0 ] || return 1
	[ $CODE = 137 ] || fail "$*, killed at change $n: ended with code $CODE: $(tail -n 5 "$WORK/out")"
	if cmp -s "$REPO/.cvmfspublished" "$WORK/published-old"; then
		state=old
	elif [ -n "$RANDOM_RESULT" ] || cmp -s "$REPO/.cvmfspublished" "$WORK/published-new"; then
		state=new
	else
		fail "$*, killed at change $n: the manifest is neither the old nor the new one"
	fi
	checked_killed "$*, killed at change $n, $state" $state
	at $T2 "$@"
	[ $CODE = 0 ] || { [ $state = new ] && grep -qE "$REPEATED" "$WORK/out"; } ||
		fail "$* after a kill at change $n, $state: $(tail -n 5 "$WORK/out")"
	checked "$* after a kill at change $n, $state"
	collect
	checked "$*, killed at change $n, $state, collected"
	if [ -z "$RANDOM_RESULT" ]; then
		data | diff "$WORK/data-$state" - >"$WORK/diff" || fail "$*, killed at change $n, $state: $(head -n 20 "$WORK/diff")"
	else
		[ -z "$(ls "$REPO/data/txn")" ] || fail "$*, killed at change $n: left behind: $(ls "$REPO/data/txn")"
	fi
	eval "$state=\$(($state + 1))"
}

# Every N, or so many spread over all; the last changes, around the swap of the manifest, are always among them.
kill_it() { # COUNT COMMAND...
	local count=$1 n old=0 new=0 begin=$SECONDS
	shift
	reference "$@"
	if [ -n "$LM_ALL" ]; then
		for ((n = 1; ; n++)); do killed_at $n "$@" || break; done
		[ $n -gt $((STEPS / 2)) ] || fail "$*: $STEPS changes, but through at $n"
	else
		for n in $(spread "$count"); do killed_at "$n" "$@" || break; done
	fi
	[ $((old * new)) -gt 0 ] || [ "$count" -lt 3 ] || fail "$*: $old times the old, $new times the new revision"
	say "  $*: $STEPS changes, killed $((old + new)) times, $old times the old revision, $new times the new ($((SECONDS - begin)) s)"
}
spread() { # COUNT
	local swap i
	swap=$(awk '$2 == "rename" && /\.cvmfspublished$/ { print $1 }' "$WORK/steps" | tail -n 1)
	for ((i = 0; i < $1 - 4; i++)); do echo $((1 + (STEPS - 1) * i / ($1 - 4))); done
	printf '%s\n' $((swap - 2)) "$swap" $((swap + 1)) "$STEPS"
}

# --- the commands -----------------------------------------------------------------------------------------------------

mkdir -p "$WORK/tree/dir/sub"
head -c 300000 /dev/urandom >"$WORK/tree/large"
for i in 1 2 3; do echo "file $i" >"$WORK/tree/dir/$i"; done
ln -s ../large "$WORK/tree/dir/sub/link"
ln "$WORK/tree/dir/1" "$WORK/tree/dir/sub/hard"
layout one dir/2
layout two large dir

REPEATED='$^'   # what a command may answer that has been through already
RANDOM_RESULT='' # the same command does not write the same bytes twice
mkdir "$STATE"
must $((T1 - 100)) lamella repo init "$FQRN" --storage "$STATE/storage" --keys "$STATE/keys"
must $((T1 - 90)) convert_ one
save

say "convert"
kill_it 10 convert_ two
load
must $((T1 - 80)) convert_ two
must $((T1 - 70)) lamella repo tag add "$FQRN" kept
must $((T1 - 60)) lamella convert "oci:$WORK/oci-one" --repo "$FQRN" --name example.org/three:latest
save

say "tags"
REPEATED='exist|already|there is'
kill_it 6 lamella repo tag add "$FQRN" added
kill_it 6 lamella repo tag remove "$FQRN" kept
REPEATED='$^'
kill_it 6 lamella repo tag rollback "$FQRN" kept

say "signatures"
kill_it 6 lamella repo sign "$FQRN" --days 60 --manifest
RANDOM_RESULT=1
kill_it 6 lamella repo sign "$FQRN" --new-certificate
RANDOM_RESULT=''

say "garbage collection"
load
for i in 1 2 3; do
	must $((T1 - 50 + i)) lamella repo tag rollback "$FQRN" kept
	must $((T1 - 40 + i)) lamella convert "oci:$WORK/oci-one" --repo "$FQRN" --name "example.org/n$i:latest"
done
echo leftover | install -D /dev/stdin "$REPO/data/ab/cdef0123456789abcdef0123456789abcdef01"
save
kill_it 8 lamella repo gc "$FQRN" --keep-days 0
say "passed"
