"""The user's own steps between scenarios, as calls of kvclear."""

from __future__ import annotations

from typing import Any

from kvmatrix.clearing import refuse_placeholder
from kvschemas.checked import Config, Key

REFUSED = "commands of a config run only with --allow-commands (make: ALLOW_COMMANDS=1)"
FLAGS = {"command": "--command", "health": "--health", "http": "--http", "wait": "--wait"}
"""In the order in which one call of kvclear does them."""


def between_of(matrix: Config, *, allow_commands: bool) -> tuple[tuple[str, ...], ...]:
    """kvclear's flags for the steps, in as few calls as keep their order; ToolError.

    One call does commands first, then health, requests, waiting: where a step comes before its
    like in that order, another call begins.
    """
    calls: list[list[str]] = []
    ranks = list(FLAGS)
    last = len(ranks)
    for index, step in enumerate(matrix.value.get("between", [])):
        ((kind, value),) = step.items()
        key = ("between", index, kind)
        if kind == "command" and not allow_commands:
            raise matrix.error(REFUSED, *key)
        if kind in ("http", "health"):
            refuse_placeholder(matrix, value, *key)
        rank = ranks.index(kind)
        if rank < last or (rank == last and kind == "wait"):
            calls.append([])
        last = rank
        calls[-1] += [FLAGS[kind], _text(value)]
    return tuple(map(tuple, calls))


def restart_of(
    matrix: Config,
    key: Key,
    entry: dict[str, Any],
    endpoints: dict[int, str],
    *,
    allow_commands: bool,
) -> tuple[str, ...]:
    """kvclear's flags for restarting one scenario's engines and waiting for them; ToolError.

    Ahead of the clearing, whose canaries need the model that the commands may bring up.
    """
    commands = entry.get("restart", [])
    if not commands:
        return ()
    if not allow_commands:
        raise matrix.error(REFUSED, *key, "restart")
    flags = [text for command in commands for text in ("--command", command)]
    flags += [text for url in dict.fromkeys(endpoints.values()) for text in ("--health", url)]
    return tuple(flags)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
