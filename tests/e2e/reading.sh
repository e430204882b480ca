#!/usr/bin/env bash
# Reading files that are not cached: one download for however many readers, an end at once for those that are killed and for
# no other signal, far ahead where a file is read from one end to the other over a slow link, and nothing but what was asked for where it is not.
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
need jq python3
need_built "$ALONE" "$LAMELLA" "$LM_BUILD/fetcher/lamella-fetcher"
[ -c /dev/fuse ] || skip "no /dev/fuse"
isolate reading

READERS=32 CHUNK=$((256 << 10)) CHUNKS=48
CHUNK_NAMES='/data/[0-9a-f]{2}/[0-9a-f]+P$'

serve_lies() { # MODE PATTERN
	start_listening serve "$WEB" python3 "$LM_ROOT/tests/e2e/liar.py" "$WEB" "$WORK/storage" "$@"
}

# A layer with a file of many chunks, one of a single object, and nothing that compresses.
make_files() {
	mkdir -p "$WORK/files/many"
	head -c $((CHUNK * CHUNKS)) /dev/urandom >"$WORK/files/big"
	head -c 300000 /dev/urandom >"$WORK/files/small"
	for ((i = 0; i < 8; i++)); do head -c 20000 /dev/urandom >"$WORK/files/many/$i"; done
	tar -C "$WORK/files" --owner=0 --group=0 -cf "$WORK/tmp/files.tar" .
	make_layout "$WORK/oci" "$WORK/tmp/files.tar" /none
	repo_init
	convert "oci:$WORK/oci:latest"
	local digest
	digest=$(manifest "$WORK/oci" latest | jq -r '.layers[0].digest' | cut -d: -f2)
	DIR=$MOUNT_BASE/$FQRN/.layers/${digest:0:2}/$digest/layerfs
}

empty() { # [KEY=VALUE...]: a fetcher with nothing but the root catalog
	[ ! -e "$WORK/run/fetcher.pid" ] || stop fetcher
	rm -rf "$WORK/cache"
	fetcher_start "$@"
}

fresh() { # [KEY=VALUE...]: a fetcher with nothing but the folders' catalogs
	empty "$@"
	ls -l "$DIR" "$DIR/many" >/dev/null
}

same() { cmp "$WORK/files/$1" "$DIR/$1" || fail "$1 reads as something else"; }

# --- one download for all ---------------------------------------------------------------------------------------------

one_download() {
	local i pids=()
	serve_start
	fresh
	web_mark
	for ((i = 0; i < READERS; i++)); do
		same big &
		pids+=($!)
	done
	for i in "${pids[@]}"; do wait "$i" || fail "a reader of $READERS"; done
	[ "$(web_files)" = $CHUNKS ] || fail "$READERS readers: $(web_files) requests for $CHUNKS chunks"
	say "$READERS readers of $CHUNKS chunks: $(web_files) requests"
	stop serve
}

# --- who is killed goes at once ---------------------------------------------------------------------------------------

interrupted() { # SIGNAL
	local begin code=0 ms
	begin=$(now_ms)
	{ timeout -s "$1" 0.5 cat "$DIR/big" >/dev/null 2>&1 || code=$?; } 2>/dev/null
	ms=$(($(now_ms) - begin))
	[ $code != 0 ] || fail "a reader of a server that says nothing succeeded"
	[ $ms -lt 3000 ] || fail "a reader ended $ms ms after it began, though SIG$1 came after 500"
	say "SIG$1: the reader was gone after $ms ms"
}

killed() {
	serve_start
	fresh CVMFS_TIMEOUT_DIRECT=20 LAMELLA_READ_TIMEOUT=2
	timeout 5 cat "$DIR/many/0" >/dev/null # cat and its libraries are not what is waited for
	stop serve KILL
	serve_lies stall "$CHUNK_NAMES"
	interrupted KILL
	interrupted INT
	local begin code=0
	begin=$(now_ms)
	cat "$DIR/big" >/dev/null 2>"$WORK/tmp/said" || code=$?
	[ $code != 0 ] || fail "a read of what never comes succeeded"
	grep -q 'Input/output error' "$WORK/tmp/said" || fail "a read that waited too long: $(cat "$WORK/tmp/said")"
	[ $(($(now_ms) - begin)) -lt 8000 ] || fail "LAMELLA_READ_TIMEOUT=2: $(($(now_ms) - begin)) ms"
	same many/1 # others are not held up
	stop serve KILL
	say "LAMELLA_READ_TIMEOUT=2: an error after $(($(now_ms) - begin)) ms"
}

# --- other signals end no wait ----------------------------------------------------------------------------------------

