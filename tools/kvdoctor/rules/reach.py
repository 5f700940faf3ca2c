"""Whether there is anybody to ask, and whether it answers prompts."""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Evidence, NodeSeen
from kvdoctor.rules.rule import Rule, Seen


def unreachable(evidence: Evidence) -> Iterator[Seen]:
    """Nobody answers there."""
    for one in evidence.servers:
        if one.trouble and not (isinstance(one, NodeSeen) and one.answered):
            yield Seen(
                where=one.where,
                seen=one.trouble,
                change=f"start it, or correct its URL: curl {one.where}/metrics must answer from"
                " this machine",
            )


def unfit(evidence: Evidence) -> Iterator[Seen]:
    """Somebody answers, but not what can be measured."""
    for node in evidence.nodes:
        if node.trouble and node.answered:
            yield Seen(
                where=node.where,
                seen=node.trouble,
                change="name the model with --model as /v1/models lists it, and give the key with"
                " --api-key-file FILE",
            )


def engine_dead(evidence: Evidence) -> Iterator[Seen]:
    """The server's process lives, its engine does not."""
    for node in evidence.examined:
        if node.health is not None and node.health >= 500:
            yield Seen(
                where=node.where,
                seen=f"/health answers {node.health}, while /v1/models still answers 200",
                change="restart this server, and look for the cause in its log",
                evidence={"status": node.health},
            )


def prompts_refused(evidence: Evidence) -> Iterator[Seen]:
    """A plain prompt is not answered."""
    for node in evidence.endpoints:
        refused = node.dialogue.first.refused if node.dialogue else None
        if refused and not (node.health or 0) >= 500:
            yield Seen(
                where=node.where,
                seen=f"a short prompt was not answered: {refused}",
                change="send the same by hand (curl .../v1/completions) until it is answered",
                evidence={"answer": refused},
            )


RULES = (
    Rule(
        code="unreachable",
        severity="invalid",
        asks="does every named server answer?",
        means="Nothing can be measured there, and what is missing may be half of the experiment.",
        judge=unreachable,
    ),
    Rule(
        code="unfit",
        severity="invalid",
        asks="does it serve the model, with this key?",
        means="Every request there would fail.",
        judge=unfit,
    ),
    Rule(
        code="engine_dead",
        severity="invalid",
        asks="`/health`",
        means="Every request there would end in an error after HTTP 200.",
        judge=engine_dead,
    ),
    Rule(
        code="prompts_refused",
        severity="invalid",
        asks="is a short prompt answered?",
        means="There is nothing to time.",
        judge=prompts_refused,
    ),
)
