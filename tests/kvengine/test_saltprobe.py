"""Which salts isolate, and which tier ignores them: found out over HTTP.

kvsim is an engine that honours `cache_salt`, or one that does not. What stands behind vLLM with
LMCache in the same process (LMCache 0.5.6: tags are in its keys, salts are not) or with
ExampleConnector (neither is) cannot run here without a GPU or takes half a minute to start: its
part is played by `TwoTiers`, and ExampleConnector itself is under test in tests/real.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.family import environment
from tests.kvclear.ranks import one_server_of
from tests.simulated import FAST, cluster, kvsim

from kvengine import saltprobe, vllm
from kvengine.identify import identify
from kvengine.saltask import Endpoint
from kvengine.saltprobe import WAYS, Reset, SaltProbe, probe_salts, probe_way
from kvengine.server import Server
from kvload.controls import salt_findings
from kvload.settings import Experiment
from kvload.site import Node, Site, salt_way
from kvpipe.records import Finding, SaltWay

Key = Callable[[dict[str, Any]], Any]


def probed(
    url: str, way: SaltWay = "cache_salt", reset: Reset | None = None, model: str = "sim"
) -> SaltProbe:
    async def ask() -> SaltProbe:
        async with Server(url) as server:
            endpoint = Endpoint(server=server, model=model, api="chat", floor_tokens=None)
            return await probe_way(endpoint, way, reset)

    return asyncio.run(ask())


def first_honoured(url: str, reset: Reset | None = None) -> list[SaltProbe]:
    async def ask() -> list[SaltProbe]:
        async with Server(url) as server:
            endpoint = Endpoint(server=server, model="sim", api="completions", floor_tokens=0)
            return await probe_salts(endpoint, WAYS, reset)

    return asyncio.run(ask())


def tiers(probe: SaltProbe) -> dict[str, bool | None]:
    return {tier.tier: tier.honoured for tier in probe.tiers}


# --- an engine alone -----------------------------------------------------------------------------


def test_an_engine_that_honours_the_field() -> None:
    with kvsim(*FAST) as sim:
        probe = probed(sim.url)
    assert tiers(probe) == {"engine": True}
    [engine] = probe.tiers
    assert (engine.control_tokens or 0) > 64 and not engine.other_tokens


def test_an_engine_that_ignores_it_is_found_and_the_head_is_left() -> None:
    with kvsim(*FAST, "--fault", "ignore_salt") as sim:
        tried = first_honoured(sim.url)
    assert [(one.way, one.honoured) for one in tried] == [
        ("cache_salt", False),
        ("lmcache_tag", False),
        ("prompt_head", True),
    ]
    assert [one.ignored_by for one in tried] == [["engine"], ["engine"], []]


def test_the_first_way_that_is_honoured_ends_the_search() -> None:
    with kvsim(*FAST) as sim:
        assert [one.way for one in first_honoured(sim.url)] == ["cache_salt"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("null_details", "reported nothing"),
        ("drop_usage", "reported nothing"),
        ("fake_hits", "never sent before"),
        ("http_error=503,1", "503"),
    ],
)
def test_without_a_control_nothing_is_claimed(fault: str, words: str) -> None:
    with kvsim(*FAST, "--fault", fault) as sim:
        probe = probed(sim.url)
    assert probe.honoured is None
    assert words in probe.reason


def test_without_counters_the_tier_is_not_named() -> None:
    with kvsim(*FAST, "--fault", "ignore_salt", "--fault", "no_metrics") as sim:
        probe = probed(sim.url)
    assert probe.honoured is False
    assert "from which tier is not told" in probe.reason


# --- a store behind it ---------------------------------------------------------------------------


def test_a_store_that_honours_it_shows_after_a_reset_of_the_engine_alone() -> None:
    with cluster() as (_, a, _b):
        assert tiers(probed(a.url)) == {"engine": True}, "a miss alone shows no store"
        probe = probed(a.url, reset=vllm.reset_local)
    assert tiers(probe) == {"engine": True, "store": True}
    assert probe.unasked is None


def test_a_reset_that_is_refused_leaves_the_store_unasked() -> None:
    with kvsim(*FAST, "--no-dev-mode") as sim:
        probe = probed(sim.url, reset=vllm.reset_local)
    assert tiers(probe) == {"engine": True}
    assert probe.unasked is not None and "404" in probe.unasked


def test_no_store_is_no_trouble() -> None:
    with kvsim(*FAST) as sim:
        probe = probed(sim.url, reset=vllm.reset_local)
    assert (tiers(probe), probe.unasked) == ({"engine": True}, None)


@dataclass
class TwoTiers:
    """An engine's own cache and one behind it, each with a key of its own; whole prompts only.

    What is stored can be hit `save_s` later.
    """

    own: Key
    behind: Key
    save_s: float = 0.0
    local: set[str] = field(default_factory=set)
    stored: dict[str, float] = field(default_factory=dict)
    queries: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        text = body["prompt"]
        tokens = len(text.split())
        keys = repr((self.own(body), text)), repr((self.behind(body), text))
        now = time.monotonic()
        hit = keys[0] in self.local, self.stored.get(keys[1], now) < now
        source = SOURCES[1] if hit[0] else SOURCES[2] if hit[1] else SOURCES[0]
        self.local.add(keys[0])
        self.stored.setdefault(keys[1], now + self.save_s)
        self.queries += 0 if hit[0] else tokens
        cached = tokens - 1 if any(hit) else 0
        self.counts[source] += cached
        self.counts[SOURCES[0]] += tokens - cached
        return {
            "usage": {
                "prompt_tokens": tokens,
                "prompt_tokens_details": {"cached_tokens": cached},
            }
        }

    def metrics(self) -> str:
        name = "vllm:prompt_tokens"
        lines = [f'{name}_by_source_total{{source="{key}"}} {self.counts[key]}' for key in SOURCES]
        lines += [f"{name}_total {sum(self.counts.values())}"]
        asked = vllm.ENGINE.looked_behind
        lines += [f"# TYPE {asked} counter", f"{asked} {self.queries}"]
        lines += ["vllm:num_requests_running 0", "vllm:num_requests_waiting 0"]
        return "\n".join(lines) + "\n"


SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")


@contextmanager
def serving(two: TwoTiers) -> Iterator[str]:
    """Over HTTP, as far as a probe asks."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            models = json.dumps({"object": "list", "data": [{"id": "sim"}]})
            pages = {"/metrics": two.metrics(), "/v1/models": models}
            page = pages.get(self.path)
            self.answer(404 if page is None else 200, page or "")

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            if self.path == "/v1/completions":
                self.answer(200, json.dumps(two.complete(body)))
            elif self.path == "/reset_prefix_cache":
                two.local.clear()
                self.answer(200, '{"success":true}')
            else:
                self.answer(404, "")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def salt_of(body: dict[str, Any]) -> Any:
    return body.get("cache_salt")


