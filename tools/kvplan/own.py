"""A person's own requests: conversations and prompts from files, as they stand there.

Two kinds of conversation files are read, as a JSON list or one JSON object a line: ShareGPT's
(`{"id": ..., "conversations": [{"from": "human", "value": ...}]}`) and chat messages
(`{"messages": [{"role": "user", "content": ...}]}`). Prompts are lines of plain text, or JSON
objects with `prompt`, `text` or `messages`, such as a log of requests has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kvpipe.jsonl import decode_as
from kvpipe.process import ToolError, lower_first
from kvplan.counting import Prompt
from kvplan.trace import TimeUnit
from kvprompt.tokenid import TokenId

ROLES: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
}
"""Who speaks, as files name it, and as chat APIs do."""
_SECONDS: Mapping[TimeUnit, float] = {"ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRequest:
    """One request as it stands in a file."""

    place: str
    """File and line, or place in its list."""
    prompt: Prompt | list[int]
    """Text, chat messages or token ids."""
    group: str | None = None
    """The conversation that it is a turn of."""
    turn: int | None = None
    at_s: float | None = None
    """When it came, in seconds from any zero; None: not told."""
    output_tokens: int | None = None
    """As the file tells it; None: it does not."""


# --- conversations -------------------------------------------------------------------------------


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """One thing said, in either form."""

    role: str | None = None
    content: Any = None
    from_: str | None = msgspec.field(name="from", default=None)
    value: Any = None


class _Talk(msgspec.Struct, frozen=True, kw_only=True):
    conversations: list[_Said] | None = None
    messages: list[_Said] | None = None


class Talks:
    """The conversations of a file; counts what had to be left out."""

    def __init__(self, name: str, limit: int | None = None) -> None:
        self.silent = 0
        """Conversations in which no user says anything."""
        self._name = name
        self._limit = limit

    def read(self, stream: Iterable[bytes]) -> list[list[OwnRequest]]:
        """The turns of each conversation; ToolError names place and key of what is wrong."""
        found: list[list[OwnRequest]] = []
        for place, talk in self._talks(stream):
            if len(found) == self._limit:
                break
            turns = _turns(_history(talk, place), place, f"conversation-{len(found)}")
            if turns:
                found.append(turns)
            else:
                self.silent += 1
        if not found:
            raise ToolError(f"{self._name}: no conversation in which a user says anything")
        return found

    def _talks(self, stream: Iterable[bytes]) -> Iterator[tuple[str, _Talk]]:
        numbered = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
        first = next(numbered, None)
        if first is None:
            return
        lines = chain([first], numbered)
        if first[1].lstrip().startswith(b"["):
            text = b"".join(line for _, line in lines)
            for at, raw in enumerate(decode_as(list[msgspec.Raw], text, self._name)):
                yield f"{self._name}[{at}]", decode_as(_Talk, bytes(raw), f"{self._name}[{at}]")
            return
        for number, line in lines:
            yield f"{self._name}:{number}", decode_as(_Talk, line, f"{self._name}:{number}")


def _history(talk: _Talk, place: str) -> list[dict[str, Any]]:
    """All that was said, in chat messages whose speakers take turns.

    Nothing comes before the first user's word but what the system says: an answer there is to a
    question that was cut off. Words of one speaker in a row are one message, as templates want it.
    """
    if (talk.conversations is None) == (talk.messages is None):
        raise ToolError(f"{place}: one of conversations and messages is expected")
    key = "messages" if talk.conversations is None else "conversations"
    history: list[dict[str, Any]] = []
    for at, one in enumerate(talk.conversations or talk.messages or []):
        role, content = _spoken(one, f"{place}: {key}[{at}]")
        asked = any(message["role"] == "user" for message in history)
        if not content or (role == "assistant" and not asked):
            continue
        if history and history[-1]["role"] == role:
            content = f"{history.pop()['content']}\n\n{content}"
        history.append({"role": role, "content": content})
    return history


def _spoken(one: _Said, place: str) -> tuple[str, str]:
    """Role and text of one thing said; ToolError for what is no text."""
    speaker = one.from_ if one.role is None else one.role
    role = ROLES.get(speaker or "")
    if role is None:
        said = f"'{speaker}'" if speaker else "nobody"
        raise ToolError(f"{place}: said by {said}: one of {', '.join(ROLES)} is expected")
    return role, _text(one.content if one.value is None else one.value, place)


def _text(content: Any, place: str) -> str:
    """Content as text: a string, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        if len(parts) == len(content) and all(isinstance(part, str) for part in parts):
            return "\n".join(map(str, parts))
    raise ToolError(f"{place}: content that is not text: only texts can be planned")


def _turns(history: Sequence[dict[str, Any]], place: str, group: str) -> list[OwnRequest]:
    """One request for each time that the user speaks, with all that was said before."""
    asked = [at for at, message in enumerate(history) if message["role"] == "user"]
    return [
        OwnRequest(place=place, prompt=list(history[: at + 1]), group=group, turn=turn)
        for turn, at in enumerate(asked, 1)
    ]


# --- prompts -------------------------------------------------------------------------------------


class _Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a log: other keys are let through."""

    prompt: str | list[TokenId] | None = None
    text: str | None = None
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)] | None = None
    timestamp: float | str | None = None
    at_s: Annotated[float, Meta(ge=0)] | None = None
    output_length: Annotated[int, Meta(ge=0)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None


def read_prompts(
    stream: Iterable[bytes], name: str, *, time_unit: TimeUnit | None, limit: int | None
) -> Iterator[OwnRequest]:
    """The prompts of a file, one a line; ToolError names line and key of what is wrong.

    A file whose first line is a JSON object is one of objects; any other is plain text.
    """
    taken = 0
    objects: bool | None = None
    for number, line in enumerate(stream, 1):
        if taken == limit:
            return
        if not line.strip():
            continue
        if objects is None:
            objects = line.lstrip().startswith(b"{")
        taken += 1
        place = f"{name}:{number}"
        yield _logged(line, place, time_unit) if objects else _plain(line, place)
    if not taken:
        raise ToolError(f"{name}: empty; lines of prompts are expected")


def _plain(line: bytes, place: str) -> OwnRequest:
    try:
        return OwnRequest(place=place, prompt=line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise ToolError(f"{place}: not UTF-8: {lower_first(error.reason)}") from error


def _logged(line: bytes, place: str, time_unit: TimeUnit | None) -> OwnRequest:
    raw = decode_as(_Logged, line, place)
    found = [value for value in (raw.prompt, raw.text, raw.messages) if value is not None]
    if len(found) != 1:
        raise ToolError(f"{place}: one of prompt, text and messages is expected")
    if not found[0]:
        raise ToolError(f"{place}: the prompt is empty")
    return OwnRequest(
        place=place,
        prompt=found[0],
        at_s=raw.at_s if raw.timestamp is None else _seconds(raw.timestamp, place, time_unit),
        output_tokens=raw.max_tokens if raw.output_length is None else raw.output_length,
    )


def _seconds(timestamp: float | str, place: str, time_unit: TimeUnit | None) -> float:
    """A number in the unit (seconds, if none was given), or a date as ISO 8601 writes it."""
    if not isinstance(timestamp, str):
        return timestamp * _SECONDS[time_unit or "s"]
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError as error:
        raise ToolError(
            f"{place}: timestamp: '{timestamp}' is neither a number nor a date such as "
            "2026-01-31T12:00:00Z"
        ) from error
