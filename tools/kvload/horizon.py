"""A plan that ends when the schedule does: as many requests as are due, and never one twice.

A prompt that was sent before is a hit. So a plan that is too short for what was asked is refused,
not repeated; one that is too long is cut, and its hashes are of what is sent.
"""

from __future__ import annotations

import msgspec

from kvload.load import requests_for
from kvload.plans import RepeatPlan
from kvload.settings import Experiment
from kvpipe.process import ToolError
from kvpipe.records import Planned
from kvprompt.hashes import plan_sha256, shape_sha256


def fitted(plan: RepeatPlan, experiment: Experiment) -> RepeatPlan:
    """The plan, cut to the requests that are due in time; ToolError if there are too few.

    In a closed loop the plan stays whole: how many requests fit shows only while it runs.
    """
    due, arrival = plan.requests, experiment.arrival
    if arrival.kind == "planned" and arrival.duration_s is not None:
        due = [request for request in due if (request.at_s or 0.0) < arrival.duration_s]
    elif (needed := requests_for(arrival, experiment.seed)) is not None:
        if len(due) < needed:
            raise ToolError(_too_few(len(due), experiment, needed))
        due = due[:needed]
    if not due:
        raise ToolError("no request is due before the end: a longer --duration, or a higher rate")
    return plan if len(due) == len(plan.requests) else _cut(plan, due)


def _cut(plan: RepeatPlan, due: list[Planned]) -> RepeatPlan:
    own = [request for request in due if request.stratum != "sentinel"]
    counted = plan.head.got_tokens is not None
    asked = plan.head.asked_tokens is not None
    head = msgspec.structs.replace(
        plan.head,
        plan_sha256=plan_sha256(due),
        shape_sha256=shape_sha256(due),
        requests=len(own),
        sentinels=len(due) - len(own),
        asked_tokens=sum(request.asked_tokens or 0 for request in due) if asked else None,
        got_tokens=sum(request.prompt_tokens or 0 for request in due) if counted else None,
        cold_requests=sum(request.stratum != "follower" for request in own),
    )
    return RepeatPlan(head=head, requests=due)


def _too_few(has: int, experiment: Experiment, needed: int) -> str:
    arrival = experiment.arrival
    asked = "--stages" if arrival.stages else f"--duration {arrival.duration_s:g}"
    text = f"{asked} is {needed} requests at this rate, and the plan has {has}"
    if experiment.source.workload is not None:
        return f"{text}: {needed - has} more lines are needed (a repeated prompt would be a hit)"
    return f"{text}: leave --requests out, or give --requests {needed}"
