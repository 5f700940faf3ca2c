"""One round about to be run: its bodies, its head and its namespace, before its clock starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kvload.bodies import Prepared, prepare
from kvload.ground import Ground
from kvload.heads import run_head
from kvload.ideals import Namespace, RoundIdeals
from kvload.namespaces import Salts
from kvload.plans import RepeatPlan
from kvload.settings import RoundPlan
from kvload.site import Node
from kvpipe.records import Run, Warmup


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """All that is fixed of a round: what takes time to make is made before its clock starts.

    `limited`: it sends what an earlier one had time for.
    """

    plan: RepeatPlan
    round_plan: RoundPlan
    following: RoundPlan | None
    head: Run
    node: Node
    prepared: list[Prepared]
    namespace: Namespace
    ideals: RoundIdeals
    limited: bool

    @property
    def own_requests(self) -> int:
        """Of the scenario's requests those that are ours to send."""
        return self.head.requests - sum(one.stratum != "sentinel" for one in self.plan.others)

    @property
    def share(self) -> float:
        """Of the plan's requests what is ours."""
        return len(self.plan.requests) / (len(self.plan.requests) + len(self.plan.others))


@dataclass(slots=True, kw_only=True)
class Turns:
    """The rounds of one repeat, in order.

    `sends`: indexes of the requests that a duration let the first round send; null: no limit.
    Rounds are compared request by request, and a later one is faster: it must not send more.
    """

    ground: Ground
    repeat: int
    plan: RepeatPlan
    salts: Salts
    warmup: Warmup
    sends: frozenset[int] | None = None

    def of(self, round_plan: RoundPlan, following: RoundPlan | None) -> Turn:
        """The round of this plan, ready to be sent."""
        experiment, plan = self.ground.experiment, self.plan
        url = experiment.endpoint(round_plan.round_num)
        node = self.ground.site.nodes[url]
        salt, each = self.salts.of(round_plan)
        dress = dataclasses.replace(
            self.ground.dress(url),
            salt=salt,
            salt_way=self.salts.way if salt is not None else "none",
            salt_each=each,
        )
        namespace = self.salts.seen(salt, each)
        if round_plan.arm == "hit" and experiment.only_round is not None:
            namespace.presume([*plan.requests, *plan.others])
        sends = self.sends
        requests = [one for one in plan.requests if sends is None or one.index in sends]
        head = run_head(experiment, node, plan.head, round_plan, self.repeat, dress, self.warmup)
        ideals = RoundIdeals(
            namespace,
            block_tokens=node.block_tokens,
            calibrated=head.calibrated,
            reuse=not each,
            salt_in_prompt=head.salt_way == "prompt_head",
        )
        for request in requests:
            ideals.expect(request)
        for other in plan.others:
            ideals.began_before_all(other)
        return Turn(
            plan=plan,
            round_plan=round_plan,
            following=following,
            head=head,
            node=node,
            prepared=prepare(requests, dress),
            namespace=namespace,
            ideals=ideals,
            limited=sends is not None,
        )
