"""What servers say of themselves: metrics pages and answers of the control plane, damaged."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.fakeserver import Close, FakeServer, head
from tests.fuzz.fuzzing import fuzzed
from tests.fuzz.mutation import broken, broken_object
from tests.fuzz.test_wire import BODIES, OBJECTS

from kvclear.asking import CanaryRefused
from kvclear.asking import ask as ask_canary
from kvclear.nodes import Node
from kvengine import dynamo, llamacpp, lmcache, lmcache_mp, mooncake, sglang, vllm
from kvengine.counters import (
    COUNTERS,
    GAUGES,
    block_tokens,
    counter,
    delta,
    gauge,
    snapshot,
    snapshot_of,
)
from kvengine.engines import ENGINES
from kvengine.exposition import counted_names, labels_of, name_of, parse
from kvengine.identify import Identity, identify
from kvengine.server import Server
from kvengine.tokenize import tokens_of
from kvpipe.process import ToolError

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
PAGES = [path.read_bytes() for path in sorted(CAPTURES.glob("*metrics*.txt"))]
# A page is long: what stands in it is alike, and a few lines of each kind do.
SHORT = [b"".join(page.splitlines(keepends=True)[at : at + 60]) for page in PAGES for at in (0, 90)]
ANSWERS = [*BODIES, *(path.read_bytes() for path in sorted(CAPTURES.glob("[lm]*.json")))]


@fuzzed(st.tuples(broken(st.sampled_from(SHORT)), broken(st.sampled_from(SHORT))), examples=60)
def test_any_metrics(pages: tuple[bytes, bytes]) -> None:
    """Metrics pages: two looks, and what was counted between them"""
    looks = []
    for at_ns, page in enumerate(pages):
        text = page.decode("utf-8", "replace")
        counted_names(text)
        for key, value in parse(text).items():
            assert math.isfinite(value)
            assert name_of(key)
            labels_of(key)
        looks.append(snapshot_of(text, at_ns * 10**9))
    for look in looks:
        if look is not None:
            assert all(_finite(counter(look, name)) for name in COUNTERS)
            assert all(_finite(gauge(look, name)) for name in GAUGES)
            block_tokens(look)
    before, after = looks
    if before is not None and after is not None:
        counters, own, _ = delta(before, after)
        assert all(map(_finite, counters.values()))
        assert all(map(_finite, own.values()))


def _finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


@fuzzed(broken_object(OBJECTS) | broken(st.sampled_from(ANSWERS)), examples=150)
def test_any_word_of_a_clear(body: bytes) -> None:
    """What engines and stores answer to a clear: success, no success, or not told"""
    text = body.decode("utf-8", "replace")
    for read in (
        mooncake.removed_count,
        llamacpp.slot_ids,
        lmcache.removed_tokens,
        lmcache_mp.cleared,
        lmcache_mp.objects,
        lmcache_mp.levels,
    ):
        read(text)
    llamacpp.erased_tokens(text, 0)


def _node(server: Server) -> Node:
    known = Identity(
        engine="vllm", version=None, models=["m"], model="m", max_model_len=None, simulated=False
    )
    return Node(
        engine=ENGINES["vllm"], server=server, identity=known, floor_tokens=None,
        block_tokens=None, several=None,
    )  # fmt: skip


ASKED: list[Callable[[Server], Awaitable[Any]]] = [
    lambda server: identify(server, None),
    lambda server: tokens_of(server, "m", "some text"),
    snapshot,
    mooncake.key_count,
    mooncake.keys,
    mooncake.not_leading,
    lambda server: mooncake.remove_all(server, force=True),
    llamacpp.clear,
    lmcache.worker_ports,
    dynamo.clear,
    sglang.flush,
    vllm.reset_local,
    lambda server: ask_canary(_node(server), "some text"),
]
statuses = st.sampled_from(["200 OK", "404 Not Found", "500 No", "302 Found", "204 No Content"])
types = st.sampled_from(
    ["application/json", "text/plain; charset=hex", "x; charset=utf-7", "text/event-stream", ";;"]
)


locations = st.sampled_from(
    ["/x", "http://[", "//:1", "http://127.0.0.1:99999/", "/\x80", "mailto:x", "", "http://é/"]
)
encodings = st.sampled_from(["identity", "gzip", "deflate", "br", "x"])


@fuzzed(
    st.tuples(
        statuses,
        types,
        locations,
        encodings,
        broken_object(OBJECTS) | broken(st.sampled_from(ANSWERS)),
    ),
    examples=8,
)
def test_any_control_plane(case: tuple[str, str, str, str, bytes]) -> None:
    """The control plane's client and its readers, over a real socket"""
    status, kind, location, encoding, body = case
    lines = (f"location: {location}", f"content-encoding: {encoding}")
    answer = head(status, f"content-length: {len(body)}", *lines, content_type=kind) + body

    async def ask(url: str) -> None:
        async with Server(url, timeout_s=20) as server:
            for question in ASKED:
                try:
                    await question(server)
                except (ToolError, CanaryRefused) as error:
                    assert str(error)

    with FakeServer([answer, Close()]) as server:
        asyncio.run(ask(server.url))
