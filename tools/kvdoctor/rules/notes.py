"""What is no complaint: what was examined, what it cost, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence
from kvdoctor.rules.rule import Rule, Seen


def examined(evidence: Evidence) -> Iterator[Seen]:
    """Whom, and at what cost."""
    told = []
    for node in evidence.examined:
        identity = node.identity
        version = f" {identity.version}" if identity and identity.version else ""
        told.append(f"{node.where} ({identity.engine if identity else '?'}{version}, {node.model})")
    told += [f"{store.where} ({store.kind})" for store in evidence.stores if not store.trouble]
    yield Seen(
        where=None,
        seen=f"{'; '.join(told)}: {evidence.prompts} prompts of {evidence.prompt_tokens:,} tokens"
        f" in {evidence.elapsed_s:.0f} s",
        evidence={
            "prompts": evidence.prompts,
            "prompt_tokens": evidence.prompt_tokens,
            "elapsed_s": round(evidence.elapsed_s, 1),
        },
    )


def skipped(evidence: Evidence) -> Iterator[Seen]:
    """What was not looked at, and why."""
    for where, what, why in evidence.skipped:
        yield Seen(where=where, seen=f"{what}: {why}")


def simulated(evidence: Evidence) -> Iterator[Seen]:
    """kvsim, by its own word."""
    found = [node for node in evidence.examined if node.identity and node.identity.simulated]
    for node in found:
        yield Seen(where=node.where, seen="kvsim answers here: everything it says is simulated")


RULES = (
    Rule(
        code="simulated",
        severity="info",
        asks="`owned_by` in `/v1/models`",
        means="Its times are made from tokens: they are nobody's.",
        judge=simulated,
    ),
    Rule(
        code="skipped",
        severity="info",
        asks="what was not looked at",
        means="Nothing is known of it.",
        judge=skipped,
    ),
    Rule(
        code="examined",
        severity="info",
        asks="what was asked, and what it cost",
        means="Each prompt had a nonce of its own at its head: it found nothing of anybody's, and"
        " nobody will find it.",
        judge=examined,
    ),
)
