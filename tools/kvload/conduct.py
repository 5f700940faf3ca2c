"""The experiment itself: repeats, rounds and the controls between them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from kvengine.urls import redact
from kvload.console import Console
from kvload.controls import needs_reset, reset_engines, rest
from kvload.ground import Ground, prepare_ground
from kvload.job import Sender
from kvload.namespaces import Salts
from kvload.plans import RepeatPlan, plan_of, warmup_requests
from kvload.rounds import RoundOver, Rounds
from kvload.settings import Experiment, rounds_of
from kvload.start import LATE_S, Start
from kvload.stopping import Interrupted, Stopping
from kvload.turns import Turn, Turns
from kvload.until import Stages
from kvload.warmup import Leg, warm_up
from kvpipe.process import Stopped
from kvpipe.records import Warmup

NO_WARMUP = Warmup(passes=0, settled=None)


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

    def add(self, over: RoundOver) -> None:
        """One round more."""
        self.complete = over.end.complete
        self.rounds += 1
        self.failed += over.end.failed
        self.short = self.short or over.short
        self.last_error = over.last_error or self.last_error
        self.stopped = over.end.reason or self.stopped

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


class Conductor:
    """Runs one experiment against the servers of its site."""

    def __init__(
        self, experiment: Experiment, out: BinaryIO, console: Console, crew: Sender | None
    ) -> None:
        self._experiment = experiment
        self._crew = crew
        self._stages: Stages | None = None
        if experiment.until is not None:
            self._stages = Stages(until=experiment.until, maximum=experiment.until_max)
        self._start = None if experiment.start_at is None else Start(experiment.start_at)
        self._out = out
        self._console = console
        self._ground: Ground
        self._rounds: Rounds
        self._warmup: Warmup | None = None
        self.stopping = Stopping(console)
        self.totals = Totals()

    async def run(self) -> None:
        """Survey, warm up, then every round of every repeat; ends early at a stop."""
        self.stopping.listen()
        if self._start is not None:
            self._start.check()
        async with contextlib.AsyncExitStack() as stack:
            self._ground, plans = await prepare_ground(
                self._experiment, self._crew, self._console, self.stopping, stack
            )
            self._rounds = Rounds(
                ground=self._ground,
                out=self._out,
                console=self._console,
                stopping=self.stopping,
                stages=self._stages,
                origin_ns=self._origin_ns,
            )
            for repeat in self._experiment.repeats:
                await self._repeat(repeat, plan_of(plans, repeat))
                if not self.totals.complete:
                    return
            if self._stages is not None:
                await self._second_stage(self._stages, plans)

    async def _second_stage(self, stages: Stages, plans: list[RepeatPlan]) -> None:
        """As many repeats more as the spread of the first ones asks for."""
        first = stages.until.first_repeats
        fixed = stages.fixed()
        width = f"±{stages.until.half_width * 100:g} %"
        self._console.say(f"{width} takes {fixed.needed} repeats, by the first {first}")
        if fixed.total < fixed.needed:
            self.totals.undecided = f"{width} takes {fixed.needed} repeats, {fixed.total} were run"
            self._console.say(f"  --until-max: {fixed.total} are run")
        for repeat in range(first + 1, fixed.total + 1):
            if self._experiment.source.workload is None:
                work = asyncio.to_thread(self._ground.more_plans, repeat)
                plans = await self.stopping.unless(work)
            await self._repeat(repeat, plan_of(plans, repeat))
            if not self.totals.complete:
                return

    async def _repeat(self, repeat: int, plan: RepeatPlan) -> None:
        experiment = self._experiment
        if len(experiment.repeats) > 1:
            of = "" if experiment.until is not None else f"/{max(experiment.repeats)}"
            self._console.say(f"Repeat {repeat}{of}")
        if self._warmup is None:
            self._warmup = await self._warm_up(plan)
        turns = Turns(
            ground=self._ground,
            repeat=repeat,
            plan=plan,
            salts=Salts(experiment=experiment, way=self._ground.salt_way, repeat=repeat),
            warmup=self._warmup,
        )
        schedule = rounds_of(experiment, repeat)
        for number, round_plan in enumerate(schedule):
            following = schedule[number + 1] if number + 1 < len(schedule) else None
            turn = await self._together(turns.of(round_plan, following))
            over = await self._rounds.run(turn)
            del turn  # or its bodies are held beside those of the next one
            self.totals.add(over)
            if not over.end.complete:
                return
            turns.sends = over.begun if turns.sends is None else turns.sends
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
        experiment, site = self._experiment, self._ground.site
        requests = warmup_requests(plan.requests)
        if experiment.warmup_passes == 0 or not requests:
            return NO_WARMUP
        schedule = self._ground.schedule()
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
        client, dress = self._ground.clients[url], self._ground.dress(url)
        return Leg(url=redact(url), client=client, dress=dress, namespace=namespace)


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
