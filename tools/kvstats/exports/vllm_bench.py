"""`--to vllm-bench`: a round as `vllm bench serve --save-result --save-detailed` writes a run.

Keys, their order, units and definitions are those of vLLM 0.32: TTFT ends with the first chunk
that has choices, TPOT is (latency - TTFT) / (output tokens - 1), percentiles are numpy's. What is
not known here is null. Sentinels are left out. A line is one round, as with `--append-result`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from math import sqrt
from typing import Any

import msgspec
import numpy as np

from kvpipe.process import complain
from kvpipe.records import End, Request, RoundStats, Run, Stat
from kvstats.distribution import Values, stat_of

NS = 1e9
DETAILED = 20_000
"""Requests of a round up to which the rows are written: their gaps are what takes room."""
PERCENTILES = (50, 90, 95, 99)
METRICS = ("ttft", "tpot", "itl", "e2el")


class Spread:
    """Values of one metric in seconds: their distribution, and their standard deviation."""

    def __init__(self) -> None:
        self.values = Values()
        self._n = 0
        self._mean = 0.0
        self._squares = 0.0

    def extend(self, some: Sequence[float]) -> None:
        """Take values; sums of squares are merged as Chan, Golub and LeVeque (1983) do."""
        if not some:
            return
        column = np.asarray(some, dtype=np.float64)
        self.values.extend(column)
        count, mean = len(column), float(column.mean())
        apart, total = mean - self._mean, self._n + count
        self._squares += float(((column - mean) ** 2).sum())
        self._squares += apart * apart * self._n * count / total
        self._mean += apart * count / total
        self._n = total

    def stat(self) -> Stat:
        return stat_of([self.values])

    @property
    def std(self) -> float | None:
        """Of the population, as numpy's."""
        return sqrt(self._squares / self._n) if self._n else None


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One request as the file has it; times in seconds."""

    index: int
    start: float | None
    queue: float | None
    input_len: int | None
    output_len: int | None
    ttft: float
    itl: list[float]
    latency: float
    text: str | None
    error: str


class Export:
    """Listens to every request of the input, and writes the rounds at its end."""

    def __init__(self, detailed: int = DETAILED) -> None:
        self._detailed = detailed
        self._runs: dict[str, _Run] = {}

    def add(self, record: Request | End) -> None:
        """Take a request or the end of a stream; nothing else matters here."""
        run = self._runs.setdefault(record.run_id, _Run(self._detailed))
        if isinstance(record, End):
            run.wall_s = record.wall_s
        elif record.stratum != "sentinel":
            run.add(record)

    def write(self, stats: RoundStats) -> bytes:
        """The line of a round."""
        heads = stats.run if isinstance(stats.run, list) else [stats.run]
        parts = [self._runs.get(head.run_id, _Run(self._detailed)) for head in heads]
        if any(part.rows is None for part in parts):
            complain(
                f"round {stats.round_num} of {stats.name} has over {self._detailed:,} requests: "
                "its figures are written without a row a request",
                "kvstats",
            )
        return msgspec.json.encode(_result(stats, heads[0], parts)) + b"\n"


class _Run:
    """Sums of one stream, and its rows while there are not too many."""

    def __init__(self, detailed: int) -> None:
        self._detailed = detailed
        self.rows: list[Row] | None = []
        self.spreads = {name: Spread() for name in METRICS}
        self.completed = self.failed = self.input = self.output = 0
        self.wall_s: float | None = None

    def add(self, request: Request) -> None:
        row = row_of(request)
        ok = request.status == "ok"
        self.completed += ok
        self.failed += not ok
        if ok:
            self.input += request.prompt_tokens or 0
            self.output += request.output_tokens or 0
            self._spread(row)
        if self.rows is not None:
            self.rows.append(row)
            if len(self.rows) > self._detailed:
                self.rows = None

    def _spread(self, row: Row) -> None:
        if row.ttft:
            self.spreads["ttft"].extend([row.ttft])
            self.spreads["e2el"].extend([row.latency])
            self.spreads["itl"].extend(row.itl)
            if row.output_len and row.output_len > 1:
                tpot = (row.latency - row.ttft) / (row.output_len - 1)
                self.spreads["tpot"].extend([tpot])


def row_of(request: Request) -> Row:
    """A request by vLLM's definitions; 0 and empty where it failed or no chunk came."""
    sent, ok = request.sent_ns, request.status == "ok"
    stamps = _stamps(request) if ok and sent is not None else []
    return Row(
        index=request.index,
        start=None if sent is None else sent / NS,
        queue=None if sent is None else (sent - request.scheduled_ns) / NS,
        input_len=request.prompt_tokens,
        output_len=request.output_tokens if ok else 0,
        ttft=(stamps[0] - (sent or 0)) / NS if stamps else 0.0,
        itl=[(after - before) / NS for before, after in pairwise(stamps)],
        latency=(stamps[-1] - (sent or 0)) / NS if stamps else 0.0,
        text=request.output_text,
        error="" if ok else request.error or request.status,
    )


