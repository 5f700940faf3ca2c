"""`--format table`: the block that a person reads after a round. Text, English, milliseconds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from kvpipe.records import Finding, RoundStats, Stat
from kvstats.change import (
    TARGET_THROUGHPUT_INCREASE,
    TARGET_TTFT_REDUCTION,
    Change,
    previous,
    run_of,
)
from kvstats.findings import percent
from kvstats.metrics import OPEN_LOOP

WIDTH = 80
LABEL = 16
TITLES = {"cold": "Cold Start", "hit": "Cache Hit", "no_reuse": "no reuse (control)"}
TIMED = (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("E2E", "e2e_s"))
PHASES = (
    ("prefill queue", "queue_s"),
    ("prefill", "prefill_s"),
    ("KV transfer", "transfer_s"),
    ("decode", "decode_s"),
)
HOW = {"asked": "--pd-flow", "tokens": "the servers' token counts", "timing": "the gaps"}
FLOWS = {
    "vllm": "from the decoder: TTFT holds the transfer",
    "lmcache": "from the prefiller: TTFT ends before the transfer, which stands in the first gap",
}


def table_of(rounds: Sequence[RoundStats]) -> str:
    """One block a round, the change after each hit round that has its cold one in the input."""
    lines: list[str] = []
    for position, stats in enumerate(rounds):
        lines += [*block(stats), ""]
        change = previous(rounds, position)
        if change is not None:
            lines += [*change_lines(stats, change), ""]
    return "\n".join(lines[:-1]) + "\n"


def block(stats: RoundStats) -> Iterator[str]:
    """Everything about one round."""
    yield from heading(stats)
    counts = (
        f"{stats.total_requests:,} total, {stats.successful_requests:,} successful, "
        f"{stats.failed_requests:,} failed"
    )
    yield row("requests", counts)
    yield row("wall time", seconds(stats.total_time_s))
    if run_of(stats).arm == "cold" and stats.cold_requests is not None:
        yield row("cold", f"{stats.cold_requests:,} of {stats.total_requests:,} requests")
    for name, attribute in TIMED:
        yield row(name, times(getattr(stats.timings, attribute)))
    yield from phase_lines(stats)
    yield row("throughput", throughputs(stats))
    yield row("hit ratio", hits(stats))
    if stats.tier_served is not None:
        yield row("tier served", stats.tier_served)
    if stats.cold_proof is not None:
        yield row("cold proof", stats.cold_proof)
    for found in stats.findings:
        yield from finding_lines(found)


def heading(stats: RoundStats) -> Iterator[str]:
    """What this round was."""
    run = run_of(stats)
    number = f"Round {run.round_num}" if run.round_num else "Control"
    if run.rounds is not None and run.round_num:
        number += f"/{run.rounds}"
    title = f"{number}  {TITLES[run.arm]}  {printable(stats.name)}"
    if run.repeat > 1:
        title += f"  repeat {run.repeat}"
    if run.simulated:
        title += "  SIMULATED"
    if not stats.complete:
        title += "  INCOMPLETE"
    yield title
    yield f"  {printable(stats.endpoint_url or 'several endpoints')}"


def row(label: str, value: str) -> str:
    """A line of the block."""
    return f"  {label:<{LABEL}}{value}"


def wrapped(label: str, value: str) -> Iterator[str]:
    """A line of the block, and as many more as it takes."""
    first, *more = textwrap.wrap(value, WIDTH - LABEL - 2, break_long_words=False) or [""]
    yield row(label, first)
    yield from (row("", line) for line in more)


def times(stat: Stat) -> str:
    """Mean, median, P90 and P99; a dash where there are too few values for it."""
    if not stat.n:
        return "not measured"
    parts = (("mean", stat.mean), ("median", stat.p50), ("P90", stat.p90), ("P99", stat.p99))
    return "  ".join(f"{name} {milliseconds(value)}" for name, value in parts) + f"  (n {stat.n:,})"


def phase_lines(stats: RoundStats) -> Iterator[str]:
    """Phases of PD disaggregation; nothing where prefill and decode share an engine."""
    if not stats.phases or not stats.phases.get("disaggregated"):
        return
    for name, key in PHASES:
        measured = stats.phases.get(key)
        value = "not measured"
        if measured:
            source = measured.get("counter") or measured.get("from")
            value = f"mean {milliseconds(measured['mean'])}  ({measured['how']}: {source})"
        yield from wrapped(name, value)
    flow = stats.phases.get("flow")
    if flow:
        said = f"{FLOWS[flow['name']]}  (flow {flow['name']}, by {HOW[flow['how']]})"
        yield from wrapped("token 1", said)


def throughputs(stats: RoundStats) -> str:
    """Requests, all tokens and output tokens per second."""
    parts = (
        (stats.request_throughput_rps, "req/s", 2),
        (stats.total_throughput_tps, "tok/s", 1),
        (stats.output_throughput_tps, "output tok/s", 1),
    )
    shown = [f"{rate:,.{digits}f} {unit}" for rate, unit, digits in parts if rate is not None]
    if stats.goodput_rps is not None:
        shown.append(f"goodput {stats.goodput_rps:,.2f} req/s")
    if shown and run_of(stats).arrival.kind in OPEN_LOOP:
        shown.append("(offered rate)")
    return "  ".join(shown) or "not measured"


def hits(stats: RoundStats) -> str:
    """Hit ratio, what was possible, and how much of it came."""
    if stats.hit_ratio is None:
        return "not reported"
    text = percent(stats.hit_ratio)
    if stats.ideal_hit_ratio is not None:
        text += f"  (ideal {percent(stats.ideal_hit_ratio)})"
    if stats.efficiency is not None:
        text += f"  efficiency {percent(stats.efficiency)}"
    return text


def finding_lines(found: Finding) -> Iterator[str]:
    """A finding, wrapped."""
    text = f"{found.severity} {found.code}: {printable(found.message)}"
    yield from textwrap.wrap(
        text, WIDTH, initial_indent="  ! ", subsequent_indent="    ", break_on_hyphens=False
    )


def change_lines(stats: RoundStats, change: Change) -> Iterator[str]:
    """Second round against the first, and whether the documents' target is met."""
    yield f"Change  {printable(stats.name)}: round 1 to round {run_of(stats).round_num}"
    for name, sums in (("TTFT", change.ttft), ("E2E", change.e2e), ("TPOT", change.tpot)):
        if sums.reduction is not None:
            yield row(name, f"{signed(-sums.reduction)}  ({sums.pairs:,} pairs)")
    if change.open_loop:
        yield row("throughput", "n/a (offered rate)")
    elif change.throughput_increase is not None:
        yield row(
            "throughput",
            f"{signed(change.throughput_increase)}  "
            f"(target {signed(TARGET_THROUGHPUT_INCREASE, 0)})",
        )
    if change.cold is not None and change.cold < change.total:
        yield row("mixture", f"{change.cold:,} of {change.total:,} requests were cold in round 1")
    if change.dropped:
        yield row("dropped", f"{change.dropped:,} pairs failed or did unequal work")
    yield f"  {target_line(change)}"


