"""LMCache's own server between two real vLLM nodes: its clears, its salts, and what the tools say.

One `lmcache server` with L1 alone and LMCacheMPConnector in both nodes (stack/nodes.py
--connector lmcache-mp), in an environment of its own: stack/install.sh --with-lmcache.
"""

from __future__ import annotations

import asyncio
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.real.engine import (
    Lmcache,
    Node,
    call,
    kvclear,
    proofs,
    random_prompt,
    stack_up,
    tool,
    until,
    verdicts,
    whole_blocks,
)
from tests.real.pipeline import measure

from kvengine import lmcache_mp, vllm
from kvengine.saltask import Endpoint
from kvengine.saltprobe import SaltProbe, probe_way
from kvengine.server import Answer, Server

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("installed_stack", "installed_lmcache")]

CHUNK_TOKENS = 256
LENGTH = 1_500  # five chunks and more; eleven of vLLM's blocks
CHUNKS = LENGTH // CHUNK_TOKENS
FROM_LMCACHE = CHUNKS * CHUNK_TOKENS


@dataclass(frozen=True, kw_only=True)
class Around:
    """Two nodes around one server."""

    a: Node
    b: Node
    lmcache: Lmcache

    @property
    def named(self) -> list[str]:
        return [*self.nodes, "--engine", f"lmcache-mp={self.lmcache.url}"]

    @property
    def nodes(self) -> list[str]:
        return ["--vllm", self.a.url, "--vllm", self.b.url]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Around]:
    with stack_up(tmp_path_factory.mktemp("lmcache"), "--connector", "lmcache-mp") as up:
        a, b = (Node(url=url, model=up["model"]) for url in up["nodes"])
        yield Around(a=a, b=b, lmcache=Lmcache(url=up["lmcache"]))


@pytest.fixture
def around(running: Around) -> Around:
    """The same with nothing cached anywhere; nodes first."""
    for node in (running.a, running.b):
        until(lambda node=node: not node.busy(), f"idle {node.url}")  # type: ignore[misc]
        node.reset()
    running.lmcache.clear()
    assert running.lmcache.objects() == 0
    return running


def stored(around: Around, seed: str) -> list[int]:
    """A prompt that node A computed and the server holds."""
    prompt = random_prompt(seed, LENGTH)
    assert around.a.complete(prompt).cached_tokens == 0
    around.lmcache.wait_for_objects(CHUNKS)
    return prompt


def moved(node: Node, prompt: list[int], **more: Any) -> dict[str, int]:
    """What one request, alone, added to the node's counters of prompt tokens."""
    before = node.sources()
    cached = node.complete(prompt, **more).cached_tokens
    after = node.sources()
    found = {source: after[source] - before[source] for source in after}
    assert cached == found["local_cache_hit"] + found["external_kv_transfer"]
    return found


# --- what the server does ------------------------------------------------------------------------


def test_what_one_node_computed_the_other_loads_in_whole_chunks(around: Around) -> None:
    prompt = stored(around, "chunks")
    assert around.lmcache.objects() == CHUNKS
    elsewhere, here = moved(around.b, prompt), moved(around.a, prompt)
    assert (elsewhere["external_kv_transfer"], elsewhere["local_cache_hit"]) == (FROM_LMCACHE, 0)
    assert (here["external_kv_transfer"], here["local_cache_hit"]) == (0, whole_blocks(LENGTH))


def test_a_prompt_of_whole_chunks_is_loaded_but_for_its_last_token(around: Around) -> None:
    """So that a cached count need not be a multiple of anything."""
    whole = random_prompt("whole", FROM_LMCACHE)
    around.a.complete(whole)
    around.lmcache.wait_for_objects(CHUNKS)
    assert moved(around.b, whole)["external_kv_transfer"] == FROM_LMCACHE - 1


def test_a_local_reset_is_not_cold_and_a_clear_of_the_server_is_undone(around: Around) -> None:
    """Two orders that are wrong: the server is left, or it is cleared before the nodes."""
    prompt = stored(around, "orders")
    around.a.reset()
    assert moved(around.a, prompt)["external_kv_transfer"] == FROM_LMCACHE

    around.lmcache.clear()
    assert around.lmcache.objects() == 0
    assert moved(around.a, prompt)["local_cache_hit"] > 0
    around.lmcache.wait_for_objects(CHUNKS)

    assert moved(around.b, prompt)["external_kv_transfer"] == FROM_LMCACHE


