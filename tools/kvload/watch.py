"""The servers' own counters around a round: before, after, and once a second in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kvengine.counters import GAUGES, Snapshot, delta, gauge, snapshot
from kvengine.server import Server, Unreachable
from kvload.drafts import Served
from kvload.site import Watched
from kvpipe.records import ServerMetrics

SAMPLE_S = 1.0
SERIAL_LOOKS = 10  # the engine counts a request within one of its steps after the last token
SERIAL_WAIT_S = 0.05


async def look(server: Server) -> Snapshot | None:
    """The server's counters now; None if they cannot be read, which must never cost a round."""
    try:
        return await snapshot(server)
    except Unreachable:
        return None


class Watch:
    """Counters of several servers over one round."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self._watched = list(watched)
        self._before: list[Snapshot | None] = []
        self._gauges: list[dict[str, list[float]]] = [{} for _ in self._watched]
        self._sampler: asyncio.Task[None] | None = None

    async def begin(self, sample: bool) -> None:
        """Read every server; with `sample`, go on reading gauges at 1 Hz off the path."""
        self._before = [await look(item.server) for item in self._watched]
        if sample and self._watched:
            self._sampler = asyncio.create_task(self._sample())

    def stop_sampling(self) -> None:
        """The last answer has come."""
        if self._sampler is not None:
            self._sampler.cancel()

    async def end(self, run_id: str) -> list[ServerMetrics]:
        """One record per server: how its counters changed."""
        self.stop_sampling()
        records = []
        for item, before, samples in zip(self._watched, self._before, self._gauges, strict=True):
            after = await look(item.server)
            records.append(_record(run_id, item, before, after, samples))
        return records

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            for item, samples in zip(self._watched, self._gauges, strict=True):
                seen = await look(item.server)
                if seen is None:
                    continue
                for name in GAUGES:
                    if (value := gauge(seen, name)) is not None:
                        samples.setdefault(name, []).append(value)


class SerialWatch:
    """What the counters say of each request, when only one is in flight."""

    def __init__(self, own: Watched) -> None:
        self._own = own
        self._last: Snapshot | None = None

    async def begin(self) -> None:
        """Read the counters before the first request."""
        self._last = await look(self._own.server)

    async def observe(self) -> Served | None:
        """Tokens by source of the request that has just ended; None if it was not counted."""
        for _ in range(SERIAL_LOOKS):
            seen = await look(self._own.server)
            if seen is None or self._last is None:
                return None
            counters, _, _ = delta(self._last, seen)
            if (counters.get("requests") or 0) >= 1:
                self._last = seen
                return Served(
                    prompt_tokens=counters.get("prompt_tokens"),
                    local=counters.get("local_tokens"),
                    external=counters.get("external_tokens"),
                )
            await asyncio.sleep(SERIAL_WAIT_S)
        self._last = await look(self._own.server)
        return None


def _record(
    run_id: str,
    item: Watched,
    before: Snapshot | None,
    after: Snapshot | None,
    samples: dict[str, list[float]],
) -> ServerMetrics:
    url = item.server.shown
    if before is None or after is None:
        when = "before" if before is None else "after"
        return ServerMetrics(
            run_id=run_id,
            url=url,
            role=item.role,
            endpoint_url=item.endpoint_url,
            fell=[] if before is None else sorted(before.counted),  # with the server that had them
            error=f"/metrics could not be read {when} the round",
        )
    counters, deltas, fell = delta(before, after)
    return ServerMetrics(
        run_id=run_id,
        url=url,
        role=item.role,
        endpoint_url=item.endpoint_url,
        counters=counters,
        deltas={key: value for key, value in deltas.items() if value},
        gauges=samples,
        start_before_s=before.start_s,
        start_after_s=after.start_s,
        fell=fell,
    )
