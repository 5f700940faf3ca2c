"""Planted contamination is found, and none is invented: on kvsim, under concurrency.

What was planted is counted here, block by block from the server's own tokens, and shares no code
with the tools: of every round in which more was planted than the blind spot that kvstats states
there, each must be called contaminated; of the clean ones none. `make contamination` runs the full
counts (100 and 1,000), an ordinary test run a few.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.family import environment
from tests.simulated import FAST, Sim, kvsim

FULL = os.environ.get("KV_CONTAMINATION_FULL") == "1"
PLANTED = 100 if FULL else 6
CLEAN = 1000 if FULL else 20
WORKERS = 4 if FULL else 2
REPEATS = 10 if FULL else 5
"""Rounds of one kvload."""
BLOCK = 16
ATTEMPTS = 5
"""Times as many rounds as asked for may be needed until enough lie above their blind spot."""

ENGINES = {
    "roomy": FAST,
    "four at a time": (*FAST, "--max-num-seqs", "4"),
    "small cache": (*FAST, "--capacity-blocks", "160"),
    "failing": (*FAST, "--fault", "http_error=500,7"),
}
LEAVE_PLANTS_ALONE = ("roomy", "four at a time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one kvload sends, and how."""

    seed: int
    order: str
    contexts: int
    concurrency: int

    @classmethod
    def drawn(cls, seed: int) -> Shape:
        chance = random.Random(seed)
        return cls(
            seed=seed,
            order=("leaders-first", "shuffled")[seed % 2],
            contexts=chance.choice((2, 4, 6)),
            concurrency=chance.choice((4, 8, 16)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One round: what had been planted, and what was said of it."""

    shape: Shape
    engine: str
    planted_tokens: int
    blind_tokens: int
    shortfall_tokens: float
    findings: frozenset[str]
    proof: str

    @property
    def alarmed(self) -> bool:
        return "contaminated" in self.findings

    @property
    def is_above(self) -> bool:
        """Whether it must be found."""
        return self.planted_tokens > self.blind_tokens


def tool(*command: str, may_fail: bool = False) -> bytes:
    done = subprocess.run(command, capture_output=True, env=environment(), timeout=300, check=False)
    assert may_fail or done.returncode == 0, f"{command}\n{done.stderr.decode()}"
    return done.stdout


def planned(sim: Sim, shape: Shape, path: Path) -> list[list[dict[str, Any]]]:
    """Plans of one shape with a text each, written to `path`; their measured requests."""
    shaped = ("--order", shape.order, "--contexts", str(shape.contexts), "--seed", str(shape.seed))
    sized = ("--requests", "14", "--context-tokens", "300-700", "--output-tokens", "3")
    scenario = ("--scenario", "long_context_high_reuse", "--repeats", str(REPEATS))
    path.write_bytes(tool("kvplan", "-q", *scenario, *shaped, *sized, "--url", sim.url))
    plans: list[list[dict[str, Any]]] = []
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        if record["record"] == "plan":
            plans.append([])
        elif record["stratum"] != "sentinel":
            plans[-1].append(record)
    assert len(plans) == REPEATS
    return plans


def judged(sim: Sim, engine: str, shape: Shape, path: Path, salt: str, planted: Sequence[int]
           ) -> list[Judged]:  # fmt: skip
    """Send the plans as cold rounds and let kvstats judge them."""
    rounds = ("--rounds", "1", "--repeats", str(REPEATS), "--pause", "0", "--warmup", "0")
    load = ("--salt", salt, "--concurrency", str(shape.concurrency), *rounds)
    records = path.with_suffix(".records")
    sick = engine == "failing"
    records.write_bytes(
        tool("kvload", "-q", "--url", sim.url, "--workload", str(path), *load, may_fail=sick)
    )
    stats = [json.loads(line) for line in tool("kvstats", str(records)).splitlines()]
    assert len(stats) == REPEATS
    return [
        Judged(
            shape=shape,
            engine=engine,
            planted_tokens=tokens,
            blind_tokens=one["conservation"]["blind_spot_tokens"] or 0,
            shortfall_tokens=one["conservation"]["shortfall_tokens"] or 0.0,
            findings=frozenset(finding["code"] for finding in one["findings"]),
            proof=one["cold_proof"],
        )
        for one, tokens in zip(stats, planted, strict=True)
    ]


# --- planting ------------------------------------------------------------------------------------


def blocks_of(sim: Sim, messages: list[dict[str, Any]]) -> set[tuple[int, ...]]:
    """Whole blocks of a prompt that a hit can report, each named by all tokens up to its end."""
    body = {"model": "sim", "messages": messages}
    ids: list[int] = json.loads(sim.post("/tokenize", body))["tokens"]
    whole = (len(ids) - 1) // BLOCK
    return {tuple(ids[: BLOCK * count]) for count in range(1, whole + 1)}


def plant(sim: Sim, plan: list[dict[str, Any]], salt: str, chance: random.Random) -> int:
    """Send some prompts of the plan, whole or cut short, under its salt; tokens that now hit."""
    most = chance.choice((1, 4, len(plan)))
    victims = chance.sample(plan, chance.randint(1, most))
    whole = chance.random() < 0.5
    have: set[tuple[int, ...]] = set()
    for victim in victims:
        [message] = victim["messages"]
        kept = len(message["content"]) if whole else int(
            chance.uniform(0.1, 1.0) * len(message["content"])
        )  # fmt: skip
        cut = [message | {"content": message["content"][:kept]}]
        sim.post(
            "/v1/chat/completions",
            {"model": "sim", "messages": cut, "max_tokens": 1, "cache_salt": salt},
        )
        have |= blocks_of(sim, cut)
    wanted = set().union(*(blocks_of(sim, one["messages"]) for one in plan))
    return BLOCK * len(have & wanted)


def planted_rounds(worker: int, enough: int, folder: Path) -> list[Judged]:
    """Rounds with something planted, until `enough` of them lie above their blind spot."""
    found: list[Judged] = []
    engine = LEAVE_PLANTS_ALONE[worker % len(LEAVE_PLANTS_ALONE)]
    with kvsim(*ENGINES[engine]) as sim:
        for batch in itertools.count():
            if sum(one.is_above for one in found) >= enough:
                return found
            assert len(found) < ATTEMPTS * enough + REPEATS, "too little was planted"
            shape = Shape.drawn(1000 * worker + batch)
            path = folder / f"planted-{worker}-{batch}.jsonl"
            plans = planned(sim, shape, path)
            chance = random.Random(f"plant {shape.seed}")
            salt = f"planted-{shape.seed}"
            planted = [
                plant(sim, plan, f"{salt}-{number}", chance) for number, plan in enumerate(plans, 1)
            ]
            found += judged(sim, engine, shape, path, salt, planted)
    return found


def clean_rounds(worker: int, count: int, folder: Path) -> list[Judged]:
    """Rounds of the same texts again and again, each under a salt of its own."""
    found: list[Judged] = []
    engine = tuple(ENGINES)[worker % len(ENGINES)]
    with kvsim(*ENGINES[engine]) as sim:
        for batch in itertools.count():
            if len(found) >= count:
                return found
            shape = Shape.drawn(7000 + 1000 * worker + batch // 2)
            path = folder / f"clean-{worker}-{batch}.jsonl"
            planned(sim, shape, path)
            found += judged(sim, engine, shape, path, "auto", [0] * REPEATS)
    return found


def spread(total: int, parts: int) -> Iterable[int]:
    """`total` in `parts` nearly equal shares."""
    return (total // parts + (part < total % parts) for part in range(parts))


# --- what must come out --------------------------------------------------------------------------


def test_what_is_planted_above_the_blind_spot_is_found_every_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = spread(PLANTED, WORKERS)
        work = [pool.submit(planted_rounds, *one, tmp_path) for one in enumerate(shares)]
        rounds = [one for done in work for one in done.result()]
    above = [one for one in rounds if one.is_above]
    below = [one for one in rounds if not one.is_above]
    print(
        f"planted above the blind spot: {len(above)}, found {sum(r.alarmed for r in above)}; "
        f"at or below it: {len(below)}, found all the same {sum(r.alarmed for r in below)}"
    )
    assert len(above) >= PLANTED
    assert [one for one in above if not one.alarmed] == []
    assert all(one.proof == "contaminated" for one in above)
    # It is never made out to be more than there was.
    assert [one for one in rounds if one.shortfall_tokens > one.planted_tokens] == []


def test_clean_rounds_raise_no_alarm(tmp_path: Path) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = spread(CLEAN, max(WORKERS, len(ENGINES)))
        work = [pool.submit(clean_rounds, *one, tmp_path) for one in enumerate(shares)]
        rounds = [one for done in work for one in done.result()]
    print(f"clean rounds: {len(rounds)}, alarms {sum(one.alarmed for one in rounds)}")
    assert len(rounds) >= CLEAN
    assert [one for one in rounds if one.alarmed] == []
    quiet = [one for one in rounds if one.engine in LEAVE_PLANTS_ALONE]
    assert quiet and all(one.proof == "proven" for one in quiet)
