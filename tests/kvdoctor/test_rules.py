"""The rules by themselves: evidence that nobody can plant here, and evidence that is healthy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from kvdoctor.diagnose import RULES, diagnose
from kvdoctor.evidence import (
    Client,
    Config,
    Crossing,
    Dialogue,
    Evidence,
    Head,
    Idle,
    Keys,
    NodeSeen,
    Reset,
    Room,
    StoreSeen,
    Stream,
)
from kvdoctor.table import summary, table
from kvengine.identify import Identity
from kvengine.saltask import Told
from kvpipe.records import Barrier, DiagnosisCode

A, B, STORE = "http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:9003"
KEY = "model@tp_rank:0@pcp0@dcp0@pp_rank:0@group:0@"
HIT = Told(cached_tokens=960, prompt_tokens=1020, local_tokens=960.0, external_tokens=0.0)
MISS = Told(
    cached_tokens=0, prompt_tokens=1020, local_tokens=0.0, external_tokens=0.0, looked_behind=True
)
FROM_A = (Keys(appeared=frozenset({f"{KEY}aa", f"{KEY}bb"}), count=2),)


def node(where: str = A) -> NodeSeen:
    """As a healthy vLLM with a connector shows itself."""
    return NodeSeen(
        where=where,
        kind="vllm",
        answered=True,
        identity=Identity(
            engine="vllm",
            version="0.33.0",
            models=["qwen"],
            model="qwen",
            max_model_len=32768,
            simulated=False,
            root="/models/qwen",
        ),
        health=200,
        metrics=True,
        config=Config(
            block_tokens=16,
            prefix_caching=True,
            hash_algorithm="sha256",
            cache_dtype="auto",
            dtype="bf16",
            connector="MooncakeStoreConnector",
        ),
        floor_tokens=0,
        head=Head(tokens=4, text="system\nYou are helpful. Cutting Knowledge Date: December 2023"),
        running=0.0,
        reset_status=405,
        reach="loopback",
        open_routes=("POST /reset_prefix_cache",),
        idle=Idle(closed_s=None, watched_s=4.5),
        stream=Stream(status=200, tokens=32, reads=30, encoding=None),
        dialogue=Dialogue(
            first=MISS,
            second=HIT,
            needed_tokens=32,
            limit_tokens=16384,
            text="x",
            rest=Barrier(state="quiet", waited_s=1.0, reason="still"),
            saved_keys=2.0,
        ),
        foreign_requests=0.0,
    )


def healthy() -> Evidence:
    """Two nodes around one store."""
    found = replace(HIT, local_tokens=0.0, external_tokens=960.0, looked_behind=True)
    return Evidence(
        nodes=[node(A), node(B)],
        stores=[
            StoreSeen(
                where=STORE,
                kind="mooncake",
                keys=True,
                before=Room(capacity_bytes=2e9, allocated_bytes=1e6),
                after=Room(capacity_bytes=2e9, allocated_bytes=2e6),
                reach="loopback",
                open_routes=("POST /api/v1/remove_all",),
            )
        ],
        crossings=[Crossing(source=A, where=B, told=found, needed_tokens=32, from_source=FROM_A)],
        from_source=FROM_A,
        client=Client(open_files=65536, ports=28000, clock="tsc", cpus=8, throttled_ratio=0.0),
        now=datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
        behind_is_asked=True,
    )


def codes(evidence: Evidence) -> set[str]:
    return {one.code for one in diagnose(evidence) if one.severity != "info"}


def test_healthy_evidence_is_silent() -> None:
    assert codes(healthy()) == set()


Change = Callable[[Evidence], None]


def config(**values: object) -> Change:
    """The second node's configuration."""

    def change(evidence: Evidence) -> None:
        held = evidence.nodes[1]
        held.config = replace(held.config, **values)  # type: ignore[arg-type]

    return change


def client(**values: object) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.client = replace(evidence.client, **values)  # type: ignore[arg-type]

    return change


def seen(**values: object) -> Change:
    """Of the second node."""

    def change(evidence: Evidence) -> None:
        for name, value in values.items():
            setattr(evidence.nodes[1], name, value)

    return change


def room(before: Room, after: Room) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.stores[0].before, evidence.stores[0].after = before, after

    return change


def chunks(evidence: Evidence) -> None:
    evidence.stores += [
        StoreSeen(where=f"http://10.0.0.{at}:6999", kind="lmcache", chunk_tokens=size)
        for at, size in ((8, 256), (9, 512))
    ]


def store_reach(evidence: Evidence) -> None:
    evidence.stores[0].reach = "public"


def restless(evidence: Evidence) -> None:
    talk = evidence.nodes[1].dialogue
    assert talk is not None
    rest = Barrier(state="unknown", waited_s=10.0, reason="3 keys still being saved")
    evidence.nodes[1].dialogue = replace(talk, rest=rest)


