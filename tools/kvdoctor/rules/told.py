"""Whether the servers tell what a measurement needs to be believed."""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence, NodeSeen, hit_tokens
from kvdoctor.rules.rule import Rule, Seen
from kvengine.saltask import Told

DETAILS = {
    "vllm": "start vLLM with --enable-prompt-tokens-details",
    "sglang": "start SGLang with --enable-cache-report",
}
ANY_DETAILS = "; ".join(DETAILS.values())
ZERO_IS_TOLD_SINCE = (0, 25)


def metrics_missing(evidence: Evidence) -> Iterator[Seen]:
    """No counters."""
    elsewhere = any(node.metrics for node in evidence.behind)
    for node in evidence.examined:
        if not node.metrics and not (node.endpoint and elsewhere):
            yield Seen(
                where=node.where,
                seen="/metrics does not answer with counters",
                change="name the engine's own URL instead of a gateway's: --engine vllm=URL here,"
                " kvload --metrics-url URL there (SGLang: --enable-metrics)",
            )


def usage_missing(evidence: Evidence) -> Iterator[Seen]:
    """No usage at all."""
    for node, first in _answered(evidence):
        if first.prompt_tokens is None:
            yield Seen(
                where=node.where,
                seen="answers carry no usage",
                change="let the gateway pass `usage` on; in streams it comes with stream_options"
                ' {"include_usage": true}, or with vLLM\'s --enable-force-include-usage',
            )


def _answered(evidence: Evidence) -> Iterator[tuple[NodeSeen, Told]]:
    for node in evidence.endpoints:
        if node.dialogue is not None and not node.dialogue.first.refused:
            yield node, node.dialogue.first


def cached_tokens_not_reported(evidence: Evidence) -> Iterator[Seen]:
    """A prompt that was sent twice tells nothing of cached tokens, though it tells usage."""
    for node, first in _answered(evidence):
        assert node.dialogue is not None
        second = node.dialogue.second
        if first.prompt_tokens is None or second.cached_tokens is not None:
            continue
        counted = hit_tokens(second)
        if counted is not None and counted < node.dialogue.needed_tokens and _null_may_be_0(node):
            continue  # it did not hit, and this version tells a true 0 as null
        also = f", while the server itself counted {counted:g} as hits" if counted else ""
        yield Seen(
            where=node.where,
            seen="usage.prompt_tokens_details.cached_tokens is null for a prompt sent twice" + also,
            change=DETAILS.get(node.kind, ANY_DETAILS),
            evidence={"counted_tokens": counted},
        )


def _null_may_be_0(node: NodeSeen) -> bool:
    return node.kind == "vllm" and bool(node.version) and node.version < ZERO_IS_TOLD_SINCE


def null_means_zero(evidence: Evidence) -> Iterator[Seen]:
    """A number for a hit, null for a miss."""
    for node, first in _answered(evidence):
        assert node.dialogue is not None
        if first.cached_tokens is None and node.dialogue.second.cached_tokens is not None:
            version = node.identity.version if node.identity else None
            yield Seen(
                where=node.where,
                seen=f"version {version} reports a miss as null and a hit as"
                f" {node.dialogue.second.cached_tokens}",
                change="nothing must be changed; from vLLM 0.25 on a miss is reported as 0",
                evidence={"hit_tokens": node.dialogue.second.cached_tokens},
            )


def pd_transfer(evidence: Evidence) -> Iterator[Seen]:
    """A prompt that nobody ever sent is reported as cached."""
    for node, first in _answered(evidence):
        assert node.dialogue is not None
        cached = first.cached_tokens
        if cached is not None and cached >= node.dialogue.needed_tokens:
            yield Seen(
                where=node.where,
                seen=f"a prompt that was never sent before reports {cached} of"
                f" {first.prompt_tokens} tokens as cached",
                change="behind a PD proxy this is the decoder's transfer: examine the prefiller by"
                " its own URL, and give kvload --metrics-url prefill=URL decode=URL; without PD,"
                " find the cache in front of this engine that ignores prompts' heads",
                evidence={"cached_tokens": cached, "prompt_tokens": first.prompt_tokens},
            )


RULES = (
    Rule(
        code="metrics_missing",
        severity="warning",
        asks="`/metrics`",
        means="Neither the tier that served, nor exclusive use, nor the end of saves can be shown.",
        judge=metrics_missing,
    ),
    Rule(
        code="usage_missing",
        severity="warning",
        asks="`usage` of an answer",
        means="Tokens are not known: no TPOT, no throughput in tokens, no proof of cold or hit.",
        judge=usage_missing,
    ),
    Rule(
        code="cached_tokens_not_reported",
        severity="warning",
        asks="`cached_tokens` of a prompt that was sent twice",
        means="A hit cannot be told from a miss per request: cold is not shown, hits are not"
        " proven.",
        judge=cached_tokens_not_reported,
    ),
    Rule(
        code="null_means_zero",
        severity="info",
        asks="is a miss null, and a hit a number?",
        means="A null in a cold round is a true 0 here; the tools know it from this probe, other"
        " readers may not.",
        judge=null_means_zero,
    ),
    Rule(
        code="pd_transfer",
        severity="invalid",
        asks="`cached_tokens` of a prompt that nobody ever sent",
        means="Cached tokens mean transfers here, not reuse: no figure of hits made from them is"
        " true.",
        judge=pd_transfer,
    ),
)
