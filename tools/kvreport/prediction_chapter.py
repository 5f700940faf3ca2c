"""The chapter that holds predictions against measurements: a table, and what an error may mean."""

from __future__ import annotations

from collections.abc import Sequence

from kvreport.document import Align, Block, Paragraph, Table
from kvreport.prediction import Prediction
from kvreport.words import Words


def prediction_chapter(found: Sequence[Prediction], words: Words) -> list[Block]:
    """Nothing where no analysis was read, or none is of a round."""
    if not found:
        return []
    columns = (
        "scenario", "cache_of", "hit_predicted", "hit_measured", "hit_error", "hit_like",
    )  # fmt: skip
    align: list[Align] = ["left", "left", "right", "right", "right", "right"]
    table = Table(
        caption=words.say("table_prediction", caches=_caches(found, words)),
        columns=[words.say(f"col_{column}") for column in columns],
        align=align,
        rows=[_row(one, words) for one in found],
    )
    blocks: list[Block] = [table, Paragraph(words.say("prediction_how"))]
    if not all(one.serial for one in found):
        blocks.append(Paragraph(words.say("prediction_concurrent")))
    return blocks


def _caches(found: Sequence[Prediction], words: Words) -> str:
    kinds = dict.fromkeys((one.block_tokens, one.order) for one in found)
    return words.listed(
        [
            words.say("prediction_cache", block=block, order=words.say(f"order_{order}"))
            for block, order in kinds
        ]
    )


def _row(one: Prediction, words: Words) -> list[str]:
    return [
        one.name if one.repeat == 1 else words.say("name_repeat", name=one.name, repeat=one.repeat),
        _cache(one, words),
        _share(one.predicted),
        _share(one.measured),
        words.say("points", points=f"{100 * one.error:+.2f}"),
        words.say("none") if one.like_tokens is None else _tokens(one.like_tokens, words),
    ]


def _cache(one: Prediction, words: Words) -> str:
    if one.capacity_tokens is None:
        return words.say("cache_unlimited")
    return one.capacity or _tokens(one.capacity_tokens, words)


def _share(ratio: float) -> str:
    return f"{100 * ratio:.2f} %"


def _tokens(count: int, words: Words) -> str:
    return words.say("tokens_of", count=f"{count:,}")
