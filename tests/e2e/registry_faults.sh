#!/usr/bin/env bash
# Registries with faults (registry_faults.py): what may pass is waited for and asked again, what broke is gone on with
# where it broke, all else ends in bounded time with a reason and leaves the repository as it was.
# time limit: 600 s
# also sanitized
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
need jq python3 tar
need_built "$ALONE" "$LAMELLA"
isolate registry_faults

export HOME=$WORK/home
unset XDG_RUNTIME_DIR XDG_CONFIG_HOME DOCKER_CONFIG REGISTRY_AUTH_FILE
FAULTY=127.0.0.1:5001
LARGE_MB=64
[ -z "$LM_ALL" ] || LARGE_MB=1024
mkdir "$WORK/tree"
head -c 1048576 /dev/urandom >"$WORK/tree/noise"
head -c 2000000 /dev/urandom >"$WORK/tmp/more"
tar -C "$WORK" -cf "$WORK/tmp/small.tar" tree/noise tmp/more
make_layout "$WORK/small" "$WORK/tmp/small.tar" /noise
for ((i = 0; i < LARGE_MB; i++)); do cat "$WORK/tree/noise"; done >"$WORK/tree/large" # one layer, few objects
tar -C "$WORK/tree" -cf "$WORK/tmp/large.tar" large
make_layout "$WORK/large" "$WORK/tmp/large.tar" /large
rm "$WORK/tree/large"
layer_bytes() { manifest "$1" latest | jq '.layers[0].size'; }

start_listening faulty "$FAULTY" python3 "$LM_ROOT/tests/e2e/registry_faults.py" "$WORK/small" "$WORK/large" "$FAULTY" 127.0.0.1:5002 127.0.0.2:5003
repo_init
mv "$WORK/storage" "$WORK/fresh"

# What the server said about an image: how many answers for its layer, how many bytes of it.
answers() { grep -c "^$1 blobs " "$WORK/log/faulty.log" || true; }
wire() { awk -v f="$1" '$1 == f && ($2 == "blobs" || $2 == "elsewhere") { sum += $4 } END { print sum + 0 }' "$WORK/log/faulty.log"; }

# Converts FAULT:latest into a repository that has nothing yet.
try() { # FAULT STORAGE: exit code in $CODE, seconds in $TOOK, what it said in $WORK/FAULT.out
	local start
	cp -r "$WORK/fresh" "$2"
	start=$(now_ms)
	CODE=0
	timeout 400 "$LAMELLA" convert "docker://$FAULTY/$1:latest" --name "example.org/$1:1" --repo "$FQRN" --storage "$2" \
		--keys "$WORK/keys" >"$WORK/$1.out" 2>&1 || CODE=$?
	TOOK=$((($(now_ms) - start + 999) / 1000))
	{ echo "--- $1: $CODE, $TOOK s" && cat "$WORK/$1.out"; } >>"$WORK/log/convert.log"
	! grep -q 'secret-' "$WORK/$1.out" || fail "$1: a token is shown"
}
good() { # FAULT SECONDS
	try "$1" "$WORK/storage"
	[ $CODE = 0 ] || fail "$1: $(tail -n 1 "$WORK/$1.out")"
	[ "$TOOK" -le "$2" ] || fail "$1: $TOOK s"
	"$LAMELLA" repo check "$FQRN" --objects --quiet --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "$1: repo check"
	say "  $1: $TOOK s, $(answers "$1") answers, $(wire "$1") bytes of its layer"
	rm -rf "$WORK/storage"
}
bad() { # FAULT SECONDS PATTERN
	try "$1" "$WORK/storage"
	[ $CODE = 1 ] || fail "$1: exit code $CODE"
	[ "$TOOK" -le "$2" ] || fail "$1: $TOOK s"
	grep -qE "$3" "$WORK/$1.out" || fail "$1: does not say '$3': $(tail -n 1 "$WORK/$1.out")"
	cmp -s "$WORK/fresh/cvmfs/$FQRN/.cvmfspublished" "$WORK/storage/cvmfs/$FQRN/.cvmfspublished" || fail "$1: something was published"
	"$LAMELLA" repo check "$FQRN" --quiet --storage "$WORK/storage" --keys "$WORK/keys" >>"$WORK/log/convert.log" 2>&1 || fail "$1: repo check"
	say "  $1: $TOOK s, $(answers "$1") answers: $(tail -n 1 "$WORK/$1.out" | cut -c 1-150)"
	rm -rf "$WORK/storage"
}
at_most() { # WHAT NUMBER MAX
	[ "$2" -le "$3" ] || fail "$1: $2 instead of at most $3"
}

