"""`--format openmetrics`: the rounds as OpenMetrics 1.0 text, for a textfile collector or a push.

A family per metric, a sample per round in it; `run_id` keeps rounds apart, and `simulated` stands
on every sample, so that no figure of a simulator can pass for an engine's. Base units, as the
format wants them; what is not known is left out, never 0. Percentiles are quantiles of a summary
whose sum is the mean times the count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kvpipe.records import RoundStats, Stat, Timings
from kvstats.change import run_of

TIMES = {
    "ttft_s": ("ttft", "Time to first token."),
    "ttft_due_s": ("ttft_due", "Time to first token from when the request was due."),
    "tpot_s": ("tpot", "Time per output token, the first one left out."),
    "itl_s": ("itl", "Gaps between neighbouring token events."),
    "e2e_s": ("e2e", "End-to-end latency, to the last token."),
    "queue_s": ("client_queue", "Sent less scheduled: the lateness of the client."),
    "second_token_s": ("second_token", "Second less first token event."),
}
QUANTILES = {"p50": "0.5", "p90": "0.9", "p95": "0.95", "p99": "0.99", "p999": "0.999"}
Labels = dict[str, str]
Kind = Literal["gauge", "summary", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A figure of the whole round; `unit` ends the family's name, as the format demands."""

    name: str
    unit: str
    help: str
    read: Callable[[RoundStats], float | None]


SCALARS = (
    Scalar(
        name="round_duration_seconds",
        unit="seconds",
        help="First sent to last end, sentinels excluded.",
        read=lambda one: one.total_time_s,
    ),
    Scalar(
        name="request_throughput_rps",
        unit="rps",
        help="Successes per second of the round.",
        read=lambda one: one.request_throughput_rps,
    ),
    Scalar(
        name="steady_throughput_rps",
        unit="rps",
        help="Successes per second while all slots were busy.",
        read=lambda one: one.steady_throughput_rps,
    ),
    Scalar(
        name="goodput_rps",
        unit="rps",
        help="Requests that meet every limit, per second.",
        read=lambda one: one.goodput_rps,
    ),
    Scalar(
        name="output_throughput_tps",
        unit="tps",
        help="Output tokens per second.",
        read=lambda one: one.output_throughput_tps,
    ),
    Scalar(
        name="total_throughput_tps",
        unit="tps",
        help="Prompt and output tokens per second.",
        read=lambda one: one.total_throughput_tps,
    ),
    Scalar(
        name="hit_ratio",
        unit="ratio",
        help="Cached by prompt tokens.",
        read=lambda one: one.hit_ratio,
    ),
    Scalar(
        name="ideal_hit_ratio",
        unit="ratio",
        help="The same for a perfect cache.",
        read=lambda one: one.ideal_hit_ratio,
    ),
    Scalar(
        name="efficiency_ratio",
        unit="ratio",
        help="Cached by ideal tokens of a hit round.",
        read=lambda one: one.efficiency,
    ),
    Scalar(
        name="contamination_tokens",
        unit="tokens",
        help="Tokens of the prefix tree that a cold round did not compute.",
        read=lambda one: one.conservation.shortfall_tokens if one.conservation else None,
    ),
)


def openmetrics_of(rounds: Sequence[RoundStats]) -> str:
    """All families, and the line that says that nothing is missing."""
    lines = [*_info(rounds), *_counts(rounds), *_findings(rounds)]
    for field, (name, text) in TIMES.items():
        lines += _summary(rounds, field, f"kvworth_{name}_seconds", text)
    for scalar in SCALARS:
        values = [(one, scalar.read(one)) for one in rounds]
        samples = [sample(f"kvworth_{scalar.name}", labels_of(o), v) for o, v in values]
        lines += _family(f"kvworth_{scalar.name}", "gauge", scalar.help, samples, scalar.unit)
    return "\n".join([*lines, "# EOF", ""])


def labels_of(stats: RoundStats) -> Labels:
    """What tells a round from every other; of merged shards the first one's."""
    run = run_of(stats)
    return {
        "name": stats.name,
        "scenario": stats.scenario,
        "experiment_id": run.experiment_id,
        "run_id": run.run_id,
        "repeat": str(run.repeat),
        "round_num": str(stats.round_num),
        "arm": run.arm,
        "tier": run.tier,
        "simulated": "true" if run.simulated else "false",
    }


def sample(name: str, labels: Labels, value: float | None) -> str | None:
    """One line; None for what is not known."""
    if value is None:
        return None
    shown = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value!r}"


def escaped(text: str) -> str:
    """A label's value: backslash, quote and line feed are escaped, and nothing else need be."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(
    name: str, kind: Kind, text: str, samples: Sequence[str | None], unit: str = ""
) -> Iterator[str]:
    """Metadata and samples; nothing at all for a family without a sample."""
    told = [one for one in samples if one is not None]
    if not told:
        return
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {text}"
    yield from told


def _info(rounds: Sequence[RoundStats]) -> Iterator[str]:
    samples = []
    for one in rounds:
        run = run_of(one)
        about = {
            "endpoint_url": one.endpoint_url,
            "model": run.model,
            "engine": run.engine,
            "engine_version": run.engine_version,
            "plan_sha256": run.plan_sha256,
            "cold_proof": one.cold_proof,
            "tier_served": one.tier_served,
            "tool_version": run.tool_version,
        }
        told = {key: text for key, text in about.items() if text is not None}
        samples.append(sample("kvworth_round_info", labels_of(one) | told, 1))
    return _family("kvworth_round", "info", "What a round was.", samples)


def _counts(rounds: Sequence[RoundStats]) -> Iterator[str]:
    samples = [
        sample("kvworth_requests", labels_of(one) | {"outcome": outcome}, count)
        for one in rounds
        for outcome, count in (
            ("successful", one.successful_requests),
            ("failed", one.failed_requests),
        )
    ]
    return _family("kvworth_requests", "gauge", "Requests, sentinels excluded.", samples)


def _findings(rounds: Sequence[RoundStats]) -> Iterator[str]:
    """How often each finding was made; a round without any has no sample."""
    samples = []
    for one in rounds:
        found = [(finding.code, finding.severity) for finding in one.findings]
        for code, severity in dict.fromkeys(found):
            about = labels_of(one) | {"code": code, "severity": severity}
            samples.append(sample("kvworth_findings", about, found.count((code, severity))))
    return _family("kvworth_findings", "gauge", "What touches the numbers of a round.", samples)


def _summary(rounds: Sequence[RoundStats], field: str, name: str, text: str) -> Iterator[str]:
    samples: list[str | None] = []
    for one in rounds:
        parts: dict[str, Timings] = {"all": one.timings, **one.strata}
        for stratum, timings in parts.items():
            stat: Stat = getattr(timings, field)
            if stat.n and stat.mean is not None:
                samples += _quantiles(name, labels_of(one) | {"stratum": stratum}, stat)
    return _family(name, "summary", text, samples, "seconds")


def _quantiles(name: str, labels: Labels, stat: Stat) -> Iterator[str | None]:
    for rank, quantile in QUANTILES.items():
        yield sample(name, labels | {"quantile": quantile}, getattr(stat, rank))
    yield sample(f"{name}_count", labels, stat.n)
    yield sample(f"{name}_sum", labels, stat.n * (stat.mean or 0.0))
