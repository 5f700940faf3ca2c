"""Was the cold round cold? The plan's prefix tree, built anew, against what was computed.

In a clean cold round every distinct prefix of what was sent was computed at least once. Whatever
could excuse a shortfall is allowed for in full, so that this is never stricter than the figure that
it audits: contamination found here is contamination. What was computed is told by the requests;
where their cached tokens are a decoder's transfers, or not told, by the prefillers' counters, or
the node's. Beside it the ordered rule: no request may
report more than an earlier one of the round, or of the namespace, could have given it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvpipe.records import Block, Request
from kvprompt.tree import DonorTree, PrefixTree
from kvreport.audit.bundle import RawPlan, Stream
from kvreport.audit.lines import Said, say
from kvreport.audit.rounds import transfers

UNKNOWN_FLOOR_TOKENS = 64
"""A template's head where nobody measured it."""
ESTIMATED = 0.02
"""Part of the tree that a plan may be wrong by whose lengths are estimates."""
SPLIT = 0.5
"""And of what lies behind a shared part, whose end is guessed from characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cold:
    """The rule's terms in tokens; `wrong` says what was found, `unknown` why nothing is said."""

    tree: int | None
    computed: float | None
    shortfall: float | None
    wrong: tuple[Said, ...] = ()
    unknown: Said | None = None

    @property
    def contaminated(self) -> bool:
        return bool(self.wrong)


def cold_of(streams: Sequence[Stream], plan: RawPlan | None) -> Cold:
    """What the rules say of a round of the arms cold and no_reuse; shards are one round."""
    sent = [
        one for stream in streams for one in stream.requests.values() if one.sent_ns is not None
    ]
    tree = _tree(streams, sent, plan)
    told = [one for one in sent if one.prompt_tokens is not None and one.cached_tokens is not None]
    by_requests = bool(told) and not any(transfers(one) for one in streams)
    by_requests &= not any(one.status == "ok" and one not in told for one in sent)
    computed = counted(streams)
    if by_requests:
        computed = sum(max(0, (one.prompt_tokens or 0) - (one.cached_tokens or 0)) for one in told)
    why = _unknown(streams, sent, tree, computed)
    if why is not None or tree is None or computed is None:
        return Cold(tree=tree, computed=computed, shortfall=None, unknown=why)
    short = tree - _excused(streams, sent) - computed
    short = short if short > _tolerance(streams, sent, tree) else 0
    wrong = [say("audit_shortfall", short=round(short), tree=tree)] if short else []
    wrong += _excesses(streams, sent, plan) if by_requests else []
    return Cold(tree=tree, computed=computed, shortfall=max(0, short), wrong=tuple(wrong))


def _exact(streams: Sequence[Stream]) -> bool:
    return all(one.run.calibrated in ("tokenize", "token_ids") for one in streams)


def _tolerance(streams: Sequence[Stream], sent: Sequence[Request], tree: int) -> float:
    """Estimated lengths: of the whole little, of where a shared part ends much."""
    if _exact(streams):
        return 0.0
    behind = sum(one.new_tokens or 0 for one in sent if one.stratum == "follower")
    return ESTIMATED * tree + SPLIT * behind


def _bare(streams: Sequence[Stream]) -> bool:
    return streams[0].run.arm == "no_reuse"


def _tree(streams: Sequence[Stream], sent: Sequence[Request], plan: RawPlan | None) -> int | None:
    """Without reuse every prompt is a tree of its own; else the plan's, or as recorded."""
    if _bare(streams):
        known = [one.prompt_tokens for one in sent if one.prompt_tokens is not None]
        return sum(known)
    if plan is not None:
        tree = PrefixTree()
        chains = _chains(plan)
        for index in sorted(one.index for one in sent):
            tree.add(chains.get(index, []))
        if tree.size:
            return tree.size
    new = [one.new_tokens for one in sent]
    known = [one for one in new if one is not None]
    return sum(known) if len(known) == len(new) else None


