"""Reading plans: kvplan's own stream, or bare lines of prompts that others made.

A stream is one or the other. kvplan's may hold several plans, one per repeat. Bare lines get a
head, strata and hashes here; nothing is counted, so their lengths are estimates unless the prompts
are token ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import msgspec

from kvpipe.jsonl import NOT_JSON, decode_line
from kvpipe.process import ToolError
from kvpipe.records import Plan, Planned
from kvprompt.hashes import plan_sha256, shape_sha256

RawPlan = tuple[Plan, list[Planned]]


def read_plan(stream: Iterable[bytes], name: str) -> list[RawPlan]:
    """Every plan of a stream with its requests; ToolError names line and key of what is wrong."""
    numbered = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise ToolError(f"{name}: empty; a plan, or lines of `messages` or `prompt`, is expected")
    lines = chain([first], numbered)
    if _is_record(first[1]):
        return [_checked(plan, requests, name) for plan, requests in _records(lines, name)]
    from kvprompt.lines import read_lines  # brings numpy, which kvplan's own stream does without

    return [read_lines(lines, name)]


def _is_record(line: bytes) -> bool:
    try:
        value = msgspec.json.decode(line)
    except NOT_JSON:
        return False
    return isinstance(value, dict) and "record" in value


def _records(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[RawPlan]:
    head: Plan | None = None
    requests: list[Planned] = []
    for number, line in lines:
        place = f"{name}:{number}"
        record = decode_line(line, place)
        if isinstance(record, Plan):
            if head is not None:
                yield head, requests
            head, requests = record, []
        elif isinstance(record, Planned):
            if head is None:
                raise ToolError(f"{place}: planned: no `plan` record stands before it")
            requests.append(_sound(record, len(requests), place))
        else:
            raise ToolError(f"{place}: neither plan nor planned: is this a run, not a plan?")
    if head is not None:
        yield head, requests


def _sound(request: Planned, index: int, place: str) -> Planned:
    """A request that can be sent, or ToolError."""
    if request.index != index:
        raise ToolError(f"{place}: planned: index {request.index} where {index} is due")
    if request.after is not None and not 0 <= request.after < index:
        raise ToolError(f"{place}: planned: after {request.after} is no earlier request")
    if (request.messages is None) == (request.prompt is None):
        raise ToolError(f"{place}: planned: one of messages and prompt is expected, not both")
    return request


def _checked(head: Plan, requests: list[Planned], name: str) -> RawPlan:
    """The plan with the hashes of what really stands there, which may have been edited."""
    told = head.requests + head.sentinels
    if told != len(requests):
        raise ToolError(
            f"{name}: plan {head.repeat} says {told} requests and has {len(requests)}: "
            "cut short? (after editing a plan, correct requests and sentinels in its head)"
        )
    return _with_hashes(head, requests), requests


def _with_hashes(head: Plan, requests: Sequence[Planned]) -> Plan:
    return msgspec.structs.replace(
        head, plan_sha256=plan_sha256(requests), shape_sha256=shape_sha256(requests)
    )
