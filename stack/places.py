"""Where the real stack lives on this disk, and whether it is there."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "stack" / "requirements.txt"


def environment() -> Path:
    """The stack's own Python environment: $KV_REAL_VENV, else .venv-real."""
    named = os.environ.get("KV_REAL_VENV")
    return (ROOT / named) if named else ROOT / ".venv-real"


def cache() -> Path:
    """What is made once and kept between runs: the model, and vLLM's own notes."""
    return ROOT / ".cache-real"


def model() -> Path:
    return cache() / "model"


def why_not_installed() -> str | None:
    """One sentence without a full stop, or None when the pinned stack is there."""
    stamp = environment() / "installed.stamp"
    if not stamp.is_file():
        return f"the real stack is not installed in {environment()}; run stack/install.sh"
    if not stamp.read_text(encoding="utf-8").startswith(PINS.read_text(encoding="utf-8")):
        return f"{environment()} holds other pins than {PINS.name}; run stack/install.sh"
    return None
