#!/usr/bin/env bash
# Installs the real stack (vLLM on CPU, Mooncake) into an environment of its own.
#
#   stack/install.sh                 into .venv-real, or into $KV_REAL_VENV
#   stack/install.sh --with-lmcache  the same, then LMCache: .venv-lmcache, $KV_LMCACHE_VENV
#   stack/install.sh --with-nixl     the same, then NIXL: .venv-nixl, $KV_NIXL_VENV
#   PYTHON=python3.12 stack/install.sh
#
# A second call returns at once: a stamp in the environment holds what was installed.
# Needs 3 GB of disk, half a GB more each for LMCache and NIXL: their environments see the
# packages of the first and hold only what differs. Writes progress to stderr and nothing to stdout.
# Exit status: 0 installed, 2 could not (the last line names the package and the log).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pins=$root/stack/requirements.txt
lmcache_pins=$root/stack/requirements-lmcache.txt
nixl_pins=$root/stack/requirements-nixl.txt
absolute() { [[ $1 = /* ]] && printf '%s' "$1" || printf '%s/%s' "$root" "$1"; }
venv=$(absolute "${KV_REAL_VENV:-.venv-real}")
lmcache_venv=$(absolute "${KV_LMCACHE_VENV:-.venv-lmcache}")
nixl_venv=$(absolute "${KV_NIXL_VENV:-.venv-nixl}")
# 3.11 where there is one: it is the version on which the pins were tried.
python=${PYTHON:-$(command -v python3.11 || echo python3)}
log=$root/.cache-real/install.log

# Shared libraries that the wheels load but do not carry.
debian_packages=(libnuma1 libgomp1 libibverbs1 librdmacm1 libgoogle-glog0v6 liburing2)
# torchvision and its like do not match CPU torch and break vLLM's imports;
# triton is a gigabyte that nothing uses without a GPU.
unwanted=(torchvision torchaudio torchcodec triton)

say() { printf 'install.sh: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 2
}

wanted_stamp() {
  cat "$pins"
  printf 'without %s\n' "${unwanted[*]}"
}

wanted_stamp_on_top() {
  cat "$1"
  printf 'on top of %s\n' "$venv"
  wanted_stamp
}

has_stamp() { [[ -f $1/installed.stamp && $(<"$1/installed.stamp") = "$2" ]]; }

put_stamp() {
  printf '%s\n' "$2" >"$1/installed.stamp.new"
  mv "$1/installed.stamp.new" "$1/installed.stamp"
}

missing_debian_packages() {
  local name
  for name in "${debian_packages[@]}"; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || echo "$name"
  done
}

install_debian_packages() {
  command -v dpkg-query >/dev/null || return 0 # not Debian: check_imports tells what is missing
  local missing
  mapfile -t missing < <(missing_debian_packages)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  [[ $(id -u) = 0 ]] || die "missing Debian packages, and only root can install them: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update >>"$log" 2>&1 || say "apt-get update failed; going on with the lists that are there"
  local name
  for name in "${missing[@]}"; do
    apt-get install -y --no-install-recommends "$name" >>"$log" 2>&1 ||
      die "Debian package $name could not be installed; see $log"
  done
}

# Keeps what an interrupted install left, unless another Python made it.
make_environment() {
  local python=$1 venv=$2 named_by=$3 clear=()
  local which='import sys; print(sys.version_info[:2])'
  if [[ -f $venv/pyvenv.cfg ]]; then
    [[ $("$venv/bin/python" -c "$which" 2>/dev/null) = $("$python" -c "$which") ]] || clear=(--clear)
  elif [[ -n $(ls -A "$venv" 2>/dev/null) ]]; then
    die "$venv exists and is no python environment; move it away or set $named_by"
  fi
  say "making $venv"
  "$python" -m venv "${clear[@]}" "$venv" >>"$log" 2>&1 ||
    die "python environment $venv could not be made; see $log"
}

install_pins() {
  local python=$1 pins=$2 pin
  while read -r pin; do
    say "installing $pin"
    "$python" -m pip install --disable-pip-version-check --no-input "$pin" >>"$log" 2>&1 ||
      die "python package $pin could not be installed; see $log and the note in ${pins#"$root/"}"
  done < <(grep -Ev '^[[:space:]]*(#|$)' "$pins")
}

remove_unwanted() {
  "$1" -m pip uninstall -y "${unwanted[@]}" >>"$log" 2>&1 ||
    die "could not remove ${unwanted[*]}; see $log"
}

# Importing is the proof: pip succeeds where a shared library is missing.
check_imports() {
  local python=$1 module
  shift
  for module in "$@"; do
    "$python" -c "import $module" >>"$log" 2>&1 ||
      die "python module $module is installed but does not load; see $log"
  done
}

install_stack() {
  if has_stamp "$venv" "$(wanted_stamp)"; then
    say "already installed in $venv"
    return 0
  fi
  : >"$log"
  rm -f "$venv/installed.stamp"
  install_debian_packages
  make_environment "$python" "$venv" KV_REAL_VENV
  install_pins "$venv/bin/python" "$pins"
  remove_unwanted "$venv/bin/python"
  check_imports "$venv/bin/python" torch vllm vllm.entrypoints.openai.api_server mooncake.store
  [[ -x $venv/bin/mooncake_master ]] || die "the mooncake package has no mooncake_master program; see $log"
  put_stamp "$venv" "$(wanted_stamp)"
  say "installed in $venv"
}

# One line of a .pth file puts the other environment's packages behind its own. pip takes them
# for installed, never removes them, and installs beside them what is wanted older.
install_on_top() {
  local own=$1 pins=$2 named_by=$3
  if has_stamp "$own" "$(wanted_stamp_on_top "$pins")"; then
    say "already installed in $own"
    return 0
  fi
  rm -f "$own/installed.stamp"
  make_environment "$venv/bin/python" "$own" "$named_by"
  local purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
  "$venv/bin/python" -c "$purelib" >"$("$own/bin/python" -c "$purelib")/real-stack.pth"
  install_pins "$own/bin/python" "$pins"
  remove_unwanted "$own/bin/python"
  "check_${named_by,,}" "$own"
  put_stamp "$own" "$(wanted_stamp_on_top "$pins")"
  say "installed in $own"
}

check_kv_lmcache_venv() {
  check_imports "$1/bin/python" vllm.entrypoints.openai.api_server \
    lmcache.integration.vllm.lmcache_mp_connector lmcache.v1.multiprocess.http_server
  [[ -x $1/bin/lmcache ]] || die "the lmcache package has no lmcache program; see $log"
}

check_kv_nixl_venv() {
  check_imports "$1/bin/python" vllm.entrypoints.openai.api_server nixl._api
}

main() {
  local flag
  for flag in "$@"; do
    [[ $flag = --with-lmcache || $flag = --with-nixl ]] ||
      die "usage: stack/install.sh [--with-lmcache] [--with-nixl]"
  done
  command -v "$python" >/dev/null || die "no $python on PATH; set PYTHON to a Python 3.11 or later"
  mkdir -p "${log%/*}"
  exec 9>"${log%.log}.lock"
  flock 9 # two callers at once: the second waits, then finds the stamp
  install_stack
  for flag in "$@"; do
    case $flag in
      --with-lmcache) install_on_top "$lmcache_venv" "$lmcache_pins" KV_LMCACHE_VENV ;;
      --with-nixl) install_on_top "$nixl_venv" "$nixl_pins" KV_NIXL_VENV ;;
    esac
  done
}

main "$@"
