#!/usr/bin/env bash
# Installs the real stack (vLLM on CPU, Mooncake) into an environment of its own.
#
#   stack/install.sh             into .venv-real, or into $KV_REAL_VENV
#   PYTHON=python3.12 stack/install.sh
#
# A second call returns at once: a stamp in the environment holds what was installed.
# Needs 3 GB of disk. Writes progress to stderr and nothing to stdout.
# Exit status: 0 installed, 2 could not (the last line names the package and the log).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pins=$root/stack/requirements.txt
venv=${KV_REAL_VENV:-$root/.venv-real}
[[ $venv = /* ]] || venv=$root/$venv
# 3.11 where there is one: it is the version on which the pins were tried.
python=${PYTHON:-$(command -v python3.11 || echo python3)}
log=$root/.cache-real/install.log
stamp=$venv/installed.stamp

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
  local clear=() which='import sys; print(sys.version_info[:2])'
  if [[ -f $venv/pyvenv.cfg ]]; then
    [[ $("$venv/bin/python" -c "$which" 2>/dev/null) = $("$python" -c "$which") ]] || clear=(--clear)
  elif [[ -n $(ls -A "$venv" 2>/dev/null) ]]; then
    die "$venv exists and is no python environment; move it away or set KV_REAL_VENV"
  fi
  say "making $venv"
  "$python" -m venv "${clear[@]}" "$venv" >>"$log" 2>&1 ||
    die "python environment $venv could not be made; see $log"
}

install_pins() {
  local pin
  while read -r pin; do
    say "installing $pin"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$pin" >>"$log" 2>&1 ||
      die "python package $pin could not be installed; see $log and the note in ${pins#"$root/"}"
  done < <(grep -Ev '^[[:space:]]*(#|$)' "$pins")
  "$venv/bin/python" -m pip uninstall -y "${unwanted[@]}" >>"$log" 2>&1 ||
    die "could not remove ${unwanted[*]}; see $log"
}

# Importing is the proof: pip succeeds where a shared library is missing.
check_imports() {
  local module
  for module in torch vllm vllm.entrypoints.openai.api_server mooncake.store; do
    "$venv/bin/python" -c "import $module" >>"$log" 2>&1 ||
      die "python module $module is installed but does not load; see $log"
  done
  [[ -x $venv/bin/mooncake_master ]] || die "the mooncake package has no mooncake_master program; see $log"
}

main() {
  command -v "$python" >/dev/null || die "no $python on PATH; set PYTHON to a Python 3.11 or later"
  mkdir -p "${log%/*}"
  exec 9>"${log%.log}.lock"
  flock 9 # two callers at once: the second waits, then finds the stamp
  if [[ -f $stamp && $(<"$stamp") = "$(wanted_stamp)" ]]; then
    say "already installed in $venv"
    return 0
  fi
  : >"$log"
  rm -f "$stamp"
  install_debian_packages
  make_environment
  install_pins
  check_imports
  wanted_stamp >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say "installed in $venv"
}

main "$@"
