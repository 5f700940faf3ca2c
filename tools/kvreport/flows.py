"""Who sends token 1 of a disaggregated scenario, as kvstats found it: what its TTFT ends with.

Two TTFTs are comparable where both end on the same side of the KV transfer. One engine's own ends
with its prefill, and so does a decoder's that waits for the KV; a prefiller's token that leaves
before the transfer does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kvreport.early import flow_name
from kvreport.experiments import Experiment

Flow = Literal["vllm", "lmcache"]
APART = ("ttft", "tpot")
"""Metrics that hold the transfer in one flow and not in the other."""


def flow_of(experiment: Experiment) -> Flow | None:
    """The flow of all its rounds; null: not disaggregated, not known, or not one."""
    found = {flow_name(one.stats) for one in experiment}
    if found == {"vllm"}:
        return "vllm"
    return "lmcache" if found == {"lmcache"} else None


def early(experiment: Experiment) -> bool:
    """Whether token 1 is known to leave before the KV transfer."""
    return flow_of(experiment) == "lmcache"


def comparable(one: Experiment, other: Experiment) -> bool:
    """Whether TTFT and TPOT mean the same in both, as far as is known."""
    return early(one) == early(other)


def kept(names: Sequence[str]) -> list[str]:
    """Metrics that can be compared across flows."""
    return [name for name in names if name not in APART]