def tag_of(body: dict[str, Any]) -> Any:
    params = body.get("kv_transfer_params") or {}
    return [value for key, value in params.items() if key.startswith("lmcache.tag.")]


def no_key(_: dict[str, Any]) -> None:
    """The prompt alone."""


def nothing_twice(_: dict[str, Any]) -> str:
    """Nothing is ever found again: no cache."""
    return secrets.token_hex(8)


def test_a_store_that_ignores_the_field_is_named_even_without_a_reset() -> None:
    """vLLM with ExampleConnector, or with LMCache in its own process."""
    with serving(TwoTiers(own=salt_of, behind=no_key)) as url:
        [first, *_] = first_honoured(url)
    assert tiers(first) == {"engine": True, "store": False}
    assert first.ignored_by == ["store"] and "from behind the engine" in first.reason


def test_what_is_stored_later_than_the_answer_is_waited_for() -> None:
    """Asked at once, a tier that ignores the salt would miss, as if it honoured it."""
    with serving(TwoTiers(own=salt_of, behind=no_key, save_s=0.9)) as url:
        [first, *_] = first_honoured(url)
    assert first.ignored_by == ["store"]


def test_nothing_is_waited_for_where_nothing_stands_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("waited")

    monkeypatch.setattr(saltprobe, "come_to_rest", never)
    with kvsim(*FAST) as sim:
        assert probed(sim.url).honoured is True
    with cluster() as (_, a, _b), pytest.raises(AssertionError, match="waited"):
        probed(a.url)


def test_one_of_several_ranks_is_asked() -> None:
    """Without a rank prompts go round, and the same prompt sent twice hits nowhere."""
    with kvsim(*FAST) as one, kvsim(*FAST) as other, one_server_of([one.url, other.url]) as url:
        assert tiers(probed(url)) == {"engine": True}


def test_lmcache_in_process_honours_tags_and_the_engine_before_it_does_not() -> None:
    """Neither field isolates both tiers, so that the head of the prompt is what is left."""
    with serving(TwoTiers(own=salt_of, behind=tag_of)) as url:
        tried = first_honoured(url, vllm.reset_local)
    assert [(one.way, tiers(one)) for one in tried] == [
        ("cache_salt", {"engine": True, "store": False}),
        ("lmcache_tag", {"engine": False, "store": True}),
        ("prompt_head", {"engine": True, "store": True}),
    ]


