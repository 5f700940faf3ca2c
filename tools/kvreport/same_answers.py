"""Same answer? What hits were answered against what was answered cold, over all repeats.

Where kvstats had the answers themselves (`kvload --keep-output`) it told near ties from wrong ones;
else there are hashes, which only tell equal from different.
"""

from __future__ import annotations

import msgspec

from kvpipe.records import Run
from kvreport.effects import Comparison
from kvreport.experiments import Matched
from kvreport.words import Words


class SameAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the compared answers are equal; the kinds of the others are null by hashes."""

    compared: int
    equal: int
    near_ties: int | None = None
    wrong: int | None = None
    unknown: int | None = None


def other_prompts(match: Matched) -> bool:
    """Whether the model was asked something else: salts at the head of the prompts, other ones."""
    runs: list[Run] = [one.run for one in (*match.bases, match.other) if one.run is not None]
    in_prompt = any(run.salt_way == "prompt_head" for run in runs)
    return in_prompt and len({(run.salt, run.arm == "no_reuse") for run in runs}) > 1


def same_answers(comparison: Comparison | None) -> SameAnswers | None:
    """Of the cold and the hit rounds; None where no answer is known on both sides.

    The kinds are told only where every repeat tells them.
    """
    if comparison is None:
        return None
    parts: list[SameAnswers] = []
    for match, pairs in zip(comparison.matches, comparison.pairs, strict=True):
        told = match.other.stats.answers
        if told is not None:
            parts.append(
                SameAnswers(
                    compared=told.compared,
                    equal=told.equal,
                    near_ties=told.near_ties,
                    wrong=told.wrong,
                    unknown=told.unknown,
                )
            )
        elif pairs is not None and pairs.hashed and not other_prompts(match):
            equal = pairs.hashed - pairs.differing
            parts.append(SameAnswers(compared=pairs.hashed, equal=equal))
    if not parts:
        return None
    return SameAnswers(
        compared=sum(one.compared for one in parts),
        equal=sum(one.equal for one in parts),
        near_ties=_sum([one.near_ties for one in parts]),
        wrong=_sum([one.wrong for one in parts]),
        unknown=_sum([one.unknown for one in parts]),
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [one for one in counts if one is not None]
    return sum(known) if len(known) == len(counts) else None


def answers_line(found: SameAnswers, words: Words) -> str:
    """How many are equal, and what the others are."""
    line = words.say("answers_line", equal=found.equal, compared=found.compared)
    if found.equal == found.compared:
        return line
    if found.wrong is None:
        return line + words.say("answers_by_hash")
    kinds = ("wrong", "near_ties", "unknown")
    counts = [(kind, getattr(found, kind)) for kind in kinds]
    parts = [words.say(f"answers_{kind}", count=count) for kind, count in counts if count]
    return line + words.say("answers_kinds", kinds=words.listed(parts))