def test_an_external_reset_through_a_node_empties_the_server(around: Around) -> None:
    """vLLM takes LMCache's own class of the connector, which has such a reset."""
    prompt = stored(around, "external")
    until(lambda: around.a.try_reset("?reset_external=true"), "successful reset")
    assert around.lmcache.objects() == 0
    assert moved(around.a, prompt)["local_compute"] == LENGTH


def test_a_salt_isolates_in_both_tiers_and_a_tag_in_none(around: Around) -> None:
    prompt = random_prompt("salts", LENGTH)
    around.a.complete(prompt, cache_salt="one")
    around.lmcache.wait_for_objects(CHUNKS)
    assert moved(around.b, prompt, cache_salt="two")["local_compute"] == LENGTH
    assert moved(around.b, prompt, cache_salt="one")["external_kv_transfer"] == FROM_LMCACHE

    tagged, other = ({"lmcache.tag.kvload": tag} for tag in ("one", "two"))
    assert moved(around.a, prompt, kv_transfer_params=tagged)["local_compute"] == LENGTH
    around.lmcache.wait_for_objects(3 * CHUNKS)  # of one salt, of another, of none
    leaked = moved(around.b, prompt, kv_transfer_params=other)
    assert leaked["external_kv_transfer"] == FROM_LMCACHE


def refusal(url: str, body: dict[str, Any] | None = None) -> int:
    with pytest.raises(urllib.error.HTTPError) as raised:
        call(url, body, "POST")
    with raised.value as answer:
        return answer.code


def test_its_http_side_answers_as_the_replayed_answers_do(around: Around) -> None:
    """What tests/kvengine/test_lmcache_mp.py replays, asked of the real server."""
    url = around.lmcache.url
    stored(around, "answers")

    async def look() -> tuple[Answer, Answer, lmcache_mp.Outcome]:
        async with Server(url) as server:
            status = await server.get("/status")
            bare = await server.post("/cache/clear")
            return status, bare, await lmcache_mp.clear(server)

    status, bare, outcome = asyncio.run(look())
    assert lmcache_mp.objects(status.text) == CHUNKS
    assert (bare.status, bare.text) == (200, '{"status":"ok","cleared":{"tier":"l1"}}')
    assert (outcome.ok, outcome.retries) == (True, 0) and "0 objects left" in outcome.answer
    assert refusal(f"{url}/cache/clear", {"tier": "l2"}) == 400
    assert refusal(f"{url}/clear-cache") == 404, "the route of 0.4.7"


# --- what kvclear says ---------------------------------------------------------------------------


def test_nodes_and_server_are_cleared_and_shown_empty(around: Around) -> None:
    prompt = stored(around, "cleared")
    assert around.b.complete(prompt).cached_tokens == FROM_LMCACHE

    status, record = kvclear(*around.named)

    assert (status, record["verified"]) == (0, True)
    [clear] = [step for step in record["steps"] if step["tier"] == "lmcache"]
    assert clear["ok"] is True and "0 objects left in L1; it has no L2" in clear["answer"]
    assert len(proofs(record, "engine")) == 4
    for proof in proofs(record, "engine"):
        assert proof["control_tokens"] >= 2 * CHUNK_TOKENS and proof["after_tokens"] == 0
    assert around.a.complete(prompt).cached_tokens == 0


def test_nodes_without_the_server_are_not_cold(around: Around) -> None:
    status, record = kvclear(*around.nodes)
    resets = [step["ok"] for step in record["steps"] if step["what"] == "reset prefix cache"]
    assert resets == [True, True]
    assert (status, record["verified"]) == (1, False)
    assert "0 from its own cache" in record["reason"] and "from behind it" in record["reason"]


def test_the_server_without_a_node_is_not_shown(around: Around) -> None:
    prompt = stored(around, "left out")
    status, record = kvclear("--engine", f"lmcache-mp={around.lmcache.url}")
    [clear] = record["steps"]
    assert clear["ok"] is True
    assert (status, record["verified"]) == (1, None), "success and no object left, yet not shown"
    assert around.a.complete(prompt).cached_tokens == whole_blocks(LENGTH)


def test_the_server_is_emptied_through_the_nodes_where_everyones_may_go(around: Around) -> None:
    _, kept = kvclear(*around.nodes, "--dry-run")
    told = [step["answer"] for step in kept["steps"] if "LMCacheMPConnector" in step["answer"]]
    assert not any("send POST" in answer for answer in told), "others may use that server"

    status, record = kvclear(*around.nodes, "--global")

    external = [step for step in record["steps"] if step["what"] == "reset external cache"]
    assert [step["ok"] for step in external] == [None, None], "never evidence"
    assert all(step["answer"].startswith("LMCacheMPConnector") for step in external)
    assert (status, record["verified"]) == (0, True)


