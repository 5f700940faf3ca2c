"""What every tool that speaks to a server takes from its command line: key, headers, body."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kvengine.urls import is_secret, without_credentials
from kvpipe.jsonl import NOT_JSON
from kvpipe.process import ToolError, UsageError

LEAST_SECRET = 8


def api_key(path: str | None) -> str | None:
    """The key in a file, else OPENAI_API_KEY, else none; ToolError for an empty file."""
    if path is None:
        return os.environ.get("OPENAI_API_KEY") or None
    key = _text_of(path).strip()
    if not key:
        raise ToolError(f"{path}: empty; the API key is expected in it")
    return key


def headers(lines: Sequence[str]) -> dict[str, str]:
    """`Name: value` lines of --header; a later one of the same name wins. UsageError else.

    `@FILE` stands for the lines of a file, `@-` for those of stdin, as curl has it: what is written
    on a command line can be read by everybody on the machine. No message quotes a value.
    """
    found: dict[str, str] = {}
    for where, line in _header_lines(lines):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError(f"{where}: write 'Name: value', or @FILE with such lines")
        found[name.strip()] = value.strip()
    return found


def _header_lines(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each line and where it stands, for messages."""
    for text in given:
        if not text.startswith("@"):
            yield "--header", text
            continue
        path = text[1:]
        held = sys.stdin.read() if path == "-" else _text_of(path)
        for number, line in enumerate(held.splitlines(), 1):
            if line.strip():
                yield f"--header {text}:{number}", line


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:  # which would quote what it met
        raise ToolError(f"{path}: not UTF-8 text") from error


def secrets_of(api_key: str | None, given: Mapping[str, str], *urls: str) -> tuple[str, ...]:
    """Keys, headers that hold one, passwords in URLs, the longest first: gateways quote them.

    Each word of one alone too (`Bearer KEY`), but none of less than eight characters: those are
    words that stand elsewhere.
    """
    texts = [api_key or "", *(value for name, value in given.items() if is_secret(name))]
    for url in urls:
        texts += without_credentials(url, {})[1].values()
        texts.append(unquote(urlsplit(url).password or ""))
    words = {word for text in texts for word in (text, *text.split()) if len(word) >= LEAST_SECRET}
    return tuple(sorted(words, key=len, reverse=True))


def without(text: str, secrets: Sequence[str]) -> str:
    """What a server said, with `...` for each secret that it quotes."""
    for secret in secrets:
        text = text.replace(secret, "...")
    return text


def extra_body(text: str | None) -> dict[str, Any]:
    """The JSON object of --extra-body; empty without one. UsageError for anything else."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except NOT_JSON as error:
        raise UsageError(f"--extra-body: not JSON: {str(error).lower()}") from error
    if not isinstance(value, dict):
        raise UsageError("--extra-body: a JSON object is expected, such as '{\"top_k\": 1}'")
    return value
