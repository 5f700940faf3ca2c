"""AIPerf's `profile_export.jsonl`: a line a request, with `profile_export_aiperf.json` beside it.

Facts from AIPerf 0.13: `metadata` has wall-clock stamps in ns, `metrics` durations with their unit;
`time_to_first_token` ends with the first output that is not empty, reasoning too, and
`time_to_first_output_token` with the first that is no reasoning; `inter_chunk_latency` are the gaps
between such chunks; `usage_*` are the server's own counts, while `input_sequence_length` and
`output_sequence_length` are counted with the client's tokenizer and not taken. Lines stand in the
order of ending; a conversation and its turn are the same under the same seed. A failed request has
an `error` and no times. How requests arrive, the endpoint and the model stand in the summary only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from kvpipe.jsonl import NOT_JSON, open_lines
from kvpipe.process import ToolError, UsageError
from kvpipe.records import Arrival, End, Request, Run
from kvstats.imports.aiperf_request import failure_of, request_of, stamp
from kvstats.imports.heads import foot, head
from kvstats.imports.source import NS, Source

TOOL = "aiperf"
SUMMARY = "profile_export_aiperf.json"
LACKS = ("shared prefixes", "the answers")
WITHOUT_SUMMARY = (
    "the endpoint",
    "the model",
    f"how requests arrived ({SUMMARY} is not beside it: a closed loop of the most that were in "
    "flight is assumed)",
)
RATES = {"poisson": "poisson", "gamma": "gamma", "constant": "constant"}


@dataclass(slots=True)
class Outline:
    """What a first look at all lines gives: order, origin, and how they overlapped."""

    run_id: str
    index: Mapping[int, int]
    """Index of the request in each line that is one of the benchmark."""
    origin_ns: int
    end_ns: int
    in_flight: int
    ok: int
    turns: bool

    @property
    def failed(self) -> int:
        return len(self.index) - self.ok


@dataclass(frozen=True, slots=True)
class _Seen:
    """One line at the first look."""

    line: int
    conversation: str
    turn: int
    session: int
    due_ns: int
    start_ns: int
    end_ns: int
    ok: bool


def records_of(path: str, number: int) -> Iterator[Run | Request | End]:
    """The stream of a file, read twice, so that no more than its order is kept."""
    if path == "-":
        raise UsageError("--from aiperf reads its file twice: name it, - cannot be read again")
    if Path(path).is_dir():
        path = str(Path(path) / "profile_export.jsonl")
    outline = _outline(path)
    summary = _summary(path)
    run = _head(outline, summary, number)
    yield run
    for line, source in _lines(path):
        index = outline.index.get(line)
        if index is not None:
            yield request_of(run, source, index, origin_ns=outline.origin_ns, turns=outline.turns)
    lacks = LACKS if summary is not None else (*LACKS, *WITHOUT_SUMMARY)
    wall_s = (outline.end_ns - outline.origin_ns) / NS
    yield foot(run, [(True, outline.ok), (False, outline.failed)], wall_s, "AIPerf", lacks)


def _lines(path: str) -> Iterator[tuple[int, Source]]:
    with open_lines(path) as (name, stream):
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _source(line, f"{name}:{number}")


def _source(line: bytes, place: str) -> Source:
    try:
        value: Any = msgspec.json.decode(line)
    except NOT_JSON as error:
        raise ToolError(
            f"{place}: not JSON: {str(error).lower()} (is the file cut short, or another format?)"
        ) from error
    if not isinstance(value, dict) or not isinstance(value.get("metadata"), dict):
        raise ToolError(
            f"{place}: not a request of AIPerf: an object with 'metadata' and 'metrics' is "
            "expected (profile_export.jsonl, with --export-level records)"
        )
    return Source(place=place, values=value)


def _outline(path: str) -> Outline:
    digest = hashlib.sha256()
    seen: list[_Seen] = []
    for line, source in _lines(path):
        digest.update(repr(source.values["metadata"]).encode())
        metadata = source.part("metadata")
        if metadata.text("benchmark_phase") not in (None, "profiling"):
            continue
        start = stamp(metadata, "request_start_ns")
        due = metadata.stamp("credit_issued_ns")
        seen.append(
            _Seen(
                line=line,
                conversation=metadata.text("conversation_id") or "",
                turn=metadata.whole("turn_index") or 0,
                session=metadata.whole("session_num") or 0,
                due_ns=start if due is None else due,
                start_ns=start,
                end_ns=stamp(metadata, "request_end_ns"),
                ok=failure_of(source) is None,
            )
        )
    if not seen:
        raise ToolError(f"{path}: no request of AIPerf's profiling phase: nothing to summarise")
    ordered = sorted(seen, key=lambda one: (one.conversation, one.turn, one.session, one.line))
    return Outline(
        run_id=digest.hexdigest()[:16],
        index={one.line: index for index, one in enumerate(ordered)},
        origin_ns=min(min(one.due_ns, one.start_ns) for one in seen),
        end_ns=max(one.end_ns for one in seen),
        in_flight=_most_at_once(seen),
        ok=sum(one.ok for one in seen),
        turns=any(one.turn for one in seen),
    )


def _most_at_once(seen: Sequence[_Seen]) -> int:
    """Requests in flight at most; one that ends when another starts is not beside it."""
    events = [(one.start_ns, 1) for one in seen] + [(one.end_ns, -1) for one in seen]
    return max(accumulate(change for _, change in sorted(events)))


def _summary(path: str) -> Source | None:
    """The summary that AIPerf writes into the same folder; None where it is not there."""
    beside = Path(path).with_name(SUMMARY)
    if not beside.exists():
        return None
    try:
        value: Any = msgspec.json.decode(beside.read_bytes())
    except NOT_JSON as error:
        raise ToolError(f"{beside}: not JSON: {str(error).lower()}") from error
    if not isinstance(value, dict):
        raise ToolError(f"{beside}: not AIPerf's summary: an object is expected")
    return Source(place=str(beside), values=value)


def _head(outline: Outline, summary: Source | None, number: int) -> Run:
    began = datetime.fromtimestamp(outline.origin_ns / NS, tz=UTC)
    closed = Arrival(kind="closed", concurrency=max(1, outline.in_flight))
    known: dict[str, Any] = {}
    arrival, like = closed, []
    if summary is not None:
        config = summary.part("input_config")
        urls = config.part("endpoint").values.get("urls")
        models = config.part("models").values.get("items")
        version = summary.text("aiperf_version")
        seed = summary.part("run_info").values.get("random_seed")
        known = {
            "endpoint_url": _only_text(urls),
            "model": _model(models),
            "tool_version": f"{TOOL} {version}" if version else None,
            "seed": seed if isinstance(seed, int) else None,
        }
        arrival = _arrival(config) or closed
        like = [known["model"], known["seed"]]
    return head(
        tool=TOOL,
        run_id=outline.run_id,
        number=number,
        requests=len(outline.index),
        api="completions" if _completions(summary) else "chat",
        arrival=arrival,
        started_at=began.isoformat(timespec="microseconds"),
        like=like,
        config={} if summary is None else dict(summary.part("input_config").values),
        **known,
    )


def _only_text(values: object) -> str | None:
    if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return None


def _model(items: object) -> str | None:
    if isinstance(items, list) and len(items) == 1 and isinstance(items[0], dict):
        name = items[0].get("name")
        return name if isinstance(name, str) else None
    return None


def _completions(summary: Source | None) -> bool:
    if summary is None:
        return False
    return summary.part("input_config").part("endpoint").text("type") == "completions"


def _arrival(config: Source) -> Arrival | None:
    """Of the profiling phase; None where it is of a kind that we do not have."""
    phases = config.values.get("phases")
    found = [
        one
        for one in (phases if isinstance(phases, list) else [])
        if isinstance(one, dict) and one.get("kind", one.get("name")) == "profiling"
    ]
    if len(found) != 1:
        return None
    phase = Source(place=config.place, values=found[0], inside="phases.")
    cap = phase.whole("concurrency") or None
    kind = phase.text("type")
    if kind == "concurrency":
        return Arrival(kind="serial" if cap == 1 else "closed", concurrency=cap or 1)
    rate = phase.seconds("rate")
    if rate is None or kind not in RATES:
        return None
    shape = phase.seconds("smoothness") if kind == "gamma" else None
    return Arrival(
        kind=RATES[kind],  # type: ignore[arg-type]
        rate_rps=rate,
        concurrency=cap,
        burstiness=shape,
    )
