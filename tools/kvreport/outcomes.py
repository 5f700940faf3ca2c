"""The chapter on a matrix: how many of its scenarios succeeded, and why the others did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kvpipe.records import Outcome
from kvreport.document import Block, Paragraph, Table
from kvreport.words import Words


def outcomes_chapter(outcomes: Sequence[Outcome], words: Words) -> list[Block]:
    """Nothing without a matrix; a line where all went well."""
    if not outcomes:
        return []
    states = Counter(one.state for one in outcomes)
    counted = words.say(
        "outcomes_counted",
        count=len(outcomes),
        succeeded=states["succeeded"],
        failed=states["failed"],
        tainted=sum(bool(one.tainted) for one in outcomes),
        not_run=states["not_run"],
        minutes=f"{sum(one.elapsed_s for one in outcomes) / 60:.0f}",
    )
    doubtful = [one for one in outcomes if one.state != "succeeded" or one.tainted]
    blocks: list[Block] = [Paragraph(counted)]
    return [*blocks, _table(doubtful, words)] if doubtful else blocks


def _table(outcomes: Sequence[Outcome], words: Words) -> Table:
    columns = ("scenario", "outcome", "repeats_done", "why", "log")
    return Table(
        caption=words.say("table_outcomes"),
        columns=[words.say(f"col_{column}") for column in columns],
        align=["left"] * len(columns),
        rows=[_row(one, words) for one in outcomes],
    )


def _row(one: Outcome, words: Words) -> list[str]:
    state = words.say(f"outcome_{one.state}")
    if one.tainted:
        state = words.say("outcome_and_tainted", state=state)
    done = words.say("repeats_of", done=one.done, repeats=one.repeats)
    if one.failed_repeats:
        numbers = words.listed([str(number) for number in one.failed_repeats])
        done = words.say("repeats_failed", done=done, numbers=numbers)
    why = "; ".join([*one.tainted, *one.error])
    return [one.name, state, done, why or words.say("none"), one.log or words.say("none")]
