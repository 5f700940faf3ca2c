"""Was the cold round cold? The conservation rule, and the ordered rule beside it.

Only what the round itself shows counts: without reported tokens and without counters nothing is
claimed. Both rules are one-sided: what they call contamination is contamination, whatever the
concurrency; what they cannot see is stated with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kvpipe.records import Arm, Calibrated, Conservation, Finding
from kvstats.findings import finding, percent, plural
from kvstats.ledger import Entry, Ledger
from kvstats.rows import Table

EXACT: frozenset[Calibrated] = frozenset({"tokenize", "token_ids"})
ESTIMATE_TOLERANCE = 0.02  # of the tree, where the plan's lengths are estimates
# Whole prompts are scaled by what the server counted; where inside them the shared part ends is
# guessed from characters, and a question may be denser in tokens than its context: by a quarter
# between prose and code, so half is allowed for.
SPLIT_TOLERANCE = 0.5
# A template's head where it could not be measured: longer ones (tools, system prompt) are rare,
# and contamination below 64 tokens saves no time that anybody could measure.
UNKNOWN_FLOOR_TOKENS = 64
SHOWN = 5

ColdProof = Literal["proven", "contaminated", "not shown"]
Source = Literal["requests", "counters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which assumptions the rules are applied."""

    arm: Arm
    calibrated: Calibrated
    block: int | None
    transfers: bool  # cached tokens are a PD decoder's transfers: no evidence of reuse
    serial: bool  # nothing ever ran beside a failed request
    complete: bool = True  # half a cold round is not cold

    @property
    def exact(self) -> bool:
        """Whether claims are exact to the block."""
        return self.calibrated in EXACT

    def tolerance(self, tokens: float, behind: float) -> float:
        """Tokens that an estimated plan may be wrong by; `behind` a shared part by more."""
        return 0.0 if self.exact else ESTIMATE_TOLERANCE * tokens + SPLIT_TOLERANCE * behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """One request that reported more than anybody could have given it."""

    index: int
    cached: int
    allowed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules say of a round."""

    proof: ColdProof
    reason: str | None  # why it is not shown
    conservation: Conservation
    groups: Mapping[str, float]  # shortfalls per group
    requests: Sequence[Excess]


def judge(
    ledger: Ledger, excesses: Sequence[Excess], computed: float | None, terms: Terms
) -> Verdict:
    """Apply both rules; `computed` is the counters' sum, null where no counter can be trusted."""
    whole = ledger.whole
    by_requests = not terms.transfers and whole.reported > 0 and not whole.silent_requests
    source: Source | None = (
        "requests" if by_requests else "counters" if computed is not None else None
    )
    reason = _missing(whole, source, terms)
    groups = _group_shortfalls(ledger, terms) if by_requests and reason is None else {}
    conservation = _conservation(ledger, computed, source, terms, shown=reason is None)
    contaminated = bool(conservation.shortfall_tokens or groups or excesses)
    if reason is None and not terms.complete:
        reason = "the round is not complete"
    proof: ColdProof = (
        "contaminated" if contaminated else "proven" if reason is None else "not shown"
    )
    return Verdict(
        proof=proof,
        reason=None if contaminated else reason,
        conservation=conservation,
        groups=groups,
        requests=excesses,
    )


def _missing(whole: Entry, source: Source | None, terms: Terms) -> str | None:
    """Why the conservation rule cannot be applied; None if it can."""
    if not whole.sent:
        return "nothing was sent"
    if whole.unplanned:
        return f"new_tokens of {plural(whole.unplanned, 'request')} are not known: no prefix tree"
    if source is None:
        if terms.transfers:
            return "cached tokens here are PD transfers, and no prefiller's counters were read"
        if not whole.reported:
            return "neither cached tokens nor counters of computed tokens were reported"
        return (
            f"{whole.silent_requests:,} of {plural(whole.sent, 'request')} succeeded without "
            "reporting cached tokens, and no counters of computed tokens were read"
        )
    if whole.unbounded and not terms.serial:
        return "requests failed, and what they left in the cache cannot be bounded"
    return None


def _conservation(
    ledger: Ledger,
    computed: float | None,
    source: Source | None,
    terms: Terms,
    *,
    shown: bool,
) -> Conservation:
    whole = ledger.whole
    tree = round(_tree(whole, ledger, terms))
    done = float(whole.computed) if source == "requests" else computed
    shortfall: float | None = None
    if shown and done is not None:
        required = tree - _excused(whole, ledger, terms, source)
        shortfall = _beyond(required - done, terms.tolerance(tree, whole.behind))
    blind = None
    if shown and terms.block is not None:
        blind = whole.sent * (terms.block - 1) + whole.racing
        blind += round(terms.tolerance(tree, whole.behind))
    return Conservation(
        tree_tokens=None if whole.unplanned else tree,
        computed_tokens=done,
        shortfall_tokens=shortfall,
        blind_spot_tokens=blind,
        source=source,
    )


def _group_shortfalls(ledger: Ledger, terms: Terms) -> dict[str, float]:
    """Shortfall per group; what groups share by plan may have come from any of them."""
    shared = max((entry.first_shared for _, entry in ledger.entries()), default=0)
    found: dict[str, float] = {}
    for name, entry in ledger.entries():
        tree = _tree(entry, ledger, terms)
        excused = _excused(entry, ledger, terms, "requests") + shared
        short = _beyond(tree - excused - entry.computed, terms.tolerance(tree, entry.behind))
        if short:
            found[name] = short
    return found


