"""Whether a plan fits what was asked and the servers it goes to."""

from __future__ import annotations

from collections.abc import Sequence

from kvengine.urls import redact
from kvload.ideals import EXACT
from kvload.load import planned_arrival
from kvload.plans import RepeatPlan
from kvload.settings import Experiment
from kvload.site import Site
from kvpipe.process import ToolError, UsageError
from kvpipe.records import Arrival


def arrival_for(experiment: Experiment, plans: Sequence[RepeatPlan]) -> Arrival:
    """The arrival as asked; a workload with times of its own keeps them where nothing was."""
    timed = any(request.at_s is not None for plan in plans for request in plan.requests)
    if timed:
        return planned_arrival(experiment.arrival, experiment.max_concurrency)
    if experiment.max_concurrency is not None and experiment.arrival.kind == "serial":
        raise UsageError("--max-concurrency caps an open loop: this workload has no at_s")
    return experiment.arrival


def check_lengths(plan: RepeatPlan, site: Site) -> None:
    """No prompt may be longer than an endpoint's context; ToolError before anything is sent.

    Estimated lengths refuse nothing: there the server says it itself, at the latest in the warm-up.
    """
    if plan.head.calibrated not in EXACT:
        return
    for node in site.nodes.values():
        limit = node.identity.max_model_len
        for request in plan.requests:
            needed = (request.prompt_tokens or 0) + request.max_tokens
            if limit is not None and needed > limit:
                raise ToolError(
                    f"request {request.index} needs {needed} tokens (prompt and output), but"
                    f" {site.model} at {redact(node.endpoint_url)} takes {limit}:"
                    f" {_way_out(plan.head.scenario)}"
                )


def _way_out(scenario: str) -> str:
    """What makes shorter requests, by what the plan was made of."""
    if scenario == "trace":
        return "plan the trace with a smaller --scale, or another --window"
    if scenario in ("workload", "prompts", "conversations"):
        return "leave it out of the file"
    return "lower --context-tokens or --output-tokens"
