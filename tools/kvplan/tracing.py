"""From a trace file to plans: what is read of it, how it is altered, and that it is said."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import msgspec

from kvpipe.process import ToolError, UsageError
from kvpipe.records import Planned
from kvplan.lexicon import drift_of
from kvplan.lineage import lineage_of
from kvplan.measure import Measure
from kvplan.plans import Endpoint, Settings
from kvplan.replay import Manner, Replayed, Score, replayed
from kvplan.spool import Spool, spooled
from kvplan.stamps import Stamps, due
from kvplan.tongue import Tongue, tongue
from kvplan.trace import Selection, TimeUnit, TraceForm, TraceLine, read_trace

SAMPLE = 64
"""Prompts of a plan that the server counts once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceWish:
    """What was asked for."""

    path: str
    time_unit: TimeUnit | None = None
    trace_block: int | None = None
    selection: Selection = field(default_factory=Selection)
    scale: Fraction = Fraction(1)
    speedup: float = 1.0
    spread: bool = False
    seed: int = 0
    sentinels: int | None = None
    most_output: int | None = None


async def trace_plans(
    wish: TraceWish, settings: Settings, endpoint: Endpoint | None
) -> AsyncIterator[Replayed]:
    """The plan of each repeat; its lines are to be read before the next one is asked for.

    Raises ToolError, UsageError, Unreachable.
    """
    with spooled(wish.path) as spool:
        form, name = _form(spool, wish)
        plain = Measure(
            trace_block=form.block_tokens,
            block=plan_block(form, wish.scale, settings.block_tokens),
            most_output=wish.most_output,
        )
        async with tongue(settings, endpoint, plain) as spoken:
            score, stamps = _score(spool, wish, spoken.measure, name)
            manner = _manner(wish, settings, spoken)
            _check_length(spoken, score)
            changes = [*_changes(wish, form, settings, spoken.measure, stamps)]
            for repeat in settings.repeats:
                sample = _Sample(score.lineage.requests)
                with replayed(score, manner, spoken.wording, repeat, sample.see) as made:
                    yield await _noted(made, spoken, sample, changes)


def _form(spool: Spool, wish: TraceWish) -> tuple[TraceForm, str]:
    with spool.lines() as (name, stream):
        trace = read_trace(stream, name, block_tokens=wish.trace_block, time_unit=wish.time_unit)
        return trace.form, name


def plan_block(form: TraceForm, scale: Fraction, engine: int) -> int:
    """Tokens of the plan that a block of the trace becomes; UsageError for parts of tokens."""
    block = form.block_tokens * scale
    if block.denominator != 1:
        near = max(1, round(block / engine)) * engine
        raise UsageError(
            f"--scale {_told(scale)}: a block of {form.block_tokens} tokens would be one of "
            f"{float(block):g}, and a whole number is needed: {near}/{form.block_tokens} makes "
            f"it {near}"
        )
    return int(block)


def _told(scale: Fraction) -> str:
    """As people write it: 0.25, but 1/3."""
    return f"{float(scale):g}" if Fraction(f"{float(scale):g}") == scale else str(scale)


def _score(spool: Spool, wish: TraceWish, measure: Measure, name: str) -> tuple[Score, Stamps]:
    """The requests that are wanted, looked over. Raises ToolError if there are none."""

    def lines() -> Iterator[TraceLine]:
        with spool.lines() as (_, stream):
            trace = read_trace(
                stream, name, block_tokens=wish.trace_block, time_unit=wish.time_unit
            )
            yield from wish.selection.of(trace)

    stamps = Stamps()
    lineage = lineage_of(lines, stamps.looked(lines()), measure)
    if not lineage.requests:
        raise ToolError(f"{name}: no request stands in the --window")
    seed = wish.seed if wish.spread else None
    score = Score(
        due=lambda: due(lines(), stamps, speedup=wish.speedup, spread_seed=seed),
        lineage=lineage,
        measure=measure,
        source=name,
    )
    return score, stamps


