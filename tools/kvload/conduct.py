"""The experiment itself: repeats, rounds and the controls between them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from kvengine.saltprobe import SaltProbe
from kvengine.urls import redact
from kvload.alone import Alone
from kvload.bodies import Dress, Prepared, prepare
from kvload.candidates import CANDIDATES, why_none
from kvload.client import Client, Target
from kvload.console import Console
from kvload.controls import (
    needs_reset,
    preflight_reset,
    reset_engines,
    rest,
    salt_findings,
    warmup_findings,
)
from kvload.drafts import RoundFacts
from kvload.drive import Observe, Outcome
from kvload.fitness import arrival_for, check_lengths
from kvload.fleet import Shard, arrival_in
from kvload.heads import run_head
from kvload.health import client_health
from kvload.horizon import fitted
from kvload.ideals import Namespace, RoundIdeals
from kvload.job import Job, Sender
from kvload.ledger import Ledger
from kvload.limits import check_open_files
from kvload.load import check_workers
from kvload.namespaces import Salts
from kvload.pacing import pace_of
from kvload.plans import (
    RepeatPlan,
    make_plans,
    plan_of,
    read_workload,
    warmup_requests,
)
from kvload.settings import Experiment, RoundPlan, rounds_of
from kvload.shards import share_of
from kvload.site import Node, Site, salt_way, survey
from kvload.start import LATE_S, Start
from kvload.stopping import Interrupted, Stopping
from kvload.tally import Tally
from kvload.until import Stages, take
from kvload.warmup import Leg, warm_up
from kvload.watch import SerialWatch, Watch
from kvpipe.jsonl import write_record
from kvpipe.process import Stopped
from kvpipe.records import Barrier, End, Planned, Request, Reset, Run, SaltWay, Warmup

BEFORE_ALL_NS = 0
NO_WARMUP = Warmup(passes=0, settled=None)
TITLES = {"cold": "🥶 Cold Start", "hit": "🔥 Cache Hit", "no_reuse": "no reuse (control)"}


@dataclass(slots=True)
class Totals:
    """What became of the whole invocation."""

    complete: bool = True
    failed: int = 0
    rounds: int = 0
    short: bool = False
    undecided: str = ""
    last_error: str | None = None
    stopped: str | None = None

    @property
    def trouble(self) -> str:
        """What went wrong, in one line."""
        failed = f"{self.failed} failed (last: {self.last_error})" if self.failed else ""
        stopped = f"stopped early: {self.stopped}" if self.stopped else ""
        short = "the plan was too short for --duration" if self.short else ""
        return (
            "; ".join(part for part in (failed, stopped, short, self.undecided) if part)
            or "nothing"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One round about to be run: all that is fixed before its clock starts."""

    plan: RepeatPlan
    round_plan: RoundPlan
    following: RoundPlan | None
    head: Run
    node: Node
    prepared: list[Prepared]
    namespace: Namespace
    reuse: bool

    @property
    def own_requests(self) -> int:
        """Of the scenario's requests those that are ours to send."""
        return self.head.requests - sum(one.stratum != "sentinel" for one in self.plan.others)

    @property
    def share(self) -> float:
        """Of the plan's requests what is ours."""
        return len(self.plan.requests) / (len(self.plan.requests) + len(self.plan.others))


