#!/usr/bin/env bash
# Writes the lock files anew: every package that is installed, with its version and hashes, for each
# Python and system that is supported. Needs uv (make lock installs it).
#
#   requirements/lock.sh            newer versions only where pyproject.toml asks for them
#   requirements/lock.sh --upgrade  the newest of everything
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# lock FILE FLAGS... SOURCE...
lock() {
  local file=requirements/$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-header --output-file "$file" "$@"
}

lock run.lock "$@" pyproject.toml requirements/build.in
lock dev.lock --extra dev "$@" pyproject.toml requirements/build.in
lock fuzz.lock "$@" requirements/fuzz.in
