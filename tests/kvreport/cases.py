"""Writes the inputs of kvreport's golden cases: `python -m tests.kvreport.cases`.

The inputs are kept beside the cases, as a user's files would be; this says where they came from.
Shapes are small and have few groups, so that a case holds bytes and not a library's random numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.kvreport.rounds import (
    NODE_B,
    Setting,
    Shape,
    World,
    edited,
    experiment,
    finding,
    lines,
    make,
    rerun,
)

from kvpipe.records import Arrival, Served
from kvreport.rounds import Round

CASES = Path(__file__).parents[1] / "cases" / "kvreport"
SMALL = Shape(requests=12, contexts=4, uniques=0, sentinels=3)
ONE_CONTEXT = Shape(requests=12, contexts=1, uniques=1, sentinels=3)
UNIQUE = Shape(requests=6, contexts=0, uniques=6, sentinels=3)
EVEN = World(miss_s=0.5, hit_s=0.5, noise=0.05)
HOSTILE = "a|b\n# c <script>alert(1)</script> [x](javascript:y) \x1b[31m"


def cross(name: str, **options: object) -> Setting:
    return Setting(name=name, tier="remote", node_b=NODE_B, **options)  # type: ignore[arg-type]


def inputs() -> dict[str, dict[str, list[Round]]]:
    """Rounds by case and file."""
    one = {"shape": SMALL}
    cold, hit = experiment(1, shape=SMALL)
    shown = edited(hit, tier_served=None, leaders_served=None)
    tainted = make(
        "cold",
        shape=SMALL,
        cold_proof="contaminated",
        findings=[
            finding(
                "contaminated",
                "invalid",
                "5,376 of the 10,752 tokens that a clean round computes were not computed",
            )
        ],
    )
    bare = ("no_reuse", "cold", "hit")
    simulated = Setting(simulated=True, model="sim", engine="kvsim")
    mixed = Setting(tier="remote", node_b=NODE_B)
    nothing = Served(computed=10_752.0, local=0.0, external=0.0)
    missed = {"tier_served": "computed", "leaders_served": nothing}
    cross_cold, cross_hit = experiment(1, shape=SMALL, setting=mixed)
    load = Setting(name="under load", arrival=Arrival(kind="closed", concurrency=5))
    return {
        "one-run-says-so": {"in.jsonl": [cold, hit]},
        "noise-prints-tilde": {"in.jsonl": experiment(3, world=EVEN, **one)},  # type: ignore[arg-type]
        "contaminated-says-so": {"in.jsonl": [tainted, hit]},
        "one-context-is-not-reachable": {"in.jsonl": experiment(1, shape=ONE_CONTEXT)},
        "three-repeats-two-nodes": {
            "in.jsonl": experiment(3, arms=bare, setting=cross("两个节点"), **one)  # type: ignore[arg-type]
        },
        "no-tick-without-evidence": {
            "in.jsonl": [cross_cold, edited(cross_hit, **missed)],
        },
        "tier-not-shown": {"in.jsonl": [cold, rerun(shown, tier="store")]},
        "simulated-says-so": {"in.jsonl": experiment(1, setting=simulated, **one)},  # type: ignore[arg-type]
        "plans-differ": {"in.jsonl": [cold, rerun(hit, plan_sha256="f00d" * 16)]},
        "nothing-to-compare": {"r1.json": [cold]},
        "load-without-control": {"in.jsonl": experiment(1, setting=load, **one)},  # type: ignore[arg-type]
        "third-round-stands-apart": {
            "in.jsonl": [cold, hit, make("hit", number=3, shape=SMALL, world=World(hit_s=0.3))]
        },
        "hostile-names-stay-text": {
            "in.jsonl": experiment(1, setting=Setting(name=HOSTILE), **one)  # type: ignore[arg-type]
        },
        "against-a-baseline": {
            "monday.jsonl": experiment(3, **one),  # type: ignore[arg-type]
            "today.jsonl": experiment(3, seed=2, world=World(miss_s=0.5), **one),  # type: ignore[arg-type]
        },
        "the-documents-tables": {
            "in.jsonl": [
                *experiment(
                    3,
                    shape=UNIQUE,
                    world=World(miss_s=1.5, hit_s=0.45, noise=0.0005),
                    setting=cross("腾讯云-跨节点-Qwen2.5-72B", experiment_id="two"),
                ),
                *experiment(
                    3,
                    shape=UNIQUE,
                    world=World(miss_s=1.5, hit_s=0.4, noise=0.0005),
                    setting=Setting(name="腾讯云-单机-Qwen2.5-72B", experiment_id="one"),
                ),
            ]
        },
    }


def main() -> None:
    for case, files in inputs().items():
        folder = CASES / case
        folder.mkdir(parents=True, exist_ok=True)
        for name, rounds in files.items():
            (folder / name).write_text(lines(rounds), encoding="utf-8")
    old = [
        {"scenario": "qa", "round_num": 1, "avg_ttft": 1.5, "endpoint_url": "http://a:8000/v1"},
        {"scenario": "qa", "round_num": 2, "avg_ttft": 0.45, "endpoint_url": "http://b:8000/v1"},
    ]
    more = {"total_requests": 30, "avg_tpot": 0.12, "request_throughput": 1.2, "gpu": "H800"}
    folder = CASES / "old-stats-file"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([old[0] | more, old[1] | more | {"request_throughput": 3.5}], indent=2)
    (folder / "in.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
