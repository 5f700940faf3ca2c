"""The conditions of a measurement: a figure without these is not kept."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.server import compiled, server_name

ROOT = Path(__file__).resolve().parent.parent


def conditions() -> dict[str, Any]:
    """Machine, versions, commit and load, as they are now."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": processor(),
        "cpus": cpus(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "kvload": version("kvworth"),
        "compiler": compiler(),
        "server": server_name(),
    }


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def processor() -> str | None:
    """The processor's name; None where the kernel does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def commit() -> str | None:
    """The commit, with a + where the sources differ from it; None outside a repository."""
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return asked.stdout.strip() or None


def compiler() -> str | None:
    """The C compiler's first line; None where the server is kvsim."""
    if not compiled():
        return None
    said = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False)
    return said.stdout.splitlines()[0] if said.stdout else None


def conditions_table(found: dict[str, Any]) -> str:
    """As Markdown."""
    rows = [f"| {key.replace('_', ' ')} | {value} |" for key, value in found.items()]
    return "\n".join(["| condition | |", "| --- | --- |", *rows])
