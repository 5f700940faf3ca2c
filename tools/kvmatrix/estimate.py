"""How long a matrix will take, before anybody knows how fast the engine is.

The documents' formula: requests x (TTFT + generation) / concurrency x rounds, plus clearing. What
it assumes is said beside the figure. It takes every request for a miss: hits end it sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvmatrix.clearing import Clearing
from kvmatrix.overrides import OVERRIDES

PREFILL_TPS = 5_000.0  # prompt tokens a second: a 7B model on one large GPU, roughly
TOKEN_S = 0.02  # seconds an output token
CLEAR_S = 15.0  # a clearing with its proof, without the wait that is asked for
AROUND_S = 15.0  # survey, warm-up and barriers of one repeat
ASSUMED = (
    f"assuming {PREFILL_TPS:,.0f} prompt tokens/s prefilled, {TOKEN_S * 1000:.0f} ms an output"
    f" token, {CLEAR_S:.0f} s a clearing, and every request a miss"
)
REQUESTS, OUTPUT_TOKENS, ROUNDS, PAUSE_S = 30, 64, 2, 5.0  # kvload's defaults
# Middle of each scenario's context lengths, and what a request adds: kvplan's defaults.
PROMPT_TOKENS = {
    "long_context_high_reuse": 24_064,
    "code_generation": 8_096,
    "multi_turn_conversation": 4_000,
    "batch_processing": 2_128,
    "cold_start": 4_064,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides how long one repeat of a scenario takes."""

    requests: int
    prompt_tokens: float
    output_tokens: int
    concurrency: int
    rate_rps: float | None
    rounds: int
    """Without the control."""
    controls: int
    pause_s: float
    clear_s: float
    tier: str | None

    @property
    def repeat_s(self) -> float:
        """Seconds that one repeat takes, roughly."""
        each = self.prompt_tokens / PREFILL_TPS + self.output_tokens * TOKEN_S
        one = self.requests * each / self.concurrency
        if self.rate_rps is not None:
            one = self.requests / self.rate_rps + each
        rounds = self.rounds + self.controls
        return rounds * one + (rounds - 1) * self.pause_s + self.clear_s + AROUND_S


def shape_of(
    entry: dict[str, Any], run: dict[str, Any], clearing: Clearing | None, *, salted: bool
) -> Shape:
    """The shape of one scenario: the matrix' keys, then the run config's, then the defaults."""
    settings = run.get("scenarios", {}).get(entry["scenario"], {}) | {
        key: entry[key] for key in OVERRIDES if key in entry
    }
    requests = settings.get("requests", REQUESTS)
    rounds = settings.get("rounds", run.get("rounds", ROUNDS))
    contexts = settings.get("context_tokens")
    return Shape(
        requests=requests + settings.get("sentinels", max(3, round(requests * 0.05))),
        prompt_tokens=_middle(contexts) if contexts else PROMPT_TOKENS[entry["scenario"]],
        output_tokens=settings.get("output_tokens", _max_tokens(run)),
        concurrency=settings.get("concurrency", 1),
        rate_rps=None if "concurrency" in entry else settings.get("rate"),
        rounds=rounds,
        controls=int(rounds >= 2 and salted),
        pause_s=settings.get("pause_between_rounds", run.get("pause_between_rounds", PAUSE_S)),
        clear_s=CLEAR_S + clearing.wait_s if clearing else 0.0,
        tier=settings.get("tier", run.get("tier")),
    )


def _middle(contexts: int | str) -> float:
    ends = [float(end) for end in str(contexts).split("-")]
    return sum(ends) / len(ends)


def _max_tokens(run: dict[str, Any]) -> int:
    model = run.get("models", {}).get(run.get("active_model")) or run.get("model", {})
    return int(model.get("max_tokens", OUTPUT_TOKENS))


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
