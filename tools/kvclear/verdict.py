"""What may be concluded from what was seen: pure rules, no network.

True needs a positive control and a miss after it. False needs something that is still there.
Everything else is null, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvclear.canary import Probe
from kvpipe.records import Proof, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvidence:
    """One probe of one node."""

    where: str
    allowed_tokens: int
    """Cached tokens that a cold prompt may report here."""
    control_tokens: int | None
    probe: Probe | None
    trouble: str | None = None
    """Why there was no control or no probe; null if there were both."""
    acted: bool = True
    """Whether anything that may have cleared this node is known to have been done."""
    local_only: bool = False
    """Whether tiers behind the node were to be left alone."""
    scattered: bool = False
    """Whether prompts to this URL may be served by one of several workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreEvidence:
    """One store before and after."""

    where: str
    before: int | None
    everyone: bool
    """Whether every key had to go, not only ours."""
    appeared: int
    """Keys that appeared by planting."""
    loaded: bool
    """Whether a hit came from behind the engine after a reset of the engine alone."""
    after: tuple[int | None, ...]
    """Our keys in each look after the clear."""
    refused: str | None = None
    """Why nothing was removed; null if the removal was sent."""


def node_proof(seen: NodeEvidence) -> Proof:
    """Whether a canary that hit before the clear still hits."""
    verified, reason = _judge_node(seen)
    return Proof(
        tier="engine",
        where=seen.where,
        how="canary",
        control_tokens=seen.control_tokens,
        after_tokens=seen.probe.cached_tokens if seen.probe else None,
        verified=verified,
        reason=reason,
    )


def _judge_node(seen: NodeEvidence) -> tuple[bool | None, str]:
    probe = seen.probe
    if seen.trouble or probe is None or seen.control_tokens is None:
        return None, seen.trouble or "no canary was planted"
    after = _own_tokens(probe, seen) if seen.local_only else probe.cached_tokens
    if after is None:
        return None, "the probe did not report where its cached tokens came from"
    if after > seen.allowed_tokens:
        return False, (
            f"a canary still hit {after:g} tokens ({seen.control_tokens} before the clear, at most "
            f"{seen.allowed_tokens} allowed{_sources(probe)})"
        )
    if not seen.acted:
        return None, "the canary is gone, but nothing is known to have cleared this node"
    if seen.scattered:
        return None, (
            "the canary is gone, but this front end hands prompts to workers of its choice, so "
            "another may have missed; stop all but one, or name the workers' own servers"
        )
    where = " from its own cache" if seen.local_only else ""
    return True, (
        f"a canary that hit {seen.control_tokens} tokens before hit {after:g} now{where} "
        f"(at most {seen.allowed_tokens} allowed)"
    )


def _own_tokens(probe: Probe, seen: NodeEvidence) -> float | None:
    """Tokens from the engine's own cache; null where only the sum is told and it is too large."""
    if probe.local_tokens is not None:
        return probe.local_tokens
    cached = probe.cached_tokens
    return cached if cached is not None and cached <= seen.allowed_tokens else None


def _sources(probe: Probe) -> str:
    local, external = probe.local_tokens, probe.external_tokens
    if local is None or external is None:
        return ""
    text = f"; {local:g} from its own cache, {external:g} from behind it"
    if external > local:
        text += ": name the tier behind it with --mooncake, or restart it"
    return text


def store_proof(seen: StoreEvidence) -> Proof:
    """Whether our keys are gone from a store, in every look."""
    verified, reason = _judge_store(seen)
    known = [count for count in seen.after if count is not None]
    return Proof(
        tier="store",
        where=seen.where,
        how="key count" if seen.everyone else "our keys",
        keys_before=None if seen.before is None else seen.before + seen.appeared,
        keys_after=max(known, default=None),
        verified=verified,
        reason=reason,
    )


def _judge_store(seen: StoreEvidence) -> tuple[bool | None, str]:
    whose = "" if seen.everyone else "of our "
    left = [count for count in seen.after if count is not None]
    if any(left):
        if seen.refused:
            return False, f"{max(left)} {whose}keys are still there: {seen.refused}"
        if left[0] == 0:
            return False, (
                f"{max(left)} keys came back after the store was empty: a node was not reset, or "
                "saves were still in flight"
            )
        return False, f"{max(left)} {whose}keys are still there"
    if seen.refused:
        return None, f"nothing was removed: {seen.refused}"
    if not left or len(left) < len(seen.after):
        return None, "the store does not tell which keys are left"
    if not seen.appeared and not seen.loaded:
        return None, (
            "no key appeared by planting, so no look could fail: the nodes do not save to this "
            "store, or none was named"
        )
    shown = f"{seen.appeared} keys appeared by planting" if seen.appeared else "a hit came from it"
    return True, f"{shown}, and in {len(left)} looks after the clear none of ours was there"


def conclude(proofs: Sequence[Proof], steps: Sequence[Step]) -> tuple[bool | None, str]:
    """The verdict over all tiers, and its reason with what failed on the way."""
    failed = [step for step in steps if step.ok is False]
    aside = "".join(f"; {step.what} failed at {step.where}" for step in failed)
    if not proofs:
        return None, f"nothing was looked at: name the engines with --vllm and --mooncake{aside}"
    for verdict in (False, None):
        found = [proof for proof in proofs if proof.verified is verdict]
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return verdict, f"{found[0].where}: {found[0].reason}{more}{aside}"
    tiers = sorted({proof.tier for proof in proofs})
    return True, f"shown empty by {len(proofs)} looks: {', '.join(tiers)}{aside}"
