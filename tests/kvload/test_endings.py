"""How a run ends when something goes wrong beside the requests."""

from __future__ import annotations

import asyncio
import io
import signal
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from tests.conftest import Done
from tests.simulated import FAST, Sim, kvsim

from kvload.bodies import Prepared
from kvload.console import Console
from kvload.drafts import Began, Ended, RoundFacts
from kvload.exchange import Exchange
from kvload.ideals import RoundIdeals
from kvload.ledger import Ledger
from kvload.stopping import ECHO_S, Stopping
from kvload.writer import Writer
from kvpipe.records import Planned

Shell = Callable[..., Done]


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    with kvsim(*FAST) as running:
        yield running


async def _handled(stopping: Stopping, *, times: int) -> None:
    """Signals are handled by the loop in its next turns."""
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)
    deadline = time.monotonic() + 30
    while stopping.signum is None and time.monotonic() < deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_signal_that_comes_twice_at_once_is_one_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """timeout(1) signals its child, and then the group that the child is in."""
    died: list[int] = []
    monkeypatch.setattr("kvload.stopping.die_of", died.append)
    stopping, reasons = Stopping(Console(True)), list[str]()
    stopping.listen()

    with stopping.while_sending(reasons.append):
        await _handled(stopping, times=2)
        assert (reasons, died) == (["SIGINT"], [])

        await asyncio.sleep(2 * ECHO_S)
        await _handled(stopping, times=1)
    deadline = time.monotonic() + 30
    while not died and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert died == [signal.SIGINT], "a second order is immediate"


class Defective:
    """Ideals with a defect that nobody thought of."""

    def began(self, planned: object, at_ns: int) -> None:
        raise LookupError("a defect")


def test_a_defect_in_the_writer_ends_the_round_and_is_told() -> None:
    """Else a round of which nothing was written would end as complete."""
    planned = Planned(index=0, stratum="unique", max_tokens=1)
    prepared = Prepared(planned=planned, body=b"", request_id="r-0")
    ended = False
    with pytest.raises(LookupError, match="a defect"), _writer() as writer:
        assert not writer.ended
        writer.put(Began(prepared=prepared, at_ns=0))
        writer.put(
            Ended(prepared=prepared, exchange=Exchange(), scheduled_ns=0, ready_ns=0, start_ns=0)
        )
        deadline = time.monotonic() + 30
        while not writer.ended and time.monotonic() < deadline:
            time.sleep(0.01)
        ended = writer.ended
    assert ended, "the driver would go on sending"


def _writer() -> Writer:
    facts = RoundFacts(
        run_id="r", endpoint_url="u", origin_ns=0, floor_tokens=None, keep_output=False
    )
    ideals = cast("RoundIdeals", Defective())
    return Writer(facts, Ledger(io.BytesIO(), 0, ideals, lambda _: None))


def test_what_kvplan_refuses_is_one_line(sh: Shell, sim: Sim) -> None:
    asked = "--scenario cold_start --requests 2 --contexts 2"
    done = sh(f"kvload --url {sim.url} {asked}")
    assert (done.status, done.out) == (2, "")
    assert done.err == "kvload: no plan: --contexts 2: cold_start shares none\n"


def test_quiet_is_quiet_about_the_plan_too(sh: Shell, sim: Sim) -> None:
    asked = "--scenario cold_start --requests 2 --context-tokens 64 --output-tokens 1 --rounds 1"
    told = sh(f"kvload --url {sim.url} {asked} --warmup 0")
    assert told.status == 0 and "kvplan: cold_start: 2 requests" in told.err
    done = sh(f"kvload -q --url {sim.url} {asked} --warmup 0")
    assert (done.status, done.err) == (0, "")
