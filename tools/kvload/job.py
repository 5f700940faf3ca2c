"""One round's sending, as whoever sends it is told: alone, or a crew of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kvload.bodies import Prepared
from kvload.drafts import RoundFacts
from kvload.drive import Observe, Outcome
from kvload.ledger import Ledger
from kvload.pacing import Pace
from kvload.settings import Access, Api
from kvload.stopping import Stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is sent, where, and at which pace; `connections`: opened where no slots limit them."""

    url: str
    api: Api
    access: Access
    prepared: list[Prepared]
    pace: Pace
    observe: Observe | None
    connections: int = 64


class Sender(Protocol):
    """Who sends rounds."""

    async def ready(self, job: Job) -> None:
        """Open connections, before the clock starts."""

    async def send(
        self, job: Job, facts: RoundFacts, ledger: Ledger, stopping: Stopping
    ) -> Outcome:
        """Send the round and have its request records written."""
