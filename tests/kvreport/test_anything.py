"""Whatever the schema allows can be reported on: no crash, no NaN, no line too wide."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests import strategies

from kvpipe.process import ToolError
from kvpipe.records import RoundStats
from kvreport.conclude import conclude
from kvreport.contrasts import contrasted
from kvreport.display import width
from kvreport.experiments import group
from kvreport.formats import RENDERERS, Setting
from kvreport.rounds import Round
from kvreport.targets import parse


def tamed(value: Any) -> Any:
    """Figures from a nanosecond to three centuries: others overflow in some unit.

    What is smaller becomes a nanosecond rather than nothing, and nothing is rounded up to a limit:
    some fields do not allow either.
    """
    if isinstance(value, dict):
        return {name: tamed(one) for name, one in value.items()}
    if isinstance(value, list):
        return [tamed(one) for one in value]
    if not isinstance(value, float) or not value:
        return value
    kept = math.fmod(value, 1e10) or 1.0
    return math.copysign(max(math.trunc(abs(kept) * 1e9) / 1e9, 1e-9), kept)


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    """Round stats with samples whose columns are of one length, under a few names only."""
    value: dict[str, Any] = tamed(draw(strategies.values(RoundStats)))
    if value.get("samples"):
        columns = {name: one for name, one in value["samples"].items() if isinstance(one, list)}
        rows = min(map(len, columns.values()))
        value["samples"] |= {name: one[:rows] for name, one in columns.items()}
    value["name"] = draw(st.sampled_from(["a", "b"]))
    runs = value["run"] if isinstance(value["run"], list) else [value["run"]]
    number = draw(st.integers(0, 3))
    value["round_num"] = number
    for run in runs:
        run["experiment_id"] = draw(st.sampled_from(["x", "y"]))
        run["repeat"] = draw(st.integers(1, 2))
        run["round_num"] = number
    return Round(stats=msgspec.convert(value, RoundStats), place="in.jsonl:1")


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(rounds(), min_size=1, max_size=5))
def test_anything_that_is_allowed_is_reported(given_rounds: list[Round]) -> None:
    try:
        experiments = group(given_rounds)
    except ToolError:
        return
    conclusion = conclude(experiments, parse(["e2e_reduction=0.5"]), tool_version="test")
    conclusion = contrasted(conclusion, experiments, experiments[0].name)
    for name, render in RENDERERS.items():
        shown = render(conclusion, Setting(columns=80))
        assert not re.search(r"\b(nan|inf)[ \u00a0](ms|s|%|req)", shown)
        if name == "text":
            assert all(width(line) <= 80 for line in shown.splitlines())
