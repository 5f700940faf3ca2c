"""The five scenarios: how long, how much of it shared, and made of which text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kvpipe.process import UsageError

Text = Literal["document", "code", "conversation", "template"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Context lengths in tokens, uniform from `low` to `high`, both possible."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A shape of load."""

    name: str
    what: str
    share_percent: int
    """Requests that share a context, of a hundred. For conversations what `turns` make of it."""
    context: Lengths
    """Tokens of the context; for conversations of the whole history at the last turn."""
    tail_tokens: int
    """Tokens that a request adds behind its context: a question, a task, an input."""
    text: Text
    turns: int = 1
    """Turns of a conversation; 1 where there are none."""


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="long_context_high_reuse",
            what="questions over one long document",
            share_percent=90,
            context=Lengths(low=16_000, high=32_000),
            tail_tokens=64,
            text="document",
        ),
        Scenario(
            name="code_generation",
            what="tasks in one code base",
            share_percent=80,
            context=Lengths(low=8_000, high=8_000),
            tail_tokens=96,
            text="code",
        ),
        Scenario(
            name="multi_turn_conversation",
            what="chats of seven turns, each carrying the whole history",
            share_percent=85,
            context=Lengths(low=7_000, high=7_000),
            tail_tokens=0,
            text="conversation",
            turns=7,
        ),
        Scenario(
            name="batch_processing",
            what="one long template, many short inputs",
            share_percent=95,
            context=Lengths(low=2_000, high=2_000),
            tail_tokens=128,
            text="template",
        ),
        Scenario(
            name="cold_start",
            what="every request unique: the baseline",
            share_percent=0,
            context=Lengths(low=4_000, high=4_000),
            tail_tokens=64,
            text="document",
        ),
    )
}


def scenario_named(name: str) -> Scenario:
    """The scenario; UsageError that names all of them if there is none."""
    try:
        return SCENARIOS[name]
    except KeyError:
        known = ", ".join(SCENARIOS)
        raise UsageError(f"--scenario {name}: no such scenario; there are: {known}") from None
