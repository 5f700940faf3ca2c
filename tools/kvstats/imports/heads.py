"""Head and foot of an imported round: what every such file lacks, said once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kvpipe.records import Arrival, End, Finding, Request, Run

NOT_RECORDED = "not recorded"
"""Endpoint of a file that does not name it."""
ALWAYS = (
    "the prompts (so whether two rounds sent the same)",
    "sampling parameters",
    "isolation",
    "server counters",
    "client health",
)
"""What no peer's file tells."""


def head(
    *,
    tool: str,
    run_id: str,
    number: int,
    requests: int,
    api: Literal["chat", "completions"],
    arrival: Arrival,
    started_at: str,
    like: Sequence[object],
    name: str | None = None,
    endpoint_url: str | None = None,
    model: str | None = None,
    tool_version: str | None = None,
    seed: int | None = None,
    config: Mapping[str, Any],
) -> Run:
    """The `run` of a file. `like`: what rounds of one experiment have in common.

    The first round of an experiment stands where a cold one does, and later ones where hits do:
    nothing but their order says so.
    """
    shape = hashlib.sha256(repr((tool, requests, *like)).encode()).hexdigest()
    return Run(
        run_id=run_id,
        experiment_id=f"{tool}-{shape[:12]}",
        name=name or tool,
        scenario=tool,
        arm="cold" if number == 1 else "hit",
        tier="local",
        round_num=number,
        endpoint_url=endpoint_url or NOT_RECORDED,
        api=api,
        model=model,
        plan_sha256=shape,
        shape_sha256=shape,
        seed=seed,
        requests=requests,
        arrival=arrival,
        order="given",
        config=dict(config),
        tool_version=tool_version or tool,
        host=None,
        started_at=started_at,
    )


def foot(
    run: Run, requests: Sequence[tuple[bool, int]], wall_s: float, tool: str, lacks: Sequence[str]
) -> End:
    """The `end` of a file, with what it does not tell; `requests`: (succeeded, times)."""
    good = sum(count for ok, count in requests if ok)
    failed = sum(count for ok, count in requests if not ok)
    return End(
        run_id=run.run_id,
        complete=True,
        planned=good + failed,
        sent=good + failed,
        ok=good,
        failed=failed,
        wall_s=wall_s,
        findings=[imported(tool, run.round_num, [*ALWAYS, *lacks])],
    )


def imported(tool: str, number: int, lacks: Sequence[str]) -> Finding:
    """What is not known of a round that another tool measured; a warning."""
    return Finding(
        code="imported",
        severity="warning",
        message=(
            f"measured by {tool}; not told by its file: {', '.join(lacks)}; it is round {number} "
            "by its place among the files or its metadata alone"
        ),
        evidence={"tool": tool, "not_told": list(lacks)},
    )


def run_id_of(data: bytes) -> str:
    """The same file twice has the same name twice, and is refused as such."""
    return hashlib.sha256(data).hexdigest()[:16]


def text_sha256(text: str) -> str:
    """As kvload's `output_sha256`."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def unknown_request(run: Run, index: int, **facts: Any) -> Request:
    """A request with what no peer tells left out; every request counts as `unique`."""
    return Request(
        run_id=run.run_id, index=index, stratum="unique", endpoint_url=run.endpoint_url, **facts
    )