def test_the_probe_finds_that_salts_are_honoured(around: Around) -> None:
    status, record = kvclear(*around.nodes, "--probe-salt")
    assert status == 0
    assert verdicts(record) == 2 * [
        ("salt probe: cache_salt", "engine", True),
        ("salt probe: cache_salt", "store", True),
    ]


def test_the_probe_finds_that_tags_are_not(around: Around) -> None:
    async def ask() -> SaltProbe:
        async with Server(around.a.url) as server:
            endpoint = Endpoint(
                server=server, model=around.a.model, api="completions", floor_tokens=0
            )
            return await probe_way(endpoint, "lmcache_tag", vllm.reset_local)

    found = asyncio.run(ask())
    assert found.ignored_by == ["engine", "store"], found


def test_a_second_level_survives_the_clear_and_is_found(tmp_path: Path) -> None:
    """`/cache/clear` says ok and leaves no object in L1; the next prompt comes from the files."""
    arrangement = ("--nodes", "1", "--connector", "lmcache-mp", "--lmcache-l2")
    with stack_up(tmp_path, *arrangement) as up:
        node, files = Node(url=up["nodes"][0], model=up["model"]), tmp_path / "lmcache-l2"
        prompt = random_prompt("second level", LENGTH)
        node.complete(prompt)
        until(lambda: len(list(files.iterdir())) >= CHUNKS, "files of five chunks")
        named = ("--vllm", node.url, "--engine", f"lmcache-mp={up['lmcache']}")

        status, record = kvclear(*named)

        [clear] = [step for step in record["steps"] if step["tier"] == "lmcache"]
        assert clear["ok"] is True and "0 objects left in L1" in clear["answer"]
        assert "its L2 is not cleared" in clear["advice"]
        assert (status, record["verified"]) == (1, False)
        assert "from behind it" in record["reason"]
        assert moved(node, prompt)["external_kv_transfer"] == FROM_LMCACHE

        status, record = kvclear(*named, "--command", f"find {files} -type f -delete")
        assert (status, record["verified"]) == (0, True)
        assert moved(node, prompt)["local_compute"] == LENGTH


# --- a whole experiment --------------------------------------------------------------------------


def test_a_hit_from_lmcache_is_measured_and_says_so(around: Around, tmp_path: Path) -> None:
    """Cold, a reset of the node alone, hit: what served it is told by vLLM and by LMCache."""
    done = measure(
        tmp_path,
        f"kvload -q --url {around.a.url} --scenario cold_start --requests 4 --sentinels 1"
        f" --context-tokens 1200 --output-tokens 2 --pause 0 --warmup 1 --tier store"
        f" --engine vllm={around.a.url} --metrics-url store={around.lmcache.url}"
        f" --block-tokens {CHUNK_TOKENS}",
    )
    cold, hit = done.round_of("cold"), done.round_of("hit")
    assert (cold.stats["cold_proof"], cold.findings()) == ("proven", {})
    assert (hit.stats["tier_served"], hit.findings()) == ("store", {})
    assert hit.stats["efficiency"] == 1.0, "every whole chunk that could be had"
    assert [one["cached_tokens"] for one in hit.of("sentinel")] == [0]

    from_behind = hit.total("cached_tokens")
    assert from_behind >= 4 * 4 * CHUNK_TOKENS and from_behind % CHUNK_TOKENS == 0
    assert (hit.counted("external_tokens"), hit.counted("local_tokens")) == (from_behind, 0)
    # LMCache's own counter, by the salt of the rounds, agrees with vLLM's.
    [looked_up] = [
        value
        for key, value in hit.servers["store"]["deltas"].items()
        if key.startswith("lmcache_mp_lookup_hit_tokens_total")
    ]
    assert looked_up == from_behind
    chunks = sum(one["prompt_tokens"] // CHUNK_TOKENS for one in cold.requests)
    assert cold.servers["store"]["counters"]["store_puts"] == chunks
    assert "store_puts" in hit.stats["barrier"]["reason"], "the saves were waited for"

    report = tool("kvreport", str(done.stats_path))
    assert report.returncode == 0
    assert "KV store (LMCache)" in report.stdout
