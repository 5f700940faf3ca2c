"""What a drill breaks, and what somebody then does about it. Values only: nothing is done here."""

from dataclasses import dataclass
from typing import Literal

Action = Literal["kill", "stop", "cut", "silence"]
Part = Literal["store", "owner", "link"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to lose the cache in the middle of a hit round."""

    name: str
    part: Part
    action: Action
    what: str
    repair: str
    policy: Literal["fail", "recompute"] = "fail"
    """vLLM's kv_load_failure_policy on both nodes; `fail` is its default."""

    @property
    def simulated(self) -> bool:
        """Whether kvsim can play it: its store holds the blocks itself, so no node owns any."""
        return self.part != "owner"


FAULTS = {
    one.name: one
    for one in (
        Fault(
            name="master", part="store", action="kill",
            what="the store's master is killed (SIGKILL)",
            repair="a new master on the same port; no node is restarted",
        ),
        Fault(
            name="owner", part="owner", action="kill",
            what="node A, whose segment holds the blocks, is killed (SIGKILL)",
            repair="node A is started again",
        ),
        Fault(
            name="owner-recompute", part="owner", action="kill", policy="recompute",
            what="the same with kv_load_failure_policy recompute on both nodes",
            repair="node A is started again",
        ),
        Fault(
            name="owner-hangs", part="owner", action="stop",
            what="node A hangs (SIGSTOP): its segment takes connections and answers nothing",
            repair="node A goes on (SIGCONT)",
        ),
        Fault(
            name="link-cut", part="link", action="cut",
            what="node B's link to the master is cut: connections reset, new ones refused",
            repair="the link is joined",
        ),
        Fault(
            name="link-silent", part="link", action="silence",
            what="node B's link to the master goes silent: what is sent is never answered",
            repair="the link is joined, and what was under way goes on",
        ),
    )
}  # fmt: skip
