"""Stack distances: what else was used since a link was used last.

A cache that evicts the least recently used block holds a block exactly if fewer blocks than it has
room for were used since (Mattson, Gecsei, Slutz & Traiger, "Evaluation techniques for storage
hierarchies", IBM Systems Journal 9(2), 1970). So one pass answers for every capacity.

A *prefix* cache uses all blocks of a prompt at one time, and a block counts only if all before it
are there. Which of the prompt's own blocks is given up first decides whether that matters:

- `tail-first`, vLLM's queue of free blocks: a block is never more recent than the one before it, so
  no hole appears in the middle of a prompt, and the per-block distance is the prefix cache's own.
- `head-first`, a list that is walked from the head and sorted by last use, as Mooncake's leases
  are: an evicted head makes all behind it worthless, so what a block needs is the largest need of
  all blocks up to it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from kvplan.analysis.accesses import Accesses, Ints

Order = Literal["tail-first", "head-first"]

NEVER = np.iinfo(np.int64).max
"""The need of what was never used before: no capacity is enough."""


def previous_use(nodes: Ints) -> Ints:
    """Per access the place of the last one of the same node; -1 for the first."""
    order = np.argsort(nodes, kind="stable")
    previous = np.full(len(nodes), -1, dtype=np.int64)
    same = nodes[order[1:]] == nodes[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous


def link_needs(taken: Accesses, weights: Ints, order: Order) -> Ints:
    """Per link of a request: the least capacity at which the link's first block is found, in
    blocks, when the request begins; NEVER if nobody used the link before.

    `weights` are the blocks of each node. With `tail-first` the link's k-th block needs k more;
    with `head-first` the first needs the most, and none of the others is found without it.
    """
    if order == "tail-first":
        turned = _tail_first(taken)
        distance = _between(taken.nodes[turned], weights, _deeper(taken, weights, turned))
        found = np.empty_like(distance)
        found[turned] = distance
        return np.where(found == NEVER, NEVER, found + 1)
    previous = previous_use(taken.nodes)
    distance = _between(taken.nodes, weights, _shallower(taken, weights, previous))
    needs = np.where(distance == NEVER, NEVER, distance + weights[taken.nodes])
    return _running_maximum(needs, taken)


def _between(nodes: Ints, weights: Ints, own: Ints) -> Ints:
    """Per access in order of use, the weight of the other nodes used since its node's last use,
    without `own`: what the request itself used just before; NEVER for a first use."""
    weight = weights[nodes]
    previous = previous_use(nodes)
    before = np.concatenate(([0], np.cumsum(weight)))
    known = previous >= 0
    distances = np.full(len(nodes), NEVER, dtype=np.int64)
    distances[known] = (
        before[:-1][known]
        - before[previous[known] + 1]
        - _repeated(previous, weight)[known]
        - own[known]
    )
    return distances


def _tail_first(taken: Accesses) -> Ints:
    """The order of use: requests as they come, each from its tail to its head."""
    request = taken.request_of
    turned: Ints = taken.first[request] + taken.first[request + 1] - 1 - np.arange(len(request))
    return turned


def _deeper(taken: Accesses, weights: Ints, turned: Ints) -> Ints:
    """Weight that a request used before each of its links, tail first. None of it was used since
    the link was: what is deeper is never the more recent, so it was used before that or is new."""
    return _used_before(weights[taken.nodes[turned]], taken)


def _shallower(taken: Accesses, weights: Ints, previous: Ints) -> Ints:
    """Weight that a request used before each of its links, head first, and that was not used since
    the link was: that is, whose last user was the link's last user too. What is nearer to the
    head and had a later user was used since, and counts in any case."""
    request = taken.request_of
    user = np.where(previous >= 0, request[previous], -1)
    change = np.ones(len(request), dtype=np.bool_)
    change[1:] = (user[1:] != user[:-1]) | (request[1:] != request[:-1])
    run = np.maximum.accumulate(np.where(change, np.arange(len(request)), 0))
    before = np.concatenate(([0], np.cumsum(weights[taken.nodes])))
    shallower: Ints = before[:-1] - before[run]
    return shallower


def _used_before(weight: Ints, taken: Accesses) -> Ints:
    before = np.concatenate(([0], np.cumsum(weight)))
    used: Ints = before[:-1] - before[taken.first[taken.request_of]]
    return used


def _running_maximum(needs: Ints, taken: Accesses) -> Ints:
    """The largest need of each link and all before it in the same prompt."""
    running = needs.copy()
    for start, end in pairwise(taken.first.tolist()):
        np.maximum.accumulate(running[start:end], out=running[start:end])
    return running


def _repeated(previous: Ints, weight: Ints) -> Ints:
    """Per access, the weight of accesses since its last one whose own last one is later still:
    they are repetitions, and not distinct.

    All pairs (s, t) with s < t and previous[s] > previous[t], by halves: of each pair there is one
    level of the binary tree over places at which s is in the left half and t in the right.
    """
    size = len(previous)
    total = np.zeros(size, dtype=np.int64)
    order = np.argsort(-previous, kind="stable")
    for level in reversed(range(max(0, (size - 1).bit_length()))):
        left = (order >> level) & 1 == 0
        seen = np.concatenate(([0], np.cumsum(np.where(left, weight[order], 0))))
        group = order >> (level + 1)
        starts = np.searchsorted(group, group)  # groups lie together, in order
        right = ~left
        total[order[right]] += seen[:-1][right] - seen[starts[right]]
        order = order[np.argsort(order >> level, kind="stable")]
    return total
