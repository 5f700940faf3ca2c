#!/usr/bin/env bash
# What happens to requests when the store dies in the middle of a hit round? On real vLLM and
# Mooncake, on CPU: the master is killed, its link to a node is broken, the node that owns the blocks
# is killed or hangs. Each fault with what failed, what was computed instead, what came back and
# whether an answer was wrong. With --simulated on kvsim, as far as it has these parts.
#
#     stack/drill.sh [--simulated] [--fault NAME]... [OUT]      (python stack/drill.py --help)
set -euo pipefail
cd "$(dirname "$0")/.."

[[ " $* " == *" --simulated "* ]] || stack/install.sh
exec python stack/drill.py "$@"