def target_line(change: Change) -> str:
    """The documents' own sentence; withheld where a finding makes the numbers invalid."""
    reduction = change.ttft.reduction
    if reduction is None:
        return "target not shown: no complete pair"
    if change.invalid:
        return f"target not judged: {', '.join(change.invalid)}"
    met = "met" if reduction >= TARGET_TTFT_REDUCTION else "not met"
    verb = "reduced" if reduction >= 0 else "increased"
    target = percent(TARGET_TTFT_REDUCTION, 0)
    return f"target {met}: TTFT {verb} {percent(abs(reduction))} (target {target})"


def signed(ratio: float, digits: int = 1) -> str:
    """`+66.5 %`, and never a negative zero."""
    return f"{round(ratio * 100, digits) + 0.0:+,.{digits}f} %"


def milliseconds(value: float | None) -> str:
    """Three figures are enough to read; a dash where there is no value."""
    if value is None:
        return "-"
    ms = value * 1e3
    return f"{ms:,.0f} ms" if abs(ms) >= 100 else f"{ms:.3g} ms"


def seconds(value: float | None) -> str:
    """A wall time."""
    return "nothing was sent" if value is None else f"{value:,.2f} s"


def printable(text: str) -> str:
    """Names from records are data: no control character of theirs reaches a terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)
