"""Findings that no round shows alone: what makes two rounds incomparable, or doubtful together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import expm1

from kvpipe.records import Finding
from kvreport.drift import Drift
from kvreport.effects import Comparison, Effect
from kvreport.experiments import Experiment, Repeat
from kvreport.pairs import Pairs
from kvreport.placed import Placed
from kvreport.same_answers import other_prompts

DROPPED = 0.01
"""More than this part of the pairs dropped is a finding."""


def plan_findings(experiment: Experiment) -> Iterator[Placed]:
    """Rounds of a repeat with different plans, and repeats with different shapes."""
    for repeat in experiment.repeats:
        plans = _plans(repeat)
        for base, other in _compared(repeat):
            known = plans.get(base, set()) | plans.get(other, set())
            if base in plans and other in plans and len(known) > 1:
                yield Placed(
                    rounds=[base, other], repeats=[repeat.number], finding=_plan_differs(known)
                )
    shapes = {one.run.shape_sha256 for one in experiment if one.run}
    if len(shapes) > 1 and len(experiment.repeats) > 1:
        message = (
            f"the repeats have {len(shapes)} different shapes of plan; "
            "a repeat is new text of the same shape"
        )
        evidence = {"shape_sha256": sorted(shapes)}
        yield Placed(
            rounds=[],
            repeats=[one.number for one in experiment.repeats],
            finding=Finding(
                code="plan_differs", severity="invalid", message=message, evidence=evidence
            ),
        )


def _compared(repeat: Repeat) -> list[tuple[str, str]]:
    """The roles that are set against each other in a repeat."""
    later = [("cold", f"round {one.number}") for one in repeat.later]
    return [("cold", "hit"), ("no_reuse", "hit"), *later]


def _plans(repeat: Repeat) -> dict[str, set[str]]:
    """Plans by role; rounds of old files have none."""
    roles = [
        *(("cold", one) for one in repeat.of("cold")),
        *(("hit", one) for one in repeat.of("hit")),
        *(("no_reuse", one) for one in repeat.no_reuse),
        *((f"round {one.number}", one) for one in repeat.later),
    ]
    found: dict[str, set[str]] = {}
    for role, one in roles:
        if one.run:
            found.setdefault(role, set()).add(one.run.plan_sha256)
    return found


def _plan_differs(known: set[str]) -> Finding:
    short = " and ".join(sorted(one[:12] for one in known))
    return Finding(
        code="plan_differs",
        severity="invalid",
        message=f"the rounds did not send the same requests (plans {short}): not compared",
        evidence={"plan_sha256": sorted(known)},
    )


def pair_findings(comparison: Comparison) -> Iterator[Placed]:
    """Pairs that were dropped, and answers that differ, per repeat."""
    for match, pairs in zip(comparison.matches, comparison.pairs, strict=True):
        if pairs is None:
            continue
        told = match.other.stats.answers is not None  # kvstats saw them, and says it there
        differ = None if told or other_prompts(match) else _answers_differ(pairs)
        for finding in (_unequal_work(pairs), differ):
            if finding:
                rounds = [comparison.base, comparison.other]
                yield Placed(rounds=rounds, repeats=[match.repeat], finding=finding)


def stamp_findings(comparison: Comparison) -> Iterator[Placed]:
    """Rounds whose arrivals were stamped by different clerks, the kernel and the client's loop."""
    for match in comparison.matches:
        sources = {one.stats.stamp_source for one in (*match.bases, match.other)}
        if {"kernel", "user"} <= sources:
            message = (
                "arrivals were stamped by the kernel in one round and by the client in another"
            )
            finding = Finding(code="stamps_mixed", severity="warning", message=message)
            rounds = [comparison.base, comparison.other]
            yield Placed(rounds=rounds, repeats=[match.repeat], finding=finding)


def _unequal_work(pairs: Pairs) -> Finding | None:
    total = pairs.dropped.total()
    if pairs.dropped_ratio <= DROPPED and not pairs.dropped["failed in one"]:
        return None
    why = {
        "failed in one": "failed in one round only",
        "failed in both": "failed in both rounds",
        "no first token": "without a first token",
        "output tokens": "with unequal output tokens",
        "prompt tokens": "with unequal prompt tokens",
    }
    parts = ", ".join(f"{count} {why[reason]}" for reason, count in sorted(pairs.dropped.items()))
    return Finding(
        code="unequal_work",
        severity="warning",
        message=f"{total} of {pairs.planned} pairs were dropped: {parts}",
        evidence={"dropped": dict(pairs.dropped), "planned": pairs.planned},
    )


def _answers_differ(pairs: Pairs) -> Finding | None:
    if not pairs.differing:
        return None
    return Finding(
        code="answers_differ",
        severity="warning",
        message=(
            f"{pairs.differing} of {pairs.hashed} answers of equal length differ between the "
            "rounds: near ties do that at temperature 0, and so does a damaged cache"
        ),
        evidence={"differing": pairs.differing, "hashed": pairs.hashed},
    )


METRICS = {
    "ttft_s": "TTFT",
    "ttft_due_s": "TTFT from when due",
    "e2e_s": "E2E latency",
    "prefill_s": "prefill time",
    "request_throughput_rps": "throughput",
    "steady_throughput_rps": "steady throughput",
}
UNCHECKED = {
    "sentinels": "too few sentinels answered in both rounds",
    "no_reuse": "a load run needs a round without reuse before and after",
    "nodes": "no round without reuse on node B tells the nodes apart",
}
CONTROLS = {
    "sentinels": "sentinels, which nobody can have cached, differ",
    "no_reuse": "rounds without reuse, before and after, differ",
    "nodes": "the two nodes differ",
}
UNSURE = {
    "sentinels": "sentinels, which nobody can have cached, may differ",
    "no_reuse": "rounds without reuse, before and after, may differ",
    "nodes": "the two nodes may differ",
}


def drift_findings(judged: Sequence[tuple[Effect, Drift]], repeats: list[int]) -> Iterator[Placed]:
    """For the effects whose verdicts drift withheld; one finding for all that it withheld alike.

    Drift that was seen makes them invalid; drift that was not checked, or that the control is too
    uncertain to exclude, leaves the verdict unsaid.
    """
    alike: dict[tuple[str, str, str], list[tuple[Effect, Drift]]] = {}
    for effect, drift in judged:
        if effect.verdict.by == [drift.cause]:
            key = (effect.base, effect.other, _drift_message(drift))
            alike.setdefault(key, []).append((effect, drift))
    for (base, other, message), found in alike.items():
        drift = found[0][1]
        names = list(dict.fromkeys(METRICS[effect.metric] for effect, _ in found))
        yield Placed(
            rounds=[base, other],
            repeats=repeats,
            effects=[effect.key for effect, _ in found],
            finding=Finding(
                code="drift",
                severity="invalid" if drift.shown else "warning",
                message=f"{', '.join(names)}: {message}",
                evidence={"ratio": drift.ratio, "far_log": drift.far, "source": drift.source},
            ),
        )


def _drift_message(drift: Drift) -> str:
    if drift.interval is None:
        return f"drift was not checked, {UNCHECKED[drift.source]}"
    reach = f"by up to {_percent(drift)}, over a quarter of the effect"
    if drift.shown:
        return f"{CONTROLS[drift.source]} {reach}"
    return f"drift is not excluded, {UNSURE[drift.source]} {reach}"


def _percent(drift: Drift) -> str:
    return f"{expm1(drift.far or 0.0):.1%}".replace("%", " %")
