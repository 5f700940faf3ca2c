"""One round, from its `run` record to its `end`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import BinaryIO

from kvengine.access import secrets_of
from kvload.console import Console
from kvload.controls import needs_reset, reset_engines, rest, salt_findings, warmup_findings
from kvload.drafts import RoundFacts
from kvload.drive import Observe, Outcome
from kvload.ground import Ground
from kvload.health import client_health
from kvload.job import Job
from kvload.ledger import Ledger
from kvload.pacing import pace_of
from kvload.site import Node
from kvload.stopping import Interrupted, Stopping
from kvload.tally import Tally
from kvload.turns import Turn
from kvload.until import Stages, take
from kvload.watch import SerialWatch, Watch
from kvpipe.jsonl import write_record
from kvpipe.records import Barrier, End, Request, Reset, Run

TITLES = {"cold": "🥶 Cold Start", "hit": "🔥 Cache Hit", "no_reuse": "no reuse (control)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOver:
    """How a round went. `begun`: indexes of what it sent, where the rounds after it must not send
    more; `short`: its plan ended before its duration."""

    end: End
    last_error: str | None
    begun: frozenset[int] | None = None
    short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Runs rounds one at a time. `origin_ns` waits for the moment that is 0 ns of a round."""

    ground: Ground
    out: BinaryIO
    console: Console
    stopping: Stopping
    stages: Stages | None
    origin_ns: Callable[[], Awaitable[int]]

    async def run(self, turn: Turn) -> RoundOver:
        """One round's whole stream; its `end` is incomplete if it stopped early."""
        ground, head = self.ground, turn.head
        arrival = ground.experiment.arrival
        self._announce(turn)
        write_record(head, self.out)
        job = await self._job(turn)
        watch = Watch(ground.site.watched(turn.node.endpoint_url))
        await watch.begin(sample=arrival.kind != "serial")
        origin_ns = await self.origin_ns()
        tally, outcome = await self._drive(turn, job, origin_ns)
        watch.stop_sampling()
        turn.namespace.close_round()
        barrier, reset = await self._settle(turn, outcome)
        for record in await watch.end(head.run_id):
            write_record(record, self.out)
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
            findings=warmup_findings(head.warmup)
            + salt_findings(ground.salt_probe, ground.salt_way),
            client=client_health(outcome, tally, arrival, wall_s, turn.share),
        )
        write_record(end, self.out)
        over = self._over(turn, outcome, end, tally.last_error)
        self._account(end, tally, turn.own_requests)
        return over

    async def _job(self, turn: Turn) -> Job:
        """What is sent and at which pace, with connections opened for it."""
        experiment = self.ground.experiment
        planned = [item.planned for item in turn.prepared]
        pace = pace_of(experiment.arrival, planned, experiment.seed, turn.plan.others)
        if turn.limited:
            pace = dataclasses.replace(pace, until_ns=None)
        job = Job(
            url=turn.node.endpoint_url,
            api=experiment.api,
            access=experiment.access,
            prepared=turn.prepared,
            pace=pace,
            observe=await self._observer(turn.node),
        )
        await self.ground.sender.ready(job)
        return job

    async def _observer(self, node: Node) -> Observe | None:
        """Serially, the endpoint's counters tell the tier of every single request."""
        if self.ground.experiment.arrival.kind != "serial":
            return None
        watched = self.ground.site.watched(node.endpoint_url)
        # A prefiller looks prompts up in its cache; to a decoder every transfer is a hit.
        for role in ("node", "prefill"):
            own = [one for one in watched if one.role == role]
            if own and (role == "node" or len(own) == 1):
                serial = SerialWatch(own[0])
                await serial.begin()
                return serial.observe
        return None

    async def _drive(self, turn: Turn, job: Job, origin_ns: int) -> tuple[Tally, Outcome]:
        """Send the round and write its request records."""
        experiment, head = self.ground.experiment, turn.head
        facts = RoundFacts(
            run_id=head.run_id,
            endpoint_url=head.endpoint_url,
            origin_ns=origin_ns,
            floor_tokens=turn.node.floor_tokens,
            keep_output=experiment.keep_output,
            secrets=secrets_of(
                experiment.access.api_key,
                experiment.access.headers,
                *experiment.endpoints.values(),
            ),
        )
        self.console.begin(turn.own_requests)
        ledger = Ledger(
            self.out,
            origin_ns,
            turn.ideals,
            lambda tally: self.console.progress(tally.done, tally.failed),
            self._taker(head),
        )
        outcome = await self.ground.sender.send(job, facts, ledger, self.stopping)
        return ledger.tally, outcome

    def _taker(self, head: Run) -> Callable[[Request], None] | None:
        """What wants the records of cold and hit too: the rule of two stages."""
        if self.stages is None or head.round_num not in (1, 2):
            return None
        return functools.partial(take, self.stages.note(head.repeat, head.round_num))

    async def _settle(self, turn: Turn, outcome: Outcome) -> tuple[Barrier, Reset | None]:
        """The barrier, and the reset of the engine's own cache where the tier asks for it."""
        if outcome.stopped is not None:
            return Barrier(state="skipped", waited_s=0.0, reason="stopped early"), None
        before_hit = turn.following is not None and turn.following.arm == "hit"
        reset: Reset | None = None
        try:
            barrier = await self.stopping.unless(rest(self.ground.site))
            if before_hit and needs_reset(self.ground.experiment):
                reset = await self.stopping.unless(reset_engines(self.ground.site))
        except Interrupted:
            return Barrier(state="unknown", waited_s=0.0, reason="interrupted"), None
        return barrier, reset

    def _over(self, turn: Turn, outcome: Outcome, end: End, last_error: str | None) -> RoundOver:
        """After the first round of a closed loop with a duration: what the later ones send."""
        arrival = self.ground.experiment.arrival
        closed = arrival.kind in ("serial", "closed")
        if arrival.duration_s is None or not closed or turn.limited:
            return RoundOver(end=end, last_error=last_error)
        short = outcome.ran_out and end.wall_s < arrival.duration_s
        if short:
            needed = math.ceil(len(turn.prepared) * arrival.duration_s / max(end.wall_s, 1e-3))
            self.console.warn(
                f"the plan ended after {end.wall_s:.1f} of {arrival.duration_s:g} s: about"
                f" {needed} requests would last (a repeated prompt would be a hit)"
            )
        begun = frozenset(outcome.begun)
        return RoundOver(end=end, last_error=last_error, begun=begun, short=short)

    def _announce(self, turn: Turn) -> None:
        experiment, head = self.ground.experiment, turn.head
        numbers = [plan.round_num for plan in self.ground.schedule() if plan.round_num > 0]
        place = ""
        if len({experiment.endpoint(number) for number in numbers}) > 1:
            place = f"  🌐 cross-node - endpoint: {head.endpoint_url}"
        title = f"Round {head.round_num}"
        if head.rounds is not None:
            title += f"/{head.rounds}"
        if head.arm == "no_reuse":
            title = "Control"
        simulated = "  SIMULATED" if head.simulated else ""
        self.console.say(f"{title}  {TITLES[head.arm]}  {head.name}{place}{simulated}")

    def _account(self, end: End, tally: Tally, requests: int) -> None:
        text = f"  {tally.done}/{requests} in {end.wall_s:.1f} s"
        if end.failed:
            text += f", {end.failed} failed (last: {tally.last_error})"
        if end.barrier is not None and end.barrier.state == "unknown":
            text += f"; barrier unknown: {end.barrier.reason}"
        if end.reason is not None:
            text += f"; stopped: {end.reason}"
        self.console.say(text)
