"""Who gave what to whom in a trace: strata, groups and new blocks, from the ids alone.

The same rule as for workloads made elsewhere (`kvprompt.lines`): a request of which an earlier one
had at least half is its follower, in its group. In the public traces nearly every request shares
the first block, so sharing anything at all would put all of them into one group.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

from kvpipe.records import Stratum
from kvplan.again import Again
from kvplan.measure import Measure
from kvplan.trace import TraceLine, prefixes
from kvprompt.lines import FOLLOWS_FROM

NOBODY = -1


class Lineage:
    """What a look over all requests, in their order, finds.

    Memory: one entry for each prefix that comes again, and 17 bytes a request.
    """

    def __init__(self, again: Again, measure: Measure) -> None:
        self.owners: dict[int, int] = {}
        """The first request with a prefix, of those that come again."""
        self.cuts: dict[int, tuple[int, ...]] = {}
        """Tokens at which such a block also ends, where it was the last one of a prompt; rising."""
        self.longest = 0
        """Tokens of the longest request, answer included."""
        self.tokens = 0
        self.requests = 0
        self._ends: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._again = again
        self._measure = measure
        self._giver = array("q")
        self._root = array("q")
        self._leads = bytearray()

    def look(self, line: TraceLine) -> None:
        """The next request."""
        request = self.requests
        self.requests += 1
        length = self._measure.length(line)
        self.tokens += length
        self.longest = max(self.longest, length + self._measure.output(line))
        giver = self._deepest(line, request, length)
        self._giver.append(giver)
        self._leads.append(0)
        self._root.append(request if giver == NOBODY else self._root[giver])
        if giver != NOBODY:
            self._leads[giver] = 1

    def _deepest(self, line: TraceLine, request: int, length: int) -> int:
        """The first request that had the longest beginning of this one, if that is half of it."""
        owner, shared = NOBODY, 0
        final = len(line.hash_ids) - 1
        for at, prefix in enumerate(prefixes(line.hash_ids)):
            if prefix not in self._again:
                break  # nor does anything behind it
            size = full = self._measure.full(at)
            if at == final:
                size = self._measure.last(line)
            if size < full:
                self._cut(prefix, size)
            first = self.owners.setdefault(prefix, request)
            if first != request:
                owner, shared = first, shared + size
        return owner if shared >= FOLLOWS_FROM * length else NOBODY

    def _cut(self, prefix: int, size: int) -> None:
        """Note an end; blocks with the same ends share one tuple."""
        known = self.cuts.get(prefix, ())
        if size not in known:
            ends = tuple(sorted((*known, size)))
            self.cuts[prefix] = self._ends.setdefault(ends, ends)

    def stratum(self, request: int) -> Stratum:
        """Role of a request."""
        if self._giver[request] != NOBODY:
            return "follower"
        return "leader" if self._leads[request] else "unique"

    def group(self, request: int) -> str | None:
        """Name of its group: that of the request from which the sharing began."""
        if self.stratum(request) == "unique":
            return None
        return f"shared-{self._root[request]}"

    def cold(self) -> int:
        """How many requests no earlier one gave half of."""
        return sum(giver == NOBODY for giver in self._giver)

    def groups(self) -> int:
        """How many groups there are."""
        return sum(
            1
            for leads, giver in zip(self._leads, self._giver, strict=True)
            if leads and giver == NOBODY
        )

    def comes_again(self, prefix: int) -> bool:
        """Whether a block may be seen twice."""
        return prefix in self.owners


def lineage_of(
    look: Callable[[], Iterable[TraceLine]],
    again: Iterable[TraceLine],
    measure: Measure,
) -> Lineage:
    """Two looks over the requests: what comes again, and who gave it."""
    repeated = Again()
    for line in look():
        repeated.count(prefixes(line.hash_ids))
    found = Lineage(repeated, measure)
    for line in again:
        found.look(line)
    return found
