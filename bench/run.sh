#!/usr/bin/env bash
# kvload's stamps against kvsim's truth log; flags go to bench/stamps.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python bench/stamps.py "$@"
