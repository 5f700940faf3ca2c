"""The long run: every target in turn, with new examples, until the time is over.

    python -m tests.fuzz [--minutes 10] [--only NAME ...] [--out fuzz-out]

`--out` keeps Hypothesis' example database, so that what failed is tried first the next time, and
for each target that fell its smallest input and the traceback. Exit status 1 when something fell.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pprint
import signal
import sys
import time
import warnings
from pathlib import Path

from hypothesis import given, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import HypothesisWarning
from tests.family import environment
from tests.fuzz.fuzzing import QUIET, TARGETS, Target
from tests.fuzz.schemathesis import COMMAND, INSTANT, NODES, held_to_its_document
from tests.simulated import kvsim

TURN_S = 10.0
"""How long one target is at it before the next one has its turn."""
AT_FIRST = 20


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no kvsim is left behind
    os.environ.update(environment())
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", HypothesisWarning)  # of long inputs, when they are shown
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.fuzz.{path.stem}")
    chosen = [one for one in TARGETS.values() if not options.only or one.name in options.only]
    if not chosen:
        print(f"fuzz: no such target; there are {' '.join(TARGETS)}", file=sys.stderr)
        return 2
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    asked = True if options.only else _ask_kvsim(options.minutes, out)
    with contextlib.suppress(KeyboardInterrupt):  # what was done is told all the same
        _in_turn(chosen, time.monotonic() + options.minutes * 60, out)
    return _told(chosen, asked)


def _in_turn(targets: list[Target], until: float, out: Path) -> None:
    """Each target for TURN_S at a time; one that fell has no more turns."""
    examples = dict.fromkeys((one.name for one in targets), AT_FIRST)
    while time.monotonic() < until and not all(target.fell for target in targets):
        for target in targets:
            if time.monotonic() >= until or target.fell:
                continue
            begun, before = time.monotonic(), target.tried
            _turn(target, examples[target.name], out)
            pace = (target.tried - before) / max(0.01, time.monotonic() - begun)
            left = min(TURN_S, max(1.0, until - time.monotonic()))
            examples[target.name] = max(AT_FIRST, int(pace * left))


def _turn(target: Target, examples: int, out: Path) -> None:
    run = given(target.inputs)(target.once)
    kept = settings(
        QUIET, max_examples=examples, database=DirectoryBasedExampleDatabase(out / "examples")
    )
    # Hypothesis keeps examples by the function they are for: its name must tell the targets apart.
    run.__qualname__ = target.name
    with contextlib.suppress(Exception):  # it stands in `fell`
        kept(run)()
    if target.fell is not None:
        (out / f"{target.name}.input").write_text(pprint.pformat(target.fell.value) + "\n")
        (out / f"{target.name}.traceback").write_text(target.fell.told, errors="backslashreplace")
        print(f"fuzz: {target.name} FELL: see {out / target.name}.input", file=sys.stderr)


def _ask_kvsim(minutes: float, out: Path) -> bool:
    """Schemathesis' part, before the others' time begins; false when kvsim did not pass."""
    if not COMMAND.exists():
        print("fuzz: SCHEMATHESIS IS NOT INSTALLED (make schemathesis)", file=sys.stderr)
        return True
    passed = True
    for name, flags in NODES.items():
        with kvsim(*INSTANT, *flags) as sim:
            examples = max(5, int(2 * minutes))
            verdict = held_to_its_document(sim.url, examples, seed=None, limit_s=minutes * 60 + 120)
        state = "ok" if verdict.ok else "FELL"
        print(f"{state:4}  {verdict.cases:9,} requests  kvsim, {name}", flush=True)
        if not verdict.ok:
            (out / f"kvsim {name}.log").write_text(verdict.said)
            passed = False
    return passed


def _told(targets: list[Target], asked: bool) -> int:
    """A line for each target; 1 when something fell."""
    for target in targets:
        state = "FELL" if target.fell else "ok"
        print(f"{state:4}  {target.tried:9,} examples  {target.name}: {target.what}")
    print(f"      {sum(target.tried for target in targets):9,} examples in all")
    return 1 if not asked or any(target.fell for target in targets) else 0


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--minutes", type=float, default=10.0)
    made.add_argument("--only", action="append", default=[], metavar="NAME")
    made.add_argument("--out", default="fuzz-out")
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
