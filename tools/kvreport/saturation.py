"""Whether a load run kept its servers busy: without that a throughput is the client's, not theirs.

From the gauges that were sampled at 1 Hz off the measured path: in at least half of the samples a
request was waiting at some server of the endpoint.
"""

from __future__ import annotations

from kvreport.rounds import Round

SHARE = 0.5


def saturated(one: Round) -> bool:
    """False where the gauges say so, and also where there are none: not shown is not saturated."""
    waiting = [server.gauges.get("waiting", []) for server in one.stats.server]
    return any(
        values and sum(value > 0 for value in values) >= SHARE * len(values) for values in waiting
    )
