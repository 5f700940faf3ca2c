"""Throughput while every slot was busy: without the ramp at the start and the drain at the end."""

from __future__ import annotations

import numpy as np

from kvpipe.records import Run
from kvstats.metrics import NS, steady_rate_rps
from kvstats.rows import Table

BUSY_SHARE = 0.9  # of the slots, over the window: between an answer and the next send one is idle


def steady_throughput_rps(table: Table, run: Run, *, sampled: bool) -> float | None:
    """Rate of one run in its busy window; null as `metrics.steady_rate_rps` says."""
    slots = 1 if run.arrival.kind == "serial" else run.arrival.concurrency
    if run.arrival.kind not in ("serial", "closed") or slots is None or slots < 1 or sampled:
        return None
    if run.arm == "cold" and run.order == "leaders-first" and "follower" in table.stratum:
        return None
    mine = np.array([one == run.run_id for one in table.run], dtype=bool)
    mine &= ~np.isnan(table.numbers["sent_ns"])
    sent, ended = table.numbers["sent_ns"][mine], table.numbers["end_ns"][mine]
    if len(sent) < 2 * slots:
        return None
    start, stop = float(np.sort(sent)[slots - 1]), float(sent.max())
    if stop <= start:
        return None
    busy = np.clip(np.minimum(ended, stop) - np.maximum(sent, start), 0, None).sum()
    if busy < BUSY_SHARE * slots * (stop - start):
        return None
    counted = np.array(
        [ok and stratum != "sentinel" for ok, stratum in zip(table.ok, table.stratum, strict=True)],
        dtype=bool,
    )[mine]
    inside = counted & (ended > start) & (ended <= stop)
    return steady_rate_rps(int(inside.sum()), (stop - start) / NS)
