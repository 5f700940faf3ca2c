"""One plan for a fleet: which part of it a shard sends, the same whoever works it out.

What may give or wait for one another stays whole: a group, a conversation, a chain of `after`.
Such parts are dealt in the plan's order to whoever has the fewest requests so far, sentinels in
turn. Nothing but the plan decides, so machines need not talk to each other.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from kvload.fleet import Shard
from kvload.plans import RepeatPlan
from kvpipe.process import ToolError
from kvpipe.records import Planned


def share_of(plan: RepeatPlan, shard: Shard) -> RepeatPlan:
    """The plan as one shard sends it, with what the others send beside it; its head stays whole.

    ToolError if there is nothing for one of the shards: it is the same in every one of them.
    """
    owner = owners(plan.requests, shard.count)
    idle = set(range(shard.count)) - {
        owner[one.index] for one in plan.requests if one.stratum != "sentinel"
    }
    if idle:
        most = len(set(_parts(plan.requests).values()))
        raise ToolError(
            f"--shard {shard}: this plan falls into {most} that may be sent apart (contexts and"
            f" conversations stay whole): {most} shards at most, or a plan with more --contexts"
        )
    return dataclasses.replace(
        plan,
        requests=[one for one in plan.requests if owner[one.index] == shard.number],
        others=[one for one in plan.requests if owner[one.index] != shard.number],
    )


def owners(requests: Sequence[Planned], count: int) -> dict[int, int]:
    """Shard of each request, by its index."""
    part = _parts(requests)
    sizes = Counter(part.values())
    load, taken = [0] * count, {}
    found: dict[int, int] = {}
    sentinels = 0
    for one in requests:
        if one.index not in part:
            found[one.index] = sentinels % count
            sentinels += 1
            continue
        root = part[one.index]
        if root not in taken:
            taken[root] = min(range(count), key=load.__getitem__)
            load[taken[root]] += sizes[root]
        found[one.index] = taken[root]
    return found


def _parts(requests: Sequence[Planned]) -> dict[int, int]:
    """What stays whole: of each request but the sentinels the first one of its part."""
    above: dict[int, int] = {}

    def root(index: int) -> int:
        while above[index] != index:
            above[index] = above[above[index]]
            index = above[index]
        return index

    groups: dict[str, int] = {}
    for one in requests:
        if one.stratum == "sentinel":
            continue
        above[one.index] = one.index
        ties = [one.after] if one.after in above else []
        if one.group is not None:
            ties.append(groups.setdefault(one.group, one.index))
        for tie in ties:
            first, second = sorted((root(tie), root(one.index)))
            above[second] = first
    return {index: root(index) for index in above}