def _stamps(request: Request) -> list[int]:
    """Every chunk with choices that is known: the opening one, then those with tokens."""
    first, chunks = request.first_chunk_ns, request.chunk_ns or []
    if not chunks:
        known = (request.first_token_ns, request.last_token_ns)
        chunks = sorted({one for one in known if one is not None})
    return chunks if first is None or (chunks and first == chunks[0]) else [first, *chunks]


def _result(stats: RoundStats, run: Run, parts: Sequence[_Run]) -> dict[str, Any]:
    walls = [one.wall_s for one in parts if one.wall_s is not None]
    duration = max(walls, default=stats.total_time_s)
    completed, failed = sum(one.completed for one in parts), sum(one.failed for one in parts)
    prompt, output = sum(one.input for one in parts), sum(one.output for one in parts)

    def rate(count: float) -> float | None:
        return count / duration if duration else None

    return {
        **_flags(stats, run, duration),
        "duration": duration,
        "completed": completed,
        "failed": failed,
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "request_throughput": rate(completed),
        "request_goodput": stats.goodput_rps,
        "output_throughput": rate(output),
        "total_token_throughput": rate(prompt + output),
        **_details(parts),
        "max_output_tokens_per_s": None,
        "max_concurrent_requests": None,
        "rtfx": None,
        **dict(_figures(parts)),
    }


def _flags(stats: RoundStats, run: Run, duration: float | None) -> dict[str, Any]:
    """What stands before the results; of an import as it stood there, with its metadata."""
    config: Mapping[str, Any] = run.config if run.host is None else {}
    backend = config.get("backend") or ("openai-chat" if run.api == "chat" else "openai")
    arrival = run.arrival
    poisson = 1.0 if arrival.kind in ("serial", "closed", "poisson") else None
    ours = {"name": stats.name, "round": str(stats.round_num), "arm": run.arm, "run_id": run.run_id}
    flags = {
        "date": _date(run.started_at, duration),
        "endpoint_type": backend,
        "backend": backend,
        "label": config.get("label"),
        "model_id": run.model,
        "tokenizer_id": config.get("tokenizer_id"),
        "num_prompts": run.requests,
        **ours,
        "request_rate": "inf" if arrival.rate_rps is None else arrival.rate_rps,
        "burstiness": poisson if arrival.burstiness is None else arrival.burstiness,
        "max_concurrency": arrival.concurrency,
    }
    return flags | {key: value for key, value in config.items() if flags.get(key) is None}


def _date(started_at: str, duration: float | None) -> str | None:
    """Local time of the end, as vLLM writes it; in the zone of the record."""
    try:
        began = datetime.fromisoformat(started_at)
        return (began + timedelta(seconds=duration or 0.0)).strftime("%Y%m%d-%H%M%S")
    except (ValueError, OverflowError):
        return None


def _details(parts: Sequence[_Run]) -> dict[str, Any]:
    """The rows as columns; nothing where there were too many of them."""
    some: list[Row] = []
    for part in parts:
        if part.rows is None:
            return {}
        some += part.rows
    rows = sorted(some, key=lambda one: one.index)
    return {
        "input_lens": [one.input_len for one in rows],
        "output_lens": [one.output_len for one in rows],
        "ttfts": [one.ttft for one in rows],
        "itls": [one.itl for one in rows],
        "latencies": [one.latency for one in rows],
        "start_times": [one.start for one in rows],
        "queue_times": [one.queue for one in rows],
        "generated_texts": [one.text or "" for one in rows],
        "errors": [one.error for one in rows],
    }


def _figures(parts: Sequence[_Run]) -> Iterator[tuple[str, float | None]]:
    """Mean, median, standard deviation and percentiles in ms; null without a value."""
    for name in METRICS:
        spreads = [part.spreads[name] for part in parts]
        spread = spreads[0] if len(spreads) == 1 else None
        stat = stat_of([one.values for one in spreads])
        yield f"mean_{name}_ms", _ms(stat.mean)
        yield f"median_{name}_ms", _ms(stat.p50)
        yield f"std_{name}_ms", _ms(spread.std if spread else None)
        exact = _exact(name, parts) if stat.n < 100 else None
        for rank in PERCENTILES:
            if exact is None:
                value: float | None = getattr(stat, f"p{rank}")
            else:
                value = float(np.percentile(exact, rank)) if exact else None
            yield f"p{rank}_{name}_ms", _ms(value)


def _exact(name: str, parts: Sequence[_Run]) -> list[float] | None:
    """The values themselves: kvstats tells no P99 of fewer than 100, vLLM does."""
    rows = [row for part in parts for row in part.rows or []]
    if any(part.rows is None for part in parts):
        return None
    good = [row for row in rows if not row.error and row.ttft]
    if name == "itl":
        return [gap for row in good for gap in row.itl]
    if name == "tpot":
        return [
            (row.latency - row.ttft) / (row.output_len - 1)
            for row in good
            if row.output_len and row.output_len > 1
        ]
    return [row.ttft if name == "ttft" else row.latency for row in good]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
