"""What an answer's chunks say, chunk by chunk: tokens, text, usage, errors.

Chunks of one stream are nearly always equal but for their text. Once one of them has been decoded,
the bytes of its event around the text are kept as a template: an event that begins and ends with
them, and holds neither quote nor backslash nor line end between, is that same JSON with another
text. Any other is decoded in full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from kvload.events import data_of, take_events, with_line_feeds

_DECODE = msgspec.json.Decoder().decode
_TEXT_KEYS = (b'"content":"', b'"text":"', b'"content": "', b'"text": "')
_TEMPLATES_KEPT = 4  # one a choice; a stream of more is decoded in full
_LEARNT_AT_ONCE = 8  # where chunks differ each time, learning from them is wasted
_TEXTS = ("content", "reasoning", "reasoning_content")
_NOT_FINISHED = ("abort", "error")  # vLLM's words for an answer that it gave up
DONE = b"[DONE]"


MAX_DEPTH = 100
"""Lists and objects inside each other; what is deeper could be read here and not be written."""


class Choice:
    """One choice of the answer, put together."""

    __slots__ = ("begun", "finish_reason", "text")

    def __init__(self) -> None:
        self.text: list[bytes] = []
        self.finish_reason: str | None = None
        self.begun = False  # its first chunk was seen: a role in it is an opening, not a token


class Transcript:
    """Takes chunks in order and keeps what they said. Positions are indices of reads.

    `marks`: a position for each chunk that carries tokens, and its complement (`~position`) for
    each chunk with a text that is empty, of which only the whole answer tells whether it carried
    any. `token_ids`: how many ids were given. `error`: the server's message; null if none.
    `garbled`: why a chunk could not be read.
    """

    __slots__ = (
        "_learnt",
        "_templates",
        "choices",
        "done",
        "error",
        "first_chunk",
        "first_content",
        "garbled",
        "id",
        "logprobs",
        "marks",
        "timings",
        "token_ids",
        "usage",
    )

    def __init__(self) -> None:
        self.marks: list[int] = []
        self.choices: dict[int, Choice] = {}
        self.first_chunk: int | None = None
        self.first_content: int | None = None
        self.id: str | None = None
        self.usage: dict[str, Any] | None = None
        self.timings: dict[str, Any] | None = None
        self.logprobs: list[Any] = []
        self.token_ids = 0
        self.done = False
        self.error: str | None = None
        self.garbled: str | None = None
        self._templates: list[tuple[bytes, bytes, list[bytes]]] = []
        self._learnt = 0

    def read_stream(self, reads: Sequence[bytes], *, whole: bool) -> None:
        """Every event up to `[DONE]`; an error event does not end it.

        With `whole` the stream ended as it should, and an event without its empty line counts
        too; else such a rest was cut off, and is left out.
        """
        rest: list[bytes] = []  # of an event that is not whole yet: joined once, it may be long
        for position, data in enumerate(with_line_feeds(reads)):
            if not data or (not rest and self._is_like_others(position, data)):
                continue
            ends = b"\n\n" in data or (
                bool(rest) and data.startswith(b"\n") and rest[-1].endswith(b"\n")
            )
            rest.append(data)
            if not ends:
                continue
            events, left = take_events(b"".join(rest))
            rest = [left] if left else []
            for event in events:
                if not self._is_like_others(position, event):
                    self._read_event(position, event)
                    if self.done:
                        return
        if whole and rest:
            self._read_event(len(reads) - 1, b"".join(rest))

    def _is_like_others(self, position: int, event: bytes) -> bool:
        """Take `event` if it is exactly one, and known but for its text."""
        for before, after, text in self._templates:
            if event.startswith(before) and event.endswith(after):
                piece = event[len(before) : -len(after)]
                if piece and b'"' not in piece and b"\\" not in piece and b"\n" not in piece:
                    text.append(piece)
                    self.marks.append(position)
                    return True
        return False

    def read_object(self, position: int, body: bytes) -> None:
        """An answer that was not streamed: one JSON object."""
        whole = self._decode(body)
        if whole is not None:
            self._read_envelope(whole)
            for choice in _dicts(whole.get("choices")):
                self._read_choice(position, choice, _dict(choice.get("message")))
            self.done = self.garbled is None

    def finished(self) -> bool:
        """Whether every choice that was begun gave its finish_reason."""
        return bool(self.choices) and all(c.finish_reason for c in self.choices.values())

    def text(self) -> str | None:
        """Everything generated, choice after choice; null if there was none to generate."""
        if not self.choices:
            return None
        parts = [part for _, choice in sorted(self.choices.items()) for part in choice.text]
        return b"".join(parts).decode("utf-8", "replace")

    def _read_event(self, position: int, event: bytes) -> None:
        data = data_of(event)
        if data is None:
            return
        if data.strip() == DONE:
            self.done = True
            return
        chunk = self._decode(data)
        if chunk is None:
            return
        self._read_envelope(chunk)
        choices = _dicts(chunk.get("choices"))
        if not choices:
            return
        if self.first_chunk is None:
            self.first_chunk = position
        before = len(self.marks)
        kinds = [
            self._read_choice(position, choice, _dict(choice.get("delta"))) for choice in choices
        ]
        if any(kind == "tokens" for kind in kinds):
            self.marks.append(position)
        elif any(kind == "empty" for kind in kinds):
            self.marks.append(~position)
        if len(self.marks) > before and len(choices) == 1:
            self._learn(event, chunk, choices[0])

    def _read_envelope(self, chunk: dict[str, Any]) -> None:
        """What stands beside the choices."""
        if self.id is None and isinstance(chunk.get("id"), str):
            self.id = chunk["id"] or None
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        for key in ("metrics", "timings"):  # vLLM, llama.cpp
            if isinstance(chunk.get(key), dict):
                self.timings = chunk[key]
        if self.error is None:
            self.error = error_message(chunk)

    def _read_choice(self, position: int, choice: dict[str, Any], delta: dict[str, Any]) -> str:
        """`tokens`, `empty` (a text that is empty) or `none`: what this choice carried."""
        index = choice.get("index")
        kept = self.choices.setdefault(index if isinstance(index, int) else 0, Choice())
        opening = not kept.begun and ("role" in delta or bool(choice.get("prompt_token_ids")))
        kept.begun = True
        if isinstance(choice.get("finish_reason"), str):
            kept.finish_reason = choice["finish_reason"]
            if self.error is None and kept.finish_reason in _NOT_FINISHED:
                self.error = f"the server gave the answer up: finish_reason {kept.finish_reason}"
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            content = logprobs.get("content")
            self.logprobs += content if isinstance(content, list) else [logprobs]
        thought = _text(delta, "reasoning") or _text(delta, "reasoning_content")
        said = _text(delta, "content") or _text(choice, "text")
        calls = _dicts(delta.get("tool_calls"))
        ids = choice.get("token_ids")
        ids = len(ids) if isinstance(ids, list) else 0
        self.token_ids += ids
        kept.text += [_utf8(part) for part in (thought, said, *_calls_text(calls)) if part]
        if said and self.first_content is None:
            self.first_content = position
        if thought or said or calls or ids:
            return "tokens"
        silent = any(isinstance(delta.get(key), str) for key in _TEXTS) or "text" in choice
        return "empty" if silent and not opening else "none"

    def _decode(self, data: bytes) -> dict[str, Any] | None:
        """The object in `data`; null, and the reason kept, if there is none."""
        try:
            value = _DECODE(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # NaN, Infinity and half surrogates are no JSON, but Python servers write them.
            try:
                value = recordable(json.loads(data))
            except (ValueError, RecursionError):
                self.garbled = self.garbled or f"not JSON: {shortened(data, 80)}"
                return None
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH and too_deep(value):
            self.garbled = self.garbled or f"nested deeper than {MAX_DEPTH}: {shortened(data, 80)}"
            return None
        if isinstance(value, dict):
            return value
        self.garbled = self.garbled or f"not a JSON object: {shortened(data, 80)}"
        return None

    def _learn(self, event: bytes, chunk: dict[str, Any], choice: dict[str, Any]) -> None:
        """Keep a chunk that carries nothing but a text as the pattern for the next ones."""
        delta = _dict(choice.get("delta"))
        said = _text(delta, "content") or _text(choice, "text")
        others = (
            *(chunk.get(key) for key in ("usage", "metrics", "timings", "error")),
            *(choice.get(key) for key in ("finish_reason", "logprobs", "token_ids")),
            *(delta.get(key) for key in ("reasoning", "reasoning_content", "tool_calls")),
        )
        if not said or any(others) or self._learnt > max(_LEARNT_AT_ONCE, len(self.marks) // 4):
            return
        self._learnt += 1
        keys = [key for key in _TEXT_KEYS if key in event]
        if len(keys) != 1 or event.count(keys[0]) != 1:
            return
        begin = event.index(keys[0]) + len(keys[0])
        end = event.find(b'"', begin)
        if event[begin:end] != _utf8(said):  # it has escapes
            return
        index = choice.get("index")
        kept = self.choices[index if isinstance(index, int) else 0]
        if len(self._templates) >= _TEMPLATES_KEPT:
            self._templates.pop()
        self._templates.insert(0, (event[:begin], event[end:], kept.text))


def error_message(chunk: dict[str, Any]) -> str | None:
    """The message of an error: nested (OpenAI), flat (old vLLM), FastAPI's; null if it is none."""
    error = chunk.get("error")
    if isinstance(error, dict):
        message = error.get("message")
        return shortened(message if isinstance(message, str) else json.dumps(error))
    if isinstance(error, str) and error:
        message = chunk.get("message")
        return shortened(f"{error}: {message}" if isinstance(message, str) else error)
    if chunk.get("object") == "error":
        return shortened(str(chunk.get("message") or "no message"))
    detail = chunk.get("detail")
    return shortened(detail) if isinstance(detail, str) and "choices" not in chunk else None


def shortened(text: str | bytes, limit: int = 300) -> str:
    """On one line, and no longer than a person reads."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def recordable(value: Any) -> Any:
    """The value as a record can hold it: no half surrogates, no numbers that JSON has not.

    Integers that no reader takes become null, as NaN and Infinity do.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {recordable(key): recordable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [recordable(one) for one in value]
    if isinstance(value, int | float) and not -(2**63) <= value < 2**64:
        return None
    return value


def too_deep(value: Any) -> bool:
    """Whether it is nested deeper than anything that a server has to say."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _calls_text(calls: list[dict[str, Any]]) -> list[str]:
    functions = [_dict(call.get("function")) for call in calls]
    return [_text(function, key) for function in functions for key in ("name", "arguments")]


def _text(of: dict[str, Any], key: str) -> str:
    value = of.get(key)
    return value if isinstance(value, str) else ""


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
