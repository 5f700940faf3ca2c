"""The `run` record: everything that could change a number of the round behind it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec

from kvengine.urls import redact
from kvload.bodies import Dress
from kvload.host import this_host
from kvload.settings import Experiment, RoundPlan
from kvload.site import Node
from kvpipe.process import version
from kvpipe.records import Plan, Run, Warmup

GIVEN_TEXT = ("workload", "conversations", "prompts")
"""Plans of text that no seed made: repeats have the same, under new salts."""


def run_head(
    experiment: Experiment,
    node: Node,
    plan: Plan,
    round_plan: RoundPlan,
    repeat: int,
    dress: Dress,
    warmup: Warmup | None,
) -> Run:
    """The head of one round."""
    scenario = experiment.source.scenario or plan.scenario
    made_elsewhere = experiment.source.workload is not None and plan.scenario in GIVEN_TEXT
    return Run(
        run_id=dress.run_id,
        experiment_id=experiment.experiment_id,
        name=experiment.name or scenario,
        scenario=scenario,
        arm=round_plan.arm,
        tier=experiment.tier,
        repeat=repeat,
        round_num=round_plan.round_num,
        rounds=experiment.rounds if experiment.only_round is None else None,
        until=experiment.until,
        position=round_plan.position,
        endpoint_url=redact(node.endpoint_url),
        api=experiment.api,
        model=dress.model,
        engine=node.identity.engine,
        engine_version=node.identity.version,
        simulated=node.identity.simulated,
        plan_sha256=plan.plan_sha256,
        shape_sha256=plan.shape_sha256,
        seed=None if made_elsewhere else plan.seed,
        calibrated=plan.calibrated,
        requests=plan.requests,
        sentinels=plan.sentinels,
        contexts=plan.contexts,
        arrival=experiment.arrival,
        order=plan.order,
        salt=dress.salt,
        salt_way=dress.salt_way,
        isolation=experiment.isolation,
        block_tokens=node.block_tokens,
        chunk_tokens=experiment.chunk_tokens,
        warmup=warmup,
        shard=None if experiment.shard is None else str(experiment.shard),
        workers=experiment.workers,
        calibration=experiment.calibration,
        config=experiment.config,
        config_sha256=config_sha256(experiment.config),
        tool_version=version(),
        host=this_host(),
        started_at=datetime.now(UTC).isoformat(timespec="microseconds"),
    )


def config_sha256(config: dict[str, Any]) -> str:
    """Hash of a config as it was used."""
    return hashlib.sha256(msgspec.json.encode(config, order="sorted")).hexdigest()
