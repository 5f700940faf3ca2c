"""Is it one process that answers at this URL? A cache that is spread over several looks random."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from kvengine.counters import Snapshot, delta

LOOKS = 8
"""Fresh connections: two replicas behind one URL stay unseen once in 128 by chance."""


def several_servers(looks: Sequence[Snapshot]) -> str | None:
    """Why looks over fresh connections cannot be of one process; null if they can."""
    starts = {look.start_s for look in looks if look.start_s is not None}
    if len(starts) > 1:
        return f"{len(starts)} process start times over {len(looks)} fresh connections"
    ordered = sorted(looks, key=lambda look: look.at_ns)
    for before, after in pairwise(ordered):
        fell = delta(before, after)[2]
        if fell:
            return f"counters fell between two looks ({fell[0]})"
    return None
