"""Where the real stack lives on this disk, and whether it is there."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "stack" / "requirements.txt"
LMCACHE_PINS = ROOT / "stack" / "requirements-lmcache.txt"
NIXL_PINS = ROOT / "stack" / "requirements-nixl.txt"


def environment() -> Path:
    """The stack's own Python environment: $KV_REAL_VENV, else .venv-real."""
    named = os.environ.get("KV_REAL_VENV")
    return (ROOT / named) if named else ROOT / ".venv-real"


def lmcache_environment() -> Path:
    """The same with LMCache on top: $KV_LMCACHE_VENV, else .venv-lmcache."""
    named = os.environ.get("KV_LMCACHE_VENV")
    return (ROOT / named) if named else ROOT / ".venv-lmcache"


def nixl_environment() -> Path:
    """The same with NIXL on top: $KV_NIXL_VENV, else .venv-nixl."""
    named = os.environ.get("KV_NIXL_VENV")
    return (ROOT / named) if named else ROOT / ".venv-nixl"


def cache() -> Path:
    """What is made once and kept between runs: the model, and vLLM's own notes."""
    return ROOT / ".cache-real"


def model() -> Path:
    return cache() / "model"


def why_not_installed(*, with_lmcache: bool = False, with_nixl: bool = False) -> str | None:
    """One sentence without a full stop, or None when the pinned stack is there."""
    missing = _why_not(environment(), PINS, "the real stack", "stack/install.sh")
    if missing or not (with_lmcache or with_nixl):
        return missing
    if with_nixl:
        return _why_not(nixl_environment(), NIXL_PINS, "NIXL", "stack/install.sh --with-nixl")
    command = "stack/install.sh --with-lmcache"
    return _why_not(lmcache_environment(), LMCACHE_PINS, "LMCache", command)


def _why_not(folder: Path, pins: Path, what: str, command: str) -> str | None:
    stamp = folder / "installed.stamp"
    if not stamp.is_file():
        return f"{what} is not installed in {folder}; run {command}"
    if not stamp.read_text(encoding="utf-8").startswith(pins.read_text(encoding="utf-8")):
        return f"{folder} holds other pins than {pins.name}; run {command}"
    return None
