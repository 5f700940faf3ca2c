"""Conditions that differ between compared runs: whatever else could have made the difference."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from kvpipe.records import Arrival, Run
from kvreport.experiments import Experiment, same_endpoint
from kvreport.rounds import Round


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition: each value with who has it; null values are conditions not recorded."""

    key: str
    values: list[tuple[str | None, list[str]]]


_SHARD = re.compile("[0-9]{1,5}/([0-9]{1,5})")


def arrival(value: Arrival, shard: str | None = None) -> str:
    """`serial`, `closed, concurrency 5`, `poisson, 2/s`; `closed, 4 shards of concurrency 5`."""
    found = _SHARD.fullmatch(shard or "")
    shards = int(found[1]) if found else 1
    parts: list[str] = [value.kind]
    if value.rate_rps is not None:
        parts.append(f"{value.rate_rps:g}/s")
    if value.stages:
        ends = [f"{stage.from_rps:g}..{stage.to_rps:g}/s" for stage in value.stages]
        parts.append(f"stages {', '.join(ends)}")
    if value.burstiness is not None:
        parts.append(f"burstiness {value.burstiness:g}")
    if value.think_s is not None:
        parts.append(f"think time {value.think_s:g} s")
    concurrency = ""
    if value.concurrency is not None and value.kind != "serial":
        concurrency = f"concurrency {value.concurrency}"
    if shards > 1:
        parts.append(f"{shards} shards{concurrency and ' of '}{concurrency}")
    elif concurrency:
        parts.append(concurrency)
    return ", ".join(parts)


Reader = Callable[[Run], object]
READERS: dict[str, Reader] = {
    "model": lambda run: run.model,
    "engine": lambda run: run.engine,
    "engine version": lambda run: run.engine_version,
    "api": lambda run: run.api,
    "arrival": lambda run: arrival(run.arrival, run.shard),
    "order": lambda run: run.order,
    "tier": lambda run: run.tier,
    "salt": lambda run: run.salt_way,
    "requests": lambda run: run.requests,
    "contexts": lambda run: run.contexts,
    "seed": lambda run: run.seed,
    "shape": lambda run: run.shape_sha256[:12],
    "token lengths": lambda run: run.calibrated,
    "block tokens": lambda run: run.block_tokens,
    "chunk tokens": lambda run: run.chunk_tokens,
    "simulated": lambda run: "yes" if run.simulated else "no",
    "client host": lambda run: run.host.name if run.host else None,
    "client processors": lambda run: run.host.cpus if run.host else None,
    "kvload": lambda run: run.tool_version,
    "measured on": lambda run: run.started_at[:10],
}


PLAN = ("requests", "contexts", "order", "seed", "shape", "token lengths")
"""Conditions that make two plans differ."""


def of_plans(one: Experiment, other: Experiment) -> list[Condition]:
    """In what the plans of two experiments differ."""
    return [found for found in across([one, other]) if found.key in PLAN]


def within(experiment: Experiment) -> list[Condition]:
    """What differs between the rounds of one experiment; its nodes are told elsewhere."""
    named = [(_round_name(one, experiment), one) for one in experiment if one.run]
    return _differing([(name, one.run) for name, one in named if one.run])


def across(experiments: Sequence[Experiment]) -> list[Condition]:
    """What differs between experiments, by their first rounds; endpoints included."""
    firsts = [(one.name, next(iter(one))) for one in experiments]
    known = [(name, one.run) for name, one in firsts if one.run]
    conditions = _differing(known)
    endpoints = [(name, _endpoints(experiment)) for name, experiment in _named(experiments)]
    shown = _collected("endpoints", endpoints)
    return [*conditions, shown] if len(shown.values) > 1 else conditions


def _named(experiments: Sequence[Experiment]) -> list[tuple[str, Experiment]]:
    return [(one.name, one) for one in experiments]


def _endpoints(experiment: Experiment) -> str | None:
    found: list[str] = []
    for one in experiment:
        if one.endpoint and not any(same_endpoint(one.endpoint, other) for other in found):
            found.append(one.endpoint)
    return " → ".join(found) if found else None


def _round_name(one: Round, experiment: Experiment) -> str:
    name = "no_reuse" if one.arm == "no_reuse" else f"round {one.number}"
    return f"{name}, repeat {one.repeat}" if len(experiment.repeats) > 1 else name


def _differing(runs: Sequence[tuple[str, Run]]) -> list[Condition]:
    found = [
        _collected(key, [(name, _text(reader(run))) for name, run in runs])
        for key, reader in READERS.items()
    ]
    return [one for one in found if len(one.values) > 1]


def _collected(key: str, values: Sequence[tuple[str, str | None]]) -> Condition:
    who: dict[str | None, list[str]] = {}
    for name, value in values:
        who.setdefault(value, []).append(name)
    return Condition(key=key, values=list(who.items()))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
