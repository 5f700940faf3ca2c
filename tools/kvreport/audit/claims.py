"""What round stats and reports say, held against what their records give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvpipe.records import RoundStats, Samples
from kvreport.audit.cold import Cold
from kvreport.audit.lines import Line, held, unknown
from kvreport.conclusion import Conclusion, Scenario
from kvreport.effects import Effect
from kvreport.rounds import Round

CLOSE = 1e-9
"""Relative; the same sums in another order differ by less."""
WIDE = 1e-6
"""For intervals, whose quantiles other versions of scipy round otherwise."""
COLUMNS = ("ok", "stratum", "group", "prompt_tokens", "output_tokens", "cached_tokens")
TIMES = ("ttft_s", "ttft_due_s", "e2e_s", "tpot_s", "second_token_s")
SCALARS = (
    "avg_ttft",
    "total_requests",
    "successful_requests",
    "failed_requests",
    "total_time_s",
    "request_throughput_rps",
    "hit_ratio",
)
EFFECTS = ("ttft", "one_hit", "one_hit_bare", "all_hits", "e2e")
CERTAIN = ("faster", "slower", "same")


def stats(where: str, said: RoundStats, own: RoundStats, cold: Cold | None) -> Iterator[Line]:
    """Published round stats against those rebuilt: figures, rows, and the proof of cold."""
    wrong = [
        f"{name} is {_shown(getattr(said, name))} in the stats, by its records "
        f"{_shown(getattr(own, name))}"
        for name in SCALARS
        if not _equal(getattr(said, name), getattr(own, name))
    ]
    if said.samples is not None and own.samples is not None:
        wrong += _rows(said.samples, own.samples)
    wrong += _proofs(said, own, cold)
    yield from held("stats", where, wrong, "figures, rows and proof are those of the records")


def _rows(said: Samples, own: Samples) -> Iterator[str]:
    """Row by row; the published ones may be a sample."""
    at = {index: row for row, index in enumerate(own.index)}
    if said.total != len(own.index):
        yield f"the stats know {said.total} requests, the records {len(own.index)}"
    for row, index in enumerate(said.index):
        mine = at.get(index)
        if mine is None:
            yield f"request {index} of the stats is not in the records"
            continue
        for name in (*COLUMNS, *TIMES):
            one, two = getattr(said, name)[row], getattr(own, name)[mine]
            if not _equal(one, two):
                yield (
                    f"request {index}: {name} is {_shown(one)} in the stats, by its record "
                    f"{_shown(two)}"
                )


def _proofs(said: RoundStats, own: RoundStats, cold: Cold | None) -> Iterator[str]:
    if cold is None:
        if said.cold_proof is not None:
            yield f"a hit round has no proof of cold, but the stats say {said.cold_proof}"
        return
    if said.cold_proof == "proven" and own.cold_proof != "proven":
        why = "; ".join(cold.wrong) or cold.unknown
        yield f"cold is proven by the stats, and not by the records: {why}"
    kept = said.conservation
    if kept is None:
        return
    if kept.source == "requests" and kept.computed_tokens != cold.computed:
        yield (
            f"{_shown(kept.computed_tokens)} tokens were computed by the stats, by the records "
            f"{_shown(cold.computed)}"
        )
    if kept.tree_tokens is not None and cold.tree is not None and cold.unknown is None:
        run = own.run if not isinstance(own.run, list) else own.run[0]
        exact = run.calibrated in ("tokenize", "token_ids")
        if exact and abs(kept.tree_tokens - cold.tree) > CLOSE:
            yield (
                f"the prefix tree has {kept.tree_tokens:,} tokens by the stats, by the records "
                f"{cold.tree:,}"
            )


def admitted(said: Sequence[Round], code: str) -> bool:
    """Whether the published stats themselves carry a finding."""
    return any(one.code == code for found in said for one in found.stats.findings)


def verdicts(said: Conclusion, own: Conclusion) -> Iterator[Line]:
    """What the published stats lead to, against what the records do."""
    mine = {one.name: one for one in own.scenarios}
    for one in said.scenarios:
        other = mine.get(one.name)
        if other is None:
            yield unknown("verdict", one.name, "its records are not here")
            continue
        wrong = [
            text
            for name in EFFECTS
            if name in one.effects
            for text in _effects(name, one.effects[name], other.effects.get(name))
        ]
        yield from held("verdict", one.name, wrong, _said(other))


def _effects(name: str, said: Effect, own: Effect | None) -> Iterator[str]:
    if own is None:
        yield f"{name}: {said.verdict.word}, and the records give no such effect"
        return
    yield from _numbers(name, said.thetas, own.thetas, _ends(said), _ends(own))
    yield from _words(name, said.verdict.word, own)


def _ends(effect: Effect) -> list[float] | None:
    return [effect.interval.low, effect.interval.high] if effect.interval else None


def _numbers(
    name: str,
    said: Sequence[float],
    own: Sequence[float],
    said_ends: Sequence[float] | None,
    own_ends: Sequence[float] | None,
) -> Iterator[str]:
    if len(said) != len(own) or not all(map(_equal, said, own)):
        yield f"{name}: log ratios are {_list(said)}, by the records {_list(own)}"
    elif (said_ends is None) != (own_ends is None) or not all(
        math.isclose(one, two, rel_tol=WIDE, abs_tol=WIDE)
        for one, two in zip(said_ends or (), own_ends or (), strict=True)
    ):
        yield (
            f"{name}: the interval is {_list(said_ends or ())}, by the records "
            f"{_list(own_ends or ())}"
        )


def _words(name: str, word: str, own: Effect) -> Iterator[str]:
    """A verdict may be withheld for what is not looked at here; it may not say more."""
    if word in CERTAIN and word != own.verdict.word:
        by = f" ({', '.join(own.verdict.by)})" if own.verdict.by else ""
        yield f"{name}: {word} by what was published, by the records {own.verdict.word}{by}"


def _said(scenario: Scenario) -> str:
    effect = scenario.one_hit or scenario.effects.get("ttft")
    if effect is None:
        return "nothing can be compared, and nothing is claimed"
    by = f" ({', '.join(effect.verdict.by)})" if effect.verdict.by else ""
    return f"as its records give it: {effect.verdict.word}{by}"


def reports(found: Sequence[Mapping[str, Any]], own: Conclusion) -> Iterator[Line]:
    """Reports as JSON, by the names, log ratios, intervals and verdicts that they carry."""
    mine = {one.name: one for one in own.scenarios}
    for report in found:
        for said in report.get("scenarios", []):
            name = str(said.get("name"))
            other = mine.get(name)
            if other is None:
                yield unknown("report", name, "its records are not here")
                continue
            wrong = [*_reported(said.get("effects", {}), other)]
            yield from held("report", name, wrong, "effects, intervals and verdicts are the same")


def _reported(said: Mapping[str, Any], own: Scenario) -> Iterator[str]:
    for name in EFFECTS:
        effect = said.get(name)
        if not isinstance(effect, Mapping):
            continue
        mine = own.effects.get(name)
        if mine is None:
            yield f"{name}: reported, and the records give no such effect"
            continue
        ends = effect.get("interval")
        told = [float(ends["low"]), float(ends["high"])] if isinstance(ends, Mapping) else None
        thetas = [float(one) for one in effect.get("thetas", [])]
        yield from _numbers(name, thetas, mine.thetas, told, _ends(mine))
        ratio = float(effect.get("ratio", math.nan))
        if not _equal(ratio, mine.ratio):
            yield f"{name}: the ratio is {_shown(ratio)}, by the records {_shown(mine.ratio)}"
        yield from _words(name, str(effect.get("verdict", {}).get("word")), mine)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, float) or isinstance(two, float):
        if one is None or two is None:
            return False
        return math.isclose(one, two, rel_tol=CLOSE, abs_tol=1e-12)
    return bool(one == two)


def _shown(value: Any) -> str:
    if value is None:
        return "not known"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _list(values: Sequence[float]) -> str:
    shown = ", ".join(f"{one:.6f}" for one in values[:5])
    return f"{shown}, ..." if len(values) > 5 else shown or "none"