def _chains(plan: RawPlan) -> dict[int, list[Block]]:
    return {one.index: one.blocks for one in plan.planned}


def _unknown(
    streams: Sequence[Stream],
    sent: Sequence[Request],
    tree: int | None,
    computed: float | None,
) -> Said | None:
    if not sent or computed is None:
        bought = any(transfers(one) for one in streams)
        return say("audit_why_transfers" if bought else "audit_why_unreported")
    if tree is None:
        return say("audit_why_new_tokens")
    if any(one.end is None or not one.end.complete for one in streams):
        return say("audit_why_incomplete")
    return None


def counted(streams: Sequence[Stream]) -> float | None:
    """Tokens that those who prefill computed, by their own counters; None if one does not tell.

    Shards read the same servers in windows that differ a little: the largest change counts.
    """
    servers = [one for stream in streams for one in stream.servers]
    halves = any(one.role in ("prefill", "decode") for one in servers)
    found: dict[str, float] = {}
    for one in servers:
        own = one.role == "node" and one.endpoint_url is not None
        if one.role != "prefill" and (halves or not own):
            continue
        told = one.counters.get("computed_tokens")
        if one.error is not None or one.fell or told is None:
            return None
        found[one.url] = max(told, found.get(one.url, 0.0))
    return sum(found.values()) if found else None


def _excused(streams: Sequence[Stream], sent: Sequence[Request]) -> int:
    """The template; what failed and retried requests may have left; earlier rounds' tokens."""
    floors = [one.floor_tokens for one in sent]
    floor = max((one for one in floors if one is not None), default=UNKNOWN_FLOOR_TOKENS)
    lost = sum(
        one.prompt_tokens or (one.new_tokens or 0) + (one.ideal_in_round_hi or 0)
        for one in sent
        if one.status != "ok" or one.retries
    )
    if _bare(streams):
        return floor * len(sent) + lost
    prior = sum(min(one.ideal_prior_tokens or 0, one.new_tokens or 0) for one in sent)
    return floor + lost + prior


def _excesses(
    streams: Sequence[Stream], sent: Sequence[Request], plan: RawPlan | None
) -> list[Said]:
    """Requests that report more than anybody could have given them; the first few."""
    if not _exact(streams):
        return []
    donors = _donors(streams, plan)
    chains = _chains(plan) if plan else {}
    found = []
    for one in sent:
        if not one.cached_tokens or one.retries or one.status != "ok":
            continue
        given = _given(one, donors, chains, bare=_bare(streams))
        if given is None:
            continue
        floor = UNKNOWN_FLOOR_TOKENS if one.floor_tokens is None else one.floor_tokens
        allowed = max(floor, given, 0 if _bare(streams) else one.ideal_prior_tokens or 0)
        if one.cached_tokens > allowed:
            found.append(
                say("audit_excess", index=one.index, told=one.cached_tokens, allowed=allowed)
            )
    return found


def _donors(streams: Sequence[Stream], plan: RawPlan | None) -> DonorTree | None:
    """Who sent what when; shards have a clock each, so then nobody can be put in order."""
    if plan is None or len(streams) > 1 or not any(one.blocks for one in plan.planned):
        return None
    tree, chains = DonorTree(), _chains(plan)
    for one in streams[0].requests.values():
        if one.sent_ns is not None:
            tree.sent(chains.get(one.index, []), one.sent_ns)
    return tree


def _given(
    one: Request, donors: DonorTree | None, chains: dict[int, list[Block]], *, bare: bool
) -> int | None:
    """Tokens shared with whoever was sent before its first token; as recorded without a plan."""
    if bare:
        return 0
    if donors is None or one.index not in chains or one.first_token_ns is None:
        return one.ideal_in_round_hi
    return donors.shared(
        chains[one.index], sent_before_ns=one.first_token_ns, own_sent_ns=one.sent_ns
    )
