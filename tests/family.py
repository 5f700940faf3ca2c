"""Which tools there are, and the environment in which tests run them.

The list is pyproject.toml's: a tool that is added there is under every test of the family at once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]["scripts"]


def _exists(entry: str) -> bool:
    """Whether a script's module can be imported: a tool that is still being written is left out."""
    return importlib.util.find_spec(entry.partition(":")[0]) is not None


TOOLS = sorted(name for name, entry in SCRIPTS.items() if _exists(entry))
LIBRARIES = ["kvengine", "kvpipe", "kvprompt", "kvschemas"]


def environment() -> dict[str, str]:
    """The same words, width and clock everywhere: nothing of the person's own setting is left."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().endswith("_proxy") and key not in ("OPENAI_API_KEY", "FORCE_COLOR")
    }
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "TZ": "UTC",
    }
