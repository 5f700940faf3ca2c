"""What was predicted for a replayed plan, beside what the engines reported. One line of JSON.

    python stack/compared.py PLAN RUN [--segment MIB --nodes N] [--kv-blocks N] [--lease S]

PLAN is what kvplan made and RUN what kvload wrote, serially and of one round. Without --segment the
cache is predicted to be without a limit, and counts are compared request by request. With it, three
predictions stand beside the measurement, all as shares of prompt tokens that miss:

  `lru`        an LRU cache of the segments' size: what `kvplan --analyze --capacity` says
  `watermark`  the same of 0.9 times that size, above which Mooncake evicts
  `store`      Mooncake's own rules (kvplan.analysis.store), with leases at the times at which the
               requests were really sent; the mean of 50 orders of its shards

Needs the project's tools (make install).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvpipe.jsonl import open_lines, read_records
from kvpipe.records import Planned, Request
from kvplan.analysis.accesses import Accesses, accesses, planned_visits
from kvplan.analysis.curve import Sized, sized
from kvplan.analysis.store import StoreRules, run_store

BLOCK = 128
KV_BYTES = 4096
"""Of a token of the stack's model: 8 layers, 2 KV heads of 64, two bytes (stack/model.py)."""
SEEDS = 50
WATERMARK = 0.9


def requests_of(path: Path) -> list[Request]:
    """In the order in which they were planned; all must have been answered."""
    with open_lines(str(path)) as (name, stream):
        found = [one for one in read_records(stream, name) if isinstance(one, Request)]
    assert all(one.status == "ok" for one in found), "a request failed: nothing can be compared"
    return sorted(found, key=lambda one: one.index)


def plan_of(path: Path) -> list[Planned]:
    with open_lines(str(path)) as (name, stream):
        return [one for one in read_records(stream, name) if isinstance(one, Planned)]


def missing(hits: Sequence[int], taken: Accesses) -> float:
    """Share of the prompt tokens that was not found."""
    return 1 - sum(hits) * BLOCK / int(taken.input_tokens.sum())


def beside(
    blocks: Sized, observed: list[int], sent: list[Request], options: argparse.Namespace
) -> dict[str, Any]:
    """The predictions for a limited store."""
    taken = blocks.taken
    room = options.segment * 2**20 * options.nodes // (BLOCK * KV_BYTES)
    start = [(one.sent_ns or 0) / 1e9 for one in sent]
    end = [(one.end_ns or 0) / 1e9 for one in sent]
    rules = StoreRules(capacity_blocks=room, lease_s=options.lease, watermark=WATERMARK)
    own = blocks.hits(options.kv_blocks - 2) if options.kv_blocks else 0
    runs = [run_store(taken, BLOCK, rules, start, end, seed) for seed in range(SEEDS)]
    hits = [np.maximum(run.hits, own) for run in runs]
    miss = [missing(one.tolist(), taken) for one in hits]
    return {
        "segment_mib": options.segment,
        "nodes": options.nodes,
        "room_blocks": room,
        "lru": missing(blocks.hits(room).tolist(), taken),
        "watermark": missing(blocks.hits(int(WATERMARK * room)).tolist(), taken),
        "store": float(np.mean(miss)),
        "store_span": [min(miss), max(miss)],
        "store_wrong_blocks": float(np.mean([np.abs(one - observed).sum() for one in hits])),
        "store_no_room": max(run.failed for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="compared.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--segment", type=int, help="MiB that each node lends; else no limit")
    parser.add_argument("--nodes", type=int, default=2, help="that lend a segment [2]")
    parser.add_argument("--kv-blocks", type=int, help="of the engine's own cache [all hit there]")
    parser.add_argument("--lease", type=float, default=5.0, help="of the store, in seconds [5]")
    options = parser.parse_args()
    sent = requests_of(options.run)
    blocks = sized(accesses(planned_visits(plan_of(options.plan))), BLOCK)
    observed = [(one.cached_tokens or 0) // BLOCK for one in sent]
    ideal = blocks.hits(None).tolist()
    assert len(observed) == len(ideal), "the run is of another plan"
    found = {
        "requests": len(ideal),
        "blocks": blocks.blocks,
        "unique_blocks": blocks.unique_blocks,
        "ideal": missing(ideal, blocks.taken),
        "measured": missing(observed, blocks.taken),
        "requests_as_ideal": sum(map(int.__eq__, observed, ideal)),
    }
    if options.segment is not None:
        found |= beside(blocks, observed, sent, options)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