def test_lmcache_behind_an_engine_without_a_cache_of_its_own_takes_tags() -> None:
    """`--no-enable-prefix-caching`: only LMCache's keys count."""
    with serving(TwoTiers(own=nothing_twice, behind=tag_of)) as url:
        assert [one.way for one in first_honoured(url)] == ["cache_salt", "lmcache_tag"]


# --- kvload takes what is honoured ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "behind", "way", "ignored_by"),
    [
        (salt_of, salt_of, "cache_salt", []),
        (salt_of, no_key, "prompt_head", ["store"]),
        (salt_of, tag_of, "prompt_head", ["store"]),
        (nothing_twice, tag_of, "lmcache_tag", ["store"]),
    ],
)
def test_kvload_takes_the_first_way_that_every_tier_honours(
    own: Key, behind: Key, way: SaltWay, ignored_by: list[str]
) -> None:
    async def chosen(url: str) -> tuple[SaltWay, list[Finding]]:
        async with Server(url) as server:
            identity = await identify(server, None)
            node = Node(
                endpoint_url=url,
                server=server,
                identity=replace(identity, engine="vllm"),
                counts=True,
                block_tokens=None,
                floor_tokens=0,
                told_by=url,
            )
            site = Site(nodes={url: node}, extra=[], resetters=[], model="sim")
            asked = cast(Experiment, SimpleNamespace(warmup_passes=1, api="completions"))
            taken, probe = await salt_way(site, asked)
            return taken, salt_findings(probe, taken)

    with serving(TwoTiers(own=own, behind=behind)) as url:
        taken, findings = asyncio.run(chosen(url))
    assert taken == way
    assert [one.evidence["ignored_by"] for one in findings] == [ignored_by] * bool(ignored_by)


# --- kvclear --probe-salt ------------------------------------------------------------------------


def kvclear(*flags: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        ["kvclear", *flags, "--probe-salt"],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment(),
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def verdicts(record: dict[str, Any]) -> list[tuple[str, str, bool | None]]:
    return [(proof["how"], proof["tier"], proof["verified"]) for proof in record["proofs"]]


def test_kvclear_says_which_way_and_never_that_anything_is_empty() -> None:
    with cluster() as (_, a, b):
        status, record, err = kvclear("--vllm", a.url, "--vllm", b.url)
    assert status == 0
    assert verdicts(record) == 2 * [
        ("salt probe: cache_salt", "engine", True),
        ("salt probe: cache_salt", "store", True),
    ]
    assert record["verified"] is None and "cache_salt isolates here" in record["reason"]
    assert "cache_salt isolates here" in err


def test_kvclear_finds_the_way_that_all_nodes_share() -> None:
    with kvsim(*FAST) as good, kvsim(*FAST, "--fault", "ignore_salt") as bad:
        status, record, _ = kvclear("--vllm", good.url, "--vllm", bad.url)
    assert (status, "prompt_head isolates here" in record["reason"]) == (0, True)
    assert ("salt probe: cache_salt", "engine", False) in verdicts(record)


@pytest.mark.parametrize(("honours_header", "status"), [(True, 0), (False, 1)])
def test_kvclear_asks_one_rank_of_several_or_claims_nothing(
    honours_header: bool, status: int
) -> None:
    """Where prompts go round, a miss of the other rank would pass for an honoured salt."""
    ignoring = (*FAST, "--fault", "ignore_salt")
    with (
        kvsim(*ignoring) as a,
        kvsim(*ignoring) as b,
        one_server_of([a.url, b.url], honours_header=honours_header) as url,
    ):
        ended, record, _ = kvclear("--vllm", url)
    assert ended == status
    ways = dict(zip(("cache_salt", "lmcache_tag", "prompt_head"), record["proofs"], strict=True))
    seen = [proof["verified"] for proof in ways.values()]
    assert seen == ([False, False, True] if honours_header else [None, None, None])


def test_kvclear_without_a_control_is_1() -> None:
    with kvsim(*FAST, "--fault", "null_details") as sim:
        status, record, _ = kvclear("--vllm", sim.url)
    assert status == 1
    assert {verified for _, _, verified in verdicts(record)} == {None}
    assert "no way was shown" in record["reason"]


def test_kvclear_dry_run_sends_no_prompt() -> None:
    with kvsim(*FAST) as sim:
        before = sim.get("/metrics").split("vllm:prompt_tokens_total")[1].splitlines()[0]
        status, record, _ = kvclear("--vllm", sim.url, "--dry-run")
        after = sim.get("/metrics").split("vllm:prompt_tokens_total")[1].splitlines()[0]
    assert (status, record["dry_run"], record["proofs"]) == (0, True, [])
    assert before == after


def test_kvclear_needs_an_engine_to_ask() -> None:
    assert kvclear("--mooncake", "http://127.0.0.1:9")[0] == 2
