#!/usr/bin/env bash
# Formatting and static checks of the whole tree: `ninja -C build lint`, and one of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=''
for tool in clang-format shellcheck git; do command -v "$tool" >/dev/null || missing+=" $tool"; done
[ -z "$missing" ] || { echo "skipped: not installed:$missing"; exit 77; }
git rev-parse --git-dir >/dev/null 2>&1 || { echo "skipped: not a git checkout"; exit 77; }
# Other versions format a little differently.
case $(clang-format --version) in *' 14.'*) ;; *) echo "skipped: needs clang-format 14"; exit 77 ;; esac

failed=0
jobs=$(nproc)
git ls-files -z '*.c' '*.h' | xargs -0 -n 50 -P "$jobs" clang-format --dry-run -Werror || failed=1
git grep -lzE '^#!/usr/bin/env bash' | xargs -0 -n 4 -P "$jobs" shellcheck -x || failed=1
# Left-overs that must not be committed.
if git grep -nE '\b(TODO|FIXME|XXX|HACK)\b' -- '*.c' '*.h' '*.sh' ':!tests/lint.sh'; then
	echo "left undone in the code"
	failed=1
fi
exit $failed
