#!/usr/bin/env bash
# Installs the peers of the bench, each into an environment of its own below .venv-peers.
#
#   bench/install-peers.sh [NAME...]      all that bench/peers-requirements.txt names, or these
#
# A second call returns at once for what is there. What cannot be installed is told, its reason left
# in .venv-peers/NAME.failed, and the rest goes on. Needs 12 GB of disk.
# Exit status: 0 something can be compared, 2 nothing was installed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pins=$root/bench/peers-requirements.txt
home=$root/.venv-peers
tokenizer=$root/.cache-peers/tokenizer

say() { printf 'install-peers: %s\n' "$*" >&2; }

names() { grep -oE '^[a-z-]+[:!]' "$pins" | tr -d ':!' | sort -u; }

wanted() { grep -E "^$1[:!]" "$pins"; }

# inference-perf is for Python 3.12 and later; the others were tried on 3.11.
python_of() {
  local candidate versions=(3.11 3.12 3.13)
  [[ $1 = inference-perf ]] && versions=(3.12 3.13)
  for version in "${versions[@]}"; do
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
      "$candidate" -c 'import venv, ensurepip' 2>/dev/null && echo "$candidate" && return 0
    done
  done
  return 1
}

install_one() {
  local name=$1 venv=$home/$1 log=$home/$1.log python line
  python=$(python_of "$name") || { echo "no fitting Python is installed" >"$home/$name.failed"; return 1; }
  : >"$log"
  [[ -x $venv/bin/python ]] || "$python" -m venv "$venv" >>"$log" 2>&1
  while read -r line; do
    # shellcheck disable=SC2086  # the words of a line are arguments
    case $line in
      *!*) set -- uninstall -y ${line#*! } ;;
      *) set -- install --no-input ${line#*: } ;;
    esac
    if ! "$venv/bin/python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1; then
      grep -E '^ERROR' "$log" | tail -1 >"$home/$name.failed" || true
      [[ -s $home/$name.failed ]] || echo "pip failed, see $log" >"$home/$name.failed"
      return 1
    fi
  done < <(wanted "$name")
  rm -f "$home/$name.failed"
  wanted "$name" >"$venv/installed.stamp"
}

# The peers count tokens: with a small tokenizer trained here, so that none is downloaded.
make_tokenizer() {
  [[ -f $tokenizer/config.json ]] && return 0
  local name
  for name in serving evalscope guidellm aiperf; do
    [[ -f $home/$name/installed.stamp ]] || continue
    mkdir -p "$tokenizer"
    "$home/$name/bin/python" "$root/bench/clients/make_tokenizer.py" "$tokenizer" \
      "$root"/{LICENSE,README.md,DECISIONS.md,CHANGELOG.md} "$root"/tools/*/README.md && return 0
  done
  return 1
}

main() {
  mkdir -p "$home"
  exec 9>"$home/install.lock"
  flock 9
  local name there=0 all=()
  [[ $# -gt 0 ]] || mapfile -t all < <(names)
  for name in "${@:-${all[@]}}"; do
    if [[ -f $home/$name/installed.stamp && $(<"$home/$name/installed.stamp") = "$(wanted "$name")" ]]; then
      there=$((there + 1))
      continue
    fi
    say "installing $name"
    if install_one "$name"; then there=$((there + 1)); else say "$name: $(<"$home/$name.failed")"; fi
  done
  [[ $there -gt 0 ]] && make_tokenizer || { say "no peer could be installed"; exit 2; }
}

main "$@"
