"""Whether a round can be made cold: salts, resets, and who else is there."""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence, hit_tokens
from kvdoctor.rules.rule import Rule, Seen

WAYS = {
    "cache_salt": "the request field cache_salt",
    "lmcache_tag": "LMCache's tag in kv_transfer_params",
    "prompt_head": "a nonce at the prompt's head",
}


def salt_ignored(evidence: Evidence) -> Iterator[Seen]:
    """A prompt hits under a salt that was never used before."""
    for node in evidence.endpoints:
        ignored = [probe for probe in node.salts if probe.honoured is False]
        if not ignored:
            continue
        works = next((probe.way for probe in node.salts if probe.honoured), None)
        tiers = " and ".join(sorted({tier for probe in ignored for tier in probe.ignored_by}))
        told = "; ".join(f"{WAYS[probe.way]}: {probe.reason}" for probe in ignored)
        yield Seen(
            where=node.where,
            seen=f"ignored by the {tiers}: {told}",
            change=(
                f"use {WAYS[works]}: kvload --salt auto finds that way by itself, other clients"
                " must be told"
                if works
                else "no way of salting works here: clear instead (kvclear), and find the cache"
                " that ignores prompts' heads"
            ),
            severity=None if works else "invalid",
            evidence={"ways": [probe.way for probe in ignored], "works": works},
        )


def reset_missing(evidence: Evidence) -> Iterator[Seen]:
    """vLLM without its development routes."""
    elsewhere = any(node.reset_status == 405 for node in evidence.behind)
    for node in evidence.examined:
        absent = node.kind == "vllm" and node.reset_status == 404
        if absent and not (node.endpoint and elsewhere):
            yield Seen(
                where=node.where,
                seen="/reset_prefix_cache is not there (404)",
                change="start this server with VLLM_SERVER_DEV_MODE=1 on a port that is not"
                " public; behind a gateway name the engine's own URL: --engine vllm=URL",
            )


def reset_without_effect(evidence: Evidence) -> Iterator[Seen]:
    """A reset that says success, and the engine's own cache still hits."""
    for node in evidence.endpoints:
        if node.reset is None or node.dialogue is None or node.reset.ok is False:
            continue
        told, needed = node.reset.told, node.dialogue.needed_tokens
        own = told.local_tokens
        if own is None and not evidence.behind_is_asked:
            own = hit_tokens(told)
        if own is not None and own >= needed:
            yield Seen(
                where=node.where,
                seen=f"the reset answered {node.reset.answer}, and the same prompt then hit"
                f" {own:g} tokens of the engine's own cache",
                change="reset every replica and rank by its own URL; for a cold round use salts"
                " instead (kvload --salt auto), or restart the server",
                evidence={"answer": node.reset.answer, "local_tokens": own},
            )


def reset_refused(evidence: Evidence) -> Iterator[Seen]:
    """A reset that says no, again and again."""
    for node in evidence.endpoints:
        if node.reset is not None and node.reset.ok is False:
            yield Seen(
                where=node.where,
                seen=f"the reset was refused: {node.reset.answer}",
                change="stop all load and wait for saves; blocks that are still held refuse it",
                evidence={"answer": node.reset.answer},
            )


def reset_silent(evidence: Evidence) -> Iterator[Seen]:
    """A reset that says nothing."""
    for node in evidence.endpoints:
        if node.reset is not None and node.reset.ok is None:
            yield Seen(
                where=node.where,
                seen=f"the reset answered {node.reset.answer}",
                change="nothing must be changed; from vLLM 0.27 on the answer says whether it"
                " worked",
            )


def hidden_replicas(evidence: Evidence) -> Iterator[Seen]:
    """Several processes behind one URL."""
    for node in evidence.examined:
        if node.several:
            yield Seen(
                where=node.where,
                seen=node.several,
                change="name every replica by its own URL (--url A --url B), never a balancer's;"
                " ranks of one vLLM are chosen by the header X-data-parallel-rank",
            )


def foreign_traffic(evidence: Evidence) -> Iterator[Seen]:
    """Somebody else uses this engine."""
    for node in evidence.examined:
        if node.foreign_requests:
            seen = f"{node.foreign_requests:g} requests came from somebody else meanwhile"
        elif node.running:
            seen = f"{node.running:g} requests ran or waited before anything was sent"
        else:
            continue
        yield Seen(
            where=node.where,
            seen=seen,
            change="stop health checks that generate, other benchmarks and users, or take the"
            " engine out of the balancer",
            evidence={"foreign_requests": node.foreign_requests, "running": node.running},
        )


RULES = (
    Rule(
        code="salt_ignored",
        severity="warning",
        asks="a prompt under one salt, again, and under another salt",
        means="Namespaces are not apart: a round that should be cold hits what an earlier one"
        " stored.",
        judge=salt_ignored,
    ),
    Rule(
        code="reset_missing",
        severity="warning",
        asks="is there a route to reset the engine's own cache? (asked with GET, which does"
        " nothing)",
        means="Tier `store` cannot be measured on one node, and kvclear cannot clear this engine.",
        judge=reset_missing,
    ),
    Rule(
        code="reset_without_effect",
        severity="invalid",
        asks="the same prompt after a reset (`--reset`)",
        means="Clears do not act: every cold round after the first would be warm.",
        judge=reset_without_effect,
    ),
    Rule(
        code="reset_refused",
        severity="warning",
        asks="the answer of the reset (`--reset`)",
        means="The cache stays as it is while blocks are held.",
        judge=reset_refused,
    ),
    Rule(
        code="reset_silent",
        severity="info",
        asks="the body of the reset's answer (`--reset`)",
        means="HTTP 200 is no evidence of a clear in this version; the probe above was.",
        judge=reset_silent,
    ),
    Rule(
        code="hidden_replicas",
        severity="invalid",
        asks="process start times and counters over fresh connections",
        means="Hits depend on which replica answers: a miss may be the other one's, and no clear"
        " reaches all.",
        judge=hidden_replicas,
    ),
    Rule(
        code="foreign_traffic",
        severity="warning",
        asks="the server's own count of requests against ours",
        means="Queues and evictions of others stand in the figures.",
        judge=foreign_traffic,
    ),
)
