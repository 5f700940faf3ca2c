"""Conditions under which the round ran that touch what its numbers are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvpipe.records import Barrier, Finding, Run
from kvstats.contamination import EXACT, ColdProof
from kvstats.findings import finding, percent, plural
from kvstats.round import Stream, shard_of
from kvstats.tally import Tally

ERRORS_INVALID_SHARE = 0.01  # more than 1 % is no small difference of work


def gaps_of(streams: Sequence[Stream], successes: int) -> list[str]:
    """What is missing from a whole round, in words; empty if it is complete."""
    gaps = []
    for stream in streams:
        end, run_id = stream.end, stream.run.run_id
        if end is None:
            gaps.append(f"run {run_id} has no end")
        elif not end.complete:
            gaps.append(f"run {run_id} stopped early ({end.reason or 'no reason given'})")
        elif end.ok + end.failed != stream.records:
            gaps.append(
                f"run {run_id} says {plural(end.ok + end.failed, 'request')}, "
                f"{stream.records:,} came"
            )
    gaps += _missing_shards([stream.run for stream in streams])
    if not successes:
        gaps.append("nothing succeeded")
    return gaps


def _missing_shards(runs: Sequence[Run]) -> list[str]:
    """Shards are numbered from 0: I/N."""
    shards = [shard for run in runs if (shard := shard_of(run)) is not None]
    numbers, sizes = {number for number, _ in shards}, {size for _, size in shards}
    if len(sizes) > 1:
        return [f"shards of {' and of '.join(map(str, sorted(sizes)))} are no one fleet"]
    if not sizes:
        return []
    size = sizes.pop()
    missing = [f"{number}/{size}" for number in range(size) if number not in numbers]
    return [f"shard {', '.join(missing[:5])} is missing"] if missing else []


def incomplete(gaps: Sequence[str]) -> Finding | None:
    """The stream was cut short, or nothing of it succeeded; invalid."""
    if not gaps:
        return None
    return finding("incomplete", "invalid", "; ".join(gaps), gaps=list(gaps))


def errors(tally: Tally, planned: int, first_error: str | None) -> Finding | None:
    """Requests failed: warning, invalid if they are more than 1 % of the planned."""
    failed = sum(tally.failures.values())
    if not failed:
        return None
    share = failed / max(planned, failed)
    kinds = ", ".join(f"{count:,} {status}" for status, count in sorted(tally.failures.items()))
    cause = f"; first: {first_error}" if first_error else ""
    return finding(
        "errors",
        "invalid" if share > ERRORS_INVALID_SHARE else "warning",
        f"{failed:,} of {plural(planned, 'planned request')} failed "
        f"({percent(share)}: {kinds}){cause}",
        failed=failed,
        planned=planned,
        statuses=dict(sorted(tally.failures.items())),
    )


def not_isolated(run: Run, proof: ColdProof | None, *, salted: bool) -> Finding | None:
    """Nothing shows that the namespace was fresh; warning. A proven cold round is its own proof.

    Invalid if kvclear found the cache not empty and the round is not proven cold.
    """
    if proof is None:
        return None
    cleared = None if run.isolation is None or run.isolation.dry_run else run.isolation
    if cleared is not None and cleared.verified is False:
        return finding(
            "not_isolated",
            "warning" if proof == "proven" else "invalid",
            f"kvclear found the cache not empty: {cleared.reason}",
            verified=False,
            cold_proof=proof,
        )
    if salted or proof == "proven" or (cleared is not None and cleared.verified):
        return None
    why = (
        "no namespace of its own and no kvclear before it"
        if cleared is None
        else f"no namespace of its own, and kvclear could not verify: {cleared.reason}"
    )
    return finding(
        "not_isolated",
        "warning",
        f"nothing isolates this round: {why} (use --salt auto, or --isolation FILE)",
        cold_proof=proof,
    )


def barrier_unknown(barrier: Barrier | None) -> Finding | None:
    """Saves may have been under way when the next round began; warning."""
    if barrier is None or barrier.state != "unknown":
        return None
    return finding(
        "barrier_unknown",
        "warning",
        f"barrier: unknown (waited {barrier.waited_s:.0f} s)"
        + (f": {barrier.reason}" if barrier.reason else ""),
        waited_s=barrier.waited_s,
        reason=barrier.reason,
    )


def uncalibrated(run: Run) -> Finding | None:
    """Prompt lengths are estimates; info. An import has no plan whose lengths were asked for."""
    if run.calibrated in EXACT or run.host is None:
        return None
    how = "a probe" if run.calibrated == "probe" else "characters"
    return finding(
        "uncalibrated",
        "info",
        f"the plan's token lengths are estimated from {how}: asked and real lengths differ",
        calibrated=run.calibrated,
    )


def simulated(run: Run) -> Finding | None:
    """The endpoint is kvsim; info."""
    if not run.simulated:
        return None
    return finding("simulated", "info", "SIMULATED: the endpoint is kvsim, not an engine")


def cached_tokens_not_reported(tally: Tally) -> Finding | None:
    """Successes without cached tokens: an absent figure is not 0; warning."""
    cached = tally.cached
    if not cached.missing:
        return None
    if not cached.known:
        return finding(
            "cached_tokens_not_reported",
            "warning",
            "no answer reports cached tokens: there is no hit ratio "
            "(vLLM needs --enable-prompt-tokens-details)",
            reported=0,
            successes=tally.ok,
        )
    return finding(
        "cached_tokens_not_reported",
        "warning",
        f"{cached.missing:,} of {plural(tally.ok, 'answer')} do not report cached tokens: "
        "the hit ratio is over the others",
        reported=cached.known,
        successes=tally.ok,
    )


def planned_requests(streams: Sequence[Stream]) -> int:
    """Requests that were to be sent, sentinels included."""
    return sum(
        _planned_by(stream) if stream.end is None else stream.end.planned for stream in streams
    )


def _planned_by(stream: Stream) -> int:
    """Of a stream without an end: a shard's head tells of the whole plan, and its part about so."""
    run, shard = stream.run, shard_of(stream.run)
    whole = run.requests + run.sentinels
    return whole if shard is None or not shard[1] else max(stream.records, whole // shard[1])


def worst_barrier(barriers: Sequence[Barrier]) -> Barrier | None:
    """Of merged shards the least certain one."""
    rank: Mapping[str, int] = {"unknown": 0, "quiet": 1, "skipped": 2}
    return min(barriers, key=lambda one: (rank[one.state], -one.waited_s), default=None)
