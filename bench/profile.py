"""Where kvload's event loop spends its time under a load: the page beside a goal that is missed.

  python -m bench.profile --load '64 streams flat out' > profile.md

cProfile sees the main thread: the loop and the wire. Parsing and writing are in a thread of their
own, and only in the total. Its own cost is large, so that shares count, and never seconds.
"""

from __future__ import annotations

import argparse
import pstats
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from bench.goals import LOADS
from bench.kept import table
from bench.loads import Load, kvload_command, workload
from bench.server import serving
from bench.watched import watch

ROWS = 25


def main() -> int:
    """Profile one load and print a page."""
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--load", choices=[load.name for load in LOADS], default=LOADS[0].name)
    args.add_argument("--share", type=float, default=1.0, help="of the streams and requests")
    asked = args.parse_args()
    load = next(one for one in LOADS if one.name == asked.load).shrunk(asked.share)
    found = profile(load)
    if found is None:
        print("profile: kvload failed", file=sys.stderr)
        return 2
    print("\n".join(render(load, found)))
    return 0


def profile(load: Load) -> pstats.Stats | None:
    """The profile of kvload's main thread; None if it failed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work, out = folder / "work.jsonl", folder / "profile"
        work.write_text("".join(workload(load.requests, load.tokens)), encoding="utf-8")
        truth = folder / "truth.jsonl"
        with serving(truth, ttft_ms=load.ttft_ms, itl_ms=load.itl_ms) as url:
            _, *flags = kvload_command(load, url, str(work))
            done = watch([sys.executable, "-m", "cProfile", "-o", str(out), "-m", "kvload", *flags])
        return pstats.Stats(str(out)) if done.status == 0 and out.exists() else None


def render(load: Load, found: pstats.Stats) -> list[str]:
    """The functions that took most time by themselves, as Markdown."""
    # Typeshed does not tell of `stats`: (file, line, name) to (calls, calls, own, with inner, ...).
    stats = cast("dict[tuple[str, int, str], Any]", found.stats)  # type: ignore[attr-defined]
    total = sum(row[2] for row in stats.values())
    most = sorted(stats.items(), key=lambda item: -item[1][2])[:ROWS]
    rows = [
        [f"{own / total:.1%}", f"{inner / total:.1%}", f"{calls:,}", _place(*where)]
        for where, (_, calls, own, inner, _) in most
    ]
    return [
        f"# Profile of kvload, {load.name}", "",
        "Shares of the main thread's time, waiting for the network left in (`poll`).", "",
        *table(["own", "with inner", "calls", "function"], rows),
    ]  # fmt: skip


def _place(file: str, line: int, name: str) -> str:
    short = "/".join(Path(file).parts[-2:])
    return f"`{name}`" if file == "~" else f"`{short}:{line} {name}`"


if __name__ == "__main__":
    sys.exit(main())
