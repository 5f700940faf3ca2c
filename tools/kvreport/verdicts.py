"""Verdicts: what an effect may be called, given its interval, its findings and the drift."""

from __future__ import annotations

from collections.abc import Sequence

from kvreport.drift import Drift
from kvreport.effects import Effect, Scope, Verdict
from kvreport.inference import FEW_GROUPS
from kvreport.placed import Placed, invalid_codes


def judge(effect: Effect, findings: Sequence[Placed], drift: Drift | None) -> Verdict:
    """Faster, slower or the same; withheld by an invalid finding or by drift; or nothing at all.

    `by` holds the codes of what withheld it, or why there is nothing to judge by. `drift` is None
    where none applies (a control that was not run is a Drift without an interval).
    """
    invalid = invalid_codes(findings, effect)
    if invalid:
        return Verdict(word="withheld", by=invalid)
    if effect.interval is None:
        return Verdict(by=[effect.no_interval or "no_pairs"])
    scope: Scope = "repeats" if effect.interval.method == "repeats" else "run"
    if scope == "run" and effect.groups is not None and effect.groups < FEW_GROUPS:
        return Verdict(scope="run", by=["few_groups"])
    if effect.interval.low <= 0 <= effect.interval.high:
        return Verdict(word="same", scope=scope)
    if drift is not None and not drift.allows(effect):
        return Verdict(word="withheld", scope=scope, by=[drift.cause])
    better = effect.theta > 0 if effect.metric.endswith(("_rps", "_tps")) else effect.theta < 0
    return Verdict(word="faster" if better else "slower", scope=scope)
