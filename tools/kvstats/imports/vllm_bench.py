"""`vllm bench serve --save-result --save-detailed`: one object a run, or a line each.

Facts from vLLM 0.32 (vllm/benchmarks/serve.py and lib/endpoint_request_func.py): times are float
seconds of `time.perf_counter`; `ttfts` end with the first chunk that has choices, which in chat is
the one with the role alone; `itls` are the gaps from that chunk on, so that there is one more of
them than of tokens behind the first; `latencies` end with the last chunk that has choices;
`start_times` are taken after the wait for a place, which is `queue_times`; `input_lens` are the
server's own where it sent its usage; of a failed request everything but its error is 0 or empty;
`date` is the local time at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from itertools import accumulate
from typing import Any, Literal

import msgspec

from kvpipe.jsonl import NOT_JSON, open_lines
from kvpipe.process import ToolError
from kvpipe.records import Arrival, End, Request, Run, Status
from kvstats.imports.heads import foot, head, run_id_of, text_sha256, unknown_request
from kvstats.imports.source import Source, is_seconds, is_whole, ns

TOOL = "vllm-bench"
COLUMNS = ("input_lens", "output_lens", "ttfts", "itls", "errors")
"""What --save-detailed writes, a row a request; the others may be missing."""
LACKS = (
    "cached tokens",
    "shared prefixes",
    "the endpoint",
    "the time zone",
    "whether a ready check sent the first prompt before",
)
RESULTS = (
    *("duration", "completed", "failed", "request_goodput", "max_output_tokens_per_s"),
    *("max_concurrent_requests", "rtfx"),
)
ROUND_KEYS = ("round", "round_num")
NAME_KEYS = ("name", "scenario")
_REASONS = {status.phrase: status.value for status in HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The columns of a file, equally long; null where the file has none."""

    input_lens: Sequence[int]
    output_lens: Sequence[int]
    ttfts: Sequence[float]
    itls: Sequence[Sequence[float]]
    errors: Sequence[str]
    start_times: Sequence[float] | None
    queue_times: Sequence[float] | None
    latencies: Sequence[float] | None
    generated_texts: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.ttfts)


def records_of(path: str, number: int) -> Iterator[Run | Request | End]:
    """The streams of a file: one, or with `--append-result` one a line."""
    with open_lines(path) as (name, stream):
        data = stream.read()
    for at, (place, piece) in enumerate(_pieces(data, name)):
        yield from _stream(piece, place, number + at)


