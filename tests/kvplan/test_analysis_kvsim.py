"""What was predicted against what is observed: a piece of a real trace, sent to kvsim one request
after the other. Counts are equal request by request, or the reason is named here."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Sequence
from functools import cache
from itertools import islice

import pytest
from tests.family import ROOT
from tests.simulated import Sim, kvsim

from kvplan.analysis.accesses import Visit, accesses
from kvplan.analysis.curve import Sized, sized
from kvplan.analysis.store import StoreRules, run_store
from kvplan.trace import TraceLine, read_trace
from kvsim.cache import BlockPool

TRACE = ROOT / "tests/data/traces/conversation_trace.jsonl.gz"
BLOCK = 16
INSTANT = (
    *("--prefill-tps", "100000000", "--step-ms", "0.05", "--overhead-ms", "0"),
    *("--decode-ms-per-seq", "0", "--save-delay-ms", "0", "--save-ms-per-block", "0"),
    *("--load-latency-ms", "0", "--load-ms-per-block", "0"),
)


@cache
def window() -> list[TraceLine]:
    """One in twenty of the conversations, as the second block tells them apart, of requests that
    are not too long; a sample of whole conversations keeps their reuse and makes it nearer."""
    with gzip.open(TRACE) as stream:
        lines = read_trace(stream, TRACE.name)
        some = (line for line in lines if 1 < len(line.hash_ids) <= 100)
        return list(islice((line for line in some if line.hash_ids[1] % 20 == 3), 220))


def length(line: TraceLine, at: int) -> int:
    """Tokens of a block, 512 become 16. A last block is never full: then each prompt holds one
    block that has no name, which is what the pool lacks for the others."""
    if at < len(line.hash_ids) - 1:
        return BLOCK
    return min(BLOCK - 1, max(1, (line.input_tokens - 512 * at) * BLOCK // 512))


def prompt(line: TraceLine) -> list[int]:
    """Equal ids are equal tokens."""
    ids: list[int] = []
    for at, one in enumerate(line.hash_ids):
        block = random.Random(one).choices(range(1000, 9000), k=BLOCK)
        ids += block[: length(line, at)]
    return ids


@cache
def predicted() -> Sized:
    visits = [
        Visit(
            links=[(one, length(line, at)) for at, one in enumerate(line.hash_ids)],
            output_tokens=1,
        )
        for line in window()
    ]
    return sized(accesses(visits), BLOCK)


def send(node: Sim, line: TraceLine) -> int:
    """Cached blocks, as the node reports them."""
    body = {"model": "sim", "prompt": prompt(line), "max_tokens": 1, "temperature": 0}
    usage = json.loads(node.post("/v1/completions", body))["usage"]
    cached: int = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached % BLOCK == 0
    return cached // BLOCK


@pytest.mark.parametrize("blocks", [20_000, 700, 300, 140])
def test_an_engines_cache_gives_what_its_curve_says(blocks: int) -> None:
    """Of N blocks one is never given out, and one holds the end of the prompt that runs."""
    with kvsim("--block-tokens", str(BLOCK), "--capacity-blocks", str(blocks), *INSTANT) as node:
        observed = [send(node, line) for line in window()]
    expected = predicted().hits(None if blocks == 20_000 else blocks - 2).tolist()
    assert observed == expected
    assert (sum(observed) < sum(predicted().hits(None).tolist())) == (blocks < 20_000)


def cold(node: Sim) -> None:
    """The engine's own cache forgets; a save under way keeps it from that for a moment."""
    until = time.monotonic() + 60
    while not json.loads(node.post("/reset_prefix_cache"))["success"]:
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize("blocks", [20_000, 700, 300])
def test_a_store_gives_what_its_rules_say(blocks: int) -> None:
    """The engine's own cache is emptied before each request, so that the store alone answers; with
    leases that end at once, since a replay in no time would never see one end."""
    kv_bytes = 4096
    room = str(blocks * BLOCK * kv_bytes)
    store_flags = ("--role", "store", "--lease-ms", "0", "--capacity-bytes", room)
    with (
        kvsim(*store_flags) as store,
        kvsim("--store", store.url, "--block-tokens", str(BLOCK), *INSTANT) as node,
    ):
        observed: list[int] = []
        for line in window():
            cold(node)
            observed.append(send(node, line))
    assert observed == modelled(blocks, range(len(observed)))
    curve = predicted()
    if blocks == 20_000:
        assert observed == curve.hits(None).tolist()
    else:
        low, high = (int(curve.hits(int(blocks * part)).sum()) for part in (0.8, 1))
        assert low <= sum(observed) <= high < int(curve.hits(None).sum())


def modelled(blocks: int, begun: Sequence[int]) -> list[int]:
    """Keys that are asked for together get their leases together, and the older is evicted first:
    kvsim's store knows no shards."""
    rules = StoreRules(capacity_blocks=blocks, lease_s=0.0, step_blocks=10**6)
    ended = [at + 0.5 for at in begun]
    run = run_store(predicted().taken, BLOCK, rules, begun, ended, seed=None)
    hits: list[int] = run.hits.tolist()
    return hits


def test_the_whole_trace_in_kvsims_own_cache() -> None:
    """All 12,031 requests through the cache that kvsim's nodes have, without the network between:
    every count as the curve says, at every size. An answer of one token needs no room."""
    with gzip.open(TRACE) as stream:
        lines = list(read_trace(stream, TRACE.name))
    visits = [
        Visit(links=[(one, BLOCK) for one in line.hash_ids[:-1]] + [(-1, 1)], output_tokens=1)
        for line in lines
    ]
    curve = sized(accesses(visits), BLOCK)
    for blocks in (400_000, 70_000, 20_000, 2_000):
        pool = BlockPool(blocks)
        found = [engine_step(pool, [str(one).encode() for one in line.hash_ids]) for line in lines]
        room = None if blocks == 400_000 else blocks - 2
        assert found == curve.hits(room).tolist()


def engine_step(pool: BlockPool, names: list[bytes]) -> int:
    """One request as the engine takes it: match, hold, compute the others, let go. The last name is
    of a block that is not full."""
    held = pool.match(names[:-1])
    pool.take(held)
    fresh = pool.allocate(len(names) - len(held))
    assert fresh is not None, "the prompt alone is more than the cache"
    for block, name in zip(fresh[:-1], names[len(held) : -1], strict=True):
        pool.name(block, name)
    pool.release([*held, *fresh])
    return len(held)