def _excused(entry: Entry, ledger: Ledger, terms: Terms, source: Source | None) -> float:
    """Upper bound of what may be missing from the tree without contamination."""
    floor = UNKNOWN_FLOOR_TOKENS if ledger.floor is None else ledger.floor
    floors = entry.sent if terms.arm == "no_reuse" else 1  # a salt each: each may be given it
    silent = entry.silent if source == "requests" else 0  # counters count them
    return floors * floor + entry.failed + silent + entry.prior


def _tree(entry: Entry, ledger: Ledger, terms: Terms) -> float:
    """The tree; one of estimated lengths is never taken for larger than prompts turned out."""
    if terms.exact or terms.arm == "no_reuse":
        return entry.tree
    return min(entry.tree, entry.planned * min(1.0, ledger.scale))


def _beyond(shortfall: float, tolerance: float) -> float:
    return shortfall if shortfall > max(0.0, tolerance) else 0.0


def excesses_of(table: Table, terms: Terms, scale: float) -> list[Excess]:
    """The ordered rule: cached > max(floor, ideal_in_round_hi, ideal_prior_tokens).

    In leaders-first order it leaves no blind spot for leaders and uniques. A retried request may
    have been given its own first attempt, so it is left out, and so is one whose bound is unknown.
    """
    if terms.transfers:
        return []
    names = ("index", "cached_tokens", "prompt_tokens", "floor_tokens", "ideal_in_round_hi")
    columns = [table.ints(name) for name in (*names, "ideal_prior_tokens", "retries", "new_tokens")]
    found: list[Excess] = []
    for index, cached, prompt, floor, in_round, prior, retries, new in zip(*columns, strict=True):
        if not cached or index is None or retries:
            continue
        if terms.arm == "no_reuse":
            in_round = prior = 0
        elif in_round is None:
            continue
        floor = UNKNOWN_FLOOR_TOKENS if floor is None else floor
        bound = max(in_round, prior or 0) * (1.0 if terms.exact else max(1.0, scale))
        behind = new or 0 if bound else 0
        allowed = max(floor, round(bound + terms.tolerance(prompt or 0, behind)))
        if cached > allowed:
            found.append(Excess(index=index, cached=cached, allowed=allowed))
    return sorted(found, key=lambda one: (one.allowed - one.cached, one.index))


def contaminated(verdict: Verdict, terms: Terms) -> Finding | None:
    """A cold or no_reuse round found in the cache what none of it had put there; invalid.

    By conservation, over all and per group, or by one request above its own bound.
    """
    if verdict.proof != "contaminated":
        return None
    kept = verdict.conservation
    parts: list[str] = []
    if kept.shortfall_tokens and kept.tree_tokens:
        share = kept.shortfall_tokens / kept.tree_tokens
        parts.append(
            f"{kept.shortfall_tokens:,.0f} of {kept.tree_tokens:,} tokens of the prompts' prefix "
            f"tree ({percent(share)}) were not computed in this {_named(terms.arm)} round"
        )
    worst = sorted(verdict.groups.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    if worst and not parts:
        parts.append(f"group {worst[0][0]} computed {worst[0][1]:,.0f} tokens too few")
    if verdict.requests:
        first = verdict.requests[0]
        more = f" (and {len(verdict.requests) - 1:,} more)" if len(verdict.requests) > 1 else ""
        parts.append(
            f"request {first.index}{more} reports {first.cached:,} cached tokens where the round "
            f"could give {first.allowed:,}"
        )
    return finding(
        "contaminated",
        "invalid",
        "; ".join(parts) + ": they were in the cache before it" + _limits(verdict, terms),
        shortfall_tokens=kept.shortfall_tokens,
        tree_tokens=kept.tree_tokens,
        computed_tokens=kept.computed_tokens,
        blind_spot_tokens=kept.blind_spot_tokens,
        source=kept.source,
        groups=dict(worst),
        requests=[
            {"index": one.index, "cached_tokens": one.cached, "allowed_tokens": one.allowed}
            for one in verdict.requests[:SHOWN]
        ],
    )


def _limits(verdict: Verdict, terms: Terms) -> str:
    """The blind spot, and how far estimates weaken the claim."""
    blind = verdict.conservation.blind_spot_tokens
    words = ""
    if blind is not None:
        words = f"; below {blind:,} tokens, and tokens computed twice, it would not be seen"
    if not terms.exact:
        words += (
            f" (lengths are estimates: {percent(ESTIMATE_TOLERANCE, 0)} of the tree is allowed "
            f"for, and {percent(SPLIT_TOLERANCE, 0)} of what lies behind a shared part)"
        )
    return words


def cold_not_shown(verdict: Verdict) -> Finding | None:
    """Nothing shows that the round was cold, and nothing that it was not; warning."""
    if verdict.proof != "not shown":
        return None
    return finding(
        "cold_not_shown",
        "warning",
        f"cold: not shown ({verdict.reason})",
        reason=verdict.reason,
    )


def _named(arm: Arm) -> str:
    return "no_reuse" if arm == "no_reuse" else "cold"