def _pieces(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """The whole file if it is one value, else its lines."""
    if not data.strip():
        raise ToolError(f"{name}: empty: no result of vllm bench serve")
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except NOT_JSON:
        lines = [
            (f"{name}:{number}", line)
            for number, line in enumerate(data.splitlines(), 1)
            if line.strip()
        ]
        yield from lines
        return
    yield name, data


def _stream(piece: bytes, place: str, number: int) -> Iterator[Run | Request | End]:
    try:
        value: Any = msgspec.json.decode(piece)
    except NOT_JSON as error:
        raise ToolError(
            f"{place}: not JSON: {str(error).lower()} (is the file cut short, or another format?)"
        ) from error
    if not isinstance(value, dict):
        raise ToolError(f"{place}: not a result of vllm bench serve: an object is expected")
    source = Source(place=place, values=value)
    rows = _rows(source)
    run = _head(source, rows, run_id_of(piece), _round_of(source, number))
    starts = _starts(rows)
    requests = [_request(run, rows, at, starts[at]) for at in range(len(rows))]
    yield run
    yield from requests
    duration = source.seconds("duration")
    lacks = [*LACKS, *_also(rows)]
    counts = [(one.status == "ok", 1) for one in requests]
    yield foot(run, counts, duration or 0.0, "vllm bench serve", lacks)


def _also(rows: Rows) -> Iterator[str]:
    """What this very file lacks besides."""
    if rows.start_times is None:
        yield "when requests were sent"
    if rows.generated_texts is None:
        yield "the answers"


def _rows(source: Source) -> Rows:
    if source.values.get("ttfts") is None:
        known = source.values.get("completed") is not None
        why = (
            "it holds no figures per request: run vllm bench serve with --save-detailed"
            if known
            else "is it a file of vllm bench serve --save-result --save-detailed?"
        )
        raise ToolError(f"{source.place}: 'ttfts' is missing: {why}")
    rows = Rows(
        input_lens=_column(source, "input_lens", is_whole, "whole numbers"),
        output_lens=_column(source, "output_lens", is_whole, "whole numbers"),
        ttfts=_column(source, "ttfts", is_seconds, "seconds"),
        itls=_column(source, "itls", _is_gaps, "lists of seconds"),
        errors=_column(source, "errors", _is_text, "strings"),
        start_times=_optional(source, "start_times", is_seconds, "seconds"),
        queue_times=_optional(source, "queue_times", is_seconds, "seconds"),
        latencies=_optional(source, "latencies", is_seconds, "seconds"),
        generated_texts=_optional(source, "generated_texts", _is_text, "strings"),
    )
    if not len(rows):
        raise ToolError(f"{source.place}: 'ttfts' is empty: there is nothing to summarise")
    return rows


def _optional(source: Source, key: str, fits: Any, wanted: str) -> Any:
    return None if source.values.get(key) is None else _column(source, key, fits, wanted)


def _column(source: Source, key: str, fits: Any, wanted: str) -> Any:
    """A list with a value a request; ToolError naming the row that is none."""
    value = source.required(key, f"a list of {wanted}")
    if not isinstance(value, list):
        raise source.wrong(key, f"a list of {wanted}")
    rows = len(source.values["ttfts"]) if isinstance(source.values["ttfts"], list) else -1
    if rows >= 0 and len(value) != rows:
        raise ToolError(
            f"{source.place}: '{key}' has {len(value)} rows, but 'ttfts' has {rows}: "
            "the file is damaged"
        )
    for at, one in enumerate(value):
        if not fits(one):
            raise source.wrong(f"{key}[{at}]", f"one of {wanted}", "null" if one is None else one)
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_gaps(value: object) -> bool:
    return isinstance(value, list) and all(map(is_seconds, value))


def _round_of(source: Source, number: int) -> int:
    """`--metadata round=2` says it; else the place among the files."""
    for key in ROUND_KEYS:
        value = source.values.get(key)
        if value is None:
            continue
        text = str(value)
        if not (text.isascii() and text.isdigit() and 1 <= int(text) < 1_000_000):
            raise source.wrong(key, "a round's number, from 1,")
        return int(text)
    return number


def _head(source: Source, rows: Rows, run_id: str, number: int) -> Run:
    backend = source.text("backend") or source.text("endpoint_type") or ""
    api: Literal["chat", "completions"] = "chat" if "chat" in backend else "completions"
    names = [source.text(key) for key in (*NAME_KEYS, "label")]
    model = source.text("model_id")
    return head(
        tool=TOOL,
        run_id=run_id,
        number=number,
        requests=len(rows),
        api=api,
        arrival=_arrival(source, len(rows)),
        started_at=_started_at(source),
        like=(backend, model),
        name=next((one for one in names if one), None),
        model=model,
        config=_config(source),
    )


def _config(source: Source) -> dict[str, Any]:
    """Everything of the file that is no row and no result: its flags, and its metadata."""
    plain = (str, int, float)
    metadata = {
        key: value
        for key, value in source.values.items()
        if isinstance(value, plain) and not key.endswith(("_ms", "_throughput", "_tokens"))
    }
    return {key: value for key, value in metadata.items() if key not in RESULTS}


def _arrival(source: Source, requests: int) -> Arrival:
    cap = source.whole("max_concurrency") or None
    rate = source.values.get("request_rate")
    if rate in (None, "inf"):
        if cap == 1:
            return Arrival(kind="serial", concurrency=1)
        return Arrival(kind="closed", concurrency=cap or requests)
    rate_rps = source.seconds("request_rate")
    burstiness = source.seconds("burstiness")
    if burstiness is None or burstiness == 1:
        return Arrival(kind="poisson", rate_rps=rate_rps, concurrency=cap)
    return Arrival(kind="gamma", rate_rps=rate_rps, concurrency=cap, burstiness=burstiness)


def _started_at(source: Source) -> str:
    """`date` is written at the end, without its zone: taken as UTC, less the duration."""
    text = source.text("date")
    if text is None:
        raise source.wrong("date", "the time of the run, as 20261120-151733,")
    try:
        ended = datetime.strptime(text, "%Y%m%d-%H%M%S")
    except ValueError as error:
        raise source.wrong("date", "the time of the run, as 20261120-151733,") from error
    began = ended - timedelta(seconds=source.seconds("duration") or 0.0)
    return f"{began.isoformat(timespec='microseconds')}+00:00"


def _starts(rows: Rows) -> list[int]:
    """When each was sent, from the first due; without stamps all at 0, which the round's finding
    says."""
    if rows.start_times is None:
        return [0] * len(rows)
    queues = rows.queue_times or [0.0] * len(rows)
    origin = min(start - queue for start, queue in zip(rows.start_times, queues, strict=True))
    return [ns(start - origin) for start in rows.start_times]


def _request(run: Run, rows: Rows, at: int, start: int) -> Request:
    """One row. Of a failed one its start and its error are all that is known."""
    error = rows.errors[at]
    queue = 0 if rows.queue_times is None else ns(rows.queue_times[at])
    sent = None if rows.start_times is None and error else start
    facts: dict[str, Any] = {
        "request_id": f"{run.run_id}-{at}",
        "scheduled_ns": start - queue,
        "start_ns": start,
        "sent_ns": sent,
    }
    if error:
        status, http_status = _failure(error)
        return unknown_request(
            run, at, **facts, end_ns=start, status=status, http_status=http_status, error=error
        )
    chunks = _chunks(rows, at, start)
    tokens = _token_chunks(chunks, rows.output_lens[at], run.api)
    text = None if rows.generated_texts is None else rows.generated_texts[at]
    latency = None if rows.latencies is None else ns(rows.latencies[at])
    ends = [start if latency is None else start + latency, *chunks[-1:]]
    return unknown_request(
        run,
        at,
        **facts,
        first_chunk_ns=chunks[0] if chunks else None,
        first_token_ns=tokens[0] if tokens else None,
        second_token_ns=tokens[1] if len(tokens) > 1 else None,
        last_token_ns=tokens[-1] if tokens else None,
        end_ns=max(ends),
        chunk_ns=tokens or None,
        prompt_tokens=rows.input_lens[at],
        output_tokens=rows.output_lens[at],
        status="ok",
        output_sha256=None if text is None else text_sha256(text),
        output_text=text,
    )


def _failure(error: str) -> tuple[Status, int | None]:
    """vLLM keeps the reason phrase of an HTTP error, and of anything else a traceback."""
    code = _REASONS.get(error.strip())
    if code is not None:
        return "http_error", code
    last = error.strip().splitlines()[-1:] or [""]
    return ("timeout" if "Timeout" in last[0] else "stream_error"), None


def _chunks(rows: Rows, at: int, start: int) -> list[int]:
    """Stamps of every chunk that had choices; a TTFT of 0 is none."""
    if not rows.ttfts[at]:
        return []
    return [start + ns(one) for one in accumulate(rows.itls[at], initial=rows.ttfts[at])]


def _token_chunks(chunks: list[int], tokens: int, api: str) -> list[int]:
    """Those that carried tokens: all but the first where there is one more than tokens, in chat."""
    role_alone = api == "chat" and tokens > 0 and len(chunks) == tokens + 1
    return chunks[1:] if role_alone else chunks
