"""One line of AIPerf's `profile_export.jsonl` as the record of its request."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from kvpipe.records import Request, Run, Status
from kvstats.imports.heads import unknown_request
from kvstats.imports.source import NS, Source, is_seconds

UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": NS, "sec": NS}


def request_of(run: Run, source: Source, index: int, *, origin_ns: int, turns: bool) -> Request:
    """The record. `turns`: whether any conversation of the file has more than one."""
    metadata, metrics = source.part("metadata"), source.part("metrics")
    start = stamp(metadata, "request_start_ns") - origin_ns
    due = metadata.stamp("credit_issued_ns")
    conversation = metadata.text("conversation_id")
    facts: dict[str, Any] = {
        "request_id": metadata.text("x_request_id") or f"{run.run_id}-{index}",
        "group": conversation if turns else None,
        "turn": (metadata.whole("turn_index") or 0) + 1 if turns else None,
        "scheduled_ns": start if due is None else due - origin_ns,
        "start_ns": start,
        "sent_ns": start,
        "end_ns": stamp(metadata, "request_end_ns") - origin_ns,
        "prompt_tokens": _count(metrics, "usage_prompt_tokens"),
        "cached_tokens": _count(metrics, "usage_prompt_cache_read_tokens"),
        "connection": _connection(metrics),
    }
    failed = failure_of(source)
    if failed is not None:
        status, http_status, error = failed
        return unknown_request(
            run, index, **facts, status=status, http_status=http_status, error=error
        )
    first = _ns(metrics, "time_to_first_token")
    content = _ns(metrics, "time_to_first_output_token")
    chunks = [] if first is None else [*accumulate(_gaps(metrics), initial=start + first)]
    ack = metadata.stamp("request_ack_ns")
    output = _count(metrics, "usage_completion_tokens")
    return unknown_request(
        run,
        index,
        **facts,
        headers_ns=None if ack is None else ack - origin_ns,
        first_token_ns=None if first is None else start + first,
        first_content_ns=None if content is None else start + content,
        second_token_ns=chunks[1] if len(chunks) > 1 else None,
        last_token_ns=chunks[-1] if chunks else None,
        chunk_ns=chunks or None,
        merged_reads=sum(not gap for gap in _gaps(metrics)) if chunks else None,
        output_tokens=output,
        token_source=None if output is None else "usage",
        status="ok",
    )


def failure_of(source: Source) -> tuple[Status, int | None, str] | None:
    """How a request failed, by its `error`; None if it did not."""
    error = source.part("error")
    if source.part("metadata").values.get("was_cancelled") is True:
        return "cancelled", None, error.text("message") or "cancelled"
    if not error.values:
        return None
    kind, message = error.text("type") or "", error.text("message") or "no message"
    code = error.values.get("code")
    of_http = " " in kind or not kind.endswith("Error")  # a reason phrase, and no exception's name
    if isinstance(code, int) and 400 <= code <= 599 and of_http:
        return "http_error", code, message
    if "timeout" in kind.lower():
        return "timeout", None, f"{kind}: {message}"
    connecting = "connect" in kind.lower()
    return ("connect_error" if connecting else "stream_error"), None, f"{kind}: {message}"


def _metric(metrics: Source, key: str) -> tuple[Any, int] | None:
    """A metric's value and how many ns its unit has (1 where it has none); None: absent."""
    if metrics.values.get(key) is None:
        return None
    metric = metrics.part(key)
    return metric.required("value", "a value"), UNITS.get(metric.text("unit") or "", 0)


def _ns(metrics: Source, key: str) -> int | None:
    found = _metric(metrics, key)
    if found is None:
        return None
    value, unit = found
    if not unit:
        raise metrics.part(key).wrong("unit", f"one of {', '.join(UNITS)}")
    if not is_seconds(value):
        raise metrics.part(key).wrong("value", "a time that is not negative")
    return round(float(value) * unit)


def _gaps(metrics: Source) -> list[int]:
    found = _metric(metrics, "inter_chunk_latency")
    if found is None:
        return []
    values, unit = found
    part = metrics.part("inter_chunk_latency")
    if not unit:
        raise part.wrong("unit", f"one of {', '.join(UNITS)}")
    if not isinstance(values, list) or not all(map(is_seconds, values)):
        raise part.wrong("value", "a list of times")
    return [round(one * unit) for one in values]


def _count(metrics: Source, key: str) -> int | None:
    found = _metric(metrics, key)
    if found is None:
        return None
    value = found[0]
    if not is_seconds(value) or value != int(value):
        raise metrics.part(key).wrong("value", "a whole number that is not negative")
    return int(value)


def _connection(metrics: Source) -> str | None:
    found = _metric(metrics, "http_req_connection_reused")
    return None if found is None else "reused" if found[0] else "new"


def stamp(metadata: Source, key: str) -> int:
    """A stamp that every request has."""
    found = metadata.stamp(key)
    if found is None:
        raise metadata.wrong(key, "a stamp in ns")
    return found
