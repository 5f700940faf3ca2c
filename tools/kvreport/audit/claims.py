"""What round stats and reports say, held against what their records give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvpipe.records import RoundStats, Samples
from kvreport.audit.cold import Cold
from kvreport.audit.lines import ENGLISH, Line, Said, called, held, say, unknown
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


def stats(where: Said, said: RoundStats, own: RoundStats, cold: Cold | None) -> Iterator[Line]:
    """Published round stats against those rebuilt: figures, rows, and the proof of cold."""
    wrong = [
        say("audit_figure", name=name, told=told, own=mine)
        for name in SCALARS
        for told, mine in [(_shown(getattr(said, name)), _shown(getattr(own, name)))]
        if not _equal(getattr(said, name), getattr(own, name))
    ]
    if said.samples is not None and own.samples is not None:
        wrong += _rows(said.samples, own.samples)
    wrong += _proofs(said, own, cold)
    yield from held("stats", where, wrong, say("audit_stats_right"))


def _rows(said: Samples, own: Samples) -> Iterator[Said]:
    """Row by row; the published ones may be a sample."""
    at = {index: row for row, index in enumerate(own.index)}
    if said.total != len(own.index):
        yield say("audit_rows", told=said.total, own=len(own.index))
    for row, index in enumerate(said.index):
        mine = at.get(index)
        if mine is None:
            yield say("audit_row_unknown", index=index)
            continue
        for name in (*COLUMNS, *TIMES):
            one, two = getattr(said, name)[row], getattr(own, name)[mine]
            if not _equal(one, two):
                told = {"told": _shown(one), "own": _shown(two)}
                yield say("audit_row", index=index, name=name, **told)


def _proofs(said: RoundStats, own: RoundStats, cold: Cold | None) -> Iterator[Said]:
    if cold is None:
        if said.cold_proof is not None:
            yield say("audit_proof_of_hit", told=said.cold_proof)
        return
    if said.cold_proof == "proven" and own.cold_proof != "proven":
        yield say("audit_proof", why=list(cold.wrong) or cold.unknown)
    kept = said.conservation
    if kept is None:
        return
    if kept.source == "requests" and kept.computed_tokens != cold.computed:
        told = {"told": _shown(kept.computed_tokens), "own": _shown(cold.computed)}
        yield say("audit_computed", **told)
    if kept.tree_tokens is not None and cold.tree is not None and cold.unknown is None:
        run = own.run if not isinstance(own.run, list) else own.run[0]
        exact = run.calibrated in ("tokenize", "token_ids")
        # Of a round that lacks some, `new_tokens` lack what the missing ones had before the others.
        missing = not said.complete and kept.tree_tokens < cold.tree
        if exact and not missing and abs(kept.tree_tokens - cold.tree) > CLOSE:
            yield say("audit_tree", told=kept.tree_tokens, own=cold.tree)


def admitted(said: Sequence[Round], code: str) -> bool:
    """Whether the published stats themselves carry a finding."""
    return any(one.code == code for found in said for one in found.stats.findings)


def verdicts(said: Conclusion, own: Conclusion) -> Iterator[Line]:
    """What the published stats lead to, against what the records do."""
    mine = {one.name: one for one in own.scenarios}
    for one in said.scenarios:
        other = mine.get(one.name)
        if other is None:
            yield unknown("verdict", called(one.name), say("audit_no_records"))
            continue
        wrong = [
            found
            for name in EFFECTS
            if name in one.effects
            for found in _effects(name, one.effects[name], other.effects.get(name))
        ]
        yield from held("verdict", called(one.name), wrong, _said(other))


def _effects(name: str, said: Effect, own: Effect | None) -> Iterator[Said]:
    if own is None:
        yield say("audit_no_effect", name=name, told=word_of(said.verdict.word))
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
) -> Iterator[Said]:
    if len(said) != len(own) or not all(map(_equal, said, own)):
        yield say("audit_thetas", name=name, told=_list(said), own=_list(own))
    elif (said_ends is None) != (own_ends is None) or not all(
        math.isclose(one, two, rel_tol=WIDE, abs_tol=WIDE)
        for one, two in zip(said_ends or (), own_ends or (), strict=True)
    ):
        told = {"told": _list(said_ends or ()), "own": _list(own_ends or ())}
        yield say("audit_interval", name=name, **told)


def _words(name: str, word: str, own: Effect) -> Iterator[Said]:
    """A verdict may be withheld for what is not looked at here; it may not say more."""
    if word in CERTAIN and word != own.verdict.word:
        yield say("audit_word", name=name, told=word_of(word), own=_verdict(own))


def word_of(word: str) -> Said:
    """A verdict's word; of a report that somebody else wrote it may be any."""
    known = word in (*CERTAIN, "withheld", "none")
    return say(f"audit_word_{word}") if known else say("audit_named", name=word)


def _verdict(effect: Effect) -> Said:
    found = effect.verdict
    word = word_of(found.word)
    return say("audit_word_by", word=word, by=[*map(_reason, found.by)]) if found.by else word


def _reason(code: str) -> Said:
    known = f"reason_{code}" in ENGLISH.phrases
    return say(f"reason_{code}" if known else "audit_named", name=code.replace("_", " "))


def _said(scenario: Scenario) -> Said:
    effect = scenario.one_hit or scenario.effects.get("ttft")
    if effect is None:
        return say("audit_nothing_claimed")
    return say("audit_verdict_right", verdict=_verdict(effect))


def reports(found: Sequence[Mapping[str, Any]], own: Conclusion) -> Iterator[Line]:
    """Reports as JSON, by the names, log ratios, intervals and verdicts that they carry."""
    mine = {one.name: one for one in own.scenarios}
    for report in found:
        for said in report.get("scenarios", []):
            name = str(said.get("name"))
            other = mine.get(name)
            if other is None:
                yield unknown("report", called(name), say("audit_no_records"))
                continue
            wrong = [*_reported(said.get("effects", {}), other)]
            yield from held("report", called(name), wrong, say("audit_report_right"))


def _reported(said: Mapping[str, Any], own: Scenario) -> Iterator[Said]:
    for name in EFFECTS:
        effect = said.get(name)
        if not isinstance(effect, Mapping):
            continue
        mine = own.effects.get(name)
        if mine is None:
            yield say("audit_reported", name=name)
            continue
        ends = effect.get("interval")
        told = [float(ends["low"]), float(ends["high"])] if isinstance(ends, Mapping) else None
        thetas = [float(one) for one in effect.get("thetas", [])]
        yield from _numbers(name, thetas, mine.thetas, told, _ends(mine))
        ratio = float(effect.get("ratio", math.nan))
        if not _equal(ratio, mine.ratio):
            yield say("audit_ratio", name=name, told=_shown(ratio), own=_shown(mine.ratio))
        yield from _words(name, str(effect.get("verdict", {}).get("word")), mine)


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, float) or isinstance(two, float):
        if one is None or two is None:
            return False
        return math.isclose(one, two, rel_tol=CLOSE, abs_tol=1e-12)
    return bool(one == two)


def _shown(value: Any) -> str | None:
    """Six digits of a figure; None for what is not known."""
    if value is None:
        return None
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _list(values: Sequence[float]) -> str | None:
    shown = ", ".join(f"{one:.6f}" for one in values[:5])
    return f"{shown}, ..." if len(values) > 5 else shown or None
