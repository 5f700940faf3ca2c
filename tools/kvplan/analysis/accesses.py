"""A workload as the cache sees it: each request is a path of links from the prefix tree's root.

A link is a run of tokens that requests share whole or not at all: a block of a trace, or a link of
a plan's chain. Two prompts are equal up to a token exactly if the link that holds the token is the
same, so blocks of *any* size can be counted from links, finer or coarser than they are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kvpipe.records import Planned

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NAMES = 2**63
"""Names of blocks that are numbers are below it, but for those of somebody's own making"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request: its links as (name, tokens), the name standing for all before it too."""

    links: Sequence[tuple[int | str, int]]
    output_tokens: int
    at_s: float | None = None
    counted: bool = True
    """False: it takes room and is in no figure (a sentinel)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accesses:
    """All requests in order, as columns. Request r has the links `first[r]` to `first[r + 1]`."""

    nodes: Ints
    """Per link of a request: which node of the tree."""
    first: Ints
    node_start: Ints
    """Per node: tokens before it in every prompt that has it."""
    node_tokens: Ints
    input_tokens: Ints
    """Per request, as all below."""
    output_tokens: Ints
    at_s: Floats
    """NaN where a request has no time of its own."""
    counted: npt.NDArray[np.bool_]

    @property
    def requests(self) -> int:
        return len(self.input_tokens)

    @property
    def request_of(self) -> Ints:
        """Per link of a request: whose it is."""
        return np.repeat(np.arange(self.requests), np.diff(self.first))


def planned_visits(requests: Iterable[Planned]) -> list[Visit]:
    """The requests of a plan; each must carry its chain."""
    return [
        Visit(
            links=[(block.id, block.tokens) for block in request.blocks],
            output_tokens=request.max_tokens,
            at_s=request.at_s,
            counted=request.stratum != "sentinel",
        )
        for request in requests
    ]


class _Tree:
    """Nodes numbered as they appear, each known by its parent and its name.

    A long trace has tens of millions: they are in arrays, and a set of lengths is kept only of
    those few that were seen with more than one.
    """

    def __init__(self) -> None:
        self.known: dict[int | tuple[int, int | str], int] = {}
        self.start = array("q")
        self.tokens = array("q")
        """The first length that each was seen with."""
        self.uneven: dict[int, set[int]] = {}

    def path(self, links: Sequence[tuple[int | str, int]]) -> list[int]:
        parent, start, nodes = -1, 0, []
        for name, tokens in links:
            node = self.known.setdefault(_key(parent, name), len(self.start))
            if node == len(self.start):
                self.start.append(start)
                self.tokens.append(tokens)
            elif self.tokens[node] != tokens:
                self.uneven.setdefault(node, {self.tokens[node]}).add(tokens)
            nodes.append(node)
            parent, start = node, start + tokens
        return nodes


def _key(parent: int, name: int | str) -> int | tuple[int, int | str]:
    """Of a node; a number takes a third of a pair's room."""
    if isinstance(name, int) and 0 <= name < _NAMES:
        return (parent + 1) * _NAMES + name
    return (parent, name)


def accesses(visits: Iterable[Visit]) -> Accesses:
    """The columns of a workload; a name below another parent is another node."""
    tree = _Tree()
    nodes, first, inputs, outputs, ends = (array("q") for _ in range(5))
    first.append(0)
    stamps = array("d")
    counted: list[bool] = []
    for visit in visits:
        nodes.extend(tree.path(visit.links))
        first.append(len(nodes))
        inputs.append(sum(tokens for _, tokens in visit.links))
        ends.append(visit.links[-1][1] if visit.links else 0)
        outputs.append(visit.output_tokens)
        stamps.append(float("nan") if visit.at_s is None else visit.at_s)
        counted.append(visit.counted)
    tree.known.clear()
    made = Accesses(
        nodes=np.asarray(nodes, dtype=np.int64),
        first=np.asarray(first, dtype=np.int64),
        node_start=np.asarray(tree.start, dtype=np.int64),
        node_tokens=np.asarray(tree.tokens, dtype=np.int64),
        input_tokens=np.asarray(inputs, dtype=np.int64),
        output_tokens=np.asarray(outputs, dtype=np.int64),
        at_s=np.asarray(stamps, dtype=np.float64),
        counted=np.asarray(counted, dtype=np.bool_),
    )
    uneven = {node: sorted(sizes) for node, sizes in sorted(tree.uneven.items())}
    for node, sizes in uneven.items():
        made.node_tokens[node] = sizes[-1]
    return _cut(made, uneven, ends) if uneven else made


def _cut(whole: Accesses, uneven: dict[int, list[int]], ends: Sequence[int]) -> Accesses:
    """The same with every link of one length: a node that was seen shorter too becomes a chain.

    Only a request's last link can be shorter than another's of the same name: it is where the
    prompt ends, inside a block that others have whole.
    """
    starts, tokens = whole.node_start.tolist(), whole.node_tokens.tolist()
    pieces: dict[int, list[int]] = {}
    for node, sizes in uneven.items():
        begin, pieces[node] = starts[node], [node]
        tokens[node] = sizes[0]
        for shorter, longer in pairwise(sizes):
            pieces[node].append(len(starts))
            starts.append(begin + shorter)
            tokens.append(longer - shorter)
    nodes: list[int] = []
    first = [0]
    for request, end in enumerate(ends):
        path = whole.nodes[whole.first[request] : whole.first[request + 1]].tolist()
        for place, node in enumerate(path):
            parts = pieces.get(node, [node])
            if node in uneven and place == len(path) - 1:
                parts = parts[: uneven[node].index(end) + 1]
            nodes += parts
        first.append(len(nodes))
    return Accesses(
        nodes=np.asarray(nodes, dtype=np.int64),
        first=np.asarray(first, dtype=np.int64),
        node_start=np.asarray(starts, dtype=np.int64),
        node_tokens=np.asarray(tokens, dtype=np.int64),
        input_tokens=whole.input_tokens,
        output_tokens=whole.output_tokens,
        at_s=whole.at_s,
        counted=whole.counted,
    )