class Conductor:
    """Runs one experiment against the servers of its site."""

    def __init__(
        self, experiment: Experiment, out: BinaryIO, console: Console, crew: Sender | None
    ) -> None:
        self._experiment = experiment
        self._sender: Sender
        self._crew = crew
        self._stages: Stages | None = None
        if experiment.until is not None:
            self._stages = Stages(until=experiment.until, maximum=experiment.until_max)
        self._start = None if experiment.start_at is None else Start(experiment.start_at)
        self._out = out
        self._console = console
        self._stack = contextlib.AsyncExitStack()
        self._clients: dict[str, Client] = {}
        self._site: Site
        self._warmup: Warmup | None = None
        self._salt_way: SaltWay = "none"
        self._salt_probe: SaltProbe | None = None
        self._sent_first: frozenset[int] | None = None
        self._candidates: int | None = None
        self.stopping = Stopping(console)
        self.totals = Totals()

    async def run(self) -> None:
        """Survey, warm up, then every round of every repeat; ends early at a stop."""
        self.stopping.listen()
        if self._start is not None:
            self._start.check()
        async with self._stack:
            try:
                plans = await self._prepare_site()
                for repeat in self._experiment.repeats:
                    await self._repeat(repeat, plan_of(plans, repeat))
                    if not self.totals.complete:
                        return
                if self._stages is not None:
                    await self._second_stage(self._stages, plans)
            finally:
                for client in self._clients.values():
                    await client.close()

    async def _second_stage(self, stages: Stages, plans: list[RepeatPlan]) -> None:
        """As many repeats more as the spread of the first ones asks for."""
        experiment, first = self._experiment, stages.until.first_repeats
        fixed = stages.fixed()
        width = f"±{stages.until.half_width * 100:g} %"
        self._console.say(f"{width} takes {fixed.needed} repeats, by the first {first}")
        if fixed.total < fixed.needed:
            self.totals.undecided = f"{width} takes {fixed.needed} repeats, {fixed.total} were run"
            self._console.say(f"  --until-max: {fixed.total} are run")
        for repeat in range(first + 1, fixed.total + 1):
            if experiment.source.workload is None:
                one = dataclasses.replace(experiment, repeats=(repeat,))
                work = asyncio.to_thread(make_plans, one, self._tokenizer(), self._site.model)
                plans = [fitted(plan, experiment) for plan in await self.stopping.unless(work)]
            await self._repeat(repeat, plan_of(plans, repeat))
            if not self.totals.complete:
                return

    async def _prepare_site(self) -> list[RepeatPlan]:
        """Everything that may forbid measuring, before anything is measured."""
        experiment = self._experiment
        unless = self.stopping.unless
        plans = await unless(asyncio.to_thread(read_workload, experiment))
        self._site = await unless(survey(experiment, self._stack.enter_async_context))
        access = experiment.access
        for url in self._site.nodes:
            target = Target.parse(url, experiment.api, access.headers, access.api_key)
            self._clients[url] = Client(target, timeout_s=access.timeout_s)
        self._sender = self._crew or Alone(self._clients)
        if not plans:
            work = asyncio.to_thread(make_plans, experiment, self._tokenizer(), self._site.model)
            plans = await unless(work)
        for plan in plans:
            check_lengths(plan, self._site)
        arrival = arrival_in(arrival_for(experiment, plans), experiment.shard)
        experiment = self._experiment = dataclasses.replace(experiment, arrival=arrival)
        check_workers(arrival, experiment.workers)
        check_open_files(arrival.concurrency or 1, experiment.workers)
        plans = [fitted(plan, experiment) for plan in plans]
        if experiment.shard is not None:
            plans = self._shared(plans, experiment.shard)
        if needs_reset(experiment):
            await unless(preflight_reset(self._site))
        if experiment.keep_output:
            self._candidates = await unless(self._ask_for_candidates())
        if any(turn.salt == "request" for turn in self._schedule()) or experiment.salt != "none":
            self._salt_way, self._salt_probe = await unless(salt_way(self._site, experiment))
        return plans

    def _shared(self, plans: Sequence[RepeatPlan], shard: Shard) -> list[RepeatPlan]:
        """What this shard sends of each plan, and a word on what a fleet needs."""
        if shard.count > 1 and self._start is None and self._experiment.warmup_passes:
            self._console.warn(
                "WARNING: without --start-at the warm-up of one shard runs in the round of another,"
                " and counts there as foreign traffic: give --start-at TIME, or --warmup 0"
            )
        shares = [share_of(plan, shard) for plan in plans]
        first = shares[0]
        of = len(first.requests) + len(first.others)
        self._console.say(f"Shard {shard}: {len(first.requests)} of {of} requests")
        return shares

    def _tokenizer(self) -> str:
        """URL of who counts tokens for the first round's endpoint."""
        first = self._experiment.endpoint(self._schedule()[0].round_num)
        return self._site.nodes[first].told_by

    def _schedule(self) -> list[RoundPlan]:
        return rounds_of(self._experiment, self._experiment.repeats[0])

    async def _repeat(self, repeat: int, plan: RepeatPlan) -> None:
        experiment = self._experiment
        salts = Salts(experiment=experiment, way=self._salt_way, repeat=repeat)
        if len(experiment.repeats) > 1:
            of = "" if experiment.until is not None else f"/{max(experiment.repeats)}"
            self._console.say(f"Repeat {repeat}{of}")
        if self._warmup is None:
            self._warmup = await self._warm_up(plan)
        self._sent_first = None
        schedule = rounds_of(experiment, repeat)
        for number, round_plan in enumerate(schedule):
            following = schedule[number + 1] if number + 1 < len(schedule) else None
            turn = await self._together(self._turn(repeat, plan, round_plan, following, salts))
            self.totals.complete = await self._one_round(turn)
            self.totals.rounds += 1
            if not self.totals.complete:
                return
            if following is not None and experiment.pause_s > 0:
                self._console.say(f"  pause: {experiment.pause_s:g} s")
                await self.stopping.unless(asyncio.sleep(experiment.pause_s))

    async def _together(self, turn: Turn) -> Turn:
        """The first round shortly before the common beginning, which its head names."""
        start = self._start
        if start is None or start.passed:
            return turn
        start.check()
        self._console.say(f"  start: {start.at.isoformat()}")
        await self.stopping.unless(start.near())
        head = msgspec.structs.replace(turn.head, started_at=start.at.isoformat())
        return dataclasses.replace(turn, head=head)

    async def _origin_ns(self) -> int:
        """0 ns of a round: now, or at the common beginning."""
        if self._start is not None and not self._start.passed:
            late_s = await self._start.come()
            if late_s > LATE_S:
                self._console.warn(f"begins {late_s:.1f} s after --start-at: the servers were slow")
        return time.perf_counter_ns()

    async def _warm_up(self, plan: RepeatPlan) -> Warmup:
        experiment, site = self._experiment, self._site
        requests = warmup_requests(plan.requests)
        if experiment.warmup_passes == 0 or not requests:
            return NO_WARMUP
        schedule = self._schedule()
        storing = [turn for turn in schedule if turn.arm == "cold"] or schedule[:1]
        cold = [self._leg(turn.round_num, "stored") for turn in storing[:1]]
        known = {leg.url for leg in cold}
        alone = [self._leg(turn.round_num, "alone") for turn in schedule if turn.arm == "no_reuse"]
        cold = [leg for leg in alone if leg.url not in known] + cold
        hit = [self._leg(turn.round_num, "stored") for turn in schedule if turn.arm == "hit"][:1]
        self._console.say("Warm-up")

        async def between() -> None:
            await rest(site)
            if needs_reset(experiment):
                await reset_engines(site)

        work = warm_up(requests, cold, hit, experiment.warmup_passes, between)
        warmup = await self.stopping.unless(work)
        await self.stopping.unless(rest(site))
        return warmup

    def _leg(self, round_num: int, namespace: str) -> Leg:
        url = self._experiment.endpoint(round_num)
        dress = self._dress(url, uuid.uuid4().hex[:16])
        return Leg(url=redact(url), client=self._clients[url], dress=dress, namespace=namespace)

    def _dress(self, url: str, run_id: str) -> Dress:
        """Bodies without a namespace; callers put theirs in."""
        experiment = self._experiment
        return Dress(
            api=experiment.api,
            model=self._site.model,
            engine=self._site.nodes[url].identity.engine,
            extra=experiment.extra_body,
            salt=None,
            salt_way="none",
            salt_each=False,
            nonce=run_id,
            run_id=run_id,
            keep_output=experiment.keep_output,
            disaggregated=experiment.disaggregated,
            candidates=self._candidates,
        )

    async def _ask_for_candidates(self) -> int | None:
        """How many likeliest tokens every endpoint tells at each place of an answer."""
        for node in self._site.nodes.values():
            reason = await why_none(node.server, self._site.model, self._experiment.api)
            if reason is not None:
                self._console.say(
                    "Answers are kept without log probabilities:"
                    f" {redact(node.endpoint_url)}: {reason}"
                )
                return None
        self._console.say(f"Answers are kept, with the {CANDIDATES} likeliest tokens at each place")
        return CANDIDATES

    def _turn(
        self,
        repeat: int,
        plan: RepeatPlan,
        round_plan: RoundPlan,
        following: RoundPlan | None,
        salts: Salts,
    ) -> Turn:
        """Bodies, head and namespace of a round, all before its clock starts."""
        experiment = self._experiment
        url = experiment.endpoint(round_plan.round_num)
        node = self._site.nodes[url]
        salt, each = salts.of(round_plan)
        dress = dataclasses.replace(
            self._dress(url, uuid.uuid4().hex[:16]),
            salt=salt,
            salt_way=salts.way if salt is not None else "none",
            salt_each=each,
        )
        namespace = salts.seen(salt, each)
        if round_plan.arm == "hit" and experiment.only_round is not None:
            namespace.presume([*plan.requests, *plan.others])
        return Turn(
            plan=plan,
            round_plan=round_plan,
            following=following,
            head=run_head(experiment, node, plan.head, round_plan, repeat, dress, self._warmup),
            node=node,
            prepared=prepare(self._to_send(plan), dress),
            namespace=namespace,
            reuse=not each,
        )

    def _to_send(self, plan: RepeatPlan) -> list[Planned]:
        """The repeat's requests: all, or those that a duration let its first round send.

        Rounds are compared request by request, and a later one is faster: it must not send more.
        """
        if self._sent_first is None:
            return plan.requests
        return [request for request in plan.requests if request.index in self._sent_first]

    def _limit(self, turn: Turn, outcome: Outcome, wall_s: float) -> None:
        """After the first round of a closed loop with a duration: what the later ones send."""
        arrival = self._experiment.arrival
        closed = arrival.kind in ("serial", "closed")
        if arrival.duration_s is None or not closed or self._sent_first is not None:
            return
        self._sent_first = frozenset(outcome.begun)
        if outcome.ran_out and wall_s < arrival.duration_s:
            needed = math.ceil(len(turn.prepared) * arrival.duration_s / max(wall_s, 1e-3))
            self.totals.short = True
            self._console.warn(
                f"the plan ended after {wall_s:.1f} of {arrival.duration_s:g} s: about"
                f" {needed} requests would last (a repeated prompt would be a hit)"
            )

    async def _one_round(self, turn: Turn) -> bool:
        """One round's whole stream, from `run` to `end`; False if it stopped early."""
        experiment, head = self._experiment, turn.head
        self._announce(turn)
        write_record(head, self._out)
        job = await self._job(turn)
        watch = Watch(self._site.watched(turn.node.endpoint_url))
        await watch.begin(sample=experiment.arrival.kind != "serial")
        origin_ns = await self._origin_ns()
        tally, outcome = await self._drive(turn, job, origin_ns)
        watch.stop_sampling()
        turn.namespace.close_round()
        barrier, reset = await self._settle(turn, outcome)
        for record in await watch.end(head.run_id):
            write_record(record, self._out)
        wall_s = max(0, (outcome.last_end_ns or origin_ns) - origin_ns) / 1e9
        end = End(
            run_id=head.run_id,
            complete=outcome.stopped is None,
            reason=outcome.stopped,
            planned=len(turn.prepared) if outcome.stopped else len(outcome.begun),
            sent=tally.sent,
            ok=tally.ok,
            failed=tally.failed,
            retried=tally.retried,
            wall_s=wall_s,
            barrier=barrier,
            reset=reset,
            findings=warmup_findings(self._warmup)
            + salt_findings(self._salt_probe, self._salt_way),
            client=client_health(outcome, tally, experiment.arrival, wall_s, turn.share),
        )
        write_record(end, self._out)
        self._limit(turn, outcome, wall_s)
        self.totals.failed += tally.failed
        self.totals.last_error = tally.last_error or self.totals.last_error
        self.totals.stopped = outcome.stopped or self.totals.stopped
        self._account(end, tally, turn.own_requests)
        return end.complete

    async def _drive(self, turn: Turn, job: Job, origin_ns: int) -> tuple[Tally, Outcome]:
        """Send the round and write its request records."""
        experiment, head = self._experiment, turn.head
        ideals = RoundIdeals(
            turn.namespace,
            block_tokens=turn.node.block_tokens,
            calibrated=head.calibrated,
            reuse=turn.reuse,
            salt_in_prompt=head.salt_way == "prompt_head",
        )
        for other in turn.plan.others:  # whenever it is sent: bounds must hold for any time
            ideals.began(other, BEFORE_ALL_NS)
        facts = RoundFacts(
            run_id=head.run_id,
            endpoint_url=head.endpoint_url,
            api=experiment.api,
            origin_ns=origin_ns,
            floor_tokens=turn.node.floor_tokens,
            keep_output=experiment.keep_output,
        )
        self._console.begin(turn.own_requests)
        ledger = Ledger(
            self._out,
            origin_ns,
            ideals,
            lambda tally: self._console.progress(tally.done, tally.failed),
            self._taker(head),
        )
        outcome = await self._sender.send(job, facts, ledger, self.stopping)
        return ledger.tally, outcome

    def _taker(self, head: Run) -> Callable[[Request], None] | None:
        """What wants the records of cold and hit too: the rule of two stages."""
        if self._stages is None or head.round_num not in (1, 2):
            return None
        return functools.partial(take, self._stages.note(head.repeat, head.round_num))

    async def _job(self, turn: Turn) -> Job:
        """What is sent and at which pace, with connections opened for it."""
        experiment = self._experiment
        planned = [item.planned for item in turn.prepared]
        pace = pace_of(experiment.arrival, planned, experiment.seed, turn.plan.others)
        if self._sent_first is not None:
            pace = dataclasses.replace(pace, until_ns=None)
        job = Job(
            url=turn.node.endpoint_url,
            api=experiment.api,
            access=experiment.access,
            prepared=turn.prepared,
            pace=pace,
            observe=await self._observer(turn.node),
        )
        await self._sender.ready(job)
        return job

    async def _observer(self, node: Node) -> Observe | None:
        """Serially, the endpoint's counters tell the tier of every single request."""
        if self._experiment.arrival.kind != "serial":
            return None
        watched = self._site.watched(node.endpoint_url)
        # A prefiller looks prompts up in its cache; to a decoder every transfer is a hit.
        for role in ("node", "prefill"):
            own = [one for one in watched if one.role == role]
            if own and (role == "node" or len(own) == 1):
                serial = SerialWatch(own[0])
                await serial.begin()
                return serial.observe
        return None

    async def _settle(self, turn: Turn, outcome: Outcome) -> tuple[Barrier, Reset | None]:
        """The barrier, and the reset of the engine's own cache where the tier asks for it."""
        if outcome.stopped is not None:
            return Barrier(state="skipped", waited_s=0.0, reason="stopped early"), None
        before_hit = turn.following is not None and turn.following.arm == "hit"
        reset: Reset | None = None
        try:
            barrier = await self.stopping.unless(rest(self._site))
            if before_hit and needs_reset(self._experiment):
                reset = await self.stopping.unless(reset_engines(self._site))
        except Interrupted:
            return Barrier(state="unknown", waited_s=0.0, reason="interrupted"), None
        return barrier, reset

    def _announce(self, turn: Turn) -> None:
        experiment, head = self._experiment, turn.head
        numbers = [plan.round_num for plan in self._schedule() if plan.round_num > 0]
        place = ""
        if len({experiment.endpoint(number) for number in numbers}) > 1:
            place = f"  🌐 cross-node - endpoint: {head.endpoint_url}"
        title = f"Round {head.round_num}"
        if head.rounds is not None:
            title += f"/{head.rounds}"
        if head.arm == "no_reuse":
            title = "Control"
        simulated = "  SIMULATED" if head.simulated else ""
        self._console.say(f"{title}  {TITLES[head.arm]}  {head.name}{place}{simulated}")

    def _account(self, end: End, tally: Tally, requests: int) -> None:
        text = f"  {tally.done}/{requests} in {end.wall_s:.1f} s"
        if end.failed:
            text += f", {end.failed} failed (last: {tally.last_error})"
        if end.barrier is not None and end.barrier.state == "unknown":
            text += f"; barrier unknown: {end.barrier.reason}"
        if end.reason is not None:
            text += f"; stopped: {end.reason}"
        self._console.say(text)


async def conduct(
    experiment: Experiment, out: BinaryIO, console: Console, crew: Sender | None = None
) -> Totals:
    """Run one experiment; Stopped after a signal, ToolError if it could not begin.

    `crew`: workers that send its rounds; without them this process does.
    """
    conductor = Conductor(experiment, out, console, crew)
    try:
        await conductor.run()
    except Interrupted:
        raise Stopped(conductor.stopping.signum or signal.SIGINT) from None
    if conductor.stopping.signum is not None:
        raise Stopped(conductor.stopping.signum)
    return conductor.totals