say "a stall, meanwhile"
STALL=1
[ -z "${LM_SANITIZED:-}" ] || STALL='' # it takes its time
[ -z "$STALL" ] || (try stall-once "$WORK/stalled" && echo "$CODE $TOOK" >"$WORK/stall-once.code") &
stalled=$!

say "what may pass"
S=0
[ -z "${LM_SANITIZED:-}" ] || S=20 # everything takes longer
good plain $((10 + S))
good token-each $((10 + S))
at_most "token-each: refusals" "$(grep -c '^token-each .* 401 ' "$WORK/log/faulty.log")" 3
good token-midway $((10 + S))
grep -q '^token-midway blobs 401 ' "$WORK/log/faulty.log" || fail "the token did not die in the middle"
grep -q '^token-midway blobs 206 ' "$WORK/log/faulty.log" || fail "not gone on with after the token"
good busy-once $((11 + S))
good busy-date $((13 + S))
good error-once $((10 + S))
good reset-first $((10 + S))
good redirect $((10 + S))
! grep LEAK "$WORK/log/faulty.log" || fail "the blob store was shown an Authorization header"
grep -q '^redirect elsewhere 206 ' "$WORK/log/faulty.log" || fail "not gone on with elsewhere"

say "what broke in the middle"
large=$(layer_bytes "$WORK/large")
slack=$((8 << 20)) # what the kernels held when the connection broke
good large-reset $((20 + LARGE_MB / 10 + S))
at_most "large-reset: bytes" "$(wire large-reset)" $((large + slack))
grep -q '^large-reset blobs 206 ' "$WORK/log/faulty.log" || fail "not resumed by range"
good large-no-range $((20 + LARGE_MB / 10 + S)) # all of it again, once
at_most "large-no-range: bytes" "$(wire large-no-range)" $((large * 19 / 10 + slack))
good large-crumbs $((30 + LARGE_MB / 10 + S))
at_most "large-crumbs: bytes" "$(wire large-crumbs)" $((large + 6 * slack))

say "what does not pass"
bad token-never $((5 + S)) 'HTTP status 401'
at_most "token-never: tokens" "$(grep -c '^token-never token ' "$WORK/log/faulty.log")" 2
bad busy-always $((10 + S)) 'limits how much may be asked'
at_most "busy-always: answers" "$(answers busy-always)" 4
bad busy-long $((5 + S)) 'wants a long pause'
at_most "busy-long: answers" "$(answers busy-long)" 1
bad error-always $((10 + S)) 'HTTP status 500'
at_most "error-always: answers" "$(answers error-always)" 4
bad gone $((5 + S)) 'has no blob'
bad short $((10 + S)) 'ends after [0-9]* of [0-9]* bytes'
bad wrong $((10 + S)) 'has other content'
bad length-more $((10 + S)) 'blob sha256:'
bad length-less $((10 + S)) 'ends after [0-9]* of [0-9]* bytes'
bad reset-always $((20 + S)) 'blob sha256:'
at_most "reset-always: answers" "$(answers reset-always)" 8
bad no-range-always $((20 + S)) 'blob sha256:'
at_most "no-range-always: answers" "$(answers no-range-always)" 8
bad redirect-dead $((15 + S)) 'port 1[: ]|refused'
bad redirect-loop $((10 + S)) 'redirect'

say "the stall"
wait $stalled || fail "stall-once"
if [ -n "$STALL" ]; then
	read -r CODE TOOK <"$WORK/stall-once.code"
	[ "$CODE" = 0 ] || fail "stall-once: $(tail -n 1 "$WORK/stall-once.out")"
	[ "$TOOK" -le $((50 + S)) ] || fail "stall-once: $TOOK s"
	grep -q '^stall-once blobs 206 ' "$WORK/log/faulty.log" || fail "not gone on with after the stall"
	say "  stall-once: $TOOK s"
fi
[ -z "$LM_ALL" ] || bad stall-always 300 'blob sha256:'
check_reports
say "ok"
