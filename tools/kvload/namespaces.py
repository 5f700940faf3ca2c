"""The salt of each round, and what this invocation has sent under it."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvload.ideals import Namespace
from kvload.settings import Experiment, RoundPlan
from kvpipe.records import SaltWay
from kvprompt.salt import new_salt


@dataclass(slots=True, kw_only=True)
class Salts:
    """Salts of one repeat, made as rounds ask for them."""

    experiment: Experiment
    way: SaltWay
    repeat: int
    namespace: str | None = None
    sent: dict[str, Namespace] = field(default_factory=dict)

    def of(self, plan: RoundPlan) -> tuple[str | None, bool]:
        """(salt, one of its own for each request) of a round."""
        asked = self.experiment.salt
        if plan.salt == "request" or asked == "request":
            return new_salt(), True
        if asked == "none":
            return None, False
        if plan.salt == "fresh":
            return new_salt(), False
        if self.namespace is None:
            several = len(self.experiment.repeats) > 1
            literal = f"{asked}-{self.repeat}" if several else asked
            self.namespace = new_salt() if asked == "auto" else literal
        return self.namespace, False

    def seen(self, salt: str | None, each: bool) -> Namespace:
        """What was sent under a salt; with one salt a request nothing is ever shared."""
        return Namespace() if each else self.sent.setdefault(salt or "", Namespace())
