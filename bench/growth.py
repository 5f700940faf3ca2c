"""What kvload and kvstats cost as the load grows, by six variables; where it bends.

  python -m bench.growth --label growth            `make growth LABEL=growth`: eight minutes
  python -m bench.growth --label growth --only rate      this sweep again, the others stay
  python -m bench.growth --share 0.01 --runs 1     a look whether it works

The server is bench/flatserver.c in a process of its own, so that its cost is not counted. Points
are the median of three runs, of five where those differ by more than 20 %.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.conditions import commit, conditions, conditions_table
from bench.growth_page import page, plot, plot_lateness
from bench.growth_points import Curve, Point, curve_of, read_curves, written
from bench.growth_sweeps import SWEEPS, Sweep, most_streams
from bench.kept import folder_of
from bench.loads import BenchError


def main() -> int:
    """Measure, print, and keep what has a label; 2 if a run failed."""
    asked = _arguments()
    folder = folder_of(asked.label) if asked.label else None
    command = " ".join(["python -m bench.growth", *sys.argv[1:]])
    under = {"command": command, **conditions()}
    earlier = [] if folder is None or not asked.only else read_curves(_kept(folder), SWEEPS)
    found = {curve.sweep.name: curve for curve in earlier}
    try:
        for sweep in SWEEPS:
            if asked.only and sweep.name not in asked.only:
                continue
            points = points_of(sweep, asked.share)
            found[sweep.name] = curve_of(sweep, points, asked.runs, commit(), _say)
            under["load_average_after"] = round(os.getloadavg()[0], 2)
            curves = [found[one.name] for one in SWEEPS if one.name in found]
            if folder is not None:  # what there is so far is kept if the rest is not waited for
                keep(folder, curves, under)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print("\n".join(page(curves, under["cpus"], command)))
    return 0


def _arguments() -> argparse.Namespace:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--runs", type=int, default=3, help="runs of each point (default: 3)")
    args.add_argument("--share", type=float, default=1.0, help="only points up to this share")
    args.add_argument(
        "--only", action="append", choices=[sweep.name for sweep in SWEEPS],
        help="only this sweep; repeatable",
    )  # fmt: skip
    args.add_argument("--label", help="keep points, page and figures in bench/runs/DATE-LABEL")
    return args.parse_args()


def points_of(sweep: Sweep, share: float) -> list[int]:
    """The sweep's points up to a share of the last one, two at least; streams as files allow."""
    most = sweep.points[-1] * share
    if sweep.name == "streams":
        most = min(most, most_streams())
    return [at for at in sweep.points if at <= most or at in sweep.points[:2]]


def _say(point: Point) -> None:
    what = f"{point.at:,}" if point.at else "start"
    print(
        f"bench: {point.sweep} {what}: {point.of('cpu_s'):.2f} s, {point.of('peak_mb'):.0f} MB,"
        f" {len(point.runs)} runs, load {point.load_average}",
        file=sys.stderr,
        flush=True,
    )


def keep(folder: Path, curves: Sequence[Curve], under: dict[str, object]) -> None:
    """Points as JSON lines, the page with the conditions, and both figures."""
    _kept(folder).write_text(written(curves, under), encoding="utf-8")
    lines = page(curves, int(str(under["cpus"])), str(under["command"]))
    text = "\n".join([*lines, "", conditions_table(under), ""])
    (folder / "growth.md").write_text(text, encoding="utf-8")
    plot(curves, folder / "growth.png")
    plot_lateness(curves, folder / "lateness.png")


def _kept(folder: Path) -> Path:
    return folder / "growth.jsonl"


if __name__ == "__main__":
    sys.exit(main())
