"""Servers as they are before anything is measured."""

from __future__ import annotations

import pytest
from tests.fakeserver import FakeServer

from kvengine.server import Server
from kvload.site import refuse_dead
from kvpipe.process import ToolError

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NOT_YET = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
NO_SUCH = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


async def test_an_engine_that_is_starting_is_waited_for() -> None:
    with FakeServer([[NOT_YET], [NOT_YET], [READY]]) as fake:
        async with Server(fake.url) as server:
            await refuse_dead(server, patience_s=60)
        assert len(fake.received) == 3


async def test_an_engine_without_health_is_taken_as_it_is() -> None:
    with FakeServer([NO_SUCH]) as fake:
        async with Server(fake.url) as server:
            await refuse_dead(server)
        assert len(fake.received) == 1


async def test_a_dead_engine_is_named_when_patience_ends() -> None:
    with FakeServer([NOT_YET]) as fake:
        async with Server(fake.url) as server:
            with pytest.raises(ToolError, match=r"dead or not ready \(/health answers 503"):
                await refuse_dead(server, patience_s=0.6)
        assert len(fake.received) >= 2
