"""No collector runs while a round does: what a request leaves behind must go by itself."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest
from tests.fakeserver import FakeServer, Reset, chunked_answer, head

from kvload.client import Client, Target

REQUESTS = 60
BODY = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n'
ANSWERS = {
    "kept alive": chunked_answer(BODY),
    "closed": [head("200 OK", "connection: close", f"content-length: {len(BODY)}") + BODY],
    "until close": [head("200 OK", "connection: close") + BODY, Reset()],
    "not HTTP": [b"SSH-2.0-OpenSSH\r\n"],
}


def left_of(kinds: Counter[str]) -> Counter[str]:
    """Objects of the client, its sockets among them, that are there now beyond those that were.

    asyncio's own are the server's too; but a transport that is left holds its socket.
    """
    found = Counter(
        type(one).__name__
        for one in gc.get_objects()
        if str(type(one).__module__).startswith("kvload.")  # some types tell no text
    )
    return found - kinds


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_requests_leave_nothing_for_the_collector(answer: object) -> None:
    async def many(url: str) -> Counter[str]:
        client = Client(Target.parse(url), timeout_s=60.0)
        before: Counter[str] = Counter()
        for number in range(REQUESTS + 5):
            await client.send(b"{}", f"r{number}")
            await asyncio.sleep(0.002)
            if number == 4:  # what is made once is there
                before = left_of(Counter())
        await asyncio.sleep(0.05)
        left = left_of(before)
        await client.close()
        await asyncio.sleep(0.01)
        return left

    with FakeServer(answer) as server:  # type: ignore[arg-type]
        gc.collect()
        gc.disable()
        try:
            left = asyncio.run(many(server.url))
        finally:
            gc.enable()
    assert all(count < REQUESTS // 4 for count in left.values()), left
