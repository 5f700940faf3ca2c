"""Where the requests come from: kvplan in a process of its own, or a workload file.

`--scenario` is the shorthand for `kvplan --scenario ... | kvload --workload -`, and that is how it
is done: kvplan runs as a child, and what it says is passed on.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvengine.urls import without_credentials
from kvload.settings import Experiment
from kvpipe.jsonl import open_lines
from kvpipe.process import ToolError
from kvpipe.records import Plan, Planned
from kvprompt.workload import read_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatPlan:
    """The plan of one repeat."""

    head: Plan
    requests: list[Planned]
    others: list[Planned] = field(default_factory=list)
    """What other shards of a fleet send beside it."""


def read_workload(experiment: Experiment) -> list[RepeatPlan]:
    """The plans of --workload, before any server is asked; empty if a scenario was named.

    A workload made elsewhere serves every repeat under a new salt. ToolError if nothing is in it.
    """
    path = experiment.source.workload
    if path is None:
        return []
    with open_lines(path) as (name, stream):
        return _plans(read_plan(stream, name), path)


def make_plans(experiment: Experiment, endpoint: str, model: str) -> list[RepeatPlan]:
    """One plan per repeat, made by kvplan with the endpoint's own token counts."""
    made = _kvplan(experiment, endpoint, model)
    if experiment.source.keep_plan is not None:
        Path(experiment.source.keep_plan).write_bytes(made)
    return _plans(read_plan(io.BytesIO(made), "kvplan"), "kvplan")


def _plans(found: Sequence[tuple[Plan, list[Planned]]], name: str) -> list[RepeatPlan]:
    plans = [RepeatPlan(head=head, requests=requests) for head, requests in found]
    if not any(plan.requests for plan in plans):
        raise ToolError(f"{name}: no requests in it")
    return plans


def plan_of(plans: Sequence[RepeatPlan], repeat: int) -> RepeatPlan:
    """The plan whose text was made for `repeat`, else the only one there is."""
    own = [plan for plan in plans if plan.head.repeat == repeat]
    return own[0] if own else plans[(repeat - 1) % len(plans)]


def _kvplan(experiment: Experiment, endpoint: str, model: str) -> bytes:
    # By stdin and environment, not by argument: arguments stand in everybody's process list.
    bare, lines = without_credentials(endpoint, experiment.access.headers)
    command = [
        *(sys.executable, "-m", "kvplan"),
        *("--scenario", str(experiment.source.scenario)),
        *experiment.source.plan_flags,
        *("--url", bare, "--model", model, "--api", experiment.api),
        *("--header", "@-"),
    ]
    if len(experiment.repeats) > 1:
        command += ["--repeats", str(max(experiment.repeats))]
    else:
        command += ["--repeat", str(experiment.repeats[0])]
    environment = dict(os.environ)
    if experiment.access.api_key is not None:
        environment["OPENAI_API_KEY"] = experiment.access.api_key
    done = subprocess.run(
        command,
        input="".join(f"{name}: {value}\n" for name, value in lines.items()).encode(),
        capture_output=True,
        env=environment,
        check=False,
    )
    said = done.stderr.decode(errors="replace").splitlines(keepends=True)
    if done.returncode != 0:
        # One clear line: kvplan's own complaint in our name. What stands before it is a traceback.
        _pass_on(said[:-1])
        reason = said[-1].strip().removeprefix("kvplan: ") if said else "kvplan said nothing"
        raise ToolError(f"no plan: {reason}")
    _pass_on(said)
    return done.stdout


def _pass_on(said: Sequence[str]) -> None:
    with contextlib.suppress(OSError, ValueError):  # as for our own lines: nobody may be reading
        sys.stderr.writelines(said)


def warmup_requests(requests: Sequence[Planned]) -> list[Planned]:
    """A miniature of the plan: a leader, a follower of it and a unique, as far as it has them."""
    leader = next((item for item in requests if item.stratum == "leader"), None)
    follower = next(
        (
            item
            for item in requests
            if item.stratum == "follower" and leader is not None and item.group == leader.group
        ),
        None,
    )
    unique = next((item for item in requests if item.stratum == "unique"), None)
    chosen = [item for item in (leader, follower, unique) if item is not None]
    return chosen or list(requests[:1])
