"""What every tool that speaks to a server takes from its command line: key, headers, body."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvpipe.jsonl import NOT_JSON
from kvpipe.process import ToolError, UsageError


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
