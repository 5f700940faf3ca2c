#!/usr/bin/env bash
# Installs Debian packages that some tests need: debian.sh 'COMMAND|COMMAND' PACKAGE...
# Returns at once where one of the commands is there. Exit status: 0 it is there, 1 it is not (and
# why).
set -euo pipefail

commands=$1
shift

have() {
  local name
  for name in ${commands//|/ }; do
    command -v "$name" >/dev/null && return 0
  done
  return 1
}

have && exit 0
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
  echo "debian.sh: no $commands, and only root on Debian can install it here (apt-get install $*)" >&2
  exit 1
fi
echo "debian.sh: installing $*" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
  echo "debian.sh: could not be installed: $(tail -n 1 "$log")" >&2
  exit 1
fi
have
