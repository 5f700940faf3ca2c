"""The break-even's chapter on the real stack: a computed token costs more than a cached one.

Lengths are few and short, so that whether an interval excludes zero is the machine's affair; what
must be so is that there is a fit, and that computing and hitting are far apart in it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.family import environment
from tests.real.engine import Stack
from tests.real.pipeline import PATIENCE_S, measure

PLAN = (
    "--scenario long_context_high_reuse --requests 18 --contexts 11 --context-tokens 200-2200 "
    "--output-tokens 2 --pause 0 --warmup 1 --sentinels 0"
)
"""Without sentinels: whether they drift is the machine's affair, and would leave rounds out."""


def test_a_computed_token_costs_more_than_one_from_the_own_cache(
    empty_stack: Stack, tmp_path: Path
) -> None:
    load = f"kvload --url {empty_stack.node_a} --model {empty_stack.model} {PLAN}"
    done = measure(tmp_path, load)

    report = subprocess.run(
        ["kvreport", "--format", "json", str(done.stats_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
    )
    [one] = json.loads(report.stdout)["efficiency"]
    assert one["reasons"] == [], report.stderr
    assert (one["scope"], one["split"], one["simulated"]) == ("run", "requests", False)
    # Where an interval holds zero there is no figure; of so many lengths one has it.
    speeds = [found["value"] for found in one["figures"] if found["name"] == "prefill_tps"]
    slowest = min(speed for speed in speeds if speed is not None)
    [cached] = [found for found in one["figures"] if found["name"] == "cached_s"]
    assert cached["source"] == "local"
    assert cached["value"] is None or cached["value"] < 1 / slowest / 3
    [saving] = one["savings"]
    assert saving["seconds"]["value"] > 0

    text = subprocess.run(
        ["kvreport", str(done.stats_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
    )
    assert "Efficiency and break-even" in text.stdout