def _manner(wish: TraceWish, settings: Settings, spoken: Tongue) -> Manner:
    return Manner(
        seed=wish.seed,
        sentinels=wish.sentinels,
        block_tokens=settings.block_tokens,
        calibrated=spoken.calibrated,
        floor_tokens=spoken.floor,
        model=spoken.model,
        body=settings.body,
    )


def _check_length(spoken: Tongue, score: Score) -> None:
    """ToolError if the longest prompt and its answer are more than the model takes."""
    found, longest = spoken.found, score.lineage.longest
    if found is None or found.max_model_len is None or longest <= found.max_model_len:
        return
    raise ToolError(
        f"{score.source}: the longest request is of {longest} tokens with its answer, and "
        f"{found.model} takes {found.max_model_len}: a smaller --scale, or --limit or --window"
    )


def _changes(
    wish: TraceWish, form: TraceForm, settings: Settings, measure: Measure, stamps: Stamps
) -> Iterator[str]:
    """What of the trace was altered, for whoever reads the plan."""
    yield from alterations(wish, form, measure)
    if wish.spread:
        yield (
            f"arrivals were spread by seed {wish.seed} over {stamps.usual_gap_s:g} s behind each "
            f"of {stamps.distinct} stamps, with up to {stamps.crowd} at one"
        )
    if measure.block % settings.block_tokens:
        yield (
            f"blocks of {measure.block} are no whole blocks of {settings.block_tokens}: an engine "
            "shares less than the trace"
        )


def alterations(wish: TraceWish, form: TraceForm, measure: Measure) -> Iterator[str]:
    """What was left out of the trace, or scaled; an analysis tells the same of itself."""
    if wish.selection.window is not None:
        start, end = wish.selection.window
        until = "its end" if math.isinf(end) else f"{end:g}"
        yield f"seconds {start:g} to {until} of the trace"
    if wish.selection.limit is not None:
        yield f"its first {wish.selection.limit} requests"
    if measure.block != form.block_tokens:
        yield (
            f"blocks of {form.block_tokens} tokens became {measure.block}, and outputs were scaled "
            f"by {_told(wish.scale)}"
        )
    if wish.most_output is not None:
        yield f"outputs were cut to {wish.most_output} tokens"
    if wish.speedup != 1:
        yield f"arrivals are {wish.speedup:g} times as fast"


class _Sample:
    """Requests that are looked at once more, and how many are not as long as asked."""

    def __init__(self, requests: int) -> None:
        self.kept: list[Planned] = []
        self.longer = 0
        self.most = 0
        self._step = -(-requests // SAMPLE)

    def see(self, request: Planned) -> None:
        """A request of the plan."""
        if request.index % self._step == 0:
            self.kept.append(request)
        by = (request.prompt_tokens or 0) - (request.asked_tokens or 0)
        if by:
            self.longer += 1
            self.most = max(self.most, by)


async def _noted(made: Replayed, spoken: Tongue, sample: _Sample, changes: list[str]) -> Replayed:
    """The plan with a note of what a reader must know, and what its lengths are worth."""
    notes = [*changes]
    calibrated = spoken.calibrated
    if spoken.note is not None:
        notes.append(spoken.note)
    elif sample.longer:
        notes.append(
            f"{sample.longer} prompts are longer than in the trace, by up to {sample.most} tokens: "
            "the chat template does not fit into their last block"
        )
    if made.crowded:
        notes.append(
            f"{made.crowded} blocks differ from a sibling only behind their first token: more "
            "blocks follow one beginning than there are tokens"
        )
    if spoken.lexicon is not None and spoken.server is not None and spoken.found is not None:
        drift = await drift_of(spoken.server, spoken.found.model, spoken.lexicon, sample.kept)
        if drift.wrong:
            calibrated = "probe"
            notes.append(f"drift: {drift}")
    head = msgspec.structs.replace(
        made.head,
        note="; ".join(notes) or None,
        calibrated=calibrated,
        got_tokens=made.head.got_tokens if calibrated == spoken.calibrated else None,
    )
    return replace(made, head=head)
