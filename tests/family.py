"""Which tools there are, and the environment in which tests run them.

The list is pyproject.toml's: a tool that is added there is under every test of the family at once.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]["scripts"]


TOOLS = sorted(SCRIPTS)
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
