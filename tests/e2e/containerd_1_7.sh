#!/usr/bin/env bash
# containerd 1.7 with our snapshotter and with its own, side by side.
# time limit: 600 s
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/e2e/containerd.bash
. "$(dirname "$0")/containerd.bash"
containerd_tests 1.7