FULL = Room(capacity_bytes=1e9, allocated_bytes=9e8)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (config(prefix_caching=False), "prefix_caching_off"),
        (config(dtype="fp16"), "precision_differs"),
        (config(cache_dtype="fp8"), "precision_differs"),
        (config(block_tokens=32), "block_size_differs"),
        (config(hash_algorithm="xxhash"), "hash_algorithm_differs"),
        (config(connector="NixlConnector"), "connector_differs"),
        (chunks, "chunk_differs"),
        (seen(trouble="needs a key: --api-key-file FILE"), "unfit"),
        (seen(idle=Idle(closed_s=3.2, watched_s=4.5)), "idle_timeout_short"),
        (seen(running=2.0), "foreign_traffic"),
        (seen(several="counters fell"), "hidden_replicas"),
        (seen(reach="public"), "admin_exposed"),
        (store_reach, "admin_exposed"),
        (seen(head=Head(tokens=9, text="Today Date: 20 Nov 2026")), "dated_template"),
        (seen(head=Head(tokens=9, text="It is 9:41 now")), "dated_template"),
        (restless, "barrier_unknown"),
        (room(Room(), FULL), "store_full"),
        (room(Room(evicted_keys=5), Room(evicted_keys=9)), "store_full"),
        (room(Room(capacity_bytes=0), Room()), "store_without_memory"),
        (client(open_files=1024), "open_files_low"),
        (client(ports=500), "ports_few"),
        (client(clock="hpet"), "clock_slow"),
        (client(throttled_ratio=0.2), "client_throttled"),
    ],
)
def test_a_rule_speaks(change: Change, code: str) -> None:
    evidence = healthy()
    change(evidence)
    assert codes(evidence) == {code}
    found = [one for one in diagnose(evidence) if one.code == code]
    assert all(one.change and one.means and one.seen.endswith(".") for one in found)


@pytest.mark.parametrize(
    "change",
    [
        config(dtype=None),
        config(block_tokens=None),
        seen(head=Head(tokens=9, text="Today Date: 26 Jul 2024")),
        seen(head=None),
        seen(reach="private"),
        seen(idle=Idle(closed_s=4.2, watched_s=4.5)),
        seen(stream=Stream(status=200, tokens=32, reads=7, encoding=None)),
        seen(stream=None),
        seen(reset_status=401),
        room(Room(evicted_keys=5, alloc_failures=3), Room(evicted_keys=5, alloc_failures=3)),
        client(open_files=None, ports=None, clock=None, throttled_ratio=None),
        client(throttled_ratio=0.01),
    ],
)
def test_a_rule_keeps_silent(change: Change) -> None:
    """What is not told is not held against anybody; what is long ago neither."""
    evidence = healthy()
    change(evidence)
    assert codes(evidence) == set()


def crossed(ours: str, told: Told = MISS) -> Evidence:
    """The second node missed, and stored the prompt under its own keys."""
    evidence = healthy()
    keys = (Keys(appeared=frozenset({ours}), count=1),)
    evidence.crossings = [replace(evidence.crossings[0], told=told, from_here=keys)]
    return evidence


def test_keys_tell_seeds_from_deployments() -> None:
    assert codes(crossed(f"{KEY}cc")) == {"remote_miss", "hash_seed_differs"}
    assert codes(crossed("model@tp_rank:1@cc")) == {"remote_miss", "keys_differ"}
    missed = next(one for one in diagnose(crossed(f"{KEY}cc")) if one.code == "remote_miss")
    assert missed.change == "see hash_seed_differs."


def test_a_miss_that_nobody_tells_is_no_miss() -> None:
    """Other keys for the same prompt are evidence enough by themselves."""
    untold = Told(cached_tokens=None)
    assert codes(crossed(f"{KEY}cc", untold)) == {"hash_seed_differs"}
    evidence = healthy()
    evidence.crossings = [replace(evidence.crossings[0], told=untold)]
    assert codes(evidence) == set()


def test_one_processor_is_told_and_no_complaint() -> None:
    evidence = healthy()
    evidence.client = replace(evidence.client, cpus=1)
    assert codes(evidence) == set()
    assert "one_cpu" in {one.code for one in diagnose(evidence)}


def test_a_miss_without_a_cause_asks_for_the_store() -> None:
    evidence = crossed(f"{KEY}cc")
    evidence.crossings = [replace(evidence.crossings[0], from_here=(), from_source=())]
    evidence.stores, evidence.from_source = [], ()
    (missed,) = [one for one in diagnose(evidence) if one.code == "remote_miss"]
    assert "no cause shows" in missed.seen
    assert "--engine mooncake=" in (missed.change or "")


def test_before_the_counter_of_queries_no_connector_is_missed() -> None:
    evidence = healthy()
    for one in evidence.nodes:
        assert one.identity is not None and one.dialogue is not None
        one.identity = replace(one.identity, version="0.10.2")
        one.dialogue = replace(one.dialogue, first=replace(MISS, looked_behind=False))
    assert codes(evidence) == set()


def test_an_empty_answer_to_a_reset_is_no_complaint() -> None:
    evidence = healthy()
    evidence.nodes[0].reset = Reset(ok=None, answer="200 (empty)", told=MISS)
    assert codes(evidence) == set()
    assert "reset_silent" in {one.code for one in diagnose(evidence)}


def test_every_code_has_a_rule_and_is_provoked_somewhere() -> None:
    enumerated = set(get_args(DiagnosisCode))
    assert [rule.code for rule in RULES] == list(dict.fromkeys(rule.code for rule in RULES))
    assert {rule.code for rule in RULES} == enumerated
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [code for code in sorted(enumerated) if f'"{code}"' not in source] == []


def test_every_rule_speaks_in_sentences() -> None:
    for rule in RULES:
        assert re.fullmatch(r"[A-Z].*[.]", rule.means), rule.code
        assert rule.asks


def test_the_table_is_for_eighty_odd_columns_and_sums_up_first() -> None:
    evidence = crossed(f"{KEY}cc")
    found = diagnose(evidence)
    lines = table(found).splitlines()
    assert lines[0] == summary(found)
    assert lines[0] == ("2 findings spoil a measurement: remote_miss, hash_seed_differs")
    assert max(map(len, lines)) <= 96
    assert sum(line.startswith("  change ") for line in lines) == 2
    held = table(diagnose(healthy())).splitlines()
    assert f"info     smallest_hit  {A}, {B}" in held, "what is alike is told once"
    assert summary(diagnose(healthy())) == "nothing was found that spoils a measurement"
