"""The usual sender: this process, its loop and a writer's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kvload.client import Client
from kvload.drafts import RoundFacts
from kvload.drive import Outcome, Round
from kvload.job import Job
from kvload.ledger import Ledger
from kvload.stopping import Stopping
from kvload.writer import Writer


class Alone:
    """Sends rounds with one client for each endpoint."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = clients

    async def ready(self, job: Job) -> None:
        """Have fresh connections."""
        client = self._clients[job.url]
        await client.refresh()
        await client.open(min(len(job.prepared), job.pace.slots or job.connections))

    async def send(
        self, job: Job, facts: RoundFacts, ledger: Ledger, stopping: Stopping
    ) -> Outcome:
        """Send the round and write its request records."""
        client = self._clients[job.url]
        with Writer(facts, ledger) as writer:
            driver = Round(client, writer, job.pace, job.observe)
            fresh = asyncio.create_task(client.keep_fresh())
            try:
                with stopping.while_sending(driver.stop):
                    outcome = await driver.run(job.prepared)
            finally:
                fresh.cancel()
        outcome.opened = client.opened
        return outcome
