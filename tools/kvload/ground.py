"""What an experiment stands on: found out before anything is measured, the same in all rounds."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvengine.saltprobe import SaltProbe
from kvengine.urls import redact
from kvload.alone import Alone
from kvload.bodies import Dress
from kvload.candidates import CANDIDATES, why_none
from kvload.client import Client, Target
from kvload.console import Console
from kvload.controls import needs_reset, preflight_reset
from kvload.fitness import arrival_for, check_lengths
from kvload.fleet import Shard, arrival_in
from kvload.horizon import fitted
from kvload.job import Sender
from kvload.limits import check_open_files
from kvload.load import check_workers
from kvload.plans import RepeatPlan, make_plans, read_workload
from kvload.settings import Experiment, RoundPlan, rounds_of
from kvload.shards import share_of
from kvload.site import Site, salt_way, survey
from kvload.stopping import Stopping
from kvpipe.records import SaltWay


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The experiment with its arrival settled, its servers, and who sends to them.

    `candidates`: likeliest tokens that every endpoint tells at each place of an answer; null: not
    asked for, or not told.
    """

    experiment: Experiment
    site: Site
    clients: Mapping[str, Client]
    sender: Sender
    salt_way: SaltWay = "none"
    salt_probe: SaltProbe | None = None
    candidates: int | None = None

    def schedule(self) -> list[RoundPlan]:
        """The rounds of the first repeat."""
        return rounds_of(self.experiment, self.experiment.repeats[0])

    def more_plans(self, repeat: int) -> list[RepeatPlan]:
        """Of a repeat that was not planned at first; blocks while texts are made."""
        one = dataclasses.replace(self.experiment, repeats=(repeat,))
        plans = make_plans(one, _tokenizer(self.experiment, self.site), self.site.model)
        return [fitted(plan, self.experiment) for plan in plans]

    def dress(self, url: str) -> Dress:
        """A new run's bodies for an endpoint, without a namespace; callers put theirs in."""
        experiment = self.experiment
        run_id = uuid.uuid4().hex[:16]
        return Dress(
            api=experiment.api,
            model=self.site.model,
            engine=self.site.nodes[url].identity.engine,
            extra=experiment.extra_body,
            salt=None,
            salt_way="none",
            salt_each=False,
            nonce=run_id,
            run_id=run_id,
            keep_output=experiment.keep_output,
            disaggregated=experiment.disaggregated,
            candidates=self.candidates,
        )


async def prepare_ground(
    experiment: Experiment,
    crew: Sender | None,
    console: Console,
    stopping: Stopping,
    stack: contextlib.AsyncExitStack,
) -> tuple[Ground, list[RepeatPlan]]:
    """Everything that may forbid measuring; what it opens is closed with the stack.

    Raises ToolError where it may not be measured, Interrupted at a signal.
    """
    unless = stopping.unless
    plans = await unless(asyncio.to_thread(read_workload, experiment))
    site = await unless(survey(experiment, stack.enter_async_context))
    clients = _clients(experiment, site, stack)
    if not plans:
        work = asyncio.to_thread(make_plans, experiment, _tokenizer(experiment, site), site.model)
        plans = await unless(work)
    for plan in plans:
        check_lengths(plan, site)
    arrival = arrival_in(arrival_for(experiment, plans), experiment.shard)
    experiment = dataclasses.replace(experiment, arrival=arrival)
    check_workers(arrival, experiment.workers)
    check_open_files(arrival.concurrency or 1, experiment.workers)
    plans = [fitted(plan, experiment) for plan in plans]
    if experiment.shard is not None:
        plans = _shared(plans, experiment, experiment.shard, console)
    if needs_reset(experiment):
        await unless(preflight_reset(site))
    ground = Ground(
        experiment=experiment, site=site, clients=clients, sender=crew or Alone(clients)
    )
    if experiment.keep_output:
        told = await unless(_ask_for_candidates(ground, console))
        ground = dataclasses.replace(ground, candidates=told)
    if any(one.salt == "request" for one in ground.schedule()) or experiment.salt != "none":
        way, probe = await unless(salt_way(site, experiment))
        ground = dataclasses.replace(ground, salt_way=way, salt_probe=probe)
    return ground, plans


def _clients(
    experiment: Experiment, site: Site, stack: contextlib.AsyncExitStack
) -> dict[str, Client]:
    access = experiment.access
    clients = {}
    for url in site.nodes:
        target = Target.parse(url, experiment.api, access.headers, access.api_key)
        clients[url] = Client(target, timeout_s=access.timeout_s)
        stack.push_async_callback(clients[url].close)
    return clients


def _tokenizer(experiment: Experiment, site: Site) -> str:
    """URL of who counts tokens for the first round's endpoint."""
    first = rounds_of(experiment, experiment.repeats[0])[0]
    return site.nodes[experiment.endpoint(first.round_num)].told_by


def _shared(
    plans: Sequence[RepeatPlan], experiment: Experiment, shard: Shard, console: Console
) -> list[RepeatPlan]:
    """What this shard sends of each plan, and a word on what a fleet needs."""
    if shard.count > 1 and experiment.start_at is None and experiment.warmup_passes:
        console.warn(
            "WARNING: without --start-at the warm-up of one shard runs in the round of another,"
            " and counts there as foreign traffic: give --start-at TIME, or --warmup 0"
        )
    shares = [share_of(plan, shard) for plan in plans]
    first = shares[0]
    of = len(first.requests) + len(first.others)
    console.say(f"Shard {shard}: {len(first.requests)} of {of} requests")
    return shares


async def _ask_for_candidates(ground: Ground, console: Console) -> int | None:
    """How many likeliest tokens every endpoint tells at each place of an answer."""
    for node in ground.site.nodes.values():
        reason = await why_none(node.server, ground.site.model, ground.experiment.api)
        if reason is not None:
            console.say(
                f"Answers are kept without log probabilities: {redact(node.endpoint_url)}: {reason}"
            )
            return None
    console.say(f"Answers are kept, with the {CANDIDATES} likeliest tokens at each place")
    return CANDIDATES