# In a process of its own, PID: lstat(2) of what needs catalogs that are not there. $WORK/tmp/stat becomes what came of it.
stat_begin() { # HOW: default|handled|often
	: >"$WORK/tmp/stat"
	python3 - "$1" "$DIR/many/0" >"$WORK/tmp/stat" 2>&1 <<-'END' &
		import os, signal, sys
		if sys.argv[1] != "default":
		    for number in signal.SIGTERM, signal.SIGALRM:
		        signal.signal(number, lambda *_: None)
		else:
		    for number in signal.SIGINT, signal.SIGQUIT:  # the shell ignores them for its jobs, Python handles one
		        signal.signal(number, signal.SIG_DFL)
		if sys.argv[1] == "often":
		    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
		print("begins", flush=True)
		print(os.lstat(sys.argv[2]).st_size)
	END
	PID=$!
	wait_for 10 "the reader" grep -q begins "$WORK/tmp/stat"
	sleep 0.1
}

stat_succeeds() { # WHAT
	wait "$PID" || fail "$1: $(cat "$WORK/tmp/stat")"
	[ "$(sed -n 2p "$WORK/tmp/stat")" = 20000 ] || fail "$1: $(cat "$WORK/tmp/stat")"
	say "$1: the reader has what it waited for"
}

stat_ends() { # WHAT SIGNAL
	local begin code=0 ms
	begin=$(now_ms)
	kill "-$2" "$PID"
	{ wait "$PID" || code=$?; } 2>/dev/null
	ms=$(($(now_ms) - begin))
	[ $code = $((128 + $(kill -l "$2"))) ] || fail "$1: exit status $code: $(cat "$WORK/tmp/stat")"
	[ $ms -lt 3000 ] || fail "$1: the reader went $ms ms after SIG$2"
	say "$1: the reader was gone $ms ms after SIG$2"
}

empty_and_lied_to() { # MODE
	serve_start
	empty CVMFS_TIMEOUT_DIRECT=30
	stop serve
	serve_lies "$1" 'C$'
}

signals() {
	empty_and_lied_to late
	stat_begin often
	stat_succeeds "fifty handled signals a second"
	stop serve KILL
	empty_and_lied_to late
	stat_begin default
	kill -STOP "$PID"
	sleep 0.1
	kill -CONT "$PID"
	stat_succeeds "stopped for a while"
	stop serve KILL
	empty_and_lied_to stall
	local signal
	for signal in INT QUIT TERM KILL; do
		stat_begin default
		stat_ends "nothing before" $signal
	done
	stat_begin handled
	kill -TERM "$PID"
	sleep 1.5
	[ "$(sed -n 2p "$WORK/tmp/stat")" = "" ] || fail "a handled signal: $(cat "$WORK/tmp/stat")"
	kill -0 "$PID" 2>/dev/null || fail "a handled signal ended the reader"
	stat_ends "a handled signal before" KILL
	stop serve KILL
}

# --- over a long way --------------------------------------------------------------------------------------------------

ahead() {
	local begin ms
	serve_lies late "$CHUNK_NAMES"
	fresh
	begin=$(now_ms)
	same big
	ms=$(($(now_ms) - begin))
	[ $((2 * ms)) -lt $((CHUNKS * 200)) ] || fail "$CHUNKS chunks that come after 200 ms each took $ms ms"
	say "$CHUNKS chunks, each 200 ms away, read in a row: $ms ms"
	stop serve KILL
}

# --- here and there ---------------------------------------------------------------------------------------------------

here_and_there() { # HOW: read|mmap
	serve_start
	fresh
	web_mark
	python3 - "$1" "$DIR/big" "$WORK/files/big" $CHUNK $CHUNKS >"$WORK/tmp/touched" <<-'END'
		import mmap, os, random, sys
		how, ours, theirs, chunk, chunks = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
		wanted = random.Random(7).sample(range(1, chunks), 12)
		a, b = open(ours, "rb"), open(theirs, "rb")
		m = mmap.mmap(a.fileno(), 0, prot=mmap.PROT_READ)
		for number in wanted:
		    at = number * chunk + chunk // 2
		    got = os.pread(a.fileno(), 4096, at) if how == "read" else m[at:at + 4096]
		    assert got == os.pread(b.fileno(), 4096, at), at
		print(len(wanted))
	END
	[ "$(web_files)" = "$(cat "$WORK/tmp/touched")" ] || fail "$1: $(web_files) requests for $(cat "$WORK/tmp/touched") chunks"
	say "$1 of 4 KiB in each of $(cat "$WORK/tmp/touched") chunks: $(web_files) requests"
	stop serve
}

make_files
one_download
killed
signals
ahead
here_and_there read
here_and_there mmap
stop fetcher
check_reports
