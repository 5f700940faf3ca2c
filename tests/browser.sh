#!/usr/bin/env bash
# Installs a Chromium and a font with Chinese characters, for the tests that open the HTML report.
# Returns at once where there is one. Exit status: 0 there is one, 1 there is none (and why).
set -euo pipefail

have() {
  command -v chromium || command -v chromium-browser || command -v google-chrome
}

have >/dev/null && exit 0
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
  echo 'browser.sh: no Chromium, and only root on Debian can install it here (apt-get install chromium)' >&2
  exit 1
fi
echo 'browser.sh: installing chromium and fonts-noto-cjk' >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends chromium fonts-noto-cjk; } >"$log" 2>&1; then
  echo "browser.sh: could not be installed: $(tail -n 1 "$log")" >&2
  exit 1
fi
have >/dev/null
